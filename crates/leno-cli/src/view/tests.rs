#![allow(clippy::unwrap_used, reason = "a test may panic")]

use leno_controlplane::documents::ProxyWorkload;
use ratatui::{Terminal, backend::TestBackend};

use super::*;

fn edge(source: &str, destination: &str, protocol: &str, rps: f64) -> Edge {
    let identity = |name: &str| Some(format!("spiffe://demo.leno/ns/shop/sa/{name}"));
    Edge {
        source: source.into(),
        destination: destination.into(),
        protocol: protocol.into(),
        requests: 120,
        failures: 0,
        success_rate: Some(1.0),
        rps,
        p50_ms: Some(1.2),
        p99_ms: Some(4.4),
        mtls: true,
        source_identity: identity(source),
        destination_identity: identity(destination.trim_end_matches("-v1")),
    }
}

fn sample() -> Vec<Row> {
    let plain = Edge {
        mtls: false,
        ..edge("legacy", "storefront", "http/1.1", 2.0)
    };
    let failing = Edge {
        failures: 1,
        ..edge("storefront", "cart", "grpc", 13.0)
    };
    let quiet = edge("storefront", "prices", "websocket", 0.2);
    let window = EdgeList {
        window_seconds: 3.0,
        edges: vec![
            edge("storefront", "catalog-v1", "http/1.1", 40.2),
            plain,
            failing,
        ],
    };
    rows(&[quiet], &window)
}

#[test]
fn numbers_are_short_and_never_better_than_true() {
    assert_eq!([0.2, 9.94, 40.2].map(rate), ["0.2", "9.9", "40"]);
    assert_eq!(share(100_000, 1), "99.9%");
    assert_eq!((share(0, 0), share(3, 9)), ("100%".into(), "0.0%".into()));
    let millis = [None, Some(0.42), Some(4.4), Some(1_200.0)].map(millis);
    assert_eq!(millis, ["–", "0.4ms", "4ms", "1.2s"]);
}

#[test]
fn a_table_as_text() {
    let expected = "\
FROM        TO          PROTO      RPS  OK     P50  P99  IDENTITY
legacy      storefront  http/1.1   2.0  100%   1ms  4ms  ⚠ plaintext
storefront  cart        grpc       13   99.1%  1ms  4ms  ✔ sa/storefront → sa/cart
storefront  catalog-v1  http/1.1   40   100%   1ms  4ms  ✔ sa/storefront → sa/catalog
storefront  prices      websocket  –    –      –    –    ✔ sa/storefront → sa/prices";
    assert_eq!(table(&sample()), expected);
}

#[test]
fn rows_can_be_those_of_one_service_in_any_version() {
    let shown: Vec<String> = of_service(sample(), "catalog")
        .into_iter()
        .map(|row| row.to)
        .collect();
    assert_eq!(shown, ["catalog-v1"]);
    assert_eq!(of_service(sample(), "store").len(), 0);
    assert_eq!(of_service(sample(), "storefront").len(), 4);
}

#[test]
fn replicas_are_counted_by_service_and_version() {
    let workload = |service: Option<&str>, name: &str, version: &str, health: &str| ProxyWorkload {
        service: service.map(str::to_owned),
        name: name.into(),
        version: version.into(),
        health: health.into(),
        ..ProxyWorkload::default()
    };
    let proxy = Proxy {
        workloads: vec![
            workload(Some("cart"), "cart-1a", "", "healthy"),
            workload(Some("cart"), "cart-2b", "", "unhealthy"),
            workload(Some("catalog"), "catalog-77", "v2", "healthy"),
            workload(None, "curl", "", "unknown"),
        ],
        ..Proxy::default()
    };
    let replicas: Vec<(String, usize, usize)> = replicas(&[proxy])
        .into_iter()
        .map(|of| (of.name, of.healthy, of.all))
        .collect();
    let expected = [("cart", 1, 2), ("catalog-v2", 1, 1), ("curl", 0, 1)];
    assert_eq!(
        replicas,
        expected.map(|(name, healthy, all)| (name.to_owned(), healthy, all))
    );
}

fn drawn(page: &Page, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, page)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y: u16| {
        (0..width)
            .map(|x| buffer[(x, y)].symbol())
            .collect::<String>()
    };
    (0..height)
        .map(|y| row(y).trim_end().replace('\u{a0}', " "))
        .collect()
}

#[test]
fn the_live_picture() {
    let replicas = |name: &str, healthy, all| Replicas {
        name: name.into(),
        healthy,
        all,
    };
    let page = Page {
        title: "✔ 10 hosts, 10 programs, mTLS on   3.1 s".into(),
        rows: sample(),
        replicas: vec![replicas("cart", 1, 2), replicas("catalog-v1", 1, 1)],
        notes: vec!["cart on cart-2 ended with code 0".into()],
        tries: vec![
            Try {
                command: "leno split".into(),
                shows: "shift".into(),
            },
            Try {
                command: "kill 7".into(),
                shows: "take away".into(),
            },
        ],
        footer: "q ends it".into(),
    };
    let expected = "\
✔ 10 hosts, 10 programs, mTLS on   3.1 s

FROM        TO          PROTO      RPS  OK     P50  P99  IDENTITY
legacy      storefront  http/1.1   2.0  100%   1ms  4ms  ⚠ plaintext
storefront  cart        grpc       13   99.1%  1ms  4ms  ✔ sa/storefront → sa/cart
storefront  catalog-v1  http/1.1   40   100%   1ms  4ms  ✔ sa/storefront → sa/catalog
storefront  prices      websocket  –    –      –    –    ✔ sa/storefront → sa/prices

cart ●○   catalog-v1 ●

cart on cart-2 ended with code 0

Try, in another terminal:
  leno split   shift
  kill 7       take away

q ends it";
    assert_eq!(drawn(&page, 100, 20).join("\n").trim_end(), expected);
}

#[test]
fn no_terminal_is_too_small_to_be_drawn_on() {
    let page = Page {
        rows: sample(),
        footer: "q ends it".into(),
        ..Page::default()
    };
    for (width, height) in [(1, 1), (20, 3), (79, 5), (300, 2)] {
        drawn(&page, width, height);
    }
}

#[test]
fn colours_tell_fine_from_plaintext_failing_and_quiet() {
    let states: Vec<State> = sample().iter().map(|row| row.state).collect();
    assert_eq!(
        states,
        [State::Plaintext, State::Failing, State::Fine, State::Quiet]
    );
}

#[test]
fn a_small_terminal_keeps_the_numbers() {
    let page = Page {
        rows: sample(),
        tries: vec![Try {
            command: "leno split".into(),
            shows: "shift".into(),
        }],
        footer: "q ends it".into(),
        ..Page::default()
    };
    let expected = [
        "",
        "",
        "FROM        TO          PROTO      RPS  OK     P50  P99  IDENT",
        "legacy      storefront  http/1.1   2.0  100%   1ms  4ms  ⚠ pla",
        "storefront  cart        grpc       13   99.1%  1ms  4ms  ✔ sa/",
        "storefront  catalog-v1  http/1.1   40   100%   1ms  4ms  ✔ sa/",
        "storefront  prices      websocket  –    –      –    –    ✔ sa/",
        "",
        "q ends it",
    ];
    assert_eq!(drawn(&page, 62, 9), expected);
}
