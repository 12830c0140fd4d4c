//! What the fuzz targets call (tests/parsers): readers of what peers and programs send that are nobody else's to call.
//! Each takes any bytes, says whether anything could be read out of them, and panics where that is not what must hold of it.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::pin,
    task::{Context, Poll, Waker},
};

use hickory_proto::op::{Message, ResponseCode};
use leno_http::Fields;

use crate::{dns, metadata};

/// The private fields between proxies: read, or taken for absent; nothing private is left after taking them out.
pub fn metadata(value: &[u8]) -> bool {
    let to = metadata::To::read(value);
    if let Some(to) = &to {
        assert_eq!(metadata::To::read(to.write().as_bytes()).as_ref(), Some(to));
    }
    if let Some(reason) = metadata::read_refused(value) {
        let again = metadata::refused_field(reason, "fuzz", 1);
        assert_eq!(metadata::read_refused(again.as_bytes()), Some(reason));
    }
    let mut fields = Fields::new();
    for line in value.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        // What is no field of HTTP is not taken.
        let _taken = fields.push(
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
    }
    metadata::strip(&mut fields);
    assert!(!fields.iter().any(|(name, _)| metadata::is_private(name)));
    if let Ok(identity) = "spiffe://fuzz.leno/ns/shop/sa/web".parse() {
        let caller = metadata::caller_labels(Some(value), &identity);
        assert_eq!(&*caller.namespace, "shop");
        assert!(caller.workload.len() <= 253 && caller.version.len() <= 253);
    }
    to.is_some()
}

/// A DNS query: none, answered at once, or a question whose answer can be read; and the same after a length, as over TCP.
pub fn dns(query: &[u8]) -> bool {
    let read = dns::read_query(query);
    match &read {
        None => {}
        Some(Err(answer)) => drop(is_answer(query, answer)),
        Some(Ok((message, question))) => {
            if let Ok(namespace) = "shop".parse() {
                let name = question.name().to_ascii();
                let search = ["corp.example".to_owned()];
                drop(dns::read_name(&name, &namespace, &search, |_| true));
            }
            let addresses = [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ];
            if let Some(answer) = dns::respond(message, ResponseCode::NoError, &addresses) {
                assert_eq!(is_answer(query, &answer).answers.len(), addresses.len());
            }
        }
    }
    let mut stream = query;
    if let Poll::Ready(Ok(framed)) = at_once(dns::read_message(&mut stream)) {
        assert!(framed.len() + 2 <= query.len());
        drop(dns::read_query(&framed));
    }
    matches!(read, Some(Ok(_)))
}

fn is_answer(query: &[u8], answer: &[u8]) -> Message {
    assert_eq!(answer.get(..2), query.get(..2), "the query's id");
    Message::from_vec(answer).expect("what is answered can be read")
}

/// Reading from memory never waits.
fn at_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}
