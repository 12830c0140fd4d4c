//! Connections to upstreams.
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};
use crate::{ClientError, Limits, RequestHead, ResponseHead, Tunnel};
/// A cheap handle on a multiplexed connection; clones are the same connection.
#[derive(Clone, Debug)]
pub struct H2(Rc<()>);
impl H2 {
    /// Sends our preface. The second value drives the connection: its owner spawns it.
    ///
    /// # Errors
    /// [`ClientError`] when the connection fails.
    pub async fn handshake<IO: AsyncRead + AsyncWrite + Unpin + 'static>(_io: IO, _limits: Rc<Limits>) -> Result<(Self, impl Future<Output = ()> + 'static), ClientError> { if true { todo!() } Ok((Self(Rc::new(())), async {})) }
    /// Whether the peer allows one more stream now (MAX_CONCURRENT_STREAMS) and is not going away.
    #[must_use]
    pub fn has_capacity(&self) -> bool { todo!() }
    /// Streams open through this connection.
    #[must_use]
    pub fn open_streams(&self) -> usize { todo!() }
    /// Whether it takes no further stream: GOAWAY, failed, or closed by us.
    #[must_use]
    pub fn is_closing(&self) -> bool { todo!() }
    /// Starts no further stream; the connection ends when the open ones have.
    pub fn close_gracefully(&self) { todo!() }
    /// Opens a CONNECT or extended CONNECT stream.
    ///
    /// # Errors
    /// [`ClientError`]; an answer other than 2xx is no error: look at the head. The tunnel then carries its body.
    pub async fn tunnel(&self, _head: RequestHead) -> Result<(ResponseHead, Tunnel), ClientError> { todo!() }
    /// Whether names keep their HTTP/1 case on this hop by means of [`crate::CASE_FIELD`] (default: yes).
    pub fn carry_case(&self, _carry: bool) { todo!() }
}
/// An HTTP/1 connection to an application, used by one exchange at a time.
#[derive(Debug)]
pub struct H1(());
impl H1 {
    /// Takes over a connection. A TCP stream is split without a lock.
    pub fn new<IO: AsyncRead + AsyncWrite + Unpin + 'static>(_io: IO, _limits: Rc<Limits>) -> Self { todo!() }
    /// Whether a further exchange may begin: the peer did not close it, and nothing unasked came.
    #[must_use]
    pub fn is_reusable(&mut self) -> bool { todo!() }
}
