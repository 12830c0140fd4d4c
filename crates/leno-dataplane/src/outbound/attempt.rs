//! One try of a request: a connection to the endpoint, a stream on it, the exchange.
//!
//! Tells balancer and pool how it went, and the record when the exchange is over.
//! Invariant: a try that failed had no effect, and its request is back in its slot as it was.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use leno_balance::Outcome;
use leno_http::{
    CASE_FIELD, Incoming, RelayOptions, Relayed, RequestHead, ResponseHead, Unsent, UnsentReason,
    Upstream, relay,
};
use leno_telemetry::{EdgeId, Protocol, Reporter, RequestOutcome};
use leno_tls::Alpn;
use leno_types::{AppProtocol, Refusal, WorkloadUid};
use tokio::time::timeout;

use super::{
    Denial, Flow,
    plan::{Plan, verdict},
    requests::Request,
};
use crate::{
    metadata::{self, To},
    pool::{Connection, Peer, PoolError},
    record::{self, Finished},
    target::Chosen,
    why::Tried,
};

/// Why a try failed without any effect.
pub(super) enum Failed {
    /// No connection.
    Pool(WorkloadUid, PoolError),
    /// No tunnel, at a peer that is not Leno.
    Tunnel(WorkloadUid, String, Refusal),
    /// The connection was going away.
    Going,
    /// The endpoint's proxy did not take it.
    RefusedStream(WorkloadUid),
    /// The endpoint's proxy has too much to do, or its program.
    Busy(WorkloadUid, Refusal),
    /// Out of time.
    Timeout,
}

/// Which of a request's tries one is.
pub(super) struct Try<'a> {
    /// Another endpoint can be tried after it.
    pub(super) can_retry: bool,
    /// Another one was tried before.
    pub(super) retried: bool,
    /// Whether the budget allows another one, which is then taken out of it.
    pub(super) again: &'a dyn Fn() -> bool,
}

/// An exchange that was taken, until it is told of.
pub(super) struct End {
    chosen: Chosen,
    peer: Rc<Peer>,
    connection: Rc<Connection>,
    seen: Seen,
}

/// What a peer says of its refusal: why, and under which id it tells of it.
type Told = (Refusal, Option<u64>);

/// What the response's head said.
struct Seen {
    edge: EdgeId,
    /// Why the peer refused it.
    refused: Cell<Option<Told>>,
    /// It switched, and is counted already: it may last for days.
    counted: Cell<bool>,
}

/// Sends the request to the endpoint that was chosen, and carries the exchange to its end.
pub(super) async fn send(
    flow: &Flow,
    plan: &Plan,
    request: &Request,
    chosen: Chosen,
    slot: &mut Option<Incoming<'_>>,
    attempt: &Try<'_>,
    now: Instant,
) -> Result<(Relayed, End), Failed> {
    let peer = flow.local.pool.peer(&chosen.endpoint);
    let connection = match connect(flow, plan, request, &peer, now).await {
        Ok(connection) => connection,
        Err(failed) => return Err(failed.told(chosen)),
    };
    let upstream = match upstream(flow, &chosen, &connection, request).await {
        Ok(upstream) => upstream,
        Err(failed) => return Err(failed.told(chosen)),
    };
    if let Some(incoming) = slot.as_mut().filter(|_| connection.alpn == Alpn::Leno1) {
        let head = &mut incoming.head;
        describe(flow, plan, &chosen, &peer, request, attempt, head);
    }
    let seen = Seen::new(edge(flow, plan, &chosen, &peer, request.protocol));
    let options = RelayOptions {
        request_timeout: shorter(plan.left(request.begun), plan.try_timeout),
        idle_timeout: Some(flow.shared.config.limits.exchange_idle),
        on_response: &mut |head| seen.look(flow, request, head),
        declined: &|head| {
            connection.alpn == Alpn::Leno1
                && busy(head).is_some_and(|reason| {
                    let again = (attempt.again)();
                    if again {
                        seen.refused.set(Some((reason, None)));
                    }
                    again
                })
        },
        cancel: &flow.local.ending.cancel,
    };
    let Some(incoming) = slot.take() else {
        return Err(Failed::Going);
    };
    let relayed = relay(incoming, upstream, options).await;
    peer.released();
    match relayed {
        Ok(relayed) => {
            let end = End {
                chosen,
                peer,
                connection,
                seen,
            };
            Ok((relayed, end))
        }
        Err(Unsent { mut incoming, why }) => {
            incoming.head.private.clear();
            *slot = Some(incoming);
            let failed = match (why, seen.refused.get()) {
                (UnsentReason::Declined, Some((reason, _))) => {
                    Failed::Busy(chosen.endpoint.uid, reason)
                }
                (why, _) => unsent(why, &peer, &connection, &chosen),
            };
            Err(failed.told(chosen))
        }
    }
}

/// A connection to the endpoint, in the time the request has left.
async fn connect(
    flow: &Flow,
    plan: &Plan,
    request: &Request,
    peer: &Rc<Peer>,
    now: Instant,
) -> Result<Rc<Connection>, Failed> {
    let connected = peer.connection(&flow.shared, &flow.local, now);
    let connected = match plan.left(request.begun) {
        None => connected.await,
        Some(Duration::ZERO) => return Err(Failed::Timeout),
        Some(left) => match Box::pin(timeout(left, connected)).await {
            Ok(connected) => connected,
            Err(_) => return Err(Failed::Timeout),
        },
    };
    connected.map_err(|error| Failed::Pool(peer.endpoint.uid, error))
}

impl Failed {
    /// Tells the balancer what of this is the endpoint's fault.
    fn told(self, chosen: Chosen) -> Self {
        match &self {
            Self::Busy(..) => chosen.finish(Outcome::Busy, None),
            Self::Pool(_, PoolError::NoCertificate | PoolError::Overflow)
            | Self::Going
            | Self::Timeout => drop(chosen),
            Self::Pool(
                _,
                PoolError::Connect { .. }
                | PoolError::Identity { .. }
                | PoolError::Handshake { .. },
            )
            | Self::Tunnel(..)
            | Self::RefusedStream(_) => chosen.finish(Outcome::ConnectFailure, None),
        }
        self
    }
}

/// What carries the exchange: a stream of the mesh connection, or HTTP within a tunnel at a peer that is not Leno.
async fn upstream(
    flow: &Flow,
    chosen: &Chosen,
    connection: &Connection,
    request: &Request,
) -> Result<Upstream, Failed> {
    if connection.alpn == Alpn::Leno1 {
        return Ok(Upstream::H2(connection.h2.clone()));
    }
    let http2 = match chosen.protocol {
        Some(AppProtocol::Http) => false,
        Some(AppProtocol::Http2 | AppProtocol::Grpc) => true,
        Some(AppProtocol::Tcp | AppProtocol::Tls) | None => request.http2,
    };
    let made = connection
        .foreign
        .upstream(&flow.shared, &connection.h2, chosen.address, http2);
    Box::pin(made).await.map_err(|error| {
        let reason = match &error {
            crate::foreign::TunnelError::Refused {
                reason: Some(reason),
                ..
            } => *reason,
            _ => Refusal::UpstreamConnectFailure,
        };
        Failed::Tunnel(chosen.endpoint.uid, error.to_string(), reason)
    })
}

/// Says to the peer where the request goes and from whom it comes.
fn describe(
    flow: &Flow,
    plan: &Plan,
    chosen: &Chosen,
    peer: &Peer,
    request: &Request,
    attempt: &Try<'_>,
    head: &mut RequestHead,
) {
    let service = plan.target.service();
    let (http2, can_retry, retried) = (request.http2, attempt.can_retry, attempt.retried);
    let flags = [http2, can_retry, retried];
    let to = peer.to.field(chosen.address, service, flags, || {
        To {
            address: chosen.address,
            service: service.map(|(service, port)| (service.clone(), port)),
            http2,
            can_retry,
            retried,
        }
        .write()
    });
    head.private.reserve_exact(2);
    head.private.push((metadata::SENT_TO.clone(), to));
    if let Some(info) = flow.local.info() {
        head.private
            .push((metadata::SENT_FROM.clone(), info.from.clone()));
    }
}

/// The edge of requests to this endpoint.
fn edge(flow: &Flow, plan: &Plan, chosen: &Chosen, peer: &Peer, protocol: Protocol) -> EdgeId {
    super::tcp::mesh_edge(
        flow,
        plan.target.service(),
        &chosen.endpoint,
        peer,
        protocol,
    )
}

impl Seen {
    fn new(edge: EdgeId) -> Self {
        Self {
            edge,
            refused: Cell::new(None),
            counted: Cell::new(false),
        }
    }

    /// Looks at a response: what the peer refused, and no further private field.
    fn look(&self, flow: &Flow, request: &Request, head: &mut ResponseHead) {
        let refused = head.fields.get(metadata::REFUSED);
        self.refused.set(refused.and_then(metadata::read_refusal));
        metadata::strip_but_refused(&mut head.fields);
        if request.http2 {
            head.fields.remove(CASE_FIELD);
        }
        if request.switches && (head.status == 101 || (200..300).contains(&head.status)) {
            self.counted.set(true);
            let outcome = switched(head.status, request.begun);
            flow.shared.record.count_request(self.edge, &outcome);
        }
    }
}

/// Why the peer's proxy refused what nobody can have begun with: there is too much to do.
fn busy(head: &ResponseHead) -> Option<Refusal> {
    let refused = head.fields.get(metadata::REFUSED)?;
    metadata::read_refused(refused)
        .filter(|reason| matches!(reason, Refusal::Overload | Refusal::Overflow))
}

fn switched(status: u16, begun: Instant) -> RequestOutcome {
    RequestOutcome {
        response_code: status,
        grpc_status: None,
        refusal: None,
        duration: begun.elapsed(),
        first_byte: Some(begun.elapsed()),
        request_bytes: 0,
        response_bytes: 0,
    }
}

/// Why nothing of the request had an effect. A connection that takes no further stream is kept no longer.
fn unsent(why: UnsentReason, peer: &Peer, connection: &Rc<Connection>, chosen: &Chosen) -> Failed {
    match why {
        UnsentReason::RefusedStream | UnsentReason::Declined => {
            Failed::RefusedStream(chosen.endpoint.uid)
        }
        UnsentReason::GoAway | UnsentReason::ConnectionDead | UnsentReason::StaleConnection => {
            peer.discard(connection);
            Failed::Going
        }
    }
}

impl End {
    /// Tells balancer, pool and record.
    pub(super) fn finish(self, flow: &Flow, plan: &Plan, request: Request, mut relayed: Relayed) {
        if let Some(h1) = relayed.reusable.take() {
            let to = self.chosen.address;
            self.connection.foreign.keep(&flow.shared, to, h1);
        }
        let told = self.seen.refused.get();
        let refused = told.map(|(reason, _)| reason);
        let verdict = verdict(&relayed, refused);
        let now = Instant::now();
        let outcome = record::outcome_of(&relayed, now - request.begun, refused);
        let refusal_id = self.note(flow, plan, &request, &relayed);
        // For the log alone.
        let logged = flow.shared.record.logs(&outcome).then_some(());
        let identity = logged.and_then(|()| flow.local.identity());
        let service = logged.and(plan.target.service());
        let service = service.map(|(service, _)| service.to_string());
        flow.shared.record.finished(&Finished {
            local: &flow.local,
            reporter: Reporter::Source,
            edge: self.seen.edge,
            protocol: request.protocol,
            outcome,
            counted: self.seen.counted.get(),
            head: request.log,
            from: Some(flow.from),
            to: Some(flow.to),
            upstream: Some(self.chosen.address),
            service: service.as_deref(),
            route: plan.route.as_deref(),
            source: identity.as_ref(),
            destination: Some(&self.peer.endpoint.identity),
            mtls: true,
            refusal_id,
            rule: None,
        });
        self.chosen.finish_at(now, verdict, relayed.first_byte);
    }

    /// Notes a refusal: this side's own; or the peer's, under the peer's id, for that side knows nothing of the way that
    /// the request had come.
    fn note(&self, flow: &Flow, plan: &Plan, request: &Request, relayed: &Relayed) -> Option<u64> {
        let (reason, id, by_peer) = match (relayed.refused, self.seen.refused.get()) {
            (Some(reason), _) => (reason, request.id, false),
            (None, Some((reason, Some(id)))) => (reason, id, true),
            (None, _) => return None,
        };
        let detail = if by_peer {
            "the endpoint's side of the mesh refused it"
        } else {
            reason.text()
        };
        let tried = Tried {
            uid: self.chosen.endpoint.uid,
            why: format!("{reason}: {detail}"),
        };
        let denial = Denial::new(reason, detail);
        let denial = denial.on_the_way_to(&plan.target, plan.rule.as_ref(), &[tried]);
        flow.note_refused(id, &denial, Some(&plan.target), request.begun, by_peer);
        Some(id)
    }
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
