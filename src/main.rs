//! The `llmc` command: arguments, exit codes, and nothing else. Each command is a file of `commands/`.
//!
//! Exit codes: 0 done; 1 the input is at fault, diagnostics were printed; 2 the arguments are at fault (clap).
#![forbid(unsafe_code)]

mod commands;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::FAILURE
        }
    }
}
