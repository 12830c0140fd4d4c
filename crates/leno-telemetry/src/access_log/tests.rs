#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Goldens of a line, hostile texts, and the buffer's ceiling.

use proptest::prelude::*;

use super::*;

fn entry<'a>() -> Entry<'a> {
    Entry {
        start_time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_252_800_042),
        reporter: Reporter::Destination,
        workload: None,
        namespace: None,
        protocol: Protocol::Tcp,
        method: None,
        path: None,
        authority: None,
        user_agent: None,
        request_id: None,
        trace_id: None,
        response_code: 0,
        grpc_status: None,
        refusal: None,
        refusal_id: None,
        rule: None,
        config_version: None,
        bytes_received: 0,
        bytes_sent: 0,
        duration: Duration::ZERO,
        first_byte: None,
        downstream_remote_address: None,
        downstream_local_address: None,
        upstream_host: None,
        destination_service: None,
        route_name: None,
        source_identity: None,
        destination_identity: None,
        mtls: false,
    }
}

fn line(entry: &Entry<'_>) -> String {
    let mut out = Vec::new();
    entry.write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_line_is_as_istio_names_it() {
    let web: Identity = "spiffe://default.leno/ns/shop/sa/web".parse().unwrap();
    let cart: Identity = "spiffe://default.leno/ns/shop/sa/cart".parse().unwrap();
    let full = Entry {
        workload: Some("cart-1a2b"),
        namespace: Some("shop"),
        protocol: Protocol::Http1,
        method: Some(b"POST"),
        path: Some(b"/cart?id=\"7\""),
        authority: Some(b"cart:80"),
        user_agent: Some(b"curl/8"),
        request_id: Some(b"9f3c"),
        trace_id: Some(crate::trace::Context::new([0xab; 24], true).trace),
        response_code: 403,
        grpc_status: Some(7),
        refusal: Some(Refusal::Denied),
        refusal_id: Some("4f2a"),
        rule: Some("AccessPolicy shop/cart rules[0]"),
        config_version: Some("17"),
        bytes_received: 12,
        bytes_sent: 34,
        duration: Duration::from_micros(5_700),
        first_byte: Some(Duration::from_micros(4_100)),
        downstream_remote_address: "10.0.0.7:4711".parse().ok(),
        downstream_local_address: "[fd00::1]:8080".parse().ok(),
        upstream_host: "10.0.0.9:8080".parse().ok(),
        destination_service: Some("cart.shop.svc.cluster.local"),
        route_name: Some("shop/cart"),
        source_identity: Some(&web),
        destination_identity: Some(&cart),
        mtls: true,
        ..entry()
    };
    assert_eq!(line(&full) + &line(&entry()), include_str!("golden.json"));
}

#[test]
fn hostile_texts_stay_within_their_quotes_and_one_line() {
    let path = "/\u{1b}[31m\n{\"a\":1}\u{9b}\u{202e}\u{2028}\\ é".as_bytes();
    let line = line(&Entry {
        path: Some(path),
        user_agent: Some(b"\xff\xfeok"),
        ..entry()
    });
    assert_eq!(line.matches('\n').count(), 1);
    assert!(
        line.contains(r#""path":"/\u001b[31m\n{\"a\":1}\u009b\u202e\u2028\\ é""#),
        "{line}"
    );
    assert!(
        line.contains("\"user_agent\":\"\u{fffd}\u{fffd}ok\""),
        "{line}"
    );
}

#[test]
fn a_long_text_is_cut_and_marked() {
    let path = vec![b'a'; 100_000];
    let line = line(&Entry {
        path: Some(&path),
        ..entry()
    });
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["path"].as_str().unwrap(), "a".repeat(MAX_TEXT) + "…");
}

#[test]
fn a_full_buffer_drops_whole_lines_and_counts_them() {
    let mut buffer = Buffer::default();
    let path = vec![b'a'; MAX_TEXT];
    for _ in 0..2_000 {
        buffer.push(&Entry {
            path: Some(&path),
            ..entry()
        });
    }
    let lines = buffer.take();
    assert!(lines.len() <= MAX_BUFFER && lines.ends_with(b"}\n"));
    let kept = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert_eq!(kept + buffer.take_dropped(), 2_000);
    assert_eq!(buffer.take_dropped(), 0);
    buffer.push(&entry());
    assert!(!buffer.take().is_empty());
}

proptest! {
    #[test]
    fn whatever_a_peer_writes_the_line_is_one_and_valid_json(
        bytes in prop::collection::vec(any::<u8>(), 0..1_500),
        text in "\\PC{0,600}",
    ) {
        for hostile in [bytes.as_slice(), text.as_bytes()] {
            let line = line(&Entry {
                method: Some(hostile),
                path: Some(hostile),
                authority: Some(hostile),
                user_agent: Some(hostile),
                request_id: Some(hostile),
                ..entry()
            });
            prop_assert_eq!(line.matches('\n').count(), 1);
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            if hostile.len() <= MAX_TEXT {
                prop_assert_eq!(value["path"].as_str().unwrap(), String::from_utf8_lossy(hostile));
            }
            prop_assert!(line.len() < 5 * 6 * MAX_TEXT + 1_024);
        }
    }
}
