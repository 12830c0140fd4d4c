//! An HTTP/2 connection from a client.
//!
//! Owns the connection's driving: whoever calls [`H2::next`] moves every stream of it. Windows, stream counts, header
//! sizes and resets are bounded by [`Limits`]; a client that goes beyond is closed with ENHANCE_YOUR_CALM and counted.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    Body, Incoming, Limits, Reply, ServerError,
    alive::{Silence, Watched},
    convert::request_from_h2,
    h1::ParseError,
    limits::count,
    timer::{Timer, Timers},
};

/// Hears of a request that is answered here as malformed; the field to answer it with.
type Malformed = dyn Fn(&ServerError) -> (&'static str, String);

/// How far a connection is on its way out, as the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// A first GOAWAY, and a PING whose answer says that it was read.
    Asked,
    /// There was no answer: the last GOAWAY, after which nothing is waited for but that it is written.
    Told,
}

/// An HTTP/2 connection from a client.
pub struct H2<IO> {
    connection: h2::server::Connection<Prefixed<Watched<IO>>, Bytes>,
    limits: Rc<Limits>,
    carry_case: bool,
    over: bool,
    timer: Timer,
    /// Of its exchanges.
    timers: Timers,
    idle_since: Option<Instant>,
    leaving: Leaving,
    malformed: Option<Box<Malformed>>,
    heard: Rc<Cell<bool>>,
    /// Where the client is asked whether it is there.
    asked: Option<Box<(Silence, Option<h2::PingPong>)>>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin + 'static> H2<IO> {
    /// Exchanges prefaces; `prefix` is what was read already.
    ///
    /// # Errors
    /// [`ServerError`] when the client breaks the protocol or is too slow.
    pub async fn handshake(io: IO, limits: Rc<Limits>, prefix: Bytes) -> Result<Self, ServerError> {
        let (io, heard) = Watched::new(io);
        let handshake = h2::server::Builder::new()
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.effective_connection_window())
            .max_concurrent_streams(limits.effective_streams())
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(limits.send_buffer)
            .max_concurrent_reset_streams(limits.reset_streams)
            .max_pending_accept_reset_streams(limits.pending_resets)
            .enable_connect_protocol()
            .handshake(Prefixed { io, prefix });
        match tokio::time::timeout(limits.header_timeout, handshake).await {
            Ok(Ok(connection)) => Ok(Self {
                connection,
                limits,
                carry_case: true,
                over: false,
                timer: Timer::default(),
                timers: Timers::default(),
                idle_since: None,
                leaving: Leaving::No,
                malformed: None,
                heard,
                asked: None,
            }),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => {
                count(|counters| &counters.head_timeouts);
                Err(ServerError::HeadTimeout)
            }
        }
    }

    /// The next request; drives the connection, so it must be polled while requests are served elsewhere. `None` when
    /// the connection is over. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Incoming<'static>, ServerError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// A request is taken apart where it is found: whole, it would be moved through each future around this.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Incoming<'static>, ServerError>>> {
        while !self.over {
            let accepted = self.poll_accept(cx);
            if accepted.is_pending() && self.is_dead(cx) {
                self.over = true;
                count(|counters| &counters.h2_dead_peers);
                return Poll::Ready(Some(Err(ServerError::Dead)));
            }
            match ready!(accepted) {
                Some(Ok((request, respond))) => {
                    if let Some(incoming) = self.begin(request, respond) {
                        return Poll::Ready(Some(Ok(incoming)));
                    }
                }
                Some(Err(error)) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(failed(error))));
                }
                None => self.over = true,
            }
        }
        Poll::Ready(None)
    }

    /// Tells the client to open no further streams: GOAWAY twice, as RFC 9113 6.8 advises; `next` gives `None` once
    /// the last stream is done. A client that answers no PING is waited for no longer than others are.
    pub fn drain(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Asked;
            self.idle_since = None;
        }
        self.connection.graceful_shutdown();
    }

    /// Whether names keep their HTTP/1 case on this hop by means of [`crate::CASE_FIELD`] (default: yes).
    pub fn carry_case(&mut self, carry: bool) {
        self.carry_case = carry;
    }

    /// What is malformed, and answered here for that, is told to `tell`, and answered with the field that it gives.
    pub fn tell_malformed(
        &mut self,
        tell: impl Fn(&ServerError) -> (&'static str, String) + 'static,
    ) {
        self.malformed = Some(Box::new(tell));
    }

    /// From now on a client that is silent while streams are open is asked whether it is there.
    pub fn keep_alive(&mut self) {
        let silence = Silence::new(Rc::clone(&self.heard), &self.limits);
        self.asked = Some(Box::new((silence, self.connection.ping_pong())));
    }

    fn is_dead(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(asked) = &mut self.asked else {
            return false;
        };
        let (silence, ping) = &mut **asked;
        silence.poll(cx, self.connection.has_streams(), |ask| {
            if let Some(ping) = ping {
                ask(ping);
            }
        })
    }

    #[expect(clippy::type_complexity, reason = "it is the h2 crate's")]
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        Option<
            Result<
                (
                    http::Request<h2::RecvStream>,
                    h2::server::SendResponse<Bytes>,
                ),
                h2::Error,
            >,
        >,
    > {
        if let Poll::Ready(accepted) = self.connection.poll_accept(cx) {
            self.idle_since = None;
            return Poll::Ready(accepted);
        }
        if self.connection.has_streams() {
            self.idle_since = None;
            return Poll::Pending;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        let wait = match self.leaving {
            Leaving::No => self.limits.idle_timeout,
            Leaving::Asked | Leaving::Told => self.limits.ping_timeout,
        };
        if !self.timer.poll(cx, since + wait) {
            return Poll::Pending;
        }
        self.idle_since = None;
        match self.leaving {
            Leaving::No => {
                count(|counters| &counters.idle_closes);
                self.drain();
            }
            Leaving::Asked => {
                count(|counters| &counters.h2_dead_peers);
                self.leaving = Leaving::Told;
                self.connection.abrupt_shutdown(h2::Reason::NO_ERROR);
            }
            // It does not even read.
            Leaving::Told => return Poll::Ready(None),
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// A request as ours; what is malformed beyond what the h2 crate looks at is answered here.
    fn begin(
        &self,
        request: http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
    ) -> Option<Incoming<'static>> {
        let too_many = request.headers().len() > self.limits.head_fields;
        let error = match request_from_h2(request) {
            Ok((head, declared, stream)) if !too_many => {
                return Some(Incoming {
                    reply: Reply::h2(&head, respond, self.carry_case, self.timers.clone()),
                    body: Body::h2(stream, declared),
                    head: Box::new(head),
                });
            }
            Ok(_) => {
                count(|counters| &counters.heads_too_large);
                ParseError::TooLarge
            }
            Err(reason) => {
                count(|counters| &counters.malformed_requests);
                tracing::debug!(reason, "malformed HTTP/2 request");
                ParseError::Malformed(reason)
            }
        };
        let mut response = http::Response::new(());
        let status = http::StatusCode::from_u16(error.status());
        *response.status_mut() = status.unwrap_or(http::StatusCode::BAD_REQUEST);
        if let Some(tell) = &self.malformed {
            let (field, value) = tell(&ServerError::Malformed(error));
            if let Ok(value) = http::HeaderValue::from_str(&value) {
                response.headers_mut().insert(field, value);
            }
        }
        if let Err(error) = respond.send_response(response, true) {
            tracing::trace!(%error, "the client of a malformed request is gone");
        }
        None
    }
}

fn failed(error: h2::Error) -> ServerError {
    if error.is_io() {
        return match error.into_io() {
            Some(error) => ServerError::Io(error),
            None => ServerError::Truncated,
        };
    }
    if error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) {
        count(|counters| &counters.h2_abuse);
    } else {
        count(|counters| &counters.h2_protocol_errors);
    }
    ServerError::Http2(error)
}

/// A stream some bytes of which were read already.
struct Prefixed<IO> {
    io: IO,
    prefix: Bytes,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prefixed<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(self.prefix.get(..count).unwrap_or_default());
        self.prefix.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prefixed<IO> {
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

impl<IO> std::fmt::Debug for H2<IO> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2")
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
