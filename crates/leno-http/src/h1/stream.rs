//! The two halves of a connection. TCP is split by tokio without a lock; any other stream is shared by its halves on
//! one thread.

use std::{
    any::Any,
    cell::RefCell,
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Any stream but TCP.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<IO: AsyncRead + AsyncWrite + Unpin> Duplex for IO {}

/// A stream its two halves share.
pub(crate) type Shared = Rc<RefCell<dyn Duplex>>;

/// Where bytes come from.
pub(crate) enum ReadHalf {
    Tcp(OwnedReadHalf),
    Shared(Shared),
}

/// Where bytes go.
pub(crate) enum WriteHalf {
    Tcp(OwnedWriteHalf),
    Shared(Shared),
}

/// Splits a connection.
pub(crate) fn split<IO: AsyncRead + AsyncWrite + Unpin + 'static>(io: IO) -> (ReadHalf, WriteHalf) {
    let mut io = Some(io);
    let any: &mut dyn Any = &mut io;
    if let Some(tcp) = any
        .downcast_mut::<Option<TcpStream>>()
        .and_then(Option::take)
    {
        let (read, write) = tcp.into_split();
        return (ReadHalf::Tcp(read), WriteHalf::Tcp(write));
    }
    let shared: Shared = match io {
        Some(io) => Rc::new(RefCell::new(io)),
        None => unreachable!("only a TCP stream was taken out"),
    };
    (ReadHalf::Shared(shared.clone()), WriteHalf::Shared(shared))
}

impl ReadHalf {
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Shared(shared) => Pin::new(&mut *shared.borrow_mut()).poll_read(cx, buffer),
        }
    }

    /// Whether nothing is there to be read, not even the end. What is there is lost: nobody may use the stream then.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        match self {
            Self::Tcp(half) => matches!(
                half.as_ref().try_read(&mut byte),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock
            ),
            Self::Shared(shared) => {
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(&mut *shared.borrow_mut())
                    .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
                    .is_pending()
            }
        }
    }

    /// Reads into the room `buffer` has.
    pub(crate) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(half) => pin!(half.read_buf(buffer)).poll(cx),
            Self::Shared(shared) => pin!((*shared.borrow_mut()).read_buf(buffer)).poll(cx),
        }
    }
}

impl WriteHalf {
    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match (self, slices) {
            // send(2) is cheaper than writev(2), and one piece is the rule.
            (Self::Tcp(half), [only]) => Pin::new(half).poll_write(cx, only),
            (Self::Tcp(half), _) => Pin::new(half).poll_write_vectored(cx, slices),
            (Self::Shared(shared), _) => {
                let mut io = shared.borrow_mut();
                if io.is_write_vectored() {
                    return Pin::new(&mut *io).poll_write_vectored(cx, slices);
                }
                let first = slices.iter().find(|slice| !slice.is_empty());
                Pin::new(&mut *io).poll_write(cx, first.map_or(&[][..], |slice| slice))
            }
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Shared(shared) => Pin::new(&mut *shared.borrow_mut()).poll_flush(cx),
        }
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Shared(shared) => Pin::new(&mut *shared.borrow_mut()).poll_shutdown(cx),
        }
    }

    /// The connection will end by a reset: a body that ends by close and is cut short must not look whole.
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp(half) = self
            && let Err(error) = half.as_ref().set_zero_linger()
        {
            tracing::debug!(%error, "a connection could not be set to end by reset");
        }
    }
}
