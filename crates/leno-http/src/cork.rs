//! Corked writes.
use std::{io, pin::Pin, rc::Rc, task::{Context, Poll}};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
/// The flush list of one worker. Clones are the same list.
#[derive(Clone, Debug)]
pub struct Corker(Rc<()>);
impl Corker {
    /// The list, and the future that flushes it: spawn it once per worker; it never ends while the list lives.
    #[must_use]
    pub fn new() -> (Self, impl Future<Output = ()> + 'static) { (Self(Rc::new(())), std::future::pending()) }
}
/// Coalesces small writes until the worker's run queue is empty.
#[derive(Debug)]
pub struct Corked<IO>(IO);
impl<IO: AsyncRead + AsyncWrite + Unpin + 'static> Corked<IO> {
    /// Corks `io`; give it to `client::H2::handshake` or `server::H2::handshake`.
    pub fn new(io: IO, _corker: &Corker) -> Self { Self(io) }
}
impl<IO: Unpin> AsyncRead for Corked<IO> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> { todo!() }
}
impl<IO: Unpin> AsyncWrite for Corked<IO> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> { todo!() }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> { todo!() }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> { todo!() }
}
