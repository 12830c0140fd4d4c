//! Bytes both ways over one HTTP/2 stream: HBONE (RFC 9113 8.5) and WebSocket (RFC 8441).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes given to the h2 crate at once.
const PIECE: usize = 16 * 1024;

/// Bytes both ways over one HTTP/2 stream, with flow control; shutdown is END_STREAM, dropping it before both ends
/// are over resets the stream.
#[derive(Debug)]
pub struct Tunnel {
    receive: h2::RecvStream,
    send: h2::SendStream<Bytes>,
    /// Received and not read yet.
    rest: Bytes,
    ended: bool,
    _open: Option<crate::client::OpenStream>,
}

impl Tunnel {
    pub(crate) fn new(
        receive: h2::RecvStream,
        send: h2::SendStream<Bytes>,
        open: Option<crate::client::OpenStream>,
    ) -> Self {
        Self {
            receive,
            send,
            rest: Bytes::new(),
            ended: false,
            _open: open,
        }
    }

    /// Ends the stream both ways so that the peer sees it was not finished.
    pub fn reset(&mut self) {
        self.send.send_reset(h2::Reason::CANCEL);
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.send.reserve_capacity(wanted);
        match self.send.capacity() {
            0 => match ready!(crate::limits::counted(self.send.poll_capacity(cx))) {
                Some(Ok(room)) => Poll::Ready(Ok(room)),
                Some(Err(error)) => Poll::Ready(Err(into_io(error))),
                None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            room => Poll::Ready(Ok(room)),
        }
    }

    fn give_back(&mut self, count: usize) {
        if let Err(error) = self.receive.flow_control().release_capacity(count) {
            tracing::trace!(%error, "no window to give back");
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(piece)) => self.rest = piece,
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(self.rest.get(..count).unwrap_or_default());
        self.rest.advance(count);
        self.give_back(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, bytes.len().min(PIECE)))?;
        let part = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        let part = Bytes::copy_from_slice(part);
        let count = part.len();
        self.send.send_data(part, false).map_err(into_io)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.ended, true) {
            self.send.send_data(Bytes::new(), true).map_err(into_io)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
