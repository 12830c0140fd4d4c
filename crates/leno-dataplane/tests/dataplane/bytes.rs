//! Streams of bytes through both proxies.

use std::time::{Duration, Instant};

use leno_telemetry::{Protocol, counters::Limit};
use leno_types::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    apps::{http1, ok, server_first},
    host::{Host, World},
    run,
};

const BANNER: &str = "220 ready\r\n";

#[test]
fn a_server_that_speaks_first_is_heard_on_a_declared_and_on_an_undeclared_port() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let web = one.workload("web", &[]).await;
        let captured = one.capture(&web);
        for (number, protocol) in [(1, None), (2, Some(AppProtocol::Tcp))] {
            let port = server_first(two.ip, BANNER);
            let name = format!("db-{number}");
            let db = two.workload(&name, &[(3306, port, protocol)]).await;
            let vip = world.service(&format!("shop/{name}"), 3306, protocol, vec![db.endpoint]);
            // Twice: the second time it is known what the port speaks.
            for _ in 0..2 {
                let mut stream = captured.connect(vip).await;
                let mut banner = vec![0; BANNER.len()];
                stream.read_exact(&mut banner).await.unwrap();
                assert_eq!(banner, BANNER.as_bytes());
                stream.write_all(b"EHLO").await.unwrap();
                let mut back = [0; 4];
                stream.read_exact(&mut back).await.unwrap();
                assert_eq!(&back, b"EHLO");
                stream.shutdown().await.unwrap();
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();
                assert!(rest.is_empty());
            }
        }
        one.seen
            .until("closed connections", |seen| {
                let totals = seen.totals.borrow();
                let tcp = totals
                    .edges()
                    .filter(|(edge, _)| edge.protocol == Protocol::Tcp);
                let closed = tcp
                    .flat_map(|(edge, _)| totals.tcp(edge))
                    .map(|(_, tcp)| tcp.closed);
                closed.sum::<u64>() == 4
            })
            .await;
    });
}

#[test]
fn a_client_that_speaks_first_is_understood_without_a_declaration() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let web = one.workload("web", &[]).await;
        let captured = one.capture(&web);
        // An echo of bytes that are no HTTP.
        let port = server_first(two.ip, "");
        let raw = two.workload("raw", &[(7, port, None)]).await;
        let vip = world.service("shop/raw", 7, None, vec![raw.endpoint]);
        let mut stream = captured.connect(vip).await;
        stream.write_all(&[0, 1, 2, 255]).await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, [0, 1, 2, 255]);
        // And HTTP on another such port.
        let (port, _) = http1(two.ip, |_| ok("http"));
        let web = two.workload("http", &[(80, port, None)]).await;
        let vip = world.service("shop/http", 80, None, vec![web.endpoint]);
        for _ in 0..2 {
            let mut stream = captured.connect(vip).await;
            let answer = crate::apps::ask(&mut stream, &crate::apps::get("/")).await;
            assert_eq!(answer.text(), "http");
        }
    });
}

#[test]
fn a_stream_on_which_nothing_moves_ends_and_is_counted() {
    run(async {
        let world = World::new();
        // Each side by its own limit, so that neither ends for the other's.
        let short = |config: &mut leno_dataplane::WorkerConfig| {
            config.limits.stream_idle = Duration::from_millis(300);
        };
        for [calling, called] in [[true, false], [false, true]] {
            let start = |limited: bool| match limited {
                true => Host::start_with(&world, short),
                false => Host::start(&world),
            };
            let (one, two) = (start(calling), start(called));
            let web = one.workload("web", &[]).await;
            let name = if calling { "db-1" } else { "db-2" };
            let port = server_first(two.ip, BANNER);
            let db = two.workload(name, &[(3306, port, None)]).await;
            let vip = world.service(&format!("shop/{name}"), 3306, None, vec![db.endpoint]);
            let mut stream = one.capture(&web).connect(vip).await;
            let mut banner = vec![0; BANNER.len()];
            stream.read_exact(&mut banner).await.unwrap();
            let begun = Instant::now();
            // It ends; whether in order or by a reset is not asked here.
            assert!(!matches!(stream.read(&mut [0; 1]).await, Ok(1..)));
            assert!(begun.elapsed() >= Duration::from_millis(250));
            let limited = if calling { &one } else { &two };
            limited
                .seen
                .until("the idle stream", |seen| {
                    seen.counters.borrow().get_limit(Limit::StreamIdle) == 1
                })
                .await;
        }
    });
}

#[test]
fn a_megabyte_each_way_arrives_whole() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let web = one.workload("web", &[]).await;
        let port = server_first(two.ip, "");
        let raw = two
            .workload("raw", &[(7, port, Some(AppProtocol::Tcp))])
            .await;
        let vip = world.service("shop/raw", 7, Some(AppProtocol::Tcp), vec![raw.endpoint]);
        let stream = one.capture(&web).connect(vip).await;
        let (mut read, mut write) = stream.into_split();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let copy = sent.clone();
        let writing = tokio::task::spawn_local(async move {
            write.write_all(&copy).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.unwrap();
        writing.await.unwrap();
        assert!(back == sent, "{} bytes came back", back.len());
    });
}

#[test]
fn one_odd_connection_does_not_decide_what_a_port_speaks() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let web = one.workload("web", &[]).await;
        let captured = one.capture(&web);
        let (port, _) = http1(two.ip, |_| ok("http"));
        let http = two.workload("http", &[(80, port, None)]).await;
        let vip = world.service("shop/http", 80, None, vec![http.endpoint]);
        // A probe that says nothing, and a caller that speaks something else.
        let mut silent = captured.connect(vip).await;
        silent.shutdown().await.unwrap();
        drop(silent.read_to_end(&mut Vec::new()).await);
        let mut odd = captured.connect(vip).await;
        odd.write_all(&[0xff; 64]).await.unwrap();
        odd.shutdown().await.unwrap();
        drop(odd.read_to_end(&mut Vec::new()).await);
        let mut stream = captured.connect(vip).await;
        let answer = crate::apps::ask(&mut stream, &crate::apps::get("/")).await;
        assert_eq!(answer.text(), "http");
        one.seen
            .until("a request, not bytes", |seen| {
                let totals = seen.totals.borrow();
                let mut edges = totals.edges();
                edges.any(|(edge, _)| edge.protocol == Protocol::Http1)
            })
            .await;
    });
}
