//! Every error is a Kubernetes `Status` object: what happened (`reason`, `code`), to whom (`details`), why (`causes`).

use std::fmt;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use leno_config::{Finding, Kind};
use leno_store::StoreError;
use serde_json::{Map, Value, json};

use crate::Unready;

/// A refused request.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Box<Map<String, Value>>,
    retry_after: Option<u32>,
}

/// What was found wrong with one document.
#[derive(Debug)]
pub(crate) struct Invalid {
    /// Its place in the batch.
    pub(crate) item: Option<usize>,
    /// Its kind as it says, and its name.
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) findings: Vec<Finding>,
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Box::default(),
            retry_after: None,
        }
    }

    fn about(mut self, kind: Kind, name: &str) -> Self {
        if !name.is_empty() {
            self.details.insert("name".into(), name.into());
        }
        if !kind.group().is_empty() {
            self.details.insert("group".into(), kind.group().into());
        }
        self.details.insert("kind".into(), kind.plural().into());
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "Unauthorized: present a client certificate; the context that leno up or leno control-plane wrote has one",
        )
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// No such path.
    pub(crate) fn no_path(path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("the server could not find the requested resource: {path}"),
        )
    }

    pub(crate) fn no_mesh(mesh: &str) -> Self {
        let mut error = Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("mesh \"{mesh}\" not found"),
        );
        error.details.insert("name".into(), mesh.into());
        error.details.insert("kind".into(), "meshes".into());
        error
    }

    pub(crate) fn not_found(kind: Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(kind));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    pub(crate) fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(crate) fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(crate) fn unsupported_media(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            message,
        )
    }

    pub(crate) fn body_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "Timeout",
            "the request's body did not arrive in time",
        )
    }

    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        error.retry_after = Some(1);
        error
    }

    /// A change that could not be written down is not made.
    pub(crate) fn unaudited(error: Unready) -> Self {
        match error {
            Unready::Waits(message) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                message,
            ),
            Unready::Busy(message) => Self::too_many(message),
        }
    }

    /// What a refusal of a change says in the audit log; other errors are no refusals.
    pub(crate) fn refusal(&self) -> Option<(u16, &str)> {
        let refused = matches!(self.code, StatusCode::FORBIDDEN | StatusCode::CONFLICT);
        refused.then_some((self.code.as_u16(), &*self.message))
    }

    pub(crate) fn conflict(kind: Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            qualified(kind)
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    /// The caller's `resourceVersion` is not the current one.
    pub(crate) fn modified(kind: Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn already_exists(kind: Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(kind));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    /// The revision asked for is no longer known: list again.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The revision asked for is not reached yet.
    pub(crate) fn too_new(asked: u64, current: u64) -> Self {
        let mut error = Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            format!("Too large resource version: {asked}, current: {current}"),
        );
        error.retry_after = Some(1);
        error.details.insert(
            "causes".into(),
            json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]),
        );
        error
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        tracing::error!(%message, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    /// One object that is wrong.
    pub(crate) fn invalid(kind: Kind, name: &str, findings: &[Finding]) -> Self {
        let text: Vec<_> = findings.iter().map(Finding::to_string).collect();
        let text = match text.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {text}", titled(kind));
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        if !name.is_empty() {
            error.details.insert("name".into(), name.into());
        }
        if !kind.group().is_empty() {
            error.details.insert("group".into(), kind.group().into());
        }
        error.details.insert("kind".into(), kind.kind().into());
        let causes: Vec<_> = findings
            .iter()
            .map(|finding| cause(finding, None))
            .collect();
        error.details.insert("causes".into(), causes.into());
        error
    }

    /// An object with fields that there are not, as strict decoding has it.
    pub(crate) fn unknown_fields(kind: Kind, findings: &[Finding]) -> Self {
        let one = |finding: &Finding| match &finding.suggestion {
            Some(near) => format!("unknown field \"{}\" (did you mean {near}?)", finding.field),
            None => format!("unknown field \"{}\"", finding.field),
        };
        let texts: Vec<_> = findings.iter().map(one).collect();
        let mut error =
            Self::undecodable(kind, format!("strict decoding error: {}", texts.join(", ")));
        let causes: Vec<_> = findings.iter().map(|of| cause(of, None)).collect();
        error.details.insert("causes".into(), causes.into());
        error
    }

    /// An object that cannot be read as one of its kind.
    pub(crate) fn undecodable(kind: Kind, why: impl fmt::Display) -> Self {
        let (name, version) = (kind.kind(), kind.version());
        Self::bad_request(format!(
            "{name} in version \"{version}\" cannot be handled as a {name}: {why}"
        ))
    }

    /// A batch of which nothing was applied.
    pub(crate) fn invalid_batch(documents: &[Invalid]) -> Self {
        let mut lines = Vec::new();
        let mut causes = Vec::new();
        for document in documents {
            let Invalid {
                kind,
                namespace,
                name,
                findings,
                ..
            } = document;
            for finding in findings {
                lines.push(format!("{kind} {namespace}/{name}: {finding}"));
                causes.push(cause(finding, Some(document)));
            }
        }
        let message = format!("nothing was applied: {}", lines.join("; "));
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        error.details.insert("causes".into(), causes.into());
        error
    }

    /// A failure of the store that is not about one object.
    pub(crate) fn store(error: &StoreError) -> Self {
        match error {
            StoreError::Conflict { .. }
            | StoreError::Exists { .. }
            | StoreError::NotFound { .. } => {
                Self::new(StatusCode::CONFLICT, "Conflict", error.to_string())
            }
            StoreError::Compacted { from, oldest } => Self::expired(format!(
                "too old resource version: {from} (oldest: {oldest}): list again"
            )),
            StoreError::Lagged { seen, oldest } => Self::expired(format!(
                "the watch fell behind: at {seen}, oldest is {oldest}: list again"
            )),
            StoreError::Full => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "StoreFull",
                error.to_string(),
            ),
            StoreError::Closed => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceUnavailable",
                "the control plane is stopping",
            ),
            StoreError::Corrupt { .. }
            | StoreError::Newer { .. }
            | StoreError::Migration { .. }
            | StoreError::InUse { .. }
            | StoreError::Io { .. } => Self::internal(error.to_string()),
        }
    }

    /// A failure of the store while one object was written.
    pub(crate) fn store_about(error: &StoreError, kind: Kind, name: &str) -> Self {
        match error {
            StoreError::Conflict { .. } => Self::modified(kind, name),
            StoreError::Exists { .. } => Self::already_exists(kind, name),
            StoreError::NotFound { .. } => Self::not_found(kind, name),
            _ => Self::store(error),
        }
    }

    pub(crate) const fn code(&self) -> StatusCode {
        self.code
    }

    /// The `Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        });
        let mut details = self.details.clone();
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".into(), seconds.into());
        }
        if let Some(object) = status.as_object_mut() {
            if !details.is_empty() {
                object.insert("details".into(), Value::Object(*details));
            }
            object.insert("code".into(), self.code.as_u16().into());
        }
        status
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.code, &self.to_value());
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// `services`, `httproutes.gateway.networking.k8s.io`.
fn qualified(kind: Kind) -> String {
    crate::store_resource(kind)
}

/// `Service`, `HTTPRoute.gateway.networking.k8s.io`.
fn titled(kind: Kind) -> String {
    match kind.group() {
        "" => kind.kind().into(),
        group => format!("{}.{group}", kind.kind()),
    }
}

/// A finding as a `StatusCause`, with what a cluster's has not: the document and the place in its file.
fn cause(finding: &Finding, document: Option<&Invalid>) -> Value {
    let Finding {
        file,
        line,
        column,
        field,
        reason,
        suggestion,
    } = finding;
    let mut cause = Map::new();
    cause.insert("reason".into(), "FieldValueInvalid".into());
    cause.insert("message".into(), reason.clone().into());
    cause.insert("field".into(), field.clone().into());
    let mut optional = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            cause.insert(name.into(), value);
        }
    };
    optional("suggestion", suggestion.clone().map(Value::from));
    optional("file", file.clone().map(Value::from));
    optional("line", line.map(Value::from));
    optional("column", column.map(Value::from));
    if let Some(document) = document {
        optional("item", document.item.map(Value::from));
        optional("kind", Some(document.kind.clone().into()));
        optional("namespace", Some(document.namespace.clone().into()));
        optional("name", Some(document.name.clone().into()));
    }
    cause.into()
}

/// A JSON answer.
pub(crate) fn json_response(code: StatusCode, value: &Value) -> Response {
    typed_response(code, "application/json", value)
}

/// A JSON answer that is text already.
pub(crate) fn json_text_response(code: StatusCode, text: String) -> Response {
    text_response(code, "application/json", text)
}

/// A JSON answer under another media type.
pub(crate) fn typed_response(code: StatusCode, media: &'static str, value: &Value) -> Response {
    text_response(code, media, value.to_string())
}

fn text_response(code: StatusCode, media: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}
