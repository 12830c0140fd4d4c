//! Clients and upstreams that speak HTTP/2: gRPC, resets, GOAWAY, windows, tunnels.
#![allow(clippy::disallowed_methods, reason = "a test ends with its tasks")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use common::{HOPS, Hop, expect, head, mesh, mesh_with, rest, run, send};
use http::{HeaderMap, Method, Request, Response};
use leno_http::{
    Cancel, Ended, Incoming, Limits, Relayed, RequestHead, Unsent, UnsentReason, Upstream, client,
    server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    task::spawn_local,
};

fn post(path: &str) -> http::request::Builder {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://shop{path}"))
}

#[test]
fn a_grpc_client_of_an_http1_application_is_answered_in_trailers() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http2_client().await;
            let request = post("/svc/Call")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .unwrap();
            let (response, mut body) = client.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(b"abc"), true).unwrap();
            let mut app = ends.apps.recv().await.unwrap();
            assert_eq!(
                head(&mut app).await,
                "POST /svc/Call HTTP/1.1\r\nHost: shop\r\nContent-Type: application/grpc\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            expect(&mut app, "3\r\nabc\r\n0\r\n\r\n").await;
            send(&mut app, "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\ngrpc-status: 0\r\n\r\n").await;
            let (head, mut body) = response.await.unwrap().into_parts();
            assert_eq!(
                (
                    head.status.as_u16(),
                    head.headers["content-type"].as_bytes()
                ),
                (200, &b"application/grpc"[..])
            );
            assert_eq!(body.data().await.unwrap().unwrap(), "xy");
            assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
            assert_eq!(ends.done.recv().await.unwrap().grpc_status, Some(0));
        });
    }
}

#[test]
fn a_grpc_caller_is_refused_in_its_own_way() {
    run(async {
        let mut ends = mesh(Hop::Direct);
        let mut client = ends.mesh.http2_client().await;
        let request = post("/svc/Call")
            .header("content-type", "application/grpc+proto")
            .body(())
            .unwrap();
        let (response, _body) = client.send_request(request, true).unwrap();
        drop(ends.apps.recv().await.unwrap());
        let response = response.await.unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["grpc-status"]
            ),
            (200, &"14".parse().unwrap())
        );
        assert!(response.body().is_end_stream(), "trailers only");
        assert_eq!(ends.done.recv().await.unwrap().grpc_status, Some(14));
    });
}

#[test]
fn a_cancelled_call_closes_the_applications_connection() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http2_client().await;
            for answered in [false, true] {
                let (response, mut body) = client
                    .send_request(post("/").body(()).unwrap(), answered)
                    .unwrap();
                let mut app = ends.apps.recv().await.unwrap();
                head(&mut app).await;
                let response = if answered {
                    send(
                        &mut app,
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
                    )
                    .await;
                    Some(response.await.unwrap())
                } else {
                    None
                };
                body.send_reset(h2::Reason::CANCEL);
                assert_eq!(rest(&mut app).await, "");
                drop(response);
                assert_eq!(ends.done.recv().await.unwrap().ended, Ended::ClientGone);
            }
        });
    }
}

#[test]
fn three_stalled_downloads_and_five_stalled_uploads_do_not_hold_others_up() {
    run(async {
        let mut ends = mesh(Hop::Corked);
        let mut client = ends.mesh.http2_client().await;
        let mut held = Vec::new();
        for _ in 0..3 {
            let (response, _body) = client
                .send_request(Request::get("http://shop/big").body(()).unwrap(), true)
                .unwrap();
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await;
            spawn_local(async move {
                app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
                    .await
                    .unwrap();
                while app.write_all(&[7; 65536]).await.is_ok() {}
            });
            held.push(response.await.unwrap()); // never read
        }
        let mut uploads = Vec::new();
        for _ in 0..5 {
            let (response, mut body) = client
                .send_request(post("/up").body(()).unwrap(), false)
                .unwrap();
            let mut app = ends.apps.recv().await.unwrap();
            head(&mut app).await; // and never read again
            let feeder = spawn_local(async move {
                loop {
                    body.reserve_capacity(16384);
                    let Some(Ok(room)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await
                    else {
                        return;
                    };
                    body.send_data(Bytes::from(vec![1; room]), false).unwrap();
                }
            });
            uploads.push((response, app, feeder));
        }
        let (response, mut body) = client
            .send_request(post("/other").body(()).unwrap(), false)
            .unwrap();
        body.send_data(Bytes::from(vec![2; 20_000]), true).unwrap();
        let mut app = ends.apps.recv().await.unwrap();
        head(&mut app).await;
        send(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let response = tokio::time::timeout(Duration::from_secs(5), response)
            .await
            .expect("held up")
            .unwrap();
        assert_eq!(response.into_body().data().await.unwrap().unwrap(), "ok");
    });
}

/// An upstream that does with its first stream what `first` says, and answers 200 to others.
async fn picky_upstream(first: fn(&mut h2::server::SendResponse<Bytes>) -> bool) -> client::H2 {
    let (ours, theirs) = duplex(64 * 1024);
    spawn_local(async move {
        let mut connection = h2::server::handshake(theirs).await.unwrap();
        let mut count = 0;
        let mut held = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            count += 1;
            if count == 1 && first(&mut respond) {
                continue;
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
            held.push(request);
        }
    });
    let (connection, driver) = client::H2::handshake(ours, Rc::default()).await.unwrap();
    spawn_local(driver);
    connection
}

/// Serves one client by two upstreams, the second only when the first proves not to have seen the request.
async fn serve_twice(
    mut connection: server::H1,
    first: client::H2,
    second: client::H2,
) -> (Option<UnsentReason>, Relayed) {
    let ends = mesh(Hop::Direct);
    let incoming: Incoming<'_> = connection.next().await.unwrap().unwrap();
    match ends
        .mesh
        .carry(incoming, Upstream::H2(first), Cancel::new())
        .await
    {
        Ok(relayed) => (None, relayed),
        Err(Unsent { incoming, why }) => {
            let relayed = ends
                .mesh
                .carry(incoming, Upstream::H2(second), Cancel::new())
                .await
                .unwrap();
            (Some(why), relayed)
        }
    }
}

#[test]
fn a_refused_stream_comes_back_with_the_body_that_was_taken_from_it() {
    run(async {
        let first = picky_upstream(|respond| {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            true
        })
        .await;
        let (theirs, ours) = duplex(64 * 1024);
        spawn_local(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                spawn_local(async move {
                    let mut body = request.into_body();
                    let mut all = Vec::new();
                    while let Some(piece) = body.data().await {
                        let piece = piece.unwrap();
                        body.flow_control().release_capacity(piece.len()).unwrap();
                        all.extend_from_slice(&piece);
                    }
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(all.into(), true).unwrap();
                });
            }
        });
        let (second, driver) = client::H2::handshake(ours, Rc::default()).await.unwrap();
        spawn_local(driver);
        let (mut client, io) = duplex(64 * 1024);
        let served = spawn_local(serve_twice(
            server::H1::new(io, Bytes::new(), Rc::default()),
            first,
            second,
        ));
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabcdef",
        )
        .await;
        tokio::task::yield_now().await;
        send(&mut client, "ghi").await;
        head(&mut client).await;
        expect(&mut client, "9\r\nabcdefghi\r\n0\r\n\r\n").await;
        let (why, relayed) = served.await.unwrap();
        assert_eq!(
            (why, relayed.ended),
            (Some(UnsentReason::RefusedStream), Ended::Complete)
        );
    });
}

#[test]
fn an_answer_that_declines_comes_back_once_as_if_it_had_never_been() {
    run(async {
        let first = picky_upstream(|respond| {
            let declined = Response::builder().status(503).header("x-declined", "1");
            let declined = declined.body(()).unwrap();
            respond.send_response(declined, true).unwrap();
            true
        })
        .await;
        let second = picky_upstream(|_| false).await;
        let (mut client, io) = duplex(64 * 1024);
        let served = spawn_local(serve_twice(
            server::H1::new(io, Bytes::new(), Rc::default()),
            first,
            second,
        ));
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        send(&mut client, request).await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 200 "));
        let (why, relayed) = served.await.unwrap();
        assert_eq!(
            (why, relayed.status),
            (Some(UnsentReason::Declined), Some(200))
        );
    });
}

#[test]
fn another_reset_is_not_sent_twice() {
    run(async {
        let reset = |respond: &mut h2::server::SendResponse<Bytes>| {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            true
        };
        let first = picky_upstream(reset).await;
        let second = picky_upstream(|_| false).await;
        let (mut client, io) = duplex(64 * 1024);
        let served = spawn_local(serve_twice(
            server::H1::new(io, Bytes::new(), Rc::default()),
            first,
            second,
        ));
        send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 503 "));
        assert_eq!(
            served.await.unwrap().1.ended,
            Ended::UpstreamResetBeforeHead
        );
    });
}

#[test]
fn goaway_stops_new_streams_and_lets_open_ones_finish() {
    run(async {
        let (ours, theirs) = duplex(64 * 1024);
        let (connection, driver) = client::H2::handshake(ours, Rc::default()).await.unwrap();
        let driver = spawn_local(driver);
        let mut server = server::H2::handshake(theirs, Rc::default(), Bytes::new())
            .await
            .unwrap();
        let ends = mesh(Hop::Direct);
        let (mut client, io) = duplex(64 * 1024);
        let upstream = connection.clone();
        let served = spawn_local(async move {
            let mut front = server::H1::new(io, Bytes::new(), Rc::default());
            let incoming = front.next().await.unwrap().unwrap();
            ends.mesh
                .carry(incoming, Upstream::H2(upstream), Cancel::new())
                .await
                .unwrap()
                .ended
        });
        send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let incoming = server.next().await.unwrap().unwrap();
        assert_eq!(connection.open_streams(), 1);
        assert!(connection.has_capacity() && !connection.is_closing());
        server.drain();
        let driving = spawn_local(async move { while server.next().await.is_some() {} });
        while !connection.is_closing() {
            tokio::task::yield_now().await;
        }
        assert!(!connection.has_capacity());
        incoming
            .reply
            .respond(
                leno_http::ResponseHead::new(200),
                Bytes::from_static(b"late"),
            )
            .await
            .unwrap();
        head(&mut client).await;
        expect(&mut client, "late").await;
        assert_eq!(served.await.unwrap(), Ended::Complete);
        driving.await.unwrap();
        driver.await.unwrap();
        assert_eq!(connection.open_streams(), 0);
    });
}

#[test]
fn a_peers_stream_limit_is_honoured() {
    run(async {
        let limits = Rc::new(Limits {
            streams_per_connection: 2,
            ..Limits::default()
        });
        let (ours, theirs) = duplex(64 * 1024);
        let (connection, driver) = client::H2::handshake(ours, Rc::default()).await.unwrap();
        spawn_local(driver);
        let mut server = server::H2::handshake(theirs, limits, Bytes::new())
            .await
            .unwrap();
        let accepted = spawn_local(async move {
            let mut tunnels = Vec::new();
            while let Some(Ok(incoming)) = server.next().await {
                tunnels.push(incoming.into_tunnel().unwrap());
            }
        });
        let one = connection
            .tunnel(RequestHead::connect("10.0.0.1:80"))
            .await
            .unwrap();
        let two = connection
            .tunnel(RequestHead::connect("10.0.0.1:80"))
            .await
            .unwrap();
        assert!(!connection.has_capacity());
        assert_eq!(connection.open_streams(), 2);
        let refused = connection.tunnel(RequestHead::connect("10.0.0.1:80")).await;
        assert!(matches!(refused, Err(leno_http::ClientError::Refused)));
        drop((one, two));
        assert_eq!(connection.open_streams(), 0);
        accepted.abort();
    });
}

#[test]
fn a_tunnel_carries_bytes_both_ways_under_flow_control() {
    run(async {
        const SIZE: usize = 2 * 1024 * 1024;
        let (ours, theirs) = duplex(64 * 1024);
        let (connection, driver) = client::H2::handshake(ours, Rc::default()).await.unwrap();
        spawn_local(driver);
        let mut server = server::H2::handshake(theirs, Rc::default(), Bytes::new())
            .await
            .unwrap();
        spawn_local(async move {
            while let Some(Ok(incoming)) = server.next().await {
                assert_eq!(
                    incoming.head.authority.as_deref(),
                    Some(&b"10.0.0.1:80"[..])
                );
                assert_eq!(incoming.head.method, Method::CONNECT);
                spawn_local(async move {
                    let (mut read, mut write) = tokio::io::split(incoming.into_tunnel().unwrap());
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                    write.shutdown().await.unwrap();
                });
            }
        });
        let (head, tunnel) = connection
            .tunnel(RequestHead::connect("10.0.0.1:80"))
            .await
            .unwrap();
        assert_eq!(head.status, 200);
        let (mut read, mut write) = tokio::io::split(tunnel);
        let writer = spawn_local(async move {
            write.write_all(&vec![5; SIZE]).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut echoed = Vec::new();
        read.read_to_end(&mut echoed).await.unwrap();
        writer.await.unwrap();
        assert!(echoed.len() == SIZE && echoed.iter().all(|byte| *byte == 5));
    });
}

#[test]
fn a_websocket_client_of_http2_reaches_an_http1_application() {
    for hop in HOPS {
        run(async {
            let mut ends = mesh(hop);
            let mut client = ends.mesh.http2_client().await;
            while !client.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
            let mut request = Request::builder()
                .method(Method::CONNECT)
                .uri("http://shop/chat")
                .body(())
                .unwrap();
            request
                .extensions_mut()
                .insert(h2::ext::Protocol::from("websocket"));
            let (response, mut body) = client.send_request(request, false).unwrap();
            let mut app = ends.apps.recv().await.unwrap();
            let asked = head(&mut app).await;
            assert!(
                asked.starts_with("GET /chat HTTP/1.1\r\nHost: shop\r\nSec-WebSocket-Key: "),
                "{asked}"
            );
            assert!(
                asked.ends_with("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
                "{asked}"
            );
            send(&mut app, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi").await;
            let response = response.await.unwrap();
            assert_eq!(response.status().as_u16(), 200);
            let mut answer = response.into_body();
            assert_eq!(answer.data().await.unwrap().unwrap(), "hi");
            body.send_data(Bytes::from_static(b"yo"), true).unwrap();
            assert_eq!(rest(&mut app).await, "yo");
        });
    }
}

#[test]
fn cookie_crumbs_are_put_together_and_trailers_of_a_request_arrive() {
    run(async {
        let mut ends = mesh(Hop::Http2);
        let mut client = ends.mesh.http2_client().await;
        let request = post("/")
            .header("cookie", "a=1")
            .header("x", "y")
            .header("cookie", "b=2")
            .body(())
            .unwrap();
        let (_response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"z"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        body.send_trailers(trailers).unwrap();
        let mut app = ends.apps.recv().await.unwrap();
        assert!(
            head(&mut app)
                .await
                .contains("Cookie: a=1; b=2\r\nX: y\r\n")
        );
        expect(&mut app, "1\r\nz\r\n0\r\nX-Sum: 1\r\n\r\n").await;
    });
}

#[test]
fn malformed_http2_requests_are_answered_and_hurt_nobody_else() {
    run(async {
        let mut ends = mesh(Hop::Direct);
        let mut client = ends.mesh.http2_client().await;
        let (response, _) = client
            .send_request(post("/").header("host", "other").body(()).unwrap(), true)
            .unwrap();
        assert_eq!(response.await.unwrap().status().as_u16(), 400);
        let smuggled = "websocket\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x";
        for protocol in [smuggled, "web socket", ""] {
            while !client.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
            let mut request = Request::builder().method(Method::CONNECT);
            request = request.uri("http://shop/chat");
            let mut request = request.body(()).unwrap();
            let extensions = request.extensions_mut();
            extensions.insert(h2::ext::Protocol::from(protocol));
            let (response, _body) = client.send_request(request, false).unwrap();
            assert_eq!(response.await.unwrap().status().as_u16(), 400, "{protocol}");
        }
        let mut many = post("/");
        for index in 0..300 {
            many = many.header(format!("x-{index}"), "1");
        }
        let (response, _) = client.send_request(many.body(()).unwrap(), true).unwrap();
        assert_eq!(response.await.unwrap().status().as_u16(), 431);
        let (response, _) = client
            .send_request(post("/").body(()).unwrap(), true)
            .unwrap();
        let mut app = ends.apps.recv().await.unwrap();
        assert_eq!(
            head(&mut app).await,
            "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n"
        );
        send(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(response.await.unwrap().status().as_u16(), 200);
    });
}

#[test]
fn rapid_resets_close_the_connection_and_are_counted() {
    run(async {
        let abuse = || leno_http::Counters::with(|counters| counters.h2_abuse.get());
        let before = abuse();
        let (client, io) = duplex(1024 * 1024);
        let (mut send, connection) = h2::client::Builder::new()
            .max_concurrent_reset_streams(10_000)
            .handshake::<_, Bytes>(client)
            .await
            .unwrap();
        let driver = spawn_local(connection);
        let mut server = server::H2::handshake(io, Rc::default(), Bytes::new())
            .await
            .unwrap();
        // The server is not polled meanwhile: the resets meet streams nobody took up.
        for _ in 0..200 {
            let Ok((_response, mut body)) = send.send_request(post("/").body(()).unwrap(), false)
            else {
                break;
            };
            tokio::task::yield_now().await;
            body.send_reset(h2::Reason::CANCEL);
        }
        tokio::task::yield_now().await;
        let mut held = Vec::new();
        let error = loop {
            match server.next().await {
                Some(Ok(incoming)) => held.push(incoming),
                Some(Err(error)) => break error,
                None => panic!("the connection ended in peace"),
            }
        };
        assert!(
            matches!(error, leno_http::ServerError::Http2(_)),
            "{error:?}"
        );
        assert_eq!(abuse(), before + 1);
        driver.abort();
    });
}

#[test]
fn a_reused_connection_that_died_gives_the_request_back() {
    run(async {
        let mut ends = mesh(Hop::Direct);
        let (ours, mut app) = duplex(4096);
        let (mut client, io) = duplex(4096);
        let mesh = ends.mesh.clone();
        let served = spawn_local(async move {
            let mut front = server::H1::new(io, Bytes::new(), Rc::default());
            let upstream = Upstream::H1(client::H1::new(ours, Rc::default()));
            let incoming = front.next().await.unwrap().unwrap();
            let relayed = mesh.carry(incoming, upstream, Cancel::new()).await.unwrap();
            let reused = relayed.reusable.unwrap();
            assert!(reused.is_reusable());
            let incoming = front.next().await.unwrap().unwrap();
            let Err(unsent) = mesh
                .carry(incoming, Upstream::H1(reused), Cancel::new())
                .await
            else {
                panic!("it was answered")
            };
            assert_eq!(unsent.incoming.head.path, "/2");
            unsent.why
        });
        send(&mut client, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        head(&mut app).await;
        send(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        head(&mut client).await;
        send(&mut client, "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        head(&mut app).await;
        drop(app);
        assert_eq!(served.await.unwrap(), UnsentReason::StaleConnection);
        assert!(ends.apps.try_recv().is_err());
    });
}

#[test]
fn what_is_private_is_switched_off_for_strangers() {
    run(async {
        let (ours, theirs) = duplex(64 * 1024);
        let (connection, driver) = client::H2::handshake(ours, Rc::default()).await.unwrap();
        spawn_local(driver);
        connection.carry_case(false);
        let mut strange = h2::server::handshake(theirs).await.unwrap();
        let (mut client, io) = duplex(4096);
        let ends = mesh_with(Hop::Direct, |_| {});
        spawn_local(async move {
            let mut front = server::H1::new(io, Bytes::new(), Rc::default());
            let incoming = front.next().await.unwrap().unwrap();
            ends.mesh
                .carry(incoming, Upstream::H2(connection), Cancel::new())
                .await
                .unwrap();
        });
        send(
            &mut client,
            "GET / HTTP/1.1\r\nHost: a\r\nX-CaSe: 1\r\n\r\n",
        )
        .await;
        let (request, _respond) = strange.accept().await.unwrap().unwrap();
        let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
        assert_eq!(names, ["x-case"]);
    });
}
