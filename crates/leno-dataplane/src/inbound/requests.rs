//! One request to a program of this host.

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Instant};

use leno_http::{
    CASE_FIELD, Incoming, RelayOptions, Relayed, ResponseHead, Unsent, UnsentReason, Upstream,
    relay,
};
use leno_telemetry::{EdgeId, Protocol, Reporter, RequestOutcome, counters::Gauge};
use leno_types::{AppProtocol, Priority, Refusal};

use super::{Conn, Verified, bytes};
use crate::{
    AppDial,
    app::{AppError, Exchange},
    counters::Open,
    metadata::{self, To},
    outbound::{Denial, begin_trace},
    overload::come_again,
    record::{self, Finished, LogHead, Party},
};

/// A request whose kept connection was stale is sent on a new one so often.
const RESENDS: usize = 3;

/// What is told of a request at its end.
pub(super) struct Request {
    /// Under which a refusal is found again.
    pub(super) id: u64,
    pub(super) begun: Instant,
    pub(super) protocol: Protocol,
    pub(super) grpc: bool,
    pub(super) switches: bool,
    pub(super) log: Option<Box<LogHead>>,
}

impl Request {
    pub(super) fn of(conn: &Conn, incoming: &mut Incoming<'_>) -> Self {
        let id = fastrand::u64(..);
        // Only a caller in the mesh is told who refused, and why.
        if conn.peer.is_some() {
            let reply = &mut incoming.reply;
            reply.label_refusals(metadata::REFUSED, conn.local.name(), id);
        }
        let head = &incoming.head;
        Self {
            id,
            begun: Instant::now(),
            protocol: record::protocol_of(head),
            grpc: head.is_grpc(),
            switches: head.asks_to_switch(),
            log: conn.shared.record.log_head(head),
        }
    }
}

/// Serves one stream of a connection from a peer.
pub(super) async fn serve(conn: &Rc<Conn>, mut incoming: Incoming<'static>) {
    let connect = incoming.head.method == http::Method::CONNECT && incoming.head.protocol.is_none();
    if connect {
        return Box::pin(bytes::serve(conn, incoming)).await;
    }
    if !conn.leno {
        let why = "a peer of ALPN h2 opens CONNECT streams only";
        let denial = Denial::new(Refusal::ClientProtocol, why);
        let request = Request::of(conn, &mut incoming);
        return Box::pin(refuse(conn, incoming, request, None, denial)).await;
    }
    let verified = match incoming.head.fields.get(metadata::TO) {
        Some(to) => conn.verified(to, incoming.head.fields.get(metadata::FROM)),
        None => Err(super::forged("the request names no destination".into())),
    };
    metadata::strip_but_case(&mut incoming.head.fields);
    let mut request = Request::of(conn, &mut incoming);
    match verified {
        Ok(verified) => {
            if request.protocol == Protocol::Http2 && !verified.to.http2 {
                request.protocol = Protocol::Http1;
            }
            carry(conn, &verified, request, &mut Some(incoming)).await;
        }
        Err(denial) => Box::pin(refuse(conn, incoming, request, None, denial)).await,
    }
}

/// Carries a request, admitted already, to the program. It is in `slot` as long as nobody else has it: a request by
/// value would be in the future of each function around the one that takes it.
pub(super) async fn carry(
    conn: &Rc<Conn>,
    verified: &Verified,
    request: Request,
    slot: &mut Option<Incoming<'_>>,
) {
    let _open = Open::new(Gauge::OpenRequests);
    let load = &conn.shared.load;
    if let Some(denial) = load.denies(|| priority(conn, verified, slot)) {
        return refuse_slot(conn, slot, request, Some(verified), denial).await;
    }
    let http2 = match verified.protocol {
        Some(AppProtocol::Http) => false,
        Some(AppProtocol::Http2 | AppProtocol::Grpc) => true,
        Some(AppProtocol::Tcp | AppProtocol::Tls) | None => verified.to.http2,
    };
    if request.grpc && !http2 {
        let why = "the program speaks HTTP/1 only, gRPC needs HTTP/2: declare appProtocol grpc";
        let denial = Denial::new(Refusal::UpstreamProtocol, why);
        return refuse_slot(conn, slot, request, Some(verified), denial).await;
    }
    if let Some(incoming) = slot {
        begin_trace(&mut incoming.head);
    }
    let (to, source) = conn.program(verified.to.address);
    let port = conn.local.app_port(&conn.shared, to.port());
    let begun = port.begin(&conn.shared, (to, source), http2, verified.key, || {
        priority(conn, verified, slot)
    });
    // Kept when it is sent once more: whoever had a place need not ask for one again.
    let exchange = match begun.await {
        Ok(exchange) => exchange,
        Err(error) => {
            let denial = denial(&error);
            return refuse_slot(conn, slot, request, Some(verified), denial).await;
        }
    };
    let mut again = 0;
    loop {
        let sent = if http2 {
            send_h2(conn, verified, &request, slot, &exchange).await
        } else {
            send_h1(conn, verified, &request, slot, &exchange).await
        };
        let denial = match sent {
            Sent::Done(relayed, counted) => {
                return finished(conn, verified, request, &relayed, counted);
            }
            Sent::Again(_) if again < RESENDS => {
                again += 1;
                continue;
            }
            // It may have said just then how many it takes; who refuses for another reason is not asked on and on.
            Sent::Refused if again < RESENDS => {
                again = RESENDS;
                continue;
            }
            Sent::Again(why) => Denial::new(Refusal::UpstreamReset, why),
            Sent::Refused => Denial::new(Refusal::UpstreamReset, "the program refused the stream"),
            Sent::Failed(denial) => denial,
        };
        drop(exchange);
        return refuse_slot(conn, slot, request, Some(verified), denial).await;
    }
}

/// How important a request is.
fn priority(conn: &Conn, verified: &Verified, slot: &Option<Incoming<'_>>) -> Priority {
    let head = slot.as_ref().map(|incoming| &incoming.head);
    head.map_or(Priority::Default, |head| conn.priority(verified, head))
}

async fn refuse_slot(
    conn: &Conn,
    slot: &mut Option<Incoming<'_>>,
    request: Request,
    verified: Option<&Verified>,
    denial: Denial,
) {
    if let Some(incoming) = slot.take() {
        Box::pin(refuse(conn, incoming, request, verified, denial)).await;
    }
}

/// How one try ended.
enum Sent {
    /// The exchange is over; whether it was counted already.
    Done(Relayed, bool),
    /// Nothing of it had an effect: the connection was of no use.
    Again(&'static str),
    /// Nothing of it had an effect: the program did not take it.
    Refused,
    /// The program cannot be reached.
    Failed(Denial),
}

async fn send_h1(
    conn: &Rc<Conn>,
    verified: &Verified,
    request: &Request,
    slot: &mut Option<Incoming<'_>>,
    exchange: &Exchange<'_>,
) -> Sent {
    let shared = &conn.shared;
    let (address, source) = conn.program(verified.to.address);
    let lease = match conn.local.app_h1(shared, address, source, exchange).await {
        Ok(lease) => lease,
        Err(error) => return Sent::Failed(denial(&error)),
    };
    if let Some(incoming) = slot {
        mark_hop(conn, lease.dialled.address(), incoming);
    }
    let mut sent = relayed(conn, verified, request, slot, Upstream::H1(lease.h1)).await;
    if let Sent::Done(relayed, _) = &mut sent
        && let Some(h1) = relayed.reusable.take()
    {
        exchange.keep(shared, h1, lease.dialled);
    }
    sent
}

async fn send_h2(
    conn: &Rc<Conn>,
    verified: &Verified,
    request: &Request,
    slot: &mut Option<Incoming<'_>>,
    exchange: &Exchange<'_>,
) -> Sent {
    if let Some(incoming) = slot {
        incoming.head.fields.remove(CASE_FIELD);
    }
    let (to, source) = conn.program(verified.to.address);
    let h2 = match conn.local.app_h2(&conn.shared, to, source, exchange).await {
        Ok(h2) => h2,
        Err(error) => return Sent::Failed(denial(&error)),
    };
    relayed(conn, verified, request, slot, Upstream::H2(h2)).await
}

async fn relayed(
    conn: &Conn,
    verified: &Verified,
    request: &Request,
    slot: &mut Option<Incoming<'_>>,
    upstream: Upstream,
) -> Sent {
    let counted = Cell::new(false);
    let mut on_response = |head: &mut ResponseHead| {
        metadata::strip(&mut head.fields);
        if request.switches && (head.status == 101 || (200..300).contains(&head.status)) {
            counted.set(true);
            let outcome = RequestOutcome {
                response_code: head.status,
                grpc_status: None,
                refusal: None,
                duration: request.begun.elapsed(),
                first_byte: Some(request.begun.elapsed()),
                request_bytes: 0,
                response_bytes: 0,
            };
            let edge = edge(conn, Some(verified), request.protocol);
            conn.shared.record.count_request(edge, &outcome);
        }
    };
    let options = RelayOptions {
        request_timeout: None,
        idle_timeout: Some(conn.shared.config.limits.exchange_idle),
        on_response: &mut on_response,
        declined: &|_| false,
        cancel: &verified.admission.ending.cancel,
    };
    let Some(incoming) = slot.take() else {
        return Sent::Again("the request was sent already");
    };
    match relay(incoming, upstream, options).await {
        Ok(relayed) => Sent::Done(relayed, counted.get()),
        Err(Unsent { incoming, why }) => {
            *slot = Some(incoming);
            unsent(why)
        }
    }
}

fn unsent(why: UnsentReason) -> Sent {
    match why {
        UnsentReason::RefusedStream | UnsentReason::Declined => Sent::Refused,
        UnsentReason::GoAway | UnsentReason::ConnectionDead | UnsentReason::StaleConnection => {
            Sent::Again("the program closed every connection at once")
        }
    }
}

/// Where capture could lead a connection of ours back to us, the request says which connection it is on.
fn mark_hop(conn: &Conn, address: Option<SocketAddr>, incoming: &mut Incoming<'_>) {
    incoming.head.fields.remove(metadata::HOP);
    if conn.local.app.dial() == AppDial::Marked
        && conn.shared.config.mark
        && let Some(address) = address
    {
        let fields = &mut incoming.head.fields;
        fields.push(metadata::HOP, address.to_string());
    }
}

/// Why a program could not be reached.
pub(super) fn denial(error: &AppError) -> Denial {
    match error {
        AppError::Connect { source, .. } | AppError::ConnectFrom { source, .. } => Denial::new(
            Refusal::UpstreamConnectFailure,
            format!("{error}: {source}"),
        ),
        AppError::Overflow { .. } => Denial::new(Refusal::Overflow, error.to_string()),
        AppError::Shed { .. } => Denial::new(Refusal::Overload, error.to_string()),
    }
}

/// The edge of this caller to this workload.
pub(super) fn edge(conn: &Conn, verified: Option<&Verified>, protocol: Protocol) -> EdgeId {
    let info = conn.local.info();
    let generation = info.as_ref().map_or(0, |info| info.generation);
    let mtls = conn.peer.is_some();
    let record = &conn.shared.record;
    let service = verified.and_then(|verified| verified.to.service.as_ref());
    let make = || {
        let destination = Party {
            labels: info.map_or_else(|| Party::unknown().labels, |info| info.labels.clone()),
            identity: if mtls { conn.local.identity() } else { None },
        };
        let caller = match verified {
            Some(verified) => verified.caller.clone(),
            None => match conn.caller() {
                Some(identity) => Party {
                    labels: metadata::caller_labels(None, identity),
                    identity: Some(identity.clone()),
                },
                None => Party::unknown(),
            },
        };
        let service = service.map(|(service, _)| service.host().into());
        let reporter = Reporter::Destination;
        record::edge_key(reporter, &caller, &destination, service, protocol, mtls)
    };
    match verified {
        Some(verified) => {
            let service = service.map(|(service, _)| service);
            verified
                .edges
                .edge(record, generation, service, protocol, make)
        }
        None => record.edge(&make()),
    }
}

fn finished(conn: &Conn, verified: &Verified, request: Request, relayed: &Relayed, counted: bool) {
    let outcome = record::outcome_of(relayed, request.begun.elapsed(), None);
    let ended = outcome
        .refusal
        .filter(|reason| *reason == Refusal::StreamEnded);
    let noted = relayed.refused.or(ended);
    if let Some(reason) = noted {
        let denial = Denial::new(reason, reason.text());
        conn.note(request.id, &denial, Some(&verified.to));
    }
    let id = noted.map(|_| request.id);
    tell(conn, Some(verified), request, outcome, counted, id, None);
}

fn tell(
    conn: &Conn,
    verified: Option<&Verified>,
    request: Request,
    outcome: RequestOutcome,
    counted: bool,
    refusal_id: Option<u64>,
    rule: Option<&str>,
) {
    let to: Option<&To> = verified.map(|verified| &verified.to);
    // For the log alone.
    let logged = conn.shared.record.logs(&outcome).then_some(());
    let identity = logged.and(conn.peer.as_ref());
    let identity = identity.and_then(|_| conn.local.identity());
    let service = logged
        .and(to)
        .and_then(|to| to.service.as_ref())
        .map(|(service, _)| service.to_string());
    conn.shared.record.finished(&Finished {
        local: &conn.local,
        reporter: Reporter::Destination,
        edge: edge(conn, verified, request.protocol),
        protocol: request.protocol,
        outcome,
        counted,
        head: request.log,
        from: Some(conn.from),
        to: Some(conn.at),
        upstream: to.map(|to| to.address),
        service: service.as_deref(),
        route: None,
        source: conn.caller(),
        destination: identity.as_ref(),
        mtls: conn.peer.is_some(),
        refusal_id,
        rule,
    });
}

/// What was no request at all was answered; here it is told.
pub(super) fn refused(conn: &Conn, id: u64, denial: &Denial, status: u16) {
    let request = Request {
        id,
        begun: Instant::now(),
        protocol: Protocol::Http1,
        grpc: false,
        switches: false,
        log: None,
    };
    conn.note(request.id, denial, None);
    let outcome = RequestOutcome {
        response_code: status,
        ..record::refused_outcome(denial.reason, false, request.begun)
    };
    let id = Some(request.id);
    tell(conn, None, request, outcome, false, id, None);
}

/// Refuses one request: in the log, in the metrics, and to the caller. Only a caller in the mesh is told details.
pub(super) async fn refuse(
    conn: &Conn,
    incoming: Incoming<'_>,
    request: Request,
    verified: Option<&Verified>,
    denial: Denial,
) {
    let (id, again) = (request.id, come_again(denial.reason, request.grpc));
    conn.note(id, &denial, verified.map(|verified| &verified.to));
    let outcome = record::refused_outcome(denial.reason, request.grpc, request.begun);
    let rule = Some(denial.rule.as_str()).filter(|rule| !rule.is_empty());
    tell(conn, verified, request, outcome, false, Some(id), rule);
    let reply = incoming.reply;
    // Where there is too much to do it is told so, and decides itself.
    let no_effect = denial.reason == Refusal::UpstreamConnectFailure;
    if no_effect && verified.is_some_and(|verified| verified.to.can_retry) {
        // The calling proxy takes another endpoint.
        return reply.refuse_stream();
    }
    let answered = if conn.peer.is_some() {
        let text = format!("{} ({id:016x})", denial.detail);
        reply.refuse(denial.reason, again, &text).await
    } else {
        reply.refuse(denial.reason, again, "").await
    };
    if let Err(error) = answered {
        tracing::trace!(%error, "a refused caller did not wait for its answer");
    }
}
