//! Bodies.
use bytes::Bytes;
use crate::{BodyError, Fields};
use std::marker::PhantomData;
/// The body of a request.
#[derive(Debug)]
pub struct Body<'c>(PhantomData<&'c mut ()>);
impl Body<'_> {
    /// Its length where the sender said it.
    #[must_use]
    pub fn length(&self) -> Option<u64> { todo!() }
    /// Whether nothing more comes.
    #[must_use]
    pub fn is_end(&self) -> bool { todo!() }
    /// The next piece; `None` at the end.
    pub async fn data(&mut self) -> Option<Result<Bytes, BodyError>> { todo!() }
    /// The trailers, after the end.
    pub fn take_trailers(&mut self) -> Option<Fields> { todo!() }
}
