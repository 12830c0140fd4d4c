//! Moves one body from where it comes to where it goes, with back-pressure: window is given back to the sender only
//! for what the receiver took.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use crate::{
    Body, BodyError, Version,
    sink::{Sink, SinkError},
};

/// One direction of an exchange.
#[derive(Debug)]
pub(super) struct Pump {
    state: State,
    /// Taken from the body, and not taken by the sink yet.
    piece: Bytes,
    last: bool,
    /// What the names of trailers look like.
    version: Version,
    pub(super) bytes: u64,
    pub(super) grpc_status: Option<u8>,
    replay: Option<Replay>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Ending,
    Done,
}

/// What was taken from the body so far, kept until it is known that nobody else has to be sent it.
#[derive(Debug)]
struct Replay {
    pieces: VecDeque<Bytes>,
    room: usize,
}

/// Why a body could not be moved.
#[derive(Debug)]
pub(super) enum PumpError {
    /// The sender failed.
    Source(BodyError),
    /// The receiver did.
    Sink(SinkError),
}

impl Pump {
    pub(super) const fn new(version: Version) -> Self {
        Self {
            state: State::Running,
            piece: Bytes::new(),
            last: false,
            version,
            bytes: 0,
            grpc_status: None,
            replay: None,
        }
    }

    /// Keeps up to `room` bytes so that they can be sent again.
    pub(super) fn keeping(mut self, room: usize) -> Self {
        self.replay = Some(Replay {
            pieces: VecDeque::new(),
            room,
        });
        self
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Nothing more is to be moved.
    pub(super) fn stop(&mut self) {
        self.state = State::Done;
        self.piece = Bytes::new();
    }

    /// Everything taken from the body; `None` when it was too much to keep.
    pub(super) fn take_replay(&mut self) -> Option<VecDeque<Bytes>> {
        self.replay.take().map(|replay| replay.pieces)
    }

    /// Whether everything taken from the body can be had again.
    pub(super) const fn has_replay(&self) -> bool {
        self.replay.is_some()
    }

    pub(super) fn forget_replay(&mut self) {
        self.replay = None;
    }

    /// Moves what can be moved now.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Body<'_>,
        sink: &mut Sink<'_>,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(sink.poll_finish(cx)).map_err(PumpError::Sink)?;
                    body.release();
                    self.state = State::Done;
                }
                State::Running => ready!(self.poll_piece(cx, body, sink))?,
            }
        }
    }

    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Body<'_>,
        sink: &mut Sink<'_>,
    ) -> Poll<Result<(), PumpError>> {
        if !self.piece.is_empty() {
            ready!(sink.poll_put(cx, &mut self.piece, self.last)).map_err(PumpError::Sink)?;
            if sink.ends_with_data() {
                // The h2 crate took it into a buffer that is bounded.
                body.release();
            }
            if self.last {
                if !sink.ends_with_data() {
                    sink.end(None, self.version).map_err(PumpError::Sink)?;
                }
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
        }
        match body.poll_data(cx) {
            Poll::Pending => {
                if let Poll::Ready(result) = sink.poll_flush(cx) {
                    result.map_err(PumpError::Sink)?;
                    body.release();
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(piece))) => {
                self.bytes = self.bytes.saturating_add(piece.len() as u64);
                self.keep(&piece);
                self.last = body.is_end();
                self.piece = piece;
                if self.piece.is_empty() && self.last {
                    return self.end(body, sink);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(PumpError::Source(error))),
            Poll::Ready(None) => self.end(body, sink),
        }
    }

    fn end(&mut self, body: &mut Body<'_>, sink: &mut Sink<'_>) -> Poll<Result<(), PumpError>> {
        let trailers = body.take_trailers();
        if let Some(status) = trailers
            .as_ref()
            .and_then(|trailers| trailers.get("grpc-status"))
        {
            self.grpc_status = parse_grpc_status(status);
        }
        sink.end(trailers.as_ref(), self.version)
            .map_err(PumpError::Sink)?;
        if trailers.is_some() {
            // A second sender of a replay would not have them.
            self.replay = None;
        }
        self.state = State::Ending;
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, piece: &Bytes) {
        let Some(replay) = &mut self.replay else {
            return;
        };
        match replay.room.checked_sub(piece.len()) {
            Some(room) => {
                replay.room = room;
                replay.pieces.push_back(piece.clone());
            }
            None => self.replay = None,
        }
    }
}

/// A gRPC status as a field says it.
pub(super) fn parse_grpc_status(value: &[u8]) -> Option<u8> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
