//! The same over real sockets: the lock-free halves, reuse, and memory that does not grow with a body.
#![allow(clippy::disallowed_methods, reason = "a test ends with its tasks")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{net::SocketAddr, rc::Rc};

use bytes::Bytes;
use common::run;
use leno_http::{
    Cancel, Corked, Corker, Ended, RelayOptions, Relayed, ResponseHead, Upstream, client, relay,
    server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::spawn_local,
};

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn carry(incoming: leno_http::Incoming<'_>, upstream: Upstream) -> Relayed {
    let cancel = Cancel::new();
    let options = RelayOptions {
        request_timeout: None,
        idle_timeout: None,
        on_response: &mut |_: &mut ResponseHead| {},
        declined: &|_| false,
        cancel: &cancel,
    };
    relay(incoming, upstream, options).await.unwrap()
}

/// Two proxies between a client and `app`, corked HTTP/2 between them; the address for clients.
async fn pair(app: SocketAddr, done: mpsc::UnboundedSender<Relayed>) -> SocketAddr {
    let (corker, flusher) = Corker::new();
    spawn_local(flusher);
    let (inbound, inbound_address) = listen().await;
    let cork = corker.clone();
    spawn_local(async move {
        let (io, _) = inbound.accept().await.unwrap();
        let io = Corked::new(io, &cork);
        let mut connection = server::H2::handshake(io, Rc::default(), Bytes::new())
            .await
            .unwrap();
        let pool: Rc<std::cell::RefCell<Option<client::H1>>> = Rc::default();
        while let Some(Ok(incoming)) = connection.next().await {
            let pool = pool.clone();
            spawn_local(async move {
                let pooled = pool.take().filter(client::H1::is_reusable);
                let upstream = match pooled {
                    Some(connection) => connection,
                    None => client::H1::new(TcpStream::connect(app).await.unwrap(), Rc::default()),
                };
                let relayed = carry(incoming, Upstream::H1(upstream)).await;
                pool.replace(relayed.reusable);
            });
        }
    });
    let io = Corked::new(TcpStream::connect(inbound_address).await.unwrap(), &corker);
    let (between, driver) = client::H2::handshake(io, Rc::default()).await.unwrap();
    spawn_local(driver);
    let (outbound, address) = listen().await;
    spawn_local(async move {
        while let Ok((io, _)) = outbound.accept().await {
            let (between, done) = (between.clone(), done.clone());
            spawn_local(async move {
                let mut connection = server::H1::new(io, Bytes::new(), Rc::default());
                while let Ok(Some(incoming)) = connection.next().await {
                    let relayed = carry(incoming, Upstream::H2(between.clone())).await;
                    done.send(relayed).ok();
                }
            });
        }
    });
    address
}

async fn head(io: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(read).unwrap()
}

#[test]
fn connections_are_reused_until_the_application_closes_them() {
    run(async {
        let (app, app_address) = listen().await;
        let (done, _done) = mpsc::unbounded_channel();
        let address = pair(app_address, done).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            let (mut io, _) = app.accept().await.unwrap();
            for round in 0..3 {
                if round > 0 {
                    client
                        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                        .await
                        .unwrap();
                }
                head(&mut io).await;
                io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await
                    .unwrap();
                assert_eq!(
                    head(&mut client).await,
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
                );
                let mut body = [0; 2];
                client.read_exact(&mut body).await.unwrap();
            }
            // Closed while idle: the next request finds that out before it is sent.
            io.shutdown().await.unwrap();
            drop(io);
            tokio::task::yield_now().await;
        }
    });
}

/// Anonymous memory of this process, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn sixty_four_mebibytes_pass_both_ways_in_flat_memory() {
    run(async {
        const SIZE: usize = 64 * 1024 * 1024;
        let (app, app_address) = listen().await;
        let (done, mut relayed) = mpsc::unbounded_channel();
        let address = pair(app_address, done).await;
        spawn_local(async move {
            let (mut io, _) = app.accept().await.unwrap();
            head(&mut io).await;
            io.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let (mut read, mut write) = io.split();
            tokio::io::copy(&mut (&mut read).take(SIZE as u64), &mut write)
                .await
                .unwrap();
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let (mut read, mut write) = client.into_split();
        let block = vec![7; 64 * 1024];
        let before = memory();
        let writer = spawn_local(async move {
            for _ in 0..SIZE / block.len() {
                write.write_all(&block).await.unwrap();
            }
            write
        });
        let mut most = 0;
        let mut buffer = vec![0; 64 * 1024];
        let mut received = 0;
        let mut head_left = true;
        while received < SIZE {
            let count = read.read(&mut buffer).await.unwrap();
            assert!(count > 0, "cut after {received}");
            let mut piece = &buffer[..count];
            if std::mem::take(&mut head_left) {
                let end = piece
                    .windows(4)
                    .position(|window| window == b"\r\n\r\n")
                    .unwrap()
                    + 4;
                piece = &piece[end..];
            }
            assert!(piece.iter().all(|byte| *byte == 7));
            received += piece.len();
            most = most.max(memory());
        }
        let _write = writer.await.unwrap();
        let relayed = relayed.recv().await.unwrap();
        assert_eq!(
            (relayed.ended, relayed.response_bytes),
            (Ended::Complete, SIZE as u64)
        );
        let grown = most.saturating_sub(before);
        assert!(grown < 8 * 1024, "memory grew by {grown} KiB");
    });
}
