//! A connection whose other end has to read: one that takes nothing of what is written for [`WRITE_TIME`] is ended.
//!
//! Without it a client that never reads holds its connection, and what waits to be written on it, for as long as it likes.
//! Invariant: time runs only while something waits to be written; a quiet connection is none that takes nothing.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// How long a client may take nothing of what is sent to it; then its connection ends.
pub(super) const WRITE_TIME: Duration = Duration::from_secs(60);

/// A stream with that patience.
pub(super) struct Patient<IO> {
    io: IO,
    /// Runs since a write could not go on.
    waits: Option<Pin<Box<Sleep>>>,
    ended: Arc<AtomicU64>,
}

impl<IO> Patient<IO> {
    /// Counts it in `ended` when it ends so.
    pub(super) fn new(io: IO, ended: Arc<AtomicU64>) -> Self {
        Self {
            io,
            waits: None,
            ended,
        }
    }

    fn check<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = None;
            return written;
        }
        let sleep = || Box::pin(tokio::time::sleep(WRITE_TIME));
        ready!(self.waits.get_or_insert_with(sleep).as_mut().poll(context));
        self.ended.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing of what is sent to it",
        )))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Patient<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Patient<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.check(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.check(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.check(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(context);
        self.check(context, shut)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_waited_for_so_long_and_who_takes_little_is_served() {
        let (io, mut client) = tokio::io::duplex(1_000);
        let ended = Arc::<AtomicU64>::default();
        let mut io = Patient::new(io, Arc::clone(&ended));
        let reads = async {
            for _ in 0..5 {
                tokio::time::sleep(WRITE_TIME / 2).await;
                client.read_exact(&mut [0; 1_000]).await.unwrap();
            }
            // A quiet connection may be so for as long as it likes.
            tokio::time::sleep(WRITE_TIME * 3).await;
            client
        };
        let (written, client) = tokio::join!(io.write_all(&[0; 5_000]), reads);
        written.unwrap();
        let began = Instant::now();
        let error = io.write_all(&[0; 5_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), WRITE_TIME);
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        drop(client);
    }
}
