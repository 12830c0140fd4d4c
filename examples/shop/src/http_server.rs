//! Serving HTTP by an ordinary library, and the answers the programs share.

use std::convert::Infallible;
use std::pin::pin;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, SERVER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use crate::net::Listeners;
use crate::{PAYLOAD, Stop};

pub(crate) type Reply = Response<Full<Bytes>>;

/// Which HTTP a server speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Speaks {
    Http1,
    /// HTTP/2 with prior knowledge, and HTTP/1.1.
    Http2,
}

/// Runs the library's own tasks on this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Local {
    fn execute(&self, work: F) {
        spawn_local(work);
    }
}

/// Serves every request by `answer` until the stop; `GET /healthz` is answered here.
pub(crate) async fn serve<A, F>(listeners: Listeners, speaks: Speaks, stop: &Stop, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Reply> + 'static,
{
    listeners
        .serve(stop, |socket| {
            connection(socket, speaks, stop.clone(), answer.clone())
        })
        .await;
}

async fn connection<A, F>(socket: TcpStream, speaks: Speaks, stop: Stop, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Reply> + 'static,
{
    let mut builder = auto::Builder::new(Local);
    builder
        .http1()
        .timer(TokioTimer::new())
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100);
    if matches!(speaks, Speaks::Http1) {
        builder = builder.http1_only();
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let healthy = request.method() == Method::GET && request.uri().path() == "/healthz";
            let reply = if healthy {
                text("ok")
            } else {
                answer(request).await
            };
            Ok::<_, Infallible>(reply)
        }
    });
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(socket), service));
    // How a connection ended is its caller's business: this end has nothing to repair.
    tokio::select! {
        ended = serving.as_mut() => drop(ended),
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            drop(serving.await);
        }
    }
}

/// A good answer of the given type.
pub(crate) fn reply(content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(SERVER, HeaderValue::from_static("shop"));
    reply
}

/// A line of text and the payload.
pub(crate) fn text(line: &str) -> Reply {
    reply("text/plain; charset=utf-8", format!("{line} {PAYLOAD}\n"))
}

/// A refusal, in words.
pub(crate) fn refuse(status: StatusCode, why: &str) -> Reply {
    let mut reply = text(why);
    *reply.status_mut() = status;
    reply
}
