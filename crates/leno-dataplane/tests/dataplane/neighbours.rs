//! Workloads of one host do not take from each other what they need.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use leno_telemetry::counters::{Family, Limit};
use leno_types::AppProtocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

use crate::{
    apps::{ask, get, h2c, http1, ok},
    host::{Captured, Host, World, listen},
    run,
};

const HTTP: Option<AppProtocol> = Some(AppProtocol::Http);

async fn program(captured: Captured) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(captured.dns).await.unwrap();
    socket
}

fn question(name: &str) -> Vec<u8> {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    query.to_vec().unwrap()
}

async fn query(socket: &UdpSocket, name: &str) {
    socket.send(&question(name)).await.unwrap();
}

async fn answer(socket: &UdpSocket) -> Message {
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

/// What a name resolves to, asked from a socket of its own.
async fn resolve(captured: Captured, name: &str) -> Option<IpAddr> {
    let socket = program(captured).await;
    query(&socket, name).await;
    answer(&socket).await.answers.first()?.data.ip_addr()
}

#[test]
fn a_flood_of_names_takes_nobodys_answers_away() {
    run(async {
        let world = World::new();
        let one = Host::start_with(&world, |config| {
            config.limits.dns_queries = 8;
            config.limits.discoveries = 64;
        });
        let (web, mail) = (
            one.workload("web", &[]).await,
            one.workload("mail", &[]).await,
        );
        let cart = world.service("shop/cart", 80, None, Vec::new());
        let (web, mail) = (one.capture(&web), one.capture(&mail));
        assert_eq!(resolve(web, "cart.").await, Some(cart.ip()));

        // Nothing of the flood is answered in time.
        one.seen.silent.set(true);
        let flood = program(web).await;
        for number in 0..200 {
            query(&flood, &format!("nobody{number}.")).await;
        }
        let begun = Instant::now();
        let refused = answer(&flood).await.metadata.response_code;
        assert_eq!(refused, ResponseCode::ServFail);
        assert_eq!(resolve(web, "cart.").await, Some(cart.ip()));
        one.seen.silent.set(false);
        let bill = world.service("shop/bill", 80, None, Vec::new());
        assert_eq!(resolve(mail, "bill.").await, Some(bill.ip()));
        assert_eq!(resolve(mail, "cart.").await, Some(cart.ip()));
        assert!(begun.elapsed() < Duration::from_secs(2), "the flood waits");
        one.seen
            .until("the ceiling is counted", |seen| {
                seen.counters.borrow().get_limit(Limit::DnsQueries) >= 100
            })
            .await;
    });
}

/// Asks for a name so often at the same instant, before any of it can be read, from several sockets: answers need room.
async fn burst(captured: Captured, name: &str, times: usize) -> Vec<UdpSocket> {
    let mut asking = Vec::new();
    for _ in 0..times / 100 {
        let socket = program(captured).await;
        socket.writable().await.unwrap();
        asking.push(socket);
    }
    for socket in &asking {
        for _ in 0..100 {
            socket.try_send(&question(name)).unwrap();
        }
    }
    asking
}

#[test]
fn names_asked_for_at_the_same_instant_are_all_answered_and_what_is_lost_is_counted() {
    run(async {
        let world = World::new();
        let roomy = Host::start(&world);
        let narrow = Host::start_with(&world, |config| config.limits.dns_inbox = 1);
        let cart = world.service("shop/cart", 80, None, Vec::new());
        let (web, mail) = (
            roomy.workload("web", &[]).await,
            narrow.workload("mail", &[]).await,
        );
        let (web, mail) = (roomy.capture(&web), narrow.capture(&mail));
        // Its socket is read from now on.
        assert_eq!(resolve(web, "cart.").await, Some(cart.ip()));
        assert_eq!(resolve(mail, "cart.").await, Some(cart.ip()));

        for asking in burst(web, "cart.", 500).await {
            for _ in 0..100 {
                let answer = answer(&asking).await;
                assert_eq!(answer.answers[0].data.ip_addr(), Some(cart.ip()));
            }
        }
        drop(burst(mail, "cart.", 500).await);
        let lost = |host: &Host| host.seen.counters.borrow().get_limit(Limit::DnsInbox);
        narrow
            .seen
            .until("what is lost is counted", |_| lost(&narrow) >= 100)
            .await;
        assert_eq!(lost(&roomy), 0);
    });
}

/// Requests in a row, of which the middle and the slowest are judged.
const REQUESTS: usize = 40;

/// How many turns others had while each request was served, on a connection of its own, its name asked first; sorted.
async fn took(captured: Captured, name: &str, to: SocketAddr, turns: &Cell<u64>) -> Vec<u64> {
    let mut took = Vec::new();
    for _ in 0..REQUESTS {
        let begun = turns.get();
        assert_eq!(resolve(captured, name).await, Some(to.ip()));
        let mut stream = captured.connect(to).await;
        assert_eq!(ask(&mut stream, &get("/")).await.status(), 200);
        took.push(turns.get() - begun);
    }
    took.sort_unstable();
    took
}

#[test]
fn the_neighbour_of_a_flood_is_served_as_before() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let (web, mail) = (
            one.workload("web", &[]).await,
            one.workload("mail", &[]).await,
        );
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let (web, mail) = (one.capture(&web), one.capture(&mail));
        let turns = Rc::new(Cell::new(0));
        took(mail, "cart.", vip, &turns).await;

        one.seen.silent.set(true);
        let theirs = Rc::clone(&turns);
        let flood = tokio::task::spawn_local(async move {
            let socket = program(web).await;
            let mut open = Vec::new();
            loop {
                for number in 0..32 {
                    query(&socket, &format!("nobody{}-{number}.", theirs.get())).await;
                }
                if open.len() < 1_000 {
                    let unknown = SocketAddr::from(([10, 77, 3, 1], 80));
                    open.push(web.connect(unknown).await);
                }
                theirs.set(theirs.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let took = took(mail, "cart.", vip, &turns).await;
        flood.abort();
        // Flood, proxy and neighbour share one thread, so that turns are told apart however loaded the machine is: about
        // 40 of a millisecond go by while one is served beside others. Who is starved waits for whole seconds.
        assert!(turns.get() > 200, "no flood: {took:?}");
        let (median, slowest) = (took[REQUESTS / 2], took[REQUESTS - 2]);
        assert!(median < 200 && slowest < 1_000, "{took:?}");
    });
}

#[test]
fn a_program_that_opens_connections_without_end_is_stopped_and_its_neighbour_is_not() {
    run(async {
        let world = World::new();
        let one = Host::start_with(&world, |config| {
            config.limits.tasks = 80;
            config.limits.outbound_connections = 16;
            config.limits.published_connections = 16;
        });
        let two = Host::start(&world);
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let (own, _) = http1(one.ip, |_| ok("web"));
        let mut web = one.workload("web", &[(80, own, HTTP)]).await;
        let mail = one.workload("mail", &[]).await;
        let published = one.publish(&mut web);
        let (web, mail) = (one.capture(&web), one.capture(&mail));
        let mut open = Vec::new();
        for _ in 0..100 {
            for stream in [
                web.try_connect(vip).await,
                TcpStream::connect(published).await,
            ] {
                // It may have been reset already.
                let Ok(mut stream) = stream else { continue };
                drop(stream.write_all(b"G").await);
                open.push(stream);
            }
        }
        let mut stopped = 0;
        for stream in &mut open {
            let wait = tokio::time::timeout(Duration::from_millis(5), stream.read_u8());
            stopped += usize::from(matches!(wait.await, Ok(Err(_))));
        }
        assert!(open.len() - stopped <= 32, "{stopped} of {}", open.len());
        for _ in 0..20 {
            let mut stream = mail.connect(vip).await;
            assert_eq!(ask(&mut stream, &get("/")).await.status(), 200);
        }
        // Who closes makes room.
        drop(open);
        loop {
            let Ok(mut stream) = web.try_connect(vip).await else {
                continue;
            };
            let asked = stream.write_all(get("/").as_bytes()).await;
            if asked.is_ok() && stream.read_u8().await.is_ok() {
                break;
            }
        }
        one.seen
            .until("the ceilings are counted", |seen| {
                let counters = seen.counters.borrow();
                counters.get_limit(Limit::OutboundConnections) >= 84
                    && counters.get_limit(Limit::PublishedConnections) >= 84
                    && counters.get_labelled(Family::Refused, "UO") >= 168
            })
            .await;
    });
}

#[test]
fn streams_of_a_programs_connection_count_like_connections() {
    run(async {
        let world = World::new();
        let one = Host::start_with(&world, |config| config.limits.outbound_connections = 6);
        let two = Host::start(&world);
        // It accepts and never answers.
        let silent = TcpListener::from_std(listen(two.ip)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, HTTP)]).await;
        let vip = world.service("shop/cart", 80, HTTP, vec![cart.endpoint]);
        let mut send = h2c(one.capture(&web).connect(vip).await).await;
        let mut asked = Vec::new();
        for _ in 0..8 {
            let request = http::Request::get("http://cart/").body(()).unwrap();
            asked.push(send.send_request(request, true).unwrap().0);
        }
        for late in asked.split_off(5) {
            let refused = late.await.unwrap_err();
            assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM));
        }
    });
}
