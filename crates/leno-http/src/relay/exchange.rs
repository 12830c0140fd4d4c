//! One exchange until its final response head, and what follows when none comes.

use std::task::{Context, Poll};

use http::Method;
use leno_types::Refusal;
use tokio::time::Instant;

use super::{
    Ended, RelayOptions, Relayed, Side, Unsent, UnsentReason,
    flow::{Flow, client_failed},
    pump::{Pump, PumpError, parse_grpc_status},
    upstream::{Answer, Awaiting, NoAnswer},
};
use crate::{
    Body, Incoming, Limits, Reply, RequestHead, ResponseHead, Version,
    reply::Announced,
    sink::{Sink, SinkError},
    timer::Borrowed,
};

/// One exchange under way.
pub(super) struct Exchange<'c> {
    head: RequestHead,
    body: Body<'c>,
    reply: Reply<'c>,
    upload: Pump,
    /// The request may flow. Not before a switch was agreed on.
    uploading: bool,
    /// The client waits for 100 (Continue) before it sends its body.
    expects: bool,
    interim_limit: u32,
    linger: std::time::Duration,
    timer: Borrowed,
    started: Instant,
    relayed: Relayed,
}

/// What became of it.
pub(super) enum Verdict<'c> {
    Done {
        relayed: Relayed,
        /// HTTP/1: both messages were carried whole and the upstream keeps its connection.
        upstream_keeps: bool,
    },
    Unsent(Unsent<'c>),
}

impl<'c> Verdict<'c> {
    #[expect(
        clippy::result_large_err,
        reason = "a request comes back seldom, and is not copied on its way"
    )]
    pub(super) fn relayed(self) -> Result<Relayed, Unsent<'c>> {
        match self {
            Self::Done { relayed, .. } => Ok(relayed),
            Self::Unsent(unsent) => Err(unsent),
        }
    }
}

/// How the wait for an answer ended.
enum Waited<'u> {
    Answered {
        head: ResponseHead,
        body: Body<'u>,
        keep_alive: bool,
    },
    NoAnswer(NoAnswer),
    ClientGone,
    ClientBroke,
    Timeout,
    Cancelled,
}

impl<'c> Exchange<'c> {
    pub(super) fn new(incoming: Incoming<'c>, limits: &Limits, started: Instant) -> Self {
        let Incoming { head, body, reply } = incoming;
        Self {
            timer: reply.timer(),
            upload: Pump::new(head.version).keeping(limits.replay_bytes),
            uploading: false,
            expects: head.version == Version::Http11
                && !body.is_end()
                && head
                    .fields
                    .get("expect")
                    .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")),
            head,
            body,
            reply,
            interim_limit: limits.interim_responses,
            linger: limits.linger,
            started,
            relayed: Relayed {
                status: None,
                grpc_status: None,
                request_bytes: 0,
                response_bytes: 0,
                first_byte: None,
                ended: Ended::Complete,
                refused: None,
                reusable: None,
            },
        }
    }

    pub(super) async fn run(
        mut self,
        mut awaiting: Awaiting<'_>,
        mut sink: Sink<'_>,
        options: RelayOptions<'_>,
    ) -> Verdict<'c> {
        let switch = self.head.asks_to_switch();
        self.uploading = !switch && !self.body.is_end();
        if !self.uploading && !switch {
            self.upload.stop();
        }
        let waited = {
            let mut watch = options.cancel.watch();
            let deadline = options
                .request_timeout
                .map(|timeout| self.started + timeout);
            std::future::poll_fn(|cx| {
                if watch.poll(cx) {
                    return Poll::Ready(Waited::Cancelled);
                }
                self.poll_wait(cx, &mut awaiting, &mut sink, deadline)
            })
            .await
        };
        self.relayed.request_bytes = self.upload.bytes;
        let upstream_is_h1 = awaiting.is_h1();
        match waited {
            Waited::Answered {
                head,
                body,
                keep_alive,
            } => {
                self.relayed.first_byte = Some(self.started.elapsed());
                self.upload.forget_replay();
                let switched = switch && is_switched(&self.head, &head, upstream_is_h1);
                if head.status == 101 && !switched {
                    sink.abort(h2::Reason::CANCEL);
                    return self
                        .refuse(Refusal::UpstreamProtocol, Ended::Protocol(Side::Upstream))
                        .await;
                }
                self.respond(head, body, keep_alive, switched, sink, options)
                    .await
            }
            Waited::NoAnswer(why) => self.unanswered(why).await,
            Waited::ClientGone => {
                sink.abort(h2::Reason::CANCEL);
                self.reply.close_after();
                self.relayed.ended = Ended::ClientGone;
                done(self.relayed, false)
            }
            Waited::ClientBroke => {
                sink.abort(h2::Reason::CANCEL);
                self.refuse(Refusal::ClientProtocol, Ended::Protocol(Side::Client))
                    .await
            }
            Waited::Timeout => {
                sink.abort(h2::Reason::CANCEL);
                self.refuse(Refusal::UpstreamTimeout, Ended::Timeout).await
            }
            Waited::Cancelled => {
                sink.abort(h2::Reason::CANCEL);
                self.refuse(Refusal::StreamEnded, Ended::Cancelled).await
            }
        }
    }

    fn poll_wait<'u>(
        &mut self,
        cx: &mut Context<'_>,
        awaiting: &mut Awaiting<'u>,
        sink: &mut Sink<'_>,
        deadline: Option<Instant>,
    ) -> Poll<Waited<'u>> {
        if self.uploading && !self.upload.is_done() {
            match self.upload.poll(cx, &mut self.body, sink) {
                Poll::Ready(Err(PumpError::Source(error))) => {
                    return Poll::Ready(match client_failed(&error) {
                        Ended::ClientGone => Waited::ClientGone,
                        _ => Waited::ClientBroke,
                    });
                }
                Poll::Ready(Err(PumpError::Sink(SinkError::Length))) => {
                    return Poll::Ready(Waited::ClientBroke);
                }
                // The upstream takes no more of the request; its answer may still come.
                Poll::Ready(Err(PumpError::Sink(SinkError::Gone))) => self.upload.stop(),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        } else if let Poll::Ready(Err(_)) = sink.poll_flush(cx) {
            *sink = Sink::Closed; // as above: the answer, or the end, is read below
        }
        loop {
            match awaiting.poll(cx) {
                Poll::Ready(Ok(Answer::Interim(head))) => {
                    self.expects &= head.status != 100;
                    if self.reply.send_interim(&head, self.interim_limit).is_err() {
                        return Poll::Ready(Waited::ClientGone);
                    }
                }
                Poll::Ready(Ok(Answer::Final {
                    head,
                    body,
                    keep_alive,
                })) => {
                    return Poll::Ready(Waited::Answered {
                        head,
                        body,
                        keep_alive,
                    });
                }
                Poll::Ready(Err(why)) => return Poll::Ready(Waited::NoAnswer(why)),
                Poll::Pending => break,
            }
        }
        let flushed = self.reply.poll_flush(cx);
        if flushed.is_err() || self.reply.poll_gone(cx) || self.body.poll_watch(cx).is_err() {
            return Poll::Ready(Waited::ClientGone);
        }
        if deadline.is_some_and(|deadline| self.timer.poll(cx, deadline)) {
            return Poll::Ready(Waited::Timeout);
        }
        Poll::Pending
    }

    /// No answer came: the request goes back to the caller where that is safe.
    async fn unanswered(mut self, why: NoAnswer) -> Verdict<'c> {
        let reason = match why {
            NoAnswer::RefusedStream => Some(UnsentReason::RefusedStream),
            NoAnswer::GoAway => Some(UnsentReason::GoAway),
            NoAnswer::Stale if is_idempotent(&self.head.method) => {
                Some(UnsentReason::StaleConnection)
            }
            NoAnswer::Stale | NoAnswer::Reset => None,
            NoAnswer::Malformed => {
                return self
                    .refuse(Refusal::UpstreamProtocol, Ended::Protocol(Side::Upstream))
                    .await;
            }
        };
        if let Some(why) = reason {
            if let Some(pieces) = self.upload.take_replay() {
                self.body.give_again(pieces);
                let Self {
                    head, body, reply, ..
                } = self;
                return Verdict::Unsent(Unsent {
                    incoming: Incoming { head, body, reply },
                    why,
                });
            }
            crate::limits::count(|counters| &counters.replay_overflows);
        }
        self.refuse(Refusal::UpstreamReset, Ended::UpstreamResetBeforeHead)
            .await
    }

    async fn refuse(mut self, reason: Refusal, ended: Ended) -> Verdict<'c> {
        self.relayed.ended = ended;
        let Self {
            reply,
            body,
            mut relayed,
            ..
        } = self;
        refuse(reply, body, reason, &mut relayed).await;
        done(relayed, false)
    }

    /// Writes the head and moves what follows, both ways.
    async fn respond(
        self,
        mut response: ResponseHead,
        mut answer: Body<'_>,
        keep_alive: bool,
        switched: bool,
        sink: Sink<'_>,
        options: RelayOptions<'_>,
    ) -> Verdict<'c> {
        (options.on_response)(&mut response);
        let mut relayed = self.relayed;
        let version = response.version;
        relayed.grpc_status = response
            .fields
            .get("grpc-status")
            .and_then(|value| parse_grpc_status(value));
        let mut body = self.body;
        // RFC 9110 10.1.1: answered without 100, the client may never send its body, or may yet: it cannot be told
        // from a next request, so that the connection ends here.
        let unwanted = self.expects && self.upload.bytes == 0;
        if unwanted {
            self.reply.close_after();
        }
        let client = if switched {
            body.make_raw();
            answer.make_raw();
            self.reply.switch(&mut response)
        } else {
            let announced = Announced {
                length: answer.length(),
                empty: answer.is_end(),
            };
            self.reply.start(&response, announced)
        };
        relayed.status = Some(response.status);
        let Ok(client) = client else {
            relayed.ended = Ended::ClientGone;
            return done(relayed, false);
        };
        let mut upload = self.upload;
        let mut sink = sink;
        if self.head.asks_to_switch() && !switched {
            // The wish was refused: the request is over.
            upload.stop();
            if let Sink::H2(stream) = &mut sink
                && let Err(error) = stream.send_data(bytes::Bytes::new(), true)
            {
                tracing::trace!(%error, "the upstream reset a refused switch");
            }
        }
        if unwanted {
            upload.stop();
        }
        let mut flow = Flow {
            body,
            answer,
            client,
            sink,
            upload,
            download: Pump::new(version),
            switched,
            timer: self.timer,
            idle: options.idle_timeout,
            linger: self.linger,
            last_progress: (0, None),
            upload_cut: unwanted,
            reset_with: h2::Reason::INTERNAL_ERROR,
        };
        let mut watch = options.cancel.watch();
        let ended = std::future::poll_fn(|cx| {
            if watch.poll(cx) {
                return Poll::Ready(Ended::Cancelled);
            }
            flow.poll(cx)
        })
        .await;
        flow.finish(ended);
        relayed.ended = ended;
        relayed.request_bytes = flow.upload.bytes;
        relayed.response_bytes = flow.download.bytes;
        relayed.grpc_status = flow.download.grpc_status.or(relayed.grpc_status);
        let keeps =
            keep_alive && ended == Ended::Complete && !flow.upload_cut && flow.body.is_end();
        done(relayed, keeps)
    }
}

/// Answers in place of the destination, after the wait for it.
pub(super) async fn refuse(
    reply: Reply<'_>,
    body: Body<'_>,
    reason: Refusal,
    relayed: &mut Relayed,
) {
    if !body.is_end() {
        // What is left of the request cannot be told from the next one without reading all of it.
        reply.close_after();
    }
    drop(body);
    let (status, grpc_status) = reply.refusal(reason);
    relayed.refused = Some(reason);
    match reply.refuse(reason, &[], "").await {
        Ok(()) => {
            relayed.status = Some(status);
            relayed.grpc_status = grpc_status;
        }
        Err(error) => tracing::trace!(%error, "nobody was there to be refused"),
    }
}

fn done<'c>(relayed: Relayed, upstream_keeps: bool) -> Verdict<'c> {
    Verdict::Done {
        relayed,
        upstream_keeps,
    }
}

/// Whether this answer turns the exchange into bytes both ways.
fn is_switched(request: &RequestHead, response: &ResponseHead, upstream_is_h1: bool) -> bool {
    if upstream_is_h1 && request.protocol.is_some() {
        return response.status == 101;
    }
    (200..300).contains(&response.status)
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}
