//! Calls the cart: one kept connection, every kind of gRPC call.

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{Method, Request};
use prost::Message;
use tokio::sync::Mutex;
use tokio::task::spawn_local;

use crate::cli::Origin;
use crate::grpc::{
    self, ADD, ADD_MANY, Ask, CHAT, LIST, Line, MessageError, Messages, Status, Total, send,
};
use crate::http_client::agent;
use crate::net::{CallError, dial, within};
use crate::{PAYLOAD, Stop};

#[derive(Debug)]
pub(crate) struct CartClient {
    origin: Origin,
    shared: Mutex<Option<Connection>>,
}

/// The connection that calls share; `gone` says that its driver has ended.
#[derive(Clone, Debug)]
struct Connection {
    sender: SendRequest<Bytes>,
    gone: Stop,
}

impl CartClient {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            shared: Mutex::new(None),
        }
    }

    /// Unary.
    pub(crate) async fn add(&self, item: &str) -> Result<Total, CallError> {
        self.within(async || only(self.call(ADD, &[line(item)]).await?))
            .await
    }

    /// Client streaming.
    pub(crate) async fn add_many(&self, items: &[&str]) -> Result<Total, CallError> {
        let lines: Vec<_> = items.iter().map(|item| line(item)).collect();
        self.within(async || only(self.call(ADD_MANY, &lines).await?))
            .await
    }

    /// Server streaming.
    pub(crate) async fn list(&self) -> Result<Vec<Line>, CallError> {
        self.within(async || {
            self.call(
                LIST,
                &[Ask {
                    note: PAYLOAD.to_owned(),
                }],
            )
            .await
        })
        .await
    }

    /// Streaming both ways: says each item only once the one before was answered.
    pub(crate) async fn chat(&self, items: &[&str]) -> Result<Vec<Line>, CallError> {
        self.within(async || {
            let (mut asking, response) = self.open(CHAT).await?;
            let mut answers = Vec::new();
            let (mut response, mut replies) = (Some(response), None);
            for item in items {
                send(&mut asking, &line(item)).await?;
                if let Some(response) = response.take() {
                    replies = Some(begin(response).await?);
                }
                let Some(replies) = replies.as_mut() else {
                    continue;
                };
                match replies.next::<Line>().await? {
                    Some(answer) => answers.push(answer),
                    None => break,
                }
            }
            asking.send_data(Bytes::new(), true)?;
            if let Some(mut replies) = replies {
                answers.extend(rest::<Line>(&mut replies).await?);
            }
            Ok(answers)
        })
        .await
    }

    /// Any call whose messages are known before; its answers.
    pub(crate) async fn call<M, R>(
        &self,
        method: &'static str,
        messages: &[M],
    ) -> Result<Vec<R>, Failed>
    where
        M: Message,
        R: Message + Default,
    {
        let (mut asking, response) = self.open(method).await?;
        for message in messages {
            send(&mut asking, message).await?;
        }
        asking.send_data(Bytes::new(), true)?;
        rest(&mut begin(response).await?).await
    }

    async fn open(
        &self,
        method: &'static str,
    ) -> Result<(SendStream<Bytes>, ResponseFuture), Failed> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{method}", self.origin.authority))
            .header(CONTENT_TYPE, grpc::CONTENT_TYPE)
            .header(TE, "trailers")
            .header(USER_AGENT, agent())
            .body(())
            .map_err(|error| Failed::Call(CallError::broken(error)))?;
        let sender = self.connection().await.map_err(Failed::Call)?.sender;
        // What cannot be sent has not been seen.
        let mut ready = sender.ready().await.map_err(Failed::Unprocessed)?;
        let (response, asking) = ready
            .send_request(request, false)
            .map_err(Failed::Unprocessed)?;
        Ok((asking, response))
    }

    async fn connection(&self) -> Result<Connection, CallError> {
        // Held while dialling, so that calls that start together make one connection.
        let mut shared = self.shared.lock().await;
        if let Some(kept) = shared.as_ref().filter(|kept| !kept.gone.is_cancelled()) {
            return Ok(kept.clone());
        }
        *shared = None;
        let socket = dial(&self.origin).await?;
        let (sender, driver) = client::handshake(socket).await.map_err(CallError::broken)?;
        let gone = Stop::new();
        let ended = gone.clone().drop_guard();
        spawn_local(async move {
            // How it ended is what the calls on it hear.
            drop(driver.await);
            drop(ended);
        });
        Ok(shared.insert(Connection { sender, gone }).clone())
    }

    /// Runs `call` within its time, and once more on a new connection where the kept one had ended before it.
    async fn within<T>(&self, call: impl AsyncFn() -> Result<T, Failed>) -> Result<T, CallError> {
        let answer = within(async {
            match call().await {
                Err(Failed::Unprocessed(_)) => {
                    *self.shared.lock().await = None;
                    call().await.map_err(Failed::into_call_error)
                }
                ended => ended.map_err(Failed::into_call_error),
            }
        })
        .await;
        if matches!(answer, Err(CallError::Timeout)) {
            // The connection may lead nowhere; the next call makes another.
            *self.shared.lock().await = None;
        }
        answer
    }
}

/// Why one attempt failed, and whether the server can have seen it.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The server said that it did not act on the call: it may be made again (RFC 9113, 8.7).
    Unprocessed(h2::Error),
    Call(CallError),
}

impl Failed {
    fn into_call_error(self) -> CallError {
        match self {
            Self::Unprocessed(error) => CallError::broken(error),
            Self::Call(error) => error,
        }
    }
}

impl From<h2::Error> for Failed {
    fn from(error: h2::Error) -> Self {
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let left =
            error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
        if refused || left {
            Self::Unprocessed(error)
        } else {
            Self::Call(CallError::broken(error))
        }
    }
}

impl From<MessageError> for Failed {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::Stream(error) => error.into(),
            error => Self::Call(CallError::broken(error)),
        }
    }
}

fn line(item: &str) -> Line {
    Line {
        item: item.to_owned(),
        quantity: 1,
        note: PAYLOAD.to_owned(),
    }
}

/// Waits for the head of the answer.
async fn begin(response: ResponseFuture) -> Result<Messages, Failed> {
    let (head, body) = response.await?.into_parts();
    if let Some(status) = Status::read(&head.headers) {
        // An answer of nothing but headers: a refusal.
        check(status)?;
    }
    if !head.status.is_success() {
        return Err(Failed::Call(CallError::Status(head.status)));
    }
    Ok(Messages::new(body))
}

/// All further answers, once the call has ended well.
async fn rest<R: Message + Default>(replies: &mut Messages) -> Result<Vec<R>, Failed> {
    let mut answers = Vec::new();
    while let Some(answer) = replies.next::<R>().await? {
        answers.push(answer);
    }
    let status = Status::read(&replies.trailers().await?);
    check(status.ok_or_else(|| Failed::Call(CallError::Strange("no grpc-status".to_owned())))?)?;
    Ok(answers)
}

fn check(Status { code, message }: Status) -> Result<(), Failed> {
    if code == 0 {
        Ok(())
    } else {
        Err(Failed::Call(CallError::Grpc { code, message }))
    }
}

fn only<R>(answers: Vec<R>) -> Result<R, Failed> {
    let strange = || Failed::Call(CallError::Strange("not one message".to_owned()));
    let [answer] = <[R; 1]>::try_from(answers).map_err(|_others| strange())?;
    Ok(answer)
}
