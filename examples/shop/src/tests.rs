//! Every program on loopback, each protocol as it crosses a socket.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use crate::cart_client::{CartClient, Failed};
use crate::cli::{Cli, Legacy, Origin, Peers, Program, Url, Version};
use crate::grpc::{HEALTH, Health, Line, SERVING};
use crate::http_client::{Http1, Http2};
use crate::net::{CallError, Listeners, dial};
use crate::{PAYLOAD, Stop, cart, catalog, ledger, legacy, prices, reviews, stock, storefront};

/// A program under test, on a port of its own.
struct Running {
    port: u16,
    stop: Stop,
    program: JoinHandle<()>,
}

impl Running {
    /// Asks the program to end, and waits until it has.
    async fn end(self) {
        self.stop.cancel();
        self.program.await.unwrap();
    }
}

async fn start(program: impl AsyncFnOnce(Listeners, &Stop) + 'static) -> Running {
    let listeners = Listeners::bind(0).await.unwrap();
    let (port, stop) = (listeners.port(), Stop::new());
    let asked = stop.clone();
    Running {
        port,
        stop,
        program: spawn_local(async move { program(listeners, &asked).await }),
    }
}

/// Relays one peer's connections and keeps what crossed each way.
struct Tap {
    port: u16,
    seen: Rc<Seen>,
}

#[derive(Default)]
struct Seen {
    asked: RefCell<Vec<u8>>,
    answered: RefCell<Vec<u8>>,
    grown: Notify,
}

impl Tap {
    async fn on(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (port, seen) = (
            listener.local_addr().unwrap().port(),
            Rc::new(Seen::default()),
        );
        let kept = Rc::clone(&seen);
        spawn_local(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream))
                    .await
                    .unwrap();
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                spawn_local(relay(from_client, to_server, Rc::clone(&kept), |seen| {
                    &seen.asked
                }));
                spawn_local(relay(from_server, to_client, Rc::clone(&kept), |seen| {
                    &seen.answered
                }));
            }
        });
        Self { port, seen }
    }

    /// Waits until the words have crossed, each in its direction.
    async fn saw(&self, asked: &str, answered: &str) {
        let has = |bytes: &RefCell<Vec<u8>>, words: &str| {
            bytes
                .borrow()
                .windows(words.len())
                .any(|window| window == words.as_bytes())
        };
        while !(has(&self.seen.asked, asked) && has(&self.seen.answered, answered)) {
            self.seen.grown.notified().await;
        }
    }
}

async fn relay(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    seen: Rc<Seen>,
    kept: fn(&Seen) -> &RefCell<Vec<u8>>,
) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        kept(&seen)
            .borrow_mut()
            .extend_from_slice(&buffer[..length]);
        seen.grown.notify_waiters();
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Where the storefront's peers are, as its command line would say it.
fn peers(catalog: u16, cart: u16, reviews: u16, prices: u16, stock: u16) -> Peers {
    let cli = Cli::try_parse_from([
        "shop",
        "storefront",
        &format!("--catalog=http://127.0.0.1:{catalog}"),
        &format!("--cart=http://127.0.0.1:{cart}"),
        &format!("--reviews=http://127.0.0.1:{reviews}"),
        &format!("--prices=ws://127.0.0.1:{prices}/feed"),
        &format!("--stock=127.0.0.1:{stock}"),
    ]);
    let Program::Storefront(options) = cli.unwrap().program else {
        panic!("the storefront was asked for")
    };
    options.peers
}

fn url(port: u16) -> Url {
    let cli = Cli::try_parse_from(["shop", "legacy", &format!("--url=http://127.0.0.1:{port}/")]);
    let Program::Legacy(Legacy { url, .. }) = cli.unwrap().program else {
        panic!("legacy was asked for")
    };
    url
}

fn at(port: u16) -> Origin {
    url(port).origin
}

fn text(body: bytes::Bytes) -> String {
    String::from_utf8(body.into()).unwrap()
}

/// A port where nobody answers, until the server it is given comes.
struct Away {
    port: u16,
    server: Rc<Cell<Option<u16>>>,
}

impl Away {
    async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (port, server) = (
            listener.local_addr().unwrap().port(),
            Rc::new(Cell::new(None)),
        );
        let come: Rc<Cell<Option<u16>>> = Rc::clone(&server);
        spawn_local(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let Some(server) = come.get() else { continue };
                let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server))
                    .await
                    .unwrap();
                spawn_local(async move {
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { port, server }
    }
}

/// Runs `test`, which must not take for ever.
async fn soon(test: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(30), test)
        .await
        .expect("the test hangs");
}

#[tokio::test(flavor = "local")]
async fn a_program_is_reached_over_ipv4_and_ipv6_on_one_port() {
    soon(async {
        let running = start(async |listeners, stop| stock::run(listeners, stop).await).await;
        let mut reached = 0;
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            // A machine may be without IPv6; one with it must be served.
            if TcpListener::bind((address, 0)).await.is_ok() {
                TcpStream::connect((address, running.port)).await.unwrap();
                reached += 1;
            }
        }
        assert!(reached > 0);
        let by_name = Origin {
            host: "localhost".to_owned(),
            ..at(running.port)
        };
        assert_eq!(stock::query(&by_name, "table").await.unwrap(), 2);
        running.end().await;
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn the_catalog_serves_its_version_over_a_kept_connection() {
    soon(async {
        for (version, name, coloured) in [(Version::V1, "v1", false), (Version::V2, "v2", true)] {
            let running = start(async move |listeners, stop| catalog::run(listeners, version, stop).await).await;
            let tap = Tap::on(running.port).await;
            let client = Http1::new(at(tap.port), 1);
            let items: serde_json::Value = serde_json::from_slice(&client.get("/items").await.unwrap()).unwrap();
            assert_eq!((&items["version"], &items["note"]), (&name.into(), &PAYLOAD.into()));
            assert_eq!(items["items"][0].get("colour").is_some(), coloured);
            assert!(matches!(client.get("/nothing").await, Err(CallError::Status(status)) if status == 404));
            client.get("/healthz").await.unwrap();
            tap.saw(PAYLOAD, PAYLOAD).await;
            running.end().await;
            assert!(client.get("/items").await.is_err_and(|error| error.is_unreachable()));
        }
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_kept_connection_that_the_server_has_ended_is_replaced_unnoticed() {
    soon(async {
        let page = async |listeners, stop: &Stop| reviews::run(listeners, stop).await;
        let goods = async |listeners, stop: &Stop| cart::run(listeners, stop).await;
        let (pages, carts) = (Away::new().await, Away::new().await);
        let (http1, http2) = (Http1::new(at(pages.port), 1), Http2::new(at(pages.port)));
        let grpc = CartClient::new(at(carts.port));
        for _server_of_that_name in 0..3 {
            let (reviews, cart) = (start(page).await, start(goods).await);
            pages.server.set(Some(reviews.port));
            carts.server.set(Some(cart.port));
            http1.get("/").await.unwrap();
            http2.get("/").await.unwrap();
            assert_eq!(
                grpc.add("lamp").await.unwrap().quantity,
                1,
                "the cart is a new one"
            );
            reviews.end().await;
            cart.end().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn the_cart_answers_unary_calls_and_all_kinds_of_streaming() {
    soon(async {
        let running = start(async |listeners, stop| cart::run(listeners, stop).await).await;
        let tap = Tap::on(running.port).await;
        let client = CartClient::new(at(tap.port));
        assert_eq!(client.add("lamp").await.unwrap().quantity, 1);
        assert_eq!(
            client.add_many(&["chair", "table"]).await.unwrap().quantity,
            3
        );
        let items = |lines: Vec<Line>| lines.into_iter().map(|line| line.item).collect::<Vec<_>>();
        assert_eq!(
            items(client.list().await.unwrap()),
            ["table", "chair", "lamp", "end of list"]
        );
        let chat = client.chat(&["hello", "good bye"]).await.unwrap();
        assert_eq!(
            chat.iter()
                .map(|line| line.note.as_str())
                .collect::<Vec<_>>(),
            [
                "heard hello leno-demo-payload",
                "heard good bye leno-demo-payload"
            ]
        );
        let health = client.call::<Line, Health>(HEALTH, &[]).await.unwrap();
        assert_eq!(health, [Health { status: SERVING }]);
        tap.saw(PAYLOAD, PAYLOAD).await;
        running.end().await;
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn the_cart_refuses_with_a_status_and_goes_on() {
    soon(async {
        let running = start(async |listeners, stop| cart::run(listeners, stop).await).await;
        let client = CartClient::new(at(running.port));
        let unknown = client.call::<Line, Line>("/shop.Cart/Steal", &[]).await;
        assert!(
            matches!(unknown, Err(Failed::Call(CallError::Grpc { code: 12, .. }))),
            "{unknown:?}"
        );
        let empty = client.call::<Line, Line>(crate::grpc::ADD, &[]).await;
        assert!(
            matches!(empty, Err(Failed::Call(CallError::Grpc { code: 3, .. }))),
            "{empty:?}"
        );
        let plain = Http2::new(at(running.port)).get("/").await;
        assert!(
            matches!(plain, Err(CallError::Status(status)) if status == 415),
            "{plain:?}"
        );
        client.add("lamp").await.unwrap();
        running.end().await;
        assert!(
            client
                .add("lamp")
                .await
                .is_err_and(|error| error.is_unreachable())
        );
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn reviews_are_kept_and_told_over_http2_without_tls() {
    soon(async {
        let running = start(async |listeners, stop| reviews::run(listeners, stop).await).await;
        let tap = Tap::on(running.port).await;
        let client = Http2::new(at(tap.port));
        for review in ["one", "two", "three", "four", "five"] {
            client.put("/lamp", format!("{review} {PAYLOAD}")).await.unwrap();
        }
        let page = text(client.get("/lamp").await.unwrap());
        assert!(page.contains("five") && page.contains("two") && !page.contains("one"), "{page}");
        assert!(matches!(client.put("/lamp", vec![b'x'; 5000]).await, Err(CallError::Status(s)) if s == 413));
        tap.saw("PRI * HTTP/2.0", PAYLOAD).await;
        tap.saw(PAYLOAD, PAYLOAD).await;
        Http1::new(at(running.port), 1).get("/healthz").await.unwrap();
        running.end().await;
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn prices_come_over_a_websocket_that_closes_in_order() {
    soon(async {
        let running = start(async |listeners, stop| prices::run(listeners, stop).await).await;
        let tap = Tap::on(running.port).await;
        let peers = peers(1, 1, 1, tap.port, 1);
        let (enough, mut heard) = (Notify::new(), Vec::new());
        let watched = prices::watch(&peers.prices, enough.notified(), |price| {
            heard.push(price);
            if heard.len() == 3 {
                enough.notify_one();
            }
        });
        watched.await.unwrap();
        assert!(
            heard.len() >= 3 && heard.iter().all(|price| (1000..=9900).contains(price)),
            "{heard:?}"
        );
        tap.saw(PAYLOAD, PAYLOAD).await;
        tap.saw("GET /feed HTTP/1.1\r\n", "HTTP/1.1 101 ").await;
        let plain = Http1::new(at(running.port), 1);
        plain.get("/healthz").await.unwrap();
        assert!(
            matches!(plain.get("/feed").await, Err(CallError::Status(status)) if status == 400)
        );
        running.end().await;
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn open_feeds_are_closed_when_the_program_is_asked_to_end() {
    soon(async {
        let running = start(async |listeners, stop| prices::run(listeners, stop).await).await;
        let peers = peers(1, 1, 1, running.port, 1);
        let (first, stop) = (Rc::new(Notify::new()), running.stop.clone());
        let told = Rc::clone(&first);
        let watching = spawn_local(async move {
            prices::watch(&peers.prices, pending(), |_price| told.notify_one()).await
        });
        first.notified().await;
        stop.cancel();
        assert!(matches!(
            watching.await.unwrap(),
            Err(CallError::Strange(_))
        ));
        running.end().await;
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn the_stock_speaks_first_and_answers() {
    soon(async {
        let running = start(async |listeners, stop| stock::run(listeners, stop).await).await;
        let mut socket = dial(&at(running.port)).await.unwrap();
        let mut greeting = [0; 29];
        socket.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 stock leno-demo-payload\r\n");
        socket.write_all(&[b'x'; 600]).await.unwrap();
        let mut rest = Vec::new();
        // A line without end is no question: the connection ends, with or without a reset.
        drop(socket.read_to_end(&mut rest).await);
        assert!(rest.is_empty());

        let tap = Tap::on(running.port).await;
        assert_eq!(stock::query(&at(tap.port), "lamp").await.unwrap(), 17);
        assert!(matches!(
            stock::query(&at(tap.port), "ship").await,
            Err(CallError::Strange(_))
        ));
        tap.saw("QUIT leno-demo-payload", "221 bye leno-demo-payload")
            .await;
        running.end().await;
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn the_ledger_counts_the_stock_when_asked_and_steadily() {
    soon(async {
        let stock = start(async |listeners, stop| stock::run(listeners, stop).await).await;
        let tap = Tap::on(stock.port).await;
        let origin = at(tap.port);
        let steady =
            start(async move |listeners, stop| ledger::run(listeners, origin, 50.0, stop).await)
                .await;
        tap.saw("QUERY chair", "250 chair 4").await;
        steady.end().await;

        let origin = at(stock.port);
        let asked =
            start(async move |listeners, stop| ledger::run(listeners, origin, 0.0, stop).await)
                .await;
        let client = Http1::new(at(asked.port), 1);
        assert!(
            text(client.get("/").await.unwrap())
                .contains("counted 1 times, chairs left: 4 leno-demo-payload")
        );
        stock.end().await;
        assert!(matches!(client.get("/").await, Err(CallError::Status(status)) if status == 502));
        asked.end().await;
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn the_storefront_calls_everyone_steadily_and_shows_each_on_its_page() {
    soon(async {
        let catalog =
            start(async |listeners, stop| catalog::run(listeners, Version::V2, stop).await).await;
        let cart = start(async |listeners, stop| cart::run(listeners, stop).await).await;
        let reviews = start(async |listeners, stop| reviews::run(listeners, stop).await).await;
        let prices = start(async |listeners, stop| prices::run(listeners, stop).await).await;
        let stock = start(async |listeners, stop| stock::run(listeners, stop).await).await;
        let taps = (
            Tap::on(catalog.port).await,
            Tap::on(cart.port).await,
            Tap::on(reviews.port).await,
            Tap::on(prices.port).await,
            Tap::on(stock.port).await,
        );
        let at_taps = peers(
            taps.0.port,
            taps.1.port,
            taps.2.port,
            taps.3.port,
            taps.4.port,
        );
        let running = start(async move |listeners, stop| {
            storefront::run(listeners, at_taps, 10.0, stop).await
        })
        .await;
        for tap in [&taps.0, &taps.1, &taps.2, &taps.3, &taps.4] {
            tap.saw(PAYLOAD, PAYLOAD).await;
        }
        // Each kind of call to the cart, by what only it says.
        taps.1.saw("lamp", PAYLOAD).await;
        taps.1.saw("chair", "end of list").await;
        taps.1.saw("good bye", "heard good bye").await;
        taps.4.saw("QUIT", "221 bye").await;

        let shopfront = Tap::on(running.port).await;
        let caller = url(shopfront.port);
        let legacy =
            start(async move |_listeners, stop| legacy::run(caller, 50.0, stop).await).await;
        shopfront.saw(PAYLOAD, PAYLOAD).await;
        shopfront.saw("GET / HTTP/1.1", "a lamp is ").await;
        for shown in ["walnut", "chosen so far", "lamp: good", "lamps left: 17"] {
            shopfront.saw("GET /", shown).await;
        }
        legacy.end().await;
        running.end().await;
        for program in [catalog, cart, reviews, prices, stock] {
            program.end().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn a_storefront_without_peers_serves_its_page_and_finds_them_when_they_come() {
    soon(async {
        let (away, nobody) = (Away::new().await, Away::new().await.port);
        let peers = peers(away.port, nobody, nobody, nobody, nobody);
        let running =
            start(async move |listeners, stop| storefront::run(listeners, peers, 1.0, stop).await)
                .await;
        let client = Http1::new(at(running.port), 1);
        let page = text(client.get("/").await.unwrap());
        assert_eq!(page.matches("not available now").count(), 5, "{page}");

        let catalog =
            start(async |listeners, stop| catalog::run(listeners, Version::V1, stop).await).await;
        away.server.set(Some(catalog.port));
        let page = text(client.get("/").await.unwrap());
        assert!(page.contains("table"), "{page}");
        assert_eq!(page.matches("not available now").count(), 4, "{page}");
        running.end().await;
        catalog.end().await;
    })
    .await;
}
