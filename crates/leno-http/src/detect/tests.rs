#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;

fn u8_list(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn u16_list(bytes: &[u8]) -> Vec<u8> {
    [
        &u16::try_from(bytes.len()).unwrap().to_be_bytes()[..],
        bytes,
    ]
    .concat()
}

/// A ClientHello's handshake message.
fn hello(sni: Option<&str>, alpn: &[&str], padding: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut add = |kind: u16, data: Vec<u8>| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(u16_list(&data));
    };
    add(21, vec![0; padding]);
    if let Some(name) = sni {
        add(
            0,
            u16_list(&[&[0][..], &u16_list(name.as_bytes())].concat()),
        );
    }
    if !alpn.is_empty() {
        let offers: Vec<u8> = alpn
            .iter()
            .flat_map(|name| u8_list(name.as_bytes()))
            .collect();
        add(16, u16_list(&offers));
    }
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend(u8_list(&[1; 32]));
    body.extend(u16_list(&[0x13, 0x01]));
    body.extend(u8_list(&[0]));
    body.extend(u16_list(&extensions));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &length[1..], &body].concat()
}

fn records(handshake: &[u8], size: usize) -> Vec<u8> {
    handshake
        .chunks(size)
        .flat_map(|piece| [&[0x16, 3, 1][..], &u16_list(piece)].concat())
        .collect()
}

#[test]
fn the_name_and_the_offers_of_a_client_hello_are_read_however_it_is_cut_into_records() {
    let expected = ClientHello {
        sni: Some("cart.shop".into()),
        alpn: vec![b"leno/1".to_vec(), b"h2".to_vec()],
    };
    let handshake = hello(Some("Cart.Shop"), &["leno/1", "h2"], 3000);
    for size in [1, 7, 500, 16_000] {
        let bytes = records(&handshake, size);
        assert_eq!(sni(&bytes).as_ref(), Ok(&expected), "records of {size}");
        assert_eq!(sniff(&bytes), Sniff::Tls(expected.clone()));
        for end in [1, 4, 5, 6, 40, bytes.len() - 1] {
            assert_eq!(sni(&bytes[..end]), Err(HelloError::NeedMore), "{end} bytes");
            assert_eq!(sniff(&bytes[..end]), Sniff::NeedMore, "{end} bytes");
        }
    }
    assert_eq!(
        sni(&records(&hello(None, &[], 0), 16_000)),
        Ok(ClientHello::default())
    );
}

#[test]
fn what_only_looks_like_tls_is_refused() {
    let good = records(&hello(Some("a"), &[], 0), 16_000);
    for (place, byte) in [(0, 0x17), (1, 2), (2, 9), (5, 2), (6, 0xff)] {
        let mut bad = good.clone();
        bad[place] = byte;
        assert_eq!(sni(&bad), Err(HelloError::NotTls), "byte {place}");
    }
    for name in ["", "a b", "a/b", "é"] {
        assert_eq!(
            sni(&records(&hello(Some(name), &[], 0), 16_000)),
            Err(HelloError::NotTls),
            "{name}"
        );
    }
    assert_eq!(sni(&[0x16, 3, 1, 0, 0, 0]), Err(HelloError::NotTls));
}

#[test]
fn first_bytes_are_told_apart() {
    for (bytes, expected) in [
        (&b""[..], Sniff::NeedMore),
        (b"G", Sniff::NeedMore),
        (b"GET ", Sniff::NeedMore),
        (b"GET /a", Sniff::NeedMore),
        (b"GET / HTTP/1.1\r\n", Sniff::Http1),
        (b"GET / HTTP/1.0", Sniff::Http1),
        (b"GET http://a/ HTTP/1.1\r\n", Sniff::Http1),
        (b"\r\nGET / HTTP/1.1\r\n", Sniff::Http1),
        (b"M-SEARCH * HTTP/1.1\r\n", Sniff::Http1),
        (b"GET / HTTP/1.1\n", Sniff::Http1), // refused with an answer, later
        (b"PR", Sniff::NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Sniff::NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniff::Http2),
        (b"PROPFIND / HTTP/1.1\r\n", Sniff::Http1),
        (b"SSH-2.0-x\r\n", Sniff::Other),
        (b"USER anna\r\n", Sniff::Other),
        (b"HELO a\r\n", Sniff::Other),
        (b"EHLO mail.example\r\n", Sniff::Other),
        (b"*1\r\n$4\r\nPING\r\n", Sniff::Other),
        (b"get / HTTP/1.1\r\n", Sniff::Other),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Sniff::Other),
        (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Sniff::Other),
    ] {
        assert_eq!(
            sniff(bytes),
            expected,
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

    #[test]
    fn nothing_panics_and_a_prefix_never_knows_better(
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        size in 1_usize..600,
    ) {
        let mut bytes = records(&hello(Some("cart.shop"), &["h2"], 20), size);
        for (place, byte) in noise {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let whole = sni(&bytes);
        let part = sni(&bytes[..cut.index(bytes.len())]);
        prop_assert!(part == Err(HelloError::NeedMore) || part == whole, "{:?} {:?}", part, whole);
    }
}
