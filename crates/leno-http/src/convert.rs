//! Heads of HTTP/2, as the h2 crate gives and takes them, from and to ours.
//!
//! Invariant: what leaves here for HTTP/2 has no connection-specific field (RFC 9113 8.2.2), and one authority.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::CONTENT_LENGTH,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::{
    Fields, RequestHead, ResponseHead, Version,
    case::{self, CASE_FIELD},
    fields::is_protocol,
    h1::{decimal, is_authority, is_made_anew, parse_length},
};

/// A request as the h2 crate sends it. `declared` becomes Content-Length.
pub(crate) fn request_to_h2(
    head: &RequestHead,
    declared: Option<u64>,
    carry_case: bool,
) -> Result<http::Request<()>, &'static str> {
    let mut request = http::Request::new(());
    *request.version_mut() = http::Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    let authority = head
        .authority
        .as_ref()
        .filter(|authority| !authority.is_empty());
    // Copied, as fields are: it is kept in HPACK's table, and would keep the whole head.
    uri.authority = authority
        .map(|authority| Authority::try_from(&**authority).map_err(|_| "the authority"))
        .transpose()?;
    let plain_connect = head.method == Method::CONNECT && head.protocol.is_none();
    if plain_connect {
        uri.authority
            .as_ref()
            .ok_or("CONNECT without an authority")?;
    } else {
        uri.path_and_query =
            Some(PathAndQuery::from_maybe_shared(head.path.clone()).map_err(|_| "the path")?);
        if uri.authority.is_some() {
            let https = head.scheme_https;
            uri.scheme = Some(if https { Scheme::HTTPS } else { Scheme::HTTP });
        } else {
            // HTTP/1.0 knows requests without an authority; the h2 crate takes them when told where they come from.
            *request.version_mut() = http::Version::HTTP_11;
        }
    }
    *request.uri_mut() = http::Uri::from_parts(uri).map_err(|_| "the target")?;
    *request.method_mut() = match &head.protocol {
        Some(protocol) => {
            let name = std::str::from_utf8(protocol).map_err(|_| "the protocol")?;
            request
                .extensions_mut()
                .insert(h2::ext::Protocol::from(name));
            Method::CONNECT
        }
        None => head.method.clone(),
    };
    let carry_case = carry_case && head.version.is_http1();
    *request.headers_mut() = fields_to_h2(&head.fields, &head.private, declared, carry_case);
    Ok(request)
}

/// A response as the h2 crate sends it.
pub(crate) fn response_to_h2(
    head: &ResponseHead,
    declared: Option<u64>,
    carry_case: bool,
) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() =
        http::StatusCode::from_u16(head.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
    let carry_case = carry_case && head.version.is_http1();
    *response.headers_mut() = fields_to_h2(&head.fields, &[], declared, carry_case);
    response
}

fn header_name(name: &[u8]) -> Option<HeaderName> {
    /// Beside the standard's the one that nearly every request carries: not made anew for each.
    static FREQUENT: HeaderName = HeaderName::from_static("traceparent");
    if name == FREQUENT.as_str().as_bytes() {
        return Some(FREQUENT.clone());
    }
    HeaderName::from_bytes(name).ok()
}

/// Whether a field's value is of one request alone.
fn is_unique(name: &HeaderName) -> bool {
    matches!(name.as_str(), "traceparent" | "x-request-id" | "b3")
}

/// Fields or trailers as the h2 crate sends them.
pub(crate) fn fields_to_h2(
    fields: &Fields,
    private: &[(HeaderName, HeaderValue)],
    declared: Option<u64>,
    carry_case: bool,
) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len() + private.len() + 2);
    let case = if carry_case {
        case::describe(fields)
    } else {
        None
    };
    for (name, value) in fields.iter() {
        let stale_case = carry_case && name.eq_ignore_ascii_case(CASE_FIELD.as_bytes());
        if is_made_anew(name) || stale_case {
            continue;
        }
        // Copied: what the h2 crate puts into HPACK's table it keeps, and a slice would keep the whole head with it.
        if let (Some(name), Ok(mut value)) = (header_name(name), HeaderValue::from_bytes(value)) {
            // Never the same twice: in the table of HPACK it would only push out what is (RFC 7541 7.1.3).
            value.set_sensitive(is_unique(&name));
            // Fails above 32,768 names, which no limit of ours lets in.
            let _full = map.try_append(name, value).is_err();
        }
    }
    let mut room = [0; 20];
    let length = declared.map(|length| HeaderValue::from_bytes(decimal(length, &mut room)));
    if let Some(Ok(length)) = length {
        map.insert(CONTENT_LENGTH, length);
    }
    if let Some(Ok(case)) = case.map(HeaderValue::from_maybe_shared) {
        map.insert(HeaderName::from_static(CASE_FIELD), case);
    }
    for (name, value) in private {
        let _full = map.try_append(name.clone(), value.clone()).is_err();
    }
    map
}

/// A request as the h2 crate received it, and its Content-Length.
pub(crate) fn request_from_h2<B>(
    request: http::Request<B>,
) -> Result<(RequestHead, Option<u64>, B), &'static str> {
    let (mut parts, body) = request.into_parts();
    let declared = content_length(&parts.headers)?;
    let protocol = parts.extensions.remove::<h2::ext::Protocol>();
    // The h2 crate takes any text for `:protocol` (RFC 8441 4), line ends included; HTTP/1 gets it as Upgrade.
    if protocol
        .as_ref()
        .is_some_and(|name| !is_protocol(name.as_str().as_bytes()))
    {
        return Err("the protocol");
    }
    let mut authority = parts
        .uri
        .authority()
        .map(|authority| Bytes::copy_from_slice(authority.as_str().as_bytes()));
    if let Some(host) = parts.headers.remove(http::header::HOST) {
        // RFC 9113 8.3.1: where both are there they say the same.
        match &authority {
            Some(authority) if !authority.eq_ignore_ascii_case(host.as_bytes()) => {
                return Err("Host differs from :authority");
            }
            Some(_) => {}
            None => authority = Some(Bytes::copy_from_slice(host.as_bytes())),
        }
    }
    if authority
        .as_deref()
        .is_some_and(|authority| !is_authority(authority))
    {
        return Err("the authority");
    }
    let path = match parts.uri.path_and_query() {
        Some(path) if parts.method != Method::CONNECT || protocol.is_some() => {
            Bytes::copy_from_slice(path.as_str().as_bytes())
        }
        _ => Bytes::new(),
    };
    let head = RequestHead {
        authority,
        path,
        scheme_https: parts.uri.scheme() == Some(&Scheme::HTTPS),
        version: Version::Http2,
        protocol: protocol.map(|name| Bytes::copy_from_slice(name.as_str().as_bytes())),
        fields: fields_from_h2(&parts.headers),
        private: Vec::new(),
        method: parts.method,
    };
    Ok((head, declared, body))
}

/// A response as the h2 crate received it, and its Content-Length.
pub(crate) fn response_from_h2<B>(
    response: http::Response<B>,
) -> Result<(ResponseHead, Option<u64>, B), &'static str> {
    let (parts, body) = response.into_parts();
    let declared = content_length(&parts.headers)?;
    let head = ResponseHead {
        status: parts.status.as_u16(),
        reason: None,
        version: Version::Http2,
        fields: fields_from_h2(&parts.headers),
    };
    Ok((head, declared, body))
}

/// Fields or trailers as the h2 crate received them, in one buffer. Cookie crumbs are put together again
/// (RFC 9113 8.2.3).
pub(crate) fn fields_from_h2(map: &HeaderMap) -> Fields {
    let crumbs = map.get_all(http::header::COOKIE).iter().nth(1).is_some();
    let total = map
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 2)
        .sum();
    let mut fields = Fields::with_capacity(map.len(), total);
    let mut cookies_done = false;
    for (name, value) in map {
        let text = name.as_str().as_bytes();
        if is_made_anew(text) {
            continue;
        }
        if !crumbs || *name != http::header::COOKIE {
            fields.push_legal(text, &[value.as_bytes()]);
        } else if !std::mem::replace(&mut cookies_done, true) {
            let all = map.get_all(http::header::COOKIE).iter();
            let pieces = all.flat_map(|crumb| [&b"; "[..], crumb.as_bytes()]);
            let pieces: Vec<&[u8]> = pieces.skip(1).collect();
            fields.push_legal(text, &pieces);
        }
    }
    fields
}

fn content_length(map: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut found = None;
    for value in map.get_all(CONTENT_LENGTH) {
        let length = parse_length(value.as_bytes()).ok_or("Content-Length")?;
        if found.is_some_and(|before| before != length) {
            return Err("different Content-Lengths");
        }
        found = Some(length);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use bytes::BytesMut;

    use super::*;
    use crate::{
        Limits,
        h1::{OutFraming, encode_request, parse_response},
    };

    #[test]
    fn what_is_sent_keeps_nothing_of_the_head_that_came() {
        let head = Bytes::from(format!(
            "HTTP/1.1 200 OK\r\nserver: x\r\nx-big: {}\r\n\r\n",
            "y".repeat(16_000)
        ));
        let parsed = parse_response(&head, &Method::GET, &Limits::default()).unwrap();
        let sent = response_to_h2(&parsed.head, None, true);
        drop(parsed);
        assert_eq!(sent.headers()["server"], "x");
        assert!(head.is_unique());
    }

    #[test]
    fn what_one_proxy_says_to_the_next_goes_over_http2_and_not_over_http1() {
        let mut head = RequestHead::new(Method::GET, "shop", "/");
        head.fields.push("accept", "*/*");
        let (name, value) = ("x-leno-to", HeaderValue::from_static("1"));
        head.private.push((HeaderName::from_static(name), value));
        let sent = request_to_h2(&head, Some(1_048_576), true).unwrap();
        let fields = sent.headers().iter();
        let fields: Vec<_> = fields.map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(
            fields,
            [
                ("accept", &HeaderValue::from_static("*/*")),
                ("content-length", &HeaderValue::from_static("1048576")),
                ("x-leno-case", &HeaderValue::from_static("-")),
                (name, &HeaderValue::from_static("1")),
            ]
        );
        let mut written = BytesMut::new();
        encode_request(&head, OutFraming::None, &mut written).unwrap();
        assert_eq!(
            written,
            "GET / HTTP/1.1\r\nHost: shop\r\naccept: */*\r\n\r\n"
        );
    }
}
