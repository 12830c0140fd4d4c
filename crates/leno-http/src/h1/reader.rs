//! The reading half of an HTTP/1 connection: finds heads, takes bodies out of their framing.
//!
//! Owns what was read and not used. While nothing is there it holds no memory: small reads go by a buffer that all
//! connections of a worker share; a stream that fills it is read into buffers of its own.

use std::{
    cell::RefCell,
    io,
    mem::MaybeUninit,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::ReadBuf;

use super::{
    chunked::{ChunkStep, ChunkedDecoder},
    parse::{Framing, find_byte, find_head},
    stream::ReadHalf,
};
use crate::{BodyError, Fields, Limits, h1::ParseError};

const SCRATCH: usize = 64 * 1024;
/// A read of this much makes the next one go into a buffer of the connection's own.
const BULK: usize = 32 * 1024;

thread_local! {
    static SHARED: RefCell<Vec<MaybeUninit<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The reading half.
pub(crate) struct Reader {
    io: ReadHalf,
    buffer: BytesMut,
    /// Bytes of a head at the start of `buffer` searched for its end.
    searched: usize,
    bulk: bool,
    eof: bool,
    body: Decoding,
    trailers: Option<Fields>,
    pub(crate) limits: Rc<Limits>,
}

#[derive(Debug)]
enum Decoding {
    Done,
    Length(u64),
    Chunked(ChunkedDecoder),
    ToEof,
    Failed,
}

impl Reader {
    pub(crate) fn new(io: ReadHalf, prefix: &[u8], limits: Rc<Limits>) -> Self {
        Self {
            io,
            buffer: BytesMut::from(prefix),
            searched: 0,
            bulk: false,
            eof: false,
            body: Decoding::Done,
            trailers: None,
            limits,
        }
    }

    /// Whether bytes wait to be parsed.
    pub(crate) fn has_buffered(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether the peer neither sent anything nor ended its half, as far as is known without waiting.
    pub(crate) fn is_quiet(&self) -> bool {
        self.buffer.is_empty() && !self.eof && self.is_body_done() && self.io.is_quiet()
    }

    /// Whether the body at hand was read to its end.
    pub(crate) fn is_body_done(&self) -> bool {
        matches!(self.body, Decoding::Done)
    }

    /// Takes the next head out of what was read; `None` until more is. Empty lines before it are skipped: at most
    /// two, as RFC 9112 2.2 asks for one.
    pub(crate) fn take_head(&mut self, is_request: bool) -> Result<Option<Bytes>, ParseError> {
        if is_request && self.searched == 0 {
            for _ in 0..2 {
                if self.buffer.starts_with(b"\r\n") {
                    self.buffer.advance(2);
                }
            }
            if self.buffer.as_ref() == b"\r" {
                return Ok(None);
            }
        }
        match find_head(&self.buffer, self.searched, &self.limits)? {
            Some(end) => {
                self.searched = 0;
                Ok(Some(self.buffer.split_to(end).freeze()))
            }
            None => {
                self.searched = self.buffer.len();
                Ok(None)
            }
        }
    }

    /// What is wrong with bytes that are not the begin of a request.
    pub(crate) fn no_request(&self) -> ParseError {
        let longest = self.limits.line_bytes;
        let line = self.buffer.get(..longest);
        match line.map(|line| find_byte(b'\n', line)) {
            Some(None) => ParseError::TooLarge,
            Some(Some(_)) | None => ParseError::Malformed("it does not begin like a request"),
        }
    }

    /// Says how the body after the head just taken ends.
    pub(crate) fn start_body(&mut self, framing: Framing) {
        self.trailers = None;
        self.body = match framing {
            Framing::None | Framing::Length(0) => Decoding::Done,
            Framing::Length(length) => Decoding::Length(length),
            Framing::Chunked => Decoding::Chunked(ChunkedDecoder::default()),
            Framing::Close => Decoding::ToEof,
        };
        self.tidy();
    }

    /// Reads more; `Ready(0)` at the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        let count = if self.bulk {
            ready!(self.poll_bulk(cx))?
        } else {
            ready!(self.poll_shared(cx))?
        };
        self.eof = count == 0;
        self.bulk = count >= BULK;
        Poll::Ready(Ok(count))
    }

    fn poll_shared(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SHARED.with(|shared| {
            let mut shared = shared.borrow_mut();
            if shared.is_empty() {
                shared.resize(SCRATCH, MaybeUninit::uninit());
            }
            let mut space = ReadBuf::uninit(&mut shared);
            ready!(self.io.poll_read(cx, &mut space))?;
            self.buffer.extend_from_slice(space.filled());
            Poll::Ready(Ok(space.filled().len()))
        })
    }

    fn poll_bulk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(SCRATCH);
        let result = self.io.poll_read_buf(cx, &mut self.buffer);
        if result.is_pending() {
            self.tidy();
        }
        result
    }

    /// Gives empty memory back.
    fn tidy(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Watches the peer while nothing is to be read: an error when it reset the connection. Its early next request
    /// is kept; its end of sending is no reason to stop (half-close).
    pub(crate) fn poll_watch(&mut self, cx: &mut Context<'_>) -> Result<(), io::Error> {
        if !self.eof && self.buffer.is_empty() && self.is_body_done() {
            match self.poll_fill(cx) {
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(piece) = self.decode() {
                if !matches!(piece, Some(Ok(_))) {
                    self.tidy();
                }
                return Poll::Ready(piece);
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if matches!(self.body, Decoding::ToEof) => {
                    self.body = Decoding::Done;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(self.fail(BodyError::Truncated)))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(self.fail(BodyError::Io(error))))),
            }
        }
    }

    /// A piece from what was read; outer `None`: more must be read.
    fn decode(&mut self) -> Option<Option<Result<Bytes, BodyError>>> {
        match &mut self.body {
            Decoding::Done => Some(None),
            Decoding::Failed => Some(Some(Err(BodyError::Truncated))),
            _ if self.buffer.is_empty() => None,
            Decoding::Length(left) => {
                let take = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(self.buffer.len());
                *left = left.saturating_sub(take as u64);
                if *left == 0 {
                    self.body = Decoding::Done;
                }
                Some(Some(Ok(self.buffer.split_to(take).freeze())))
            }
            Decoding::ToEof => Some(Some(Ok(self.buffer.split().freeze()))),
            Decoding::Chunked(decoder) => match decoder.step(&mut self.buffer, &self.limits) {
                Ok(ChunkStep::NeedMore) => None,
                Ok(ChunkStep::Data(data)) => {
                    if decoder.at_end(&self.buffer)
                        && let Ok(ChunkStep::Done(None)) =
                            decoder.step(&mut self.buffer, &self.limits)
                    {
                        self.body = Decoding::Done;
                    }
                    Some(Some(Ok(data)))
                }
                Ok(ChunkStep::Done(trailers)) => {
                    self.trailers = trailers;
                    self.body = Decoding::Done;
                    Some(None)
                }
                Err(error) => Some(Some(Err(self.fail(BodyError::Malformed(error))))),
            },
        }
    }

    fn fail(&mut self, error: BodyError) -> BodyError {
        self.body = Decoding::Failed;
        error
    }

    pub(crate) fn take_trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }

    /// How much of the body is known to be left.
    pub(crate) fn body_left(&self) -> Option<u64> {
        match self.body {
            Decoding::Done => Some(0),
            Decoding::Length(left) => Some(left),
            Decoding::Chunked(_) | Decoding::ToEof | Decoding::Failed => None,
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("buffered", &self.buffer.len())
            .field("eof", &self.eof)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}
