//! The rest of a request that was answered before it had come whole: an early refusal must reach whoever still sends.
//!
//! A connection that is closed, or a stream that is reset, over unread bytes takes the answer with it (RFC 9112
//! section 9.6, RFC 9113 section 8.1). So what is left is read and thrown away, for a time and up to a size.
//! Invariant: nothing of it is kept, and whoever sends on without end is cut off after [`LINGER_TIME`].

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Response, header};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep},
};

/// Bytes of a refused request that are read and thrown away.
const LINGER_BYTES: usize = 64 * 1024 * 1024;
/// For how long they are,
const LINGER_TIME: Duration = Duration::from_secs(5);
/// and for how long nothing may come meanwhile.
const LINGER_QUIET: Duration = Duration::from_millis(500);

/// A request's body, which is given back when its handler does not read it to the end.
pub(super) struct Lent {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

impl Lent {
    /// A body to lend, and where it comes back.
    pub(super) fn new(body: Incoming) -> (Self, oneshot::Receiver<Incoming>) {
        let (back, returned) = oneshot::channel();
        let lent = Self {
            body: Some(body),
            back: Some(back),
        };
        (lent, returned)
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Nobody waits for it once the answer is on its way.
            drop(back.send(body));
        }
    }
}

/// The answer in a form that reaches its caller although `rest` of the request is still to come.
pub(super) async fn answer(response: Response<Body>, rest: Incoming) -> Response<Body> {
    let mut rest = Rest::new(rest);
    if is_grpc(response.headers()) {
        // Its status is in a head that ends the stream, so that has to wait for the message.
        std::future::poll_fn(|context| rest.poll(context)).await;
        return response;
    }
    let (mut head, body) = response.into_parts();
    // With a length the answer would be over, and the connection closed, before the rest is read.
    head.headers.remove(header::CONTENT_LENGTH);
    let body = Answer {
        body: Some(body),
        rest,
    };
    Response::from_parts(head, Body::new(body))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// An answer that does not end before its request does.
struct Answer {
    body: Option<Body>,
    rest: Rest,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(body) = &mut self.body {
            match Pin::new(body).poll_frame(context) {
                Poll::Ready(None) => self.body = None,
                polled => return polled,
            }
        }
        self.rest.poll(context).map(|()| None)
    }
}

/// What is read and thrown away.
struct Rest {
    body: Incoming,
    left: usize,
    until: Instant,
    quiet: Pin<Box<Sleep>>,
}

impl Rest {
    fn new(body: Incoming) -> Self {
        Self {
            body,
            left: LINGER_BYTES,
            until: Instant::now() + LINGER_TIME,
            quiet: Box::pin(tokio::time::sleep(LINGER_QUIET)),
        }
    }

    /// Ready when it has come whole, or has come for long enough.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(context) {
            let Some(Ok(frame)) = polled else {
                return Poll::Ready(());
            };
            self.left = self
                .left
                .saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            let now = Instant::now();
            if self.left == 0 || now >= self.until {
                return Poll::Ready(());
            }
            self.quiet
                .as_mut()
                .reset((now + LINGER_QUIET).min(self.until));
        }
        self.quiet.as_mut().poll(context)
    }
}
