//! HTTP/1, the chunked coding, and what the first bytes of a connection tell.

use bytes::{Bytes, BytesMut};
use http::Method;
use leno_http::{
    Limits,
    detect::{HelloError, Sniff, sni, sniff},
    h1::{ChunkStep, ChunkedDecoder, find_head, parse_request, parse_response},
};

/// The same body however the bytes are split.
pub(crate) fn chunked(data: &[u8]) -> bool {
    let whole = decode(std::iter::once(data));
    let split = decode(data.chunks(1));
    // A body that ends well ends well by bytes. Errors may be seen earlier or later.
    if let (Some(whole), Some(split)) = (&whole, &split) {
        assert_eq!(whole, split);
    }
    whole.is_some_and(|(_, ended)| ended)
}

/// The body, and whether it ended; `None` when it is malformed.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<(Vec<u8>, bool)> {
    let limits = Limits::default();
    let (mut decoder, mut buffer, mut body) =
        (ChunkedDecoder::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.step(&mut buffer, &limits) {
                Ok(ChunkStep::Data(data)) => body.extend_from_slice(&data),
                Ok(ChunkStep::NeedMore) => break,
                Ok(ChunkStep::Done(_)) => return Some((body, true)),
                Err(_) => return None,
            }
        }
    }
    Some((body, false))
}

/// Never a change of mind.
pub(crate) fn detect(data: &[u8]) -> bool {
    let whole = sniff(data);
    if matches!(whole, Sniff::Tls(_)) {
        assert!(sni(data).is_ok());
    }
    if sni(data) == Err(HelloError::NotTls) {
        assert!(!matches!(whole, Sniff::Tls(_)));
    }
    // What was told from fewer bytes holds with more.
    let early = sniff(&data[..data.len() / 2]);
    if !matches!(early, Sniff::NeedMore) {
        assert_eq!(early, whole);
    }
    !matches!(whole, Sniff::NeedMore)
}

/// Two parsers agree on what is no request, and what is one is framed in one way only.
pub(crate) fn h1_request(data: &[u8]) -> bool {
    let limits = Limits::default();
    // However the bytes arrive, the head ends in the same place.
    let whole = find_head(data, 0, &limits);
    if let Ok(Some(end)) = whole {
        assert_eq!(find_head(data, end / 2, &limits).ok().flatten(), Some(end));
        let head = Bytes::copy_from_slice(&data[..end]);
        // Targets in another encoding than UTF-8 exist, and pass as they came; the second parser refuses them.
        let comparable = std::str::from_utf8(&head).is_ok();
        if parse_request(&head, &limits).is_ok() && comparable {
            // What is taken here, a second parser takes too.
            let mut fields = [httparse::EMPTY_HEADER; 512];
            let mut other = httparse::Request::new(&mut fields);
            let agreed = other.parse(&head);
            assert!(
                matches!(
                    agreed,
                    Ok(httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders)
                ),
                "{agreed:?}"
            );
        }
    }
    parse_request(&Bytes::copy_from_slice(data), &limits).is_ok()
}

/// Two parsers agree on what is no response; for each method that changes its framing.
pub(crate) fn h1_response(data: &[u8]) -> bool {
    let limits = Limits::default();
    let end = find_head(data, 0, &limits).ok().flatten();
    let head = Bytes::copy_from_slice(&data[..end.unwrap_or(data.len())]);
    if end.is_some() && parse_response(&head, &Method::GET, &limits).is_ok() {
        let mut fields = [httparse::EMPTY_HEADER; 512];
        let mut other = httparse::Response::new(&mut fields);
        let agreed = other.parse(&head);
        assert!(
            matches!(
                agreed,
                Ok(httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders)
            ),
            "{agreed:?}"
        );
    }
    let mut methods = [Method::GET, Method::HEAD, Method::CONNECT].iter();
    methods.all(|method| parse_response(&head, method, &limits).is_ok())
}
