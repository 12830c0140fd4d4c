//! Where the answer to one request goes, whichever version the client speaks.
//!
//! Invariant: one final answer. What is not answered, or cut short, ends the connection (HTTP/1) or resets the stream
//! (HTTP/2): it never looks whole.

use std::{
    cell::Cell,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Method;
use leno_types::Refusal;

use crate::{
    Body, Fields, ReplyError, RequestHead, ResponseHead, Tunnel, Version,
    convert::response_to_h2,
    h1::{Mode, OutFraming, Writer, encode_interim, encode_response, needs_no_body},
    sink::Sink,
    timer::{Borrowed, Timers},
    websocket,
};

/// One request from a client, of either version. HTTP/2's is `Incoming<'static>`.
#[derive(Debug)]
pub struct Incoming<'c> {
    /// What was asked. In one place for as long as it lives: a request goes from hand to hand.
    pub head: Box<RequestHead>,
    /// Its body.
    pub body: Body<'c>,
    /// Where the answer goes.
    pub reply: Reply<'c>,
}

/// Where the answer to one request goes. Dropped without an answer it ends the connection (HTTP/1) or resets the
/// stream (HTTP/2).
#[derive(Debug)]
pub struct Reply<'c> {
    to: To<'c>,
    about: About,
    label: Option<Label>,
}

/// By whom a refusal is made and under which id it is found again.
#[derive(Debug)]
pub(crate) struct Label {
    pub(crate) field: &'static str,
    pub(crate) by: Rc<str>,
    pub(crate) id: u64,
}

impl Label {
    pub(crate) fn write(&self, reason: Refusal, fields: &mut Fields) {
        let Self { field, by, id } = self;
        fields.push(*field, format!("{}; by={by}; id={id:016x}", reason.code()));
    }
}

#[derive(Debug)]
enum To<'c> {
    H1 {
        writer: &'c mut Writer,
        state: &'c ConnectionState,
    },
    H2 {
        respond: h2::server::SendResponse<Bytes>,
        carry_case: bool,
        timers: Timers,
    },
}

/// What of a request matters to its answer.
#[derive(Debug)]
struct About {
    version: Version,
    /// Extended CONNECT counts as the GET it is in HTTP/1.
    method: Method,
    switch: Option<Box<Switch>>,
    grpc: bool,
    interim: u32,
}

/// The protocol a request asks to switch to.
#[derive(Debug)]
struct Switch {
    protocol: Bytes,
    websocket_key: Option<Bytes>,
}

/// What an HTTP/1 connection from a client must know after an exchange.
#[derive(Debug, Default)]
pub(crate) struct ConnectionState {
    /// A further request may follow.
    pub(crate) keep_alive: Cell<bool>,
    /// The answer was written whole.
    pub(crate) complete: Cell<bool>,
    /// The connection became a tunnel.
    pub(crate) switched: Cell<bool>,
    /// The request's body is more than is worth reading after a refusal.
    pub(crate) large_body: Cell<bool>,
    pub(crate) timers: Timers,
}

/// What is known of an answer's body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announced {
    /// Content-Length.
    pub(crate) length: Option<u64>,
    /// There is none.
    pub(crate) empty: bool,
}

impl About {
    fn of(head: &RequestHead) -> Self {
        let extended = head.protocol.is_some() && head.method == Method::CONNECT;
        Self {
            version: head.version,
            method: if extended {
                Method::GET
            } else {
                head.method.clone()
            },
            switch: head.protocol.clone().map(|protocol| {
                Box::new(Switch {
                    protocol,
                    websocket_key: head.fields.get_shared("sec-websocket-key"),
                })
            }),
            grpc: head.is_grpc(),
            interim: 0,
        }
    }
}

impl<'c> Reply<'c> {
    pub(crate) fn h1(
        head: &RequestHead,
        writer: &'c mut Writer,
        state: &'c ConnectionState,
    ) -> Self {
        Self {
            to: To::H1 { writer, state },
            about: About::of(head),
            label: None,
        }
    }

    /// Accepts a CONNECT or extended CONNECT with 200 and gives the stream. Same as [`Incoming::into_tunnel`].
    ///
    /// # Errors
    /// [`ReplyError::NotHttp2`] on HTTP/1, [`ReplyError::Gone`] when the client is gone.
    pub fn accept_tunnel(self, body: Body<'c>) -> Result<Tunnel, ReplyError> {
        let (To::H2 { mut respond, .. }, Some(receive)) = (self.to, body.into_h2()) else {
            return Err(ReplyError::NotHttp2);
        };
        let send = respond
            .send_response(http::Response::new(()), false)
            .map_err(|_| ReplyError::Gone)?;
        Ok(Tunnel::new(receive, send, None))
    }

    /// Every refusal of this request, relay's own too, says in this field why, by whom, and under which id:
    /// `CODE; by=BY; id=ID`.
    pub fn label_refusals(&mut self, field: &'static str, by: Rc<str>, id: u64) {
        self.label = Some(Label { field, by, id });
    }

    /// Says that nothing of the request had an effect: HTTP/2 resets with REFUSED_STREAM (RFC 9113 8.7), so that a
    /// calling proxy may take another endpoint; HTTP/1 ends its connection.
    pub fn refuse_stream(self) {
        if let To::H2 { mut respond, .. } = self.to {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    }

    /// Answers in place of the destination: `reason`'s status and one line of text (`reason`'s own where `text` is
    /// empty); a gRPC caller gets HTTP 200 and a gRPC status. `extra` fields are added. The connection stays usable
    /// where the framing allows.
    ///
    /// # Errors
    /// [`ReplyError::Gone`] when the client is gone.
    pub async fn refuse(
        self,
        reason: Refusal,
        extra: &[(&str, &str)],
        text: &str,
    ) -> Result<(), ReplyError> {
        if let To::H1 { state, .. } = &self.to
            // The proxy at the other end of a loop would keep a connection that leads nowhere.
            && (state.large_body.get() || reason == Refusal::Loop)
        {
            state.keep_alive.set(false);
        }
        let text = if text.is_empty() { reason.text() } else { text };
        let (mut head, body) = if self.about.grpc {
            let mut head = ResponseHead::new(200);
            head.fields
                .push(&b"content-type"[..], &b"application/grpc"[..]);
            head.fields
                .push(&b"grpc-status"[..], grpc_code(reason).to_string());
            head.fields.push(&b"grpc-message"[..], percent_encode(text));
            (head, Bytes::new())
        } else {
            let mut head = ResponseHead::new(reason.status());
            head.fields
                .push(&b"content-type"[..], &b"text/plain; charset=utf-8"[..]);
            (head, Bytes::from(format!("{text}\n")))
        };
        if let Some(label) = &self.label {
            label.write(reason, &mut head.fields);
        }
        for (name, value) in extra {
            head.fields.push(name, value);
        }
        self.respond(head, body).await
    }

    /// Answers with a whole response.
    ///
    /// # Errors
    /// [`ReplyError::Gone`] when the client is gone.
    pub async fn respond(self, head: ResponseHead, body: Bytes) -> Result<(), ReplyError> {
        let announced = Announced {
            // A gRPC answer without messages has no Content-Length on HTTP/2: it is all trailers.
            length: (!self.about.grpc || self.is_h1()).then_some(body.len() as u64),
            empty: body.is_empty(),
        };
        let mut sink = self.start(&head, announced)?;
        let mut body = body;
        std::future::poll_fn(|cx| {
            if !body.is_empty() {
                match sink.poll_put(cx, &mut body, true) {
                    Poll::Ready(Ok(())) if sink.ends_with_data() => {}
                    Poll::Ready(Ok(())) => sink.end(None, Version::Http11)?,
                    other => return other,
                }
            }
            sink.poll_finish(cx)
        })
        .await
        .map_err(|_| ReplyError::Gone)?;
        sink.mark_complete();
        Ok(())
    }

    /// Whether the client speaks HTTP/1.
    #[must_use]
    pub const fn is_h1(&self) -> bool {
        matches!(self.to, To::H1 { .. })
    }

    /// The status and gRPC status [`Reply::refuse`] answers with.
    pub(crate) fn refusal(&self, reason: Refusal) -> (u16, Option<u8>) {
        if self.about.grpc {
            (200, Some(grpc_code(reason)))
        } else {
            (reason.status(), None)
        }
    }

    /// A timer of the client's connection.
    pub(crate) fn timer(&self) -> Borrowed {
        match &self.to {
            To::H1 { state, .. } => state.timers.take(),
            To::H2 { timers, .. } => timers.take(),
        }
    }

    /// No further request after this one.
    pub(crate) fn close_after(&self) {
        if let To::H1 { state, .. } = &self.to {
            state.keep_alive.set(false);
        }
    }

    /// Passes an interim response on, where the client can take it.
    pub(crate) fn send_interim(
        &mut self,
        head: &ResponseHead,
        limit: u32,
    ) -> Result<(), ReplyError> {
        self.about.interim += 1;
        if self.about.interim > limit {
            crate::limits::count(|counters| &counters.interim_overflows);
            return Ok(());
        }
        match &mut self.to {
            To::H1 { writer, .. } => {
                if self.about.version >= Version::Http11 {
                    encode_interim(head, writer.head());
                }
                Ok(())
            }
            To::H2 {
                respond,
                carry_case,
                ..
            } => respond
                .send_informational(response_to_h2(head, None, *carry_case))
                .map_err(|_| ReplyError::Gone),
        }
    }

    /// Writes interim responses.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<(), ReplyError> {
        match &mut self.to {
            To::H1 { writer, .. } if writer.has_queued() => match writer.poll_flush(cx) {
                Poll::Ready(Err(_)) => Err(ReplyError::Gone),
                Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whether the client reset the stream before it was answered; wakes the task when it does.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.to {
            To::H1 { .. } => false,
            To::H2 { respond, .. } => respond.poll_reset(cx).is_ready(),
        }
    }

    /// Sends a final head; the body goes into what is returned. HTTP/1 waits for the first flush.
    pub(crate) fn start(
        self,
        head: &ResponseHead,
        announced: Announced,
    ) -> Result<Sink<'c>, ReplyError> {
        let bodyless = needs_no_body(head.status, &self.about.method);
        match self.to {
            To::H2 {
                mut respond,
                carry_case,
                ..
            } => {
                let end = bodyless || announced.empty;
                let send = respond
                    .send_response(response_to_h2(head, announced.length, carry_case), end)
                    .map_err(|_| ReplyError::Gone)?;
                Ok(if end { Sink::Closed } else { Sink::H2(send) })
            }
            To::H1 { writer, state } => {
                let framing = match announced {
                    Announced {
                        length: Some(length),
                        ..
                    } if !matches!(head.status, 100..200 | 204) => OutFraming::Length(length),
                    _ if bodyless => OutFraming::None,
                    Announced { empty: true, .. } => OutFraming::Length(0),
                    _ if self.about.version == Version::Http10 => OutFraming::Close,
                    _ => OutFraming::Chunked,
                };
                if framing == OutFraming::Close {
                    state.keep_alive.set(false);
                }
                let keep_alive = state.keep_alive.get();
                encode_response(
                    head,
                    framing,
                    keep_alive,
                    self.about.version,
                    None,
                    writer.head(),
                );
                let mode = match framing {
                    _ if bodyless => Mode::None,
                    OutFraming::Length(length) => Mode::Length(length),
                    OutFraming::Chunked => Mode::Chunked,
                    OutFraming::Close => Mode::Raw,
                    OutFraming::None | OutFraming::Switch => Mode::None,
                };
                Ok(Sink::H1 {
                    writer,
                    mode,
                    tunnel: false,
                    complete: Some(&state.complete),
                })
            }
        }
    }

    /// Sends the head that turns the exchange into bytes both ways.
    pub(crate) fn switch(self, head: &mut ResponseHead) -> Result<Sink<'c>, ReplyError> {
        match self.to {
            To::H2 {
                mut respond,
                carry_case,
                ..
            } => {
                head.status = 200; // RFC 8441 5: 101 does not exist in HTTP/2
                let send = respond
                    .send_response(response_to_h2(head, None, carry_case), false)
                    .map_err(|_| ReplyError::Gone)?;
                Ok(Sink::H2(send))
            }
            To::H1 { writer, state } => {
                let switch = self.about.switch.as_deref();
                if let Some(switch) = switch {
                    head.status = 101;
                    head.reason = None;
                    if let Some(key) = &switch.websocket_key
                        && !head.fields.contains("sec-websocket-accept")
                    {
                        head.fields
                            .push(&b"Sec-WebSocket-Accept"[..], websocket::accept(key));
                    }
                }
                state.switched.set(true);
                encode_response(
                    head,
                    OutFraming::Switch,
                    true,
                    self.about.version,
                    switch.map(|switch| &switch.protocol),
                    writer.head(),
                );
                Ok(Sink::H1 {
                    writer,
                    mode: Mode::Raw,
                    tunnel: true,
                    complete: None,
                })
            }
        }
    }
}

impl Reply<'static> {
    pub(crate) fn h2(
        head: &RequestHead,
        respond: h2::server::SendResponse<Bytes>,
        carry_case: bool,
        timers: Timers,
    ) -> Self {
        Self {
            to: To::H2 {
                respond,
                carry_case,
                timers,
            },
            about: About::of(head),
            label: None,
        }
    }
}

impl Incoming<'_> {
    /// Accepts a CONNECT or extended CONNECT with 200 and gives the stream.
    ///
    /// # Errors
    /// [`ReplyError::NotHttp2`] on HTTP/1, [`ReplyError::Gone`] when the client is gone.
    pub fn into_tunnel(self) -> Result<Tunnel, ReplyError> {
        self.reply.accept_tunnel(self.body)
    }
}

/// The gRPC status a refusal is (grpc.io, statuscodes). No `_` arm: a new reason must choose.
const fn grpc_code(reason: Refusal) -> u8 {
    match reason {
        Refusal::ClientGone => 1,
        Refusal::UpstreamTimeout => 4,
        Refusal::Denied | Refusal::PlaintextRefused | Refusal::ForgedDestination => 7,
        Refusal::HeadTooLarge => 8,
        Refusal::NoRoute => 12,
        Refusal::ClientProtocol | Refusal::UpstreamProtocol => 13,
        // As GRPCRoute demands where a rule has no backend that can be used.
        Refusal::NoBackend
        | Refusal::NoHealthyUpstream
        | Refusal::UpstreamConnectFailure
        | Refusal::UpstreamReset
        | Refusal::Overflow
        | Refusal::Overload
        | Refusal::UnknownDestination
        | Refusal::DiscoveryTimeout
        | Refusal::ServiceGone
        | Refusal::PeerIdentity
        | Refusal::TlsHandshake
        | Refusal::Loop
        | Refusal::NoCertificate
        | Refusal::StreamEnded => 14,
    }
}

/// As gRPC writes messages: printable ASCII but `%` as it is.
fn percent_encode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte),
            _ => out.extend(format!("%{byte:02X}").bytes()),
        }
    }
    out
}
