//! Agent and data plane for containers: configured by the environment, without command line and control plane.
//!
//! Exit codes: 0 ended on request, 1 it failed, 2 the environment is wrong, 4 a permission is missing.

mod settings;

use std::{io::IsTerminal, process::ExitCode};

use leno_agent::{AgentError, Membership};
use leno_runtime::{Readiness, Scope, Signals, Stop, block_on_local};
use settings::{LogFormat, Settings};
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why the proxy could not run.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Environment(#[from] settings::Problems),
    #[error("the join token cannot be read from {path}: {source}")]
    TokenFile {
        path: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Token(#[from] leno_types::JoinTokenError),
    #[error(transparent)]
    Join(#[from] leno_agent::JoinError),
    #[error(transparent)]
    Membership(#[from] leno_agent::MembershipError),
    #[error(
        "this host has not joined a mesh (nothing in {0}): name a join token's file in LENO_TOKEN_FILE"
    )]
    NotJoined(String),
    #[error(transparent)]
    Agent(#[from] AgentError),
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [] => {}
        [word] if word == "--help" || word == "-h" => {
            print!("{}", settings::help());
            return ExitCode::SUCCESS;
        }
        [word] if word == "--version" || word == "-V" => {
            println!("leno-proxy {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!(
                "leno-proxy: it takes no arguments: the environment configures it (leno-proxy --help)"
            );
            return ExitCode::from(2);
        }
    }
    match settings::read().map_err(Failure::from).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("leno-proxy: {failure}");
            ExitCode::from(match failure {
                Failure::Environment(_) => 2,
                Failure::Agent(AgentError::Capture(_)) => 4,
                Failure::TokenFile { .. }
                | Failure::Token(_)
                | Failure::Join(_)
                | Failure::Membership(_)
                | Failure::NotJoined(_)
                | Failure::Agent(_) => 1,
            })
        }
    }
}

fn run(settings: Settings) -> Result<(), Failure> {
    start_log(settings.log_format);
    block_on_local("agent", async move {
        let stop = Stop::new();
        let signals = Scope::new(stop.clone(), None);
        let watching = signals.spawn("signals", stop_on_signals(stop.clone()));
        debug_assert!(
            watching.is_ok(),
            "a scope without a ceiling refuses nothing"
        );
        let joining = membership(&settings);
        let Some(membership) = stop.run_until_stopped(joining).await else {
            return Ok(());
        };
        leno_agent::run(settings.agent, membership?, Readiness::new(), stop).await?;
        Ok(())
    })
}

/// What was joined before, or what the token lets into.
async fn membership(settings: &Settings) -> Result<Membership, Failure> {
    let dir = &settings.agent.data_dir;
    if let Some(membership) = Membership::load(dir)? {
        return Ok(membership);
    }
    let Some(path) = &settings.token_file else {
        return Err(Failure::NotJoined(dir.display().to_string()));
    };
    let text = std::fs::read_to_string(path).map_err(|source| Failure::TokenFile {
        path: path.display().to_string(),
        source,
    })?;
    let token = text.trim().parse()?;
    let membership = leno_agent::join(
        &token,
        &settings.agent.host,
        &settings.agent.addresses,
        None,
    )
    .await?;
    membership.save(dir)?;
    tracing::info!(mesh = %membership.mesh, host = %membership.agent, "joined");
    Ok(membership)
}

async fn stop_on_signals(stop: Stop) {
    let Ok(mut signals) = Signals::new() else {
        return;
    };
    let signal = signals.next_end().await;
    tracing::info!(%signal, "stopping");
    stop.trigger();
    signals.next_end().await;
    std::process::exit(128 + signal.number());
}

fn start_log(format: LogFormat) {
    let registry = tracing_subscriber::registry().with(LevelFilter::INFO);
    let text = (format == LogFormat::Text).then(|| {
        tracing_subscriber::fmt::layer()
            // It would print that it cannot print, and panic for it.
            .log_internal_errors(false)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
    });
    let json = (format == LogFormat::Json).then(|| {
        tracing_subscriber::fmt::layer()
            .json()
            .log_internal_errors(false)
            .with_writer(std::io::stderr)
    });
    registry.with(text).with(json).init();
}
