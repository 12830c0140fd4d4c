//! `leno up`: a mesh on this machine: control plane and agent in one process, a thread each, with nothing shared but
//! the socket between them.

use std::{path::Path, time::SystemTime};

use clap::Args;
use leno_agent::Membership;
use leno_controlplane::Bound;
use leno_runtime::{Readiness, Scope, Stop, block_on_local, spawn_thread_local};
use leno_tls::{PrivateKey, TrustBundle, WorkloadCertificate};
use leno_types::HostPort;
use serde_json::{Value, json};

use super::{LogFormat, agent::AgentArgs, start_log, stop_on_signals};
use crate::{
    client::Client,
    context::{self, Context, Server},
    exit::{CommandError, Outcome, chain},
};

/// Start a mesh on this machine: a control plane and an agent. Ctrl-C ends both.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// The mesh's name, and that of the context
    #[arg(long, default_value = "default")]
    mesh: leno_types::MeshName,
    /// Where all state is kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<std::path::PathBuf>,
    /// Where the sockets are
    #[arg(long, value_name = "DIR")]
    run_dir: Option<std::path::PathBuf>,
    /// An address at which others reach this host (default: all it has)
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<std::net::IpAddr>,
    /// A network of the mesh's members, never called in clear
    #[arg(long = "prefix", value_name = "CIDR")]
    prefixes: Vec<String>,
    /// Life of a workload's certificate, at least 10s
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = super::duration)]
    workload_ttl: std::time::Duration,
    /// A user who may run programs here, besides root and yourself
    #[arg(long = "allow-user", value_name = "UID")]
    allow_users: Vec<u32>,
    /// How the log is written
    #[arg(long, value_enum, default_value = "text")]
    log: LogFormat,
    /// Log more
    #[arg(long)]
    verbose: bool,
}

/// Runs both until a signal.
pub(crate) fn up(args: &UpArgs) -> Outcome {
    start_log(args.log, args.verbose);
    let data = args
        .data_dir
        .clone()
        .unwrap_or_else(crate::places::data_dir);
    let mut agent_config = agent_args(args, &data).config()?;
    agent_config.run_users.extend(sudo_user());
    let mut control_config = leno_controlplane::Config::new(data.join("control-plane"));
    control_config.mesh = args.mesh.clone();
    control_config.workload_ttl = args.workload_ttl;
    control_config.advertise = agent_config
        .addresses
        .iter()
        .map(|ip| {
            HostPort::from(std::net::SocketAddr::new(
                *ip,
                leno_types::ports::CONTROL_PLANE,
            ))
        })
        .collect();
    for prefix in &args.prefixes {
        let prefix = prefix.parse().map_err(|error| CommandError {
            code: 2,
            what: format!("--prefix: {error}"),
            hint: String::new(),
        })?;
        control_config.prefixes.push(prefix);
    }
    let advertise = control_config.advertise.clone();
    let socket = control_config.admin_socket.clone();
    block_on_local("up", async move {
        let stop = Stop::new();
        let scope = Scope::new(stop.clone(), None);
        // Apart from what is drained at the end: it waits for a second signal, which ends the process at once.
        let signals = Scope::new(stop.clone(), None);
        signals
            .spawn("signals", stop_on_signals(stop.clone()))
            .map_err(CommandError::failed)?;
        let bound = Bound::bind(control_config)
            .await
            .map_err(|error| CommandError::failed(chain(&error)))?;
        let serving = stop.clone();
        let control_plane = scope.spawn("control plane", async move {
            if let Err(error) = bound.serve(serving.clone()).await {
                tracing::error!(error = chain(&error), "the control plane ended");
            }
            serving.trigger();
        });
        control_plane.map_err(CommandError::failed)?;
        let context = write_context(args, &socket)?;
        say_control_plane(&advertise, &args.mesh);
        let membership = membership(&agent_config, context, &advertise).await?;
        let (ready, agent_stop) = (Readiness::new(), stop.clone());
        let told = ready.clone();
        // A thread of its own: neither waits for the other's work.
        let agent = spawn_thread_local("agent", move || async move {
            let ended = leno_agent::run(agent_config, membership, told, agent_stop.clone()).await;
            agent_stop.trigger();
            ended
        });
        if stop.run_until_stopped(ready.wait_ready()).await.is_some() {
            eprintln!(
                "✔ agent ready\nTry: leno run -- curl -sS http://NAME/  |  leno token create --service NAME  |  leno status"
            );
        }
        stop.cancelled().await;
        scope.drain(std::time::Duration::from_secs(10)).await;
        match agent.join() {
            Ok(Ok(())) => Ok(0),
            Ok(Err(error)) => Err(CommandError::failed(chain(&error))),
            Err(_) => Err(CommandError::failed(
                "the agent ended by a panic: its message stands above",
            )),
        }
    })
}

fn agent_args(args: &UpArgs, data: &Path) -> AgentArgs {
    AgentArgs {
        data_dir: Some(data.join("agent")),
        run_dir: args.run_dir.clone(),
        host: None,
        addresses: args.addresses.clone(),
        hbone_port: leno_types::ports::HBONE,
        admin: ([127, 0, 0, 1], leno_types::ports::ADMIN).into(),
        metrics: ([0, 0, 0, 0], leno_types::ports::METRICS).into(),
        readiness: ([0, 0, 0, 0], leno_types::ports::READINESS).into(),
        dns: Vec::new(),
        allow_users: args.allow_users.clone(),
        takeover: false,
        access_log: None,
        log: args.log,
        verbose: args.verbose,
    }
}

/// Who called sudo.
#[expect(clippy::disallowed_methods, reason = "sudo(8) tells it no other way")]
fn sudo_user() -> Option<u32> {
    std::env::var("SUDO_UID").ok()?.parse().ok()
}

fn write_context(args: &UpArgs, socket: &Path) -> Result<Context, CommandError> {
    let server = Server::Unix {
        socket: socket.to_owned(),
        path: format!("/meshes/{}", args.mesh),
    };
    let context = Context {
        name: args.mesh.to_string(),
        server,
        namespace: "default".into(),
        credentials: None,
    };
    context::save(&context, true)?;
    Ok(context)
}

fn say_control_plane(advertise: &[HostPort], mesh: &leno_types::MeshName) {
    let shown = advertise
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    eprintln!("✔ control plane https://{shown}   ✔ context \"{mesh}\" written");
}

/// What this host is in the mesh; on this machine the control plane's socket is proof enough.
async fn membership(
    config: &leno_agent::Config,
    context: Context,
    control_planes: &[HostPort],
) -> Result<Membership, CommandError> {
    if let Ok(Some(membership)) = Membership::load(&config.data_dir)
        && membership.mesh.as_str() == context.name
    {
        return Ok(Membership {
            control_planes: control_planes.to_vec(),
            ..membership
        });
    }
    let key = PrivateKey::generate();
    let csr = key
        .csr()
        .map_err(|error| CommandError::failed(chain(&error)))?;
    let addresses: Vec<String> = config.addresses.iter().map(ToString::to_string).collect();
    use base64::Engine;
    let csr = base64::engine::general_purpose::STANDARD.encode(csr);
    let request = json!({"host": config.host.to_string(), "csr": csr, "addresses": addresses});
    let answer = Client::new(context)
        .post("/leno/v1/local-agent", &request)
        .await?;
    let text = |field: &str| {
        answer
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let unusable = |error: &dyn std::fmt::Display| {
        CommandError::failed(format!(
            "the control plane's answer cannot be used: {error}"
        ))
    };
    let domain = text("trust_domain")
        .parse()
        .map_err(|error| unusable(&error))?;
    let bundle =
        TrustBundle::from_pem(domain, text("trust_bundle")).map_err(|error| unusable(&error))?;
    let certificate =
        WorkloadCertificate::new(None, text("chain"), &key, &bundle, 0, SystemTime::now());
    let membership = Membership {
        mesh: text("mesh").parse().map_err(|error| unusable(&error))?,
        trust_domain: bundle.domain().clone(),
        agent: text("agent").parse().map_err(|error| unusable(&error))?,
        control_planes: control_planes.to_vec(),
        certificate: certificate.map_err(|error| unusable(&error))?,
        bundle,
        key,
    };
    membership
        .save(&config.data_dir)
        .map_err(|error| CommandError::failed(chain(&error)))?;
    Ok(membership)
}
