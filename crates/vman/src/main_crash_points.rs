//! The program that the crash tests run: the one that ships, with points at which it is killed or
//! something fails.

use std::process::ExitCode;

fn main() -> ExitCode {
    vman::main()
}
