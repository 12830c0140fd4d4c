//! The chunked transfer coding (RFC 9112 7.1), decoded without I/O.
//!
//! Strict: sizes are 1 to 15 hex digits, every line and every chunk ends with CRLF, extensions are skipped and
//! bounded, trailers are bounded like a head. What is read is the same however the bytes are split.

use bytes::{Buf, Bytes, BytesMut};

use super::parse::{ParseError, find_byte, find_head, parse_trailers};
use crate::{Fields, Limits};

/// Bytes of chunk extensions in one body; more is abuse, nobody uses them.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// Bytes of one chunk's size line.
const MAX_LINE: usize = 4 * 1024;

/// Decodes one body.
#[derive(Debug)]
pub struct ChunkedDecoder {
    state: State,
    extensions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A size line; so many of its bytes hold no LF.
    Size(usize),
    Data(u64),
    DataEnd,
    /// Trailers; so many bytes were searched.
    Trailers(usize),
    Done,
}

/// What the bytes at hand gave.
#[derive(Debug, PartialEq, Eq)]
pub enum ChunkStep {
    /// A piece of the body.
    Data(Bytes),
    /// Nothing before more bytes come.
    NeedMore,
    /// The end, with trailers if there were any. What is left in the buffer belongs to the next message.
    Done(Option<Fields>),
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self {
            state: State::Size(0),
            extensions: 0,
        }
    }
}

impl ChunkedDecoder {
    /// Whether the last chunk and the trailers were read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next piece out of `buffer`.
    ///
    /// # Errors
    /// [`ParseError`] when the framing is malformed; the connection cannot go on.
    pub fn step(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
    ) -> Result<ChunkStep, ParseError> {
        loop {
            match self.state {
                State::Size(searched) => {
                    let Some(newline) =
                        find_byte(b'\n', buffer.get(searched..).unwrap_or_default())
                    else {
                        if buffer.len() > MAX_LINE {
                            return Err(ParseError::Malformed("a chunk's size line is too long"));
                        }
                        self.state = State::Size(buffer.len());
                        return Ok(ChunkStep::NeedMore);
                    };
                    let line = buffer.get(..searched + newline + 1).unwrap_or_default();
                    let (size, extensions) = parse_size(line)?;
                    self.extensions = self.extensions.saturating_add(extensions);
                    if self.extensions > MAX_EXTENSIONS {
                        return Err(ParseError::Malformed("too many chunk extensions"));
                    }
                    buffer.advance(searched + newline + 1);
                    self.state = if size == 0 {
                        State::Trailers(0)
                    } else {
                        State::Data(size)
                    };
                }
                State::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(ChunkStep::NeedMore);
                    }
                    let take = usize::try_from(left)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    let data = buffer.split_to(take).freeze();
                    let left = left.saturating_sub(take as u64);
                    self.state = if left == 0 {
                        State::DataEnd
                    } else {
                        State::Data(left)
                    };
                    return Ok(ChunkStep::Data(data));
                }
                State::DataEnd => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        self.state = State::Size(0);
                    }
                    Some(_) => return Err(NO_END),
                    None if buffer.first().is_some_and(|byte| *byte != b'\r') => {
                        return Err(NO_END);
                    }
                    None => return Ok(ChunkStep::NeedMore),
                },
                State::Trailers(searched) => match find_head(buffer, searched, limits)? {
                    None => {
                        self.state = State::Trailers(buffer.len());
                        return Ok(ChunkStep::NeedMore);
                    }
                    Some(end) => {
                        self.state = State::Done;
                        if end <= 2 {
                            buffer.advance(end);
                            return Ok(ChunkStep::Done(None));
                        }
                        let block = buffer.split_to(end).freeze();
                        let trailers = parse_trailers(&block, limits)?;
                        return Ok(ChunkStep::Done((!trailers.is_empty()).then_some(trailers)));
                    }
                },
                State::Done => return Ok(ChunkStep::Done(None)),
            }
        }
    }

    /// The end of the body, where it can be read from `buffer` now: spares a wake-up for the last chunk.
    pub(crate) fn at_end(&self, buffer: &[u8]) -> bool {
        match self.state {
            State::DataEnd => buffer.starts_with(b"\r\n0\r\n\r\n"),
            State::Size(_) => buffer.starts_with(b"0\r\n\r\n"),
            State::Trailers(_) => buffer.starts_with(b"\r\n"),
            State::Data(_) => false,
            State::Done => true,
        }
    }
}

const NO_END: ParseError = ParseError::Malformed("a chunk does not end where its size says");

/// A size line with its CRLF: the size, and how many bytes of extensions follow it.
fn parse_size(line: &[u8]) -> Result<(u64, usize), ParseError> {
    const MALFORMED: ParseError = ParseError::Malformed("a chunk's size");
    let line = line.strip_suffix(b"\r\n").ok_or(MALFORMED)?;
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (digits, extensions) = line.split_at_checked(digits).ok_or(MALFORMED)?;
    if digits.is_empty() || digits.len() > 15 {
        return Err(MALFORMED);
    }
    let extension = matches!(extensions, [] | [b';', ..]) && crate::fields::is_value(extensions);
    if !extension {
        return Err(MALFORMED);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| MALFORMED)?;
    let size = u64::from_str_radix(digits, 16).map_err(|_| MALFORMED)?;
    Ok((size, extensions.len()))
}
