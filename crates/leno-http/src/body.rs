//! Where a body comes from, whichever version it comes over.
//!
//! Invariant: HTTP/2 window is given back only for what was taken on: [`Body::release`] is called by whoever passed a
//! piece on, so a slow reader holds back the sender and nobody else.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use crate::{BodyError, Fields, convert::fields_from_h2, h1::Reader};

/// The body of a message being received.
#[derive(Debug)]
pub struct Body<'c> {
    source: Source<'c>,
    declared: Option<u64>,
    seldom: Option<Box<Seldom>>,
    /// Bytes given out and not released yet.
    held: usize,
}

/// What few bodies have.
#[derive(Debug, Default)]
struct Seldom {
    /// Pieces to be given again: a request that an endpoint proved not to have seen. Released before.
    again: VecDeque<Bytes>,
    trailers: Option<Fields>,
}

#[derive(Debug)]
enum Source<'c> {
    Empty,
    H1(&'c mut Reader),
    H2(h2::RecvStream),
}

impl<'c> Body<'c> {
    /// No body.
    #[must_use]
    pub const fn empty() -> Self {
        Self::new(Source::Empty, None)
    }

    const fn new(source: Source<'c>, declared: Option<u64>) -> Self {
        Self {
            source,
            declared,
            seldom: None,
            held: 0,
        }
    }

    /// Keeps the reader even when there is no body: it is watched while the answer is awaited.
    pub(crate) const fn h1(reader: &'c mut Reader, declared: Option<u64>) -> Self {
        Self::new(Source::H1(reader), declared)
    }

    pub(crate) const fn h2(stream: h2::RecvStream, declared: Option<u64>) -> Self {
        Self::new(Source::H2(stream), declared)
    }

    /// Its Content-Length, where the sender gave one; also where no body follows (HEAD, 304).
    #[must_use]
    pub const fn length(&self) -> Option<u64> {
        self.declared
    }

    /// Whether nothing more comes, trailers included.
    #[must_use]
    pub fn is_end(&self) -> bool {
        let again = self.seldom.as_ref().map(|seldom| &seldom.again);
        again.is_none_or(VecDeque::is_empty)
            && match &self.source {
                Source::Empty => true,
                Source::H1(reader) => reader.is_body_done(),
                Source::H2(stream) => stream.is_end_stream(),
            }
    }

    /// The next piece; `None` at the end. What is taken this way is released at once.
    pub async fn data(&mut self) -> Option<Result<Bytes, BodyError>> {
        let piece = std::future::poll_fn(|cx| self.poll_data(cx)).await;
        self.release();
        piece
    }

    /// The trailers, once [`Body::data`] gave `None`.
    pub fn take_trailers(&mut self) -> Option<Fields> {
        match &mut self.source {
            Source::Empty => None,
            Source::H1(reader) => reader.take_trailers(),
            Source::H2(_) => self.seldom.as_mut()?.trailers.take(),
        }
    }

    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let again = self.seldom.as_mut().map(|seldom| &mut seldom.again);
        if let Some(piece) = again.and_then(VecDeque::pop_front) {
            return Poll::Ready(Some(Ok(piece)));
        }
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::H1(reader) => reader.poll_data(cx),
            Source::H2(stream) => {
                match ready!(stream.poll_data(cx)) {
                    Some(Ok(piece)) => {
                        self.held += piece.len();
                        return Poll::Ready(Some(Ok(piece)));
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Http2(error)))),
                    None => {}
                }
                match ready!(stream.poll_trailers(cx)) {
                    Ok(trailers) => {
                        if let Some(trailers) = trailers {
                            let seldom = self.seldom.get_or_insert_default();
                            seldom.trailers = Some(fields_from_h2(&trailers));
                        }
                        Poll::Ready(None)
                    }
                    Err(error) => Poll::Ready(Some(Err(BodyError::Http2(error)))),
                }
            }
        }
    }

    /// Lets the sender send as much again as was given out.
    pub(crate) fn release(&mut self) {
        let held = std::mem::take(&mut self.held);
        if held > 0
            && let Source::H2(stream) = &mut self.source
            && let Err(error) = stream.flow_control().release_capacity(held)
        {
            // Only after the stream ended: nobody waits for the window.
            tracing::trace!(%error, "no window to give back");
        }
    }

    /// Puts pieces back that were given out, in order, before everything else.
    pub(crate) fn give_again(&mut self, pieces: VecDeque<Bytes>) {
        self.release();
        let seldom = self.seldom.get_or_insert_default();
        let rest = std::mem::replace(&mut seldom.again, pieces);
        seldom.again.extend(rest);
    }

    /// Watches the sender while nothing is expected of it; an error when its connection failed.
    pub(crate) fn poll_watch(&mut self, cx: &mut Context<'_>) -> Result<(), std::io::Error> {
        match &mut self.source {
            Source::H1(reader) => reader.poll_watch(cx),
            Source::Empty | Source::H2(_) => Ok(()),
        }
    }

    /// From now on everything until the connection ends (a tunnel).
    pub(crate) fn make_raw(&mut self) {
        if let Source::H1(reader) = &mut self.source {
            reader.start_body(crate::h1::Framing::Close);
        }
    }

    pub(crate) fn into_h2(self) -> Option<h2::RecvStream> {
        match self.source {
            Source::H2(stream) => Some(stream),
            Source::Empty | Source::H1(_) => None,
        }
    }
}
