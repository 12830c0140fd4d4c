//! The seam to the agent: two mailboxes, nothing shared.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use leno_ir::{Destination, Endpoints, Mesh, OwnWorkload, ResourceName};
use leno_runtime::Stop;
use leno_tls::{TrustBundle, WorkloadCertificate};
use leno_types::{Identity, Refusal, ServiceName, WorkloadUid};
use tokio::sync::mpsc;

use crate::{Chain, Seen, WorkerConfig, worker};

/// What the agent tells a worker.
pub enum Update {
    /// The mesh, new or changed.
    Mesh(Mesh),
    /// A workload of this host, new or changed. Open streams that it now denies are ended.
    Workload(Box<OwnWorkload>),
    /// A workload is gone: its listeners are closed, its streams ended after their grace.
    WorkloadGone(WorkloadUid),
    /// A workload is about to stop: its callers are sent away, what they began goes on.
    WorkloadLeaving(WorkloadUid),
    /// A workload's certificate, new or renewed.
    Certificate {
        /// Whose.
        uid: WorkloadUid,
        /// The certificate with its key.
        certificate: WorkloadCertificate,
        /// Whom to trust.
        bundle: TrustBundle,
    },
    /// The listeners inside a workload's namespace.
    Capture {
        /// Whose.
        uid: WorkloadUid,
        /// They.
        sockets: CaptureSockets,
    },
    /// Unconnected, non-blocking TCP sockets made inside a workload's namespace, for inbound dials.
    AppSockets {
        /// Whose.
        uid: WorkloadUid,
        /// Whether they are of IPv6.
        v6: bool,
        /// They.
        sockets: Vec<OwnedFd>,
    },
    /// A listener on the host's address.
    Listen {
        /// What it is for.
        role: ListenRole,
        /// It.
        listener: std::net::TcpListener,
    },
    /// Every listener of this role is closed; its connections end by themselves.
    Unlisten(ListenRole),
    /// What a name or an address means.
    Destination {
        /// As it was asked, or canonical.
        name: ResourceName,
        /// Further names of the same.
        aliases: Vec<ResourceName>,
        /// `None`: nothing; an answer, too.
        answer: Option<Destination>,
    },
    /// The endpoints of a service.
    Endpoints {
        /// Which service.
        service: ServiceName,
        /// `None`: there is no such service.
        answer: Option<Endpoints>,
    },
    /// The version of the configuration that all of these updates come to, for the log (decision CP9).
    ConfigVersion(Arc<str>),
    /// Somebody wants to know how it stands; [`Event::Looked`] answers, after everything that happened before.
    Look(Look),
    /// Whether a line is written for each request; those that failed have one in any case.
    LogAll(bool),
    /// Whether questions are answered at present. A worker begins without.
    ControlPlane {
        /// Whether the agent has a stream to one.
        connected: bool,
    },
}

/// What somebody wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Echoed in the answer.
    pub question: u64,
    /// The services whose endpoints are wanted; at most so many are answered as it knows.
    pub services: Vec<ServiceName>,
    /// All that it knows.
    pub all: bool,
}

/// The listeners of one workload's namespace. All of them must be non-blocking.
pub struct CaptureSockets {
    /// Where outbound connections are redirected to.
    pub outbound: Vec<std::net::TcpListener>,
    /// Where DNS over UDP is redirected to.
    pub dns_udp: Vec<std::net::UdpSocket>,
    /// Where DNS over TCP is redirected to.
    pub dns_tcp: Vec<std::net::TcpListener>,
    /// How the program is dialled.
    pub app: AppDial,
    /// Whether it is dialled from its callers' addresses. Sockets that are handed in must be transparent then, and one's
    /// own need a way back for the answers (`leno_net::capture::SourceAddresses`).
    pub preserve_source: bool,
}

/// How a program is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppDial {
    /// By sockets made in its namespace, which come by [`Update::AppSockets`] and are asked for by
    /// [`Event::NeedSockets`]. Where its address refuses, loopback is tried second (decision 13).
    Handed,
    /// The proxy shares its namespace and makes its own sockets, marked where [`WorkerConfig::mark`] says so. Only
    /// the workload's own address is dialled: what is bound to loopback stays private.
    Marked,
}

/// What a listener on the host's address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenRole {
    /// Mutual TLS from other proxies (15008).
    Hbone,
    /// A workload's published port, for callers from outside the mesh.
    Published {
        /// Whose.
        uid: WorkloadUid,
        /// The port of the host.
        port: u16,
    },
    /// What reaches a wholly captured namespace from outside the mesh (15006).
    Inbound,
    /// What leaves a wholly captured namespace (15001).
    Outbound {
        /// As whom it calls.
        uid: WorkloadUid,
    },
}

/// What a worker tells the agent.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one comes once a second at most"
)]
pub enum Event {
    /// First use of a name; sent once until it is unsubscribed.
    Subscribe(ResourceName),
    /// First use of a service's endpoints.
    SubscribeEndpoints(ServiceName),
    /// A name is not used any more, or had to make room.
    Unsubscribe(ResourceName),
    /// The same for a service's endpoints.
    UnsubscribeEndpoints(ServiceName),
    /// Sockets for inbound dials are running out.
    NeedSockets {
        /// Whose namespace they must be made in.
        uid: WorkloadUid,
        /// Whether IPv6.
        v6: bool,
        /// How many.
        count: usize,
    },
    /// What happened since the last report; at most once a second, only when something did.
    Telemetry {
        /// Traffic, by edge.
        delta: leno_telemetry::Delta,
        /// Ceilings met, refusals, handshakes, gauges: what changed.
        counters: leno_telemetry::counters::Counters,
        /// Access log, JSON lines.
        log: Vec<u8>,
        /// The latest refusals.
        refusals: Vec<RefusalRecord>,
        /// Who called from outside the mesh, or is connected.
        outsiders: Vec<Outsider>,
    },
    /// How it stands, as it was asked by [`Update::Look`].
    Looked {
        /// Which question this answers.
        question: u64,
        /// Endpoints by service, and how many more each has.
        services: Vec<(ServiceName, Vec<Seen>, usize)>,
    },
    /// Nobody calls a workload that is leaving any more, and what was begun has ended.
    WorkloadIdle(WorkloadUid),
    /// Everything has ended; nothing comes after.
    Drained,
}

/// A caller from outside the mesh, since the last report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outsider {
    /// The workload it called.
    pub workload: WorkloadUid,
    /// The program's port there.
    pub port: u16,
    /// From where.
    pub address: IpAddr,
    /// Requests and streams of bytes that went on to the program; 0 where it is connected and silent.
    pub calls: u64,
    /// Those that were refused because they came in clear.
    pub refused: u64,
}

/// One refusal, for `explain` and for counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalRecord {
    /// When.
    pub at: SystemTime,
    /// The id told to the caller, where it was told one.
    pub id: u64,
    /// Why.
    pub reason: Refusal,
    /// The workload whose side of the proxy refused; `None` when that is not known yet.
    pub workload: Option<WorkloadUid>,
    /// Whether it was refused on the way out (the caller's side) or in.
    pub outbound: bool,
    /// Who called, where that was proven.
    pub caller: Option<Identity>,
    /// The address asked for.
    pub destination: Option<SocketAddr>,
    /// The service asked for.
    pub service: Option<ServiceName>,
    /// What exactly, for people.
    pub detail: String,
    /// The rule that decided, as `Kind namespace/name field`; empty when none did.
    pub rule: String,
    /// Where the caller's connection comes from.
    pub from: Option<SocketAddr>,
    /// The other side of the mesh refused it, and this one carried the answer.
    pub by_peer: bool,
    /// The version of the configuration by which it was decided; empty before the first.
    pub config_version: Arc<str>,
    /// The way it had come.
    pub chain: Box<Chain>,
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    updates: mpsc::UnboundedSender<Command>,
    events: mpsc::Receiver<Event>,
    thread: Option<JoinHandle<()>>,
}

/// What arrives in a worker's mailbox.
pub(crate) enum Command {
    Update(Update),
    Drain(Duration),
}

#[expect(
    clippy::disallowed_methods,
    reason = "the agent sends one update for each resource it holds, which is bounded there; dropping one, or waiting \
              for a busy worker, would leave a worker that serves by what is no longer so"
)]
fn mailbox() -> (
    mpsc::UnboundedSender<Command>,
    mpsc::UnboundedReceiver<Command>,
) {
    mpsc::unbounded_channel()
}

/// Starts a worker: a thread called `name`. It drains when `stop` is triggered, within [`WorkerConfig::drain_grace`].
#[must_use]
pub fn start(name: &str, config: WorkerConfig, stop: Stop) -> Worker {
    let (updates, mailbox) = mailbox();
    let (outbox, events) = mpsc::channel(config.limits.events.max(1));
    let thread = leno_runtime::spawn_thread_local(name, move || async move {
        worker::run(config, stop, mailbox, outbox).await;
    });
    Worker {
        updates,
        events,
        thread: Some(thread),
    }
}

impl Worker {
    /// Tells the worker something. After its end nothing happens.
    pub fn send(&self, update: Update) {
        if self.updates.send(Command::Update(update)).is_err() {
            tracing::debug!("an update for a worker that has ended was dropped");
        }
    }

    /// The next thing the worker says; `None` when it has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Begins what [`Self::drain`] does and does not wait for it: [`Self::next`] gives what is still reported, up to
    /// [`Event::Drained`].
    pub fn begin_drain(&self, grace: Duration) {
        if self.updates.send(Command::Drain(grace)).is_err() {
            tracing::debug!("the worker had ended before its drain");
        }
    }

    /// Ends the worker: no new connections, GOAWAY to peers, open exchanges finish, the rest is aborted after
    /// `grace`. What it still reports is dropped; [`Self::begin_drain`] keeps that.
    pub async fn drain(mut self, grace: Duration) {
        self.begin_drain(grace);
        while self.next().await.is_some() {}
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a worker ended by a panic");
        }
    }
}

impl fmt::Debug for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh(mesh) => write!(f, "Mesh({})", mesh.name),
            Self::Workload(workload) => write!(f, "Workload({})", workload.name),
            Self::WorkloadGone(uid) => write!(f, "WorkloadGone({uid})"),
            Self::WorkloadLeaving(uid) => write!(f, "WorkloadLeaving({uid})"),
            Self::Certificate {
                uid, certificate, ..
            } => {
                write!(f, "Certificate({uid}, {})", certificate.generation())
            }
            Self::Capture { uid, .. } => write!(f, "Capture({uid})"),
            Self::AppSockets { uid, sockets, .. } => {
                write!(f, "AppSockets({uid}, {})", sockets.len())
            }
            Self::Listen { role, .. } => write!(f, "Listen({role:?})"),
            Self::Unlisten(role) => write!(f, "Unlisten({role:?})"),
            Self::Destination { name, answer, .. } => {
                write!(f, "Destination({name}, {})", answer.is_some())
            }
            Self::Endpoints { service, answer } => {
                let count = answer.as_ref().map(|answer| answer.endpoints.len());
                write!(f, "Endpoints({service}, {count:?})")
            }
            Self::Look(look) => write!(f, "Look({})", look.question),
            Self::LogAll(all) => write!(f, "LogAll({all})"),
            Self::ConfigVersion(version) => write!(f, "ConfigVersion({version})"),
            Self::ControlPlane { connected } => write!(f, "ControlPlane({connected})"),
        }
    }
}
