//! One exchange until its final response head, and what follows when none comes.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use http::Method;
use leno_types::Refusal;
use tokio::time::Instant;

use super::{
    Ended, RelayOptions, Relayed, Side, Unsent, UnsentReason, Upstream,
    flow::{Flow, client_failed},
    pump::{Pump, PumpError, parse_grpc_status},
    upstream::{Answer, Awaiting, FinalAnswer, NoAnswer},
};
use crate::{
    Body, ClientError, Incoming, Reply, RequestHead, ResponseHead, Version, client,
    limits::count,
    reply::Announced,
    sink::{Sink, SinkError},
    timer::Borrowed,
};

/// One exchange under way.
pub(super) struct Exchange<'c> {
    head: Box<RequestHead>,
    body: Body<'c>,
    /// Until it is answered.
    reply: Option<Reply<'c>>,
    upload: Pump,
    /// The request may flow. Not before a switch was agreed on.
    uploading: bool,
    /// The client waits for 100 (Continue) before it sends its body.
    expects: bool,
    interim_limit: u32,
    linger: Duration,
    timer: Borrowed,
    started: Instant,
    relayed: Relayed,
}

/// What is to be done when the two sides are done with each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// Nothing.
    Done {
        /// HTTP/1: both messages were carried whole and the upstream keeps its connection.
        upstream_keeps: bool,
    },
    /// The client is to be answered.
    Refuse(Refusal, Ended),
    /// Nothing had an effect.
    GiveBack(UnsentReason),
}

/// How the wait for an answer ended.
enum Waited<'u> {
    Answered(FinalAnswer<'u>),
    NoAnswer(NoAnswer),
    ClientGone,
    ClientBroke,
    Timeout,
    Cancelled,
}

impl<'c> Exchange<'c> {
    pub(super) fn new(incoming: Incoming<'c>, upstream: &Upstream) -> Self {
        let Incoming { head, body, reply } = incoming;
        let limits = match upstream {
            Upstream::H2(connection) => connection.limits(),
            Upstream::H1(connection) => &connection.0.reader.limits,
        };
        let expect = head.fields.get("expect");
        Self {
            timer: reply.timer(),
            upload: Pump::new(head.version).keeping(limits.replay_bytes),
            uploading: false,
            expects: head.version == Version::Http11
                && !body.is_end()
                && expect.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")),
            head,
            body,
            reply: Some(reply),
            interim_limit: limits.interim_responses,
            linger: limits.linger,
            started: Instant::now(),
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

    /// What must be waited for before the request can be sent at all.
    pub(super) async fn prepare(&mut self, upstream: &Upstream) -> Result<(), Next> {
        let Upstream::H2(connection) = upstream else {
            return Ok(());
        };
        if self.head.method != Method::GET && self.head.method != Method::CONNECT {
            // Extended CONNECT has no place for another method; not to switch is always allowed (RFC 9110 7.8).
            self.head.protocol = None;
        }
        if self.head.protocol.is_none() {
            return Ok(());
        }
        let prepared = Box::pin(connection.prepare(&self.head)).await;
        prepared.map_err(|error| not_sent(&error, connection))
    }

    /// Sends the request's head, or queues it with what follows.
    pub(super) fn begin<'u>(
        &self,
        upstream: &'u mut Upstream,
    ) -> Result<(Awaiting<'u>, Sink<'u>), Next> {
        match upstream {
            Upstream::H2(connection) => {
                let end = self.body.is_end() && !self.head.asks_to_switch();
                match connection.send(&self.head, self.body.length(), end) {
                    Ok(opened) => Ok(Awaiting::h2(opened, end)),
                    Err(error) => Err(not_sent(&error, connection)),
                }
            }
            Upstream::H1(connection) => {
                if connection.carried() > 0 && !connection.is_reusable() {
                    return Err(Next::GiveBack(UnsentReason::ConnectionDead));
                }
                Awaiting::h1(connection, &self.head, &self.body).ok_or(CLIENT_BROKE)
            }
        }
    }

    /// Waits for the answer and carries what follows it.
    pub(super) async fn run<'u>(
        &mut self,
        awaiting: &mut Awaiting<'u>,
        sink: &mut Sink<'u>,
        options: &mut RelayOptions<'_>,
    ) -> Next {
        let switch = self.head.asks_to_switch();
        self.uploading = !switch && !self.body.is_end();
        if !self.uploading && !switch {
            self.upload.stop();
        }
        let mut watch = options.cancel.watch();
        let deadline = options
            .request_timeout
            .map(|timeout| self.started + timeout);
        let waited = std::future::poll_fn(|cx| {
            if watch.poll(cx) {
                return Poll::Ready(Waited::Cancelled);
            }
            self.poll_wait(cx, awaiting, sink, deadline)
        })
        .await;
        self.relayed.request_bytes = self.upload.bytes;
        let (answer, keep_alive, switched) = match waited {
            Waited::Answered(answer) => {
                if self.upload.has_replay() && (options.declined)(&answer.head) {
                    sink.abort(h2::Reason::CANCEL);
                    return self.unanswered(NoAnswer::Declined);
                }
                self.relayed.first_byte = Some(self.started.elapsed());
                self.upload.forget_replay();
                let is_h1 = awaiting.is_h1();
                let switched = switch && is_switched(&self.head, &answer.head, is_h1);
                if answer.head.status == 101 && !switched {
                    sink.abort(h2::Reason::CANCEL);
                    return UPSTREAM_BROKE;
                }
                let keep_alive = answer.keep_alive;
                (answer, keep_alive, switched)
            }
            Waited::NoAnswer(why) => return self.unanswered(why),
            other => {
                sink.abort(h2::Reason::CANCEL);
                return match other {
                    Waited::ClientBroke => CLIENT_BROKE,
                    Waited::Timeout => Next::Refuse(Refusal::UpstreamTimeout, Ended::Timeout),
                    Waited::Cancelled => Next::Refuse(Refusal::StreamEnded, Ended::Cancelled),
                    Waited::ClientGone | Waited::Answered(_) | Waited::NoAnswer(_) => {
                        self.client_gone()
                    }
                };
            }
        };
        let Some(mut flow) = self.respond(answer, switched, sink, options) else {
            return self.client_gone();
        };
        let ended = std::future::poll_fn(|cx| {
            if watch.poll(cx) {
                return Poll::Ready(Ended::Cancelled);
            }
            flow.poll(cx)
        })
        .await;
        flow.finish(ended);
        let whole = ended == Ended::Complete && !flow.upload_cut && flow.body.is_end();
        let (response_bytes, grpc_status) = (flow.download.bytes, flow.download.grpc_status);
        self.relayed.ended = ended;
        self.relayed.request_bytes = self.upload.bytes;
        self.relayed.response_bytes = response_bytes;
        self.relayed.grpc_status = grpc_status.or(self.relayed.grpc_status);
        Next::Done {
            upstream_keeps: keep_alive && whole,
        }
    }

    pub(super) fn into_relayed(self) -> Relayed {
        self.relayed
    }

    /// The request as it was given.
    pub(super) fn give_back(self, why: UnsentReason) -> Unsent<'c> {
        let Self {
            head, body, reply, ..
        } = self;
        let reply = reply.expect("a request that was answered had an effect");
        Unsent {
            incoming: Incoming { head, body, reply },
            why,
        }
    }

    /// Answers in place of the destination.
    pub(super) async fn refuse(self, reason: Refusal, ended: Ended) -> Relayed {
        let Self {
            reply,
            body,
            mut relayed,
            ..
        } = self;
        relayed.ended = ended;
        relayed.refused = Some(reason);
        let Some(reply) = reply else { return relayed };
        if !body.is_end() {
            // What is left of the request cannot be told from the next one without reading all of it.
            reply.close_after();
        }
        drop(body);
        let (status, grpc_status) = reply.refusal(reason);
        match reply.refuse(reason, &[], "").await {
            Ok(()) => {
                relayed.status = Some(status);
                relayed.grpc_status = grpc_status;
            }
            Err(error) => tracing::trace!(%error, "nobody was there to be refused"),
        }
        relayed
    }

    fn poll_wait<'u>(
        &mut self,
        cx: &mut Context<'_>,
        awaiting: &mut Awaiting<'u>,
        sink: &mut Sink<'_>,
        deadline: Option<Instant>,
    ) -> Poll<Waited<'u>> {
        let Some(reply) = &mut self.reply else {
            return Poll::Ready(Waited::ClientGone);
        };
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
                    if reply.send_interim(&head, self.interim_limit).is_err() {
                        return Poll::Ready(Waited::ClientGone);
                    }
                }
                Poll::Ready(Ok(Answer::Final(answer))) => {
                    return Poll::Ready(Waited::Answered(answer));
                }
                Poll::Ready(Err(why)) => return Poll::Ready(Waited::NoAnswer(why)),
                Poll::Pending => break,
            }
        }
        let flushed = reply.poll_flush(cx);
        if flushed.is_err() || reply.poll_gone(cx) || self.body.poll_watch(cx).is_err() {
            return Poll::Ready(Waited::ClientGone);
        }
        if deadline.is_some_and(|deadline| self.timer.poll(cx, deadline)) {
            return Poll::Ready(Waited::Timeout);
        }
        Poll::Pending
    }

    /// No answer came: the request goes back to the caller where that is safe.
    fn unanswered(&mut self, why: NoAnswer) -> Next {
        let reason = match why {
            NoAnswer::RefusedStream => Some(UnsentReason::RefusedStream),
            NoAnswer::Declined => Some(UnsentReason::Declined),
            NoAnswer::GoAway => Some(UnsentReason::GoAway),
            NoAnswer::Stale if is_idempotent(&self.head.method) => {
                Some(UnsentReason::StaleConnection)
            }
            NoAnswer::Stale | NoAnswer::Reset => None,
            NoAnswer::Malformed => return UPSTREAM_BROKE,
        };
        if let Some(why) = reason {
            if let Some(pieces) = self.upload.take_replay() {
                self.body.give_again(pieces);
                return Next::GiveBack(why);
            }
            count(|counters| &counters.replay_overflows);
        }
        Next::Refuse(Refusal::UpstreamReset, Ended::UpstreamResetBeforeHead)
    }

    fn client_gone(&mut self) -> Next {
        if let Some(reply) = self.reply.take() {
            reply.close_after();
        }
        self.relayed.ended = Ended::ClientGone;
        Next::Done {
            upstream_keeps: false,
        }
    }

    /// Writes the response's head; `None` when the client is gone.
    fn respond<'f, 'u>(
        &'f mut self,
        answer: FinalAnswer<'u>,
        switched: bool,
        sink: &'f mut Sink<'u>,
        options: &mut RelayOptions<'_>,
    ) -> Option<Flow<'f, 'c, 'u>> {
        let FinalAnswer {
            head: mut response,
            body: mut answer,
            ..
        } = answer;
        (options.on_response)(&mut response);
        let version = response.version;
        let grpc_status = response.fields.get("grpc-status");
        self.relayed.grpc_status = grpc_status.and_then(parse_grpc_status);
        let reply = self.reply.take()?;
        // RFC 9110 10.1.1: answered without 100, the client may never send its body, or may yet: it cannot be told
        // from a next request, so that the connection ends here.
        let unwanted = self.expects && self.upload.bytes == 0;
        if unwanted {
            self.upload.stop();
            reply.close_after();
        }
        let client = if switched {
            self.body.make_raw();
            answer.make_raw();
            reply.switch(&mut response)
        } else {
            let announced = Announced {
                length: answer.length(),
                empty: answer.is_end(),
            };
            reply.start(&response, announced)
        };
        let client = client.ok()?;
        self.relayed.status = Some(response.status);
        if self.head.asks_to_switch() && !switched {
            // The wish was refused: the request is over.
            self.upload.stop();
            if sink.end(None, version).is_err() {
                tracing::trace!("the upstream reset a refused switch");
            }
        }
        Some(Flow {
            body: &mut self.body,
            answer,
            client,
            sink,
            upload: &mut self.upload,
            download: Pump::new(version),
            switched,
            timer: &mut self.timer,
            idle: options.idle_timeout,
            linger: self.linger,
            last_progress: (0, None),
            upload_cut: unwanted,
            reset_with: h2::Reason::INTERNAL_ERROR,
        })
    }
}

const CLIENT_BROKE: Next = Next::Refuse(Refusal::ClientProtocol, Ended::Protocol(Side::Client));
const UPSTREAM_BROKE: Next =
    Next::Refuse(Refusal::UpstreamProtocol, Ended::Protocol(Side::Upstream));

/// A request that was not sent.
fn not_sent(error: &ClientError, connection: &client::H2) -> Next {
    match error {
        ClientError::Unsupported(reason) => {
            tracing::debug!(reason, "a request HTTP/2 cannot carry");
            CLIENT_BROKE
        }
        ClientError::Refused | ClientError::Http2(_) | ClientError::Io(_) => {
            Next::GiveBack(if connection.is_closing() {
                UnsentReason::GoAway
            } else {
                UnsentReason::RefusedStream
            })
        }
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
