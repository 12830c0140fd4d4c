//! An HTTP/1 connection from a client: one request after the other, in order.
//!
//! Owns keep-alive: a further request is read only when the one before was answered whole and its body read to its
//! end. Answers what is malformed itself and closes: after it nothing on the connection can be trusted.

use std::rc::Rc;

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use crate::{
    Body, Incoming, Limits, Reply, ResponseHead, ServerError, Version,
    h1::{
        Framing, OutFraming, ParseError, ParsedRequest, Reader, Writer, encode_response,
        parse_request, split,
    },
    limits::count,
    reply::{ConnectionState, Label},
    timer::Timer,
};

/// A body of at most this is read to keep a connection that was answered without it.
const SMALL_BODY: u64 = 64 * 1024;
/// Bytes read from a client after the last answer, so that it sees the answer and not a reset.
const LINGER_BYTES: u64 = 1024 * 1024;

/// An HTTP/1 connection from a client.
#[derive(Debug)]
pub struct H1 {
    reader: Reader,
    writer: Writer,
    state: ConnectionState,
    limits: Rc<Limits>,
    timer: Timer,
    /// When the connection became idle, or the first byte of a head came.
    since: Instant,
    served: bool,
    draining: bool,
    over: bool,
    label: Option<Label>,
}

impl H1 {
    /// Takes over a connection; `prefix` is what was read from it already. A TCP stream is split without a lock.
    pub fn new<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
        io: IO,
        prefix: Bytes,
        limits: Rc<Limits>,
    ) -> Self {
        let (read, write) = split(io);
        Self {
            reader: Reader::new(read, &prefix, limits.clone()),
            writer: Writer::new(write),
            state: ConnectionState::default(),
            limits,
            timer: Timer::default(),
            since: Instant::now(),
            served: false,
            draining: false,
            over: false,
            label: None,
        }
    }

    /// The answer to what is malformed says in this field why, by whom, and under which id: `CODE; by=BY; id=ID`.
    pub fn label_refusals(&mut self, field: &'static str, by: Rc<str>, id: u64) {
        self.label = Some(Label { field, by, id });
    }

    /// The next request; `None` when the client closed between requests, was idle too long, or we drain.
    /// Cancel safe. What is malformed is answered here (400, 408, 431, 501, 505) before the error is returned.
    ///
    /// # Errors
    /// [`ServerError`]; the connection is over.
    pub async fn next(&mut self) -> Result<Option<Incoming<'_>>, ServerError> {
        if self.over || !self.settle().await {
            self.over = true;
            return Ok(None);
        }
        let parsed = match self.read_head().await {
            Ok(Some(parsed)) => parsed,
            Ok(None) => {
                self.over = true;
                return Ok(None);
            }
            Err(error) => {
                self.over = true;
                self.answer_error(&error).await;
                return Err(error);
            }
        };
        self.served = true;
        Ok(Some(self.begin(parsed)))
    }

    /// Ends a connection whose first bytes were seen to be no HTTP: answered as [`Self::next`] answers what is
    /// malformed, without waiting for a head that will not come.
    pub async fn reject(mut self) -> ServerError {
        let error = ServerError::Malformed(self.reader.no_request());
        self.answer_error(&error).await;
        error
    }

    /// Closes after the exchange at hand; `next` then gives `None`.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Finishes the exchange before; `false` when the connection cannot go on.
    async fn settle(&mut self) -> bool {
        if !std::mem::take(&mut self.served) {
            return true;
        }
        self.since = Instant::now();
        if self.state.switched.get() || !self.state.complete.get() {
            return false;
        }
        let mut goes_on = self.state.keep_alive.get();
        if !self.reader.is_body_done() {
            let small = self
                .reader
                .body_left()
                .is_some_and(|left| left <= SMALL_BODY);
            goes_on = goes_on && small && self.discard(SMALL_BODY).await;
            if !goes_on {
                self.linger().await;
                return false;
            }
        }
        if !goes_on && let Err(error) = self.writer.shutdown().await {
            tracing::trace!(%error, "the client was gone before the connection was closed");
        }
        goes_on
    }

    /// Reads the body at hand to its end, if that is near; `false` when it is not.
    async fn discard(&mut self, mut room: u64) -> bool {
        let deadline = Instant::now() + self.limits.linger;
        loop {
            let reader = &mut self.reader;
            let piece = std::future::poll_fn(|cx| reader.poll_data(cx));
            match self.timer.within(deadline, piece).await {
                Some(Some(Ok(piece))) => match room.checked_sub(piece.len() as u64) {
                    Some(left) => room = left,
                    None => return false,
                },
                Some(None) => return true,
                Some(Some(Err(_))) | None => return false,
            }
        }
    }

    /// Ends our half and reads a while, so that the client reads our answer before it learns of the end: unread bytes
    /// would make the kernel reset the connection (RFC 9112 9.6).
    async fn linger(&mut self) {
        if self.writer.shutdown().await.is_err() {
            return;
        }
        let deadline = Instant::now() + self.limits.linger;
        self.reader.start_body(Framing::Close);
        let mut room = LINGER_BYTES;
        loop {
            let reader = &mut self.reader;
            let piece = std::future::poll_fn(|cx| reader.poll_data(cx));
            match self.timer.within(deadline, piece).await {
                Some(Some(Ok(piece))) if piece.len() as u64 <= room => room -= piece.len() as u64,
                _ => return,
            }
        }
    }

    async fn read_head(&mut self) -> Result<Option<ParsedRequest>, ServerError> {
        let mut incomplete = false;
        loop {
            let head = match self.reader.take_head(true) {
                Ok(head) => head,
                Err(error) => return Err(error.into()),
            };
            if let Some(head) = head {
                return Ok(Some(parse_request(&head, &self.limits)?));
            }
            let begun = self.reader.has_buffered();
            if !begun && self.draining {
                return Ok(self.close().await);
            }
            if begun && !std::mem::replace(&mut incomplete, true) {
                // Asked only where a head comes in pieces.
                self.since = Instant::now();
            }
            let patience = if begun {
                self.limits.header_timeout
            } else {
                self.limits.idle_timeout
            };
            let reader = &mut self.reader;
            let fill = std::future::poll_fn(|cx| reader.poll_fill(cx));
            match self.timer.within(self.since + patience, fill).await {
                Some(Ok(0)) if begun => return Err(ServerError::Truncated),
                Some(Ok(0)) => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) if begun => return Err(error.into()),
                // A reset between requests is how many clients close.
                Some(Err(_)) => return Ok(None),
                None if begun => return Err(ServerError::HeadTimeout),
                None => {
                    count(|counters| &counters.idle_closes);
                    return Ok(self.close().await);
                }
            }
        }
    }

    async fn close(&mut self) -> Option<ParsedRequest> {
        if let Err(error) = self.writer.shutdown().await {
            tracing::trace!(%error, "the client was gone before the connection was closed");
        }
        None
    }

    fn begin(&mut self, parsed: ParsedRequest) -> Incoming<'_> {
        let ParsedRequest {
            mut head,
            framing,
            declared,
            keep_alive,
        } = parsed;
        let mut expects = false;
        if head.version == Version::Http10 {
            // RFC 9110 10.1.1: an expectation in 1.0 is ignored, and must not be passed on as one of 1.1.
            head.fields.remove("expect");
        } else {
            expects = head
                .fields
                .get("expect")
                .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        }
        self.reader.start_body(framing);
        self.state.keep_alive.set(keep_alive && !self.draining);
        self.state.complete.set(false);
        let left = self.reader.body_left();
        let large = left.is_none_or(|left| left > SMALL_BODY || (expects && left > 0));
        self.state.large_body.set(large);
        Incoming {
            reply: Reply::h1(&head, &mut self.writer, &self.state),
            body: Body::h1(&mut self.reader, declared),
            head: Box::new(head),
        }
    }

    async fn answer_error(&mut self, error: &ServerError) {
        match error {
            ServerError::Malformed(ParseError::TooLarge) => {
                count(|counters| &counters.heads_too_large);
            }
            ServerError::Malformed(ParseError::UnknownCoding) => {
                count(|counters| &counters.unknown_codings);
            }
            ServerError::Malformed(ParseError::Malformed(_) | ParseError::Version) => {
                count(|counters| &counters.malformed_requests);
            }
            ServerError::HeadTimeout => count(|counters| &counters.head_timeouts),
            ServerError::Truncated
            | ServerError::Http2(_)
            | ServerError::Dead
            | ServerError::Io(_) => {}
        }
        let Some(status) = error.status() else {
            return;
        };
        let mut head = ResponseHead::new(status);
        head.fields
            .push(&b"Content-Type"[..], &b"text/plain; charset=utf-8"[..]);
        if let (Some(label), Some(reason)) = (&self.label, error.refusal()) {
            label.write(reason, &mut head.fields);
        }
        let text = format!("{error}\n");
        let framing = OutFraming::Length(text.len() as u64);
        encode_response(
            &head,
            framing,
            false,
            Version::Http11,
            None,
            self.writer.head(),
        );
        self.writer.head().extend_from_slice(text.as_bytes());
        self.linger().await;
    }
}
