//! The commands and their arguments.

mod args;
mod bench;
#[cfg(feature = "compiler")]
mod build;
mod check;
mod eval;
#[cfg(feature = "compiler")]
mod explain;
mod failure;
mod fmt;
#[cfg(feature = "compiler")]
mod inspect;
mod load;
#[cfg(feature = "compiler")]
mod named;
mod run;
mod sim;

pub use args::{Cli, Command};
pub use failure::Failure;

/// Runs a command.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        #[cfg(feature = "compiler")]
        Command::Build(args) => build::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => run::chat(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        #[cfg(feature = "compiler")]
        Command::Inspect(args) => inspect::run(&args),
        #[cfg(feature = "compiler")]
        Command::Explain(args) => explain::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Fmt(args) => fmt::run(&args),
        Command::Sim(args) => sim::run(&args),
    }
}
