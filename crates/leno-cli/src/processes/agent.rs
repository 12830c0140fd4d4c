//! `leno agent`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Args;
use leno_agent::{Config, Membership, host};
use leno_runtime::{Readiness, Scope, Stop, block_on_local};
use leno_types::{DnsLabel, ports};

use super::{LogFormat, host_addresses, start_log, stop_on_signals};
use crate::{
    exit::{CommandError, Outcome, chain},
    places,
};

/// Run a host's agent; the host must have joined a mesh.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Where the host's membership is kept
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where the agent's socket is
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// The host's name (default: the first label of its hostname)
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<DnsLabel>,
    /// An address at which others reach this host (default: all it has)
    #[arg(long = "address", value_name = "ADDRESS")]
    pub(crate) addresses: Vec<IpAddr>,
    /// Port of mutual TLS between proxies
    #[arg(long, value_name = "PORT", default_value_t = ports::HBONE)]
    pub(crate) hbone_port: u16,
    /// Where the proxy's admin pages are
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], ports::ADMIN)))]
    pub(crate) admin: SocketAddr,
    /// Where the proxy's metrics are
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::METRICS)))]
    pub(crate) metrics: SocketAddr,
    /// Where readiness is asked
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::READINESS)))]
    pub(crate) readiness: SocketAddr,
    /// A resolver for names outside the mesh (default: those of /etc/resolv.conf)
    #[arg(long = "dns", value_name = "ADDRESS:PORT")]
    pub(crate) dns: Vec<SocketAddr>,
    /// A user who may run programs here, and as which service accounts (default: all that the host may), besides root
    /// and the agent's own; by name or uid. Their programs may be published at any port that the agent may listen on
    #[arg(long = "allow-user", value_name = "USER[=ACCOUNT,..]")]
    pub(crate) allow_users: Vec<leno_agent::RunUser>,
    /// Take the listeners over from the agent that runs here now, which then ends
    #[arg(long)]
    pub(crate) takeover: bool,
    /// Where the access log is written
    #[arg(long, value_name = "FILE")]
    pub(crate) access_log: Option<PathBuf>,
    /// How the log is written
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log: LogFormat,
    /// Log more; on a terminal only warnings are logged otherwise
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// Runs it until a signal.
pub(crate) fn agent(args: &AgentArgs) -> Outcome {
    start_log(args.log, args.verbose);
    let config = args.config()?;
    let membership =
        Membership::load(&config.data_dir).map_err(|error| CommandError::failed(chain(&error)))?;
    let not_joined = || {
        CommandError::failed(format!(
            "this host has not joined a mesh (nothing in {})",
            config.data_dir.display()
        ))
        .hint("join one: leno join --token-file FILE, with a token from leno token create")
    };
    let membership = membership.ok_or_else(not_joined)?;
    run(config, membership)
}

/// Runs an agent in this process until a signal.
pub(crate) fn run(config: Config, membership: Membership) -> Outcome {
    block_on_local("agent", async move {
        let stop = Stop::new();
        let signals = Scope::new(stop.clone(), None);
        signals
            .spawn("signals", stop_on_signals(stop.clone()))
            .map_err(CommandError::failed)?;
        let readiness = Readiness::new();
        signals
            .spawn("ready", say_ready(readiness.clone(), stop.clone()))
            .map_err(CommandError::failed)?;
        let ended = leno_agent::run(config, membership, readiness, stop).await;
        ended.map_err(|error| CommandError::failed(chain(&error)))?;
        Ok(0)
    })
}

async fn say_ready(readiness: Readiness, stop: Stop) {
    if stop
        .run_until_stopped(readiness.wait_ready())
        .await
        .is_some()
    {
        say!("✔ agent ready\nTry: leno run --service NAME --port 80:8080 -- PROGRAM");
    }
}

impl AgentArgs {
    /// What the agent is told.
    pub(crate) fn config(&self) -> Result<Config, CommandError> {
        let host = match &self.host {
            Some(host) => host.clone(),
            None => host::name().parse().map_err(|error| {
                CommandError::failed(format!("the hostname is no name here: {error}"))
                    .hint("give one with --host")
            })?,
        };
        let addresses = if self.addresses.is_empty() {
            host_addresses()?
        } else {
            self.addresses.clone()
        };
        let data_dir = self
            .data_dir
            .clone()
            .unwrap_or_else(|| places::data_dir().join("agent"));
        let run_dir = self.run_dir.clone().unwrap_or_else(places::run_dir);
        let mut config = Config::new(host, addresses, data_dir, run_dir);
        (config.hbone_port, config.admin) = (self.hbone_port, self.admin);
        (config.metrics, config.readiness) = (self.metrics, self.readiness);
        let (servers, search) = host::resolvers();
        config.dns_upstreams = if self.dns.is_empty() {
            servers
        } else {
            self.dns.clone()
        };
        config.dns_search = search;
        config.run_users.clone_from(&self.allow_users);
        config.takeover = self.takeover;
        config.access_log.clone_from(&self.access_log);
        Ok(config)
    }
}
