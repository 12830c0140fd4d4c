//! The writing half of an HTTP/1 connection: puts bodies into their framing, writes as much as it can at once.
//!
//! Small pieces are copied together, large ones queued as they are; one flush writes all of it. The queue is bounded
//! by its callers, who flush before they add more than [`Writer::is_full`] allows.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{encode::encode_fields, stream::WriteHalf};
use crate::{Fields, Version};

/// Pieces up to this size are copied behind what waits.
pub(super) const COPY: usize = 4 * 1024;
/// What may wait before it must be flushed.
const FULL: usize = 64 * 1024;
const SLICES: usize = 16;

/// The writing half.
pub(crate) struct Writer {
    io: WriteHalf,
    queue: VecDeque<Bytes>,
    /// Written after the queue.
    small: BytesMut,
    queued: usize,
    needs_flush: bool,
    /// Bytes ever written.
    pub(crate) written: u64,
}

/// How the body being written is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing may be written; what is is discarded (HEAD).
    None,
    /// So many bytes are due.
    Length(u64),
    Chunked,
    /// Ends with the connection, or is a tunnel.
    Raw,
}

impl Writer {
    pub(crate) fn new(io: WriteHalf) -> Self {
        Self {
            io,
            queue: VecDeque::new(),
            small: BytesMut::new(),
            queued: 0,
            needs_flush: false,
            written: 0,
        }
    }

    /// The place to encode a head into; `flush` sends it.
    pub(crate) fn head(&mut self) -> &mut BytesMut {
        &mut self.small
    }

    pub(crate) fn is_full(&self) -> bool {
        self.queued + self.small.len() >= FULL || self.queue.len() >= SLICES - 2
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty() || !self.small.is_empty() || self.needs_flush
    }

    fn put(&mut self, piece: Bytes) {
        if piece.len() <= COPY {
            self.small.put_slice(&piece);
            return;
        }
        if !self.small.is_empty() {
            let small = self.small.split().freeze();
            self.queued += small.len();
            self.queue.push_back(small);
        }
        self.queued += piece.len();
        self.queue.push_back(piece);
    }

    /// Queues a piece of a body. More than its length allows is an error of whoever sends it.
    pub(crate) fn put_data(&mut self, mode: &mut Mode, piece: Bytes) -> io::Result<()> {
        match mode {
            Mode::None => {}
            Mode::Raw => self.put(piece),
            Mode::Length(left) => {
                *left = left
                    .checked_sub(piece.len() as u64)
                    .ok_or(io::ErrorKind::InvalidData)?;
                self.put(piece);
            }
            Mode::Chunked if piece.is_empty() => {}
            Mode::Chunked => {
                put_hex(piece.len(), &mut self.small);
                self.small.put_slice(b"\r\n");
                self.put(piece);
                self.small.put_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Queues the end of a body; fewer bytes than its length is an error.
    pub(crate) fn put_end(
        &mut self,
        mode: Mode,
        trailers: Option<&Fields>,
        version: Version,
    ) -> io::Result<()> {
        match mode {
            Mode::Length(1..) => Err(io::ErrorKind::InvalidData.into()),
            Mode::Chunked => {
                self.small.put_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    encode_fields(trailers, version, &mut self.small);
                }
                self.small.put_slice(b"\r\n");
                Ok(())
            }
            Mode::None | Mode::Length(0) | Mode::Raw => Ok(()),
        }
    }

    /// Writes what is queued.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() || !self.small.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let pieces = self
                .queue
                .iter()
                .map(Bytes::as_ref)
                .chain([self.small.as_ref()]);
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(pieces) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            let written = match ready!(
                self.io
                    .poll_write_vectored(cx, slices.get(..count).unwrap_or_default())
            ) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => written,
                Err(error) => return Poll::Ready(Err(error)),
            };
            self.needs_flush = true;
            self.written = self.written.saturating_add(written as u64);
            self.advance(written);
        }
        // What was copied together is given back: an idle connection holds no buffer.
        self.small = BytesMut::new();
        if self.needs_flush {
            ready!(self.io.poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.queue.front_mut() {
            if written < first.len() {
                first.advance(written);
                self.queued = self.queued.saturating_sub(written);
                return;
            }
            written -= first.len();
            self.queued = self.queued.saturating_sub(first.len());
            self.queue.pop_front();
        }
        self.small.advance(written.min(self.small.len()));
    }

    /// Ends our half, after what is queued.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.io.poll_shutdown(cx)
    }

    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// The connection ends by a reset when it is dropped.
    pub(crate) fn reset_on_close(&self) {
        self.io.reset_on_close();
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("queued", &(self.queued + self.small.len()))
            .finish_non_exhaustive()
    }
}

fn put_hex(number: usize, out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = DIGITS.get(number >> (4 * place) & 15).copied();
        out.put_u8(digit.unwrap_or(b'0'));
    }
}
