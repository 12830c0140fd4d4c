//! Programs that know nothing of a mesh, and their callers: plain sockets, plain HTTP.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::host::listen;

/// What a program got: one entry for each request, its head as it came.
pub type Log = Rc<RefCell<Vec<String>>>;

/// One HTTP/1 message: its head as text, its body.
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The value of a field, its name in any case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find_map(|(own, value)| own.eq_ignore_ascii_case(name).then_some(value))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads one message; `None` at the end of the connection. A body without a length ends with the connection.
pub async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> Option<Message> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let lower = head.to_ascii_lowercase();
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let mut body = Vec::new();
    if let Some(length) = length {
        body.resize(length, 0);
        stream.read_exact(&mut body).await.ok()?;
    } else if lower.contains("transfer-encoding: chunked") {
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(stream.read_u8().await.ok()?);
            }
            let size = std::str::from_utf8(&line).unwrap().trim().to_owned();
            let size = usize::from_str_radix(&size, 16).unwrap();
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await.ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    Some(Message { head, body })
}

/// An HTTP/1 program: answers each request with what `answer` makes of it, raw bytes.
pub fn http1(ip: IpAddr, answer: impl Fn(&Message) -> String + 'static) -> (u16, Log) {
    let listener = TcpListener::from_std(listen(ip)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let log = Log::default();
    let (log_, answer) = (Rc::clone(&log), Rc::new(answer));
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (log, answer) = (Rc::clone(&log_), Rc::clone(&answer));
            tokio::task::spawn_local(async move {
                while let Some(message) = read_message(&mut stream).await {
                    log.borrow_mut().push(message.head.clone());
                    let text = answer(&message);
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                    if text.starts_with("HTTP/1.1 101") {
                        echo(&mut stream).await;
                        return;
                    }
                }
            });
        }
    });
    (port, log)
}

/// A whole answer with a body.
pub fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Writes back what it reads.
pub async fn echo(stream: &mut TcpStream) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// A program that speaks first, as databases and mail servers do, and then echoes.
pub fn server_first(ip: IpAddr, banner: &'static str) -> u16 {
    let listener = TcpListener::from_std(listen(ip)).unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                if stream.write_all(banner.as_bytes()).await.is_ok() {
                    echo(&mut stream).await;
                }
            });
        }
    });
    port
}

/// An HTTP/2 program in clear: echoes bodies, and ends with trailers like gRPC.
pub fn grpc(ip: IpAddr) -> (u16, Log) {
    let listener = TcpListener::from_std(listen(ip)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let log = Log::default();
    let log_ = Rc::clone(&log);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Rc::clone(&log_);
            tokio::task::spawn_local(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    log.borrow_mut().push(format!("{request:?}"));
                    tokio::task::spawn_local(echo_grpc(request, respond));
                }
            });
        }
    });
    (port, log)
}

async fn echo_grpc(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let response = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut send = respond.send_response(response, false).unwrap();
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        drop(body.flow_control().release_capacity(data.len()));
        if send.send_data(data, false).is_err() {
            return;
        }
    }
    let trailers: http::HeaderMap = [("grpc-status", "0"), ("grpc-message", "fine")]
        .into_iter()
        .map(|(name, value)| {
            let name: http::HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        })
        .collect();
    drop(send.send_trailers(trailers));
}

/// Sends one request and reads its answer.
pub async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> Message {
    stream.write_all(request.as_bytes()).await.unwrap();
    read_message(stream).await.expect("an answer")
}

/// A GET as a program writes it.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app\r\n\r\n")
}

/// An HTTP/2 connection in clear.
pub async fn h2c(stream: TcpStream) -> h2::client::SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::task::spawn_local(async move { drop(connection.await) });
    send.ready().await.unwrap()
}

/// What one gRPC-like call got.
pub struct Called {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HashMap<String, String>,
}

/// One call with a body.
pub async fn call(send: &mut h2::client::SendRequest<Bytes>, body: &[u8]) -> Called {
    let request = http::Request::post("http://app/echo.Echo/Say")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut stream) = send.send_request(request, false).unwrap();
    stream
        .send_data(Bytes::copy_from_slice(body), true)
        .unwrap();
    let (head, mut incoming) = response.await.unwrap().into_parts();
    let mut got = Vec::new();
    while let Some(data) = incoming.data().await {
        let data = data.unwrap();
        incoming
            .flow_control()
            .release_capacity(data.len())
            .unwrap();
        got.extend_from_slice(&data);
    }
    let trailers = incoming.trailers().await.unwrap().unwrap_or_default();
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    Called {
        status: head.status.as_u16(),
        headers: head.headers,
        body: got,
        trailers: trailers.iter().map(text).collect(),
    }
}
