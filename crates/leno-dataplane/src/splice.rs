//! Bytes both ways, with half-close, an idle limit and an end from outside.
//!
//! Idle streams hold no buffer: bytes are read into one scratch buffer of the worker and written on at once; only what
//! the other side does not take is kept, and nothing more is read until it has.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Bytes read at once.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides closed.
    Closed,
    /// A side failed or reset.
    Failed,
    /// Nothing was said for too long.
    Idle,
    /// Ended from outside.
    Cancelled,
}

/// Bytes carried so far; may be looked at while the stream goes on.
#[derive(Debug)]
pub(crate) struct Carried {
    /// From the caller.
    pub(crate) sent: Cell<u64>,
    /// To the caller.
    pub(crate) received: Cell<u64>,
    told: Cell<(u64, u64)>,
    /// Since when the caller waits: its stream's beginning, or what it said before anybody else.
    waits: Cell<Instant>,
    /// How long it waited.
    first_byte: Cell<Option<Duration>>,
    first_byte_told: Cell<bool>,
}

impl Default for Carried {
    fn default() -> Self {
        Self::since(Instant::now(), 0, 0)
    }
}

impl Carried {
    /// A stream whose caller waits since then, with so many bytes carried already.
    pub(crate) fn since(begun: Instant, sent: usize, received: usize) -> Self {
        Self {
            sent: Cell::new(sent as u64),
            received: Cell::new(received as u64),
            told: Cell::default(),
            waits: Cell::new(begun),
            first_byte: Cell::new((received > 0).then(|| begun.elapsed())),
            first_byte_told: Cell::new(false),
        }
    }

    /// How long the caller waited for the first byte; `None` before it came.
    pub(crate) fn first_byte(&self) -> Option<Duration> {
        self.first_byte.get()
    }

    /// The same, once.
    pub(crate) fn take_first_byte(&self) -> Option<Duration> {
        let first = self.first_byte.get()?;
        (!self.first_byte_told.replace(true)).then_some(first)
    }

    /// Something may have been carried; before that it was so much.
    fn note(&self, sent: u64, received: u64) {
        if received > 0 {
            return;
        }
        if sent == 0 && self.sent.get() > 0 {
            self.waits.set(Instant::now());
        }
        if self.received.get() > 0 {
            self.first_byte.set(Some(self.waits.get().elapsed()));
        }
    }

    /// What was carried since this was last asked: from the caller, to the caller.
    pub(crate) fn take_untold(&self) -> (u64, u64) {
        let (sent, received) = self.told.replace((self.sent.get(), self.received.get()));
        (
            self.sent.get().saturating_sub(sent),
            self.received.get().saturating_sub(received),
        )
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    /// What the writer did not take yet: bytes and how many of them are written.
    rest: Vec<u8>,
    written: usize,
    flushed: bool,
    eof: bool,
    done: bool,
}

impl Half {
    fn new() -> Self {
        Self {
            flushed: true,
            ..Self::default()
        }
    }

    /// Moves what it can; ready when the reader is at its end and the writer was told.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        carried: &Cell<u64>,
        moved: &mut bool,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.poll_rest(cx, writer, moved))?;
            if self.eof {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            match self.poll_read(cx, reader, writer, carried)? {
                Poll::Ready(()) => *moved = true,
                Poll::Pending => {
                    if !self.flushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                        self.flushed = true;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes what is left over.
    fn poll_rest<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        moved: &mut bool,
    ) -> Poll<io::Result<()>> {
        while let Some(left) = self
            .rest
            .get(self.written..)
            .filter(|left| !left.is_empty())
        {
            let count = ready!(Pin::new(&mut *writer).poll_write(cx, left))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.flushed = false;
            *moved = true;
        }
        // A stream that stalled once does not hold its buffer for ever.
        self.rest = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what the writer takes at once.
    fn poll_read<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        carried: &Cell<u64>,
    ) -> io::Result<Poll<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(reader).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(read) => read?,
            }
            let mut bytes = buffer.filled();
            if bytes.is_empty() {
                self.eof = true;
                return Ok(Poll::Ready(()));
            }
            carried.set(carried.get().saturating_add(bytes.len() as u64));
            while !bytes.is_empty() {
                match Pin::new(&mut *writer).poll_write(cx, bytes) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(count)) => {
                        self.flushed = false;
                        bytes = bytes.get(count..).unwrap_or_default();
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                }
            }
            self.rest.extend_from_slice(bytes);
            Ok(Poll::Ready(()))
        })
    }
}

/// Carries bytes between `caller` and `other` until both sides closed, one failed, nothing came for `idle`, or
/// `cancelled` is ready.
pub(crate) async fn splice<A, B>(
    caller: &mut A,
    other: &mut B,
    carried: &Carried,
    idle: Duration,
    cancelled: impl Future<Output = ()>,
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Half::new(), Half::new());
    let mut cancelled = pin!(cancelled);
    let mut sleep = pin!(sleep_until(Instant::now() + idle));
    let mut last = Instant::now();
    std::future::poll_fn(|cx| {
        if cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Cancelled);
        }
        let mut moved = false;
        let before = (carried.sent.get(), carried.received.get());
        let first = up.poll(cx, caller, other, &carried.sent, &mut moved);
        let second = down.poll(cx, other, caller, &carried.received, &mut moved);
        if moved {
            carried.note(before.0, before.1);
            last = Instant::now();
        }
        match (first, second) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(End::Failed),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
            _ => poll_idle(cx, sleep.as_mut(), last + idle),
        }
    })
    .await
}

/// The timer is only moved when it fires: not for each byte.
fn poll_idle(cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>, deadline: Instant) -> Poll<End> {
    while sleep.as_mut().poll(cx).is_ready() {
        if deadline <= Instant::now() {
            return Poll::Ready(End::Idle);
        }
        sleep.as_mut().reset(deadline);
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn bytes_go_both_ways_and_a_half_close_leaves_the_other_direction_open() {
        let (mut near, mut caller) = duplex(64);
        let (mut far, mut other) = duplex(64);
        let carried = Carried::default();
        let work = async {
            near.write_all(&[7; 1000]).await.unwrap();
            near.shutdown().await.unwrap();
            let mut got = Vec::new();
            near.read_to_end(&mut got).await.unwrap();
            got
        };
        let echo = async {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            far.write_all(&got).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let spliced = splice(&mut caller, &mut other, &carried, LONG, pending());
        let (end, got, ()) = tokio::join!(spliced, work, echo);
        assert_eq!((end, got), (End::Closed, vec![7; 1000]));
        assert_eq!((carried.sent.get(), carried.received.get()), (1000, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_first_byte_waits_since_the_beginning_or_since_it_spoke() {
        const LATER: Duration = Duration::from_secs(3);
        for speaks in [false, true] {
            let (mut near, mut caller) = duplex(64);
            let (mut far, mut other) = duplex(64);
            let carried = Carried::default();
            let spliced = splice(&mut caller, &mut other, &carried, LONG, pending());
            let talk = async {
                tokio::time::sleep(LATER).await;
                if speaks {
                    near.write_all(b"hello").await.unwrap();
                    far.read_exact(&mut [0; 5]).await.unwrap();
                }
                assert_eq!(carried.first_byte(), None);
                tokio::time::sleep(LATER).await;
                far.write_all(b"first").await.unwrap();
                near.read_exact(&mut [0; 5]).await.unwrap();
                let waited = if speaks { LATER } else { 2 * LATER };
                assert_eq!(carried.take_first_byte(), Some(waited));
                // Once, whatever comes after it.
                tokio::time::sleep(LATER).await;
                far.write_all(b"second").await.unwrap();
                near.read_exact(&mut [0; 6]).await.unwrap();
                assert_eq!(carried.take_first_byte(), None);
                assert_eq!(carried.first_byte(), Some(waited));
                drop((near, far));
            };
            tokio::join!(spliced, talk);
        }
        // Who spoke before roles were known.
        assert_eq!(Carried::since(Instant::now(), 5, 0).first_byte(), None);
        let said = Carried::since(Instant::now() - LATER, 0, 5);
        assert_eq!(said.first_byte(), Some(LATER));
    }

    #[tokio::test]
    async fn a_stream_ends_from_outside_and_when_nothing_is_said() {
        let (_near, mut caller) = duplex(64);
        let (_far, mut other) = duplex(64);
        let carried = Carried::default();
        let end = splice(&mut caller, &mut other, &carried, LONG, async {}).await;
        assert_eq!(end, End::Cancelled);
        tokio::time::pause();
        let end = splice(&mut caller, &mut other, &carried, LONG, pending()).await;
        assert_eq!(end, End::Idle);
    }

    #[tokio::test]
    async fn what_the_other_side_does_not_take_is_not_read_further() {
        let (mut near, mut caller) = duplex(1024 * 1024);
        let (_far, mut other) = duplex(64);
        near.write_all(&vec![1; 512 * 1024]).await.unwrap();
        let carried = Carried::default();
        let spliced = splice(
            &mut caller,
            &mut other,
            &carried,
            LONG,
            tokio::task::yield_now(),
        );
        assert_eq!(spliced.await, End::Cancelled);
        assert!(carried.sent.get() <= SCRATCH as u64);
        drop(near);
    }
}
