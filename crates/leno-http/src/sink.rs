//! Where a body goes, whichever version it goes over.

use std::{
    cell::Cell,
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use crate::{
    Fields, Version,
    convert::fields_to_h2,
    h1::{Mode, Writer},
    limits::counted,
};

/// What is said to a peer after a head.
#[derive(Debug)]
pub(crate) enum Sink<'s> {
    /// Nothing more may be said.
    Closed,
    H1 {
        writer: &'s mut Writer,
        mode: Mode,
        /// A tunnel ends with our half of the connection.
        tunnel: bool,
        /// To be told when the message was written whole.
        complete: Option<&'s Cell<bool>>,
    },
    H2(h2::SendStream<Bytes>),
}

/// Why a sink takes nothing more.
#[derive(Debug)]
pub(crate) enum SinkError {
    /// The peer went away or wants no more.
    Gone,
    /// The sender said less or more than it had announced.
    Length,
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Length,
            _ => Self::Gone,
        }
    }
}

impl From<h2::Error> for SinkError {
    fn from(_: h2::Error) -> Self {
        Self::Gone
    }
}

impl Sink<'_> {
    /// Takes as much of `piece` as there is room for; `Ready` once all of it is taken. With `last`, and all of it
    /// taken, the message is ended too.
    pub(crate) fn poll_put(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), SinkError>> {
        match self {
            Self::Closed => Poll::Ready(Err(SinkError::Gone)),
            Self::H1 { writer, mode, .. } => {
                while writer.is_full() {
                    ready!(writer.poll_flush(cx))?;
                }
                writer.put_data(mode, std::mem::take(piece))?;
                Poll::Ready(Ok(()))
            }
            Self::H2(stream) => {
                while !piece.is_empty() {
                    stream.reserve_capacity(piece.len());
                    let room = match stream.capacity() {
                        0 => match ready!(counted(stream.poll_capacity(cx))) {
                            Some(room) => room?,
                            None => return Poll::Ready(Err(SinkError::Gone)),
                        },
                        room => room,
                    };
                    let part = piece.split_to(room.min(piece.len()));
                    stream.send_data(part, last && piece.is_empty())?;
                }
                if last {
                    *self = Self::Closed;
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Whether [`Sink::poll_put`] with `last` ends the message by itself.
    pub(crate) const fn ends_with_data(&self) -> bool {
        matches!(self, Self::H2(_))
    }

    /// Ends the message. HTTP/1 still has to be flushed.
    pub(crate) fn end(
        &mut self,
        trailers: Option<&Fields>,
        version: Version,
    ) -> Result<(), SinkError> {
        match self {
            Self::Closed => Ok(()),
            Self::H1 { writer, mode, .. } => Ok(writer.put_end(*mode, trailers, version)?),
            Self::H2(stream) => {
                match trailers {
                    Some(trailers) => {
                        stream.send_trailers(fields_to_h2(trailers, &[], None, false))?
                    }
                    None => stream.send_data(Bytes::new(), true)?,
                }
                Ok(())
            }
        }
    }

    /// Writes what waits. HTTP/2 connections flush themselves.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        match self {
            Self::H1 { writer, .. } if writer.has_queued() => {
                ready!(writer.poll_flush(cx))?;
                Poll::Ready(Ok(()))
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Writes what waits and, where the message ends that way, ends our half of the connection.
    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        match self {
            Self::H1 {
                writer,
                tunnel: true,
                ..
            } => {
                ready!(writer.poll_shutdown(cx))?;
                Poll::Ready(Ok(()))
            }
            _ => self.poll_flush(cx),
        }
    }

    /// The message was written whole.
    pub(crate) fn mark_complete(&self) {
        if let Self::H1 {
            complete: Some(complete),
            ..
        } = self
        {
            complete.set(true);
        }
    }

    /// Whether the peer reset the stream; wakes the task when it does. HTTP/1 shows it on the next write.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::H2(stream) => stream.poll_reset(cx).is_ready(),
            Self::Closed | Self::H1 { .. } => false,
        }
    }

    /// Ends the message so that it does not look whole.
    pub(crate) fn abort(&mut self, reason: h2::Reason) {
        match std::mem::replace(self, Self::Closed) {
            Self::H1 { writer, mode, .. } => {
                if mode == Mode::Raw {
                    writer.reset_on_close();
                }
            }
            Self::H2(mut stream) => stream.send_reset(reason),
            Self::Closed => {}
        }
    }
}
