//! What is told about each request and connection: metrics, access log, refusals.
//!
//! Both ends record with the same labels (row O1). Identities are those of certificates really presented; where none
//! was, none is named. Costs a few additions per request: an edge is looked up once and kept by its id.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use leno_http::{Ended, Relayed, RequestHead, Side};
use leno_telemetry::{
    EdgeId, EdgeKey, Protocol, Recorder, Reporter, RequestOutcome, access_log,
    counters::{Counter, Counters, Limit},
    trace::TraceId,
};
use leno_types::{Identity, Refusal, ServiceName, WorkloadUid};

use crate::{
    Chain, Event, Outsider, RefusalRecord,
    counters::{self, count, limit, refused},
    remembered::Remembered,
    state::{Labels, Local},
};

/// What one worker has to tell.
pub(crate) struct Record {
    recorder: RefCell<Recorder>,
    log: RefCell<access_log::Buffer>,
    logs: Cell<bool>,
    /// The version of the configuration in use; empty before the first.
    config_version: RefCell<Arc<str>>,
    refusals: RefCell<Remembered>,
}

/// One side of an edge.
#[derive(Clone, Debug)]
pub(crate) struct Party {
    /// Its names.
    pub(crate) labels: Labels,
    /// Who it proved to be.
    pub(crate) identity: Option<Identity>,
}

impl Party {
    /// Somebody of whom nothing is known.
    pub(crate) fn unknown() -> Self {
        let unknown: Arc<str> = "unknown".into();
        Self {
            labels: Labels {
                workload: Arc::clone(&unknown),
                namespace: Arc::clone(&unknown),
                version: Arc::clone(&unknown),
                service: unknown,
            },
            identity: None,
        }
    }
}

/// The edge between two parties.
pub(crate) fn edge_key(
    reporter: Reporter,
    source: &Party,
    destination: &Party,
    service: Option<Arc<str>>,
    protocol: Protocol,
    mtls: bool,
) -> EdgeKey {
    EdgeKey {
        reporter,
        source_workload: Arc::clone(&source.labels.workload),
        source_namespace: Arc::clone(&source.labels.namespace),
        source_identity: source.identity.clone(),
        destination_workload: Arc::clone(&destination.labels.workload),
        destination_namespace: Arc::clone(&destination.labels.namespace),
        destination_service: service.unwrap_or_else(|| Arc::clone(&destination.labels.service)),
        destination_version: Arc::clone(&destination.labels.version),
        destination_identity: destination.identity.clone(),
        protocol,
        mtls,
    }
}

/// The edges of one place where requests go: a handful, so a list.
#[derive(Default)]
pub(crate) struct EdgeCache(RefCell<Vec<CachedEdge>>);

/// By generation of the labels, service and protocol.
type CachedEdge = (u64, Option<ServiceName>, Protocol, EdgeId);

impl EdgeCache {
    /// The edge of this service and protocol; made once for each generation of the labels.
    pub(crate) fn edge(
        &self,
        record: &Record,
        generation: u64,
        service: Option<&ServiceName>,
        protocol: Protocol,
        make: impl FnOnce() -> EdgeKey,
    ) -> EdgeId {
        /// So many services and protocols of one endpoint are remembered.
        const CEILING: usize = 32;
        let mut known = self.0.borrow_mut();
        let found = known.iter().find(|(of, name, spoken, _)| {
            *of == generation && *spoken == protocol && name.as_ref() == service
        });
        if let Some((.., id)) = found {
            return *id;
        }
        let id = record.edge(&make());
        known.retain(|(of, ..)| *of == generation);
        if known.len() < CEILING {
            known.push((generation, service.cloned(), protocol, id));
        }
        id
    }
}

/// What a log line says of a request, kept while the request itself is on its way.
pub(crate) struct LogHead {
    method: http::Method,
    path: bytes::Bytes,
    authority: Option<bytes::Bytes>,
    user_agent: Option<bytes::Bytes>,
    request_id: Option<bytes::Bytes>,
    trace: Option<TraceId>,
    started: SystemTime,
}

impl LogHead {
    fn of(head: &RequestHead) -> Self {
        Self {
            method: head.method.clone(),
            path: head.path.clone(),
            authority: head.authority.clone(),
            user_agent: head.fields.get_shared("user-agent"),
            request_id: head.fields.get_shared("x-request-id"),
            trace: TraceId::of_request(|name| head.fields.get(name)),
            started: SystemTime::now(),
        }
    }
}

/// What is said about one finished request or connection.
pub(crate) struct Finished<'a> {
    /// The workload on whose side it was.
    pub(crate) local: &'a Local,
    pub(crate) reporter: Reporter,
    pub(crate) edge: EdgeId,
    pub(crate) protocol: Protocol,
    pub(crate) outcome: RequestOutcome,
    /// It was counted when it switched protocols: only the log is due.
    pub(crate) counted: bool,
    pub(crate) head: Option<Box<LogHead>>,
    pub(crate) from: Option<SocketAddr>,
    pub(crate) to: Option<SocketAddr>,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) service: Option<&'a str>,
    pub(crate) route: Option<&'a str>,
    pub(crate) source: Option<&'a Identity>,
    pub(crate) destination: Option<&'a Identity>,
    pub(crate) mtls: bool,
    pub(crate) refusal_id: Option<u64>,
    pub(crate) rule: Option<&'a str>,
}

/// What a refusal is about.
pub(crate) struct Refused<'a> {
    pub(crate) id: u64,
    pub(crate) reason: Refusal,
    pub(crate) workload: Option<WorkloadUid>,
    pub(crate) outbound: bool,
    pub(crate) caller: Option<&'a Identity>,
    pub(crate) destination: Option<SocketAddr>,
    pub(crate) service: Option<&'a ServiceName>,
    pub(crate) from: SocketAddr,
    /// The other side refused it, and has counted it.
    pub(crate) by_peer: bool,
    pub(crate) detail: String,
    pub(crate) rule: String,
    pub(crate) chain: Chain,
}

impl Record {
    /// Nothing to tell yet.
    pub(crate) fn new(logs: bool, refusals_kept: usize) -> Self {
        Self {
            recorder: RefCell::default(),
            log: RefCell::default(),
            logs: Cell::new(logs),
            config_version: RefCell::new("".into()),
            refusals: RefCell::new(Remembered::new(refusals_kept)),
        }
    }

    /// What is told from now on happens with this version of the configuration.
    pub(crate) fn use_config(&self, version: Arc<str>) {
        self.config_version.replace(version);
    }

    /// The id of an edge.
    pub(crate) fn edge(&self, key: &EdgeKey) -> EdgeId {
        self.recorder.borrow_mut().edge(key)
    }

    /// What the log will say of a request; nothing where nobody logs.
    pub(crate) fn log_head(&self, head: &RequestHead) -> Option<Box<LogHead>> {
        self.logs.get().then(|| Box::new(LogHead::of(head)))
    }

    /// Whether every request has a line in the log.
    pub(crate) fn log_all(&self, all: bool) {
        self.logs.set(all);
    }

    /// Whether a request that ended so has a line in the log.
    pub(crate) fn logs(&self, outcome: &RequestOutcome) -> bool {
        self.logs.get() || outcome.refusal.is_some() || outcome.response_code >= 500
    }

    /// Counts a request alone, such as one that switched protocols and goes on.
    pub(crate) fn count_request(&self, edge: EdgeId, outcome: &RequestOutcome) {
        self.recorder.borrow_mut().request(edge, outcome);
    }

    /// A request has ended.
    pub(crate) fn finished(&self, it: &Finished<'_>) {
        if !it.counted {
            self.count_request(it.edge, &it.outcome);
        }
        if self.logs(&it.outcome) {
            self.write_line(it);
        }
    }

    /// A connection of bytes was opened.
    pub(crate) fn opened(&self, edge: EdgeId) {
        self.recorder.borrow_mut().tcp_opened(edge);
    }

    /// The first byte came back on a connection.
    pub(crate) fn first_byte(&self, edge: EdgeId, latency: Duration) {
        self.recorder.borrow_mut().tcp_first_byte(edge, latency);
    }

    /// Bytes went over a connection that stays open.
    pub(crate) fn carried(&self, edge: EdgeId, sent: u64, received: u64) {
        if sent > 0 || received > 0 {
            self.recorder.borrow_mut().tcp_bytes(edge, sent, received);
        }
    }

    /// A connection of bytes was closed; `rest` is what was not counted yet, to and from the caller.
    pub(crate) fn closed(&self, it: &Finished<'_>, rest: (u64, u64)) {
        let refusal = it.outcome.refusal;
        self.recorder
            .borrow_mut()
            .tcp_closed(it.edge, rest.0, rest.1, refusal);
        if self.logs(&it.outcome) {
            self.write_line(it);
        }
    }

    /// Something was refused.
    pub(crate) fn refuse(&self, it: Refused<'_>) {
        if !it.by_peer {
            refused(it.reason);
        }
        let forgotten = self.refusals.borrow_mut().take(RefusalRecord {
            at: SystemTime::now(),
            id: it.id,
            reason: it.reason,
            workload: it.workload,
            outbound: it.outbound,
            caller: it.caller.cloned(),
            destination: it.destination,
            service: it.service.cloned(),
            detail: it.detail,
            rule: it.rule,
            from: Some(it.from),
            by_peer: it.by_peer,
            config_version: Arc::clone(&self.config_version.borrow()),
            chain: Box::new(it.chain),
        });
        if forgotten.is_some() {
            limit(Limit::Refusals);
        }
    }

    /// What happened since the last report; `None` when nothing did.
    pub(crate) fn report(&self, outsiders: Vec<Outsider>) -> Option<Event> {
        let delta = self.recorder.borrow_mut().take_delta();
        let (log, dropped) = {
            let mut log = self.log.borrow_mut();
            (log.take(), log.take_dropped())
        };
        for _ in 0..dropped {
            count(Counter::LogLinesDropped);
        }
        let refusals: Vec<RefusalRecord> = self.refusals.borrow_mut().drain().collect();
        let counters = counters::take();
        let nothing = delta.is_empty()
            && log.is_empty()
            && refusals.is_empty()
            && outsiders.is_empty()
            && is_unchanged(&counters);
        (!nothing).then_some(Event::Telemetry {
            delta,
            counters,
            log,
            refusals,
            outsiders,
        })
    }

    fn write_line(&self, it: &Finished<'_>) {
        let head = it.head.as_ref();
        let id = it.refusal_id.map(|id| format!("{id:016x}"));
        let version = self.config_version.borrow();
        let outcome = &it.outcome;
        let info = it.local.info();
        let labels = info.as_ref().map(|info| &info.labels);
        self.log.borrow_mut().push(&access_log::Entry {
            start_time: head
                .map_or_else(|| SystemTime::now() - outcome.duration, |head| head.started),
            reporter: it.reporter,
            workload: labels.map(|labels| &*labels.workload),
            namespace: labels.map(|labels| &*labels.namespace),
            protocol: it.protocol,
            method: head.map(|head| head.method.as_str().as_bytes()),
            path: head.map(|head| &*head.path),
            authority: head.and_then(|head| head.authority.as_deref()),
            user_agent: head.and_then(|head| head.user_agent.as_deref()),
            request_id: head.and_then(|head| head.request_id.as_deref()),
            trace_id: head.and_then(|head| head.trace),
            response_code: outcome.response_code,
            grpc_status: outcome.grpc_status,
            refusal: outcome.refusal,
            refusal_id: id.as_deref(),
            rule: it.rule,
            config_version: Some(&**version).filter(|version| !version.is_empty()),
            bytes_received: outcome.request_bytes,
            bytes_sent: outcome.response_bytes,
            duration: outcome.duration,
            first_byte: outcome.first_byte,
            downstream_remote_address: it.from,
            downstream_local_address: it.to,
            upstream_host: it.upstream,
            destination_service: it.service,
            route_name: it.route,
            source_identity: it.source,
            destination_identity: it.destination,
            mtls: it.mtls,
        });
    }
}

fn is_unchanged(counters: &Counters) -> bool {
    *counters == Counters::default()
}

/// What a request speaks, for metrics.
pub(crate) fn protocol_of(head: &RequestHead) -> Protocol {
    if head.is_grpc() {
        return Protocol::Grpc;
    }
    let websocket = head
        .protocol
        .as_ref()
        .is_some_and(|token| token.eq_ignore_ascii_case(b"websocket"));
    match head.version {
        _ if websocket => Protocol::WebSocket,
        leno_http::Version::Http2 => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

/// The outcome of a relayed exchange, as metrics want it.
pub(crate) fn outcome_of(
    relayed: &Relayed,
    duration: Duration,
    told: Option<Refusal>,
) -> RequestOutcome {
    /// nginx's "client closed request": no failure of anybody's.
    const CLIENT_CLOSED: u16 = 499;
    let status = relayed.status.unwrap_or(match relayed.ended {
        Ended::ClientGone | Ended::Protocol(Side::Client) => CLIENT_CLOSED,
        _ => 0,
    });
    let refusal = relayed.refused.or(told).or(match relayed.ended {
        Ended::UpstreamResetAfterHead => Some(Refusal::UpstreamReset),
        Ended::Timeout => Some(Refusal::UpstreamTimeout),
        Ended::Cancelled => Some(Refusal::StreamEnded),
        Ended::ClientGone => Some(Refusal::ClientGone),
        Ended::Protocol(Side::Upstream) => Some(Refusal::UpstreamProtocol),
        _ => None,
    });
    RequestOutcome {
        response_code: status,
        grpc_status: relayed.grpc_status,
        refusal,
        duration,
        first_byte: relayed.first_byte,
        request_bytes: relayed.request_bytes,
        response_bytes: relayed.response_bytes,
    }
}

/// The outcome of a request that was refused here.
pub(crate) fn refused_outcome(reason: Refusal, grpc: bool, begun: Instant) -> RequestOutcome {
    RequestOutcome {
        response_code: if grpc { 200 } else { reason.status() },
        grpc_status: None,
        refusal: Some(reason),
        duration: begun.elapsed(),
        first_byte: None,
        request_bytes: 0,
        response_bytes: 0,
    }
}
