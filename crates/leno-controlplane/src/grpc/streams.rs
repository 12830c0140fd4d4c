//! The two streams of an agent: who may open one, what is heard on it, and what is said.
//!
//! Refuses a session that does not begin with a Hello. Invariant: a stream, quiet as most are for days, keeps nothing of
//! a message that went out on it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::{BufMut, Bytes};
use futures_util::FutureExt;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame};
use leno_runtime::Stop;
use leno_wire::{
    agent::{AgentMessage, ControlMessage, agent_message},
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::{Empty, Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Response, Status};

use super::{AgentService, Caller, no_mesh};
use crate::{
    challenge,
    core::Core,
    mesh::{ADS_QUEUE, SESSION_QUEUE},
    registry::{Opening, Refused},
};

/// How long the first message of a stream may take.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// Bytes after which what is said goes out in another piece.
const PIECE: usize = 32 << 10;

/// What is said on a stream, in one direction.
pub(crate) trait Messages<T>:
    Stream<Item = Result<T, Status>> + Send + Unpin + 'static
{
}

impl<T, S: Stream<Item = Result<T, Status>> + Send + Unpin + 'static> Messages<T> for S {}

impl AgentService {
    /// A session, of whichever transport: what is to be said on it.
    pub(crate) async fn open_session(
        &self,
        caller: Caller,
        mut inbound: impl Messages<AgentMessage>,
    ) -> Result<impl Messages<ControlMessage>, Status> {
        let first = tokio::time::timeout(FIRST_MESSAGE, inbound.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello came"))?;
        let Some(AgentMessage {
            message: Some(agent_message::Message::Hello(hello)),
        }) = first.transpose()?
        else {
            return Err(Status::invalid_argument("a session begins with a Hello"));
        };
        let (sender, receiver) = mpsc::channel(SESSION_QUEUE);
        let opened = self.handle.call(move |core| {
            let session = core.next_id();
            let (clock, stop) = (core.clock.clone(), core.scope.stop().child());
            let mesh = core.mesh_of(&caller.identity).ok_or_else(no_mesh)?;
            let scope = mesh.scope_of(&caller.agent, caller.issued)?;
            let opening = Opening {
                session,
                agent: &caller.agent,
                scope,
                source: caller.source,
                hello: &hello,
                wall: clock.wall(),
            };
            mesh.open_session(opening, sender, stop.clone(), clock.uptime())
                .map_err(refused)?;
            let name = mesh.name().clone();
            let closing = name.clone();
            let hear = move |core: &mut Core, message| {
                let (clock, random) = (core.clock.clone(), core.clock.world.random());
                let (handle, scope) = (core.handle.clone(), core.scope.clone());
                if let Some(mesh) = core.meshes.get_mut(&name)
                    && let Some((agent, uid)) = mesh.hear(session, message, &clock, random)
                {
                    // Also of one that has kept its certificate: after a restart nothing else would prove it.
                    challenge::begin(mesh, &agent, uid, &handle, &scope);
                }
            };
            read(core, "session", inbound, stop, hear, move |core, _| {
                if let Some(mesh) = core.meshes.get_mut(&closing) {
                    mesh.close_session(session);
                }
            })
        });
        opened.await??;
        Ok(ReceiverStream::new(receiver).map(|said| *said))
    }

    /// A discovery stream, of whichever transport: what is to be sent on it.
    pub(crate) async fn open_discovery(
        &self,
        caller: Caller,
        inbound: impl Messages<DeltaDiscoveryRequest>,
    ) -> Result<impl Messages<DeltaDiscoveryResponse>, Status> {
        let (sender, receiver) = mpsc::channel(ADS_QUEUE);
        let opened = self.handle.call(move |core| {
            let stream = core.next_id();
            let (clock, stop) = (core.clock.clone(), core.scope.stop().child());
            let mesh = core.mesh_of(&caller.identity).ok_or_else(no_mesh)?;
            mesh.scope_of(&caller.agent, caller.issued)?;
            mesh.open_ads(stream, &caller.agent, sender, stop.clone(), clock.uptime());
            let name = mesh.name().clone();
            let closing = name.clone();
            let hear = move |core: &mut Core, request: DeltaDiscoveryRequest| {
                let now = core.clock.uptime();
                if let Some(mesh) = core.meshes.get_mut(&name) {
                    mesh.ads_request(stream, &request, now);
                }
            };
            read(
                core,
                "discovery",
                inbound,
                stop,
                hear,
                move |core, wrong| {
                    if let Some(mesh) = core.meshes.get_mut(&closing) {
                        mesh.close_ads(stream, wrong.as_ref().and_then(unreadable).as_ref());
                    }
                },
            )
        });
        opened.await??;
        Ok(ReceiverStream::new(receiver).map(|said| *said))
    }
}

fn refused(refused: Refused) -> Status {
    match refused {
        Refused::Limit(_) => Status::resource_exhausted(refused.to_string()),
        Refused::Scope(_) => Status::permission_denied(refused.to_string()),
        Refused::Conflict(_) => Status::already_exists(refused.to_string()),
        Refused::Invalid { .. } => Status::invalid_argument(refused.to_string()),
    }
}

/// Starts the task that reads a stream: each message is heard by the state, and at last its end, with what could not be
/// read.
fn read<T: Send + 'static>(
    core: &Core,
    task: &'static str,
    mut inbound: impl Messages<T>,
    stop: Stop,
    hear: impl Fn(&mut Core, T) + Clone + Send + 'static,
    close: impl FnOnce(&mut Core, Option<Status>) + Send + 'static,
) -> Result<(), Status> {
    let handle = core.handle.clone();
    let started = core.scope.spawn(task, async move {
        // The task lasts for days: it has no room for a message, nor for what is done with it.
        let tell = |message| {
            let hear = hear.clone();
            Box::pin(handle.call(move |core| hear(core, message)))
        };
        let wrong = loop {
            let heard = inbound.next().map(|next| next.map(|read| read.map(tell)));
            match stop.run_until_stopped(heard).await {
                Some(Some(Ok(told))) => {
                    if told.await.is_err() {
                        return;
                    }
                }
                Some(Some(Err(status))) => break Some(status),
                Some(None) | None => break None,
            }
        };
        if Box::pin(handle.call(move |core| close(core, wrong)))
            .await
            .is_err()
        {
            tracing::debug!(task, "a stream outlived the state");
        }
    });
    started.map_err(|error| Status::resource_exhausted(error.to_string()))
}

/// What a proxy is told that sent what cannot be read; nothing where its connection ended.
fn unreadable(status: &Status) -> Option<Status> {
    match status.code() {
        // So tonic says that a message is no such message.
        Code::Internal => Some(Status::invalid_argument(
            "a message on the discovery stream is no DeltaDiscoveryRequest",
        )),
        Code::OutOfRange | Code::ResourceExhausted => Some(Status::out_of_range(
            "a message on the discovery stream is larger than 4 MiB",
        )),
        _ => None,
    }
}

/// The answer as tonic has to have it: nothing is said in it, and [`written`] puts our own body in its place.
pub(super) type Silence<T> = Empty<Result<T, Status>>;

/// The body of an answer, on its way past tonic.
#[derive(Clone)]
struct Aside(Arc<Mutex<Option<Body>>>);

/// The answer to who has opened a stream. tonic's own body keeps, for as long as the stream lives, room for the largest
/// message that it ever wrote.
pub(super) fn answer<T: Message + 'static>(said: impl Messages<T>) -> Response<Silence<T>> {
    let body = Body::new(Answer::new(said));
    let mut response = Response::new(tokio_stream::empty());
    let aside = Aside(Arc::new(Mutex::new(Some(body))));
    response.extensions_mut().insert(aside);
    response
}

/// The answer as it is sent.
pub(crate) async fn written(mut response: axum::response::Response) -> axum::response::Response {
    let aside = response.extensions_mut().remove::<Aside>();
    let body = aside.and_then(|Aside(body)| {
        let mut body = body.lock().unwrap_or_else(PoisonError::into_inner);
        body.take()
    });
    match body {
        Some(body) => response.map(|_| body),
        None => response,
    }
}

/// What is said on a stream, as gRPC writes it: what is there at once is one piece of memory, exactly as large, and
/// whoever sends it frees it. Ends with trailers that say why.
struct Answer<S> {
    said: S,
    /// Why it has ended, to be told after what was said before.
    end: Option<Status>,
    over: bool,
}

impl<S> Answer<S> {
    fn new(said: S) -> Self {
        Self {
            said,
            end: None,
            over: false,
        }
    }
}

impl<T: Message, S: Stream<Item = Result<T, Status>> + Unpin> HttpBody for Answer<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut written = Vec::new();
        while self.end.is_none() && written.len() < PIECE {
            let said = match Pin::new(&mut self.said).poll_next(context) {
                Poll::Ready(said) => said,
                Poll::Pending if written.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            };
            match said.map(|said| said.and_then(|message| write(&message, &mut written))) {
                Some(Ok(())) => {}
                Some(Err(status)) => self.end = Some(status),
                None => self.end = Some(Status::ok("")),
            }
        }
        if !written.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(written.into()))));
        }
        if std::mem::replace(&mut self.over, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        if let Some(end) = &self.end {
            end.add_header(&mut trailers)?;
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

/// A message behind its prefix: that it is not compressed, and its length.
fn write<T: Message>(message: &T, to: &mut Vec<u8>) -> Result<(), Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length)
        .map_err(|_| Status::resource_exhausted(format!("a message of {length} bytes")))?;
    to.reserve_exact(5 + length);
    to.put_u8(0);
    to.put_u32(prefix);
    let encoded = message.encode(to);
    encoded.map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use http_body_util::BodyExt;
    use leno_wire::{codec::Lean, discovery::Resource};
    use tonic::codec::{Codec, Streaming};

    use super::*;

    fn of(size: usize) -> DeltaDiscoveryResponse {
        let resource = Resource {
            name: "x".repeat(size),
            ..Resource::default()
        };
        DeltaDiscoveryResponse {
            resources: vec![resource],
            ..DeltaDiscoveryResponse::default()
        }
    }

    fn answered(said: Vec<Result<DeltaDiscoveryResponse, Status>>) -> Body {
        let said = tokio_stream::iter(said);
        Body::new(Answer::new(said))
    }

    #[tokio::test]
    async fn a_client_reads_what_was_said_and_why_it_ended() {
        let codec = &mut Lean::<(), DeltaDiscoveryResponse>::default();
        let gone = Status::unavailable("the control plane is going");
        let said = [Ok(of(3)), Ok(of(100_000)), Ok(of(0)), Err(gone)];
        let body = answered(said.to_vec());
        let ok = http::StatusCode::OK;
        let mut read = Streaming::new_response(codec.decoder(), body, ok, None, None);
        for size in [3, 100_000, 0] {
            assert_eq!(read.message().await.unwrap(), Some(of(size)));
        }
        let error = read.message().await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert_eq!(error.message(), "the control plane is going");

        let body = answered(vec![Ok(of(1))]);
        let mut read = Streaming::new_response(codec.decoder(), body, ok, None, None);
        assert_eq!(read.message().await.unwrap(), Some(of(1)));
        assert_eq!(read.message().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_stream_keeps_nothing_of_what_went_out() {
        let mut body = answered(vec![Ok(of(100_000)), Ok(of(10)), Ok(of(1_000))]);
        let large = body.frame().await.unwrap().unwrap().into_data().unwrap();
        // Whoever sends it has the whole of it alone, so that it is free once it was sent.
        assert!(large.len() > 100_000 && large.is_unique());
        let small = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let small = small.try_into_mut().unwrap();
        assert!(small.len() > 1_010 && small.capacity() == small.len());
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert!(body.frame().await.is_none());
    }
}
