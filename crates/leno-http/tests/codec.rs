//! The HTTP/1 codec by itself: what it refuses, that splits do not matter, and that another parser agrees.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use common::{Hop, head, mesh, mesh_with, rest, run, run_paused, send};
use http::Method;
use leno_http::{
    Limits,
    h1::{
        ChunkStep, ChunkedDecoder, Framing, ParseError, find_head, parse_request, parse_response,
    },
};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

/// Requests that two parsers may read in two ways, and the status each gets. `H` stands for a Host line.
const SMUGGLING: &[(&str, u16)] = &[
    (
        "POST / HTTP/1.1\r\nH\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nContent-Length: 3, 3\r\n\r\nabc",
        400,
    ),
    ("POST / HTTP/1.1\r\nH\r\nContent-Length: +3\r\n\r\nabc", 400),
    ("POST / HTTP/1.1\r\nH\r\nContent-Length: -1\r\n\r\n", 400),
    (
        "POST / HTTP/1.1\r\nH\r\nContent-Length: 0x3\r\n\r\nabc",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nContent-Length: 3 3\r\n\r\nabc",
        400,
    ),
    ("POST / HTTP/1.1\r\nH\r\nContent-Length:\r\n\r\n", 400),
    (
        "POST / HTTP/1.1\r\nH\r\nContent-Length: 99999999999999999999\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nX: y\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.0\r\nH\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("GET / HTTP/1.1\nHost: a\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nX: y\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nH\r\nX\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nH\r\n: y\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nH\r\nX y: z\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nH\r\nX: \0\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nH\r\nX\0: y\r\n\r\n", 400),
    ("GET  / HTTP/1.1\r\nH\r\n\r\n", 400),
    ("GET / HTTP/1.1 \r\nH\r\n\r\n", 400),
    (" GET / HTTP/1.1\r\nH\r\n\r\n", 400),
    ("GET /a b HTTP/1.1\r\nH\r\n\r\n", 400),
    ("GET /\t HTTP/1.1\r\nH\r\n\r\n", 400),
    ("GET /a#b HTTP/1.1\r\nH\r\n\r\n", 400),
    ("GET a HTTP/1.1\r\nH\r\n\r\n", 400),
    ("GET ftp://a/ HTTP/1.1\r\nH\r\n\r\n", 400),
    ("GET http://u@a/ HTTP/1.1\r\nH\r\n\r\n", 400),
    ("GET http:// HTTP/1.1\r\nH\r\n\r\n", 400),
    ("GET * HTTP/1.1\r\nH\r\n\r\n", 400),
    ("CONNECT /a HTTP/1.1\r\nH\r\n\r\n", 400),
    ("CONNECT a HTTP/1.1\r\nH\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\r\nH\r\n\r\n", 400),
    ("GET /\r\n\r\n", 400),
    ("GET / http/1.1\r\nH\r\n\r\n", 400),
    ("GET / HTTP/1.2\r\nH\r\n\r\n", 505),
    ("GET / HTTP/2.0\r\nH\r\n\r\n", 505),
    ("GET / HTTP/11.1\r\nH\r\n\r\n", 400),
];

/// Bodies in chunks that are none.
const BAD_CHUNKS: &[&str] = &[
    "\r\n",
    "g\r\n",
    "-1\r\n",
    "+1\r\nx\r\n",
    " 1\r\nx\r\n",
    "1 \r\nx\r\n",
    "0x1\r\nx\r\n",
    "1\nx\r\n",
    "1\r\nxy\r\n",
    "1\r\nx\n",
    "1\r\nx\r\r",
    "1;\n\r\nx\r\n",
    "1\rx\r\n",
    "1,2\r\n",
    "10000000000000000\r\n",
    "fffffffffffffffff\r\n",
    "1\r\nx\r\n0\r\nX : y\r\n\r\n",
    "1\r\nx\r\n0\r\n x: y\r\n\r\n",
    "1\r\nx\r\n0\r\nX: y\n\r\n",
    "0\r\n\n",
];

fn corpus() -> impl Iterator<Item = (String, u16)> {
    SMUGGLING
        .iter()
        .map(|(request, status)| (request.replace("\r\nH\r\n", "\r\nHost: a\r\n"), *status))
}

#[test]
fn the_smuggling_corpus_is_refused_and_nothing_of_it_reaches_the_application() {
    run(async {
        for (request, status) in corpus() {
            let mut ends = mesh_with(Hop::Direct, |mesh| {
                mesh.limits = Rc::new(Limits {
                    linger: Duration::from_millis(1),
                    ..Limits::default()
                });
            });
            let mut client = ends.mesh.http1_client();
            send(&mut client, &request).await;
            client
                .write_all(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            client.shutdown().await.unwrap();
            let answer = rest(&mut client).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request:?}: {answer}"
            );
            assert_eq!(
                answer.matches("HTTP/1.1 ").count(),
                1,
                "{request:?}: one answer"
            );
            assert!(
                ends.apps.try_recv().is_err(),
                "{request:?} reached the application"
            );
        }
    });
}

#[test]
fn malformed_chunks_are_refused_after_the_head_was_passed_on() {
    run(async {
        for chunks in BAD_CHUNKS {
            let mut ends = mesh(Hop::Http2);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
            )
            .await;
            let answer = head(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{chunks:?}: {answer}");
            if let Ok(mut app) = ends.apps.try_recv() {
                let seen = rest(&mut app).await;
                assert!(
                    !seen.ends_with("0\r\n\r\n"),
                    "{chunks:?}: the application saw a whole body: {seen:?}"
                );
            }
        }
    });
}

#[test]
fn heads_above_their_limits_are_answered() {
    run(async {
        let many: String = (0..201).map(|index| format!("x{index}: y\r\n")).collect();
        for fields in [format!("x: {}\r\n", "y".repeat(70_000)), many] {
            let ends = mesh(Hop::Direct);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"),
            )
            .await;
            assert!(head(&mut client).await.starts_with("HTTP/1.1 431 "));
        }
        let ends = mesh(Hop::Direct);
        let mut client = ends.mesh.http1_client();
        send(
            &mut client,
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000)),
        )
        .await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 431 "));
    });
}

#[test]
fn a_head_that_comes_too_slowly_is_answered_and_an_idle_connection_closed() {
    run_paused(async {
        let ends = mesh_with(Hop::Direct, |mesh| {
            let brief = Duration::from_millis(20);
            mesh.limits = Rc::new(Limits {
                header_timeout: brief,
                idle_timeout: brief,
                ..Limits::default()
            });
        });
        let mut client = ends.mesh.http1_client();
        send(&mut client, "GET / HT").await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 408 "));
        let mut client = ends.mesh.http1_client();
        assert_eq!(rest(&mut client).await, "");
    });
}

fn parsed(request: &str) -> leno_http::h1::ParsedRequest {
    parse_request(
        &Bytes::copy_from_slice(request.as_bytes()),
        &Limits::default(),
    )
    .unwrap()
}

#[test]
fn the_authority_of_an_absolute_target_wins_over_host() {
    for (target, authority, path) in [
        ("http://b:81/x?y", "b:81", "/x?y"),
        ("HTTPS://b", "b", "/"),
        ("http://b?q", "b", "/?q"),
        ("/x", "a", "/x"),
    ] {
        let head = parsed(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).head;
        assert_eq!(
            (head.authority.as_deref(), &head.path[..]),
            (Some(authority.as_bytes()), path.as_bytes())
        );
        assert_eq!(head.scheme_https, target.starts_with("HTTPS"));
    }
    assert_eq!(
        parsed("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n")
            .head
            .path,
        "*"
    );
    assert_eq!(
        parsed("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").head.path,
        "*"
    );
    let connect = parsed("CONNECT b:1 HTTP/1.1\r\nHost: a\r\n\r\n").head;
    assert_eq!(
        (connect.authority.as_deref(), &connect.path[..]),
        (Some(&b"b:1"[..]), &b""[..])
    );
}

#[test]
fn hop_by_hop_fields_are_taken_out() {
    let parsed = parsed(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Own, te\r\nX-Own: 1\r\nKeep-Alive: 3\r\nProxy-Connection: x\r\nTE: gzip, Trailers\r\nUpgrade: websocket\r\nContent-Length: 3\r\nContent-Length: 3\r\nX: y\r\n\r\n",
    );
    let names: Vec<_> = parsed.head.fields.iter().collect();
    assert_eq!(names, [(&b"X"[..], &b"y"[..]), (b"TE", b"trailers")]);
    assert_eq!(
        (parsed.framing, parsed.keep_alive),
        (Framing::Length(3), false)
    );
    assert_eq!(
        parsed.head.protocol, None,
        "Upgrade that Connection does not name is no wish"
    );
}

#[test]
fn responses_are_framed_as_rfc_9112_says() {
    let framing = |head: &str, method: Method| {
        let parsed = parse_response(
            &Bytes::copy_from_slice(head.as_bytes()),
            &method,
            &Limits::default(),
        )?;
        Ok::<_, ParseError>((parsed.framing, parsed.keep_alive))
    };
    for (head, method, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            Method::GET,
            (Framing::Length(3), true),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            Method::HEAD,
            (Framing::None, true),
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
            Method::GET,
            (Framing::None, true),
        ),
        ("HTTP/1.1 200\r\n\r\n", Method::GET, (Framing::Close, false)),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n",
            Method::GET,
            (Framing::Length(3), false),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n",
            Method::GET,
            (Framing::Chunked, false),
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\n",
            Method::CONNECT,
            (Framing::None, true),
        ),
    ] {
        assert_eq!(framing(head, method), Ok(expected), "{head}");
    }
    for bad in [
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 200 \x01\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ] {
        assert!(framing(bad, Method::GET).is_err(), "{bad}");
    }
}

/// Decodes what comes in pieces.
fn dechunk(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), ParseError> {
    let mut decoder = ChunkedDecoder::default();
    let mut buffer = BytesMut::new();
    let mut body = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.step(&mut buffer, &Limits::default())? {
                ChunkStep::Data(data) => body.extend_from_slice(&data),
                ChunkStep::NeedMore => break,
                ChunkStep::Done(_) => return Ok((body, true)),
            }
        }
    }
    Ok((body, false))
}

fn split_at<'b>(bytes: &'b [u8], cuts: &[prop::sample::Index]) -> Vec<&'b [u8]> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter()
        .map(|end| {
            let piece = &bytes[start..end];
            start = end;
            piece
        })
        .collect()
}

/// Bytes that look like HTTP more often than chance would have it.
fn almost_http() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"GET / HTTP/1.1\r\n".to_vec()),
        Just(b"Host: a\r\n".to_vec()),
        Just(b"Content-Length: 3\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Connection: Upgrade\r\nUpgrade: x\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"X-y:  z \t\r\n".to_vec()),
        Just(b"3;a=b\r\nabc\r\n".to_vec()),
        Just(b"0\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
        "[ -~]{0,12}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

    #[test]
    fn nothing_panics_and_what_we_take_httparse_takes_the_same(bytes in almost_http()) {
        let limits = Limits::default();
        if let Ok(Some(end)) = find_head(&bytes, 0, &limits) {
            let head = Bytes::copy_from_slice(&bytes[..end]);
            parse_response(&head, &Method::GET, &limits).ok();
            if let Ok(ours) = parse_request(&head, &limits) {
                let mut slots = [httparse::EMPTY_HEADER; 64];
                let mut theirs = httparse::Request::new(&mut slots);
                prop_assert_eq!(theirs.parse(&head), Ok(httparse::Status::Complete(end)));
                prop_assert_eq!(theirs.method, Some(ours.head.method.as_str()));
                let rest = |name: &str| !["host", "content-length", "transfer-encoding", "connection", "upgrade",
                    "te", "keep-alive", "proxy-connection"].contains(&name.to_ascii_lowercase().as_str());
                let theirs: Vec<_> = theirs.headers.iter().filter(|field| rest(field.name))
                    .map(|field| (field.name.as_bytes(), field.value)).collect();
                let ours: Vec<_> = ours.head.fields.iter()
                    .filter(|(name, _)| rest(std::str::from_utf8(name).unwrap())).collect();
                // Connection may nominate fields, which go; nothing may be added or changed.
                let mut left = theirs.iter();
                prop_assert!(ours.iter().all(|own| left.any(|other| other == own)), "{:?} {:?}", ours, theirs);
            }
        }
        std::hint::black_box(leno_http::detect::sniff(&bytes));
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_is_split(bytes in almost_http(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let limits = Limits::default();
        let whole = find_head(&bytes, 0, &limits);
        let mut read = Vec::new();
        let mut found = Ok(None);
        for piece in split_at(&bytes, &cuts) {
            let searched = read.len();
            read.extend_from_slice(piece);
            found = find_head(&read, searched, &limits);
            if found != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn chunks_decode_the_same_however_they_are_split(
        mut bytes in prop_oneof![
            almost_http(),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5).prop_map(|chunks| {
                let mut out = Vec::new();
                for chunk in chunks {
                    out.extend(format!("{:x};q\r\n", chunk.len()).bytes());
                    out.extend(chunk);
                    out.extend(b"\r\n");
                }
                out.extend(b"0\r\nA: b\r\n\r\n");
                out
            })
        ],
        noise in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        if let (Some((place, byte)), false) = (noise, bytes.is_empty()) {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        prop_assert_eq!(dechunk(&split_at(&bytes, &cuts)), dechunk(&[&bytes]));
    }
}
