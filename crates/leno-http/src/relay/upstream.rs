//! The upstream's side of an exchange until its final head is there.

use std::task::{Context, Poll, ready};

use http::Method;

use crate::{
    Body, RequestHead, ResponseHead,
    client::{H1, OpenStream},
    convert::response_from_h2,
    h1::{Framing, Mode, OutFraming, ParsedResponse, Reader, encode_request, parse_response},
    limits::count,
    sink::Sink,
};

/// Waits for an answer.
pub(super) enum Awaiting<'u> {
    H2 {
        response: h2::client::ResponseFuture,
        /// Counted as open until the exchange is over.
        _open: OpenStream,
    },
    H1 {
        /// Moved into the body of the answer.
        reader: Option<&'u mut Reader>,
        /// As it was sent.
        method: Method,
        /// Carried an exchange before: it may be closed by now.
        reused: bool,
        any: bool,
    },
}

/// An answer, or a part of one.
pub(super) enum Answer<'u> {
    Interim(ResponseHead),
    Final(FinalAnswer<'u>),
}

/// A final answer's head and what follows.
pub(super) struct FinalAnswer<'u> {
    pub(super) head: ResponseHead,
    pub(super) body: Body<'u>,
    /// HTTP/1: a further exchange may follow.
    pub(super) keep_alive: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// Not processed, says the peer: REFUSED_STREAM.
    RefusedStream,
    /// Not processed, says the answer.
    Declined,
    /// Not processed: a GOAWAY below our stream.
    GoAway,
    /// A reused HTTP/1 connection closed without a byte of an answer.
    Stale,
    Reset,
    Malformed,
}

impl<'u> Awaiting<'u> {
    pub(super) fn h2(opened: crate::client::Opened, ended: bool) -> (Self, Sink<'u>) {
        let sink = if ended {
            Sink::Closed
        } else {
            Sink::H2(opened.send)
        };
        let awaiting = Self::H2 {
            response: opened.response,
            _open: opened.open,
        };
        (awaiting, sink)
    }

    /// Encodes the request's head; it goes out with the first flush. `None`: HTTP/1 cannot carry it.
    pub(super) fn h1(
        connection: &'u mut H1,
        head: &RequestHead,
        body: &Body<'_>,
    ) -> Option<(Self, Sink<'u>)> {
        let extended = head.protocol.is_some() && head.method == Method::CONNECT;
        let method = if extended {
            Method::GET
        } else {
            head.method.clone()
        };
        let says_length = matches!(method, Method::POST | Method::PUT | Method::PATCH);
        let (framing, mode) = match (body.length(), body.is_end()) {
            _ if head.asks_to_switch() => (OutFraming::Switch, Mode::Raw),
            (Some(length), _) => (OutFraming::Length(length), Mode::Length(length)),
            (None, true) if says_length => (OutFraming::Length(0), Mode::None),
            (None, true) => (OutFraming::None, Mode::None),
            (None, false) => (OutFraming::Chunked, Mode::Chunked),
        };
        let connection = &mut *connection.0;
        let reused = connection.carried > 0;
        encode_request(head, framing, connection.writer.head())?;
        let sink = Sink::H1 {
            writer: &mut connection.writer,
            mode,
            tunnel: framing == OutFraming::Switch,
            complete: None,
        };
        let awaiting = Self::H1 {
            reader: Some(&mut connection.reader),
            method,
            reused,
            any: false,
        };
        Some((awaiting, sink))
    }

    pub(super) const fn is_h1(&self) -> bool {
        matches!(self, Self::H1 { .. })
    }

    /// The next answer. Not to be polled after the final one.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer<'u>, NoAnswer>> {
        match self {
            Self::H2 { response, .. } => poll_h2(response, cx),
            Self::H1 {
                reader,
                method,
                reused,
                any,
            } => poll_h1(reader, method, *reused, any, cx),
        }
    }
}

fn poll_h2<'u>(
    response: &mut h2::client::ResponseFuture,
    cx: &mut Context<'_>,
) -> Poll<Result<Answer<'u>, NoAnswer>> {
    match response.poll_informational(cx) {
        Poll::Ready(Some(Ok(interim))) => {
            let answer = response_from_h2(interim).map_err(|_| NoAnswer::Malformed);
            return Poll::Ready(answer.map(|(head, ..)| Answer::Interim(head)));
        }
        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(no_answer(&error))),
        Poll::Ready(None) => {}
        // Neither is there the final one: interim answers come before it.
        Poll::Pending => return Poll::Pending,
    }
    let response = match ready!(std::pin::Pin::new(response).poll(cx)) {
        Ok(response) => response,
        Err(error) => return Poll::Ready(Err(no_answer(&error))),
    };
    Poll::Ready(match response_from_h2(response) {
        Ok((head, declared, stream)) => Ok(Answer::Final(FinalAnswer {
            head,
            body: Body::h2(stream, declared),
            keep_alive: true,
        })),
        Err(_) => Err(NoAnswer::Malformed),
    })
}

fn no_answer(error: &h2::Error) -> NoAnswer {
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) if error.is_remote() && error.is_reset() => {
            NoAnswer::RefusedStream
        }
        // The h2 crate gives a remote GOAWAY only to streams above its last id.
        _ if error.is_go_away() && error.is_remote() => NoAnswer::GoAway,
        Some(h2::Reason::PROTOCOL_ERROR) if error.is_library() => NoAnswer::Malformed,
        _ => NoAnswer::Reset,
    }
}

fn poll_h1<'u>(
    place: &mut Option<&'u mut Reader>,
    method: &Method,
    reused: bool,
    any: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<Answer<'u>, NoAnswer>> {
    let Some(reader) = place else {
        return Poll::Ready(Err(NoAnswer::Reset));
    };
    let parsed = loop {
        let parsed = match reader.take_head(false) {
            Ok(Some(head)) => parse_response(&head, method, &reader.limits),
            Ok(None) => {
                match ready!(reader.poll_fill(cx)) {
                    Ok(count) if count > 0 => *any = true,
                    Ok(_) | Err(_) => {
                        let stale = reused && !*any;
                        return Poll::Ready(Err(if stale {
                            NoAnswer::Stale
                        } else {
                            NoAnswer::Reset
                        }));
                    }
                }
                continue;
            }
            Err(error) => Err(error),
        };
        match parsed {
            Ok(parsed) => break parsed,
            Err(error) => {
                tracing::debug!(%error, "malformed HTTP/1 response");
                count(|counters| &counters.malformed_responses);
                return Poll::Ready(Err(NoAnswer::Malformed));
            }
        }
    };
    let ParsedResponse {
        head,
        framing,
        declared,
        keep_alive,
    } = parsed;
    if head.is_interim() {
        return Poll::Ready(Ok(Answer::Interim(head)));
    }
    reader.start_body(framing);
    let Some(reader) = place.take() else {
        return Poll::Ready(Err(NoAnswer::Reset));
    };
    // A response that ends by close says nothing of its length, whatever it declared.
    let declared = declared.filter(|_| !matches!(framing, Framing::Close | Framing::Chunked));
    Poll::Ready(Ok(Answer::Final(FinalAnswer {
        head,
        body: Body::h1(reader, declared),
        keep_alive,
    })))
}
