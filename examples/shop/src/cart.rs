//! What was chosen: a gRPC server with unary calls and all three kinds of streaming (`cart.proto`).
//!
//! Keeps a sum and the last few lines, so a steady load costs no memory.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{RecvStream, SendStream};
use http::{Request, Response, StatusCode, header};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::grpc::{
    ADD, ADD_MANY, Ask, CHAT, CONTENT_TYPE, HEALTH, Health, LIST, Line, MessageError, Messages,
    SERVING, Status, Total, send,
};
use crate::net::Listeners;
use crate::{PAYLOAD, Stop};

const HANDSHAKE: Duration = Duration::from_secs(5);
const MAX_CALLS: u32 = 100;
const KEPT_LINES: usize = 4;

#[derive(Debug, Default)]
struct Cart {
    quantity: Cell<u64>,
    last: RefCell<VecDeque<Line>>,
}

pub(crate) async fn run(listeners: Listeners, stop: &Stop) {
    let cart = Rc::new(Cart::default());
    listeners
        .serve(stop, |socket| {
            let (cart, stop) = (Rc::clone(&cart), stop.clone());
            // A client that goes away ends its own connection only.
            async move { drop(connection(socket, cart, &stop).await) }
        })
        .await;
}

async fn connection(socket: TcpStream, cart: Rc<Cart>, stop: &Stop) -> Result<(), h2::Error> {
    let handshake = server::Builder::new()
        .max_concurrent_streams(MAX_CALLS)
        .handshake::<_, Bytes>(socket);
    let Ok(connection) = timeout(HANDSHAKE, handshake).await else {
        return Ok(());
    };
    let mut connection = connection?;
    let mut calls = JoinSet::new();
    let mut ending = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(call) => {
                    let (request, respond) = call?;
                    calls.spawn_local(answer(request, respond, Rc::clone(&cart)));
                }
                None => return Ok(()),
            },
            () = stop.cancelled(), if !ending => {
                ending = true;
                connection.graceful_shutdown();
            }
            Some(_ended) = calls.join_next() => {}
        }
    }
}

/// Answers one call; a caller that goes away has no use for the reason.
async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, cart: Rc<Cart>) {
    let mut response = Response::new(());
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| {
            let value = value.as_bytes();
            value == CONTENT_TYPE.as_bytes()
                || value.starts_with(b"application/grpc+")
                || value.starts_with(b"application/grpc;")
        });
    if !grpc {
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        drop(respond.send_response(response, true));
        return;
    }
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(CONTENT_TYPE),
    );
    let Ok(mut replies) = respond.send_response(response, false) else {
        return;
    };
    let (parts, body) = request.into_parts();
    let ended = call(parts.uri.path(), Messages::new(body), &mut replies, &cart).await;
    let status = match ended {
        Ok(()) => Status::ok(),
        Err(Refused::Status(status)) => status,
        Err(Refused::Message(MessageError::TooLarge)) => {
            Status::resource_exhausted("a message is too large")
        }
        Err(Refused::Message(MessageError::Compressed)) => {
            Status::unimplemented("compression is not supported")
        }
        Err(Refused::Message(MessageError::Malformed(_) | MessageError::Cut)) => {
            Status::invalid_argument("a message cannot be read")
        }
        Err(Refused::Message(MessageError::Stream(_) | MessageError::Closed)) => return,
    };
    drop(replies.send_trailers(status.trailers()));
}

/// Why a call does not end well.
#[derive(Debug)]
enum Refused {
    Status(Status),
    Message(MessageError),
}

impl From<MessageError> for Refused {
    fn from(error: MessageError) -> Self {
        Self::Message(error)
    }
}

async fn call(
    method: &str,
    mut asked: Messages,
    replies: &mut SendStream<Bytes>,
    cart: &Cart,
) -> Result<(), Refused> {
    match method {
        ADD => {
            let line = one::<Line>(&mut asked).await?;
            cart.add(line);
            send(replies, &cart.total()).await?;
        }
        ADD_MANY => {
            while let Some(line) = asked.next::<Line>().await? {
                cart.add(line);
            }
            send(replies, &cart.total()).await?;
        }
        LIST => {
            one::<Ask>(&mut asked).await?;
            for line in cart.list() {
                send(replies, &line).await?;
            }
        }
        CHAT => {
            while let Some(line) = asked.next::<Line>().await? {
                let note = format!("heard {} {PAYLOAD}", line.item);
                send(replies, &Line { note, ..line }).await?;
            }
        }
        HEALTH => send(replies, &Health { status: SERVING }).await?,
        _ => return Err(Refused::Status(Status::unimplemented("no such method"))),
    }
    Ok(())
}

/// The only message of a caller that has no more to say.
async fn one<M: prost::Message + Default>(asked: &mut Messages) -> Result<M, Refused> {
    let message = asked.next::<M>().await?;
    message.ok_or_else(|| Refused::Status(Status::invalid_argument("the message is missing")))
}

impl Cart {
    fn add(&self, line: Line) {
        self.quantity
            .set(self.quantity.get().saturating_add(line.quantity.into()));
        let mut last = self.last.borrow_mut();
        last.truncate(KEPT_LINES - 1);
        last.push_front(line);
    }

    fn total(&self) -> Total {
        Total {
            quantity: self.quantity.get(),
            note: PAYLOAD.to_owned(),
        }
    }

    /// The last lines, and one that ends the list.
    fn list(&self) -> Vec<Line> {
        let last = self.last.borrow().iter().cloned().collect::<Vec<_>>();
        let end = Line {
            item: "end of list".to_owned(),
            quantity: 0,
            note: PAYLOAD.to_owned(),
        };
        last.into_iter().chain([end]).collect()
    }
}
