//! Plaintext from outside the mesh: published ports, and 15006 of a namespace that is captured as a whole.
//!
//! The caller proved nothing, so the policy is asked about nobody; STRICT refuses with a reason.

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc, time::Instant};

use bytes::BytesMut;
use leno_http::{Incoming, ServerError};
use leno_telemetry::counters::{Counter, Gauge, Limit};
use leno_types::{AppProtocol, Priority, Refusal, ports};
use tokio::net::TcpStream;

use super::{Admission, Conn, Verified, bytes as raw, requests};
use crate::{
    app,
    clusters::Learned,
    clusters::Spoken as Learnt,
    counters::{Open, count, refused},
    detect::{self, First, Spoken},
    http_server,
    metadata::To,
    outbound::{Denial, reset, tls_to_http},
    outsiders::Visit,
    places::Place,
    record::{EdgeCache, Party},
    splice::{Carried, End, splice},
    state::{Local, Shared},
};

/// What a plaintext connection came to.
pub(crate) enum Arrival {
    /// A published port of this workload.
    Published(Rc<Local>, u16),
    /// The inbound listener of a wholly captured namespace.
    Captured,
}

/// Serves one plaintext connection to its end.
pub(crate) async fn serve(
    shared: Rc<Shared>,
    arrival: Arrival,
    stream: TcpStream,
    from: SocketAddr,
    _place: Option<Place>,
) {
    count(Counter::InboundConnections);
    let _open = Open::new(Gauge::OpenConnections);
    if let Err(error) = connection(&shared, arrival, stream, from).await {
        tracing::debug!(%from, %error, "a connection from outside the mesh ended");
    }
}

async fn connection(
    shared: &Rc<Shared>,
    arrival: Arrival,
    stream: TcpStream,
    from: SocketAddr,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let own = stream.local_addr()?;
    let at = SocketAddr::new(own.ip().to_canonical(), own.port());
    let captured = matches!(arrival, Arrival::Captured);
    let found = match arrival {
        Arrival::Published(local, published) => {
            let port = local
                .info()
                .and_then(|info| info.published(published).map(|port| port.port));
            port.map(|port| (local, SocketAddr::new(at.ip(), port)))
        }
        Arrival::Captured => {
            let original = (shared.config.original_destination)(&stream)?.unwrap_or(at);
            let original = SocketAddr::new(original.ip().to_canonical(), original.port());
            // A connection to the listener itself asks for nothing.
            let nothing = ports::is_reserved(original.port()) && original.port() == at.port();
            let local = shared.captured(original).filter(|_| !nothing);
            local.map(|local| (local, original))
        }
    };
    let Some((local, destination)) = found else {
        reset(&stream);
        return Ok(());
    };
    if local.app.made(from, destination) {
        refused(Refusal::Loop);
        reset(&stream);
        return Ok(());
    }
    let stop = local.stop.child();
    let visit = Visit::begin(shared, local.uid, destination.port(), from.ip());
    let conn = Rc::new(Conn {
        shared: Rc::clone(shared),
        local,
        peer: None,
        from,
        at: destination,
        leno: false,
        begun: Instant::now(),
        stop,
        visit: Some(visit),
        known: RefCell::default(),
    });
    match passes(&conn).filter(|_| captured) {
        Some(admission) => Box::pin(pass(&conn, stream, &admission)).await,
        None => run(&conn, stream).await,
    }
}

/// Whether a connection in a captured namespace goes past its workload, to a port of which the mesh knows nothing, for as
/// long as the workload takes plaintext there.
fn passes(conn: &Conn) -> Option<Rc<Admission>> {
    let info = conn.local.info()?;
    let port = conn.at.port();
    if info.port(port).is_some() || super::judge_plaintext(&info, port).is_err() {
        return None;
    }
    let admission = Admission::past(port, &conn.stop);
    conn.local.admit(&admission);
    Some(admission)
}

/// What the mesh knows nothing of is none of its business: on it goes, as it came.
async fn pass(conn: &Conn, mut stream: TcpStream, admission: &Admission) -> io::Result<()> {
    let shared = &conn.shared;
    let mut other = app::pass_on(shared, conn.from, conn.at).await?;
    visited(conn, Ok(()));
    let carried = Carried::default();
    let (idle, ending) = (shared.config.limits.stream_idle, admission.ending.thrown());
    match splice(&mut stream, &mut other, &carried, idle, ending).await {
        End::Closed => {}
        End::Cancelled => {
            let why = admission.why_ended();
            raw::refused(conn, None, &Denial::new(Refusal::StreamEnded, why));
            reset(&stream);
        }
        _ => reset(&stream),
    }
    Ok(())
}

/// Asks the policy about a caller without an identity.
fn admit(conn: &Conn, http2: bool) -> Result<Verified, Denial> {
    let info = conn.info()?;
    let port = conn.at.port();
    // Asked before whether there is such a port: who has no identity is not told.
    super::judge_plaintext(&info, port)?;
    let of = info.port(port).ok_or_else(|| {
        let why = format!("{} serves no port {port} any more", info.own.name);
        Denial::new(Refusal::ServiceGone, why)
    })?;
    let admission = Admission::ask(&conn.local, &info, None, Some(&conn.stop), port)?;
    let service = of.services.first();
    Ok(Verified {
        to: To {
            address: conn.at,
            service: service.map(|of| (of.service.clone(), of.port)),
            http2,
            can_retry: false,
            retried: false,
        },
        protocol: of.protocol,
        caller: Party::unknown(),
        admission,
        key: conn.key(),
        edges: EdgeCache::default(),
        generation: info.generation,
    })
}

async fn run(conn: &Rc<Conn>, mut stream: TcpStream) -> io::Result<()> {
    let mut prefix = BytesMut::new();
    let verified = match admit(conn, false) {
        Ok(verified) => verified,
        Err(denial) => return refuse(conn, stream, prefix, denial).await,
    };
    match verified.protocol {
        Some(AppProtocol::Tcp | AppProtocol::Tls) => {
            if let Some(denial) = conn.shared.load.denies(|| Priority::Low) {
                close(conn, &stream, &verified, &denial);
                return Ok(());
            }
            let (to, source) = conn.program(verified.to.address);
            let app = conn.local.dial_app(&conn.shared, to, source);
            match app.await {
                Ok((app, _dialled)) => {
                    let said = BytesMut::new();
                    carry(conn, &verified, stream, app, prefix, said).await;
                }
                Err(error) => close(conn, &stream, &verified, &requests::denial(&error)),
            }
            Ok(())
        }
        Some(AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc) => {
            let word = detect::caller(&mut stream, &mut prefix);
            match said(conn, &verified, word).await {
                Some(spoken) => declared_http(conn, stream, prefix, &verified, spoken?).await,
                None => {
                    unsaid(conn, &stream, &verified);
                    Ok(())
                }
            }
        }
        None => run_undeclared(conn, stream, prefix, &verified).await,
    }
}

/// Declared is declared: nothing gets past the rules of HTTP by not being HTTP.
async fn declared_http(
    conn: &Rc<Conn>,
    stream: TcpStream,
    prefix: BytesMut,
    verified: &Verified,
    spoken: Spoken,
) -> io::Result<()> {
    match spoken {
        Spoken::Http1 | Spoken::Connect => http1(conn, stream, prefix).await,
        Spoken::Http2 => http2(conn, stream, prefix).await,
        Spoken::Bytes => {
            let error = Box::pin(http_server::reject(&conn.shared, stream, prefix, None)).await;
            Err(malformed(conn, error))
        }
        Spoken::Tls => {
            close(conn, &stream, verified, &tls_to_http(conn.at.port()));
            Ok(())
        }
        Spoken::Nothing => Ok(()),
    }
}

// What follows the first word is in a place of its own: of connections there may be many that never say one.

/// Carries bytes, what was read already first.
async fn carry(
    conn: &Conn,
    verified: &Verified,
    mut stream: TcpStream,
    mut app: TcpStream,
    prefix: BytesMut,
    said: BytesMut,
) {
    if verified.admission.revoked.get() {
        // While it waited for the first word, or for the program.
        return unsaid(conn, &stream, verified);
    }
    visited(conn, Ok(()));
    let carried = raw::carry_plain(conn, verified, &mut stream, &mut app, prefix, said);
    Box::pin(carried).await;
}

async fn http1(conn: &Rc<Conn>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    Box::pin(serve_http1(conn, stream, prefix)).await
}

async fn http2(conn: &Rc<Conn>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    Box::pin(serve_http2(conn, stream, prefix)).await
}

/// Waits for the first word on a connection; `None` when newer ones needed its place, or a newer policy ended it.
async fn said<T>(conn: &Conn, verified: &Verified, word: impl Future<Output = T>) -> Option<T> {
    let ceiling = conn.shared.config.limits.silent_connections;
    let word = conn
        .shared
        .silent
        .run(ceiling, Limit::SilentConnections, word);
    tokio::select! {
        biased;
        () = verified.admission.ending.thrown() => None,
        word = word => word,
    }
}

/// Ends a connection before a word of it went on.
fn unsaid(conn: &Conn, stream: &TcpStream, verified: &Verified) {
    if verified.admission.revoked.get() {
        let why = verified.admission.why_ended();
        raw::refused(
            conn,
            Some(verified),
            &Denial::new(Refusal::StreamEnded, why),
        );
    }
    reset(stream);
}

/// Refuses without a word that the caller could read.
fn close(conn: &Conn, stream: &TcpStream, verified: &Verified, denial: &Denial) {
    raw::refused(conn, Some(verified), denial);
    reset(stream);
}

/// The program is dialled at accept, and whoever speaks first decides (decision 14).
async fn run_undeclared(
    conn: &Rc<Conn>,
    mut stream: TcpStream,
    mut prefix: BytesMut,
    verified: &Verified,
) -> io::Result<()> {
    let learned: Rc<Learned> = conn.local.app.learned();
    let port = conn.at.port();
    if learned.get(port) == Some(Learnt::Http) {
        let patience = conn.shared.config.limits.detect_patience;
        match detect::caller_within(&mut stream, &mut prefix, patience).await? {
            Some(Spoken::Http1) => return http1(conn, stream, prefix).await,
            Some(Spoken::Http2) => return http2(conn, stream, prefix).await,
            // What follows it would get past the rules of HTTP: see `exchange`.
            Some(Spoken::Connect) => return http1(conn, stream, prefix).await,
            Some(Spoken::Nothing) => return Ok(()),
            Some(Spoken::Tls | Spoken::Bytes) | None => {}
        }
    }
    if let Some(denial) = conn.shared.load.denies(|| Priority::Low) {
        return refuse(conn, stream, prefix, denial).await;
    }
    let (to, source) = conn.program(verified.to.address);
    let dialled = conn.local.dial_app(&conn.shared, to, source);
    let (mut app, _dialled) = match dialled.await {
        Ok(dialled) => dialled,
        Err(error) => {
            let denial = requests::denial(&error);
            return refuse(conn, stream, prefix, denial).await;
        }
    };
    let first = detect::first(&mut stream, &mut prefix, &mut app);
    let Some(first) = said(conn, verified, first).await else {
        unsaid(conn, &stream, verified);
        return Ok(());
    };
    match first? {
        First::Caller(spoken @ (Spoken::Http1 | Spoken::Http2)) => {
            learned.set(port, Learnt::Http);
            drop((app, _dialled));
            if spoken == Spoken::Http1 {
                http1(conn, stream, prefix).await
            } else {
                http2(conn, stream, prefix).await
            }
        }
        First::Caller(Spoken::Connect) => {
            drop((app, _dialled));
            http1(conn, stream, prefix).await
        }
        First::Caller(_) => {
            let said = BytesMut::new();
            carry(conn, verified, stream, app, prefix, said).await;
            Ok(())
        }
        First::Other(said) => {
            learned.server_said(port, &said);
            carry(conn, verified, stream, app, prefix, said).await;
            Ok(())
        }
    }
}

/// Refuses in the caller's protocol where it speaks HTTP; otherwise by a reset.
async fn refuse(
    conn: &Rc<Conn>,
    mut stream: TcpStream,
    mut prefix: BytesMut,
    denial: Denial,
) -> io::Result<()> {
    let wait = conn.shared.config.limits.refusal_wait;
    match detect::caller_within(&mut stream, &mut prefix, wait).await? {
        // Each request is asked about anew, so the refusal is the same, or has become history.
        Some(Spoken::Http1 | Spoken::Connect) => http1(conn, stream, prefix).await,
        Some(Spoken::Http2) => http2(conn, stream, prefix).await,
        _ => {
            visited(conn, Err(&denial));
            raw::refused(conn, None, &denial);
            reset(&stream);
            Ok(())
        }
    }
}

/// Counts a call of somebody outside the mesh: whom STRICT would cut off, or has.
fn visited(conn: &Conn, admitted: Result<(), &Denial>) {
    let Some(visit) = &conn.visit else {
        return;
    };
    match admitted {
        Ok(()) => visit.called(),
        Err(denial) if denial.reason == Refusal::PlaintextRefused => visit.refused(),
        Err(_) => {}
    }
}

/// One request of a caller from outside.
async fn exchange(
    conn: &Rc<Conn>,
    admitted: &RefCell<Option<Rc<Verified>>>,
    mut incoming: Incoming<'_>,
) {
    crate::metadata::strip(&mut incoming.head.fields);
    let request = requests::Request::of(conn, &mut incoming);
    let http2 = incoming.head.version == leno_http::Version::Http2;
    let known = admitted.borrow().clone();
    let current = conn.local.info().map_or(0, |info| info.generation);
    let verified = match known {
        Some(verified) if verified.generation == current && !verified.admission.revoked.get() => {
            Ok(verified)
        }
        _ => admit(conn, http2).map(Rc::new),
    };
    let connect = incoming.head.method == http::Method::CONNECT && incoming.head.protocol.is_none();
    let verified = verified.and_then(|verified| {
        if connect {
            let why = "a published port is no proxy (one that is has its port declared as tcp)";
            return Err(Denial::new(Refusal::ClientProtocol, why));
        }
        Ok(verified)
    });
    visited(conn, verified.as_ref().map(|_| ()));
    match verified {
        Ok(verified) => {
            admitted.replace(Some(Rc::clone(&verified)));
            requests::carry(conn, &verified, request, &mut Some(incoming)).await;
        }
        Err(denial) => {
            Box::pin(requests::refuse(conn, incoming, request, None, denial)).await;
        }
    }
}

async fn serve_http1(conn: &Rc<Conn>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    let admitted = RefCell::default();
    let exchange = async |incoming: Incoming<'_>| exchange(conn, &admitted, incoming).await;
    let (shared, stop) = (&conn.shared, &conn.stop);
    let served = http_server::http1(shared, stop, stream, prefix, None, exchange).await;
    served.map_err(|error| malformed(conn, error))
}

/// What was no request at all was answered; here it is told.
fn malformed(conn: &Conn, error: ServerError) -> io::Error {
    super::told(conn, fastrand::u64(..), &error);
    io::Error::other(error)
}

async fn serve_http2(conn: &Rc<Conn>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    let (conn_, admitted) = (Rc::clone(conn), RefCell::default());
    let exchange =
        async move |incoming: Incoming<'static>| exchange(&conn_, &admitted, incoming).await;
    let (shared, stop, exchange) = (&conn.shared, &conn.stop, Rc::new(exchange));
    let places = &conn.local.places.published;
    let name = "published-stream";
    let served = http_server::http2(shared, stop, places, stream, prefix, name, exchange).await;
    served.map_err(|error| malformed(conn, error))
}
