//! What is refused under overload, what is not, and how it is told.

use std::{net::IpAddr, rc::Rc, time::Duration};

use leno_net::room::Room;
use leno_telemetry::counters::{Counter, Counters, Family};
use leno_types::{AppProtocol, Priority, Signal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    apps::{Message, ask, call, get, grpc, h2c, http1, ok, read_message, server_first},
    host::{Captured, Host, World, listen},
    run,
};

const HTTP: Option<AppProtocol> = Some(AppProtocol::Http);

/// An HTTP/1 program that answers each request when it gets a permit, and one to `/now` at once.
fn held(ip: IpAddr) -> (u16, Rc<Semaphore>) {
    let listener = TcpListener::from_std(listen(ip)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let permits = Rc::new(Semaphore::new(0));
    let given = Rc::clone(&permits);
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let given = Rc::clone(&given);
            tokio::task::spawn_local(async move {
                while let Some(message) = read_message(&mut stream).await {
                    if !message.head.starts_with("GET /now ") {
                        given.acquire().await.unwrap().forget();
                    }
                    if stream.write_all(ok("held").as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, permits)
}

/// A GET of a request that can wait.
fn background() -> String {
    "GET / HTTP/1.1\r\nHost: app\r\nPriority: u=7\r\n\r\n".into()
}

/// Asks on a connection of its own.
fn asking(
    of: &mut JoinSet<Message>,
    stream: impl Future<Output = TcpStream> + 'static,
    request: &str,
) {
    let request = request.to_owned();
    of.spawn_local(async move { ask(&mut stream.await, &request).await });
}

async fn all_served(mut of: JoinSet<Message>) {
    while let Some(served) = of.join_next().await {
        let served = served.unwrap();
        assert_eq!(served.status(), 200, "{}", served.head);
    }
}

async fn open(host: &Host, count: i64) {
    host.seen
        .until("so many requests are open", |seen| {
            let counters = seen.counters.borrow();
            counters.get_gauge(leno_telemetry::counters::Gauge::OpenRequests) == count
        })
        .await;
}

fn shed_in_all(counters: &Counters) -> u64 {
    let all = Priority::ALL
        .iter()
        .flat_map(|priority| Signal::ALL.iter().map(|signal| (*priority, *signal)));
    all.map(|(priority, signal)| counters.get_shed(priority, signal))
        .sum()
}

#[test]
fn a_program_that_outside_callers_have_filled_serves_a_member_first() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let two = Host::start_with(&world, |config| {
            config.limits.app_connections = 4;
            config.limits.app_queue = 6;
        });
        let (port, permits) = held(two.ip);
        let web = one.workload("web", &[]).await;
        let mut cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint.clone()]);
        let published = two.publish(&mut cart);
        let captured = one.capture(&web);
        let outside = || async move { TcpStream::connect(published).await.unwrap() };
        // Three of the four places are theirs, and all of the line.
        let mut low = JoinSet::new();
        for _ in 0..9 {
            asking(&mut low, outside(), &get("/"));
        }
        open(&two, 9).await;
        let refused = ask(&mut outside().await, &get("/")).await;
        assert_eq!(refused.status(), 503, "{}", refused.head);
        let mut member = JoinSet::new();
        let by = |of: &mut JoinSet<Message>| {
            asking(of, async move { captured.connect(vip).await }, &get("/"));
        };
        // A member has the last place at once, and never called before.
        by(&mut member);
        open(&two, 10).await;
        assert!(low.try_join_next().is_none());
        by(&mut member);
        // One of them had to go for its next request, and is told when to come again; of the mesh it is told nothing.
        let gone = low.join_next().await.unwrap().unwrap();
        assert_eq!(gone.status(), 503, "{}", gone.head);
        assert_eq!(gone.field("retry-after"), Some("1"), "{}", gone.head);
        assert!(gone.field("x-leno-refused").is_none(), "{}", gone.head);
        // What ends makes room for the member, though five came before.
        permits.add_permits(1);
        open(&two, 9).await;
        // The program has two of them before it, and its first request.
        permits.add_permits(4);
        all_served(member).await;
        permits.add_permits(100);
        all_served(low).await;
        two.seen
            .until("it is counted, by priority and signal", |seen| {
                let counters = seen.counters.borrow();
                counters.get_shed(Priority::Low, Signal::App) == 2
                    && counters.get_labelled(Family::Refused, "OM") == 1
                    && counters.get_labelled(Family::Refused, "UO") == 1
                    && shed_in_all(&counters) == 2
            })
            .await;
    });
}

#[test]
fn a_member_that_fills_a_programs_line_does_not_keep_another_out() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let two = Host::start_with(&world, |config| {
            config.limits.app_connections = 2;
            config.limits.app_queue = 6;
        });
        let (port, permits) = held(two.ip);
        let (web, mail) = (
            one.workload("web", &[]).await,
            one.workload("mail", &[]).await,
        );
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let (web, mail) = (one.capture(&web), one.capture(&mail));
        let by = |of: &mut JoinSet<Message>, who: Captured| {
            asking(of, async move { who.connect(vip).await }, &get("/"));
        };
        let (mut flood, mut other) = (JoinSet::new(), JoinSet::new());
        for _ in 0..8 {
            by(&mut flood, web);
        }
        open(&two, 8).await;
        by(&mut other, mail);
        let gone = flood.join_next().await.unwrap().unwrap();
        let told = gone.field("x-leno-refused").unwrap_or_default();
        assert!(told.starts_with("OM; by=cart-1; "), "{}", gone.head);
        assert_eq!(gone.field("retry-after"), Some("1"), "{}", gone.head);
        // Two that began, one of the flood's, and then it is the other's turn.
        permits.add_permits(4);
        all_served(other).await;
        permits.add_permits(100);
        all_served(flood).await;
    });
}

#[test]
fn while_all_is_calm_nothing_is_refused_and_the_priority_passes_untouched() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let mut cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint.clone()]);
        let published = two.publish(&mut cart);
        let mut stream = one.capture(&web).connect(vip).await;
        let mut outside = TcpStream::connect(published).await.unwrap();
        for _ in 0..50 {
            assert_eq!(ask(&mut stream, &background()).await.status(), 200);
            assert_eq!(ask(&mut outside, &background()).await.status(), 200);
        }
        let kept = |head: &String| head.contains("\r\nPriority: u=7\r\n");
        assert!(log.borrow().iter().all(kept), "{:?}", log.borrow());
        assert_eq!(log.borrow().len(), 100);
        for host in [&one, &two] {
            host.seen
                .until("it was told", |seen| {
                    seen.totals.borrow().edges().next().is_some()
                })
                .await;
            assert_eq!(shed_in_all(&host.seen.counters.borrow()), 0);
        }
    });
}

fn at_75_percent() -> Option<Room> {
    Some(Room { own: 75, free: 25 })
}

fn at_95_percent() -> Option<Room> {
    Some(Room { own: 95, free: 5 })
}

/// Asks until the answer is this status: the worker looks at itself now and then.
async fn until_status(stream: &mut TcpStream, request: &str, status: u16) -> Message {
    for _ in 0..10_000 {
        let answer = ask(stream, request).await;
        if answer.status() == status {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("no {status}");
}

#[test]
fn a_proxy_short_of_memory_refuses_the_least_important_which_another_endpoint_takes() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let two = Host::start_with(&world, |config| config.memory = at_75_percent);
        let three = Host::start(&world);
        let (port, full) = http1(two.ip, |_| ok("full"));
        let (other, calm) = http1(three.ip, |_| ok("calm"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint.clone()]);
        let captured = one.capture(&web);
        let mut stream = captured.connect(vip).await;
        let refused = until_status(&mut stream, &background(), 503).await;
        let told = refused.field("x-leno-refused").unwrap_or_default();
        assert!(told.starts_with("OM; by=cart-1; "), "{}", refused.head);
        assert!(refused.text().contains("memory"), "{}", refused.text());
        // What is more important feels nothing; nobody is ejected for having too much to do.
        for _ in 0..20 {
            assert_eq!(ask(&mut stream, &background()).await.status(), 503);
            assert_eq!(ask(&mut stream, &get("/")).await.status(), 200);
        }
        let second = three.workload("cart", &[(80, other, HTTP)]).await;
        world.set_endpoints("shop/cart", vec![cart.endpoint, second.endpoint]);
        until_status(&mut stream, &background(), 200).await;
        let before = full.borrow().len();
        for _ in 0..20 {
            assert_eq!(ask(&mut stream, &background()).await.status(), 200);
        }
        assert_eq!(full.borrow().len(), before);
        assert!(calm.borrow().len() >= 20);
        assert_eq!(one.seen.counters.borrow().get(Counter::Ejections), 0);
        two.seen
            .until("what was refused is counted", |seen| {
                let counters = seen.counters.borrow();
                let low = counters.get_shed(Priority::Low, Signal::Memory);
                low >= 21 && shed_in_all(&counters) == low
            })
            .await;
    });
}

#[test]
fn what_is_tried_once_more_for_an_overload_is_of_low_priority_there() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let full =
            [(); 2].map(|()| Host::start_with(&world, |config| config.memory = at_95_percent));
        let web = one.workload("web", &[]).await;
        let mut endpoints = Vec::new();
        for host in &full {
            let (port, _) = http1(host.ip, |_| ok("cart"));
            let cart = host.workload("cart", &[(80, port, HTTP)]).await;
            endpoints.push(cart.endpoint);
        }
        let vip = world.service("shop/cart", 80, HTTP, endpoints);
        let mut stream = one.capture(&web).connect(vip).await;
        let request = "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 2\r\n\r\nhi";
        let refused = until_status(&mut stream, request, 503).await;
        let told = refused.field("x-leno-refused").unwrap_or_default();
        assert!(told.starts_with("OM; by=cart-1; "), "{}", refused.head);
        assert_eq!(refused.field("retry-after"), Some("1"), "{}", refused.head);
        for host in &full {
            let refused = |seen: &crate::host::Seen| shed_in_all(&seen.counters.borrow()) >= 1;
            host.seen.until("each has refused", refused).await;
        }
        let sum = |priority| -> u64 {
            let of = |host: &Host| {
                let counters = host.seen.counters.borrow();
                counters.get_shed(priority, Signal::Memory)
            };
            full.iter().map(of).sum()
        };
        // The last request was refused by one and, when it was tried once more, by the other.
        assert!(sum(Priority::Default) >= 1 && sum(Priority::Low) >= 1);
        assert!(
            sum(Priority::Low) <= sum(Priority::Default),
            "a retry each at most"
        );
    });
}

#[test]
fn each_protocol_is_told_in_its_own_way_that_a_proxy_is_at_its_end() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let two = Host::start_with(&world, |config| config.memory = at_95_percent);
        let (rpc, _) = grpc(two.ip);
        let echo = server_first(two.ip, "220 ready\r\n");
        let (tcp, speaks) = (Some(AppProtocol::Tcp), Some(AppProtocol::Grpc));
        let web = one.workload("web", &[]).await;
        let mut cart = two
            .workload("cart", &[(7, echo, tcp), (90, rpc, speaks)])
            .await;
        let api = world.service("shop/api", 90, speaks, vec![cart.endpoint.clone()]);
        let raw = world.service("shop/raw", 7, tcp, vec![cart.endpoint.clone()]);
        let captured = one.capture(&web);
        let mut send = h2c(captured.connect(api).await).await;
        let refused = loop {
            let called = call(&mut send, b"hi").await;
            if called.headers.contains_key("grpc-status") {
                break called;
            }
        };
        let field = |name: &str| {
            refused
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        // UNAVAILABLE, which gRPC clients may try again, and after which time.
        assert_eq!((refused.status, field("grpc-status")), (200, Some("14")));
        assert_eq!(field("grpc-retry-pushback-ms"), Some("1000"));
        assert!(
            field("x-leno-refused")
                .unwrap_or_default()
                .starts_with("OM; by=cart-1; ")
        );
        let mut stream = captured.connect(raw).await;
        assert!(stream.read_u8().await.is_err(), "bytes are reset");
        one.seen
            .until("the caller's side tells why", |seen| {
                let refusals = seen.refusals.borrow();
                refusals
                    .iter()
                    .any(|of| of.reason.code() == "OM" && of.outbound)
            })
            .await;
        // Who is outside is not even let in.
        let published = two.publish(&mut cart);
        let refused = async {
            let mut outside = TcpStream::connect(published).await?;
            outside.read_u8().await
        };
        assert!(refused.await.is_err());
    });
}

#[test]
fn a_worker_with_too_many_tasks_refuses_what_can_wait_and_goes_on_with_the_rest() {
    run(async {
        let world = World::new();
        let one = Host::start_with(&world, |config| {
            config.limits.tasks = 100;
            config.limits.outbound_connections = 100;
        });
        let two = Host::start(&world);
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let captured = one.capture(&web);
        let mut stream = captured.connect(vip).await;
        assert_eq!(ask(&mut stream, &background()).await.status(), 200);
        let mut idle = Vec::new();
        for _ in 0..70 {
            idle.push(captured.connect(vip).await);
        }
        let refused = until_status(&mut stream, &background(), 503).await;
        let told = refused.field("x-leno-refused").unwrap_or_default();
        assert!(told.starts_with("OM; by=web-1; "), "{}", refused.head);
        assert_eq!(ask(&mut stream, &get("/")).await.status(), 200);
        drop(idle);
        until_status(&mut stream, &background(), 200).await;
        one.seen
            .until("it is counted", |seen| {
                let counters = seen.counters.borrow();
                let low = counters.get_shed(Priority::Low, Signal::Tasks);
                low >= 1 && shed_in_all(&counters) == low
            })
            .await;
    });
}

/// Takes the worker's time, as a flood would.
fn slow_destination(stream: &TcpStream) -> std::io::Result<Option<std::net::SocketAddr>> {
    let to = crate::host::original_destination(stream)?;
    if to.is_some_and(|to| to.port() == 9) {
        std::thread::sleep(Duration::from_millis(60));
    }
    Ok(to)
}

#[test]
fn a_worker_that_comes_late_to_everything_refuses_what_can_wait() {
    run(async {
        let world = World::new();
        let one = Host::start_with(&world, |config| {
            config.original_destination = slow_destination;
            config.limits.lag = Duration::from_millis(20);
        });
        let two = Host::start(&world);
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let captured = one.capture(&web);
        let mut stream = captured.connect(vip).await;
        assert_eq!(ask(&mut stream, &get("/")).await.status(), 200);
        let flood: Vec<_> = (0..8)
            .map(|_| {
                tokio::task::spawn_local(async move {
                    loop {
                        let discard = std::net::SocketAddr::new(vip.ip(), 9);
                        if let Ok(mut stream) = captured.try_connect(discard).await {
                            // There is no such port: it is refused with its first word.
                            drop(stream.write_all(b"\0").await);
                            drop(stream.read_u8().await);
                        }
                    }
                })
            })
            .collect();
        let refused = until_status(&mut stream, &background(), 503).await;
        let told = refused.field("x-leno-refused").unwrap_or_default();
        assert!(told.starts_with("OM; by=web-1; "), "{}", refused.head);
        for flood in flood {
            flood.abort();
        }
        until_status(&mut stream, &background(), 200).await;
        one.seen
            .until("it is counted", |seen| {
                let counters = seen.counters.borrow();
                counters.get_shed(Priority::Low, Signal::Lag) >= 1
            })
            .await;
    });
}

#[test]
fn requests_over_the_streams_that_a_program_allows_wait_for_one_and_get_it() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let two = Host::start_with(&world, |config| config.limits.app_h2_connections = 1);
        let (port, permits) = held_h2(two.ip, 2);
        let speaks = Some(AppProtocol::Http2);
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, speaks)]).await;
        let vip = world.service("shop/cart", 80, speaks, vec![cart.endpoint]);
        let send = h2c(one.capture(&web).connect(vip).await).await;
        let answers: Vec<_> = (0..8)
            .map(|_| {
                let mut send = send.clone();
                let request = http::Request::get("http://cart/").body(()).unwrap();
                let (answer, _) = send.send_request(request, true).unwrap();
                tokio::task::spawn_local(async move { answer.await.unwrap().status() })
            })
            .collect();
        open(&two, 8).await;
        let begun = std::time::Instant::now();
        permits.add_permits(8);
        for answer in answers {
            assert_eq!(answer.await.unwrap(), 200);
        }
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "they waited for nothing"
        );
    });
}

/// An HTTP/2 program that allows so many streams, and answers each with a permit.
fn held_h2(ip: IpAddr, streams: u32) -> (u16, Rc<Semaphore>) {
    let listener = TcpListener::from_std(listen(ip)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let permits = Rc::new(Semaphore::new(0));
    let given = Rc::clone(&permits);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let given = Rc::clone(&given);
            tokio::task::spawn_local(async move {
                let mut builder = h2::server::Builder::new();
                let handshake = builder.max_concurrent_streams(streams);
                let mut connection = handshake
                    .handshake::<_, bytes::Bytes>(stream)
                    .await
                    .unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let given = Rc::clone(&given);
                    tokio::task::spawn_local(async move {
                        given.acquire().await.unwrap().forget();
                        drop(respond.send_response(http::Response::new(()), true));
                    });
                }
            });
        }
    });
    (port, permits)
}

#[test]
fn an_exchange_in_which_nothing_moves_ends_after_its_time_and_one_that_moves_does_not() {
    run(async {
        let idle = Duration::from_millis(400);
        let world = World::new();
        let one = Host::start(&world);
        let two = Host::start_with(&world, |config| config.limits.exchange_idle = idle);
        let listener = TcpListener::from_std(listen(two.ip)).unwrap();
        let port = listener.local_addr().unwrap().port();
        // A head at once, then a byte each quarter of the time: twelve of them, or three and no more.
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let Some(message) = read_message(&mut stream).await else {
                        return;
                    };
                    let head = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n";
                    stream.write_all(head.as_bytes()).await.unwrap();
                    let bytes = if message.head.starts_with("GET /stall ") {
                        3
                    } else {
                        12
                    };
                    for _ in 0..bytes {
                        tokio::time::sleep(idle / 4).await;
                        if stream.write_all(b"x").await.is_err() {
                            return;
                        }
                    }
                    drop(stream.read_u8().await);
                });
            }
        });
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let captured = one.capture(&web);
        let mut slow = JoinSet::new();
        asking(
            &mut slow,
            async move { captured.connect(vip).await },
            &get("/slow"),
        );
        let mut stream = captured.connect(vip).await;
        let begun = std::time::Instant::now();
        stream.write_all(get("/stall").as_bytes()).await.unwrap();
        let mut all = Vec::new();
        // Cut short, never ended as if it were whole.
        drop(stream.read_to_end(&mut all).await);
        let took = begun.elapsed();
        assert!(
            all.ends_with(b"\r\n\r\nxxx"),
            "{}",
            String::from_utf8_lossy(&all)
        );
        assert!(took >= idle * 7 / 4, "{took:?}");
        // Three times as long as an idle one may be.
        let slow = slow.join_next().await.unwrap().unwrap();
        assert_eq!(slow.text(), "x".repeat(12));
        two.seen
            .until("it is told why", |seen| {
                String::from_utf8_lossy(&seen.log.borrow()).contains("\"UT\"")
            })
            .await;
    });
}
