//! A host's side of the mesh: one loop that owns all of its state.
//!
//! Everything that happens arrives here as one of a few kinds of input (the control plane, programs, the data plane,
//! a tick) and is answered by messages; nothing else changes state. The data plane goes on without this loop's help
//! when the control plane is away.

mod asked;
mod control_plane;
mod pages;
mod programs;
mod renewals;
mod restart;
mod start;
mod way_back;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::TcpListener,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use leno_dataplane::{Event, ListenRole, Update, Worker};
use leno_ir::Mesh;
use leno_net::capture::{Installed, SourceAddresses};
use leno_runtime::{Fatal, Readiness, Scope, Stop};
use leno_types::WorkloadUid;
use leno_wire::{
    agent::{self as wire, AgentMessage, agent_message},
    discovery::DeltaDiscoveryRequest,
};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::{
    Config, Membership,
    admin::{Ask, Ended},
    ads::{AdsClient, Type},
    certificates::{Issued, Renewal},
    handover::{Handles, Inherited},
    host_network::Routes,
    hosted::{self, Hosted, Sockets},
    lines::Lines,
    link::LinkEvent,
    local::{self, Connection, LocalEvent},
    protocol::{FromAgent, Start, Why},
    refused::Refused,
    report::Reporter,
    saved::Kept,
    standing::Standing,
};

pub use start::run;

/// How often certificates are looked at, and reports sent.
const TICK: Duration = Duration::from_millis(250);
/// A program that has not come back so long after the agent's restart is gone.
const RETURN_GRACE: Duration = Duration::from_secs(10);
/// A program waits so long for the control plane before it is told that it is away.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// What is open may finish for so long when the agent is asked to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// What is open may finish for so long when a successor has taken over.
const HANDOVER_DRAIN: Duration = Duration::from_secs(50);
/// The control plane is given so long to hear the goodbye.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often capture rules are looked at.
const WATCH: Duration = Duration::from_secs(1);
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

impl Asked {
    /// How it is registered; the same again after a reconnect.
    fn registration(&self, request: u64) -> wire::Register {
        let uid = self.start.uid.as_deref().unwrap_or_default();
        hosted::registration(&self.start, request, uid, "", self.healthy)
    }
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
    pid: i32,
    uid: Option<WorkloadUid>,
}

/// What the loop begins with.
struct Beginning {
    config: Config,
    membership: Rc<RefCell<Membership>>,
    worker: Worker,
    hbone_port: u16,
    hbone: Vec<TcpListener>,
    inputs: mpsc::Sender<Input>,
    handles: Handles,
    inherited: Inherited,
    /// What a predecessor left, where it can be told whose that is.
    kept: Option<Kept>,
    readers_ended: Ended,
    namespace_rules: Option<Installed>,
    way_back: Option<SourceAddresses>,
    ready: Readiness,
    stop: Stop,
    link_stop: Stop,
    handed_over: Rc<Cell<bool>>,
}

struct Agent {
    config: Config,
    membership: Rc<RefCell<Membership>>,
    worker: Worker,
    hbone_port: u16,
    inputs: mpsc::Sender<Input>,
    scope: Scope,
    stop: Stop,
    link_stop: Stop,
    ready: Readiness,
    ads: AdsClient,
    mesh: Option<Mesh>,
    up: Option<Up>,
    callers: HashMap<Connection, Caller>,
    refused: Refused,
    asked: HashMap<u64, Asked>,
    hosted: HashMap<WorkloadUid, Hosted>,
    /// Workloads that were named again on this connection, by request, until they are answered.
    again: HashMap<u64, WorkloadUid>,
    agent_renewal: Renewal,
    reporter: Reporter,
    handles: Handles,
    inherited: Inherited,
    /// Asked to stop by a successor, which has the listeners now.
    handed_over: Rc<Cell<bool>>,
    routes: Routes,
    /// Cgroups of ended programs, to be removed when the last process has left them.
    emptying: Vec<PathBuf>,
    /// The capture rules of a namespace that is one workload.
    namespace_rules: Option<Installed>,
    /// What lets programs that share this network be called from their callers' addresses.
    way_back: Option<SourceAddresses>,
    watched: Instant,
    rules_restored: u64,
    next_request: u64,
    started: Instant,
    /// Whether the run directory is this agent's.
    keeps_state: bool,
    /// Connections to the admin ports that made room.
    readers_ended: Ended,
    /// Whether it is in memory.
    keeps_keys: bool,
    dirty_configuration: bool,
    dirty_workloads: bool,
    /// When what could not be written is tried again.
    save_again: Option<Instant>,
    standing: Standing,
    /// What people ask, while the data plane is asked.
    questions: asked::Questions,
    lines: Lines,
    /// Whether the data plane writes a line for each request.
    logs_all: bool,
}

impl Agent {
    fn new(beginning: Beginning) -> Self {
        let Beginning {
            config,
            membership,
            worker,
            hbone_port,
            hbone,
            inputs,
            handles,
            inherited,
            kept,
            readers_ended,
            namespace_rules,
            way_back,
            ready,
            stop,
            link_stop,
            handed_over,
        } = beginning;
        let agent_renewal = Renewal::of_agent(&membership.borrow().certificate, fastrand::f64());
        let reporter = Reporter::new(config.access_log.as_deref());
        let logs_all = config.access_log.is_some();
        let keeps_keys = restart::keeps_keys(&config.run_dir);
        let mut agent = Self {
            config,
            membership,
            worker,
            hbone_port,
            inputs,
            scope: Scope::new(stop.clone(), None),
            stop,
            link_stop,
            ready,
            ads: AdsClient::default(),
            mesh: None,
            up: None,
            callers: HashMap::new(),
            refused: Refused::default(),
            asked: HashMap::new(),
            hosted: HashMap::new(),
            again: HashMap::new(),
            agent_renewal,
            reporter,
            handles,
            inherited,
            handed_over,
            routes: Routes::default(),
            emptying: Vec::new(),
            namespace_rules,
            way_back,
            watched: Instant::now(),
            rules_restored: 0,
            next_request: 0,
            started: Instant::now(),
            keeps_state: kept.is_some(),
            readers_ended,
            keeps_keys,
            dirty_configuration: false,
            dirty_workloads: false,
            save_again: None,
            standing: Standing::default(),
            questions: asked::Questions::default(),
            lines: Lines::default(),
            logs_all,
        };
        agent.restore(kept.unwrap_or_default());
        // Only now: a peer that comes first finds the workloads of a predecessor, and their certificates.
        for listener in hbone {
            agent.worker.send(Update::Listen {
                role: ListenRole::Hbone,
                listener,
            });
        }
        agent
    }

    async fn run(mut self, mut mailboxes: Mailboxes) {
        let stop = self.stop.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(event) = mailboxes.link.recv() => self.on_link(event),
                Some(event) = mailboxes.local.recv() => self.on_local(event),
                Some(ask) = mailboxes.asks.recv() => self.on_ask(ask),
                Some(input) = mailboxes.inputs.recv() => self.on_input(input),
                Some(event) = self.worker.next() => self.on_worker(event),
                _ = tick.tick() => self.on_tick(),
            }
        }
        self.leave(mailboxes.link).await;
    }

    /// Goodbye to the control plane, and what is open is finished.
    async fn leave(mut self, mut link: mpsc::Receiver<LinkEvent>) {
        let handover = self.handed_over.get();
        self.report(Instant::now());
        self.say(agent_message::Message::Goodbye(wire::Goodbye { handover }));
        if !handover {
            self.save();
        }
        // Programs look for the next agent from now on.
        self.callers.clear();
        let grace = if handover { HANDOVER_DRAIN } else { DRAIN };
        self.worker.begin_drain(grace);
        let (up, link_stop) = (self.up.take(), self.link_stop.clone());
        let farewell = async {
            // The session ends after what was said on it; the discovery stream must not end first.
            let rest = up.map(|Up { ads, channel, .. }| (ads, channel));
            let heard = async {
                while let Some(event) = link.recv().await {
                    if let LinkEvent::Down { .. } = event {
                        break;
                    }
                }
            };
            if rest.is_some() && tokio::time::timeout(FAREWELL, heard).await.is_err() {
                tracing::debug!("the control plane did not answer the goodbye");
            }
            link_stop.trigger();
        };
        let drained = async {
            while let Some(event) = self.worker.next().await {
                match event {
                    Event::Drained => break,
                    event => drop(self.reporter.take(event)),
                }
            }
        };
        tokio::join!(farewell, drained);
        self.worker.drain(Duration::ZERO).await;
    }

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
            Event::NeedSockets { uid, v6, count } => self.need_sockets(uid, v6, count),
            Event::WorkloadIdle(uid) => {
                if let Some(connection) = self.hosted.get(&uid).and_then(|hosted| hosted.connection)
                {
                    self.tell(connection, FromAgent::Idle);
                }
            }
            Event::Looked { question, services } => self.on_looked(question, &services),
            event => {
                let log = self.reporter.take(event);
                self.on_lines(log);
            }
        }
    }

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
                let silent = "the control plane did not answer in 10 s: is it running (leno status)? What runs already goes on";
                let text = self.standing.refusal().unwrap_or_else(|| silent.into());
                self.refuse(asked.connection, Why::Away, text);
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
        if now - self.watched > WATCH {
            self.watched = now;
            self.watch_rules();
        }
        self.report(now);
        self.save_late(now);
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
}
