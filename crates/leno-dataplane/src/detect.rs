//! What a connection speaks, by its first bytes; never by waiting for a side that may not speak first (decision 14).

use std::{io, time::Duration};

use bytes::BytesMut;
use leno_http::detect::{Sniff, sniff};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};

/// No protocol that is told apart here needs more bytes for it.
const LONGEST: usize = 16 * 1024;
/// The content type that TLS begins with (RFC 8446 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// Room for the first read.
const FIRST: usize = 4 * 1024;
/// Room for what a server says first.
const BANNER: usize = 512;

/// What the caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP/1.
    Http1,
    /// HTTP/1 that asks for a way to elsewhere: what follows is bytes, and the program is somebody's forward proxy.
    Connect,
    /// HTTP/2 in clear.
    Http2,
    /// TLS, or what begins like it.
    Tls,
    /// Anything else.
    Bytes,
    /// Nothing: it closed its side.
    Nothing,
}

/// Reads until the caller's first bytes say what it speaks. What was read stays in `prefix`, also when this is dropped.
pub(crate) async fn caller(stream: &mut TcpStream, prefix: &mut BytesMut) -> io::Result<Spoken> {
    loop {
        if let Some(spoken) = spoken(prefix) {
            return Ok(spoken);
        }
        // Memory is taken when there is something to put into it.
        stream.readable().await?;
        prefix.reserve(FIRST);
        match stream.try_read_buf(prefix) {
            Ok(0) => return Ok(no_http(prefix)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if prefix.is_empty() {
                    *prefix = BytesMut::new();
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// As [`caller`], from any stream.
pub(crate) async fn stream<S: AsyncRead + Unpin>(
    stream: &mut S,
    prefix: &mut BytesMut,
) -> io::Result<Spoken> {
    loop {
        if let Some(spoken) = spoken(prefix) {
            return Ok(spoken);
        }
        prefix.reserve(FIRST);
        if stream.read_buf(prefix).await? == 0 {
            return Ok(no_http(prefix));
        }
    }
}

/// What bytes are; `None` while they may become several things.
fn spoken(prefix: &[u8]) -> Option<Spoken> {
    match sniff(prefix) {
        Sniff::Http1 if prefix.starts_with(b"CONNECT ") => Some(Spoken::Connect),
        Sniff::Http1 => Some(Spoken::Http1),
        Sniff::Http2 => Some(Spoken::Http2),
        Sniff::Tls(_) | Sniff::Other => Some(no_http(prefix)),
        Sniff::NeedMore if prefix.len() >= LONGEST => Some(no_http(prefix)),
        Sniff::NeedMore => None,
    }
}

/// What it is, as it will be no HTTP.
fn no_http(prefix: &[u8]) -> Spoken {
    match prefix.first() {
        None => Spoken::Nothing,
        Some(&TLS_HANDSHAKE) => Spoken::Tls,
        Some(_) => Spoken::Bytes,
    }
}

/// As [`caller`], for at most `limit`; `None` when it said too little until then.
pub(crate) async fn caller_within(
    stream: &mut TcpStream,
    prefix: &mut BytesMut,
    limit: Duration,
) -> io::Result<Option<Spoken>> {
    match timeout(limit, caller(stream, prefix)).await {
        Ok(spoken) => spoken.map(Some),
        Err(_) => Ok(None),
    }
}

/// Who spoke first.
pub(crate) enum First {
    /// The caller, and what.
    Caller(Spoken),
    /// The other side; its bytes are to be given to the caller.
    Other(BytesMut),
}

/// Waits for whoever speaks first.
pub(crate) async fn first<S: AsyncRead + Unpin>(
    stream: &mut TcpStream,
    prefix: &mut BytesMut,
    other: &mut S,
) -> io::Result<First> {
    let mut said = BytesMut::with_capacity(BANNER);
    tokio::select! {
        biased;
        spoken = caller(stream, prefix) => spoken.map(First::Caller),
        read = other.read_buf(&mut said) => {
            read?;
            Ok(First::Other(said))
        }
    }
}
