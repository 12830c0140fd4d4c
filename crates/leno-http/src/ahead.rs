//! Reads ahead of TLS: rustls asks for 4 KiB at a time, which for a burst of answers or a large body is a system call
//! for each.
//!
//! Invariant: what was read and not taken is given before anything else is read; a connection at rest holds no memory.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// One read takes so much at most.
const SCRATCH: usize = 64 * 1024;
/// A read of this much makes the next one go into a buffer of the connection's own, which saves a copy.
const BULK: usize = 32 * 1024;

thread_local! {
    static SHARED: RefCell<Vec<MaybeUninit<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Reads what is there in one go, however little is asked for; writes as they are.
#[derive(Debug)]
pub struct ReadAhead<IO> {
    io: IO,
    held: BytesMut,
    bulk: bool,
}

impl<IO> ReadAhead<IO> {
    /// Reads ahead of `io`; for a stream that TLS is to be laid over.
    #[must_use]
    pub fn new(io: IO) -> Self {
        Self {
            io,
            held: BytesMut::new(),
            bulk: false,
        }
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.held.len().min(buffer.remaining());
        buffer.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.advance(count);
    }
}

impl<IO: AsyncRead + Unpin> ReadAhead<IO> {
    /// Small reads go by a buffer that all connections of a worker share.
    fn poll_shared(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        SHARED.with(|shared| {
            let mut shared = shared.borrow_mut();
            if shared.is_empty() {
                shared.resize(SCRATCH, MaybeUninit::uninit());
            }
            let mut space = ReadBuf::uninit(&mut shared);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut space))?;
            let filled = space.filled();
            let (now, later) = filled.split_at(filled.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.held.extend_from_slice(later);
            Poll::Ready(Ok(filled.len()))
        })
    }

    fn poll_bulk(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        self.held.reserve(SCRATCH);
        let read = pin!(self.io.read_buf(&mut self.held)).poll(cx);
        self.give(buffer);
        read
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut read = Poll::Ready(Ok(()));
        if !this.held.is_empty() || buffer.remaining() == 0 {
            this.give(buffer);
        } else {
            let count = if this.bulk {
                this.poll_bulk(cx, buffer)
            } else {
                this.poll_shared(cx, buffer)
            };
            this.bulk = matches!(count, Poll::Ready(Ok(BULK..)));
            read = count.map_ok(|_| ());
        }
        if this.held.is_empty() && !this.bulk {
            this.held = BytesMut::new();
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // rustls always writes vectored; send(2) is cheaper than writev(2), and one record is the rule.
        match slices {
            [only] => Pin::new(&mut self.io).poll_write(cx, only),
            _ => Pin::new(&mut self.io).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
