//! The program.
mod config;
mod log;
fn main() {
    let _ = config::load(&config::Options::default(), &config::Surroundings::of_process());
}
