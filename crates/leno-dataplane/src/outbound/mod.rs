//! What leaves: captured connections of this host's programs.
//!
//! capture -> where to -> what is spoken -> requests or bytes. The workload that calls is known by its listener (CP4).
//! Invariant: what the mesh claims leaves by mutual TLS or not at all.

mod attempt;
mod http;
mod plan;
mod requests;
mod tcp;

pub(crate) use plan::rule_name;
pub(crate) use requests::begin_trace;
pub(crate) use tcp::{Told, hand_on, reset};

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use leno_ir::ResourceName;
use leno_telemetry::counters::{Counter, Gauge};
use leno_types::{AppProtocol, Refusal, ServiceName, ports};
use tokio::net::TcpStream;

use crate::{
    clusters::{Cluster, Spoken as Learnt},
    counters::{Open, count},
    destinations::{Answer, Entry, HostView, ServiceView},
    detect::{self, Spoken},
    places::Place,
    record::{Party, Refused},
    state::{Local, Shared},
    target::{Direct, Target},
    why::{Chain, Ruled, Tried},
};

/// One captured connection.
pub(crate) struct Flow {
    pub(crate) shared: Rc<Shared>,
    pub(crate) local: Rc<Local>,
    /// The program's end.
    pub(crate) from: SocketAddr,
    /// Where it was going.
    pub(crate) to: SocketAddr,
    /// When it came.
    begun: Instant,
    meaning: RefCell<Meaning>,
    /// When that was looked up.
    looked: Cell<Instant>,
}

/// The world outside the mesh, and what is nowhere, as Istio calls them in metrics.
const OUTSIDE: &str = "PassthroughCluster";
const NOWHERE: &str = "BlackHoleCluster";

/// What was refused is looked up again by requests that come later than this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What the destination of a connection is.
#[derive(Clone)]
enum Meaning {
    /// A service.
    Service(Rc<Entry>),
    /// One workload.
    Direct(Rc<Direct>),
    /// Not the mesh's.
    Clear,
    /// Nothing it may reach.
    Refused(Refusal, Rc<str>),
}

/// Why something is refused, with what exactly for people.
pub(crate) struct Denial {
    pub(crate) reason: Refusal,
    pub(crate) detail: String,
    pub(crate) rule: String,
    /// The way it had come; nothing where it was refused before it had one.
    pub(crate) chain: Option<Box<Chain>>,
}

impl Denial {
    pub(crate) fn new(reason: Refusal, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            rule: String::new(),
            chain: None,
        }
    }

    /// With the way it had come: as far as `target`, by this rule, and after these tries.
    fn on_the_way_to(mut self, target: &Target, rule: Option<&Ruled>, tried: &[Tried]) -> Self {
        let chain = self.chain.take().unwrap_or_default();
        self.chain = Some(Box::new(chain.to(target, rule, tried, Instant::now())));
        self
    }
}

/// TLS where HTTP in clear is declared: no program there could answer it, and no route could see into it. It is reset
/// and not answered, as whoever speaks TLS reads no HTTP.
pub(crate) fn tls_to_http(port: u16) -> Denial {
    let why = format!("TLS to port {port}, which is declared as HTTP: declare it as tls or tcp");
    Denial::new(Refusal::ClientProtocol, why)
}

/// Serves one captured connection to its end.
pub(crate) async fn serve(
    shared: Rc<Shared>,
    local: Rc<Local>,
    stream: TcpStream,
    from: SocketAddr,
    _place: Option<Place>,
) {
    count(Counter::OutboundConnections);
    let _open = Open::new(Gauge::OpenConnections);
    let original = (shared.config.original_destination)(&stream);
    let to = match original {
        Ok(Some(to)) => SocketAddr::new(to.ip().to_canonical(), to.port()),
        Ok(None) => {
            // Who connects to the listener itself asks for nothing in particular.
            tracing::debug!(%from, "a connection to the capture listener itself was closed");
            return;
        }
        Err(error) => {
            tracing::warn!(%from, %error, "where a captured connection was going cannot be told");
            return;
        }
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%from, %error, "a captured connection was gone at once");
        return;
    }
    let begun = Instant::now();
    let meaning = if local.app.made(from, to) {
        let why = "this proxy made the connection itself: capture does not leave it alone";
        Meaning::Refused(Refusal::Loop, why.into())
    } else {
        meaning(&shared, to).await
    };
    let flow = Rc::new(Flow {
        shared,
        local,
        from,
        to,
        begun,
        meaning: RefCell::new(meaning),
        looked: Cell::new(Instant::now()),
    });
    if let Err(error) = flow.run(stream).await {
        tracing::debug!(from = %flow.from, to = %flow.to, %error, "a captured connection ended");
    }
}

/// What `to` is (CP7).
async fn meaning(shared: &Shared, to: SocketAddr) -> Meaning {
    let mesh = shared.mesh.borrow().clone();
    let Some(mesh) = mesh else {
        let why = "this proxy does not know its mesh yet";
        return Meaning::Refused(Refusal::DiscoveryTimeout, why.into());
    };
    if !mesh.claims(to.ip()) {
        return Meaning::Clear;
    }
    match to.port() {
        port if port == shared.config.hbone_port => return own_port(to),
        ports::ADMIN | ports::OUTBOUND | ports::INBOUND | ports::HBONE | ports::DNS => {
            return own_port(to);
        }
        // What the mesh itself shows there is no program's: control plane, metrics, readiness.
        port if ports::is_reserved(port) && !mesh.is_virtual(to.ip()) => return Meaning::Clear,
        _ => {}
    }
    match shared
        .destinations
        .find(shared, &ResourceName::Address(to.ip()))
        .await
    {
        Ok(entry) => known(entry, to),
        Err(reason) => Meaning::Refused(reason, reason.text().into()),
    }
}

fn own_port(to: SocketAddr) -> Meaning {
    let why = format!("{} is a port of the mesh's own proxies", to.port());
    Meaning::Refused(Refusal::Loop, why.into())
}

fn known(entry: Rc<Entry>, to: SocketAddr) -> Meaning {
    match entry.answer() {
        Answer::Service(view) if view.service.port(to.port()).is_none() => {
            let why = format!("{} has no port {}", view.service.name, to.port());
            Meaning::Refused(Refusal::UnknownDestination, why.into())
        }
        Answer::Service(_) => Meaning::Service(entry),
        Answer::Host(host) => match direct(&host, to) {
            Some(direct) => Meaning::Direct(Rc::new(direct)),
            None => {
                let why = format!("no workload of {} serves port {}", to.ip(), to.port());
                Meaning::Refused(Refusal::UnknownDestination, why.into())
            }
        },
        // An address is nobody's further name.
        Answer::Absent | Answer::Pending | Answer::Hostname(_) => {
            let why = format!("nothing in the mesh has the address {}", to.ip());
            Meaning::Refused(Refusal::UnknownDestination, why.into())
        }
    }
}

fn direct(view: &HostView, to: SocketAddr) -> Option<Direct> {
    let (endpoint, port) = view.host.at(to.port())?;
    Some(Direct {
        endpoint: Arc::new(endpoint.clone()),
        port: port.clone(),
        address: to.ip(),
        learned: Rc::clone(&view.learned),
    })
}

impl Flow {
    async fn run(self: &Rc<Self>, mut stream: TcpStream) -> io::Result<()> {
        let mut prefix = BytesMut::new();
        let meaning = self.meaning.borrow().clone();
        let declared = match &meaning {
            Meaning::Clear => return tcp::passthrough(self, stream).await,
            Meaning::Refused(reason, why) => {
                let denial = Denial::new(*reason, &**why);
                return self.refuse_connection(stream, prefix, denial).await;
            }
            Meaning::Direct(direct) => direct.port.protocol,
            Meaning::Service(entry) => match entry.answer() {
                Answer::Service(view) => view
                    .service
                    .port(self.to.port())
                    .and_then(|port| port.protocol),
                _ => None,
            },
        };
        match declared {
            Some(AppProtocol::Tcp | AppProtocol::Tls) => {
                tcp::bytes(self, stream, prefix, None).await
            }
            Some(AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc) => {
                match detect::caller(&mut stream, &mut prefix).await? {
                    Spoken::Http2 => http::http2(self, stream, prefix).await,
                    Spoken::Http1 | Spoken::Connect => http::http1(self, stream, prefix).await,
                    // Declared is declared: nothing gets past the rules of HTTP by not being HTTP.
                    Spoken::Bytes => http::reject(self, stream, prefix).await,
                    Spoken::Tls => {
                        tcp::refuse(self, &stream, &tls_to_http(self.to.port()), None);
                        Ok(())
                    }
                    Spoken::Nothing => Ok(()),
                }
            }
            None => self.run_undeclared(stream, prefix).await,
        }
    }

    /// Nobody said what is spoken: what was learned, or who speaks first (decision 14).
    async fn run_undeclared(
        self: &Rc<Self>,
        mut stream: TcpStream,
        mut prefix: BytesMut,
    ) -> io::Result<()> {
        let target = match self.target().await {
            Ok(target) => target,
            Err(denial) => return self.refuse_connection(stream, prefix, denial).await,
        };
        let (learned, port) = target.learned();
        match learned.get(port) {
            Some(Learnt::ServerFirst) => return tcp::bytes(self, stream, prefix, None).await,
            Some(Learnt::Http) => {
                let patience = self.shared.config.limits.detect_patience;
                match detect::caller_within(&mut stream, &mut prefix, patience).await? {
                    Some(Spoken::Http1) => return http::http1(self, stream, prefix).await,
                    Some(Spoken::Http2) => return http::http2(self, stream, prefix).await,
                    Some(Spoken::Nothing) => return Ok(()),
                    Some(Spoken::Connect | Spoken::Tls | Spoken::Bytes) | None => {}
                }
            }
            None => {}
        }
        let mut opened = match tcp::open(self, &target).await {
            Ok(opened) => opened,
            Err(denial) => return self.refuse_connection(stream, prefix, denial).await,
        };
        match detect::first(&mut stream, &mut prefix, &mut opened.tunnel).await? {
            detect::First::Caller(spoken @ (Spoken::Http1 | Spoken::Http2)) => {
                learned.set(port, Learnt::Http);
                opened.unused();
                if spoken == Spoken::Http1 {
                    http::http1(self, stream, prefix).await
                } else {
                    http::http2(self, stream, prefix).await
                }
            }
            detect::First::Caller(_) => {
                tcp::carry(self, stream, prefix, BytesMut::new(), opened).await
            }
            detect::First::Other(said) => {
                learned.server_said(port, &said);
                tcp::carry(self, stream, prefix, said, opened).await
            }
        }
    }

    /// Refuses in the caller's protocol where it speaks HTTP; otherwise by a reset.
    async fn refuse_connection(
        self: &Rc<Self>,
        mut stream: TcpStream,
        mut prefix: BytesMut,
        denial: Denial,
    ) -> io::Result<()> {
        let wait = self.shared.config.limits.refusal_wait;
        let spoken = detect::caller_within(&mut stream, &mut prefix, wait).await?;
        if let Some(spoken @ (Spoken::Http1 | Spoken::Connect | Spoken::Http2)) = spoken {
            self.meaning
                .replace(Meaning::Refused(denial.reason, denial.detail.into()));
            self.looked.set(Instant::now());
            return if spoken == Spoken::Http2 {
                http::http2(self, stream, prefix).await
            } else {
                http::http1(self, stream, prefix).await
            };
        }
        tcp::refuse(self, &stream, &denial, None);
        Ok(())
    }

    /// Looks again at what was refused or has been forgotten: a connection that is kept must not keep a refusal that
    /// is history.
    async fn look_again(&self) {
        let stale = match &*self.meaning.borrow() {
            Meaning::Service(entry) => entry.is_gone(),
            Meaning::Refused(reason, _) => {
                *reason != Refusal::Loop && self.looked.get().elapsed() >= LOOK_AGAIN
            }
            Meaning::Direct(_) | Meaning::Clear => false,
        };
        if stale {
            let meaning = Box::pin(meaning(&self.shared, self.to)).await;
            let unknown = matches!(&meaning, Meaning::Refused(Refusal::UnknownDestination, _));
            let meaning = if unknown && self.was_service() {
                let Denial { reason, detail, .. } = self.vanished();
                Meaning::Refused(reason, detail.into())
            } else {
                meaning
            };
            self.meaning.replace(meaning);
            self.looked.set(Instant::now());
        }
    }

    /// Whether the connection was made to a service: without one now, it is gone, not unknown.
    fn was_service(&self) -> bool {
        matches!(
            &*self.meaning.borrow(),
            Meaning::Service(_) | Meaning::Refused(Refusal::ServiceGone, _)
        )
    }

    /// The service as it is known now.
    fn service(&self, now: Instant) -> Result<Rc<ServiceView>, Denial> {
        let current = self.meaning.borrow().clone();
        match current {
            Meaning::Service(entry) => {
                entry.touch(now);
                match entry.answer() {
                    Answer::Service(view) => Ok(view),
                    _ => Err(self.vanished()),
                }
            }
            Meaning::Refused(reason, why) => Err(Denial::new(reason, &*why)),
            Meaning::Direct(_) | Meaning::Clear => Err(self.vanished()),
        }
    }

    fn vanished(&self) -> Denial {
        let why = format!("{} is no service any more", self.to.ip());
        Denial::new(Refusal::ServiceGone, why)
    }

    /// Where bytes go, and requests that no route takes elsewhere.
    async fn target(&self) -> Result<Target, Denial> {
        self.look_again().await;
        if let Meaning::Direct(direct) = &*self.meaning.borrow() {
            return Ok(Target::Direct(Rc::clone(direct)));
        }
        let now = Instant::now();
        let view = self.service(now)?;
        Ok(Target::Service {
            cluster: self.cluster(&view, &view.service.name, now).await?,
            port: self.to.port(),
        })
    }

    /// The endpoints of `service`; those of the service that was called, which it mostly is, are kept at hand.
    async fn cluster(
        &self,
        view: &ServiceView,
        service: &ServiceName,
        now: Instant,
    ) -> Result<Rc<Cluster>, Denial> {
        let own = *service == view.service.name;
        let known = view.own.borrow().clone().filter(|_| own);
        if let Some(cluster) = known.filter(|known| !known.is_gone() && known.exists()) {
            cluster.touch(now);
            return Ok(cluster);
        }
        let found = self.shared.clusters.find(&self.shared, service, now).await;
        let cluster =
            found.map_err(|reason| Denial::new(reason, format!("{service}: {}", reason.text())))?;
        if own {
            view.own.replace(Some(Rc::clone(&cluster)));
        }
        Ok(cluster)
    }

    /// Notes a refusal under the id that the caller is told.
    fn note(&self, id: u64, denial: &Denial, target: Option<&Target>, begun: Instant) {
        self.note_refused(id, denial, target, begun, false);
    }

    fn note_refused(
        &self,
        id: u64,
        denial: &Denial,
        target: Option<&Target>,
        begun: Instant,
        by_peer: bool,
    ) {
        let mut chain = denial.chain.as_deref().cloned().unwrap_or_default();
        chain.elapsed = Some(begun.elapsed());
        if let Some(Answer::Service(view)) = self.shared.destinations.peek(self.to.ip()) {
            chain.called = Some((view.service.name.clone(), self.to.port()));
        }
        let identity = self.local.identity();
        self.shared.record.refuse(Refused {
            id,
            reason: denial.reason,
            workload: Some(self.local.uid),
            outbound: true,
            caller: identity.as_ref(),
            destination: Some(self.to),
            service: target.and_then(Target::service).map(|(service, _)| service),
            detail: denial.detail.clone(),
            rule: denial.rule.clone(),
            from: self.from,
            by_peer,
            chain,
        });
    }

    /// Whether the address is of a family in use here.
    fn ipv6(&self) -> bool {
        self.shared.config.ipv6
    }

    /// The workload that calls.
    fn source(&self) -> Party {
        let info = self.local.info();
        Party {
            labels: info.map_or_else(|| Party::unknown().labels, |info| info.labels.clone()),
            identity: self.local.identity(),
        }
    }

    /// What was called, for metrics: addresses at which nothing is known are without number, and one edge.
    fn called_as(&self, called: &str) -> Arc<str> {
        let answer = self.shared.destinations.peek(self.to.ip());
        let known = matches!(answer, Some(Answer::Service(_) | Answer::Host(_)));
        match &*self.meaning.borrow() {
            Meaning::Clear => OUTSIDE.into(),
            Meaning::Refused(..) if !known => NOWHERE.into(),
            Meaning::Service(_) | Meaning::Direct(_) | Meaning::Refused(..) => called.into(),
        }
    }

    /// What was called, for the log: the service where it is known, otherwise the address.
    fn called(&self, target: Option<&Target>) -> String {
        if let Some((service, _)) = target.and_then(Target::service) {
            return service.host();
        }
        match self.shared.destinations.peek(self.to.ip()) {
            Some(Answer::Service(view)) => view.service.name.host(),
            _ => self.to.ip().to_string(),
        }
    }
}
