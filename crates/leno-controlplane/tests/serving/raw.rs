//! Requests as no client library makes them: with bodies that nobody wants, and answers without end.

use std::{cell::Cell, rc::Rc};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

use super::client::{ControlPlane, LONG, start};

/// A request over the admin socket whose answer has no end.
pub async fn lines(control: &ControlPlane, path: &str) -> Lines {
    let socket = UnixStream::connect(control.directory.join("data/admin.sock"))
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .unwrap();
    drop(start(async move { drop(connection.await) }));
    let request = http::Request::get(path)
        .header("host", "leno")
        .body(Full::new(bytes::Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    Lines {
        body: response.into_body(),
        _sender: sender,
    }
}

/// An answer without end.
pub struct Lines {
    body: hyper::body::Incoming,
    _sender: hyper::client::conn::http1::SendRequest<Full<bytes::Bytes>>,
}

impl Lines {
    /// The next line, which came as one piece.
    pub async fn next(&mut self) -> Value {
        let frame = timeout(LONG, self.body.frame()).await.unwrap();
        let line = frame.unwrap().unwrap().into_data().unwrap();
        assert!(line.ends_with(b"\n"));
        serde_json::from_slice(&line).unwrap()
    }

    /// Waits until there is nothing more.
    pub async fn ended(mut self) {
        while let Some(Ok(_)) = timeout(LONG, self.body.frame()).await.unwrap() {}
    }
}

/// Starts what hyper needs, on this thread.
#[derive(Clone)]
pub struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, work: F) {
        drop(start(async move { drop(work.await) }));
    }
}

/// One HTTP/2 request with a body of this size; what it was answered, and how much of the body was not taken.
pub async fn post_h2<IO>(io: IO, path: &str, size: usize) -> (u16, Value, usize)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let left = Rc::new(Cell::new(size));
    let request = http::Request::post(format!("https://control-plane{path}"))
        .header("content-type", "application/json")
        .body(Spaces(Rc::clone(&left)))
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(Local, TokioIo::new(io))
        .await
        .unwrap();
    let driving = start(async move { drop(connection.await) });
    let response = sender.send_request(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    driving.abort();
    (code, serde_json::from_slice(&bytes).unwrap(), left.get())
}

/// A body of so many spaces.
struct Spaces(Rc<Cell<usize>>);

impl hyper::body::Body for Spaces {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        static SOME: [u8; 16 << 10] = [b' '; 16 << 10];
        let size = self.0.get().min(SOME.len());
        self.0.set(self.0.get() - size);
        let frame = hyper::body::Frame::data(bytes::Bytes::from_static(&SOME[..size]));
        std::task::Poll::Ready((size > 0).then_some(Ok(frame)))
    }
}

/// The same over HTTP/1.1, from a caller that reads nothing before all of it is written.
pub async fn post_stubbornly<IO>(mut io: IO, path: &str, size: usize) -> (u16, Value)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: leno\r\nContent-Type: application/json\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    );
    io.write_all(head.as_bytes()).await.unwrap();
    io.write_all(&vec![b' '; size]).await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    let code = answer[9..12].parse().unwrap();
    let (from, until) = (answer.find('{').unwrap(), answer.rfind('}').unwrap());
    (code, serde_json::from_str(&answer[from..=until]).unwrap())
}
