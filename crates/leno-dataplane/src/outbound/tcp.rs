//! Bytes of a program: through the mesh in a CONNECT stream (HBONE), or in clear to what is not the mesh's.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use leno_balance::{Fault, Outcome};
use leno_http::Tunnel;
use leno_ir::Endpoint;
use leno_telemetry::{
    EdgeId, Protocol, Reporter, RequestOutcome,
    counters::{Counter, Gauge, Limit},
};
use leno_tls::Alpn;
use leno_types::{Identity, Priority, Refusal, ServiceName, WorkloadUid};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Denial, Flow};
use crate::{
    counters::{Open, count, limit},
    foreign::{self, TunnelError},
    metadata::{self, To},
    pool::{self, Peer},
    record::{self, Finished, Party},
    splice::{Carried, End, splice},
    target::{Chosen, Target},
    why::Tried,
};

/// A stream of bytes to an endpoint.
pub(super) struct Opened {
    pub(super) tunnel: Tunnel,
    chosen: Chosen,
    peer: Rc<Peer>,
    edge: EdgeId,
    service: Option<ServiceName>,
}

impl Opened {
    /// The caller speaks HTTP: requests go their own ways.
    pub(super) fn unused(self) {
        self.peer.released();
        self.chosen.finish(Outcome::Success, None);
    }
}

/// Bytes to the destination of this connection.
pub(super) async fn bytes(
    flow: &Rc<Flow>,
    stream: TcpStream,
    prefix: BytesMut,
    target: Option<Target>,
) -> io::Result<()> {
    let target = match target {
        Some(target) => Ok(target),
        None => flow.target().await,
    };
    let opened = match target {
        Ok(target) => open(flow, &target)
            .await
            .map_err(|denial| (denial, Some(target))),
        Err(denial) => Err((denial, None)),
    };
    match opened {
        Ok(opened) => carry(flow, stream, prefix, BytesMut::new(), opened).await,
        Err((denial, target)) => {
            refuse(flow, &stream, &denial, target.as_ref());
            Ok(())
        }
    }
}

/// Opens a stream of bytes to an endpoint; to another when one does not take it.
pub(super) async fn open(flow: &Flow, target: &Target) -> Result<Opened, Denial> {
    if let Some(denial) = flow.shared.load.denies(|| Priority::Default) {
        return Err(denial);
    }
    let mut tried = Vec::new();
    let opened = open_any(flow, target, &mut tried).await;
    opened.map_err(|denial| denial.on_the_way_to(target, None, &tried))
}

async fn open_any(flow: &Flow, target: &Target, tried: &mut Vec<Tried>) -> Result<Opened, Denial> {
    let begun = Instant::now();
    target.request(begun);
    let limits = &flow.shared.config.limits;
    let mut avoid: Vec<WorkloadUid> = Vec::new();
    let mut resent = 0;
    let mut last = None;
    let mut retry = None;
    loop {
        let chosen = target
            .choose(Instant::now(), flow.ipv6(), &avoid)
            .filter(|chosen| !avoid.contains(&chosen.endpoint.uid));
        let Some(chosen) = chosen else {
            return Err(last.unwrap_or_else(|| {
                let why = Refusal::NoHealthyUpstream.text();
                Denial::new(Refusal::NoHealthyUpstream, why)
            }));
        };
        let uid = chosen.endpoint.uid;
        let denial = match try_one(flow, target, chosen, !avoid.is_empty()).await {
            Ok(opened) => return Ok(opened),
            Err(Some(denial)) => denial,
            // The connection was going away: that costs no endpoint anything.
            Err(None) if resent < limits.tries => {
                resent += 1;
                continue;
            }
            Err(None) => Denial::new(Refusal::UpstreamReset, "connections kept going away"),
        };
        tried.push(Tried {
            uid,
            why: format!("{}: {}", denial.reason, denial.detail),
        });
        avoid.push(uid);
        if avoid.len() >= limits.tries {
            limit(Limit::Tries);
            return Err(denial);
        }
        if !target.has_more_than(avoid.len()) {
            return Err(denial);
        }
        if retry.is_none() {
            retry = target.try_retry(begun);
        }
        if retry.is_none() {
            limit(Limit::Tries);
            return Err(denial);
        }
        last = Some(denial);
        count(Counter::Retries);
    }
}

/// One try; `Err(None)` when only the connection was at fault.
async fn try_one(
    flow: &Flow,
    target: &Target,
    chosen: Chosen,
    retried: bool,
) -> Result<Opened, Option<Denial>> {
    let begun = Instant::now();
    let peer = flow.local.pool.peer(&chosen.endpoint);
    let connection = match peer.connection(&flow.shared, &flow.local, begun).await {
        Ok(connection) => connection,
        Err(error) => {
            chosen.finish(Outcome::ConnectFailure, None);
            return Err(Some(Denial::new(error.refusal(), error.to_string())));
        }
    };
    let service = target.service();
    let mut private = Vec::new();
    if connection.alpn == Alpn::Leno1 {
        let to = To {
            address: chosen.address,
            service: service.map(|(service, port)| (service.clone(), port)),
            http2: false,
            can_retry: false,
            retried,
        };
        private.push((metadata::SENT_TO.clone(), to.write()));
        if let Some(info) = flow.local.info() {
            private.push((metadata::SENT_FROM.clone(), info.from.clone()));
        }
    }
    // The peer answers when its program has accepted: the limits of its dial and of ours add up.
    let limit = flow.shared.config.limits.connect_timeout * 4;
    let asked = foreign::tunnel(&connection.h2, chosen.address, private);
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(tunnel)) => {
            let edge = mesh_edge(flow, service, &chosen.endpoint, &peer, Protocol::Tcp);
            chosen.started_well(begun.elapsed());
            Ok(Opened {
                tunnel,
                chosen,
                peer,
                edge,
                service: service.map(|(service, _)| service.clone()),
            })
        }
        Ok(Err(error)) => {
            peer.released();
            Err(refused(error, chosen, &peer, &connection))
        }
        Err(_) => {
            peer.released();
            chosen.finish(Outcome::ConnectFailure, None);
            let why = "the endpoint's proxy did not answer in time";
            Err(Some(Denial::new(Refusal::UpstreamConnectFailure, why)))
        }
    }
}

fn refused(
    error: TunnelError,
    chosen: Chosen,
    peer: &Peer,
    connection: &Rc<pool::Connection>,
) -> Option<Denial> {
    let detail = error.to_string();
    match error {
        TunnelError::Stream(error) => {
            peer.discard(connection);
            if pool::had_no_effect(&error) {
                return None;
            }
            chosen.finish(Outcome::Failure(Fault::Reset), None);
            Some(Denial::new(Refusal::UpstreamReset, detail))
        }
        TunnelError::Refused { reason, .. } => {
            let reason = reason.unwrap_or(Refusal::UpstreamConnectFailure);
            let outcome = match reason {
                Refusal::Denied | Refusal::ForgedDestination => Outcome::Success,
                Refusal::Overload | Refusal::Overflow => Outcome::Busy,
                _ => Outcome::ConnectFailure,
            };
            chosen.finish(outcome, None);
            Some(Denial::new(reason, detail))
        }
        TunnelError::Overflow => {
            chosen.finish(Outcome::Cancelled, None);
            Some(Denial::new(Refusal::Overflow, detail))
        }
    }
}

/// Carries bytes both ways, what was read already first.
pub(super) async fn carry(
    flow: &Rc<Flow>,
    mut stream: TcpStream,
    prefix: BytesMut,
    said: BytesMut,
    mut opened: Opened,
) -> io::Result<()> {
    let begun = Instant::now();
    let record = &flow.shared.record;
    record.opened(opened.edge);
    let _open = Open::new(Gauge::OpenStreams);
    // Who speaks second has waited since it came.
    let waits = if said.is_empty() { begun } else { flow.begun };
    let carried = Carried::since(waits.into(), prefix.len(), said.len());
    let handed = hand_on(&mut stream, &mut opened.tunnel, &prefix, &said).await;
    drop((prefix, said));
    let end = match handed {
        Ok(()) => {
            let idle = flow.shared.config.limits.stream_idle;
            let told = Told::new(record, opened.edge, &carried);
            let ending = flow.local.ending.thrown();
            told.while_running(splice(
                &mut stream,
                &mut opened.tunnel,
                &carried,
                idle,
                ending,
            ))
            .await
        }
        Err(_) => End::Failed,
    };
    if end != End::Closed {
        reset(&stream);
    }
    let refusal = match end {
        End::Closed | End::Failed | End::Idle => None,
        End::Cancelled => Some(Refusal::StreamEnded),
    };
    if end == End::Idle {
        limit(Limit::StreamIdle);
    }
    let identity = flow.local.identity();
    let told = carried.take_untold();
    finished(
        flow,
        &opened,
        identity.as_ref(),
        outcome(&carried, refusal, begun),
        told,
    );
    opened.peer.released();
    opened.chosen.finish(Outcome::Success, None);
    Ok(())
}

/// Gives both sides what was read before their roles were known.
pub(crate) async fn hand_on<A, B>(
    caller: &mut A,
    other: &mut B,
    prefix: &[u8],
    said: &[u8],
) -> io::Result<()>
where
    A: tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncWrite + Unpin,
{
    if !prefix.is_empty() {
        other.write_all(prefix).await?;
        other.flush().await?;
    }
    if !said.is_empty() {
        caller.write_all(said).await?;
        caller.flush().await?;
    }
    Ok(())
}

/// Tells the record what a long stream has carried, now and then.
pub(crate) struct Told<'a> {
    record: &'a record::Record,
    edge: EdgeId,
    carried: &'a Carried,
}

impl<'a> Told<'a> {
    pub(crate) fn new(record: &'a record::Record, edge: EdgeId, carried: &'a Carried) -> Self {
        Self {
            record,
            edge,
            carried,
        }
    }

    /// Runs `work` to its end; its bytes are seen while it goes on.
    pub(crate) async fn while_running<T>(&self, work: impl Future<Output = T>) -> T {
        /// A stream that lives longer shows its bytes so often.
        const EVERY: Duration = Duration::from_secs(5);
        tokio::pin!(work);
        let mut work = std::future::poll_fn(|cx| {
            let ended = work.as_mut().poll(cx);
            if let Some(latency) = self.carried.take_first_byte() {
                self.record.first_byte(self.edge, latency);
            }
            ended
        });
        loop {
            tokio::select! {
                biased;
                ended = &mut work => return ended,
                () = tokio::time::sleep(EVERY) => {
                    let (sent, received) = self.carried.take_untold();
                    self.record.carried(self.edge, received, sent);
                }
            }
        }
    }
}

fn outcome(carried: &Carried, refusal: Option<Refusal>, begun: Instant) -> RequestOutcome {
    RequestOutcome {
        response_code: 0,
        grpc_status: None,
        refusal,
        duration: begun.elapsed(),
        first_byte: carried.first_byte(),
        request_bytes: carried.sent.get(),
        response_bytes: carried.received.get(),
    }
}

fn finished(
    flow: &Flow,
    opened: &Opened,
    source: Option<&Identity>,
    outcome: RequestOutcome,
    (sent, received): (u64, u64),
) {
    let service = opened.service.as_ref().map(ServiceName::to_string);
    let line = Finished {
        local: &flow.local,
        reporter: Reporter::Source,
        edge: opened.edge,
        protocol: Protocol::Tcp,
        outcome,
        counted: false,
        head: None,
        from: Some(flow.from),
        to: Some(flow.to),
        upstream: Some(opened.chosen.address),
        service: service.as_deref(),
        route: None,
        source,
        destination: Some(&opened.peer.endpoint.identity),
        mtls: true,
        refusal_id: None,
        rule: None,
    };
    // Istio counts as sent what went to the caller.
    flow.shared.record.closed(&line, (received, sent));
}

/// The edge to an endpoint of the mesh.
pub(super) fn mesh_edge(
    flow: &Flow,
    service: Option<(&ServiceName, u16)>,
    endpoint: &Endpoint,
    peer: &Peer,
    protocol: Protocol,
) -> EdgeId {
    let generation = flow.local.info().map_or(0, |info| info.generation);
    let service = service.map(|(service, _)| service);
    let record = &flow.shared.record;
    peer.edges.edge(record, generation, service, protocol, || {
        let source = flow.source();
        let destination = party_of(endpoint);
        let service = service.map(|service| service.host().into());
        record::edge_key(
            Reporter::Source,
            &source,
            &destination,
            service,
            protocol,
            true,
        )
    })
}

/// An endpoint, as metrics name it. Its identity was proven by the handshake, or there would be no stream.
fn party_of(endpoint: &Endpoint) -> Party {
    let service = match endpoint.service.parse::<ServiceName>() {
        Ok(service) => service.host().into(),
        Err(_) if endpoint.service.is_empty() => "unknown".into(),
        Err(_) => endpoint.service.as_str().into(),
    };
    Party {
        labels: crate::state::Labels {
            workload: endpoint.name.as_str().into(),
            namespace: endpoint.namespace.as_str().into(),
            version: endpoint.version.as_str().into(),
            service,
        },
        identity: Some(endpoint.identity.clone()),
    }
}

/// Refuses bytes: a reset, so that nothing looks like an orderly end.
pub(super) fn refuse(flow: &Flow, stream: &TcpStream, denial: &Denial, target: Option<&Target>) {
    let id = fastrand::u64(..);
    flow.note(id, denial, target, flow.begun);
    let (source, service) = (flow.source(), flow.called(target));
    let key = record::edge_key(
        Reporter::Source,
        &source,
        &Party::unknown(),
        Some(flow.called_as(&service)),
        Protocol::Tcp,
        // Refused, and so not in clear.
        true,
    );
    let record = &flow.shared.record;
    let edge = record.edge(&key);
    record.opened(edge);
    let line = Finished {
        local: &flow.local,
        reporter: Reporter::Source,
        edge,
        protocol: Protocol::Tcp,
        outcome: RequestOutcome {
            response_code: 0,
            grpc_status: None,
            refusal: Some(denial.reason),
            duration: Duration::ZERO,
            first_byte: None,
            request_bytes: 0,
            response_bytes: 0,
        },
        counted: false,
        head: None,
        from: Some(flow.from),
        to: Some(flow.to),
        upstream: None,
        service: Some(&service),
        route: None,
        source: source.identity.as_ref(),
        destination: None,
        mtls: true,
        refusal_id: Some(id),
        rule: Some(denial.rule.as_str()).filter(|rule| !rule.is_empty()),
    };
    record.closed(&line, (0, 0));
    reset(stream);
}

/// Makes the close of a connection a reset.
pub(crate) fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::trace!(%error, "a connection ends by a close instead of a reset");
    }
}

/// Bytes in clear to what is not the mesh's (CP7: outside the prefix set).
pub(super) async fn passthrough(flow: &Rc<Flow>, mut stream: TcpStream) -> io::Result<()> {
    let begun = Instant::now();
    let limits = &flow.shared.config.limits;
    let identity = flow.local.identity();
    // Nothing was proven to anybody.
    let source = Party {
        identity: None,
        ..flow.source()
    };
    let key = record::edge_key(
        Reporter::Source,
        &source,
        &Party::unknown(),
        // One edge for all of the world outside: addresses would be without number.
        Some(super::OUTSIDE.into()),
        Protocol::Tcp,
        false,
    );
    let record = &flow.shared.record;
    let edge = record.edge(&key);
    let mut other = match dial_outside(flow).await {
        Ok(other) => other,
        Err(error) => {
            tracing::debug!(to = %flow.to, %error, "a destination outside the mesh cannot be reached");
            let why = format!("{} cannot be reached: {error}", flow.to);
            let denial = Denial::new(Refusal::UpstreamConnectFailure, why);
            refuse(flow, &stream, &denial, None);
            return Ok(());
        }
    };
    record.opened(edge);
    let _open = Open::new(Gauge::OpenStreams);
    let carried = Carried::default();
    let told = Told::new(record, edge, &carried);
    let ending = flow.local.ending.thrown();
    let end = told
        .while_running(splice(
            &mut stream,
            &mut other,
            &carried,
            limits.stream_idle,
            ending,
        ))
        .await;
    if end != End::Closed {
        reset(&stream);
    }
    let line = Finished {
        local: &flow.local,
        reporter: Reporter::Source,
        edge,
        protocol: Protocol::Tcp,
        outcome: outcome(&carried, None, begun),
        counted: false,
        head: None,
        from: Some(flow.from),
        to: Some(flow.to),
        upstream: Some(flow.to),
        service: None,
        route: None,
        source: identity.as_ref(),
        destination: None,
        mtls: false,
        refusal_id: None,
        rule: None,
    };
    let (sent, received) = carried.take_untold();
    record.closed(&line, (received, sent));
    Ok(())
}

async fn dial_outside(flow: &Flow) -> io::Result<TcpStream> {
    /// The world outside is farther than a peer.
    const LIMIT: Duration = Duration::from_secs(10);
    let to: SocketAddr = flow.to;
    pool::dial(to, flow.shared.config.mark, LIMIT).await
}
