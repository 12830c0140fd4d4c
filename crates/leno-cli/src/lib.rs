//! Every command of leno as a library; output is data first, text second.
//!
//! [`main`] parses the command line and runs one command. Standard output carries what was asked for and nothing
//! else; what happens meanwhile, and what went wrong, goes to standard error.

#![warn(clippy::print_stderr, clippy::print_stdout)]

#[macro_use]
mod say;

mod client;
mod commands;
mod context;
mod demo;
mod exit;
#[doc(hidden)]
pub mod fuzzing;
mod joined;
mod output;
mod places;
mod processes;
mod run;
mod top;
mod view;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use leno_config::AccessAction;
use leno_runtime::block_on_local;

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
    Demo(demo::DemoArgs),
    Up(processes::UpArgs),
    Down(processes::DownArgs),
    Join(processes::JoinArgs),
    Leave(processes::LeaveArgs),
    Run(run::RunArgs),
    ControlPlane(processes::ControlPlaneArgs),
    Agent(commands::AgentCommandArgs),
    Mesh(commands::MeshArgs),
    Audit(commands::AuditArgs),
    Token(commands::TokenArgs),
    Apply(commands::ApplyArgs),
    Get(commands::GetArgs),
    Describe(commands::DescribeArgs),
    Diff(commands::DiffArgs),
    Edit(commands::EditArgs),
    Delete(commands::DeleteArgs),
    Split(commands::SplitArgs),
    /// Say who may call a service
    Allow(commands::AccessArgs),
    /// Say who may not call a service
    Deny(commands::AccessArgs),
    Mtls(commands::MtlsArgs),
    Check(commands::CheckArgs),
    Backup(commands::BackupArgs),
    Restore(processes::RestoreArgs),
    Status(commands::StatusArgs),
    Explain(commands::ExplainArgs),
    Logs(commands::LogsArgs),
    Top(top::TopArgs),
    #[command(alias = "proxy-config")]
    Proxy(commands::ProxyArgs),
    /// All proxies, as leno proxy status shows them
    #[command(visible_alias = "ps")]
    ProxyStatus(commands::Which),
    User(commands::UserArgs),
    Context(commands::ContextArgs),
    /// Print a script that lets a shell complete leno's commands and options
    #[command(after_help = "Examples:
  source <(leno completion bash)
  leno completion zsh > \"${fpath[1]}/_leno\"
  leno completion fish > ~/.config/fish/completions/leno.fish")]
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Show which version this is
    Version,
}

/// Runs the command that `args` names (the program's own name first). Must be called while the process has one
/// thread: `leno run` makes namespaces, which belong to threads.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    called_leno();
    if let Some(inside) = demo::ArenaArgs::of(&args) {
        return ended(demo::arena(&inside));
    }
    match Cli::try_parse_from(args) {
        Ok(cli) => ended(dispatch(cli)),
        Err(error) => {
            // Help goes to standard output with code 0, a mistake to standard error with code 2. There is nobody
            // to tell when neither can be written.
            drop(error.print());
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Who looks for this in a list of processes looks for its name, not for that of the path by which it starts itself.
fn called_leno() {
    const NAME: &str = "/proc/self/comm";
    if std::fs::read_to_string(NAME).is_ok_and(|name| name.trim_end() == "exe") {
        drop(std::fs::write(NAME, "leno"));
    }
}

fn ended(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::print_error(&error);
            ExitCode::from(error.code)
        }
    }
}

fn dispatch(cli: Cli) -> Outcome {
    let context = cli.context.as_deref();
    match cli.command {
        Command::Demo(args) => demo::demo(&args),
        Command::Up(args) => processes::up(&args),
        Command::Down(args) => processes::down(&args),
        Command::Leave(args) => processes::leave(&args),
        Command::Restore(args) => processes::restore(&args),
        Command::Join(args) => processes::join(&args),
        Command::Run(args) => run::run(args),
        Command::ControlPlane(args) => processes::control_plane(&args),
        Command::Agent(args) => match &args.command {
            None => processes::agent(&args.run),
            Some(command) => with_client(context, command, commands::agent),
        },
        Command::Audit(args) => with_client(context, &args, commands::audit),
        Command::Mesh(args) => with_client(context, &args, commands::mesh),
        Command::Token(args) => with_client(context, &args, commands::token),
        Command::Apply(args) => with_client(context, &args, commands::apply),
        Command::Get(args) => with_client(context, &args, commands::get),
        Command::Describe(args) => with_client(context, &args, commands::describe),
        Command::Diff(args) => with_client(context, &args, commands::diff),
        Command::Edit(args) => with_client(context, &args, commands::edit),
        Command::Delete(args) => with_client(context, &args, commands::delete),
        Command::Split(args) => with_client(context, &args, commands::split),
        Command::Allow(args) => with_client(context, &args, async |client, args| {
            commands::access(client, AccessAction::Allow, args).await
        }),
        Command::Deny(args) => with_client(context, &args, async |client, args| {
            commands::access(client, AccessAction::Deny, args).await
        }),
        Command::Mtls(args) => with_client(context, &args, commands::mtls),
        Command::Status(args) => with_client(context, &args, commands::status),
        Command::Explain(args) => commands::explain(context, &args),
        Command::Logs(args) => with_client(context, &args, commands::logs),
        Command::Top(args) => with_client(context, &args, top::top),
        Command::Proxy(args) => with_client(context, &args, commands::proxy),
        Command::ProxyStatus(which) => with_client(context, &which, commands::proxy_status),
        Command::User(args) => with_client(context, &args, commands::user),
        Command::Backup(args) => with_client(context, &args, commands::backup),
        Command::Context(args) => commands::contexts(&args),
        Command::Version => {
            output::print(concat!("leno ", env!("CARGO_PKG_VERSION")));
            Ok(0)
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "leno", &mut script);
            output::print_document(&String::from_utf8_lossy(&script));
            Ok(0)
        }
        Command::Check(args) => block_on_local("check", commands::check(context, &args)),
    }
}

/// Runs a command that speaks to the API.
fn with_client<Args>(
    context: Option<&str>,
    args: &Args,
    command: impl AsyncFnOnce(&client::Client, &Args) -> Outcome,
) -> Outcome {
    let client = commands::client(context)?;
    block_on_local("command", async { command(&client, args).await })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_every_command() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "leno", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {command}");
            }
            // The others complete no words that are no options.
            if matches!(shell, Shell::Bash | Shell::Zsh) {
                for word in ["RBAC", "host-disk"] {
                    assert!(script.contains(word), "{shell}: {word} of leno explain");
                }
            }
        }
    }
}
