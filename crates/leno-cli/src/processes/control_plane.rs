//! `leno control-plane`.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use leno_runtime::{Scope, Stop, block_on_local};
use leno_types::{HostPort, MeshName, TrustDomain};

use super::{LogFormat, duration, start_log, stop_on_signals};
use crate::{
    exit::{CommandError, Outcome, chain},
    places,
};

/// Run a control plane.
#[derive(Debug, Args)]
pub(crate) struct ControlPlaneArgs {
    /// Where the store, the keys and the state are
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where agents and people reach it (default: port 15012 on every address)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Vec<SocketAddr>,
    /// How others reach it: written into join tokens
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Vec<HostPort>,
    /// The socket for people on this machine
    #[arg(long, value_name = "PATH")]
    pub(crate) admin_socket: Option<PathBuf>,
    /// Where metrics are read; "none" for nowhere
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15014")]
    pub(crate) metrics: String,
    /// The mesh's name
    #[arg(long, default_value = "default")]
    pub(crate) mesh: MeshName,
    /// The mesh's trust domain (default: MESH.leno)
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<TrustDomain>,
    /// A network of the mesh's members, never called in clear
    #[arg(long = "prefix", value_name = "CIDR")]
    pub(crate) prefixes: Vec<String>,
    /// Life of a workload's certificate, at least 10s
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub(crate) workload_ttl: Duration,
    /// Life of the intermediate certificate, which renews itself
    #[arg(long, value_name = "DURATION", default_value = "2160h", value_parser = duration)]
    pub(crate) intermediate_ttl: Duration,
    /// Changes that a watch which was cut can catch up with; beyond them it lists anew
    #[arg(long, value_name = "CHANGES", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(crate) watch_history: u32,
    /// A file written once it is ready
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
    /// How the log is written
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log: LogFormat,
    /// Log more; on a terminal only warnings are logged otherwise
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// Runs it until a signal.
pub(crate) fn control_plane(args: &ControlPlaneArgs) -> Outcome {
    start_log(args.log, args.verbose);
    let config = config(args)?;
    // A twelfth of what it held for 5,000 agents was in huge pages and used by nobody.
    if let Err(error) = leno_net::process::refuse_huge_pages() {
        tracing::debug!(%error, "huge pages stay as the system has them");
    }
    block_on_local("control plane", async move {
        let stop = Stop::new();
        let signals = Scope::new(stop.clone(), None);
        signals
            .spawn("signals", stop_on_signals(stop.clone()))
            .map_err(CommandError::failed)?;
        leno_controlplane::run(config, stop)
            .await
            .map_err(|error| CommandError::failed(chain(&error)))?;
        Ok(0)
    })
}

fn config(args: &ControlPlaneArgs) -> Result<leno_controlplane::Config, CommandError> {
    let data_dir = args
        .data_dir
        .clone()
        .unwrap_or_else(|| places::data_dir().join(places::CONTROL_PLANE));
    let of_up = data_dir.join(places::CONTROL_PLANE);
    if of_up.join("store.db").exists() {
        let what = format!("{} is a data directory of leno up", data_dir.display());
        return Err(CommandError::refused(what).hint(format!(
            "its control plane's is {}; leno up --data-dir {} starts both",
            of_up.display(),
            data_dir.display()
        )));
    }
    let mut config = leno_controlplane::Config::new(data_dir);
    if !args.listen.is_empty() {
        config.listen.clone_from(&args.listen);
    }
    if let Some(socket) = &args.admin_socket {
        config.admin_socket.clone_from(socket);
    }
    config.advertise.clone_from(&args.advertise);
    config.metrics = metrics(&args.metrics)?;
    config.mesh = args.mesh.clone();
    config.trust_domain.clone_from(&args.trust_domain);
    config.prefixes = prefixes(&args.prefixes)?;
    config.workload_ttl = args.workload_ttl;
    config.intermediate_ttl = args.intermediate_ttl;
    config.watch_history = args.watch_history;
    config.ready_file.clone_from(&args.ready_file);
    Ok(config)
}

/// Where metrics are read, as people write it.
pub(crate) fn metrics(text: &str) -> Result<Option<SocketAddr>, CommandError> {
    match text {
        "none" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            CommandError::usage(format!(
                "a control plane's metrics at \"{text}\": write ADDRESS:PORT or none"
            ))
        }),
    }
}

/// The networks of a mesh, as people write them.
pub(crate) fn prefixes<T>(texts: &[String]) -> Result<Vec<T>, CommandError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let parse = |text: &String| {
        text.parse()
            .map_err(|error| CommandError::usage(format!("--prefix {text}: {error}")))
    };
    texts.iter().map(parse).collect()
}
