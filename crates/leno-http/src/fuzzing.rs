//! What the fuzz targets call (tests/parsers): readers of what peers send that are nobody else's to call.
//! Each takes any bytes, says whether anything could be read out of them, and panics where that is not what must hold of it.

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, Uri};

use crate::{
    Limits, RequestHead,
    case::{CASE_FIELD, Restore},
    convert::{request_from_h2, request_to_h2, response_from_h2, response_to_h2},
    h1::{OutFraming, encode_request, find_head, parse_request},
};

/// Heads of HTTP/2: `METHOD TARGET [PROTOCOL]` in the first line, then a field a line. What is taken goes on over HTTP/2
/// unchanged, and over HTTP/1 as one request of the same target, authority and length.
pub fn http2_head(data: &[u8]) -> bool {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let Some(mut request) = read_line(first) else {
        return false;
    };
    let mut response = http::Response::new(());
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            response.headers_mut().append(name.clone(), value.clone());
            request.headers_mut().append(name, value);
        }
    }
    let read = request_from_h2(request);
    if let Ok((head, declared, ())) = &read {
        over_http2(head, *declared);
        over_http1(head, *declared);
    }
    if let Ok((head, declared, ())) = response_from_h2(response) {
        let again = response_from_h2(response_to_h2(&head, declared, true));
        assert_eq!(
            again.map(|(again, length, ())| (again.fields == head.fields, length)),
            Ok((true, declared))
        );
    }
    read.is_ok()
}

fn read_line(line: &[u8]) -> Option<http::Request<()>> {
    let mut words = std::str::from_utf8(line).ok()?.splitn(3, ' ');
    let mut request = http::Request::new(());
    *request.method_mut() = Method::from_bytes(words.next()?.as_bytes()).ok()?;
    *request.uri_mut() = words.next()?.parse::<Uri>().ok()?;
    if let Some(protocol) = words.next() {
        let protocol = h2::ext::Protocol::from(protocol);
        request.extensions_mut().insert(protocol);
    }
    Some(request)
}

fn over_http2(head: &RequestHead, declared: Option<u64>) {
    let Ok(sent) = request_to_h2(head, declared, true) else {
        return;
    };
    let received = request_from_h2(sent);
    let (again, length, ()) = received.expect("what was taken is taken again");
    assert_eq!(
        (&again.path, length, &again.protocol),
        (&head.path, declared, &head.protocol)
    );
    assert_eq!(again.fields, head.fields);
}

fn over_http1(head: &RequestHead, declared: Option<u64>) {
    let framing = declared.map_or(OutFraming::None, OutFraming::Length);
    let mut out = BytesMut::new();
    if encode_request(head, framing, &mut out).is_none() {
        return;
    }
    let out = out.freeze();
    let limits = Limits {
        head_bytes: usize::MAX,
        line_bytes: usize::MAX,
        ..Limits::default()
    };
    // One head, and nothing behind it that could be read as another.
    assert_eq!(find_head(&out, 0, &limits), Ok(Some(out.len())));
    if let Ok(read) = parse_request(&out, &limits) {
        let plain_connect = head.method == Method::CONNECT && head.protocol.is_none();
        assert_eq!(
            read.declared.filter(|_| !plain_connect),
            declared.filter(|_| !plain_connect)
        );
        assert!(plain_connect || read.head.path == head.path);
    }
    case(head);
}

/// The case of names, which a peer wrote: a name keeps its letters, whatever it becomes.
fn case(head: &RequestHead) {
    let mut restore = Restore::new(head.fields.get(CASE_FIELD));
    for (name, _) in head.fields.iter() {
        let mut out = BytesMut::new();
        restore.write(name, &mut out);
        assert!(out.eq_ignore_ascii_case(name));
    }
}
