//! How an agent begins: what it listens on and holds of the machine, then the tasks that use it.
//!
//! Everything that can fail is opened before anything runs; the capture of a namespace is last, so that an agent that
//! cannot begin leaves none behind. Invariant: there is never a rule without a listener behind it.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    rc::Rc,
};

use leno_dataplane::{Limits, ListenRole, Update, WorkerConfig};
use leno_runtime::{Readiness, Stop, Tasks};
use leno_tls::control::ControlConnector;
use tokio::{net::UnixListener, sync::mpsc};

use super::{Agent, AgentError, Beginning, DRAIN, HANDOVER_DRAIN, INPUTS, Mailboxes};
use crate::{
    Config, Membership,
    admin::{self, Asks, Everywhere},
    dial, files,
    handover::{self, Handle, Handles, Inherited},
    link::{self, LinkEvent, Target},
    local,
    saved::{self, Kept},
    sidecar::{self, Rules, Sidecar},
};

/// Runs a host's agent until the stop. Must be called on a current-thread runtime with a `LocalSet`.
///
/// # Errors
/// When it cannot listen, or a vital part of it ends.
pub async fn run(
    config: Config,
    mut membership: Membership,
    ready: Readiness,
    stop: Stop,
) -> Result<(), AgentError> {
    if let Err(error) = leno_net::process::allow_open_files() {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    if config.sidecar.is_some() {
        // While names are still looked up past the capture.
        membership.control_planes = sidecar::resolve(&membership.control_planes).await;
    }
    let mut tasks = Tasks::new(stop.clone());
    let opened = Opened::open(&config, &membership, &mut tasks)?;
    let worker = leno_dataplane::start(
        "data plane",
        worker_config(&config, opened.hbone.port),
        Stop::new(),
    );
    let membership = Rc::new(RefCell::new(membership));
    // It outlives the stop by the goodbye.
    let link_stop = Stop::new();
    let link = spawn_link(&mut tasks, Rc::clone(&membership), link_stop.clone());
    let (local_in, local_events) = mpsc::channel(INPUTS);
    let (mut namespace_rules, mut way_back) = (None, None);
    if let Some((mut sidecar, rules)) = opened.sidecar {
        for listener in sidecar.inbound.drain(..) {
            let role = ListenRole::Inbound;
            worker.send(Update::Listen { role, listener });
        }
        namespace_rules = Some(rules.capture);
        way_back = rules.way_back;
        let (events, stop) = (local_in.clone(), stop.clone());
        tasks.spawn_critical("sidecar", async move {
            // `None` is the stop, which the loop hears as well.
            stop.run_until_stopped(sidecar.run(events)).await;
        });
    }
    let serving = local::serve(opened.local, local_in, stop.clone());
    tasks.spawn_critical("agent socket", serving);
    let (socket, captured) = (config.socket(), namespace_rules.is_some());
    let handed_over = Rc::new(Cell::new(false));
    let (inputs_in, inputs) = mpsc::channel(INPUTS);
    let agent = Agent::new(Beginning {
        config,
        membership,
        worker,
        hbone_port: opened.hbone.port,
        hbone: opened.hbone.listeners,
        inputs: inputs_in,
        handles: opened.handles,
        inherited: opened.inherited,
        kept: opened.kept,
        readers_ended: opened.asks.ended,
        namespace_rules,
        way_back,
        ready,
        stop,
        link_stop,
        handed_over: Rc::clone(&handed_over),
    });
    let mailboxes = Mailboxes {
        link,
        local: local_events,
        inputs,
        asks: opened.asks.pages,
    };
    tasks.spawn_critical("agent", agent.run(mailboxes));
    let ended = tasks.run(HANDOVER_DRAIN + DRAIN).await;
    if !handed_over.get() {
        give_back(&socket, captured && ended.is_ok());
    }
    Ok(ended?)
}

/// What an agent listens on, and what it holds of the machine.
struct Opened {
    local: UnixListener,
    hbone: Everywhere,
    asks: Asks,
    sidecar: Option<(Sidecar, Rules)>,
    handles: Handles,
    inherited: Inherited,
    kept: Option<Kept>,
}

impl Opened {
    fn open(
        config: &Config,
        membership: &Membership,
        tasks: &mut Tasks,
    ) -> Result<Self, AgentError> {
        let at = |path: &Path, source| AgentError::Io {
            path: path.display().to_string(),
            source,
        };
        let socket = config.socket();
        files::open_dir(&config.run_dir).map_err(|error| at(&config.run_dir, error))?;
        let mut inherited = if config.takeover {
            handover::take_over(&socket)?
        } else {
            Inherited::default()
        };
        let mut handles = Handles::default();
        let io = |error| at(&socket, error);
        let local = local::listen(inherited.socket.take(), &socket).map_err(io)?;
        handles.keep(Handle::Socket, &local).map_err(io)?;
        let hbone = admin::everywhere(inherited.take(Handle::Hbone), config.hbone_port)?;
        for listener in &hbone.listeners {
            handles.keep(Handle::Hbone, listener).map_err(io)?;
        }
        let asks = admin::start(config, &mut inherited, &mut handles, tasks)?;
        // Only now: a predecessor has written down all it knows, and no other agent lives here.
        let mut kept = claim(config, membership);
        let before = kept.as_mut().map(|kept| &mut kept.workloads);
        let take = |start| sidecar::take(start, config, before);
        let sidecar = config.sidecar.as_ref().map(take).transpose()?;
        Ok(Self {
            local,
            hbone,
            asks,
            sidecar,
            handles,
            inherited,
            kept,
        })
    }
}

/// What a predecessor left for this agent. Another agent's workloads are not this one's to serve: they would be called
/// by other ids.
fn claim(config: &Config, membership: &Membership) -> Option<Kept> {
    let (mesh, agent) = (membership.mesh.to_string(), membership.agent.to_string());
    saved::claim(&config.run_dir, (&mesh, &agent), &membership.bundle.pins())
        .inspect_err(|error| {
            tracing::warn!(%error, "the run directory cannot be taken over: nothing in it is used, and nothing is kept for a restart");
        })
        .ok()
}

/// Starts the task that keeps the connection to the control plane.
fn spawn_link(
    tasks: &mut Tasks,
    membership: Rc<RefCell<Membership>>,
    stop: Stop,
) -> mpsc::Receiver<LinkEvent> {
    let (events, link) = mpsc::channel(INPUTS);
    tasks.spawn_critical("control plane link", async move {
        stop.run_until_stopped(link::run(target(membership), events))
            .await;
    });
    link
}

/// Removes what an agent without successor must not leave behind: its socket, and where it ends on request also the
/// rules of a captured namespace.
fn give_back(socket: &Path, release: bool) {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the agent's socket stays behind")
        }
        Ok(()) | Err(_) => {}
    }
    if release {
        sidecar::release();
    }
}

fn worker_config(config: &Config, hbone_port: u16) -> WorkerConfig {
    WorkerConfig {
        limits: limits(leno_net::process::open_files()),
        hbone_port,
        dns_upstreams: config.dns_upstreams.clone(),
        dns_search: config.dns_search.clone(),
        ipv6: leno_net::link::ipv6_enabled(),
        access_log: config.access_log.is_some(),
        mark: config.sidecar.is_some(),
        ..WorkerConfig::default()
    }
}

/// The data plane's ceilings, where so many files may be open.
fn limits(files: u64) -> Limits {
    /// Below this a program of some hundred connections feels it.
    const FEW: u64 = 8_192;
    let (limits, less) = Limits::default().within_open_files(files);
    let each = limits.outbound_connections;
    if less && files < FEW {
        tracing::warn!(
            files,
            each,
            "this process may have few files open, and programs few connections: raise its limit (LimitNOFILE=, ulimit -n)"
        );
    } else if less {
        tracing::info!(
            files,
            each,
            "ceilings of connections follow the limit of open files"
        );
    }
    limits
}

/// How to connect, with the certificate of the moment.
fn target(membership: Rc<RefCell<Membership>>) -> impl FnMut() -> Option<Target> {
    move || {
        let membership = membership.borrow();
        let connector = ControlConnector::trusted(
            &membership.bundle,
            Some(&membership.certificate),
            dial::ALPN,
        )
        .ok()?;
        Some(Target {
            addresses: membership.control_planes.clone(),
            connector,
        })
    }
}
