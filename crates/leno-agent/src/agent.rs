//! A host's side of the mesh: one loop that owns all of its state.
//!
//! Everything that happens arrives here as one of a few kinds of input (the control plane, programs, the data plane,
//! a tick) and is answered by messages; nothing else changes state. The data plane goes on without this loop's help
//! when the control plane is away.

use std::{
    cell::RefCell,
    collections::HashMap,
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use leno_dataplane::{AppDial, Event, ListenRole, Update, Worker, WorkerConfig};
use leno_ir::Mesh;
use leno_net::fdpass::Peer;
use leno_runtime::{Fatal, Readiness, Scope, Stop, Tasks};
use leno_tls::control::ControlConnector;
use leno_types::{Identity, WorkloadUid};
use leno_wire::{
    agent::{self as wire, AgentMessage, agent_message, control_message},
    discovery::{DeltaDiscoveryRequest, Node},
};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::{
    Config, Membership,
    admin::{self, Answer, Ask, Page},
    ads::{AdsClient, Change, Type},
    certificates::{self, Issued, Renewal},
    dial,
    handover::{self, Handle, Handles, Inherited},
    hosted::{self, Hosted, Sockets, Unfit},
    link::{self, LinkEvent, OUTBOX, Outgoing, Target},
    local::{self, Connection, LocalEvent},
    protocol::{self, FromAgent, Start, ToAgent},
    report::Reporter,
    saved, sidecar,
};

/// What this build understands beyond the first version of the protocol (CP10).
const FEATURES: &[&str] = &["access/v1"];
/// How often certificates are looked at, and reports sent.
const TICK: Duration = Duration::from_millis(250);
/// A program that has not come back so long after the agent's restart is gone.
const RETURN_GRACE: Duration = Duration::from_secs(10);
/// A program waits so long for the control plane before it is told that it is away.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// What is open may finish for so long when the agent is asked to stop,
const DRAIN: Duration = Duration::from_secs(5);
/// and for so long when a successor has taken over.
const HANDOVER_DRAIN: Duration = Duration::from_secs(50);
/// Inputs that wait for the loop.
const INPUTS: usize = 1_024;

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A port or the socket cannot be listened on.
    #[error("{0}")]
    Listen(String),
    /// A directory or file cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The namespace cannot be captured.
    #[error(transparent)]
    Capture(#[from] leno_net::NetError),
    /// A part of it that must not end has ended.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

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
    let mut tasks = Tasks::new(stop.clone());
    let (inputs_in, inputs) = mpsc::channel(INPUTS);
    let socket = config.socket();
    let mut inherited = if config.takeover {
        handover::take_over(&socket)?
    } else {
        Inherited::default()
    };
    let mut handles = Handles::default();
    let io = |source| AgentError::Io {
        path: socket.display().to_string(),
        source,
    };
    let local = local::listen(inherited.socket.take(), &socket).map_err(io)?;
    handles.keep(Handle::Socket, &local).map_err(io)?;
    if config.sidecar.is_some() {
        membership.control_planes = sidecar::resolve(&membership.control_planes).await;
    }
    let sidecar = config
        .sidecar
        .as_ref()
        .map(|start| sidecar::take(start, &config.addresses, &config.run_dir));
    let mut sidecar = sidecar.transpose()?;
    let hbone = admin::everywhere(inherited.take(Handle::Hbone), config.hbone_port)?;
    for listener in &hbone.listeners {
        handles.keep(Handle::Hbone, listener).map_err(io)?;
    }
    let asks = admin::start(&config, &mut inherited, &mut handles, &mut tasks)?;
    let worker = leno_dataplane::start(
        "data plane",
        worker_config(&config, hbone.port),
        Stop::new(),
    );
    for listener in hbone.listeners {
        worker.send(Update::Listen {
            role: ListenRole::Hbone,
            listener,
        });
    }
    for listener in sidecar.iter_mut().flat_map(|of| of.inbound.drain(..)) {
        worker.send(Update::Listen {
            role: ListenRole::Inbound,
            listener,
        });
    }

    let membership = Rc::new(RefCell::new(membership));
    let (link_in, link) = mpsc::channel(INPUTS);
    let (local_in, local_events) = mpsc::channel(INPUTS);
    tasks.spawn_critical(
        "control plane link",
        link::run(target(Rc::clone(&membership)), link_in),
    );
    let captured = sidecar.is_some();
    if let Some(sidecar) = sidecar {
        tasks.spawn_critical("sidecar", sidecar.run(local_in.clone()));
    }
    tasks.spawn_critical("agent socket", local::serve(local, local_in, stop.clone()));
    let mailboxes = Mailboxes {
        link,
        local: local_events,
        inputs,
        asks,
    };
    let start = Beginning {
        config,
        membership,
        worker,
        hbone_port: hbone.port,
        inputs: inputs_in,
        handles,
        inherited,
        ready,
        stop,
    };
    tasks.spawn_critical("agent", Agent::new(start).run(mailboxes));
    let ended = tasks.run(HANDOVER_DRAIN + DRAIN).await;
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the agent's socket stays behind")
        }
        Ok(()) | Err(_) => {}
    }
    if captured && ended.is_ok() {
        sidecar::release();
    }
    Ok(ended?)
}

fn worker_config(config: &Config, hbone_port: u16) -> WorkerConfig {
    WorkerConfig {
        host_addresses: config.addresses.clone(),
        hbone_port,
        dns_upstreams: config.dns_upstreams.clone(),
        dns_search: config.dns_search.clone(),
        ipv6: leno_net::link::ipv6_enabled(),
        access_log: config.access_log.is_some(),
        mark: config.sidecar.is_some(),
        ..WorkerConfig::default()
    }
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

/// Where the loop's inputs come from.
struct Mailboxes {
    link: mpsc::Receiver<LinkEvent>,
    local: mpsc::Receiver<LocalEvent>,
    inputs: mpsc::Receiver<Input>,
    asks: mpsc::Receiver<Ask>,
}

/// What tasks report back to the loop.
enum Input {
    Workload {
        uid: WorkloadUid,
        issued: Result<Issued, String>,
    },
    Agent(Result<Issued, String>),
}

/// A program that waits for its registration.
struct Asked {
    connection: Connection,
    run_user: u32,
    start: Start,
    sockets: Sockets,
    since: Instant,
    healthy: bool,
}

/// A connection to the control plane that stands.
struct Up {
    session: mpsc::Sender<AgentMessage>,
    ads: mpsc::Sender<DeltaDiscoveryRequest>,
    channel: Channel,
}

/// A program's connection.
struct Caller {
    out: mpsc::Sender<local::Outgoing>,
    user: u32,
    uid: Option<WorkloadUid>,
}

/// What the loop begins with.
struct Beginning {
    config: Config,
    membership: Rc<RefCell<Membership>>,
    worker: Worker,
    hbone_port: u16,
    inputs: mpsc::Sender<Input>,
    handles: Handles,
    inherited: Inherited,
    ready: Readiness,
    stop: Stop,
}

struct Agent {
    config: Config,
    membership: Rc<RefCell<Membership>>,
    worker: Worker,
    hbone_port: u16,
    inputs: mpsc::Sender<Input>,
    scope: Scope,
    stop: Stop,
    ready: Readiness,
    ads: AdsClient,
    mesh: Option<Mesh>,
    up: Option<Up>,
    callers: HashMap<Connection, Caller>,
    asked: HashMap<u64, Asked>,
    hosted: HashMap<WorkloadUid, Hosted>,
    agent_renewal: Renewal,
    reporter: Reporter,
    handles: Handles,
    inherited: Inherited,
    /// Asked to stop by a successor, which has the listeners now.
    handed_over: bool,
    next_request: u64,
    started: Instant,
    dirty_configuration: bool,
    dirty_workloads: bool,
    down_said: bool,
}

impl Agent {
    fn new(beginning: Beginning) -> Self {
        let Beginning {
            config,
            membership,
            worker,
            hbone_port,
            inputs,
            handles,
            inherited,
            ready,
            stop,
        } = beginning;
        let agent_renewal = Renewal::of_agent(&membership.borrow().certificate, fastrand::f64());
        let reporter = Reporter::new(config.access_log.as_deref());
        let mut agent = Self {
            config,
            membership,
            worker,
            hbone_port,
            inputs,
            scope: Scope::new(stop.clone(), None),
            stop,
            ready,
            ads: AdsClient::default(),
            mesh: None,
            up: None,
            callers: HashMap::new(),
            asked: HashMap::new(),
            hosted: HashMap::new(),
            agent_renewal,
            reporter,
            handles,
            inherited,
            handed_over: false,
            next_request: 0,
            started: Instant::now(),
            dirty_configuration: false,
            dirty_workloads: false,
            down_said: false,
        };
        agent.restore();
        agent
    }

    async fn run(mut self, mut mailboxes: Mailboxes) {
        let stop = self.stop.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(event) = mailboxes.link.recv() => self.on_link(event),
                Some(event) = mailboxes.local.recv() => self.on_local(event),
                Some(ask) = mailboxes.asks.recv() => self.on_ask(ask),
                Some(input) = mailboxes.inputs.recv() => self.on_input(input),
                Some(event) = self.worker.next() => self.on_worker(event),
                _ = tick.tick() => self.on_tick(),
            }
        }
        self.leave().await;
    }

    /// Goodbye to the control plane, and what is open is finished.
    async fn leave(mut self) {
        let handover = self.handed_over;
        self.report(Instant::now());
        self.say(agent_message::Message::Goodbye(wire::Goodbye { handover }));
        self.save();
        let grace = if handover { HANDOVER_DRAIN } else { DRAIN };
        self.worker.drain(grace).await;
    }

    // What a predecessor left.

    fn restore(&mut self) {
        let changes = self
            .ads
            .restore(saved::load_configuration(&self.config.run_dir));
        let domain = self.membership.borrow().trust_domain.clone();
        for workload in saved::load_workloads(&self.config.run_dir) {
            match restored(&workload, &domain) {
                Some(hosted) => drop(self.hosted.insert(hosted.uid, hosted)),
                None => tracing::info!(
                    workload = workload.name,
                    "what was left of a workload cannot be used; it will be registered anew"
                ),
            }
        }
        for change in changes {
            self.on_change(change);
        }
    }

    fn save(&mut self) {
        let run_dir = &self.config.run_dir;
        if std::mem::take(&mut self.dirty_configuration)
            && let Err(error) = saved::save_configuration(run_dir, &self.ads.save())
        {
            tracing::warn!(%error, "the configuration cannot be kept for a restart");
        }
        if std::mem::take(&mut self.dirty_workloads) {
            let workloads: Vec<_> = self.hosted.values().filter_map(Hosted::saved).collect();
            if let Err(error) = saved::save_workloads(run_dir, &workloads) {
                tracing::warn!(%error, "the workloads cannot be kept for a restart");
            }
        }
    }

    // The control plane.

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { channel, reply } => self.on_up(channel, reply),
            LinkEvent::Session(message) => self.on_session(message),
            LinkEvent::Ads(response) => {
                let (changes, answer) = self.ads.handle(response);
                if let Some(error) = &answer.error_detail {
                    tracing::warn!(
                        error = error.message,
                        "a part of the configuration is refused; what ran before stays"
                    );
                }
                self.dirty_configuration = true;
                for change in changes {
                    self.on_change(change);
                }
                self.ask(answer);
            }
            LinkEvent::Down { reason } => {
                if !std::mem::replace(&mut self.down_said, true) {
                    tracing::warn!(
                        reason,
                        "the control plane is away; what runs goes on with what it knows"
                    );
                }
                self.up = None;
                self.worker.send(Update::ControlPlane { connected: false });
            }
        }
    }

    fn on_up(&mut self, channel: Channel, reply: tokio::sync::oneshot::Sender<Outgoing>) {
        tracing::info!("connected to the control plane");
        self.down_said = false;
        let ((session, session_out), (ads, ads_out)) =
            (mpsc::channel(OUTBOX), mpsc::channel(OUTBOX));
        self.up = Some(Up {
            session,
            ads,
            channel,
        });
        self.say(agent_message::Message::Hello(wire::Hello {
            host: self.config.host.to_string(),
            addresses: self
                .config
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            features: FEATURES.iter().map(ToString::to_string).collect(),
            hbone_port: self.hbone_port.into(),
        }));
        let registrations: Vec<wire::Register> = self
            .hosted
            .values()
            .map(|hosted| hosted.registration(0))
            .collect();
        let asked = self.asked.iter().map(|(request, asked)| {
            hosted::registration(&asked.start, *request, "", "", asked.healthy)
        });
        for register in registrations.into_iter().chain(asked.collect::<Vec<_>>()) {
            self.say(agent_message::Message::Register(register));
        }
        let node = Node {
            id: self.membership.borrow().agent.to_string(),
            cluster: self.membership.borrow().mesh.to_string(),
            user_agent_name: "leno".into(),
            user_agent_version: env!("CARGO_PKG_VERSION").into(),
            client_features: FEATURES.iter().map(ToString::to_string).collect(),
        };
        for request in self.ads.connect(&node) {
            self.ask(request);
        }
        self.worker.send(Update::ControlPlane { connected: true });
        if reply
            .send(Outgoing {
                session: session_out,
                ads: ads_out,
            })
            .is_err()
        {
            self.up = None;
        }
    }

    /// Sends on the session; a connection too slow to take it is given up by dropping it.
    fn say(&mut self, message: agent_message::Message) {
        let Some(up) = &self.up else { return };
        if up
            .session
            .try_send(AgentMessage {
                message: Some(message),
            })
            .is_err()
        {
            self.up = None;
        }
    }

    /// Sends on the discovery stream.
    fn ask(&mut self, request: DeltaDiscoveryRequest) {
        let Some(up) = &self.up else { return };
        if up.ads.try_send(request).is_err() {
            self.up = None;
        }
    }

    fn on_session(&mut self, message: wire::ControlMessage) {
        match message.message {
            Some(control_message::Message::Ping(ping)) => {
                self.say(agent_message::Message::Pong(wire::Pong {
                    sequence: ping.sequence,
                }));
            }
            Some(control_message::Message::Registered(registered)) => {
                self.on_registered(registered)
            }
            Some(control_message::Message::Refused(refused)) => {
                match self.asked.remove(&refused.request) {
                    Some(asked) => self.refuse(asked.connection, refused.code, refused.message),
                    None => tracing::error!(
                        code = refused.code,
                        reason = refused.message,
                        "the control plane does not take a workload back"
                    ),
                }
            }
            Some(control_message::Message::Welcome(welcome)) => {
                tracing::debug!(version = welcome.control_plane_version, "welcomed");
            }
            // A message of a later version that this one need not understand.
            None => {}
        }
    }

    fn on_registered(&mut self, registered: wire::Registered) {
        let Some(asked) = self.asked.remove(&registered.request) else {
            return;
        };
        let (Ok(uid), Ok(identity)) = (
            registered.uid.parse(),
            registered.identity.parse::<Identity>(),
        ) else {
            return self.refuse(
                asked.connection,
                "invalid".into(),
                "the control plane gave an id that cannot be read".into(),
            );
        };
        if let Some(caller) = self.callers.get_mut(&asked.connection) {
            caller.uid = Some(uid);
        }
        let hosted = Hosted {
            uid,
            identity,
            name: registered.name,
            run_user: asked.run_user,
            start: asked.start,
            connection: Some(asked.connection),
            sockets: Some(asked.sockets),
            key: None,
            certificate: None,
            bundle: None,
            own: None,
            renewal: Renewal::now(),
            generation: 0,
            told: false,
            healthy: asked.healthy,
        };
        // Its description may have come before this answer, on the other stream.
        let own = self.ads.own_workload(uid);
        self.hosted.insert(uid, Hosted { own, ..hosted });
        self.renew();
    }

    fn on_change(&mut self, change: Change) {
        match change {
            Change::Mesh(mesh) => {
                self.worker.send(Update::Mesh(mesh.clone()));
                self.mesh = Some(mesh);
                self.ready.set_ready();
                let waiting: Vec<WorkloadUid> = self.hosted.keys().copied().collect();
                waiting.into_iter().for_each(|uid| self.tell_if_ready(uid));
            }
            Change::Workload(own) => {
                let uid = own.uid;
                let Some(hosted) = self.hosted.get_mut(&uid) else {
                    return;
                };
                hosted.own = Some(own.clone());
                if hosted.told {
                    self.worker.send(Update::Workload(Box::new(own)));
                }
                self.tell_if_ready(uid);
            }
            // A workload lives as long as its program, whatever the control plane has forgotten.
            Change::WorkloadGone(uid) => {
                if self.hosted.contains_key(&uid) {
                    tracing::warn!(%uid, "the control plane does not know a workload that runs here; it is registered again");
                    self.register_again(uid);
                }
            }
            Change::Destination {
                name,
                aliases,
                answer,
            } => {
                self.worker.send(Update::Destination {
                    name,
                    aliases,
                    answer,
                });
            }
            Change::Endpoints { service, answer } => {
                self.worker.send(Update::Endpoints { service, answer })
            }
        }
    }

    fn register_again(&mut self, uid: WorkloadUid) {
        if let Some(register) = self.hosted.get(&uid).map(|hosted| hosted.registration(0)) {
            self.say(agent_message::Message::Register(register));
        }
    }

    // Programs.

    fn on_local(&mut self, event: LocalEvent) {
        match event {
            LocalEvent::Opened {
                connection,
                peer,
                out,
            } => self.on_opened(connection, &peer, out),
            LocalEvent::Message {
                connection,
                message,
                descriptors,
            } => match message {
                ToAgent::Start(start) => {
                    if let Err(unfit) = self.on_start(connection, *start, descriptors) {
                        self.refuse(connection, unfit.code.into(), unfit.message);
                    }
                }
                ToAgent::Sockets { v6 } => {
                    if let Some(uid) = self.callers.get(&connection).and_then(|caller| caller.uid) {
                        self.worker.send(Update::AppSockets {
                            uid,
                            v6,
                            sockets: descriptors,
                        });
                    }
                }
                ToAgent::Health { healthy, detail } => self.on_health(connection, healthy, detail),
                ToAgent::Takeover => self.on_takeover(connection),
                ToAgent::Exited { code } => {
                    tracing::info!(code, "a program ended");
                    self.on_gone(connection);
                }
            },
            LocalEvent::Closed { connection } => {
                self.on_gone(connection);
                self.callers.remove(&connection);
            }
        }
    }

    fn on_opened(
        &mut self,
        connection: Connection,
        peer: &Peer,
        out: mpsc::Sender<local::Outgoing>,
    ) {
        let own = leno_net::process::user();
        let allowed = peer.uid == 0 || peer.uid == own || self.config.run_users.contains(&peer.uid);
        self.callers.insert(
            connection,
            Caller {
                out,
                user: peer.uid,
                uid: None,
            },
        );
        if !allowed {
            let text = format!(
                "user {} may not run programs here: start the agent with --allow-user {}",
                peer.uid, peer.uid
            );
            self.refuse(connection, "forbidden".into(), text);
            self.callers.remove(&connection);
            return;
        }
        let host = protocol::Host {
            name: self.config.host.to_string(),
            mesh: self.membership.borrow().mesh.to_string(),
            addresses: self.config.addresses.clone(),
            connected: self.up.is_some(),
        };
        self.tell(connection, FromAgent::Host(host));
    }

    fn on_start(
        &mut self,
        connection: Connection,
        start: Start,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Unfit> {
        let Some(caller) = self.callers.get(&connection) else {
            return Ok(());
        };
        let run_user = caller.user;
        if caller.uid.is_some()
            || self
                .asked
                .values()
                .any(|asked| asked.connection == connection)
        {
            return Err(Unfit::new("conflict", "one connection starts one program"));
        }
        hosted::check(&start)?;
        if let Some(uid) = self.returning(&start, run_user) {
            return self.on_return(connection, uid, &start, descriptors);
        }
        let sockets = hosted::sockets(
            &start,
            descriptors,
            &self.config.addresses,
            app_dial(connection),
            &mut self.inherited,
        )?;
        self.next_request += 1;
        let request = self.next_request;
        let healthy = start.ports.is_empty();
        let register = hosted::registration(
            &start,
            request,
            start.uid.as_deref().unwrap_or(""),
            "",
            healthy,
        );
        let asked = Asked {
            connection,
            run_user,
            start,
            sockets,
            since: Instant::now(),
            healthy,
        };
        self.asked.insert(request, asked);
        self.say(agent_message::Message::Register(register));
        Ok(())
    }

    /// The workload that a program says it was before the agent's restart, if it may be that one.
    fn returning(&self, start: &Start, run_user: u32) -> Option<WorkloadUid> {
        let uid = start.uid.as_deref()?.parse().ok()?;
        let hosted = self.hosted.get(&uid)?;
        let same = hosted.connection.is_none()
            && hosted.run_user == run_user
            && hosted.start.service == start.service;
        same.then_some(uid)
    }

    fn on_return(
        &mut self,
        connection: Connection,
        uid: WorkloadUid,
        start: &Start,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Unfit> {
        let sockets = hosted::sockets(
            start,
            descriptors,
            &self.config.addresses,
            app_dial(connection),
            &mut self.inherited,
        )?;
        if let Some(hosted) = self.hosted.get_mut(&uid) {
            hosted.connection = Some(connection);
            hosted.sockets = Some(sockets);
            hosted.told = false;
        }
        if let Some(caller) = self.callers.get_mut(&connection) {
            caller.uid = Some(uid);
        }
        self.tell_if_ready(uid);
        Ok(())
    }

    /// Hands a workload that has all it needs to the data plane, and lets its program start.
    fn tell_if_ready(&mut self, uid: WorkloadUid) {
        if self.mesh.is_none() {
            return;
        }
        let Some(hosted) = self.hosted.get_mut(&uid) else {
            return;
        };
        let (Some(connection), Some(certificate), Some(bundle), Some(own)) = (
            hosted.connection,
            &hosted.certificate,
            &hosted.bundle,
            &hosted.own,
        ) else {
            return;
        };
        let Some(sockets) = hosted.sockets.take() else {
            return;
        };
        hosted.told = true;
        self.worker.send(Update::Workload(Box::new(own.clone())));
        self.worker.send(Update::Certificate {
            uid,
            certificate: certificate.clone(),
            bundle: bundle.clone(),
        });
        self.worker.send(Update::Capture {
            uid,
            sockets: sockets.capture,
        });
        for (port, listener) in sockets.published {
            if let Err(error) = self.handles.keep(Handle::Published, &listener) {
                tracing::warn!(%error, port, "a published port cannot be handed to a successor");
            }
            self.worker.send(Update::Listen {
                role: ListenRole::Published { uid, port },
                listener,
            });
        }
        let left = hosted
            .certificate_left(SystemTime::now())
            .unwrap_or_default();
        let started = protocol::Started {
            uid: uid.to_string(),
            identity: hosted.identity.to_string(),
            certificate_seconds: left.as_secs(),
        };
        tracing::info!(workload = hosted.name, identity = %hosted.identity, "a workload is in the mesh");
        self.tell(connection, FromAgent::Started(started));
    }

    fn on_health(&mut self, connection: Connection, healthy: bool, detail: String) {
        let Some(uid) = self.callers.get(&connection).and_then(|caller| caller.uid) else {
            if let Some(asked) = self
                .asked
                .values_mut()
                .find(|asked| asked.connection == connection)
            {
                asked.healthy = healthy;
            }
            return;
        };
        let Some(hosted) = self.hosted.get_mut(&uid) else {
            return;
        };
        if std::mem::replace(&mut hosted.healthy, healthy) != healthy {
            tracing::info!(
                workload = hosted.name,
                healthy,
                detail,
                "a workload's health changed"
            );
            self.say(agent_message::Message::Health(wire::HealthChange {
                uid: uid.to_string(),
                healthy,
                detail,
            }));
        }
    }

    /// A program is gone: so is its workload.
    fn on_gone(&mut self, connection: Connection) {
        // What a successor has is not gone.
        if self.handed_over {
            return;
        }
        self.asked.retain(|_, asked| asked.connection != connection);
        let Some(uid) = self
            .callers
            .get_mut(&connection)
            .and_then(|caller| caller.uid.take())
        else {
            return;
        };
        self.forget(uid);
    }

    fn forget(&mut self, uid: WorkloadUid) {
        if let Some(hosted) = self.hosted.remove(&uid) {
            tracing::info!(workload = hosted.name, "a workload left the mesh");
        }
        self.dirty_workloads = true;
        self.worker.send(Update::WorkloadGone(uid));
        self.say(agent_message::Message::Deregister(wire::Deregister {
            uid: uid.to_string(),
        }));
        self.save();
    }

    /// Hands every listener to a successor, and stops.
    fn on_takeover(&mut self, connection: Connection) {
        let own = leno_net::process::user();
        let allowed = self
            .callers
            .get(&connection)
            .is_some_and(|caller| caller.user == 0 || caller.user == own);
        if !allowed {
            let text = "only root and the agent's own user may take over from it";
            return self.refuse(connection, "forbidden".into(), text.into());
        }
        tracing::info!("a successor takes over");
        (self.dirty_configuration, self.dirty_workloads) = (true, true);
        self.save();
        self.handed_over = true;
        for (message, descriptors) in self.handles.messages() {
            self.send(connection, message, descriptors);
        }
        self.worker.send(Update::Unlisten(ListenRole::Hbone));
        self.stop.trigger();
    }

    fn refuse(&mut self, connection: Connection, code: String, message: String) {
        tracing::info!(code, message, "a program was not taken in");
        self.tell(connection, FromAgent::Refused { code, message });
    }

    fn tell(&mut self, connection: Connection, message: FromAgent) {
        self.send(connection, message, Vec::new());
    }

    fn send(&mut self, connection: Connection, message: FromAgent, descriptors: Vec<OwnedFd>) {
        let Some(caller) = self.callers.get(&connection) else {
            return;
        };
        // A program that does not read is none: its connection ends, and with it the workload.
        if caller.out.try_send((message, descriptors)).is_err() {
            self.on_gone(connection);
            self.callers.remove(&connection);
        }
    }

    // The data plane.

    fn on_worker(&mut self, event: Event) {
        match event {
            Event::Subscribe(name) => {
                let request = self.ads.subscribe(Type::Destination, &name.to_string());
                request.into_iter().for_each(|request| self.ask(request));
            }
            Event::SubscribeEndpoints(service) => {
                let request = self
                    .ads
                    .subscribe(Type::Endpoints, &format!("svc/{service}"));
                request.into_iter().for_each(|request| self.ask(request));
            }
            Event::Unsubscribe(name) => {
                let request = self.ads.unsubscribe(Type::Destination, &name.to_string());
                request.into_iter().for_each(|request| self.ask(request));
            }
            Event::UnsubscribeEndpoints(service) => {
                let request = self
                    .ads
                    .unsubscribe(Type::Endpoints, &format!("svc/{service}"));
                request.into_iter().for_each(|request| self.ask(request));
            }
            Event::NeedSockets { uid, v6, count } => {
                if let Some(connection) = self.hosted.get(&uid).and_then(|hosted| hosted.connection)
                {
                    self.tell(connection, FromAgent::NeedSockets { v6, count });
                }
            }
            event => self.reporter.take(event),
        }
    }

    // People.

    fn on_ask(&mut self, ask: Ask) {
        let (ok, body) = match ask.page {
            Page::Metrics => (true, self.reporter.prometheus(self.ads.nacks(), self.ads.held())),
            Page::Ready if self.ready.is_ready() => (true, "ready\n".to_owned()),
            Page::Ready => (false, "waiting for the control plane\n".to_owned()),
            Page::Config => (true, serde_json::json!({"version": self.ads.version(), "resources": self.ads.versions()}).to_string()),
            Page::Certs => (true, self.certificates_page()),
            Page::Refusals => (true, self.refusals_page()),
        };
        // Who asked may have gone.
        drop(ask.reply.send(Answer { ok, body }));
    }

    fn certificates_page(&self) -> String {
        let unix = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        };
        let page = self.hosted.values().filter_map(|hosted| {
            let certificate = hosted.certificate.as_ref()?;
            Some(serde_json::json!({
                "uid": hosted.uid.to_string(),
                "workload": hosted.name,
                "identity": certificate.identity().as_str(),
                "serial": certificate.serial(),
                "not_before": unix(certificate.not_before()),
                "not_after": unix(certificate.not_after()),
            }))
        });
        serde_json::Value::Array(page.collect()).to_string()
    }

    fn refusals_page(&self) -> String {
        let page = self.reporter.refusals().map(|refusal| {
            serde_json::json!({
                "at": refusal.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
                "id": format!("{:016x}", refusal.id),
                "reason": refusal.reason.code(),
                "text": refusal.reason.text(),
                "direction": if refusal.outbound { "outbound" } else { "inbound" },
                "caller": refusal.caller.as_ref().map(ToString::to_string),
                "destination": refusal.destination.map(|of| of.to_string()),
                "service": refusal.service.as_ref().map(ToString::to_string),
                "detail": refusal.detail,
                "rule": refusal.rule,
            })
        });
        serde_json::Value::Array(page.collect()).to_string()
    }

    // Time.

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.renew();
        let late: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, asked)| now - asked.since > START_PATIENCE)
            .map(|(id, _)| *id)
            .collect();
        for request in late {
            if let Some(asked) = self.asked.remove(&request) {
                let text = "the control plane did not answer in 10 s: is it running (leno status)? What runs already goes on";
                self.refuse(asked.connection, "away".into(), text.into());
            }
        }
        if now - self.started > RETURN_GRACE {
            let lost: Vec<WorkloadUid> = self
                .hosted
                .values()
                .filter(|hosted| hosted.connection.is_none())
                .map(|hosted| hosted.uid)
                .collect();
            lost.into_iter().for_each(|uid| self.forget(uid));
        }
        self.report(now);
        self.save();
    }

    fn report(&mut self, now: Instant) {
        let certificates = self.hosted.values().filter_map(|hosted| {
            let certificate = hosted.certificate.as_ref()?;
            let until = certificate
                .not_after()
                .duration_since(SystemTime::UNIX_EPOCH)
                .ok()?;
            Some(wire::CertificateState {
                uid: hosted.uid.to_string(),
                identity: hosted.identity.to_string(),
                serial: certificate.serial().to_owned(),
                not_after: until.as_secs(),
            })
        });
        let certificates = certificates.collect();
        if self.up.is_some()
            && let Some(report) = self.reporter.report(now, self.ads.version(), certificates)
        {
            self.say(agent_message::Message::Report(report));
        }
    }

    /// Asks for every certificate that is due.
    fn renew(&mut self) {
        let Some(channel) = self.up.as_ref().map(|up| up.channel.clone()) else {
            return;
        };
        let (now, tick) = (SystemTime::now(), Instant::now());
        let domain = self.membership.borrow().trust_domain.clone();
        for hosted in self.hosted.values_mut() {
            if hosted.renewal.take(now, tick) {
                hosted.generation += 1;
                let work = certificates::sign_workload(
                    channel.clone(),
                    hosted.uid,
                    hosted.generation,
                    domain.clone(),
                );
                let (uid, inputs) = (hosted.uid, self.inputs.clone());
                // Without a ceiling a task is never refused; without the loop nobody needs the certificate.
                let spawned = self.scope.spawn("certificate", async move {
                    drop(
                        inputs
                            .send(Input::Workload {
                                uid,
                                issued: work.await,
                            })
                            .await,
                    );
                });
                debug_assert!(spawned.is_ok(), "a scope without a ceiling refuses nothing");
            }
        }
        if self.agent_renewal.take(now, tick) {
            let (work, inputs) = (
                certificates::renew_agent(channel, domain),
                self.inputs.clone(),
            );
            let spawned = self.scope.spawn("agent certificate", async move {
                drop(inputs.send(Input::Agent(work.await)).await);
            });
            debug_assert!(spawned.is_ok(), "a scope without a ceiling refuses nothing");
        }
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Workload {
                uid,
                issued: Ok(issued),
            } => self.on_issued(uid, issued),
            Input::Workload {
                uid,
                issued: Err(reason),
            } => {
                if let Some(hosted) = self.hosted.get_mut(&uid) {
                    tracing::warn!(
                        workload = hosted.name,
                        reason,
                        "no certificate came; it is asked for again"
                    );
                    hosted.renewal.failed(Instant::now());
                }
            }
            Input::Agent(Ok(issued)) => {
                self.agent_renewal = Renewal::of_agent(&issued.certificate, fastrand::f64());
                let mut membership = self.membership.borrow_mut();
                (membership.key, membership.certificate, membership.bundle) =
                    (issued.key, issued.certificate, issued.bundle);
                if let Err(error) = membership.save(&self.config.data_dir) {
                    tracing::error!(%error, "the agent's new certificate cannot be kept");
                }
            }
            Input::Agent(Err(reason)) => {
                tracing::warn!(
                    reason,
                    "the agent's certificate was not renewed; it is asked for again"
                );
                self.agent_renewal.failed(Instant::now());
            }
        }
    }

    fn on_issued(&mut self, uid: WorkloadUid, issued: Issued) {
        let Some(hosted) = self.hosted.get_mut(&uid) else {
            return;
        };
        if issued.certificate.identity() != &hosted.identity {
            tracing::error!(workload = hosted.name, got = %issued.certificate.identity(), "the certificate is for somebody else; it is not used");
            return hosted.renewal.failed(Instant::now());
        }
        hosted.renewal = Renewal::of(&issued.certificate, fastrand::f64());
        hosted.key = Some(issued.key);
        hosted.certificate = Some(issued.certificate.clone());
        hosted.bundle = Some(issued.bundle.clone());
        self.dirty_workloads = true;
        if hosted.told {
            self.worker.send(Update::Certificate {
                uid,
                certificate: issued.certificate,
                bundle: issued.bundle,
            });
        } else {
            self.tell_if_ready(uid);
        }
    }
}

/// How a program is dialled: it handed its sockets over, or shares the proxy's namespace.
fn app_dial(connection: Connection) -> AppDial {
    if connection == Connection::SIDECAR {
        AppDial::Marked
    } else {
        AppDial::Handed
    }
}

/// A workload that a predecessor hosted, its program expected back.
fn restored(workload: &saved::SavedWorkload, domain: &leno_types::TrustDomain) -> Option<Hosted> {
    let uid: WorkloadUid = workload.uid.parse().ok()?;
    let bundle = leno_tls::TrustBundle::from_pem(domain.clone(), &workload.bundle).ok()?;
    let key = leno_tls::PrivateKey::from_pem(&workload.key).ok()?;
    let now = SystemTime::now();
    let certificate =
        leno_tls::WorkloadCertificate::new(Some(uid), &workload.chain, &key, &bundle, 1, now)
            .ok()?;
    Some(Hosted {
        uid,
        identity: workload.identity.parse().ok()?,
        name: workload.name.clone(),
        run_user: workload.run_user,
        start: workload.start.clone(),
        connection: None,
        sockets: None,
        key: Some(key),
        renewal: Renewal::of(&certificate, fastrand::f64()),
        certificate: Some(certificate),
        bundle: Some(bundle),
        own: None,
        generation: 1,
        told: false,
        healthy: true,
    })
}
