//! Exchanges through one proxy and through two, with every byte of both ends looked at.
#![allow(clippy::disallowed_methods, reason = "a test ends with its tasks")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::{HOPS, Hop, expect, head, mesh, mesh_with, rest, run, run_paused, send};
use leno_http::{Ended, Side};
use leno_types::Refusal;
use tokio::io::AsyncReadExt;

#[test]
fn a_request_and_its_answer_keep_their_bytes_and_their_connections() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            let mut app = None;
            for round in 0..3 {
                send(&mut client, "GET /a?b=c HTTP/1.1\r\nHost: shop:80\r\nUser-Agent: x\r\nX-CaSe: 1\r\nETag: e\r\nlower: 2\r\n\r\n").await;
                if round == 0 {
                    app = ends.apps.recv().await;
                }
                let app = app.as_mut().unwrap();
                assert_eq!(
                    head(app).await,
                    "GET /a?b=c HTTP/1.1\r\nHost: shop:80\r\nUser-Agent: x\r\nX-CaSe: 1\r\nETag: e\r\nlower: 2\r\n\r\n"
                );
                send(app, "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nset-COOKIE: c=3\r\nContent-Length: 5\r\n\r\nhello").await;
                let answer = head(&mut client).await;
                assert_eq!(
                    answer,
                    "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nset-COOKIE: c=3\r\nContent-Length: 5\r\n\r\n"
                );
                expect(&mut client, "hello").await;
                let relayed = ends.done.recv().await.unwrap();
                assert_eq!(
                    (relayed.status, relayed.ended),
                    (Some(200), Ended::Complete)
                );
                assert_eq!((relayed.request_bytes, relayed.response_bytes), (0, 5));
            }
            assert!(
                ends.apps.try_recv().is_err(),
                "one connection served all three"
            );
        });
    }
}

#[test]
fn lower_case_heads_stay_lower_case() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                "GET / HTTP/1.1\r\nhost: a\r\naccept: x\r\nuser-agent: y\r\n\r\n",
            )
            .await;
            let mut app = ends.apps.recv().await.unwrap();
            assert_eq!(
                head(&mut app).await,
                "GET / HTTP/1.1\r\nHost: a\r\naccept: x\r\nuser-agent: y\r\n\r\n"
            );
        });
    }
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers, gzip\r\nConnection: TE, X-Hop\r\nX-Hop: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 9\r\nContent-Length: 3\r\n\r\n",
            )
            .await;
            let mut app = ends.apps.recv().await.unwrap();
            assert_eq!(
                head(&mut app).await,
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            let mut body = String::new();
            while !body.ends_with("\r\n\r\n") {
                body.push(char::from(app.read_u8().await.unwrap()));
            }
            assert!(
                body.contains("X-Sum: 9") && !body.contains("Content-Length"),
                "{body}"
            );
            assert_eq!(unchunk(&body), "abcde");
            send(&mut app, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\nGrpc-Status: 5\r\n\r\n").await;
            assert_eq!(
                head(&mut client).await,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            expect(&mut client, "4\r\nwxyz\r\n0\r\nGrpc-Status: 5\r\n\r\n").await;
            let relayed = ends.done.recv().await.unwrap();
            assert_eq!(
                (
                    relayed.request_bytes,
                    relayed.response_bytes,
                    relayed.grpc_status
                ),
                (5, 4, Some(5))
            );
        });
    }
}

fn unchunk(body: &str) -> String {
    let mut lines = body.split("\r\n");
    let mut data = String::new();
    while let Some(size) = lines.next().filter(|size| *size != "0") {
        let piece = lines.next().unwrap();
        assert_eq!(usize::from_str_radix(size, 16).unwrap(), piece.len());
        data.push_str(piece);
    }
    data
}

#[test]
fn a_large_body_passes_both_ways_unchanged() {
    for hop in HOPS {
        run(async {
            const SIZE: usize = 3 * 1024 * 1024 + 17;
            let body: Vec<u8> = (0..SIZE).map(|i| (i % 251) as u8).collect();
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            let sent = body.clone();
            let upload = tokio::task::spawn_local(async move {
                send(
                    &mut client,
                    format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"),
                )
                .await;
                send(&mut client, &sent).await;
                let answer = head(&mut client).await;
                assert!(
                    answer.contains(&format!("Content-Length: {SIZE}")),
                    "{answer}"
                );
                let mut read = vec![0; SIZE];
                client.read_exact(&mut read).await.unwrap();
                read
            });
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await;
            let mut read = vec![0; SIZE];
            app.read_exact(&mut read).await.unwrap();
            assert!(read == body, "the upload differs");
            send(
                &mut app,
                format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"),
            )
            .await;
            send(&mut app, &read).await;
            assert!(upload.await.unwrap() == body, "the download differs");
        });
    }
}

#[test]
fn head_204_and_304_have_no_body_and_the_connection_goes_on() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(&mut client, "HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut app = ends.apps.recv().await.unwrap();
            for (answer, next) in [
                (
                    "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
                    "DELETE /2",
                ),
                ("HTTP/1.1 204 No Content\r\n\r\n", "GET /3"),
                (
                    "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
                    "GET /4",
                ),
            ] {
                head(&mut app).await;
                send(&mut app, answer).await;
                assert_eq!(head(&mut client).await, answer);
                send(&mut client, format!("{next} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            }
            assert!(head(&mut app).await.starts_with("GET /4 "));
        });
    }
}

#[test]
fn continue_comes_from_the_application_and_early_hints_pass() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
            )
            .await;
            let mut app = ends.apps.recv().await.unwrap();
            assert!(head(&mut app).await.contains("Expect: 100-continue"));
            send(&mut app, "HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
            send(&mut client, "abc").await;
            expect(&mut app, "abc").await;
            send(&mut app, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
            assert_eq!(
                head(&mut client).await,
                "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
            );
            send(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            assert_eq!(
                head(&mut client).await,
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            );
        });
    }
}

#[test]
fn a_refused_expectation_closes_and_the_application_sees_no_body() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
            )
            .await;
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await;
            send(
                &mut app,
                "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n",
            )
            .await;
            assert!(head(&mut client).await.starts_with("HTTP/1.1 417 "));
            assert_eq!(rest(&mut client).await, "");
            assert_eq!(rest(&mut app).await, "", "no byte of the body");
        });
    }
}

#[test]
fn http_1_0_is_answered_by_close_and_kept_alive_on_request() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                "GET /1 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
            )
            .await;
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await;
            send(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            assert!(
                head(&mut client)
                    .await
                    .contains("Connection: keep-alive\r\nContent-Length: 2\r\n")
            );
            expect(&mut client, "ok").await;
            // An answer that ends by close, from an application of 1.0.
            send(
                &mut client,
                "GET /2 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
            )
            .await;
            head(&mut app).await;
            send(&mut app, "HTTP/1.0 200 OK\r\n\r\nto the end").await;
            drop(app);
            assert_eq!(
                head(&mut client).await,
                "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
            );
            assert_eq!(rest(&mut client).await, "to the end");
        });
    }
}

#[test]
fn connection_close_of_the_client_stays_with_the_client() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut app = None;
            for _ in 0..2 {
                let mut client = ends.mesh.http1_client();
                send(
                    &mut client,
                    "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                )
                .await;
                if app.is_none() {
                    app = ends.apps.recv().await;
                }
                let app = app.as_mut().unwrap();
                assert_eq!(head(app).await, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                send(app, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                assert_eq!(
                    rest(&mut client).await,
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
                );
            }
        });
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(&mut client, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut app = ends.apps.recv().await.unwrap();
            for path in ["GET /1 ", "POST /2 ", "GET /3 "] {
                assert!(head(&mut app).await.starts_with(path));
                if path.starts_with("POST") {
                    expect(&mut app, "x").await;
                }
                send(
                    &mut app,
                    format!("HTTP/1.1 200 OK\r\nX: {path}\r\nContent-Length: 0\r\n\r\n"),
                )
                .await;
                assert!(head(&mut client).await.contains(path.trim_end()));
            }
        });
    }
}

#[test]
fn an_early_answer_does_not_stop_the_request() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc",
            )
            .await;
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await;
            send(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            head(&mut client).await;
            expect(&mut client, "ok").await;
            send(&mut client, "def").await;
            expect(&mut app, "abcdef").await;
            assert_eq!(ends.done.recv().await.unwrap().ended, Ended::Complete);
        });
    }
}

#[test]
fn a_client_may_end_its_half_and_still_be_answered() {
    for hop in HOPS {
        run(async {
            use tokio::io::AsyncWriteExt;
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            client.shutdown().await.unwrap();
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await;
            send(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            assert!(rest(&mut client).await.ends_with("\r\n\r\nok"));
        });
    }
}

#[test]
fn an_upgrade_becomes_bytes_both_ways() {
    for hop in HOPS {
        run(async {
            use tokio::io::AsyncWriteExt;
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(&mut client, "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nfirst").await;
            let mut app = ends.apps.recv().await.unwrap();
            assert_eq!(
                head(&mut app).await,
                "GET /chat HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            );
            send(&mut app, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nwelcome").await;
            assert_eq!(
                head(&mut client).await,
                "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            );
            expect(&mut client, "welcome").await;
            expect(&mut app, "first").await;
            send(&mut client, "more").await;
            expect(&mut app, "more").await;
            client.shutdown().await.unwrap();
            assert_eq!(rest(&mut app).await, "");
            send(&mut app, "goodbye").await;
            drop(app);
            assert_eq!(rest(&mut client).await, "goodbye");
            let relayed = ends.done.recv().await.unwrap();
            assert_eq!(
                (relayed.ended, relayed.request_bytes, relayed.response_bytes),
                (Ended::Switched, 9, 14)
            );
        });
    }
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .await;
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await;
            send(
                &mut app,
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            )
            .await;
            assert_eq!(
                head(&mut client).await,
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n"
            );
            expect(&mut client, "no").await;
            send(&mut client, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let relayed = ends.done.recv().await.unwrap();
            assert_eq!(
                (relayed.status, relayed.ended),
                (Some(403), Ended::Complete)
            );
        });
    }
}

#[test]
fn a_cut_answer_never_looks_whole() {
    for hop in HOPS {
        run(async {
            for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
                let mut ends = mesh(hop);
                let mut client = ends.mesh.http1_client();
                send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
                let mut app = ends.apps.recv().await.unwrap();
                head(&mut app).await;
                let piece = if framing.starts_with('C') {
                    "abc"
                } else {
                    "3\r\nabc\r\n"
                };
                send(
                    &mut app,
                    format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{piece}"),
                )
                .await;
                head(&mut client).await;
                expect(&mut client, piece).await;
                drop(app);
                assert_eq!(rest(&mut client).await, "", "no last chunk");
                assert_eq!(
                    ends.done.recv().await.unwrap().ended,
                    Ended::UpstreamResetAfterHead
                );
            }
        });
    }
}

#[test]
fn no_answer_a_broken_answer_and_a_late_answer_are_refusals() {
    for hop in HOPS {
        run_paused(async {
            for (answer, status, reason) in [
                ("", 503, Refusal::UpstreamReset),
                (
                    "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
                    502,
                    Refusal::UpstreamProtocol,
                ),
                ("HTTP/1.1 200 OK\nX: y\n\n", 502, Refusal::UpstreamProtocol),
                (
                    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
                    502,
                    Refusal::UpstreamProtocol,
                ),
                (
                    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
                    502,
                    Refusal::UpstreamProtocol,
                ),
            ] {
                let mut ends = mesh(hop);
                let mut client = ends.mesh.http1_client();
                send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
                let mut app = ends.apps.recv().await.unwrap();
                head(&mut app).await;
                send(&mut app, answer).await;
                drop(app);
                let head = head(&mut client).await;
                assert!(
                    head.starts_with(&format!("HTTP/1.1 {status} ")),
                    "{answer:?}: {head}"
                );
                if hop == Hop::Direct {
                    assert_eq!(ends.done.recv().await.unwrap().refused, Some(reason));
                }
            }
            let mut ends = mesh_with(hop, |mesh| mesh.timeout = Some(Duration::from_millis(30)));
            let mut client = ends.mesh.http1_client();
            send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut app = ends.apps.recv().await.unwrap();
            assert!(head(&mut client).await.starts_with("HTTP/1.1 504 "));
            head(&mut app).await;
            assert_eq!(
                rest(&mut app).await,
                "",
                "the application's connection is closed"
            );
        });
    }
}

#[test]
fn a_client_that_breaks_its_body_is_refused_and_the_application_sees_a_cut() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            )
            .await;
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await;
            expect(&mut app, "3\r\nabc\r\n").await;
            send(&mut client, "zz\r\n").await;
            assert!(head(&mut client).await.starts_with("HTTP/1.1 400 "));
            assert_eq!(rest(&mut app).await, "");
            assert_eq!(
                ends.done.recv().await.unwrap().ended,
                Ended::Protocol(Side::Client)
            );
        });
    }
}

#[test]
fn a_client_that_leaves_ends_the_applications_exchange() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
            )
            .await;
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await;
            expect(&mut app, "abc").await;
            drop(client);
            assert_eq!(rest(&mut app).await, "");
            assert_eq!(ends.done.recv().await.unwrap().ended, Ended::ClientGone);
        });
    }
}

#[test]
fn a_thrown_switch_ends_a_stream_at_once() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http1_client();
            send(
                &mut client,
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .await;
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await;
            send(&mut app, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
            head(&mut client).await;
            ends.mesh.cancel.cancel();
            assert_eq!(rest(&mut client).await, "");
            assert_eq!(rest(&mut app).await, "");
            assert_eq!(ends.done.recv().await.unwrap().ended, Ended::Cancelled);
        });
    }
}

#[test]
fn a_stalled_stream_times_out_and_a_moving_one_does_not() {
    run_paused(async {
        let mut ends = mesh_with(Hop::Direct, |mesh| {
            mesh.idle = Some(Duration::from_millis(50))
        });
        let mut client = ends.mesh.http1_client();
        send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut app = ends.apps.recv().await.unwrap();
        head(&mut app).await;
        send(
            &mut app,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
        .await;
        head(&mut client).await;
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..6 {
            ticks.tick().await;
            send(&mut app, "1\r\nx\r\n").await;
            expect(&mut client, "1\r\nx\r\n").await;
        }
        assert_eq!(rest(&mut client).await, "");
        assert_eq!(ends.done.recv().await.unwrap().ended, Ended::Timeout);
    });
}
