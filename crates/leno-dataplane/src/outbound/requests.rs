//! One request of a program: route, endpoint, connection, relay; and again elsewhere when nothing of it had an effect.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use leno_http::{Incoming, RequestHead, Version};
use leno_telemetry::{
    Protocol, Reporter, RequestOutcome,
    counters::{Counter, Gauge, Limit},
    trace,
};
use leno_types::{Refusal, WorkloadUid};

use super::{
    Denial, Flow,
    attempt::{Failed, Try, send},
    plan::{Plan, plan},
};
use crate::{
    counters::{Open, count, limit},
    metadata, overload,
    record::{self, Finished, LogHead, Party},
    target::Retry,
    why::Tried,
};

/// A request is sent again so often because its connection was going away: that costs no endpoint anything.
const RESENDS: usize = 8;

/// What is told of a request at its end.
pub(super) struct Request {
    /// Under which a refusal is found again.
    pub(super) id: u64,
    pub(super) begun: Instant,
    pub(super) protocol: Protocol,
    pub(super) http2: bool,
    grpc: bool,
    pub(super) switches: bool,
    pub(super) log: Option<Box<LogHead>>,
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
    let denied = prepare(flow, &mut incoming.head).or_else(|| {
        let head = &incoming.head;
        flow.shared.load.denies(|| overload::priority_of(head))
    });
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
    /// What came of each try, for whoever asks why.
    told: Vec<Tried>,
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
            return refuse_slot(flow, slot, request, &plan, tries.tell(&plan, denial)).await;
        };
        let made = tries.made + 1;
        let can_retry = plan.target.has_more_than(made) && made < flow.shared.config.limits.tries;
        let allowed = RefCell::new(tries.retry.take());
        let attempt = Try {
            can_retry,
            retried: tries.made > 0,
            // An endpoint that has too much to do must not make the others have it: within the budget only.
            again: &|| can_retry && allow(&plan, &request, &mut allowed.borrow_mut()),
        };
        let sent = send(flow, &plan, &request, chosen, slot, &attempt, now).await;
        tries.retry = allowed.into_inner();
        let failed = match sent {
            Ok((relayed, end)) => return end.finish(flow, &plan, request, relayed),
            Err(failed) => failed,
        };
        if let Err(denial) = tries.again(flow, &plan, &request, failed) {
            return refuse_slot(flow, slot, request, &plan, tries.tell(&plan, denial)).await;
        }
    }
}

/// Takes a retry out of the budget, unless one was taken for this request.
fn allow(plan: &Plan, request: &Request, retry: &mut Option<Retry>) -> bool {
    if retry.is_none() {
        *retry = plan.target.try_retry(request.begun);
    }
    retry.is_some()
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

impl Tries {
    /// With the way that the request had come, and what came of each try.
    fn tell(&self, plan: &Plan, denial: Denial) -> Denial {
        denial.on_the_way_to(&plan.target, plan.rule.as_ref(), &self.told)
    }

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
            Failed::Busy(uid, reason) => {
                let why = "the endpoint's proxy, or its program, has too much to do";
                (uid, unreachable(reason, why.into()), false)
            }
            Failed::RefusedStream(uid) => {
                let why = "the endpoint's proxy did not take it: its program accepts no connection";
                (
                    uid,
                    unreachable(Refusal::UpstreamConnectFailure, why.into()),
                    true,
                )
            }
        };
        self.told.push(Tried {
            uid,
            why: format!("{}: {}", denial.reason, denial.detail),
        });
        self.avoid.push(uid);
        self.made += 1;
        let limits = &flow.shared.config.limits;
        if self.made >= limits.tries {
            limit(Limit::Tries);
            return Err(denial);
        }
        if !plan.target.has_more_than(self.made) {
            return Err(denial);
        }
        self.last = Some(denial);
        if !free && !allow(plan, request, &mut self.retry) {
            limit(Limit::Tries);
            return self.last.take().map_or(Ok(()), Err);
        }
        count(Counter::Retries);
        Ok(())
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
    let (id, again) = (
        request.id,
        overload::come_again(denial.reason, request.grpc),
    );
    let outcome = record::refused_outcome(denial.reason, request.grpc, request.begun);
    tell_refused(flow, request, plan, &denial, outcome);
    let text = format!("{} ({id:016x})", denial.detail);
    let answered = incoming.reply.refuse(denial.reason, again, &text).await;
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
    flow.note(request.id, denial, target, request.begun);
    let (source, service) = (flow.source(), flow.called(target));
    let key = record::edge_key(
        Reporter::Source,
        &source,
        &Party::unknown(),
        Some(flow.called_as(&service)),
        request.protocol,
        // Refused, and so not in clear: what the mesh carries leaves by mutual TLS or not at all.
        true,
    );
    let shared = &flow.shared;
    shared.record.finished(&Finished {
        local: &flow.local,
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
