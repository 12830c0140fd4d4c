//! Corked writes: small ones are put together and written when the worker's run queue is empty.
//!
//! The h2 crate flushes after each DATA frame of 256 bytes or more, which costs a TLS record and a system call for
//! every response. A [`Corked`] stream says "flushed" at once and puts itself on its worker's list; the list's task
//! goes to the end of the run queue until a whole round added nothing, then writes for all. There are no timers:
//! nothing waits longer than the work that is ready now, and never more than [`ROUNDS`] rounds of it. Where that is much
//! work, its beginning goes out early, so that the peer has something to do meanwhile: see [`EARLY`].
//!
//! Invariant: what was accepted is on the list, or its owner's task has a waker registered with the stream beneath.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A write of this much is not held back.
const BYPASS: usize = 16 * 1024;
/// What was put together is written early when it is this much, then when it is twice as much, and so on to [`BYPASS`].
const EARLY: usize = 2 * 1024;
/// Rounds of the run queue a write may wait for others.
const ROUNDS: u32 = 4;

/// The flush list of one worker. Clones are the same list.
#[derive(Clone, Debug)]
pub struct Corker(Rc<List>);

#[derive(Default)]
struct List {
    due: RefCell<Vec<Weak<dyn Flush>>>,
    /// Writes accepted, to see whether a round added any.
    writes: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    /// The task of the list is gone: nothing may be held back any more.
    ended: Cell<bool>,
}

trait Flush {
    fn flush(&self);
}

struct Inner<IO> {
    io: IO,
    buffer: BytesMut,
    /// About as much as flushes write of late: so much room is made for the next one at once, and it seldom has to grow.
    usual: usize,
    /// So much is held back at most: more with each write since the last flush.
    hold: usize,
    /// The task that drives the stream, as of its last write or flush.
    owner: Option<Waker>,
    on_list: bool,
    failed: Option<io::Error>,
}

/// Coalesces small writes until the worker's run queue is empty; writes of 16 KiB or more pass at once.
pub struct Corked<IO> {
    inner: Rc<RefCell<Inner<IO>>>,
    list: Rc<List>,
}

impl Corker {
    /// The list, and the task that flushes it: spawn it once per worker, on the same `LocalSet` as the connections.
    /// It never ends; without it (or once it is dropped) nothing is held back.
    #[must_use = "nothing is corked before the task runs"]
    pub fn new() -> (Self, impl Future<Output = ()> + 'static) {
        let list = Rc::new(List {
            ended: Cell::new(true),
            ..List::default()
        });
        (
            Self(list.clone()),
            Flusher {
                list,
                rounds: 0,
                seen: 0,
            },
        )
    }
}

/// The task of a list.
struct Flusher {
    list: Rc<List>,
    rounds: u32,
    seen: u64,
}

impl Future for Flusher {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.list.ended.set(false);
        let mut waker = this.list.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        if this.list.due.borrow().is_empty() {
            return Poll::Pending;
        }
        let writes = this.list.writes.get();
        if writes != this.seen && this.rounds < ROUNDS {
            this.seen = writes;
            this.rounds += 1;
            cx.waker().wake_by_ref(); // to the end of the run queue
            return Poll::Pending;
        }
        this.rounds = 0;
        let due = std::mem::take(&mut *this.list.due.borrow_mut());
        due.iter()
            .filter_map(Weak::upgrade)
            .for_each(|stream| stream.flush());
        let mut list = this.list.due.borrow_mut();
        if list.is_empty() {
            // The list keeps its memory.
            *list = due;
            list.clear();
        }
        Poll::Pending
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.list.ended.set(true);
        let due = std::mem::take(&mut *self.list.due.borrow_mut());
        due.iter()
            .filter_map(Weak::upgrade)
            .for_each(|stream| stream.flush());
    }
}

impl<IO: AsyncWrite + Unpin> Flush for RefCell<Inner<IO>> {
    fn flush(&self) {
        let mut inner = self.borrow_mut();
        inner.on_list = false;
        inner.hold = EARLY;
        let less = inner.usual - inner.usual / 16;
        inner.usual = inner.buffer.len().max(less).clamp(512, BYPASS);
        let owner = inner.owner.clone();
        // What cannot be written now wakes the owner, which flushes itself: see `poll_flush`.
        let waker = owner.as_ref().unwrap_or(Waker::noop());
        if let Poll::Ready(Err(error)) = inner.poll_write_out(&mut Context::from_waker(waker)) {
            inner.failed = Some(error);
            waker.wake_by_ref();
        }
    }
}

impl<IO: AsyncWrite + Unpin> Inner<IO> {
    /// Writes the buffer, and flushes what is beneath.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.buffer.advance(count),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.buffer = BytesMut::new(); // an idle connection holds no buffer
        Poll::Ready(Ok(()))
    }

    /// Writes what waits and then `slices`, in one go where the stream can; says how much of `slices` was written.
    fn poll_write_after_buffer(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        const MOST: usize = 16;
        while !self.buffer.is_empty() && self.io.is_write_vectored() {
            let mut all = [IoSlice::new(&[]); MOST];
            let pieces = std::iter::once(IoSlice::new(&self.buffer)).chain(slices.iter().copied());
            let count = all
                .iter_mut()
                .zip(pieces)
                .map(|(place, piece)| *place = piece)
                .count();
            let all = all.get(..count).unwrap_or_default();
            let written = match ready!(Pin::new(&mut self.io).poll_write_vectored(cx, all)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => written,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let ours = written.min(self.buffer.len());
            self.buffer.advance(ours);
            if written > ours {
                self.buffer = BytesMut::new();
                return Poll::Ready(Ok(written - ours));
            }
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn remember(&mut self, cx: &Context<'_>) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if !self
            .owner
            .as_ref()
            .is_some_and(|owner| owner.will_wake(cx.waker()))
        {
            self.owner = Some(cx.waker().clone());
        }
        Ok(())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + 'static> Corked<IO> {
    /// Corks `io`; give it to [`crate::client::H2::handshake`] or [`crate::server::H2::handshake`].
    pub fn new(io: IO, corker: &Corker) -> Self {
        Self {
            inner: Rc::new(RefCell::new(Inner {
                io,
                buffer: BytesMut::new(),
                usual: 512,
                hold: EARLY,
                owner: None,
                on_list: false,
                failed: None,
            })),
            list: corker.0.clone(),
        }
    }

    fn put_on_list(&self, inner: &mut Inner<IO>) {
        if std::mem::replace(&mut inner.on_list, true) {
            return;
        }
        let weak: Weak<RefCell<Inner<IO>>> = Rc::downgrade(&self.inner);
        let mut due = self.list.due.borrow_mut();
        due.push(weak);
        if due.len() == 1
            && let Some(waker) = &*self.list.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + 'static> AsyncRead for Corked<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner.borrow_mut().io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + 'static> AsyncWrite for Corked<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        inner.remember(cx)?;
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if !self.list.ended.get() && total < BYPASS && inner.buffer.len() < inner.hold {
            if inner.buffer.is_empty() {
                let usual = inner.usual;
                inner.buffer.reserve(total.max(usual));
            }
            slices
                .iter()
                .for_each(|slice| inner.buffer.extend_from_slice(slice));
            self.list.writes.set(self.list.writes.get().wrapping_add(1));
            self.put_on_list(&mut inner);
            return Poll::Ready(Ok(total));
        }
        inner.hold = (inner.hold * 2).min(BYPASS);
        inner.poll_write_after_buffer(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.borrow().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        inner.remember(cx)?;
        if inner.on_list && !self.list.ended.get() {
            return Poll::Ready(Ok(()));
        }
        inner.poll_write_out(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        inner.remember(cx)?;
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

impl std::fmt::Debug for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("List")
            .field("due", &self.due.borrow().len())
            .finish_non_exhaustive()
    }
}

impl<IO> std::fmt::Debug for Corked<IO> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Corked")
            .field("buffered", &self.inner.borrow().buffer.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
