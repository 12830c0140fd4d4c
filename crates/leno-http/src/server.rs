//! Connections from clients.
use std::rc::Rc;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use crate::{Incoming, Limits, ServerError};
/// An HTTP/1 connection from a client.
#[derive(Debug)]
pub struct H1(());
impl H1 {
    /// Takes over a connection; `prefix` is what was read from it already. A TCP stream is split without a lock.
    pub fn new<IO: AsyncRead + AsyncWrite + Unpin + 'static>(_io: IO, _prefix: Bytes, _limits: Rc<Limits>) -> Self { todo!() }
    /// The next request; `None` when the client closed between requests, was idle too long, or we drain.
    /// Cancel safe. What is malformed is answered here (400, 408, 431, 501, 505) before the error is returned.
    ///
    /// # Errors
    /// [`ServerError`]; the connection is over.
    pub async fn next(&mut self) -> Result<Option<Incoming<'_>>, ServerError> { todo!() }
    /// Closes after the exchange at hand; `next` then gives `None`.
    pub fn drain(&mut self) { todo!() }
}
/// An HTTP/2 connection from a client.
#[derive(Debug)]
pub struct H2<IO>(IO);
impl<IO: AsyncRead + AsyncWrite + Unpin + 'static> H2<IO> {
    /// Exchanges prefaces; `prefix` is what was read already.
    ///
    /// # Errors
    /// [`ServerError`] when the client breaks the protocol or is too slow.
    pub async fn handshake(_io: IO, _limits: Rc<Limits>, _prefix: Bytes) -> Result<Self, ServerError> { todo!() }
    /// The next request; drives the connection, so it must be polled while requests are served elsewhere. `None` when
    /// the connection is over. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Incoming<'static>, ServerError>> { todo!() }
    /// Tells the client to open no further streams: GOAWAY twice, as RFC 9113 6.8 advises; `next` gives `None` once
    /// the last stream is done.
    pub fn drain(&mut self) { todo!() }
    /// Whether names keep their HTTP/1 case on this hop by means of [`crate::CASE_FIELD`] (default: yes).
    pub fn carry_case(&mut self, _carry: bool) { todo!() }
}
