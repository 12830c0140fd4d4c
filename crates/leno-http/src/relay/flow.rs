//! An exchange after its response head: bodies, or bytes, both ways until one end says it is over.
//!
//! Invariant: what was cut on one side does not look whole on the other.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Ended, Side,
    pump::{Pump, PumpError},
};
use crate::{
    Body, BodyError,
    sink::{Sink, SinkError},
    timer::Borrowed,
};

/// Both directions after the response head.
pub(super) struct Flow<'f, 'c, 'u> {
    pub(super) body: &'f mut Body<'c>,
    pub(super) answer: Body<'u>,
    pub(super) client: Sink<'c>,
    pub(super) sink: &'f mut Sink<'u>,
    pub(super) upload: &'f mut Pump,
    pub(super) download: Pump,
    pub(super) switched: bool,
    pub(super) timer: &'f mut Borrowed,
    pub(super) idle: Option<Duration>,
    pub(super) linger: Duration,
    /// Bytes moved when they last moved, and when that was.
    pub(super) last_progress: (u64, Option<Instant>),
    /// The request did not reach the upstream whole.
    pub(super) upload_cut: bool,
    /// What an HTTP/2 client is told when the upstream fails: its own reason, where it gave one.
    pub(super) reset_with: h2::Reason,
}

impl Flow<'_, '_, '_> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if !self.download.is_done() {
            match self.download.poll(cx, &mut self.answer, &mut self.client) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(PumpError::Sink(SinkError::Gone))) => {
                    return Poll::Ready(Ended::ClientGone);
                }
                Poll::Ready(Err(PumpError::Sink(SinkError::Length))) => {
                    return Poll::Ready(Ended::Protocol(Side::Upstream));
                }
                Poll::Ready(Err(PumpError::Source(error))) => {
                    if let BodyError::Http2(error) = &error {
                        self.reset_with = error.reason().unwrap_or(self.reset_with);
                    }
                    return Poll::Ready(upstream_failed(&error));
                }
                Poll::Pending => {
                    if self.client.poll_gone(cx) {
                        return Poll::Ready(Ended::ClientGone);
                    }
                }
            }
        }
        if !self.upload.is_done() {
            match self.upload.poll(cx, self.body, self.sink) {
                Poll::Ready(Ok(())) => {}
                // Answered whole, and wants no more (RFC 9113 8.1: NO_ERROR).
                Poll::Pending if self.download.is_done() && self.sink.poll_gone(cx) => {
                    self.upload.stop();
                    self.upload_cut = true;
                }
                Poll::Pending => {}
                Poll::Ready(Err(PumpError::Sink(SinkError::Length))) => {
                    return Poll::Ready(Ended::Protocol(Side::Client));
                }
                Poll::Ready(Err(PumpError::Sink(SinkError::Gone))) => {
                    self.upload.stop();
                    self.upload_cut = true;
                }
                Poll::Ready(Err(PumpError::Source(error))) => {
                    self.upload_cut = true;
                    if !self.download.is_done() {
                        return Poll::Ready(client_failed(&error));
                    }
                    self.upload.stop();
                }
            }
        }
        if self.download.is_done() && self.upload.is_done() {
            return Poll::Ready(if self.switched {
                Ended::Switched
            } else {
                Ended::Complete
            });
        }
        self.poll_timeout(cx)
    }

    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        // Answered whole, and the request still comes: it may, as long as it moves.
        let lingers = self.download.is_done() && !self.switched;
        let Some(patience) = (if lingers {
            Some(self.linger)
        } else {
            self.idle
        }) else {
            return Poll::Pending;
        };
        let moved = self.upload.bytes + self.download.bytes;
        let since = match self.last_progress {
            (before, Some(since)) if before == moved => since,
            _ => {
                let now = Instant::now();
                self.last_progress = (moved, Some(now));
                now
            }
        };
        if !self.timer.poll(cx, since + patience) {
            return Poll::Pending;
        }
        if lingers {
            self.upload.stop();
            self.upload_cut = true;
            return Poll::Ready(Ended::Complete);
        }
        Poll::Ready(Ended::Timeout)
    }

    /// Makes the end visible on both sides.
    pub(super) fn finish(&mut self, ended: Ended) {
        match ended {
            Ended::Complete | Ended::Switched => {
                self.client.mark_complete();
                if self.upload_cut {
                    self.sink.abort(h2::Reason::CANCEL);
                }
            }
            Ended::ClientGone | Ended::Protocol(Side::Client) => {
                self.client.abort(h2::Reason::CANCEL);
                self.sink.abort(h2::Reason::CANCEL);
            }
            Ended::UpstreamResetBeforeHead
            | Ended::UpstreamResetAfterHead
            | Ended::Timeout
            | Ended::Protocol(Side::Upstream)
            | Ended::Cancelled => {
                self.client.abort(self.reset_with);
                self.sink.abort(h2::Reason::CANCEL);
            }
        }
    }
}

/// How an exchange ends whose client failed.
pub(super) fn client_failed(error: &BodyError) -> Ended {
    match error {
        BodyError::Malformed(_) => Ended::Protocol(Side::Client),
        BodyError::Http2(error) if error.is_library() => Ended::Protocol(Side::Client),
        BodyError::Truncated | BodyError::Http2(_) | BodyError::Io(_) => Ended::ClientGone,
    }
}

fn upstream_failed(error: &BodyError) -> Ended {
    match error {
        BodyError::Malformed(_) => Ended::Protocol(Side::Upstream),
        BodyError::Http2(error) if error.is_library() && error.is_reset() => {
            Ended::Protocol(Side::Upstream)
        }
        BodyError::Truncated | BodyError::Http2(_) | BodyError::Io(_) => {
            Ended::UpstreamResetAfterHead
        }
    }
}
