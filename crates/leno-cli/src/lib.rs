//! Every command of leno as a library; output is data first, text second.
//!
//! [`main`] parses the command line and runs one command. Standard output carries what was asked for and nothing
//! else; what happens meanwhile, and what went wrong, goes to standard error.

mod client;
mod context;
mod exit;
mod places;
mod processes;
mod run;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::exit::Outcome;

/// A service mesh in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "leno",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    /// The context: which mesh a command speaks to
    #[arg(long, global = true, value_name = "NAME", env = "LENO_CONTEXT")]
    context: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(processes::UpArgs),
    Join(processes::JoinArgs),
    Run(run::RunArgs),
    ControlPlane(processes::ControlPlaneArgs),
    Agent(processes::AgentArgs),
}

/// Runs the command that `args` names (the program's own name first). Must be called while the process has one
/// thread: `leno run` makes namespaces, which belong to threads.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output with code 0, a mistake to standard error with code 2. There is nobody
            // to tell when neither can be written.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("leno: {error}");
            ExitCode::from(error.code)
        }
    }
}

fn dispatch(cli: Cli) -> Outcome {
    match cli.command {
        Command::Up(args) => processes::up(&args),
        Command::Join(args) => processes::join(&args),
        Command::Run(args) => run::run(args),
        Command::ControlPlane(args) => processes::control_plane(&args),
        Command::Agent(args) => processes::agent(&args),
    }
}
