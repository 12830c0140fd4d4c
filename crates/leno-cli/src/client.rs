//! The client of the API: HTTP/1.1 over the control plane's socket, or over TLS with a certificate.

use std::{path::Path, time::SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use leno_runtime::{Scope, Stop};
use leno_tls::{
    Alpn, HandshakeError, PrivateKey, TrustBundle, WorkloadCertificate, control::ControlConnector,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{
    context::{Context, Credentials, Server},
    exit::{CommandError, chain},
};

/// What comes before a mesh's name in a path.
const MESHES: &str = "/meshes/";

/// The API of one mesh.
pub(crate) struct Client {
    context: Context,
    connections: Scope,
}

/// A `Status` object: the API's refusal.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) message: String,
    /// What is wrong with which field.
    pub(crate) causes: Vec<(String, String)>,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The control plane was not reached.
    Unreachable(CommandError),
    /// It said no.
    Refused(Refusal),
}

impl From<CallError> for CommandError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(error) => error,
            CallError::Refused(refusal) => {
                let causes: Vec<String> = refusal
                    .causes
                    .iter()
                    .map(|(field, message)| format!("{field}: {message}"))
                    .collect();
                let error = match refusal.code {
                    403 => Self::permission(refusal.message),
                    404 => Self::failed(refusal.message),
                    _ => Self::refused(refusal.message),
                };
                if causes.is_empty() {
                    error
                } else {
                    error.hint(causes.join("\n  "))
                }
            }
        }
    }
}

/// The answer to a watch or a stream: one JSON value a line.
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next value; `None` at the end that the control plane made, an error where it was cut off.
    pub(crate) async fn next(&mut self) -> Option<Result<Value, CallError>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(value) => return Some(Ok(value)),
                    Err(_) => continue,
                }
            }
            match self.body.frame().await? {
                Ok(frame) => self.buffer.extend_from_slice(frame.data_ref()?),
                Err(error) => return Some(Err(lost(&error))),
            }
        }
    }
}

/// The end of what goes on until somebody ends it.
pub(crate) fn ended(what: &str) -> CommandError {
    CommandError::unreachable(format!("the control plane ended the {what}"))
        .hint("run the command again to go on")
}

/// What a document of the API says.
pub(crate) fn understood<T: DeserializeOwned>(document: Value) -> Result<T, CommandError> {
    serde_json::from_value(document).map_err(|error| {
        CommandError::failed(format!(
            "the control plane's answer is not understood: {error}"
        ))
        .hint("is it of another version? compare leno --version here and there")
    })
}

/// An answer of bytes.
pub(crate) struct Download {
    body: Incoming,
    /// Lives as long as the answer is read.
    _connection: Client,
}

impl Download {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, CallError>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => return Some(Ok(bytes)),
                    Err(_) => continue,
                },
                Err(error) => return Some(Err(lost(&error))),
            }
        }
    }
}

impl Client {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            context,
            connections: Scope::new(Stop::new(), None),
        }
    }

    /// The namespace that commands mean when they name none.
    pub(crate) fn namespace(&self) -> &str {
        &self.context.namespace
    }

    /// Where the state is of a control plane of this machine that does not keep it in the usual place.
    pub(crate) fn state_elsewhere(&self) -> Option<&Path> {
        self.context.server.state_elsewhere()
    }

    /// The mesh's name.
    pub(crate) fn mesh(&self) -> &str {
        let (Server::Unix { path, .. } | Server::Https { path, .. }) = &self.context.server;
        path.rsplit('/').next().unwrap_or_default()
    }

    /// GET of a path below the mesh, such as `/leno/v1/status`.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, None).await
    }

    /// POST of a document.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        self.call(Method::POST, path, Some(("application/json", body)))
            .await
    }

    /// DELETE.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::DELETE, path, None).await
    }

    /// DELETE of an object: what is to be said of it.
    pub(crate) async fn delete_object(&self, path: &str) -> Result<Vec<String>, CallError> {
        let answer = self
            .answer(Method::DELETE, path, None, "application/json")
            .await?;
        let warnings = answer.headers().get_all("warning").iter();
        Ok(warnings.filter_map(warning).collect())
    }

    /// DELETE of an object that is still the one of this `resourceVersion`.
    pub(crate) async fn delete_at(&self, path: &str, revision: &Value) -> Result<Value, CallError> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"resourceVersion": revision}});
        self.call(Method::DELETE, path, Some(("application/json", &options)))
            .await
    }

    /// The way to another mesh of the same control plane.
    pub(crate) fn context_of(&self, mesh: &str) -> Context {
        let mut context = self.context.clone();
        let (Server::Unix { path, .. } | Server::Https { path, .. }) = &mut context.server;
        let above = path.rsplit_once(MESHES).map_or("", |(above, _)| above);
        *path = format!("{above}{MESHES}{mesh}");
        context
    }

    /// A call of a path above the meshes, such as `/meshes`.
    pub(crate) async fn call_above(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let body = body.map(|body| ("application/json", body));
        self.above().call(method, path, body).await
    }

    /// The same control plane, without the mesh in its paths.
    fn above(&self) -> Self {
        let mut context = self.context.clone();
        let (Server::Unix { path, .. } | Server::Https { path, .. }) = &mut context.server;
        path.truncate(path.rfind(MESHES).unwrap_or(0));
        Self::new(context)
    }

    /// Any call with a JSON answer.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value, CallError> {
        let answer = self.send(method, path, body, "application/json").await?;
        whole(answer).await
    }

    /// GET with an `Accept` of one's own, such as a Table's.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Result<Value, CallError> {
        whole(self.send(Method::GET, path, None, accept).await?).await
    }

    /// GET of a stream of lines.
    pub(crate) async fn stream(&self, path: &str) -> Result<Lines, CallError> {
        self.stream_as(path, "application/json").await
    }

    /// GET of a stream of lines with an `Accept` of one's own.
    pub(crate) async fn stream_as(&self, path: &str, accept: &str) -> Result<Lines, CallError> {
        Ok(Lines {
            body: self.send(Method::GET, path, None, accept).await?,
            buffer: Vec::new(),
        })
    }

    /// GET of bytes of a path above the meshes, such as `/leno/v1/backup`, as they come.
    pub(crate) async fn download_above(&self, path: &str) -> Result<Download, CallError> {
        let client = self.above();
        Ok(Download {
            body: client.send(Method::GET, path, None, "*/*").await?,
            _connection: client,
        })
    }

    /// The body of an answer that is no refusal.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        accept: &str,
    ) -> Result<Incoming, CallError> {
        let answer = self.answer(method, path, body, accept).await?;
        Ok(answer.into_body())
    }

    /// An answer that is no refusal.
    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        accept: &str,
    ) -> Result<Response<Incoming>, CallError> {
        let (Server::Unix { path: prefix, .. } | Server::Https { path: prefix, .. }) =
            &self.context.server;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{prefix}{path}"));
        request = request
            .header("host", self.authority())
            .header("accept", accept)
            .header("user-agent", "leno");
        let content = match body {
            Some((kind, value)) => {
                request = request.header("content-type", kind);
                Full::new(Bytes::from(value.to_string()))
            }
            None => Full::new(Bytes::new()),
        };
        let request = request.body(content).map_err(|error| lost(&error))?;
        let mut sender = self.connect().await.map_err(CallError::Unreachable)?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| lost(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let said = whole(answer.into_body()).await?;
        Err(CallError::Refused(refusal(status, &said)))
    }

    async fn handshake<IO>(
        &self,
        stream: IO,
    ) -> Result<http1::SendRequest<Full<Bytes>>, CommandError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| {
            CommandError::unreachable(format!("the control plane speaks no HTTP: {error}"))
        })?;
        // Its end shows in the answer that does not come.
        let driver = async move { drop(connection.await) };
        self.connections
            .spawn("API connection", driver)
            .map_err(CommandError::failed)?;
        Ok(sender)
    }

    fn authority(&self) -> String {
        match &self.context.server {
            Server::Unix { .. } => "leno".into(),
            Server::Https { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Server::Https { host, port, .. } => format!("{host}:{port}"),
        }
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, CommandError> {
        let context = &self.context.name;
        match &self.context.server {
            Server::Unix { socket, .. } => {
                let stream = UnixStream::connect(socket).await.map_err(|error| {
                    let what = format!(
                        "the control plane of context \"{context}\" does not answer at {}: {error}",
                        socket.display()
                    );
                    CommandError::unreachable(what).hint(
                        "is it running? leno up starts one; leno --context NAME chooses another",
                    )
                })?;
                self.handshake(stream).await
            }
            Server::Https { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| {
                    let what = format!("the control plane of context \"{context}\" cannot be reached at {host}:{port}: {error}");
                    CommandError::unreachable(what).hint("is it running there, and does a firewall let the port through?")
                })?;
                let connector = connector(self.context.credentials.as_ref())?;
                let connected = connector.connect(stream).await;
                let connected = connected
                    .map_err(|error| unproven(context, &format!("{host}:{port}"), &error))?;
                self.handshake(connected.stream).await
            }
        }
    }
}

/// The text of a `Warning` field: `299 - "text"`.
fn warning(value: &HeaderValue) -> Option<String> {
    let quoted = value.to_str().ok()?.strip_prefix("299 - \"")?;
    let mut characters = quoted.strip_suffix('"')?.chars();
    let mut text = String::new();
    while let Some(character) = characters.next() {
        text.push(match character {
            '\\' => characters.next()?,
            other => other,
        });
    }
    Some(text)
}

/// A whole body as JSON; null where it is none.
async fn whole(body: Incoming) -> Result<Value, CallError> {
    let bytes = body.collect().await.map_err(|error| lost(&error))?;
    Ok(serde_json::from_slice(&bytes.to_bytes()).unwrap_or(Value::Null))
}

/// Somebody answers there, but not who the context is of.
fn unproven(context: &str, address: &str, error: &HandshakeError) -> CommandError {
    let cause = chain(error);
    if leno_agent::is_another(error) {
        let what = format!(
            "the control plane at {address} is another than that of context \"{context}\": {cause}"
        );
        return CommandError::unreachable(what).hint(
            "if it was made anew, have a context made there:  leno user create NAME > FILE\n  and take it here:  leno context import -f FILE",
        );
    }
    let what = format!("{address} did not prove to be the control plane: {cause}");
    CommandError::unreachable(what)
        .hint("does another program listen there, or is a clock wrong here or there?")
}

fn connector(credentials: Option<&Credentials>) -> Result<ControlConnector, CommandError> {
    let credentials = credentials.ok_or_else(|| unusable(&"it has none"))?;
    let (bundle, certificate) = identity(credentials)?;
    ControlConnector::trusted(&bundle, Some(&certificate), &[Alpn::Http11])
        .map_err(|error| unusable(&error))
}

/// Who speaks, and whom it trusts; an error when the certificate has ended, or is no certificate.
pub(crate) fn identity(
    credentials: &Credentials,
) -> Result<(TrustBundle, WorkloadCertificate), CommandError> {
    let key = PrivateKey::from_pem(&credentials.key).map_err(|error| unusable(&error))?;
    let domain = credentials.trust_domain.parse();
    let domain = domain.map_err(|error| unusable(&error))?;
    let bundle =
        TrustBundle::from_pem(domain, &credentials.bundle).map_err(|error| unusable(&error))?;
    let chain = &credentials.certificate;
    let now = SystemTime::now();
    let certificate = WorkloadCertificate::new(None, chain, &key, &bundle, 0, now)
        .map_err(|error| unusable(&error))?;
    Ok((bundle, certificate))
}

fn unusable(error: &dyn std::fmt::Display) -> CommandError {
    CommandError::failed(format!("the context's certificate cannot be used: {error}"))
        .hint("log in again, or start leno up again")
}

fn lost(error: &dyn std::fmt::Display) -> CallError {
    CallError::Unreachable(CommandError::unreachable(format!(
        "the control plane did not answer: {error}"
    )))
}

fn refusal(status: StatusCode, value: &Value) -> Refusal {
    let text = |pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let causes = value
        .pointer("/details/causes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let cause = |cause: &Value| {
        let text = |key: &str| {
            cause
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        (text("field"), text("message"))
    };
    let message = text("/message");
    Refusal {
        code: status.as_u16(),
        message: if message.is_empty() {
            format!("the control plane answered {status}")
        } else {
            message
        },
        causes: causes.map(cause).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_read_as_it_was_meant() {
        let read = |text: &'static str| warning(&HeaderValue::from_static(text));
        assert_eq!(read(r#"299 - "a \"b\" \\ c""#), Some(r#"a "b" \ c"#.into()));
        for other in ["", r#"199 - "a""#, "299 - a", r#"299 - "a\""#] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
