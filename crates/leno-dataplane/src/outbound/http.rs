//! The HTTP connections of programs.

use std::{io, rc::Rc};

use bytes::BytesMut;
use leno_http::Incoming;
use tokio::net::TcpStream;

use super::{Flow, requests};
use crate::http_server;

/// Serves an HTTP/1 connection.
pub(super) async fn http1(flow: &Rc<Flow>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    let exchange = async |incoming: Incoming<'_>| requests::exchange(flow, incoming).await;
    http_server::http1(&flow.shared, &flow.local.stop, stream, prefix, exchange).await
}

/// Serves an HTTP/2 connection in clear.
pub(super) async fn http2(flow: &Rc<Flow>, stream: TcpStream, prefix: BytesMut) -> io::Result<()> {
    let flow_ = Rc::clone(flow);
    let exchange = Rc::new(async move |incoming: Incoming<'static>| {
        requests::exchange(&flow_, incoming).await
    });
    let stop = &flow.local.stop;
    http_server::http2(
        &flow.shared,
        stop,
        stream,
        prefix,
        "outbound-stream",
        exchange,
    )
    .await
}
