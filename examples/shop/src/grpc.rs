//! gRPC as its wire defines it (messages, framing, status), over the h2 library: what the cart and its callers share.
//!
//! Never holds more of a message than [`MAX_MESSAGE`], and never sends more than the peer's window has room for.

use std::future::poll_fn;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue};
use prost::Message;

/// The largest message, less than the smallest window a peer starts with.
const MAX_MESSAGE: usize = 16 * 1024;
/// One byte for compression, four for the length.
const PREFIX: usize = 5;

pub(crate) const CONTENT_TYPE: &str = "application/grpc";
pub(crate) const ADD: &str = "/shop.Cart/Add";
pub(crate) const ADD_MANY: &str = "/shop.Cart/AddMany";
pub(crate) const LIST: &str = "/shop.Cart/List";
pub(crate) const CHAT: &str = "/shop.Cart/Chat";
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// `shop.Line`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Line {
    #[prost(string, tag = "1")]
    pub(crate) item: String,
    #[prost(uint32, tag = "2")]
    pub(crate) quantity: u32,
    #[prost(string, tag = "3")]
    pub(crate) note: String,
}

/// `shop.Total`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Total {
    #[prost(uint64, tag = "1")]
    pub(crate) quantity: u64,
    #[prost(string, tag = "2")]
    pub(crate) note: String,
}

/// `shop.Ask`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ask {
    #[prost(string, tag = "1")]
    pub(crate) note: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Health {
    #[prost(uint32, tag = "1")]
    pub(crate) status: u32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`
pub(crate) const SERVING: u32 = 1;

/// How a call ended, other than by breaking; the codes are gRPC's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u32,
    pub(crate) message: String,
}

impl Status {
    pub(crate) fn ok() -> Self {
        Self {
            code: 0,
            message: String::new(),
        }
    }

    pub(crate) fn invalid_argument(message: &str) -> Self {
        Self {
            code: 3,
            message: message.to_owned(),
        }
    }

    pub(crate) fn resource_exhausted(message: &str) -> Self {
        Self {
            code: 8,
            message: message.to_owned(),
        }
    }

    pub(crate) fn unimplemented(message: &str) -> Self {
        Self {
            code: 12,
            message: message.to_owned(),
        }
    }

    /// As trailers; a message is ours and plain ASCII, so needs no percent-encoding.
    pub(crate) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(self.code));
        if let Ok(message) = HeaderValue::from_str(&self.message)
            && !message.is_empty()
        {
            trailers.insert("grpc-message", message);
        }
        trailers
    }

    /// From trailers, or from the headers of an answer that has nothing else.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let code = text("grpc-status")?.parse().ok()?;
        Some(Self {
            code,
            message: text("grpc-message").unwrap_or_default().to_owned(),
        })
    }
}

/// Why a message could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error(transparent)]
    Stream(#[from] h2::Error),
    #[error("the stream was ended by the peer")]
    Closed,
    #[error("a message is larger than {MAX_MESSAGE} bytes")]
    TooLarge,
    #[error("a message is compressed, which was not offered")]
    Compressed,
    #[error("a message was cut short")]
    Cut,
    #[error(transparent)]
    Malformed(#[from] prost::DecodeError),
}

/// Reads the messages of one direction of a call.
#[derive(Debug)]
pub(crate) struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    pub(crate) fn new(body: RecvStream) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
        }
    }

    /// The next message, `None` after the last.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, MessageError> {
        loop {
            if let Some(message) = take_frame(&mut self.buffer)? {
                return Ok(Some(M::decode(message)?));
            }
            match self.body.data().await {
                Some(data) => {
                    let data = data?;
                    self.body.flow_control().release_capacity(data.len())?;
                    self.buffer.extend_from_slice(&data);
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(MessageError::Cut),
            }
        }
    }

    /// The trailers, after the last message.
    pub(crate) async fn trailers(&mut self) -> Result<HeaderMap, MessageError> {
        Ok(self.body.trailers().await?.unwrap_or_default())
    }
}

/// Takes a whole message off the front of `buffer`, if there is one.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, MessageError> {
    let mut prefix: &[u8] = buffer;
    let (Ok(compressed), Ok(length)) = (prefix.try_get_u8(), prefix.try_get_u32()) else {
        return Ok(None);
    };
    if compressed != 0 {
        return Err(MessageError::Compressed);
    }
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_MESSAGE)
        .ok_or(MessageError::TooLarge)?;
    if prefix.remaining() < length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Sends one message as soon as the peer has room for it.
pub(crate) async fn send(
    stream: &mut SendStream<Bytes>,
    message: &impl Message,
) -> Result<(), MessageError> {
    let length = message.encoded_len();
    let announced = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_MESSAGE)
        .ok_or(MessageError::TooLarge)?;
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(announced);
    frame.extend_from_slice(&message.encode_to_vec());
    stream.reserve_capacity(frame.len());
    while stream.capacity() < frame.len() {
        poll_fn(|context| stream.poll_capacity(context))
            .await
            .ok_or(MessageError::Closed)??;
    }
    Ok(stream.send_data(frame.freeze(), false)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use bytes::{BufMut, BytesMut};
    use prost::Message;

    use super::{Line, MAX_MESSAGE, MessageError, Status, take_frame};

    #[test]
    fn frames_are_taken_whole_one_after_the_other() {
        let line = Line {
            item: "lamp".into(),
            quantity: 2,
            note: "n".into(),
        };
        let mut buffer = BytesMut::new();
        for byte in [
            &[0, 0, 0, 0, line.encoded_len() as u8][..],
            &line.encode_to_vec(),
            &[0, 0, 0, 0, 0],
        ]
        .concat()
        {
            assert!(buffer.len() > 12 || take_frame(&mut buffer).unwrap().is_none());
            buffer.put_u8(byte);
        }
        assert_eq!(
            Line::decode(take_frame(&mut buffer).unwrap().unwrap()).unwrap(),
            line
        );
        assert!(take_frame(&mut buffer).unwrap().unwrap().is_empty());
        assert!(take_frame(&mut buffer).unwrap().is_none() && buffer.is_empty());
    }

    #[test]
    fn a_compressed_or_huge_frame_is_refused_by_its_prefix() {
        let frame = |flag, length: usize| {
            let mut buffer = BytesMut::new();
            buffer.put_u8(flag);
            buffer.put_u32(u32::try_from(length).unwrap());
            take_frame(&mut buffer)
        };
        assert!(matches!(frame(1, 1), Err(MessageError::Compressed)));
        assert!(matches!(
            frame(0, MAX_MESSAGE + 1),
            Err(MessageError::TooLarge)
        ));
        assert!(matches!(frame(0, MAX_MESSAGE), Ok(None)));
    }

    #[test]
    fn a_status_survives_its_trailers_and_a_missing_one_is_noticed() {
        let status = Status::unimplemented("no such method");
        assert_eq!(Status::read(&status.trailers()), Some(status));
        assert_eq!(Status::read(&Status::ok().trailers()), Some(Status::ok()));
        assert_eq!(Status::read(&http::HeaderMap::new()), None);
    }
}
