//! Replies.
use bytes::Bytes;
use leno_types::Refusal;
use crate::{Body, RequestHead, ResponseHead, ReplyError, Tunnel};
use std::marker::PhantomData;
/// One request from a client, of either version. HTTP/2's is `Incoming<'static>`.
#[derive(Debug)]
pub struct Incoming<'c> {
    /// What was asked.
    pub head: RequestHead,
    /// Its body.
    pub body: Body<'c>,
    /// Where the answer goes.
    pub reply: Reply<'c>,
}
/// Where the answer to one request goes. Dropped without an answer it ends the connection (HTTP/1) or resets the
/// stream (HTTP/2).
#[derive(Debug)]
pub struct Reply<'c>(PhantomData<&'c mut ()>);
impl Reply<'_> {
    /// Answers in place of the destination: `reason`'s status and one line of text; a gRPC caller gets HTTP 200 and
    /// a gRPC status. `extra` fields are added. The connection stays usable where the framing allows.
    ///
    /// # Errors
    /// [`ReplyError::Gone`] when the client is gone.
    pub async fn refuse(self, _reason: Refusal, _extra: &[(&str, &str)], _text: &str) -> Result<(), ReplyError> { todo!() }
    /// Answers with a whole response.
    ///
    /// # Errors
    /// [`ReplyError::Gone`] when the client is gone.
    pub async fn respond(self, _head: ResponseHead, _body: Bytes) -> Result<(), ReplyError> { todo!() }
}
impl<'c> Reply<'c> {
    /// Accepts a CONNECT or extended CONNECT with 200 and gives the stream. Same as [`Incoming::into_tunnel`].
    ///
    /// # Errors
    /// [`ReplyError::NotHttp2`] on HTTP/1, [`ReplyError::Gone`] when the client is gone.
    pub fn accept_tunnel(self, _body: Body<'c>) -> Result<Tunnel, ReplyError> { todo!() }
}
impl Incoming<'_> {
    /// Accepts a CONNECT or extended CONNECT with 200 and gives the stream.
    ///
    /// # Errors
    /// [`ReplyError::NotHttp2`] on HTTP/1, [`ReplyError::Gone`] when the client is gone.
    pub fn into_tunnel(self) -> Result<Tunnel, ReplyError> { todo!() }
}
