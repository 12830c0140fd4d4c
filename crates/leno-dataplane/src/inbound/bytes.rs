//! Bytes to a program of this host: CONNECT streams of peers (HBONE), and what is no HTTP at a published port.

use std::{net::SocketAddr, rc::Rc, time::Instant};

use bytes::BytesMut;
use leno_http::{Incoming, ResponseHead, Tunnel};
use leno_telemetry::{
    Protocol, Reporter, RequestOutcome,
    counters::{Gauge, Limit},
};
use leno_types::{Priority, Refusal};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Conn, Verified, requests, tunnelled};
use crate::{
    counters::{Open, limit},
    metadata::{self, To},
    outbound::{Denial, Told, hand_on},
    record::Finished,
    splice::{Carried, End, splice},
};

/// Serves one CONNECT stream.
pub(super) async fn serve(conn: &Rc<Conn>, incoming: Incoming<'static>) {
    let verified = match destination(conn, &incoming) {
        Ok(verified) => verified,
        Err(denial) => return refuse(conn, incoming, None, &denial).await,
    };
    if tunnelled::is_http(verified.protocol) {
        if let Some(tunnel) = accept(conn, incoming) {
            tunnelled::serve(conn, verified, tunnel).await;
        }
        return;
    }
    if let Some(denial) = conn.shared.load.denies(|| priority(&verified)) {
        return refuse(conn, incoming, Some(&verified), &denial).await;
    }
    let (to, source) = conn.program(verified.to.address);
    let dialled = conn.local.dial_app(&conn.shared, to, source);
    let (mut app, _dialled) = match dialled.await {
        Ok(dialled) => dialled,
        Err(error) => {
            let denial = requests::denial(&error);
            return refuse(conn, incoming, Some(&verified), &denial).await;
        }
    };
    let Some(mut tunnel) = accept(conn, incoming) else {
        return;
    };
    let carried = Carried::default();
    carry(conn, &verified, &mut tunnel, &mut app, &carried).await;
}

fn priority(verified: &Verified) -> Priority {
    if verified.to.retried {
        Priority::Low
    } else {
        Priority::Default
    }
}

fn accept(conn: &Conn, incoming: Incoming<'static>) -> Option<Tunnel> {
    match incoming.into_tunnel() {
        Ok(tunnel) => Some(tunnel),
        Err(error) => {
            tracing::debug!(from = %conn.from, %error, "a caller was gone before its stream began");
            None
        }
    }
}

/// The destination of a CONNECT stream: its `:authority`, which the private field, where one is, must repeat.
fn destination(conn: &Conn, incoming: &Incoming<'_>) -> Result<Rc<Verified>, Denial> {
    let authority = incoming.head.authority.as_ref();
    let address: SocketAddr = authority
        .and_then(|authority| std::str::from_utf8(authority).ok())
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| super::forged("CONNECT names no address and port".into()))?;
    let fields = &incoming.head.fields;
    if let Some(to) = fields.get(metadata::TO).filter(|_| conn.leno) {
        let verified = conn.verified(to, fields.get(metadata::FROM))?;
        if verified.to.address != address {
            return Err(super::forged(format!(
                "CONNECT says {address}, its metadata {}",
                verified.to.address
            )));
        }
        return Ok(verified);
    }
    let info = conn.info()?;
    let to = To {
        address,
        service: None,
        http2: false,
        can_retry: false,
        retried: false,
    };
    conn.verify(&info, to, None).map(Rc::new)
}

/// Carries bytes between a caller and the program.
pub(super) async fn carry<A, B>(
    conn: &Conn,
    verified: &Verified,
    caller: &mut A,
    app: &mut B,
    carried: &Carried,
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let begun = Instant::now();
    let _open = Open::new(Gauge::OpenStreams);
    let record = &conn.shared.record;
    let edge = requests::edge(conn, Some(verified), Protocol::Tcp);
    record.opened(edge);
    let idle = conn.shared.config.limits.stream_idle;
    let ending = verified.admission.ending.thrown();
    let told = Told::new(record, edge, carried);
    let end = told
        .while_running(splice(caller, app, carried, idle, ending))
        .await;
    if end == End::Idle {
        limit(Limit::StreamIdle);
    }
    let id = fastrand::u64(..);
    let refusal = (end == End::Cancelled).then_some(Refusal::StreamEnded);
    if let Some(reason) = refusal {
        let why = verified.admission.why_ended();
        conn.note(id, &Denial::new(reason, why), Some(&verified.to));
    }
    let id = refusal.map(|_| id);
    closed(conn, Some(verified), carried, refusal, begun, id);
    end
}

fn closed(
    conn: &Conn,
    verified: Option<&Verified>,
    carried: &Carried,
    refusal: Option<Refusal>,
    begun: Instant,
    refusal_id: Option<u64>,
) {
    let identity = conn.local.identity().filter(|_| conn.peer.is_some());
    let to = verified.map(|verified| &verified.to);
    let service = to
        .and_then(|to| to.service.as_ref())
        .map(|(service, _)| service.to_string());
    let line = Finished {
        local: &conn.local,
        reporter: Reporter::Destination,
        edge: requests::edge(conn, verified, Protocol::Tcp),
        protocol: Protocol::Tcp,
        outcome: RequestOutcome {
            response_code: 0,
            grpc_status: None,
            refusal,
            duration: begun.elapsed(),
            first_byte: carried.first_byte(),
            request_bytes: carried.sent.get(),
            response_bytes: carried.received.get(),
        },
        counted: false,
        head: None,
        from: Some(conn.from),
        to: Some(conn.at),
        upstream: to.map(|to| to.address),
        service: service.as_deref(),
        route: None,
        source: conn.caller(),
        destination: identity.as_ref(),
        mtls: conn.peer.is_some(),
        refusal_id,
        rule: None,
    };
    let (sent, received) = carried.take_untold();
    // Istio counts as sent what went to the caller.
    conn.shared.record.closed(&line, (received, sent));
}

/// Notes that bytes were refused; gives the field that tells a caller in the mesh.
pub(super) fn refused(conn: &Conn, verified: Option<&Verified>, denial: &Denial) -> String {
    let id = fastrand::u64(..);
    conn.note(id, denial, verified.map(|verified| &verified.to));
    let edge = requests::edge(conn, verified, Protocol::Tcp);
    conn.shared.record.opened(edge);
    let carried = Carried::default();
    closed(
        conn,
        verified,
        &carried,
        Some(denial.reason),
        Instant::now(),
        Some(id),
    );
    metadata::refused_field(denial.reason, &conn.local.name(), id)
}

async fn refuse(conn: &Conn, incoming: Incoming<'_>, verified: Option<&Verified>, denial: &Denial) {
    let field = refused(conn, verified, denial);
    // What asks for no address at all breaks HBONE; everything else is an answer about the destination.
    let status = match denial.reason {
        Refusal::ForgedDestination if verified.is_none() && !names_address(&incoming) => 400,
        reason => reason.status(),
    };
    let mut head = ResponseHead::new(status);
    head.fields.push(metadata::REFUSED, field);
    let text = bytes::Bytes::from(format!("{}\n", denial.detail));
    if let Err(error) = incoming.reply.respond(head, text).await {
        tracing::trace!(%error, "a refused caller did not wait for its answer");
    }
}

fn names_address(incoming: &Incoming<'_>) -> bool {
    incoming
        .head
        .authority
        .as_ref()
        .and_then(|authority| std::str::from_utf8(authority).ok())
        .is_some_and(|text| text.parse::<SocketAddr>().is_ok())
}

/// Carries bytes of a caller from outside, what was read already first.
pub(super) async fn carry_plain<A, B>(
    conn: &Conn,
    verified: &Verified,
    caller: &mut A,
    app: &mut B,
    prefix: BytesMut,
    said: BytesMut,
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    // Who speaks second has waited since it came.
    let waits = if said.is_empty() {
        Instant::now()
    } else {
        conn.begun
    };
    let carried = Carried::since(waits.into(), prefix.len(), said.len());
    if hand_on(caller, app, &prefix, &said).await.is_err() {
        return End::Failed;
    }
    drop((prefix, said));
    carry(conn, verified, caller, app, &carried).await
}
