//! Writes HTTP/1 heads. Framing, Host and hop-by-hop fields are made here and nowhere else; fields of those names in
//! a head are left out.

use bytes::{BufMut, Bytes, BytesMut};
use http::Method;

use super::parse::is_authority;
use crate::{
    Fields, RequestHead, ResponseHead, Version,
    case::{CASE_FIELD, Restore},
};

/// How the body that follows is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutFraming {
    /// No body, and nothing said about one.
    None,
    /// This Content-Length; also where no body follows (HEAD, 304).
    Length(u64),
    /// Chunked.
    Chunked,
    /// Ends with the connection.
    Close,
    /// The connection becomes a tunnel.
    Switch,
}

/// A body up to this size gets its room behind the head at once.
const COPY: u64 = super::writer::COPY as u64;

/// What a request target may consist of: no controls, no space, no fragment.
pub(crate) fn is_target(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| *byte > b' ' && *byte != 0x7f && *byte != b'#')
}

/// Responses that never have a body (RFC 9112 6.3).
pub(crate) fn needs_no_body(status: u16, method: &Method) -> bool {
    *method == Method::HEAD || matches!(status, 100..200 | 204 | 304)
}

/// Writes a request head; `None` when the target, authority or protocol is nothing HTTP/1 can carry.
pub(crate) fn encode_request(
    head: &RequestHead,
    framing: OutFraming,
    out: &mut BytesMut,
) -> Option<()> {
    let authority = head.authority.as_deref().unwrap_or_default();
    if !(authority.is_empty() || is_authority(authority)) {
        return None;
    }
    // Extended CONNECT becomes a GET that asks to switch (RFC 8441 5.1).
    let extended = head.protocol.is_some() && head.method == Method::CONNECT;
    let method = if extended {
        Method::GET.as_str()
    } else {
        head.method.as_str()
    };
    let connect = head.method == Method::CONNECT && !extended;
    let target = if connect {
        authority
    } else {
        head.path.as_ref()
    };
    let protocol = head.protocol.as_deref();
    if !is_target(target) || protocol.is_some_and(|name| !crate::fields::is_protocol(name)) {
        return None;
    }
    out.reserve(256 + target.len() + head.fields.len() * 48);
    out.put_slice(method.as_bytes());
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\nHost: ");
    out.put_slice(authority);
    out.put_slice(b"\r\n");
    encode_fields(&head.fields, head.version, out);
    if extended
        && head
            .protocol
            .as_deref()
            .is_some_and(|name| name.eq_ignore_ascii_case(b"websocket"))
    {
        encode_websocket_key(&head.fields, out);
    }
    match (&head.protocol, head.fields.contains("te")) {
        (Some(protocol), _) => encode_upgrade(protocol, out),
        (None, true) => out.put_slice(b"Connection: TE\r\n"), // RFC 9110 10.1.4
        (None, false) => {}
    }
    encode_framing(framing, out);
    out.put_slice(b"\r\n");
    Some(())
}

/// Writes a final response head to a client that speaks `version`.
pub(crate) fn encode_response(
    head: &ResponseHead,
    framing: OutFraming,
    keep_alive: bool,
    version: Version,
    switch_to: Option<&Bytes>,
    out: &mut BytesMut,
) {
    if let OutFraming::Length(length @ ..=COPY) = framing {
        out.reserve(256 + head.fields.len() * 48 + usize::try_from(length).unwrap_or(0));
    }
    encode_status(head, out);
    encode_fields(&head.fields, head.version, out);
    if let Some(protocol) = switch_to {
        encode_upgrade(protocol, out);
    } else if framing != OutFraming::Switch {
        match (keep_alive, version) {
            (false, _) => out.put_slice(b"Connection: close\r\n"),
            (true, Version::Http10) => out.put_slice(b"Connection: keep-alive\r\n"),
            (true, _) => {}
        }
        encode_framing(framing, out);
    }
    out.put_slice(b"\r\n");
}

/// Writes an interim response.
pub(crate) fn encode_interim(head: &ResponseHead, out: &mut BytesMut) {
    encode_status(head, out);
    encode_fields(&head.fields, head.version, out);
    out.put_slice(b"\r\n");
}

/// Writes the fields of trailers, without the empty line.
pub(crate) fn encode_fields(fields: &Fields, version: Version, out: &mut BytesMut) {
    let mut restore = (version == Version::Http2).then(|| Restore::new(fields.get(CASE_FIELD)));
    for (name, value) in fields.iter() {
        if is_made_anew(name) || name.eq_ignore_ascii_case(CASE_FIELD.as_bytes()) {
            continue;
        }
        match &mut restore {
            Some(restore) => restore.write(name, out),
            None => out.put_slice(name),
        }
        out.put_slice(b": ");
        out.put_slice(value);
        out.put_slice(b"\r\n");
    }
}

/// Fields no message is forwarded with: each hop makes its own.
pub(crate) fn is_made_anew(name: &[u8]) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match name.len() {
        4 => is("host"),
        7 => is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        14 => is("content-length"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        _ => false,
    }
}

fn encode_status(head: &ResponseHead, out: &mut BytesMut) {
    out.reserve(192 + head.fields.len() * 48);
    out.put_slice(b"HTTP/1.1 ");
    let mut digits = head.status.clamp(100, 999);
    let mut text = [b'0'; 3];
    for place in text.iter_mut().rev() {
        *place = b'0' + u8::try_from(digits % 10).unwrap_or(0);
        digits /= 10;
    }
    out.put_slice(&text);
    out.put_u8(b' ');
    match &head.reason {
        Some(reason) if crate::fields::is_value(reason) => out.put_slice(reason),
        _ => {
            let known = http::StatusCode::from_u16(head.status)
                .ok()
                .and_then(|status| status.canonical_reason());
            out.put_slice(known.unwrap_or_default().as_bytes());
        }
    }
    out.put_slice(b"\r\n");
}

fn encode_framing(framing: OutFraming, out: &mut BytesMut) {
    match framing {
        OutFraming::Length(length) => {
            out.put_slice(b"Content-Length: ");
            out.put_slice(decimal(length, &mut [0; 20]));
            out.put_slice(b"\r\n");
        }
        OutFraming::Chunked => out.put_slice(b"Transfer-Encoding: chunked\r\n"),
        OutFraming::None | OutFraming::Close | OutFraming::Switch => {}
    }
}

fn encode_upgrade(protocol: &Bytes, out: &mut BytesMut) {
    out.put_slice(b"Connection: Upgrade\r\nUpgrade: ");
    out.put_slice(protocol);
    out.put_slice(b"\r\n");
}

/// A WebSocket client on HTTP/2 sends no key (RFC 8441 5): HTTP/1 wants one.
fn encode_websocket_key(fields: &Fields, out: &mut BytesMut) {
    if !fields.contains("sec-websocket-key") {
        out.put_slice(b"Sec-WebSocket-Key: ");
        out.put_slice(&crate::websocket::new_key());
        out.put_slice(b"\r\n");
    }
}

/// The digits of a number, written to the end of `room`.
pub(crate) fn decimal(mut number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut digits = 0;
    for place in room.iter_mut().rev() {
        *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        digits += 1;
        if number == 0 {
            break;
        }
    }
    room.get(room.len() - digits..).unwrap_or_default()
}
