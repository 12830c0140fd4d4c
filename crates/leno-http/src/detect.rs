//! What a connection speaks, by its first bytes. Reads a slice, never a socket; safe on anything.

use crate::{fields::is_tchar, h1::find_byte};

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// The begin of an HTTP/1 request: a method, a space and a target.
    Http1,
    /// The HTTP/2 preface (RFC 9113 3.4), in clear.
    Http2,
    /// A TLS ClientHello.
    Tls(ClientHello),
    /// Not to be told yet: every byte so far fits one of the above.
    NeedMore,
    /// None of these.
    Other,
}

/// What a ClientHello shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, lower case.
    pub sni: Option<String>,
    /// The ALPN protocols offered, in order.
    pub alpn: Vec<Vec<u8>>,
}

/// Why no ClientHello was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// More bytes are needed.
    #[error("the ClientHello is not complete yet")]
    NeedMore,
    /// No ClientHello.
    #[error("this is no ClientHello")]
    NotTls,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method in use is BASELINE-CONTROL.
const MAX_METHOD: usize = 24;
/// A ClientHello is at most this: larger ones are somebody's attack (post-quantum shares make 2 KiB).
const MAX_HELLO: usize = 64 * 1024;

/// Says what the first bytes of a connection are. [`Sniff::NeedMore`] is only given while every byte so far fits.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Sniff {
    match bytes {
        [] => return Sniff::NeedMore,
        [0x16, ..] => {
            return match sni(bytes) {
                Ok(hello) => Sniff::Tls(hello),
                Err(HelloError::NeedMore) => Sniff::NeedMore,
                Err(HelloError::NotTls) => Sniff::Other,
            };
        }
        _ => {}
    }
    let common = bytes.len().min(PREFACE.len());
    // Up to the third byte it may be a method that begins with PR, such as PROPFIND.
    if bytes.get(..common) == PREFACE.get(..common) && common > 2 {
        return if common == PREFACE.len() {
            Sniff::Http2
        } else {
            Sniff::NeedMore
        };
    }
    // RFC 9112 2.2: an empty line before the request.
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let method = bytes
        .iter()
        .take_while(|byte| is_method_byte(**byte))
        .count();
    match (method, bytes.get(method), bytes.get(method + 1)) {
        (0, None, _) => Sniff::NeedMore,
        (0, Some(b'\r'), None) => Sniff::NeedMore,
        (1..=MAX_METHOD, None, _) => Sniff::NeedMore,
        (1..=MAX_METHOD, Some(b' '), None) => Sniff::NeedMore,
        (1..=MAX_METHOD, Some(b' '), Some(target)) if *target > b' ' && *target < 0x7f => {
            sniff_line(bytes)
        }
        _ => Sniff::Other,
    }
}

/// A text protocol's first line may look like a request's begin (`USER name`): as far as the line is there, it has to
/// end with a version.
fn sniff_line(bytes: &[u8]) -> Sniff {
    let Some(end) = find_byte(b'\n', bytes) else {
        let two_spaces = bytes.iter().filter(|byte| **byte == b' ').count() >= 2;
        return match (two_spaces, bytes.len()) {
            (true, _) if contains(bytes, b" HTTP/1.") => Sniff::Http1,
            (_, 0..=16_384) => Sniff::NeedMore,
            _ => Sniff::Other,
        };
    };
    let line = bytes.get(..end).unwrap_or_default();
    if contains(line, b" HTTP/") {
        Sniff::Http1
    } else {
        Sniff::Other
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// Methods are upper case in practice; `M-SEARCH` and the like have a hyphen.
const fn is_method_byte(byte: u8) -> bool {
    is_tchar(byte) && !byte.is_ascii_lowercase()
}

/// Reads the server name and the ALPN offers of a ClientHello, which may span records.
///
/// # Errors
/// [`HelloError::NeedMore`] while it is not whole, [`HelloError::NotTls`] when it never will be.
pub fn sni(bytes: &[u8]) -> Result<ClientHello, HelloError> {
    let hello = collect_handshake(bytes)?;
    parse_hello(&hello).ok_or(HelloError::NotTls)
}

/// The body of the ClientHello out of its records (RFC 8446 5.1).
fn collect_handshake(bytes: &[u8]) -> Result<Vec<u8>, HelloError> {
    let mut input = Input(bytes);
    let mut handshake = Vec::new();
    loop {
        let Some(header) = input.take(5) else {
            let fits = [0x16, 0x03]
                .iter()
                .zip(input.0)
                .all(|(want, got)| want == got);
            return Err(if fits {
                HelloError::NeedMore
            } else {
                HelloError::NotTls
            });
        };
        let [0x16, 0x03, 0..=4, high, low] = *header else {
            return Err(HelloError::NotTls);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > 16_384 || handshake.len() > MAX_HELLO {
            return Err(HelloError::NotTls);
        }
        let whole = input.0.len() >= length;
        let piece = input.take(length.min(input.0.len())).unwrap_or_default();
        handshake.extend_from_slice(piece);
        if let Some(first) = handshake.first()
            && *first != 1
        {
            return Err(HelloError::NotTls);
        }
        if let [1, a, b, c, body @ ..] = handshake.as_slice() {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length > MAX_HELLO {
                return Err(HelloError::NotTls);
            }
            if let Some(body) = body.get(..length) {
                return Ok(body.to_vec());
            }
        }
        if !whole {
            return Err(HelloError::NeedMore);
        }
    }
}

/// RFC 8446 4.1.2.
fn parse_hello(body: &[u8]) -> Option<ClientHello> {
    let mut input = Input(body);
    input.take(2 + 32)?; // version, random
    input.take_u8_list()?; // session id
    input.take_u16_list()?; // cipher suites
    input.take_u8_list()?; // compression
    let mut hello = ClientHello::default();
    if input.0.is_empty() {
        return Some(hello); // TLS 1.2 without extensions
    }
    let mut extensions = Input(input.take_u16_list()?);
    while !extensions.0.is_empty() {
        let kind = extensions.take_u16()?;
        let mut data = Input(extensions.take_u16_list()?);
        match kind {
            0 => {
                let mut names = Input(data.take_u16_list()?);
                while !names.0.is_empty() {
                    let is_host = names.take(1)? == [0];
                    let name = names.take_u16_list()?;
                    if is_host && hello.sni.is_none() {
                        hello.sni = Some(host_name(name)?);
                    }
                }
            }
            16 => {
                let mut protocols = Input(data.take_u16_list()?);
                while !protocols.0.is_empty() {
                    hello.alpn.push(protocols.take_u8_list()?.to_vec());
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

/// RFC 6066 3: an ASCII DNS name without a final dot.
fn host_name(name: &[u8]) -> Option<String> {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > 253 || !name.iter().all(legal) {
        return None;
    }
    String::from_utf8(name.to_ascii_lowercase()).ok()
}

/// What is left of a slice.
struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn take_u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    }

    fn take_u8_list(&mut self) -> Option<&'b [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length))
    }

    fn take_u16_list(&mut self) -> Option<&'b [u8]> {
        let length = self.take_u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests;
