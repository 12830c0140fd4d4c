//! A response head, for each method that changes its framing.
#![no_main]

use bytes::Bytes;
use http::Method;
use leno_http::{
    Limits,
    h1::{find_head, parse_response},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    let head = match find_head(data, 0, &limits) {
        Ok(Some(end)) => &data[..end],
        Ok(None) | Err(_) => data,
    };
    let head = Bytes::copy_from_slice(head);
    for method in [Method::GET, Method::HEAD, Method::CONNECT] {
        drop(parse_response(&head, &method, &limits));
    }
});
