//! Parses the head of an HTTP/1 message (RFC 9112) from bytes that hold exactly one head.
//!
//! Refuses what two parsers could read in two ways: bare LF or CR, obs-fold, spaces before a colon, a second Host,
//! Content-Length beside Transfer-Encoding or beside a different Content-Length, and any transfer coding but chunked.

use bytes::Bytes;
use http::Method;

use crate::{
    Fields, Limits, RequestHead, ResponseHead, Version,
    fields::{is_token, is_value, token_length},
};

/// Why bytes are no HTTP/1 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Breaks the grammar or is ambiguous.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// Larger than its limit.
    #[error("the head is larger than its limit")]
    TooLarge,
    /// A transfer coding other than chunked.
    #[error("a transfer coding other than chunked")]
    UnknownCoding,
    /// A version other than 1.0 and 1.1.
    #[error("an HTTP version other than 1.0 and 1.1")]
    Version,
}

impl ParseError {
    /// The status a client gets for it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::TooLarge => 431,
            Self::UnknownCoding => 501,
            Self::Version => 505,
        }
    }
}

/// How a body ends (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After this many bytes.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// A head and what it says about its connection.
#[derive(Clone, Debug)]
pub struct Parsed<H> {
    /// The head, without framing and hop-by-hop fields.
    pub head: H,
    /// How the body ends.
    pub framing: Framing,
    /// Content-Length as it was given; also where there is no body (HEAD, 304).
    pub declared: Option<u64>,
    /// Whether the connection may carry a further message.
    pub keep_alive: bool,
}

/// A request and what it says about its connection.
pub type ParsedRequest = Parsed<RequestHead>;
/// A response and what it says about its connection.
pub type ParsedResponse = Parsed<ResponseHead>;

/// Finds the end of the head at the start of `bytes`, `from` bytes of which were searched before.
/// `Ok(Some(n))`: the first `n` bytes are the head, empty line included. `Ok(None)`: more is needed.
///
/// # Errors
/// [`ParseError`] as soon as a line ends with a bare LF or the head passes its limit.
pub fn find_head(bytes: &[u8], from: usize, limits: &Limits) -> Result<Option<usize>, ParseError> {
    // Two bytes back: the CR of a line end and the LF before it may lie in what was searched before.
    let mut at = from.saturating_sub(2);
    while let Some(newline) = find_byte(b'\n', bytes.get(at..).unwrap_or_default()) {
        let newline = at + newline;
        let before = |back: usize| newline.checked_sub(back).and_then(|i| bytes.get(i));
        if before(1) != Some(&b'\r') {
            return Err(ParseError::Malformed("a line ends with a bare LF"));
        }
        at = newline + 1;
        if matches!(before(2), None | Some(b'\n')) {
            return if at > limits.head_bytes {
                Err(ParseError::TooLarge)
            } else {
                Ok(Some(at))
            };
        }
    }
    if bytes.len() >= limits.head_bytes {
        return Err(ParseError::TooLarge);
    }
    Ok(None)
}

/// The first place of `byte`, eight bytes at a time.
pub(crate) fn find_byte(byte: u8, bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let pattern = u64::from_ne_bytes([byte; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let xor = u64::from_le_bytes(*word) ^ pattern;
        let found = xor.wrapping_sub(LOW) & !xor & HIGH;
        if found != 0 {
            return Some(index * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    let tail = rest.iter().position(|own| *own == byte)?;
    Some(words.len() * 8 + tail)
}

/// Parses a request head: exactly the bytes [`find_head`] found.
///
/// # Errors
/// [`ParseError`], which names the status to answer with.
pub fn parse_request(head: &Bytes, limits: &Limits) -> Result<ParsedRequest, ParseError> {
    let mut lines = Lines::new(head);
    let line = lines.next().ok_or(TRUNCATED)?;
    if line.len() > limits.line_bytes {
        return Err(ParseError::TooLarge);
    }
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(ParseError::Malformed("the request line"));
    };
    let version = parse_version(version)?;
    let method = Method::from_bytes(method).map_err(|_| ParseError::Malformed("the method"))?;
    let target = parse_target(head, &method, target)?;

    let mut collected = Collected::parse(head, lines, limits)?;
    let host = match collected.host.take() {
        Some(host) if is_authority(&host) || host.is_empty() => Some(host),
        Some(_) => return Err(ParseError::Malformed("Host")),
        None if version == Version::Http11 => {
            return Err(ParseError::Malformed("Host is missing"));
        }
        None => None,
    };
    let framing = collected.request_framing(version)?;
    let keep_alive = collected.keep_alive(version);
    let protocol = collected.switch_to(version, framing);
    Ok(Parsed {
        head: RequestHead {
            method,
            authority: target.authority.or(host),
            path: target.path,
            scheme_https: target.https,
            version,
            protocol,
            fields: collected.into_fields(),
            private: Vec::new(),
        },
        framing,
        declared: match framing {
            Framing::Length(length) => Some(length),
            _ => None,
        },
        keep_alive,
    })
}

/// Parses a response head to a request of `method`: exactly the bytes [`find_head`] found.
///
/// # Errors
/// [`ParseError`].
pub fn parse_response(
    head: &Bytes,
    method: &Method,
    limits: &Limits,
) -> Result<ParsedResponse, ParseError> {
    let mut lines = Lines::new(head);
    let line = lines.next().ok_or(TRUNCATED)?;
    let (version, rest) = line
        .split_at_checked(8)
        .ok_or(ParseError::Malformed("the status line"))?;
    let version = parse_version(version)?;
    let (status, reason) = match rest {
        [
            b' ',
            a @ b'1'..=b'9',
            b @ b'0'..=b'9',
            c @ b'0'..=b'9',
            reason @ ..,
        ] => {
            let digit = |byte: &u8| u16::from(*byte - b'0');
            (digit(a) * 100 + digit(b) * 10 + digit(c), reason)
        }
        _ => return Err(ParseError::Malformed("the status line")),
    };
    let reason = match reason {
        [] | [b' '] => None,
        [b' ', text @ ..] if is_value(text) => Some(head.slice_ref(text)),
        _ => return Err(ParseError::Malformed("the reason phrase")),
    };
    let collected = Collected::parse(head, lines, limits)?;
    let declared = collected.length;
    let framing = collected.response_framing(version, status, method)?;
    let keep_alive = collected.keep_alive(version) && framing != Framing::Close;
    Ok(Parsed {
        head: ResponseHead {
            status,
            reason,
            version,
            fields: collected.into_fields(),
        },
        framing,
        declared,
        keep_alive,
    })
}

/// Parses the fields of trailers; framing, routing and hop-by-hop fields are dropped (RFC 9110 6.5.1).
pub(crate) fn parse_trailers(block: &Bytes, limits: &Limits) -> Result<Fields, ParseError> {
    let mut collected = Collected::parse(block, Lines::new(block), limits)?;
    collected.te_trailers = false;
    Ok(collected.into_fields())
}

const TRUNCATED: ParseError = ParseError::Malformed("the head is cut short");

/// The lines of a head up to its empty line, without their CRLF.
struct Lines<'h> {
    rest: &'h [u8],
}

impl<'h> Lines<'h> {
    fn new(head: &'h Bytes) -> Self {
        Self { rest: head }
    }
}

impl<'h> Iterator for Lines<'h> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<&'h [u8]> {
        let newline = find_byte(b'\n', self.rest)?;
        let (line, rest) = self.rest.split_at_checked(newline + 1)?;
        self.rest = rest;
        // A bare LF was refused by `find_head`; a line without CR is kept whole, and no token or value has an LF.
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        (!line.is_empty()).then_some(line)
    }
}

struct Target {
    authority: Option<Bytes>,
    path: Bytes,
    https: bool,
}

fn parse_version(bytes: &[u8]) -> Result<Version, ParseError> {
    match bytes {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(ParseError::Version),
        _ => Err(ParseError::Malformed("the version")),
    }
}

/// RFC 9112 3.2: the four forms of a target.
fn parse_target(head: &Bytes, method: &Method, target: &[u8]) -> Result<Target, ParseError> {
    const MALFORMED: ParseError = ParseError::Malformed("the request target");
    if !super::is_target(target) {
        return Err(MALFORMED);
    }
    let origin = |authority, path: &[u8], https| Target {
        authority,
        path: if path.is_empty() {
            Bytes::from_static(b"/")
        } else {
            head.slice_ref(path)
        },
        https,
    };
    if *method == Method::CONNECT {
        // authority-form; the port is not optional (RFC 9110 9.3.6).
        let port = target.rsplit(|byte| *byte == b':').next();
        let has_port = target.contains(&b':')
            && port.is_some_and(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit));
        return if is_authority(target) && has_port {
            Ok(Target {
                authority: Some(head.slice_ref(target)),
                path: Bytes::new(),
                https: false,
            })
        } else {
            Err(MALFORMED)
        };
    }
    match target {
        [b'/', ..] => return Ok(origin(None, target, false)),
        b"*" if *method == Method::OPTIONS => return Ok(origin(None, target, false)),
        _ => {}
    }
    let scheme = |name: &[u8]| {
        target
            .split_at_checked(name.len())
            .filter(|(start, _)| start.eq_ignore_ascii_case(name))
            .map(|(_, rest)| rest)
    };
    let (rest, https) = match (scheme(b"http://"), scheme(b"https://")) {
        (Some(rest), _) => (rest, false),
        (None, Some(rest)) => (rest, true),
        (None, None) => return Err(MALFORMED),
    };
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(MALFORMED)?;
    if !is_authority(authority) {
        return Err(MALFORMED);
    }
    let mut parsed = origin(Some(head.slice_ref(authority)), path, https);
    if path.first() == Some(&b'?') {
        parsed.path = [b"/", path].concat().into();
    } else if path.is_empty() && *method == Method::OPTIONS {
        parsed.path = Bytes::from_static(b"*"); // RFC 9112 3.2.4
    }
    Ok(parsed)
}

/// Host and port without user information; a comma, which a reg-name may have, is refused as a sign of two hosts.
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    let legal = |byte: &u8| {
        matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'
            | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=' | b':' | b'[' | b']' | b'%')
    };
    !bytes.is_empty() && bytes.len() <= 1024 && bytes.iter().all(legal)
}

/// A head's fields, the framing and hop-by-hop ones taken out.
#[derive(Default)]
struct Collected {
    fields: Fields,
    host: Option<Bytes>,
    length: Option<u64>,
    /// Transfer-Encoding was there; what it said.
    coding: Option<Coding>,
    close: bool,
    persist: bool,
    upgrade_nominated: bool,
    /// Names Connection nominates that are not taken out already.
    nominated: Vec<Bytes>,
    upgrade: Option<Bytes>,
    te_trailers: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    Unknown,
    Ambiguous,
}

impl Collected {
    fn parse(head: &Bytes, lines: Lines<'_>, limits: &Limits) -> Result<Self, ParseError> {
        let mut own = Self {
            fields: Fields::of(head),
            ..Self::default()
        };
        for (count, line) in lines.enumerate() {
            if count >= limits.head_fields {
                return Err(ParseError::TooLarge);
            }
            let (name, value) = split_field(line)?;
            let value = trim(value);
            if !is_value(value) {
                return Err(ParseError::Malformed("a field value"));
            }
            if !own.take(head, name, value)? {
                own.fields.push_parsed(name, value);
            }
        }
        Ok(own)
    }

    /// Takes a framing or hop-by-hop field; `false` for any other.
    fn take(&mut self, head: &Bytes, name: &[u8], value: &[u8]) -> Result<bool, ParseError> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match name.len() {
            2 if is("te") => {
                self.te_trailers |=
                    tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
            }
            4 if is("host") => {
                if self.host.is_some() {
                    return Err(ParseError::Malformed("more than one Host"));
                }
                self.host = Some(if value.is_empty() {
                    Bytes::new()
                } else {
                    head.slice_ref(value)
                });
            }
            7 if is("upgrade") => self.add_upgrade(head, value),
            10 if is("connection") => self.add_connection(head, value),
            10 if is("keep-alive") => {}
            14 if is("content-length") => {
                let length = parse_length(value).ok_or(ParseError::Malformed("Content-Length"))?;
                if self.length.is_some_and(|before| before != length) {
                    return Err(ParseError::Malformed("different Content-Lengths"));
                }
                self.length = Some(length);
            }
            16 if is("proxy-connection") => {}
            17 if is("transfer-encoding") => {
                self.coding = Some(match self.coding {
                    None => parse_coding(value),
                    Some(_) => Coding::Ambiguous,
                });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn add_upgrade(&mut self, head: &Bytes, value: &[u8]) {
        // h2c is obsolete (RFC 9113 3.1) and would end the mesh's sight of the requests: ignored, as one may.
        let wanted = |token: &&[u8]| {
            crate::fields::is_protocol(token) && !token.eq_ignore_ascii_case(b"h2c")
        };
        if self.upgrade.is_none() {
            self.upgrade = tokens(value)
                .find(wanted)
                .map(|token| head.slice_ref(token));
        }
    }

    fn add_connection(&mut self, head: &Bytes, value: &[u8]) {
        for token in tokens(value) {
            let is = |other: &str| token.eq_ignore_ascii_case(other.as_bytes());
            if is("close") {
                self.close = true;
            } else if is("keep-alive") {
                self.persist = true;
            } else if is("upgrade") {
                self.upgrade_nominated = true;
            } else if !is("te") {
                self.nominated.push(head.slice_ref(token));
            }
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.persist)
    }

    fn request_framing(&self, version: Version) -> Result<Framing, ParseError> {
        match (self.coding, self.length) {
            (Some(_), Some(_)) => Err(ParseError::Malformed(
                "Content-Length beside Transfer-Encoding",
            )),
            (Some(_), None) if version == Version::Http10 => {
                Err(ParseError::Malformed("Transfer-Encoding in HTTP/1.0"))
            }
            (Some(Coding::Chunked), None) => Ok(Framing::Chunked),
            (Some(Coding::Unknown), None) => Err(ParseError::UnknownCoding),
            (Some(Coding::Ambiguous), None) => Err(ParseError::Malformed("Transfer-Encoding")),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::None),
        }
    }

    fn response_framing(
        &self,
        version: Version,
        status: u16,
        method: &Method,
    ) -> Result<Framing, ParseError> {
        // Ambiguity is refused even where there is no body: the peer's next message could not be trusted.
        let framing = match self.request_framing(version)? {
            Framing::None => Framing::Close,
            framing => framing,
        };
        let switches = *method == Method::CONNECT && (200..300).contains(&status);
        if super::needs_no_body(status, method) || switches {
            return Ok(Framing::None);
        }
        Ok(framing)
    }

    /// The protocol to switch to. Asked for in 1.1 only (RFC 9110 7.8), and not by a request with a body: that is
    /// legal to ignore and spares a state in which body and new protocol follow each other.
    fn switch_to(&mut self, version: Version, framing: Framing) -> Option<Bytes> {
        let bodyless = matches!(framing, Framing::None | Framing::Length(0));
        let asked = version == Version::Http11 && self.upgrade_nominated && bodyless;
        self.upgrade.take().filter(|_| asked)
    }

    fn into_fields(mut self) -> Fields {
        for name in &self.nominated {
            self.fields.retain(|own, _| !own.eq_ignore_ascii_case(name));
        }
        if self.te_trailers {
            self.fields.push_legal(b"TE", &[b"trailers"]);
        }
        self.fields
    }
}

/// A line's name, which is a token, and what follows its colon.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), ParseError> {
    match line.split_at_checked(token_length(line)) {
        Some((name @ [_, ..], [b':', value @ ..])) => Ok((name, value)),
        // A space before the colon, a folded line and an empty name all are no token.
        _ if line.contains(&b':') => Err(ParseError::Malformed("a field name")),
        _ => Err(ParseError::Malformed("a field without a colon")),
    }
}

/// 1 to 19 digits and nothing else.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn parse_coding(value: &[u8]) -> Coding {
    let mut list = tokens(value);
    let chunked = |token: &[u8]| token.eq_ignore_ascii_case(b"chunked");
    match (list.next(), list.last()) {
        (Some(only), None) if chunked(only) => Coding::Chunked,
        (Some(first), Some(last)) if chunked(last) && !chunked(first) => Coding::Unknown,
        (Some(only), None) if !chunked(only) && is_token(only) => Coding::Unknown,
        _ => Coding::Ambiguous,
    }
}

/// The members of a comma separated list.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(trim)
        .filter(|token| !token.is_empty())
}

/// Without optional white space (RFC 9110 5.6.3).
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}
