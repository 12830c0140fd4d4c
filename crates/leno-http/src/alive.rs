//! Whether the other end of an HTTP/2 connection is still there.
//!
//! A peer from which nothing comes while streams are open is asked (PING, RFC 9113 6.7), and given up when still
//! nothing comes. Refuses to judge by the clock: silence is counted in ticks at which we listened, and a machine that
//! stood still has missed one of them, however long it did.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use h2::PingPong;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use crate::{Limits, client::nobody};

/// How often we look whether something came.
const TICK: Duration = Duration::from_secs(1);

/// Counts how long a peer has been silent.
#[derive(Debug)]
pub(crate) struct Silence {
    heard: Rc<Cell<bool>>,
    ticks: Interval,
    silent: u32,
    ask_at: u32,
    give_up_at: u32,
}

/// What silence calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Wait,
    Ask,
    GiveUp,
}

impl Silence {
    /// `heard` is set by the [`Watched`] stream of the same connection.
    pub(crate) fn new(heard: Rc<Cell<bool>>, limits: &Limits) -> Self {
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let whole = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let ask_at = whole(limits.ping_after).max(1);
        Self {
            heard,
            ticks,
            silent: 0,
            ask_at,
            give_up_at: ask_at.saturating_add(whole(limits.ping_timeout).max(1)),
        }
    }

    /// Asks the peer where it has been silent for long; whether it has been so for too long. To be polled after the
    /// connection: what has arrived has been read then.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        open: bool,
        ping: impl FnOnce(&mut dyn FnMut(&mut PingPong)),
    ) -> bool {
        let mut act = Act::Wait;
        while self.ticks.poll_tick(cx).is_ready() {
            act = self.tick(open);
        }
        if act == Act::Ask {
            ping(&mut ask);
        }
        act == Act::GiveUp
    }

    fn tick(&mut self, open: bool) -> Act {
        let heard = self.heard.replace(false);
        self.silent = if heard || !open { 0 } else { self.silent + 1 };
        match self.silent {
            silent if silent >= self.give_up_at => Act::GiveUp,
            silent if silent == self.ask_at => Act::Ask,
            _ => Act::Wait,
        }
    }
}

fn ask(ping: &mut PingPong) {
    // What answered the one before was heard.
    let _answered = ping.poll_pong(&mut nobody());
    if let Err(error) = ping.send_ping(h2::Ping::opaque()) {
        tracing::trace!(%error, "no ping is sent: one is on its way, or the connection is over");
    }
}

/// A stream that notes when something came.
#[derive(Debug)]
pub(crate) struct Watched<IO> {
    io: IO,
    heard: Rc<Cell<bool>>,
}

impl<IO> Watched<IO> {
    pub(crate) fn new(io: IO) -> (Self, Rc<Cell<bool>>) {
        let heard = Rc::new(Cell::new(false));
        let watched = Self {
            io,
            heard: Rc::clone(&heard),
        };
        (watched, heard)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if read.is_ready() {
            self.heard.set(true);
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
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
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
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
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_is_asked_about_then_given_up_and_any_word_begins_it_anew() {
        let heard = Rc::new(Cell::new(false));
        let mut silence = Silence::new(Rc::clone(&heard), &Limits::default());
        let acts =
            |silence: &mut Silence, open| (0..9).map(|_| silence.tick(open)).collect::<Vec<_>>();
        use Act::{Ask, GiveUp, Wait};
        let all = [Wait, Wait, Wait, Ask, Wait, Wait, Wait, Wait, GiveUp];
        assert_eq!(acts(&mut silence, true), all);
        // Without streams nobody waits for the peer.
        assert_eq!(acts(&mut silence, false), [Wait; 9]);
        for _ in 0..3 {
            silence.tick(true);
        }
        heard.set(true);
        assert_eq!(silence.tick(true), Wait);
        assert_eq!(acts(&mut silence, true), all);
    }
}
