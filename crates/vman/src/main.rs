//! The program that ships. What it does is all in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vman::main()
}
