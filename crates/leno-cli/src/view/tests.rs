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
        refusals: BTreeMap::new(),
    }
}

fn sample() -> Vec<Row> {
    let plain = Edge {
        mtls: false,
        ..edge("legacy", "storefront", "http/1.1", 2.0)
    };
    let failing = Edge {
        failures: 1,
        refusals: [("UF".to_owned(), 1)].into(),
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
    rows(&[quiet], &EdgeList::default(), &window)
}

#[test]
fn numbers_are_short_and_never_better_than_true() {
    assert_eq!([0.2, 9.94, 40.2].map(rate), ["0.2", "9.9", "40"]);
    assert_eq!(share(100_000, 1), "99.9%");
    assert_eq!((share(0, 0), share(3, 9)), ("100%".into(), "0.0%".into()));
    let millis = [0.42, 4.4, 1_200.0].map(|ms| millis(Some(ms)).unwrap());
    assert_eq!(millis, ["0.4ms", "4ms", "1.2s"]);
    assert_eq!(
        (percent(1, 1_000), percent(979, 1_000)),
        ("<1%".into(), "97%".into())
    );
}

#[test]
fn a_route_to_nowhere_is_shown_with_the_status_that_callers_get() {
    let nowhere = Edge {
        failures: 120,
        refusals: [("NB".to_owned(), 120)].into(),
        ..edge("front", "cart", "http/1.1", 2.0)
    };
    assert_eq!(reason(&nowhere), "500 NB 100%");
}

#[test]
fn a_table_as_text() {
    let expected = "\
FROM        TO          PROTO      RPS  OK     P50  P99  IDENTITY                      REASON
legacy      storefront  http/1.1   2.0  100%   1ms  4ms  ⚠ plaintext
storefront  cart        grpc       13   99.1%  1ms  4ms  ✔ sa/storefront → sa/cart     UF <1%
storefront  catalog-v1  http/1.1   40   100%   1ms  4ms  ✔ sa/storefront → sa/catalog
storefront  prices      websocket  –    –      –    –    ✔ sa/storefront → sa/prices";
    assert_eq!(table(&sample(), usize::MAX), expected);
    let narrow = table(&sample(), 80);
    assert!(
        narrow.lines().all(|line| line.chars().count() <= 80),
        "{narrow}"
    );
}

#[test]
fn a_failure_has_its_reason_and_a_refusal_no_latency() {
    let refused = |protocol: &str, refusals: &[(&str, u64)]| Edge {
        failures: 120,
        refusals: refusals
            .iter()
            .map(|(code, n)| ((*code).to_owned(), *n))
            .collect(),
        ..edge("front", "cart", protocol, 9.0)
    };
    for (edge, reason) in [
        (refused("http/1.1", &[("RBAC", 120)]), "403 RBAC 100%"),
        (
            refused("http/2", &[("UF", 20), ("UH", 60)]),
            "503 UH 50%, 5xx 33%",
        ),
        (refused("grpc", &[("UF", 119)]), "UF 99%, its own <1%"),
        (refused("tcp", &[("NEWER", 120)]), "NEWER 100%"),
    ] {
        let shown = row(&edge, true);
        assert_eq!((shown.reason.as_str(), shown.p50.as_str()), (reason, "–"));
        assert_eq!(
            row(&edge, false).reason,
            "",
            "of what was before the window"
        );
    }
    let mut nobody = refused("http/1.1", &[("UH", 120)]);
    nobody.destination_identity = None;
    assert_eq!(row(&nobody, true).identity, "✘ sa/front → nobody reached");
}

#[test]
fn an_edge_slower_than_the_window_does_not_flicker() {
    let list = |seconds, edges: &[Edge]| EdgeList {
        window_seconds: seconds,
        edges: edges.to_vec(),
    };
    let (slow, stopped) = (
        edge("storefront", "prices", "websocket", 0.2),
        edge("storefront", "cart", "grpc", 9.0),
    );
    let shown = rows(
        &[slow.clone(), stopped.clone()],
        &list(60.0, &[slow.clone(), stopped]),
        &list(3.0, &[]),
    );
    let rates: Vec<(&str, &str)> = shown
        .iter()
        .map(|row| (row.to.as_str(), row.rps.as_str()))
        .collect();
    assert_eq!(rates, [("cart", "–"), ("prices", "0.2")]);

    // What failed before the window is not told as if it failed now.
    let failed = Edge {
        failures: 1,
        ..slow
    };
    let shown = rows(
        std::slice::from_ref(&failed),
        &list(60.0, std::slice::from_ref(&failed)),
        &list(3.0, &[]),
    );
    assert_eq!(shown[0].state, State::Quiet);
    assert_eq!(shown[0].reason, "");
}

#[test]
fn what_to_try_is_whole_on_a_narrow_terminal() {
    let of = |command: &str, shows: &str| Try {
        command: command.into(),
        shows: shows.into(),
    };
    let page = Page {
        tries: vec![
            of("kill 7", "take away"),
            of("/home/me/leno split", "shift it"),
        ],
        ..Page::default()
    };
    let lines = drawn(&page, 30, 12);
    assert_eq!(
        lines[5..8],
        [
            "  kill 7   take away",
            "  /home/me/leno split",
            "      shift it"
        ]
    );
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

FROM        TO          PROTO      RPS  OK     P50  P99  IDENTITY                      REASON
legacy      storefront  http/1.1   2.0  100%   1ms  4ms  ⚠ plaintext
storefront  cart        grpc       13   99.1%  1ms  4ms  ✔ sa/storefront → sa/cart     UF <1%
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
fn what_the_readme_shows_stands_in_columns() {
    let readme = include_str!("../../../../README.md");
    let block = |from: &str, to: &str| {
        let lines = readme.lines().skip_while(|line| !line.starts_with(from));
        let lines = lines.take_while(|line| !line.starts_with(to));
        lines
            .map(|line| line.chars().collect::<Vec<char>>())
            .collect::<Vec<_>>()
    };
    // Before where a column begins there are two blanks in every line.
    let begins_at = |lines: &[Vec<char>], at: usize| {
        lines.iter().all(|line| {
            let before = line.get(at - 2..at);
            before == Some(&[' ', ' ']) && line.get(at).is_some_and(|first| *first != ' ')
        })
    };
    let table = block("FROM  ", "cart ●●");
    let table: Vec<_> = table.into_iter().filter(|line| !line.is_empty()).collect();
    let text: String = table[0].iter().collect();
    for column in &HEADER[1..8] {
        assert!(begins_at(&table, text.find(column).unwrap()), "{column}");
    }
    let tries = &block("Try, in another", "```")[1..];
    let text: String = tries[0].iter().collect();
    assert!(table.len() > 5 && tries.len() == 4);
    assert!(begins_at(tries, text.find("shift the").unwrap()));
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
fn a_small_terminal_keeps_identities_and_reasons() {
    let page = Page {
        rows: sample(),
        tries: vec![Try {
            command: "leno split".into(),
            shows: "shift".into(),
        }],
        footer: "q ends it".into(),
        ..Page::default()
    };
    let at_80 = "storefront cart       grpc      13  99.1% 1ms 4ms ✔ storefront → cart    UF <1%";
    assert_eq!(drawn(&page, 80, 9)[4], at_80);
    let expected = [
        "",
        "",
        "FROM       TO         RPS OK    IDENTITY               REASON",
        "legacy     storefront 2.0 100%  ⚠ plaintext",
        "storefront cart       13  99.1% ✔ storefront → cart    UF <1%",
        "storefront catalog-v1 40  100%  ✔ storefront → catalog",
        "storefront prices     –   –     ✔ storefront → prices",
        "",
        "q ends it",
    ];
    assert_eq!(drawn(&page, 62, 9), expected);
}
