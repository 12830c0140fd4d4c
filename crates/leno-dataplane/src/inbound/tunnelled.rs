//! HTTP within a CONNECT stream (HBONE) to a port that is declared to speak it.
//!
//! A peer that is no Leno proxy carries its program's HTTP as bytes. Declared is declared, for it as for callers from
//! outside: refuses what is no HTTP. Invariant: no request begins once its peer's connection drains, and each is asked
//! about under the policy of the moment it begins.

use std::{cell::RefCell, io, rc::Rc};

use bytes::BytesMut;
use leno_http::{Incoming, ServerError, Tunnel};
use leno_telemetry::counters::Limit;
use leno_types::{AppProtocol, Refusal};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{Conn, Verified, bytes as raw, requests};
use crate::{
    counters::limit,
    detect::{self, Spoken},
    http_server::{self, Label},
    metadata,
    outbound::{Denial, tls_to_http},
};

/// Whether a port is declared to speak HTTP.
pub(super) fn is_http(protocol: Option<AppProtocol>) -> bool {
    match protocol {
        Some(AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc) => true,
        Some(AppProtocol::Tcp | AppProtocol::Tls) | None => false,
    }
}

/// Serves the requests that come in a tunnel.
pub(super) async fn serve(conn: &Rc<Conn>, verified: Rc<Verified>, mut tunnel: Tunnel) {
    let mut prefix = BytesMut::new();
    let patience = conn.shared.config.limits.http.idle_timeout;
    let said = timeout(patience, detect::stream(&mut tunnel, &mut prefix));
    let served = match conn.stop.run_until_stopped(said).await {
        // It drains, and nothing has begun here.
        None => tunnel.shutdown().await,
        Some(Err(_)) => {
            limit(Limit::StreamIdle);
            tunnel.shutdown().await
        }
        Some(Ok(Err(error))) => Err(error),
        Some(Ok(Ok(spoken))) => match spoken {
            Spoken::Http1 | Spoken::Connect => http1(conn, verified, tunnel, prefix).await,
            Spoken::Http2 => http2(conn, verified, tunnel, prefix).await,
            Spoken::Bytes => {
                let (id, label) = label(conn);
                let error = http_server::reject(&conn.shared, tunnel, prefix, Some(label)).await;
                Err(malformed(conn, id, error))
            }
            Spoken::Tls => {
                let denial = tls_to_http(verified.to.address.port());
                raw::refused(conn, Some(&verified), &denial);
                tunnel.reset();
                Ok(())
            }
            Spoken::Nothing => Ok(()),
        },
    };
    if let Err(error) = served {
        tracing::debug!(from = %conn.from, %error, "HTTP in a peer's tunnel ended");
    }
}

async fn http1(
    conn: &Rc<Conn>,
    verified: Rc<Verified>,
    tunnel: Tunnel,
    prefix: BytesMut,
) -> io::Result<()> {
    let (id, label) = label(conn);
    let admitted = RefCell::new(verified);
    let exchange = async |incoming: Incoming<'_>| exchange(conn, &admitted, incoming).await;
    let (shared, stop) = (&conn.shared, &conn.stop);
    let served = http_server::http1(shared, stop, tunnel, prefix, Some(label), exchange).await;
    served.map_err(|error| malformed(conn, id, error))
}

async fn http2(
    conn: &Rc<Conn>,
    verified: Rc<Verified>,
    tunnel: Tunnel,
    prefix: BytesMut,
) -> io::Result<()> {
    let (conn_, admitted) = (Rc::clone(conn), RefCell::new(verified));
    let exchange =
        async move |incoming: Incoming<'static>| exchange(&conn_, &admitted, incoming).await;
    let (shared, stop, exchange) = (&conn.shared, &conn.stop, Rc::new(exchange));
    let places = &conn.local.places.tunnelled;
    let name = "tunnelled-stream";
    let served = http_server::http2(shared, stop, places, tunnel, prefix, name, exchange).await;
    served.map_err(|error| malformed(conn, fastrand::u64(..), error))
}

fn label(conn: &Conn) -> (u64, Label) {
    let id = fastrand::u64(..);
    let by = conn.local.name();
    (id, Label { by, id })
}

/// What was no request at all was answered; here it is told.
fn malformed(conn: &Conn, id: u64, error: ServerError) -> io::Error {
    super::told(conn, id, &error);
    io::Error::other(error)
}

/// One request in a tunnel.
async fn exchange(conn: &Rc<Conn>, admitted: &RefCell<Rc<Verified>>, mut incoming: Incoming<'_>) {
    metadata::strip(&mut incoming.head.fields);
    let request = requests::Request::of(conn, &mut incoming);
    let connect = incoming.head.method == http::Method::CONNECT && incoming.head.protocol.is_none();
    let verified = if connect {
        let why = "a port that is declared as HTTP is no proxy";
        Err(Denial::new(Refusal::ClientProtocol, why))
    } else {
        current(conn, admitted)
    };
    match verified {
        Ok(verified) => requests::carry(conn, &verified, request, &mut Some(incoming)).await,
        Err(denial) => {
            Box::pin(requests::refuse(conn, incoming, request, None, denial)).await;
        }
    }
}

/// The tunnel's destination as policy and description have it now.
fn current(conn: &Conn, admitted: &RefCell<Rc<Verified>>) -> Result<Rc<Verified>, Denial> {
    let known = Rc::clone(&admitted.borrow());
    let info = conn.info()?;
    if known.generation == info.generation && !known.admission.revoked.get() {
        return Ok(known);
    }
    let verified = Rc::new(conn.verify(&info, known.to.clone(), None)?);
    admitted.replace(Rc::clone(&verified));
    Ok(verified)
}
