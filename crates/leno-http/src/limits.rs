//! What one peer may make us hold, how long it may take, and how often it hit a ceiling.

use std::{cell::Cell, task::Poll, time::Duration};

/// The ceilings of one connection. What exceeds one is answered or closed, and counted in [`Counters`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message head, first line included; above it a request gets 431.
    pub head_bytes: usize,
    /// Fields of a message head or of trailers.
    pub head_fields: usize,
    /// Bytes of the first line; above it a request gets 431.
    pub line_bytes: usize,
    /// Concurrent streams a peer may open on one HTTP/2 connection.
    pub streams_per_connection: u32,
    /// Receive window of one HTTP/2 stream.
    pub stream_window: u32,
    /// Receive window of an HTTP/2 connection; raised to `stream_window` x `streams_per_connection` if that is more,
    /// but never above `connection_budget`.
    pub connection_window: u32,
    /// Bytes all streams of one HTTP/2 connection together may make us hold: a ceiling to its receive window.
    pub connection_budget: u32,
    /// Bytes of one HTTP/2 stream that may wait to be written.
    pub send_buffer: usize,
    /// From the first byte of an HTTP/1 request head to its last (408), and of an HTTP/2 preface.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this (HTTP/2: by GOAWAY).
    pub idle_timeout: Duration,
    /// Between proxies: a peer from which nothing came for so long, while streams are open, is sent a PING.
    pub ping_after: Duration,
    /// What stays silent so long after that is broken: its streams end. Also how long a client that was told to go may
    /// take to say that it has heard.
    pub ping_timeout: Duration,
    /// Bytes of a request kept to be sent once more when an endpoint proves not to have seen them.
    pub replay_bytes: usize,
    /// Streams a peer may reset before we take them up; more close the connection (rapid reset, CVE-2023-44487).
    pub pending_resets: usize,
    /// Streams we remember for a second after resetting them ourselves: four times those that may be open, as what was
    /// on its way to one that is forgotten counts against the whole connection, and at 1,024 such frames ends it.
    pub reset_streams: usize,
    /// Interim (1xx) responses to one request.
    pub interim_responses: u32,
    /// How long a finished response waits for a request body that is still coming, without progress.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            head_fields: 200,
            line_bytes: 16 * 1024,
            streams_per_connection: 256,
            stream_window: 64 * 1024,
            connection_window: 16 * 1024 * 1024,
            connection_budget: 16 * 1024 * 1024,
            send_buffer: 64 * 1024,
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(300),
            ping_after: Duration::from_secs(4),
            ping_timeout: Duration::from_secs(5),
            replay_bytes: 64 * 1024,
            pending_resets: 32,
            reset_streams: 1_024,
            interim_responses: 16,
            linger: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// The receive window of a connection: at least the sum of its streams', so that stalled ones cannot stop the
    /// others, unless that is above the budget, when fewer streams are offered instead.
    #[must_use]
    pub fn effective_connection_window(&self) -> u32 {
        self.connection_window
            .max(self.stream_window.saturating_mul(self.effective_streams()))
            .clamp(65_535, self.connection_budget.max(65_535))
            .min(i32::MAX.unsigned_abs())
    }

    /// The streams offered: as many as the budget has windows for.
    #[must_use]
    pub fn effective_streams(&self) -> u32 {
        self.streams_per_connection
            .min(self.connection_budget / self.stream_window.max(1))
            .max(1)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often a peer hit a ceiling or broke the protocol, on this thread (one worker). Read by telemetry.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Cell<u64>,)* }

        impl Counters {
            /// Every counter's name and value.
            #[must_use]
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Malformed HTTP/1 requests (400).
    malformed_requests,
    /// Heads above a limit (431).
    heads_too_large,
    /// Heads that did not arrive in time (408).
    head_timeouts,
    /// Transfer codings we do not speak (501).
    unknown_codings,
    /// Malformed HTTP/1 responses from upstreams (502).
    malformed_responses,
    /// Connections closed for lack of a request.
    idle_closes,
    /// HTTP/2 connections closed for breaking the protocol.
    h2_protocol_errors,
    /// HTTP/2 connections closed for abuse (ENHANCE_YOUR_CALM): rapid resets, floods.
    h2_abuse,
    /// HTTP/2 connections whose other end answered no PING: a proxy, or a client that was told to go.
    h2_dead_peers,
    /// Interim responses above the limit.
    interim_overflows,
    /// Times an HTTP/2 stream waited for its peer's window, or for `send_buffer` to be written.
    flow_stalls,
    /// Requests an endpoint proved not to have seen, too large to have been kept for another.
    replay_overflows,
}

thread_local! {
    static COUNTERS: Counters = Counters::default();
}

/// Room for what is to be sent on a stream; waiting for it is counted.
pub(crate) fn counted<T>(room: Poll<T>) -> Poll<T> {
    if room.is_pending() {
        count(|counters| &counters.flow_stalls);
    }
    room
}

impl Counters {
    /// Gives `read` this thread's counters.
    pub fn with<T>(read: impl FnOnce(&Self) -> T) -> T {
        COUNTERS.with(read)
    }
}

/// Adds one to a counter of this thread.
pub(crate) fn count(which: impl FnOnce(&Counters) -> &Cell<u64>) {
    COUNTERS.with(|counters| {
        let cell = which(counters);
        cell.set(cell.get().wrapping_add(1));
    });
}
