//! The processes of a mesh: `control-plane`, `agent`, `up` (both), `join`.

mod agent;
mod control_plane;
mod join;
mod up;

pub(crate) use agent::{AgentArgs, agent};
pub(crate) use control_plane::{ControlPlaneArgs, control_plane};
pub(crate) use join::{JoinArgs, join};
pub(crate) use up::{UpArgs, up};

use std::time::Duration;

use leno_runtime::{Signals, Stop};
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::exit::CommandError;

/// How a process writes its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Starts the log of a process: to standard error.
pub(crate) fn start_log(format: LogFormat, verbose: bool) {
    let level = if verbose {
        LevelFilter::DEBUG
    } else {
        LevelFilter::INFO
    };
    let registry = tracing_subscriber::registry().with(level);
    let text = (format == LogFormat::Text).then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_target(false)
    });
    let json = (format == LogFormat::Json).then(|| {
        tracing_subscriber::fmt::layer()
            .json()
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

/// This host's name as one label: up to the first dot, in lower case, other characters as hyphens.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label = name
        .trim()
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let label: String = label
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    let label = label.trim_matches('-');
    if label.is_empty() {
        "host".into()
    } else {
        label.into()
    }
}

/// This host's addresses that others can reach: not loopback, not link-local.
pub(crate) fn host_addresses() -> Result<Vec<std::net::IpAddr>, CommandError> {
    let found = leno_net::link::addresses().map_err(|error| {
        CommandError::failed(format!("this host's addresses cannot be read: {error}"))
    })?;
    let reachable = |ip: &std::net::IpAddr| match ip {
        std::net::IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        std::net::IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let mut addresses: Vec<std::net::IpAddr> = found
        .into_iter()
        .filter(|of| !of.loopback)
        .map(|of| of.ip)
        .filter(reachable)
        .collect();
    addresses.sort_by_key(std::net::IpAddr::is_ipv6);
    if addresses.is_empty() {
        // A host without a network is still a host.
        addresses.push(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Ok(addresses)
}

/// The resolvers of `/etc/resolv.conf` (resolv.conf(5)), at most three as there.
pub(crate) fn resolvers() -> (Vec<std::net::SocketAddr>, Vec<String>) {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let (mut servers, mut search) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words
                    .next()
                    .and_then(|word| word.parse::<std::net::IpAddr>().ok());
                servers.extend(address.map(|ip| std::net::SocketAddr::new(ip, 53)));
            }
            Some("search" | "domain") => search = words.map(str::to_owned).take(6).collect(),
            Some(_) | None => {}
        }
    }
    servers.truncate(3);
    (servers, search)
}
