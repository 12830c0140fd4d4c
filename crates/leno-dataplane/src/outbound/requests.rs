//! One request of a program: route, endpoint, connection, relay; and again elsewhere when nothing of it had an effect.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use leno_balance::Outcome;
use leno_http::{
    CASE_FIELD, Incoming, RelayOptions, Relayed, RequestHead, ResponseHead, Unsent, UnsentReason,
    Upstream, Version, relay,
};
use leno_telemetry::{
    EdgeId, Protocol, Reporter, RequestOutcome,
    counters::{Counter, Gauge, Limit},
    trace,
};
use leno_tls::Alpn;
use leno_types::{AppProtocol, Refusal, WorkloadUid};
use tokio::time::timeout;

use super::{
    Denial, Flow,
    plan::{Plan, plan, verdict},
};
use crate::{
    counters::{Open, count, limit},
    metadata::{self, To},
    pool::{Connection, Peer, PoolError},
    record::{self, Finished, LogHead, Party},
    target::{Chosen, Retry},
};

/// A request is sent again so often because its connection was going away: that costs no endpoint anything.
const RESENDS: usize = 8;

/// What is told of a request at its end.
struct Request {
    /// Under which a refusal is found again.
    id: u64,
    begun: Instant,
    protocol: Protocol,
    http2: bool,
    grpc: bool,
    switches: bool,
    log: Option<Box<LogHead>>,
}

/// Carries one request to its end.
pub(super) async fn exchange(flow: &Flow, mut incoming: Incoming<'_>) {
    let _open = Open::new(Gauge::OpenRequests);
    let request = Request {
        id: fastrand::u64(..),
        begun: Instant::now(),
        protocol: record::protocol_of(&incoming.head),
        http2: incoming.head.version == Version::Http2,
        grpc: incoming.head.is_grpc(),
        switches: incoming.head.asks_to_switch(),
        log: None,
    };
    let reply = &mut incoming.reply;
    reply.label_refusals(metadata::REFUSED, flow.local.name(), request.id);
    let denied = prepare(flow, &mut incoming.head);
    let request = Request {
        log: flow.shared.record.log_head(&incoming.head),
        ..request
    };
    if let Some(denial) = denied {
        return refuse(flow, incoming, request, None, denial).await;
    }
    match plan(flow, &incoming.head, request.begun).await {
        Ok(plan) => carry(flow, plan, request, &mut Some(incoming)).await,
        Err(denial) => Box::pin(refuse(flow, incoming, request, None, denial)).await,
    }
}

/// Takes out what no program may say, and adds what is missing.
fn prepare(flow: &Flow, head: &mut RequestHead) -> Option<Denial> {
    let back = head.fields.get(metadata::HOP).is_some_and(|hop| {
        let text = std::str::from_utf8(hop).unwrap_or_default();
        text.parse() == Ok(flow.from)
    });
    if back {
        let why = "this request came out of a proxy on this very connection";
        return Some(Denial::new(Refusal::Loop, why));
    }
    metadata::strip(&mut head.fields);
    if head.method == http::Method::CONNECT && head.protocol.is_none() {
        let why = "the mesh is no forward proxy: connect to the destination itself (a program that is one has a \
                   port declared as tcp, or as nothing)";
        return Some(Denial::new(Refusal::ClientProtocol, why));
    }
    if head.authority.is_none() {
        // HTTP/1.0 without Host: HTTP/2 and the next hop want one.
        head.authority = Some(flow.to.to_string().into());
    }
    begin_trace(head);
    None
}

/// Makes a `traceparent` where no trace came (row O5); W3C and B3 pass on as they are.
pub(crate) fn begin_trace(head: &mut RequestHead) {
    let fields = &head.fields;
    let traced =
        fields.contains("traceparent") || fields.contains("b3") || fields.contains("x-b3-traceid");
    if !traced {
        let mut random = [0; 24];
        fastrand::fill(&mut random);
        let context = trace::Context::new(random, false);
        head.fields.push("traceparent", context.traceparent());
    }
}

/// The tries of one request.
#[derive(Default)]
struct Tries {
    made: usize,
    resent: usize,
    avoid: Vec<WorkloadUid>,
    last: Option<Denial>,
    retry: Option<Retry>,
}

/// Tries endpoints until one took the request or none is left. The request is in `slot` as long as nobody else has
/// it: by value it would be in the future of each function around the one that takes it.
async fn carry(flow: &Flow, plan: Plan, request: Request, slot: &mut Option<Incoming<'_>>) {
    plan.target.request(request.begun);
    let mut tries = Tries::default();
    loop {
        let now = Instant::now();
        let chosen = plan.target.choose(now, flow.ipv6(), &tries.avoid);
        let chosen = chosen.filter(|chosen| !tries.avoid.contains(&chosen.endpoint.uid));
        let Some(chosen) = chosen else {
            let denial = tries.last.take().unwrap_or_else(|| none_left(&plan));
            return refuse_slot(flow, slot, request, &plan, denial).await;
        };
        let failed = match send(flow, &plan, &request, chosen, slot, &tries, now).await {
            Ok((relayed, end)) => return end.finish(flow, &plan, request, relayed),
            Err(failed) => failed,
        };
        if let Err(denial) = tries.again(flow, &plan, &request, failed) {
            return refuse_slot(flow, slot, request, &plan, denial).await;
        }
    }
}

async fn refuse_slot(
    flow: &Flow,
    slot: &mut Option<Incoming<'_>>,
    request: Request,
    plan: &Plan,
    denial: Denial,
) {
    if let Some(incoming) = slot.take() {
        Box::pin(refuse(flow, incoming, request, Some(plan), denial)).await;
    }
}

fn none_left(plan: &Plan) -> Denial {
    let detail = match plan.target.service() {
        Some((service, port)) => format!("{service} has no endpoint for port {port}"),
        None => "the workload has no address that can be reached".into(),
    };
    Denial::new(Refusal::NoHealthyUpstream, detail)
}

/// Why a try failed without any effect.
enum Failed {
    /// No connection.
    Pool(WorkloadUid, PoolError),
    /// No tunnel, at a peer that is not Leno.
    Tunnel(WorkloadUid, String, Refusal),
    /// The connection was going away.
    Going,
    /// The endpoint's proxy did not take it.
    RefusedStream(WorkloadUid),
    /// Out of time.
    Timeout,
}

impl Tries {
    /// Whether another try may be made.
    fn again(
        &mut self,
        flow: &Flow,
        plan: &Plan,
        request: &Request,
        failed: Failed,
    ) -> Result<(), Denial> {
        let unreachable = |reason, detail: String| Denial::new(reason, detail);
        let (uid, denial, free) = match failed {
            Failed::Timeout => {
                let why = "no endpoint took it in the time its route allows";
                return Err(Denial::new(Refusal::UpstreamTimeout, why));
            }
            Failed::Going => {
                self.resent += 1;
                if self.resent > RESENDS {
                    let why = "connections to the endpoint kept going away";
                    return Err(Denial::new(Refusal::UpstreamReset, why));
                }
                return Ok(());
            }
            Failed::Pool(uid, error) => {
                (uid, unreachable(error.refusal(), error.to_string()), false)
            }
            Failed::Tunnel(uid, why, reason) => (uid, unreachable(reason, why), false),
            Failed::RefusedStream(uid) => {
                let why = "the endpoint's proxy did not take it: its program accepts no connection";
                (
                    uid,
                    unreachable(Refusal::UpstreamConnectFailure, why.into()),
                    true,
                )
            }
        };
        self.avoid.push(uid);
        self.made += 1;
        let limits = &flow.shared.config.limits;
        if self.made >= limits.tries {
            limit(Limit::Tries);
            return Err(denial);
        }
        if !plan.target.has_others() {
            return Err(denial);
        }
        self.last = Some(denial);
        if !free && self.retry.is_none() {
            self.retry = plan.target.try_retry(request.begun);
            if self.retry.is_none() {
                limit(Limit::Tries);
                return self.last.take().map_or(Ok(()), Err);
            }
        }
        count(Counter::Retries);
        Ok(())
    }
}

/// What is needed when an exchange that was taken has ended.
struct End {
    chosen: Chosen,
    peer: std::rc::Rc<Peer>,
    connection: std::rc::Rc<Connection>,
    edge: EdgeId,
    told: Option<Refusal>,
    counted: bool,
}

/// One try.
async fn send(
    flow: &Flow,
    plan: &Plan,
    request: &Request,
    chosen: Chosen,
    slot: &mut Option<Incoming<'_>>,
    tries: &Tries,
    now: Instant,
) -> Result<(Relayed, End), Failed> {
    let uid = chosen.endpoint.uid;
    let peer = flow.local.pool.peer(&chosen.endpoint);
    let left = remaining(plan.request_timeout, request.begun);
    if left.is_some_and(|left| left.is_zero()) {
        return Err(Failed::Timeout);
    }
    let connection = match within(left, peer.connection(&flow.shared, &flow.local, now)).await {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => {
            let outcome = match &error {
                PoolError::NoCertificate | PoolError::Overflow => Outcome::Cancelled,
                _ => Outcome::ConnectFailure,
            };
            chosen.finish(outcome, None);
            return Err(Failed::Pool(uid, error));
        }
        None => return Err(Failed::Timeout),
    };
    let upstream = match upstream(flow, &chosen, &connection, request).await {
        Ok(upstream) => upstream,
        Err((why, reason)) => {
            chosen.finish(Outcome::ConnectFailure, None);
            return Err(Failed::Tunnel(uid, why, reason));
        }
    };
    if let Some(incoming) = slot.as_mut().filter(|_| connection.alpn == Alpn::Leno1) {
        let can_retry =
            plan.target.has_others() && tries.made + 1 < flow.shared.config.limits.tries;
        describe(
            flow,
            plan,
            &chosen,
            &peer,
            request,
            can_retry,
            &mut incoming.head,
        );
    }
    let edge = edge(flow, plan, &chosen, &peer, request.protocol);
    let (told, counted) = (Cell::new(None), Cell::new(false));
    let mut on_response = |head: &mut ResponseHead| {
        told.set(seen(head, request.http2));
        if request.switches && (head.status == 101 || (200..300).contains(&head.status)) {
            counted.set(true);
            flow.shared
                .record
                .count_request(edge, &switched(head.status, request.begun));
        }
    };
    let options = RelayOptions {
        request_timeout: shorter(
            remaining(plan.request_timeout, request.begun),
            plan.try_timeout,
        ),
        idle_timeout: Some(flow.shared.config.limits.exchange_idle),
        on_response: &mut on_response,
        cancel: &flow.local.ending.cancel,
    };
    let Some(incoming) = slot.take() else {
        return Err(Failed::Going);
    };
    match relay(incoming, upstream, options).await {
        Ok(relayed) => {
            peer.released();
            let end = End {
                chosen,
                peer,
                connection,
                edge,
                told: told.get(),
                counted: counted.get(),
            };
            Ok((relayed, end))
        }
        Err(Unsent { mut incoming, why }) => {
            peer.released();
            incoming.head.fields.remove(metadata::TO);
            incoming.head.fields.remove(metadata::FROM);
            let failed = match why {
                UnsentReason::RefusedStream => {
                    chosen.finish(Outcome::ConnectFailure, None);
                    Failed::RefusedStream(uid)
                }
                UnsentReason::GoAway
                | UnsentReason::ConnectionDead
                | UnsentReason::StaleConnection => {
                    peer.discard(&connection);
                    Failed::Going
                }
            };
            *slot = Some(incoming);
            Err(failed)
        }
    }
}

/// What carries the exchange: a stream of the mesh connection, or HTTP within a tunnel at a peer that is not Leno.
async fn upstream(
    flow: &Flow,
    chosen: &Chosen,
    connection: &Connection,
    request: &Request,
) -> Result<Upstream, (String, Refusal)> {
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
        (error.to_string(), reason)
    })
}

/// Says to the peer where the request goes and from whom it comes.
fn describe(
    flow: &Flow,
    plan: &Plan,
    chosen: &Chosen,
    peer: &Peer,
    request: &Request,
    can_retry: bool,
    head: &mut RequestHead,
) {
    let service = plan.target.service();
    let to = peer
        .to
        .field(chosen.address, service, request.http2, can_retry, || {
            To {
                address: chosen.address,
                service: service.map(|(service, port)| (service.clone(), port)),
                http2: request.http2,
                can_retry,
            }
            .write()
        });
    head.fields.push(metadata::TO, to);
    if let Some(info) = flow.local.info() {
        head.fields.push(metadata::FROM, info.from.clone());
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

/// Looks at a response: what the peer refused, and no further private field.
fn seen(head: &mut ResponseHead, http2: bool) -> Option<Refusal> {
    let told = head
        .fields
        .get(metadata::REFUSED)
        .and_then(metadata::read_refused);
    metadata::strip_but_refused(&mut head.fields);
    if http2 {
        head.fields.remove(CASE_FIELD);
    }
    told
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

impl End {
    /// Tells balancer, pool and record.
    fn finish(self, flow: &Flow, plan: &Plan, request: Request, mut relayed: Relayed) {
        if let Some(h1) = relayed.reusable.take() {
            let to = self.chosen.address;
            self.connection.foreign.keep(&flow.shared, to, h1);
        }
        let outcome = verdict(&relayed, self.told);
        if let Some(reason) = relayed.refused {
            let denial = Denial::new(reason, reason.text());
            flow.note(request.id, &denial, Some(&plan.target));
        }
        // For the log alone.
        let identity = request.log.as_ref().and_then(|_| flow.local.identity());
        let service = request.log.as_ref().and(plan.target.service());
        let service = service.map(|(service, _)| service.to_string());
        let now = Instant::now();
        flow.shared.record.finished(&Finished {
            reporter: Reporter::Source,
            edge: self.edge,
            protocol: request.protocol,
            outcome: record::outcome_of(&relayed, now - request.begun, self.told),
            counted: self.counted,
            head: request.log,
            from: Some(flow.from),
            to: Some(flow.to),
            upstream: Some(self.chosen.address),
            service: service.as_deref(),
            route: plan.route.as_deref(),
            source: identity.as_ref(),
            destination: Some(&self.peer.endpoint.identity),
            mtls: true,
            refusal_id: relayed.refused.map(|_| request.id),
            rule: None,
        });
        self.chosen.finish_at(now, outcome, relayed.first_byte);
    }
}

/// Refuses one request: in the log, in the metrics, and to the caller.
async fn refuse(
    flow: &Flow,
    incoming: Incoming<'_>,
    request: Request,
    plan: Option<&Plan>,
    denial: Denial,
) {
    let id = request.id;
    let status = denial.status.filter(|_| !request.grpc);
    let mut outcome = record::refused_outcome(denial.reason, request.grpc, request.begun);
    outcome.response_code = status.unwrap_or(outcome.response_code);
    tell_refused(flow, request, plan, &denial, outcome);
    let text = format!("{} ({id:016x})", denial.detail);
    let answered = match status {
        None => incoming.reply.refuse(denial.reason, &[], &text).await,
        Some(status) => {
            let mut head = ResponseHead::new(status);
            let field = metadata::refused_field(denial.reason, &flow.local.name(), id);
            head.fields.push(metadata::REFUSED, field);
            head.fields
                .push("content-type", "text/plain; charset=utf-8");
            incoming.reply.respond(head, (text + "\n").into()).await
        }
    };
    if let Err(error) = answered {
        tracing::trace!(%error, "a refused caller did not wait for its answer");
    }
}

/// What was no request at all was answered; here it is told.
pub(super) fn refused(flow: &Flow, id: u64, begun: Instant, denial: &Denial, status: u16) {
    let request = Request {
        id,
        begun,
        protocol: Protocol::Http1,
        http2: false,
        grpc: false,
        switches: false,
        log: None,
    };
    let outcome = RequestOutcome {
        response_code: status,
        duration: Duration::ZERO,
        ..record::refused_outcome(denial.reason, false, begun)
    };
    tell_refused(flow, request, None, denial, outcome);
}

fn tell_refused(
    flow: &Flow,
    request: Request,
    plan: Option<&Plan>,
    denial: &Denial,
    outcome: RequestOutcome,
) {
    let target = plan.map(|plan| &plan.target);
    flow.note(request.id, denial, target);
    let (source, service) = (flow.source(), flow.called(target));
    let key = record::edge_key(
        Reporter::Source,
        &source,
        &Party::unknown(),
        Some(service.as_str().into()),
        request.protocol,
        // Refused, and so not in clear: what the mesh carries leaves by mutual TLS or not at all.
        true,
    );
    let shared = &flow.shared;
    shared.record.finished(&Finished {
        reporter: Reporter::Source,
        edge: shared.record.edge(&key),
        protocol: request.protocol,
        outcome,
        counted: false,
        head: request.log,
        from: Some(flow.from),
        to: Some(flow.to),
        upstream: None,
        service: Some(&service),
        route: plan.and_then(|plan| plan.route.as_deref()),
        source: source.identity.as_ref(),
        destination: None,
        mtls: true,
        refusal_id: Some(request.id),
        rule: Some(denial.rule.as_str()).filter(|rule| !rule.is_empty()),
    });
}

fn remaining(limit: Option<Duration>, begun: Instant) -> Option<Duration> {
    limit.map(|limit| limit.saturating_sub(begun.elapsed()))
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// `work`, for at most `limit`; `None` when that was too long.
async fn within<F: Future>(limit: Option<Duration>, work: F) -> Option<F::Output> {
    match limit {
        None => Some(work.await),
        Some(limit) => Box::pin(timeout(limit, work)).await.ok(),
    }
}
