//! `leno up`: a mesh on this machine: control plane and agent in one process, a thread each, with nothing shared but
//! the socket between them.

pub(crate) mod background;
mod person;
pub(crate) mod running;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use leno_agent::{Membership, RunUser, protocol::Trouble};
use leno_controlplane::Bound;
use leno_runtime::{Readiness, Scope, Stop, block_on_local, spawn_thread_local};
use leno_tls::{PrivateKey, TrustBundle, WorkloadCertificate};
use leno_types::{DnsLabel, HostPort, MeshName, ports};
use serde_json::{Value, json};

use self::{
    person::{Person, RENEWED_AFTER},
    running::{Note, Running},
};
use super::{LogFormat, agent::AgentArgs, control_plane, start_log, stop_on_signals};
use crate::{
    client::Client,
    context::{self, Context, Server},
    exit::{CommandError, Outcome, chain},
    joined::Joined,
    places,
    run::host_of,
};

/// Within this an agent has met the control plane of its own process, or something is wrong.
const CONNECTED: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// How long one answer of its own may take.
const ANSWERS: Duration = Duration::from_secs(5);

/// Start a mesh on this machine: a control plane and an agent. Ctrl-C ends both, and so does leno down.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno up
  leno up --detach --address 10.0.0.1 --prefix 10.0.0.0/24
  leno up --mesh shop --workload-ttl 1h --allow-user deploy=cart,web")]
pub(crate) struct UpArgs {
    /// The mesh's name, and that of the context
    #[arg(long, default_value = "default")]
    mesh: MeshName,
    /// Return when programs may start; leno down ends it
    #[arg(long)]
    detach: bool,
    /// What --detach starts; not to be written by people
    #[arg(long, hide = true, conflicts_with = "detach")]
    in_background: bool,
    /// Where all state is kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the sockets are
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The host's name (default: the first label of its hostname)
    #[arg(long, value_name = "NAME")]
    host: Option<DnsLabel>,
    /// An address at which others reach this host (default: all it has)
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// A network of the mesh's members, never called in clear
    #[arg(long = "prefix", value_name = "CIDR")]
    prefixes: Vec<String>,
    /// Life of a workload's certificate, at least 10s
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = super::duration)]
    workload_ttl: Duration,
    /// A user who may run programs here, and as which service accounts (default: all), besides root and yourself; by
    /// name or uid. Their programs may be published at any port that the agent may listen on
    #[arg(long = "allow-user", value_name = "USER[=ACCOUNT,..]")]
    allow_users: Vec<RunUser>,
    /// Where agents and people reach the control plane (default: port 15012 on every address)
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// Where the control plane's metrics are read; "none" for nowhere
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15014")]
    control_plane_metrics: String,
    /// Port of mutual TLS between proxies
    #[arg(long, value_name = "PORT", default_value_t = ports::HBONE)]
    hbone_port: u16,
    /// Where the proxy's admin pages are
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], ports::ADMIN)))]
    admin: SocketAddr,
    /// Where the proxy's metrics are
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::METRICS)))]
    metrics: SocketAddr,
    /// Where readiness is asked
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::READINESS)))]
    readiness: SocketAddr,
    /// A resolver for names outside the mesh (default: those of /etc/resolv.conf)
    #[arg(long = "dns", value_name = "ADDRESS:PORT")]
    dns: Vec<SocketAddr>,
    /// Where the access log is written
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// How the log is written
    #[arg(long, value_enum, default_value = "text")]
    log: LogFormat,
    /// Log more; on a terminal only warnings are logged otherwise
    #[arg(long)]
    verbose: bool,
}

/// Runs both until a signal.
pub(crate) fn up(args: &UpArgs) -> Outcome {
    let data = args.data_dir.clone().unwrap_or_else(places::data_dir);
    if args.detach {
        return block_on_local("up", background::detach(&data));
    }
    if args.in_background {
        // The end of whoever started this, and of their terminal, is not ours.
        rustix::process::setsid().map_err(CommandError::failed)?;
    }
    start_log(args.log, args.verbose);
    if let Some(joined) = Joined::below(&data) {
        let leave = leave(&data.join("agent"), &run_dir(args));
        return Err(CommandError::refused(joined).hint(format!(
            "leno agent starts its agent; for a mesh of its own, leave that one first: {leave}"
        )));
    }
    if data.join("store.db").exists() {
        let what = format!(
            "{} holds the state of a control plane that runs without leno up",
            data.display()
        );
        return Err(CommandError::refused(what).hint(format!(
            "leno control-plane --data-dir {0} starts it; leno up keeps such a state in {0}/{1}",
            data.display(),
            places::CONTROL_PLANE
        )));
    }
    let mut agent = agent_args(args, &data).config()?;
    let person = Person::behind_sudo();
    let caller = person.as_ref().map(|of| RunUser::unlimited(of.uid));
    agent.run_users.extend(caller);
    let control_plane = control_config(args, &data, &agent.addresses)?;
    let advertise = control_plane.advertise.clone();
    let note = Note {
        pid: std::process::id(),
        mesh: args.mesh.to_string(),
        control_plane: advertise
            .first()
            .map(ToString::to_string)
            .unwrap_or_default(),
        run_dir: agent.run_dir.clone(),
        ready: false,
        trouble: String::new(),
        hint: String::new(),
    };
    let up = Up {
        local: local_address(&control_plane.listen),
        context: local_context(args, &control_plane.admin_socket),
        advertise,
        agent,
        person,
    };
    block_on_local("up", async {
        if !running::file(&data).exists() {
            // Nothing is here yet: what cannot begin leaves it so.
            context::list()?;
            leno_controlplane::can_listen(&control_plane).map_err(unbound)?;
            leno_agent::can_begin(&up.agent).map_err(CommandError::failed)?;
        }
        let mut running = Running::claim(&data, &note).await?;
        let ready = |note: Note| {
            // Only those who wait for it or end it read this.
            if let Err(error) = running.tell(&note) {
                tracing::warn!(%error, "leno down will not find this process");
            }
        };
        up.run(control_plane, note, ready).await
    })
}

/// What both are told.
struct Up {
    context: Context,
    /// Where people on this machine reach the TLS port.
    local: SocketAddr,
    advertise: Vec<HostPort>,
    agent: leno_agent::Config,
    person: Option<Person>,
}

impl Up {
    async fn run(
        self,
        control_plane: leno_controlplane::Config,
        note: Note,
        tell: impl FnOnce(Note),
    ) -> Outcome {
        let stop = Stop::new();
        let scope = Scope::new(stop.clone(), None);
        // Apart from what is drained at the end: it waits for a second signal, which ends the process at once.
        let signals = Scope::new(stop.clone(), None);
        signals
            .spawn("signals", stop_on_signals(stop.clone()))
            .map_err(CommandError::failed)?;
        let bound = Bound::bind(control_plane).await.map_err(unbound)?;
        let serving = stop.clone();
        let control_plane = scope.spawn("control plane", async move {
            if let Err(error) = bound.serve(serving.clone()).await {
                tracing::error!(error = chain(&error), "the control plane ended");
            }
            serving.trigger();
        });
        control_plane.map_err(CommandError::failed)?;
        let Self {
            context,
            local,
            advertise,
            agent,
            person,
        } = self;
        let made = context::load(Some(&context.name)).is_err();
        let unmade = context.clone();
        context::save(&context, true)?;
        say_control_plane(&note);
        if let Some(person) = person {
            give_context(&person, &context, local).await;
            let renewing = keep_context(person, context.clone(), local, stop.clone());
            scope
                .spawn("context", renewing)
                .map_err(CommandError::failed)?;
        }
        let membership = membership(&agent, context, &advertise).await?;
        let kept = agent.data_dir.clone();
        let (ready, agent_stop) = (Readiness::new(), stop.clone());
        let told = ready.clone();
        // A thread of its own: neither waits for the other's work.
        let agent = spawn_thread_local("agent", move || async move {
            let ended = leno_agent::run(agent, membership, told, agent_stop.clone()).await;
            agent_stop.trigger();
            ended
        });
        let run_dir = note.run_dir.clone();
        let is_ready = stop.run_until_stopped(ready.wait_ready()).await.is_some();
        if is_ready {
            let trouble = stop.run_until_stopped(trouble(&run_dir)).await.flatten();
            let trouble = trouble.map(|of| (next(&of, &kept, &run_dir), of.what));
            say_agent(trouble.as_ref(), &run_dir);
            let (hint, trouble) = trouble.unwrap_or_default();
            tell(Note {
                ready: true,
                trouble,
                hint,
                ..note
            });
        }
        stop.cancelled().await;
        scope.drain(Duration::from_secs(10)).await;
        match agent.join() {
            Ok(Ok(())) => Ok(0),
            Ok(Err(error)) => {
                if made && !is_ready {
                    // It would lead nowhere.
                    forget(&unmade);
                }
                Err(CommandError::failed(chain(&error)))
            }
            Err(_) => Err(CommandError::failed(
                "the agent ended by a panic: its message stands above",
            )),
        }
    }
}

fn control_config(
    args: &UpArgs,
    data: &Path,
    addresses: &[IpAddr],
) -> Result<leno_controlplane::Config, CommandError> {
    let mut config = leno_controlplane::Config::new(data.join(places::CONTROL_PLANE));
    config.mesh = args.mesh.clone();
    config.workload_ttl = args.workload_ttl;
    config.metrics = control_plane::metrics(&args.control_plane_metrics)?;
    config.prefixes = control_plane::prefixes(&args.prefixes)?;
    if !args.listen.is_empty() {
        config.listen.clone_from(&args.listen);
    }
    for listen in &config.listen {
        let own = |ip: &&IpAddr| ip.is_ipv4() == listen.is_ipv4();
        let found: Vec<IpAddr> = match listen.ip() {
            ip if ip.is_unspecified() => addresses.iter().filter(own).copied().collect(),
            ip => vec![ip],
        };
        let places = found
            .into_iter()
            .map(|ip| HostPort::from(SocketAddr::new(ip, listen.port())));
        config.advertise.extend(places);
    }
    Ok(config)
}

/// Where a listener is reached from this machine.
fn local_address(listen: &[SocketAddr]) -> SocketAddr {
    let mut local = listen
        .first()
        .copied()
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], ports::CONTROL_PLANE)));
    if local.ip().is_unspecified() {
        local.set_ip(if local.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    local
}

fn agent_args(args: &UpArgs, data: &Path) -> AgentArgs {
    AgentArgs {
        data_dir: Some(data.join("agent")),
        run_dir: args.run_dir.clone(),
        host: args.host.clone(),
        addresses: args.addresses.clone(),
        hbone_port: args.hbone_port,
        admin: args.admin,
        metrics: args.metrics,
        readiness: args.readiness,
        dns: args.dns.clone(),
        allow_users: args.allow_users.clone(),
        takeover: false,
        access_log: args.access_log.clone(),
        log: args.log,
        verbose: args.verbose,
    }
}

fn local_context(args: &UpArgs, socket: &Path) -> Context {
    Context {
        name: args.mesh.to_string(),
        server: Server::Unix {
            socket: socket.to_owned(),
            path: format!("/meshes/{}", args.mesh),
        },
        namespace: "default".into(),
        credentials: None,
    }
}

fn say_control_plane(note: &Note) {
    say!(
        "✔ control plane https://{}   ✔ context \"{}\" written",
        note.control_plane,
        note.mesh
    );
}

/// What keeps the agent from a control plane that runs in the same process: it may have been a member of another mesh
/// of that name, or have been revoked.
async fn trouble(run_dir: &Path) -> Option<Trouble> {
    let socket = run_dir.join("agent.sock");
    let begun = Instant::now();
    loop {
        let asked = tokio::time::timeout(ANSWERS, host_of(&socket)).await;
        let trouble = match asked.ok().flatten() {
            Some(host) => Some(host.trouble?),
            None => None,
        };
        let lasts = trouble.as_ref().is_some_and(|trouble| trouble.lasting);
        if lasts || begun.elapsed() > CONNECTED {
            let slow = || Trouble {
                what: format!("it does not answer after {} s", CONNECTED.as_secs()),
                hint: String::new(),
                lasting: false,
            };
            return Some(trouble.unwrap_or_else(slow));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What to do about an agent's trouble: only one that lasts is worth a membership.
fn next(trouble: &Trouble, kept: &Path, run_dir: &Path) -> String {
    match trouble.lasting {
        true => anew(kept, run_dir),
        false => "it goes on trying: leno status says how it goes".into(),
    }
}

fn say_agent(trouble: Option<&(String, String)>, run_dir: &Path) {
    if let Some((next, trouble)) = trouble {
        return say!("⚠ the agent runs, but not in the mesh: {trouble}\n  {next}");
    }
    let agent = places::agent_of(run_dir);
    say!(
        "✔ agent ready\nTry: {agent}leno run -- curl -sS http://NAME/  |  leno token create --service NAME  |  leno status"
    );
}

fn run_dir(args: &UpArgs) -> PathBuf {
    args.run_dir.clone().unwrap_or_else(places::run_dir)
}

/// The command that gives up a membership, where it is kept.
fn leave(kept: &Path, run_dir: &Path) -> String {
    let data = match kept == places::data_dir().join("agent") {
        true => String::new(),
        false => format!(" --data-dir {}", kept.display()),
    };
    let run = match run_dir == places::run_dir() {
        true => String::new(),
        false => format!(" --run-dir {}", run_dir.display()),
    };
    format!("leno leave{data}{run}")
}

/// How a host becomes a member again that the control plane does not know: `kept` is where its membership is.
fn anew(kept: &Path, run_dir: &Path) -> String {
    let leave = leave(kept, run_dir);
    format!(
        "end leno up, give up what this host was before ({leave}), and start leno up again: it is a member anew"
    )
}

/// Gives the person behind sudo a context; the mesh runs without.
async fn give_context(person: &Person, context: &Context, local: SocketAddr) {
    match person.give_context(context, local).await {
        Ok(()) => say!(
            "✔ context \"{}\" written for {} as well",
            context.name,
            person.name
        ),
        Err(error) => say!("leno: {error}"),
    }
}

/// Why the control plane cannot be reached by others; beside root's mesh, how to be in that one.
fn unbound(error: impl std::error::Error) -> CommandError {
    let error = CommandError::failed(chain(&error));
    if places::roots_agent_is_here() {
        return error.hint(
            "a mesh of root's runs here: sudo leno user create NAME makes you a context, leno up, join or agent with --allow-user lets you run programs",
        );
    }
    error
}

/// Takes back the context of a mesh that did not come up.
fn forget(context: &Context) {
    if let Server::Unix { socket, .. } = &context.server
        && let Err(error) = context::release(&context.name, socket)
    {
        say!("leno: {error}");
    }
}

/// Renews it as long as this runs.
async fn keep_context(person: Person, context: Context, local: SocketAddr, stop: Stop) {
    while stop
        .run_until_stopped(tokio::time::sleep(RENEWED_AFTER))
        .await
        .is_some()
    {
        if let Err(error) = person.give_context(&context, local).await {
            tracing::warn!(%error, user = person.name, "a context was not renewed");
        }
    }
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
