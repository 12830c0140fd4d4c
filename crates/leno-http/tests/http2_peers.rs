//! Peers over HTTP/2 that are in a hurry, wrong, or silent; frames are written by hand where no library would.
#![allow(clippy::disallowed_methods, reason = "a test ends with its tasks")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeSet, rc::Rc};

use bytes::Bytes;
use common::{run, run_paused};
use leno_http::{Counters, Limits, ResponseHead, server};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, duplex},
    task::spawn_local,
    time::Instant,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields, no name or value indexed.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    io.read_exact(&mut payload).await.ok()?;
    Some(Frame {
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes(head[5..].try_into().unwrap()),
        payload,
    })
}

#[test]
fn as_many_uploads_as_may_be_open_are_answered_early_and_none_is_lost() {
    run(async {
        const UPLOADS: u32 = 250;
        let (client, io) = duplex(64 * 1024);
        let (mut read, mut write) = tokio::io::split(client);
        spawn_local(async move {
            let served = server::H2::handshake(io, Rc::default(), Bytes::new());
            let mut server = served.await.unwrap();
            while let Some(Ok(incoming)) = server.next().await {
                // Nobody waits for the body.
                let refused = ResponseHead::new(401);
                drop(incoming.body);
                incoming.reply.respond(refused, Bytes::new()).await.unwrap();
            }
        });
        let upload = spawn_local(async move {
            write.write_all(PREFACE).await.unwrap();
            write.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            let head = block(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "shop"),
                (":path", "/"),
            ]);
            let streams = || (0..UPLOADS).map(|number| 2 * number + 1);
            for stream in streams() {
                let frame = frame(HEADERS, END_HEADERS, stream, &head);
                write.write_all(&frame).await.unwrap();
            }
            // What was on its way when the answers came.
            for _ in 0..16 {
                for stream in streams() {
                    let piece = frame(DATA, 0, stream, &[b'x'; 1024]);
                    if write.write_all(&piece).await.is_err() {
                        return;
                    }
                }
            }
            let last = frame(HEADERS, END_HEADERS | END_STREAM, 2 * UPLOADS + 1, &head);
            drop(write.write_all(&last).await);
            std::future::pending::<()>().await;
        });
        let mut answered = BTreeSet::new();
        while !answered.contains(&(2 * UPLOADS + 1)) {
            let frame = read_frame(&mut read).await.expect("the connection lives");
            assert_ne!(frame.kind, GOAWAY, "{:?}", Bytes::from(frame.payload));
            if frame.kind == HEADERS {
                assert_ne!(frame.flags & END_STREAM, 0);
                answered.insert(frame.stream);
            }
        }
        assert_eq!(answered.len(), UPLOADS as usize + 1);
        upload.abort();
    });
}

/// A server that is drained as soon as it stands; when its last word was given, and how often a PING was in vain.
fn drained(io: tokio::io::DuplexStream) -> tokio::task::JoinHandle<(Instant, u64)> {
    spawn_local(async move {
        let served = server::H2::handshake(io, Rc::default(), Bytes::new());
        let mut server = served.await.unwrap();
        server.drain();
        assert!(server.next().await.is_none(), "nothing was asked");
        (
            Instant::now(),
            Counters::with(|counters| counters.h2_dead_peers.get()),
        )
    })
}

#[test]
fn a_client_that_is_told_to_go_and_answers_no_ping_is_waited_for_no_longer_than_others() {
    run_paused(async {
        let begun = Instant::now();
        let (mut client, io) = duplex(64 * 1024);
        let server = drained(io);
        client.write_all(PREFACE).await.unwrap();
        client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let mut goaways = Vec::new();
        while let Some(frame) = read_frame(&mut client).await {
            if frame.kind == GOAWAY {
                goaways.push(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
            }
        }
        // Twice, the second with the last stream that was served.
        assert_eq!(goaways, [i32::MAX.unsigned_abs(), 0]);
        let (ended, in_vain) = server.await.unwrap();
        let limit = Limits::default().ping_timeout;
        let took = ended - begun;
        assert!(took >= limit && took < 2 * limit, "{took:?}");
        assert_eq!(in_vain, 1);
    });
}

#[test]
fn a_client_that_is_told_to_go_and_reads_nothing_is_left() {
    run_paused(async {
        let begun = Instant::now();
        let (mut client, io) = duplex(64);
        let server = drained(io);
        client.write_all(PREFACE).await.unwrap();
        client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        assert_eq!(read_frame(&mut client).await.unwrap().kind, SETTINGS);
        let (ended, _) = server.await.unwrap();
        let took = ended - begun;
        assert!(took < 3 * Limits::default().ping_timeout, "{took:?}");
    });
}
