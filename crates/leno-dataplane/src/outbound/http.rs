//! The HTTP connections of programs.

use std::{io, rc::Rc, time::Instant};

use bytes::BytesMut;
use leno_http::{Incoming, ServerError};
use tokio::net::TcpStream;

use super::{Denial, Flow, requests};
use crate::http_server::{self, Label};

// In places of their own: a connection that has not said its first word yet is small.

/// Serves an HTTP/1 connection.
pub(super) async fn http1(flow: &Rc<Flow>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    Box::pin(serve_http1(flow, stream, prefix)).await
}

/// Serves an HTTP/2 connection in clear.
pub(super) async fn http2(flow: &Rc<Flow>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    Box::pin(serve_http2(flow, stream, prefix)).await
}

async fn serve_http1(flow: &Rc<Flow>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    let begun = Instant::now();
    let label = label(flow);
    let id = label.id;
    let exchange = async |incoming: Incoming<'_>| requests::exchange(flow, incoming).await;
    let (shared, stop) = (&flow.shared, &flow.local.stop);
    let served = http_server::http1(shared, stop, stream, prefix, Some(label), exchange).await;
    served.map_err(|error| malformed(flow, id, begun, error))
}

/// Answers what is no HTTP as an HTTP/1 server does.
pub(super) async fn reject(flow: &Rc<Flow>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    let begun = Instant::now();
    let label = label(flow);
    let id = label.id;
    let error = http_server::reject(&flow.shared, stream, prefix, Some(label)).await;
    Err(malformed(flow, id, begun, error))
}

fn label(flow: &Flow) -> Label {
    Label {
        by: flow.local.name(),
        id: fastrand::u64(..),
    }
}

fn malformed(flow: &Flow, id: u64, begun: Instant, error: ServerError) -> io::Error {
    if let Some(reason) = error.refusal() {
        let denial = Denial::new(reason, error.told());
        // A connection of HTTP/2 ends without a status.
        requests::refused(flow, id, begun, &denial, error.status().unwrap_or(0));
    }
    io::Error::other(error)
}

async fn serve_http2(flow: &Rc<Flow>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    let begun = Instant::now();
    let flow_ = Rc::clone(flow);
    let exchange = Rc::new(async move |incoming: Incoming<'static>| {
        requests::exchange(&flow_, incoming).await
    });
    let (stop, places) = (&flow.local.stop, &flow.local.places.outbound);
    let name = "outbound-stream";
    let served =
        http_server::http2(&flow.shared, stop, places, stream, prefix, name, exchange).await;
    served.map_err(|error| malformed(flow, fastrand::u64(..), begun, error))
}
