//! A request head: two parsers agree on what is no request, and what is one is framed in one way only.
#![no_main]

use bytes::Bytes;
use leno_http::{
    Limits,
    h1::{find_head, parse_request},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
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
    drop(parse_request(&Bytes::copy_from_slice(data), &limits));
});
