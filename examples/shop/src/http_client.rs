//! Calling over HTTP by an ordinary library: connections are kept and used again, names are looked up for each new one.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;
use tokio::task::spawn_local;

use crate::PAYLOAD;
use crate::cli::Origin;
use crate::http_server::Local;
use crate::net::{CallError, dial, within};

/// The longest answer that is read.
const MAX_ANSWER: usize = 256 * 1024;

/// A client of one HTTP/1.1 server.
#[derive(Debug)]
pub(crate) struct Http1 {
    origin: Origin,
    /// At most this many idle connections are kept.
    keep: usize,
    idle: RefCell<VecDeque<http1::SendRequest<Full<Bytes>>>>,
}

impl Http1 {
    pub(crate) fn new(origin: Origin, keep: usize) -> Self {
        Self {
            origin,
            keep,
            idle: RefCell::default(),
        }
    }

    /// The body of a good answer to `GET path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, CallError> {
        within(self.exchange(path)).await
    }

    async fn exchange(&self, path: &str) -> Result<Bytes, CallError> {
        loop {
            let kept = self.idle.borrow_mut().pop_front();
            let Some(mut connection) = kept else { break };
            // The server may have closed it meanwhile. A GET may be asked twice (RFC 9110, 9.2.2).
            if connection.ready().await.is_ok()
                && let Ok(response) = connection.send_request(self.request(path)?).await
            {
                return self.finish(connection, response).await;
            }
        }
        let socket = dial(&self.origin).await?;
        let (mut fresh, driver) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(CallError::broken)?;
        spawn_local(driver);
        let response = fresh
            .send_request(self.request(path)?)
            .await
            .map_err(CallError::broken)?;
        self.finish(fresh, response).await
    }

    fn request(&self, path: &str) -> Result<Request<Full<Bytes>>, CallError> {
        let request = Request::get(path)
            .header(HOST, self.origin.authority.as_str())
            .header(USER_AGENT, agent());
        request.body(Full::default()).map_err(CallError::broken)
    }

    async fn finish(
        &self,
        connection: http1::SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
    ) -> Result<Bytes, CallError> {
        let body = body(response).await;
        let mut idle = self.idle.borrow_mut();
        if !connection.is_closed() && idle.len() < self.keep {
            idle.push_back(connection);
        }
        body
    }
}

/// A client of one HTTP/2 server, without TLS and with prior knowledge; all calls share one connection.
#[derive(Debug)]
pub(crate) struct Http2 {
    origin: Origin,
    shared: Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
}

impl Http2 {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            shared: Mutex::new(None),
        }
    }

    /// The body of a good answer to `GET path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, CallError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// The body of a good answer to `PUT path`.
    pub(crate) async fn put(&self, path: &str, body: impl Into<Bytes>) -> Result<Bytes, CallError> {
        self.call(Method::PUT, path, body.into()).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CallError> {
        let answer = within(self.exchange(method, path, body)).await;
        if matches!(answer, Err(CallError::Timeout)) {
            // The connection may lead nowhere; the next call makes another.
            *self.shared.lock().await = None;
        }
        answer
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        payload: Bytes,
    ) -> Result<Bytes, CallError> {
        let request = || {
            let uri = format!("http://{}{path}", self.origin.authority);
            let request = Request::builder()
                .method(method.clone())
                .uri(uri)
                .header(USER_AGENT, agent());
            request
                .body(Full::new(payload.clone()))
                .map_err(CallError::broken)
        };
        let (mut sender, was_kept) = self.sender(false).await?;
        match sender.send_request(request()?).await {
            Ok(response) => return body(response).await,
            Err(error) if !was_kept => return Err(CallError::broken(error)),
            // The server ended the kept connection meanwhile. Both methods may be asked twice (RFC 9110, 9.2.2).
            Err(_ended) => {}
        }
        let (mut sender, _fresh) = self.sender(true).await?;
        body(
            sender
                .send_request(request()?)
                .await
                .map_err(CallError::broken)?,
        )
        .await
    }

    /// The shared connection and whether it was there before; a new one where it is gone or `anew`.
    async fn sender(
        &self,
        anew: bool,
    ) -> Result<(http2::SendRequest<Full<Bytes>>, bool), CallError> {
        // Held while dialling, so that calls that start together make one connection.
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared
            .as_ref()
            .filter(|sender| !sender.is_closed() && !anew)
        {
            return Ok((sender.clone(), true));
        }
        *shared = None;
        let socket = dial(&self.origin).await?;
        let (sender, driver) = http2::handshake(Local, TokioIo::new(socket))
            .await
            .map_err(CallError::broken)?;
        spawn_local(driver);
        *shared = Some(sender.clone());
        Ok((sender, false))
    }
}

pub(crate) fn agent() -> String {
    format!("shop ({PAYLOAD})")
}

async fn body(response: Response<Incoming>) -> Result<Bytes, CallError> {
    let status = response.status();
    let read = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let body = read.map_err(|error| CallError::Broken(error))?.to_bytes();
    if status.is_success() {
        Ok(body)
    } else {
        Err(CallError::Status(status))
    }
}
