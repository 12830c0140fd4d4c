//! What arrives: mutual TLS from peers at 15008, and plaintext from outside the mesh.
//!
//! accept -> who calls, whom (SNI) -> where to, verified -> may it -> program. The workload is the one whose
//! certificate was shown; a destination that is not its own is forged (decision 4).
//! Invariant: nothing reaches a program before its policy was asked about this very caller and port. In a captured
//! namespace it is asked about ports of which the mesh knows nothing, too, but only whether plaintext is let in: who may
//! call is said of ports that the workload serves.

mod bytes;
mod plain;
mod requests;
mod tunnelled;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use ::bytes::Bytes;
use leno_http::{Corked, ReadAhead, RequestHead, ServerError, server};
use leno_ir::{AccessRule, MtlsMode, ServicePortRef};
use leno_policy::Verdict;
use leno_runtime::Stop;
use leno_telemetry::counters::{Counter, Gauge, Limit};
use leno_tls::{Accepted, Alpn, Peer, verify_failure_reason};
use leno_types::{AppProtocol, Identity, Priority, Refusal, ports};
use tokio::{net::TcpStream, sync::Notify, time::sleep_until};

use crate::{
    counters::{Open, count, handshake_failed, limit},
    ending::Ending,
    metadata::{self, To},
    outbound::Denial,
    outsiders::Visit,
    overload,
    record::{EdgeCache, Party, Refused},
    state::{Described, Local, Shared, instant_of},
    why::Chain,
};

pub(crate) use plain::{Arrival, serve as serve_plain};

/// A caller's admission to one port of a workload. All its streams end when a newer policy denies it, or some time after
/// the workload left.
pub(crate) struct Admission {
    caller: Option<Identity>,
    port: u16,
    /// Ends what was admitted.
    pub(crate) ending: Ending,
    revoked: Cell<bool>,
    /// Whether it is for a port that the workload serves, or past it for one of which the mesh knows nothing.
    served: bool,
    /// The caller's connection, where it is in clear: nothing begins on it once plaintext is refused.
    in_clear: Option<Stop>,
}

impl Admission {
    /// Asks the policies about a caller on a connection of the mesh, or `in_clear` on one from outside it.
    ///
    /// # Errors
    /// [`Denial`], with the rule that decided.
    pub(crate) fn ask(
        local: &Local,
        info: &Described,
        caller: Option<&Identity>,
        in_clear: Option<&Stop>,
        port: u16,
    ) -> Result<Rc<Self>, Denial> {
        if in_clear.is_some() {
            judge_plaintext(info, port)?;
        }
        judge(&info.own.access, caller, port)?;
        let admission = Rc::new(Self {
            caller: caller.cloned(),
            port,
            ending: Ending::default(),
            revoked: Cell::new(false),
            served: true,
            in_clear: in_clear.cloned(),
        });
        local.admit(&admission);
        Ok(admission)
    }

    /// In clear past the workload: ends when it takes plaintext no more, or serves the port itself.
    fn past(port: u16, connection: &Stop) -> Rc<Self> {
        Rc::new(Self {
            caller: None,
            port,
            ending: Ending::default(),
            revoked: Cell::new(false),
            served: false,
            in_clear: Some(connection.clone()),
        })
    }

    /// Why its streams were ended.
    fn why_ended(&self) -> &'static str {
        match self.revoked.get() {
            true => "a newer policy ended it",
            false => "the workload left the mesh, and the grace of what was open is over",
        }
    }

    /// Looks at newer policies; says whether the admission goes on.
    pub(crate) fn review(&self, info: &Described) -> bool {
        let connection = self.in_clear.as_ref();
        let refused = connection.filter(|_| judge_plaintext(info, self.port).is_err());
        let allowed =
            || !self.served || judge(&info.own.access, self.caller.as_ref(), self.port).is_ok();
        let goes_on =
            refused.is_none() && info.port(self.port).is_some() == self.served && allowed();
        if let Some(connection) = refused {
            connection.trigger();
        }
        if !goes_on {
            self.revoked.set(true);
            self.ending.throw();
        }
        goes_on
    }
}

/// Whether a caller from outside the mesh may speak plaintext to a port at all.
fn judge_plaintext(info: &Described, port: u16) -> Result<(), Denial> {
    let mtls = info.own.mtls_at(port);
    match mtls.mode {
        MtlsMode::Permissive => Ok(()),
        MtlsMode::Strict => Err(Denial {
            reason: Refusal::PlaintextRefused,
            detail: format!(
                "port {port} of {} takes mutual TLS only (STRICT)",
                info.own.name
            ),
            rule: mtls
                .provenance
                .as_ref()
                .map_or_else(String::new, |of| crate::outbound::rule_name(of, "")),
            chain: Some(Box::new(Chain {
                rule: mtls.provenance.clone(),
                ..Chain::default()
            })),
        }),
    }
}

fn judge(rules: &[AccessRule], caller: Option<&Identity>, port: u16) -> Result<(), Denial> {
    match leno_policy::authorize(rules, caller, port) {
        Verdict::Allowed { .. } => Ok(()),
        Verdict::Denied { by, because } => {
            let who = caller.map_or("a caller without an identity", Identity::as_str);
            Err(Denial {
                reason: Refusal::Denied,
                detail: format!("{because}: {who} to port {port}"),
                rule: by.map_or_else(String::new, rule_name),
                chain: Some(Box::new(Chain {
                    rule: by.map(|rule| rule.provenance.clone()),
                    allowing: match by {
                        Some(_) => Vec::new(),
                        None => Chain::not_allowed(rules),
                    },
                    ..Chain::default()
                })),
            })
        }
    }
}

fn rule_name(rule: &AccessRule) -> String {
    crate::outbound::rule_name(&rule.provenance, "")
}

/// What strangers may have open at once: handshakes, or connections on which nothing was said yet. The oldest makes
/// room, so that who is at it does not wait behind who is not.
#[derive(Default)]
pub(crate) struct Strangers {
    open: RefCell<VecDeque<Rc<Notify>>>,
    told: Cell<Option<Instant>>,
}

impl Strangers {
    /// Whether one of them may have a line in the log: they are without number, and it has one a second for them.
    fn may_be_told_of(&self) -> bool {
        const EVERY: Duration = Duration::from_secs(1);
        let now = Instant::now();
        let due = self.told.get().is_none_or(|told| now >= told + EVERY);
        if due {
            self.told.set(Some(now));
        }
        due
    }

    /// Runs `work`; `None` when it had to make room for newer ones.
    async fn run<T>(
        &self,
        ceiling: usize,
        which: Limit,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let out = Rc::new(Notify::new());
        {
            let mut open = self.open.borrow_mut();
            if open.len() >= ceiling.max(1)
                && let Some(oldest) = open.pop_front()
            {
                limit(which);
                oldest.notify_one();
            }
            open.push_back(Rc::clone(&out));
        }
        let _place = Place {
            of: self,
            out: &out,
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = out.notified() => None,
        }
    }
}

struct Place<'a> {
    of: &'a Strangers,
    out: &'a Rc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self.of.open.borrow_mut();
        open.retain(|other| !Rc::ptr_eq(other, self.out));
    }
}

/// One connection from a peer.
pub(crate) struct Conn {
    pub(crate) shared: Rc<Shared>,
    pub(crate) local: Rc<Local>,
    /// Who calls; `None` from outside the mesh.
    pub(crate) peer: Option<Peer>,
    pub(crate) from: SocketAddr,
    /// The address it came to.
    pub(crate) at: SocketAddr,
    /// Whether private fields are believed.
    leno: bool,
    /// When it stood.
    begun: Instant,
    /// Nothing begins on it any more.
    stop: Stop,
    /// As it counts among callers from outside the mesh.
    visit: Option<Visit>,
    known: RefCell<Vec<Known>>,
}

/// `x-leno-to` and `x-leno-from` as they came, and what they mean here.
type Known = (Box<[u8]>, Option<Box<[u8]>>, Rc<Verified>);

/// A destination on this connection that was verified and admitted.
pub(crate) struct Verified {
    pub(crate) to: To,
    /// What the program's port is declared to speak.
    pub(crate) protocol: Option<AppProtocol>,
    pub(crate) caller: Party,
    pub(crate) admission: Rc<Admission>,
    /// The same for everything of this caller.
    pub(crate) key: u64,
    pub(crate) edges: EdgeCache,
    generation: u64,
}

impl Conn {
    /// Who calls.
    pub(crate) fn caller(&self) -> Option<&Identity> {
        self.peer.as_ref().map(|peer| &peer.identity)
    }

    /// Where the program is dialled that was asked for at `to`, and as which caller; `None`: as the proxy. What came by
    /// IPv6 cannot be spoken to by IPv4: then the address it came to is the program's.
    fn program(&self, to: SocketAddr) -> (SocketAddr, Option<IpAddr>) {
        let source = self.local.source_of(self.from);
        match source {
            Some(source) if source.is_ipv4() != to.is_ipv4() => {
                (SocketAddr::new(self.at.ip(), to.port()), Some(source))
            }
            _ => (to, source),
        }
    }

    /// The destination that the private fields name, verified and admitted; remembered for the next request.
    fn verified(&self, to: &[u8], from: Option<&[u8]>) -> Result<Rc<Verified>, Denial> {
        /// So many destinations of one connection are remembered.
        const CEILING: usize = 32;
        let info = self.info()?;
        let mut known = self.known.borrow_mut();
        let found = known.iter().find(|(known_to, known_from, verified)| {
            **known_to == *to
                && known_from.as_deref() == from
                && verified.generation == info.generation
                && !verified.admission.revoked.get()
        });
        if let Some((.., verified)) = found {
            return Ok(Rc::clone(verified));
        }
        let parsed = To::read(to).ok_or_else(|| {
            let shown = String::from_utf8_lossy(to.get(..to.len().min(64)).unwrap_or_default());
            forged(format!("\"{shown}\" is no destination"))
        })?;
        let verified = Rc::new(self.verify(&info, parsed, from)?);
        known.retain(|(.., verified)| {
            verified.generation == info.generation && !verified.admission.revoked.get()
        });
        if known.len() >= CEILING {
            known.clear();
        }
        known.push((to.into(), from.map(Into::into), Rc::clone(&verified)));
        Ok(verified)
    }

    /// Verifies a destination against connection and workload, and asks the policy.
    fn verify(
        &self,
        info: &Described,
        mut to: To,
        from: Option<&[u8]>,
    ) -> Result<Verified, Denial> {
        let (ip, port) = (to.address.ip().to_canonical(), to.address.port());
        if ip != self.at.ip() && !info.own.addresses.contains(&ip) {
            return Err(forged(format!("{ip} is no address of {}", info.own.name)));
        }
        if ports::is_reserved(port) || port == self.shared.config.hbone_port {
            return Err(forged(format!(
                "{port} is a port of the mesh's own proxies"
            )));
        }
        let of = info
            .port(port)
            .ok_or_else(|| forged(format!("{} serves no port {port}", info.own.name)))?;
        let admission = Admission::ask(&self.local, info, self.caller(), None, port)?;
        let caller = match self.caller() {
            Some(identity) => {
                let ceiling = self.shared.config.limits.caller_names;
                let callers = &self.shared.callers;
                let from = from.filter(|from| callers.has_room(identity, from, ceiling));
                Party {
                    labels: metadata::caller_labels(from, identity),
                    identity: Some(identity.clone()),
                }
            }
            None => Party::unknown(),
        };
        // A name in metrics and log: one that the port does not have would be of the caller's making.
        to.service = to.service.filter(|(service, port)| {
            let has = |own: &ServicePortRef| own.service == *service && own.port == *port;
            of.services.iter().any(has)
        });
        Ok(Verified {
            to,
            protocol: of.protocol,
            caller,
            admission,
            key: self.key(),
            edges: EdgeCache::default(),
            generation: info.generation,
        })
    }

    /// Tells callers apart: by whom they proved to be, otherwise by their address.
    fn key(&self) -> u64 {
        match self.caller() {
            Some(identity) => self.shared.load.key(identity),
            None => self
                .shared
                .load
                .key(&overload::neighbourhood(self.from.ip())),
        }
    }

    /// How important a request on this connection is.
    fn priority(&self, verified: &Verified, head: &RequestHead) -> Priority {
        if self.peer.is_none() || verified.to.retried {
            return Priority::Low;
        }
        overload::priority_of(head)
    }

    fn info(&self) -> Result<Rc<Described>, Denial> {
        self.local.info().ok_or_else(|| {
            let why = "this proxy does not know the workload any more";
            Denial::new(Refusal::ServiceGone, why)
        })
    }

    /// Notes a refusal under the id that the caller is told.
    fn note(&self, id: u64, denial: &Denial, destination: Option<&To>) {
        let service = destination.and_then(|to| to.service.as_ref());
        let mut chain = denial.chain.as_deref().cloned().unwrap_or_default();
        chain.called = service.cloned();
        self.shared.record.refuse(Refused {
            id,
            reason: denial.reason,
            workload: Some(self.local.uid),
            outbound: false,
            caller: self.caller(),
            destination: Some(destination.map_or(self.at, |to| to.address)),
            service: service.map(|(service, _)| service),
            detail: denial.detail.clone(),
            rule: denial.rule.clone(),
            from: self.from,
            by_peer: false,
            chain,
        });
    }
}

fn forged(detail: String) -> Denial {
    Denial::new(Refusal::ForgedDestination, detail)
}

/// Serves one connection from a peer to its end.
pub(crate) async fn serve(shared: Rc<Shared>, stream: TcpStream, from: SocketAddr) {
    count(Counter::MeshConnections);
    let _open = Open::new(Gauge::OpenMeshConnections);
    if let Err(error) = connection(&shared, stream, from).await {
        tracing::debug!(%from, %error, "a connection from a peer ended");
    }
}

async fn connection(shared: &Rc<Shared>, stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local_address = stream.local_addr()?;
    let at = SocketAddr::new(local_address.ip().to_canonical(), local_address.port());
    let Some(acceptor) = shared.acceptor.borrow().clone() else {
        handshake_failed("no_certificate");
        return Ok(());
    };
    let only = shared.only_local_at(at.ip());
    let stream = ReadAhead::new(stream);
    let shaking = async {
        let _open = Open::new(Gauge::OpenHandshakes);
        match &only {
            Some(uid) => acceptor.accept_at(stream, uid).await,
            None => acceptor.accept(stream).await,
        }
    };
    let ceiling = shared.config.limits.handshakes;
    let shaken = shared
        .handshakes
        .run(ceiling, Limit::Handshakes, Box::pin(shaking));
    let accepted = match shaken.await {
        Some(Ok(accepted)) => accepted,
        Some(Err(error)) => {
            let reason = verify_failure_reason(&error);
            handshake_failed(reason);
            if shared.handshakes.may_be_told_of() {
                tracing::info!(%from, reason, %error, "a TLS handshake failed");
            }
            return Err(io::Error::other(error));
        }
        None => return Ok(()),
    };
    count(Counter::Handshakes);
    let Accepted {
        stream,
        peer,
        uid,
        alpn,
    } = accepted;
    let Some(local) = uid.or(only).and_then(|uid| shared.known_local(uid)) else {
        return Err(io::Error::other("the workload is gone"));
    };
    if !matches!(alpn, Alpn::Leno1 | Alpn::H2) {
        handshake_failed("no_protocol");
        return Ok(());
    }
    // Agents and people have certificates of the same authority (CP3): theirs live longer, on disks.
    if peer.identity.service_account().is_none() {
        if peer.identity == Identity::control_plane(&peer.identity.trust_domain()) {
            // It has learned all it asks: that this workload answers at this address.
            return Ok(());
        }
        handshake_failed("no_workload");
        tracing::info!(%from, identity = %peer.identity, "a caller whose certificate is no workload's was refused");
        return Ok(());
    }
    let now = Instant::now();
    let own_end = local.certificate(now).map_or(now, |held| held.expires);
    let end = own_end.min(instant_of(peer.not_after));
    let stop = local.epoch().child();
    let conn = Rc::new(Conn {
        shared: Rc::clone(shared),
        local,
        peer: Some(peer),
        from,
        at,
        leno: alpn == Alpn::Leno1,
        begun: now,
        stop,
        visit: None,
        known: RefCell::default(),
    });
    let io = Corked::new(stream, &shared.corker);
    // In a place of its own: a handshake that goes on for long holds little.
    Box::pin(streams(&conn, io, end)).await
}

/// A peer broke HTTP/2 as a whole: nobody can be answered, and yet it is told.
fn broken(conn: &Conn, error: ServerError) -> io::Error {
    told(conn, fastrand::u64(..), &error);
    io::Error::other(error)
}

/// Tells of what was no request at all: it was answered, or its connection ended.
fn told(conn: &Conn, id: u64, error: &ServerError) {
    let Some(reason) = error.refusal() else {
        return;
    };
    let denial = Denial::new(reason, error.told());
    match error.status() {
        Some(status) => requests::refused(conn, id, &denial, status),
        None => drop(bytes::refused(conn, None, &denial)),
    }
}

/// A request of a peer was answered as malformed; the field that says so.
fn malformed(conn: &Conn, error: &ServerError) -> Option<String> {
    let (reason, id) = (error.refusal()?, fastrand::u64(..));
    told(conn, id, error);
    Some(metadata::refused_field(reason, &conn.local.name(), id))
}

/// Serves the streams of a connection until it is over. It drains when its certificates are renewed or at their end,
/// and is cut off after the grace of streams.
async fn streams<IO>(conn: &Rc<Conn>, io: IO, end: Instant) -> io::Result<()>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let http = Rc::clone(&conn.shared.http);
    let handshake = server::H2::handshake(io, http, Bytes::new());
    let mut h2 = match handshake.await {
        Ok(h2) => h2,
        Err(error) => return Err(broken(conn, error)),
    };
    h2.keep_alive();
    let of = Rc::downgrade(conn);
    h2.tell_malformed(move |error| {
        let told = of.upgrade().and_then(|conn| malformed(&conn, error));
        (metadata::REFUSED, told.unwrap_or_default())
    });
    let mut over = pin!(conn.stop.cancelled());
    let mut timer = pin!(sleep_until(end.into()));
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = &mut over, if !draining => {
                draining = true;
                h2.drain();
                let grace = conn.shared.config.stream_grace;
                timer.as_mut().reset((Instant::now() + grace).into());
            }
            next = h2.next() => match next {
                None => return Ok(()),
                Some(Err(error)) => return Err(broken(conn, error)),
                // A peer may ignore that it is told to go; its certificate has ended all the same.
                Some(Ok(incoming)) if Instant::now() >= end => {
                    limit(Limit::ConnectionAge);
                    incoming.reply.refuse_stream();
                }
                Some(Ok(incoming)) => {
                    let conn_ = Rc::clone(conn);
                    let work = async move { requests::serve(&conn_, incoming).await };
                    if conn.shared.scope.spawn("inbound-stream", work).is_err() {
                        // The request was dropped with its task: its stream is reset.
                        limit(Limit::Tasks);
                    }
                }
            },
            () = &mut timer => {
                if draining {
                    return Err(io::Error::other("streams outlived their grace"));
                }
                conn.stop.trigger();
            }
        }
    }
}
