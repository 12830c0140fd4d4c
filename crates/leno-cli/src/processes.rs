//! The processes of a mesh: `control-plane`, `agent`, `up` (both) and `down`, `join` and `leave`; `restore` puts a state back.

mod agent;
mod control_plane;
mod down;
mod join;
mod leave;
mod restore;
mod up;

pub(crate) use agent::{AgentArgs, agent};
pub(crate) use control_plane::{ControlPlaneArgs, control_plane};
pub(crate) use down::{DownArgs, down};
pub(crate) use join::{JoinArgs, join};
pub(crate) use leave::{LeaveArgs, leave};
pub(crate) use restore::{RestoreArgs, restore};
pub(crate) use up::{UpArgs, up};

use std::{io::IsTerminal, time::Duration};

use leno_runtime::{Signals, Stop};
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::exit::CommandError;

/// How a process writes its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Starts the log of a process: to standard error. Who sits before it reads what is said to people, and only warnings
/// beside it; a file, a service manager or a program gets everything that happens.
pub(crate) fn start_log(format: LogFormat, verbose: bool) {
    let people = format == LogFormat::Text && std::io::stderr().is_terminal();
    let level = match (verbose, people) {
        (true, _) => LevelFilter::DEBUG,
        (false, true) => LevelFilter::WARN,
        (false, false) => LevelFilter::INFO,
    };
    let registry = tracing_subscriber::registry().with(level);
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
    // A second start in one process keeps the first.
    drop(registry.with(text).with(json).try_init());
}

/// Triggers the stop at the first SIGINT or SIGTERM, and ends the process at the second.
pub(crate) async fn stop_on_signals(stop: Stop) {
    let Ok(mut signals) = Signals::new() else {
        return;
    };
    let signal = signals.next_end().await;
    tracing::info!(%signal, "stopping");
    stop.trigger();
    signals.next_end().await;
    std::process::exit(128 + signal.number());
}

/// Reads a duration such as 24h or 10s.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    leno_types::parse_duration(text).map_err(|error| error.to_string())
}

/// This host's addresses that others can reach: not loopback, not link-local.
pub(crate) fn host_addresses() -> Result<Vec<std::net::IpAddr>, CommandError> {
    leno_agent::host::addresses().map_err(|error| {
        CommandError::failed(format!("this host's addresses cannot be read: {error}"))
    })
}
