//! What the demo suggests to try works while it runs, and shows within a second.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use leno_e2e::{SOON, crowd, once_within};
use leno_testkit::{Capture, Process, Signal, until};
use serde_json::Value;

use crate::{Fixture, READY, places};

/// A demo that runs, what it offers to try, and what its edges carried so far.
struct Shown<'f> {
    fixture: &'f Fixture,
    home: PathBuf,
    demo: Process,
    /// The lines after `try:`, each a command and what it shows.
    tries: Vec<(String, String)>,
}

impl<'f> Shown<'f> {
    fn start(fixture: &'f Fixture, home: PathBuf) -> Self {
        let mut demo = fixture.demo(&home, &[]);
        let tries = until("it is ready and says what to try", READY, || {
            assert_eq!(demo.ended(), None, "{}", demo.stderr());
            let said = demo.stdout();
            let tries: Vec<(String, String)> = said
                .lines()
                .filter_map(|line| line.strip_prefix("try: ")?.split_once("   # "))
                .map(|(command, shows)| (command.to_owned(), shows.to_owned()))
                .collect();
            // The table comes after them.
            said.contains("IDENTITY").then_some(tries)
        });
        Self {
            fixture,
            home,
            demo,
            tries,
        }
    }

    /// Runs the one command that contains `word`, as it was printed, by a shell; what it was and what it said.
    #[track_caller]
    fn try_it(&self, word: &str) -> (String, String) {
        let mut of = self.tries.iter().filter(|(line, _)| line.contains(word));
        let (Some((line, _)), None) = (of.next(), of.next()) else {
            panic!("not one line with {word:?} in {:?}", self.tries);
        };
        (line.clone(), self.run(line))
    }

    /// Runs a line by a shell; what it said.
    #[track_caller]
    fn run(&self, line: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        places(&mut command, &self.home);
        self.fixture.host.run(&mut command).good().text()
    }

    /// The first process of the demo's own namespaces.
    fn init(&self) -> i32 {
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        let demo = self.demo.pid().to_string();
        let ours = network(&demo).expect("the demo runs");
        let tasks = fs::read_dir(format!("/proc/{demo}/task")).expect("its threads");
        let children = tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<String> = children
            .flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let mut inits = children
            .iter()
            .filter(|pid| network(pid).is_ok_and(|of| of != ours));
        inits
            .next()
            .and_then(|pid| pid.parse().ok())
            .expect("the arena's init")
    }

    /// A document of a command that is told of the demo's context.
    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let words = [&["--context", "demo"], words, &["-o", "json"]].concat();
        let mut command = self.fixture.leno(&self.home, &words);
        self.fixture.host.run(&mut command).good().json()
    }

    /// Requests and failures of each edge since the start, which is less than the window ago.
    #[track_caller]
    fn edges(&self) -> BTreeMap<String, (u64, u64)> {
        let document = self.json(&["top", "--window", "10m"]);
        let edges = document["edges"].as_array().expect("edges");
        let number = |edge: &Value, name: &str| edge[name].as_u64().expect("a number");
        edges
            .iter()
            .map(|edge| {
                let name = format!(
                    "{} → {}",
                    edge["source"].as_str().expect("a source"),
                    edge["destination"].as_str().expect("a destination")
                );
                (name, (number(edge, "requests"), number(edge, "failures")))
            })
            .collect()
    }

    /// How many requests an edge had so far, and how many of them failed.
    #[track_caller]
    fn edge(&self, name: &str) -> (u64, u64) {
        self.edges().get(name).copied().unwrap_or_default()
    }
}

pub(crate) fn what_it_suggests_works_while_it_runs(fixture: &mut Fixture) {
    let home = fixture.home();
    let mut shown = Shown::start(fixture, home.clone());
    assert_eq!(shown.tries.len(), 4, "{:?}", shown.tries);
    until("both versions of the catalog are called", SOON, || {
        let edges = shown.edges();
        let called = |name: &str| edges.get(name).is_some_and(|(requests, _)| *requests > 0);
        (called(V1) && called(V2)).then_some(())
    });
    its_logs_have_lines(&shown);
    its_payload_is_in_clear_only_where_the_caller_has_no_proxy(&shown);
    the_split_moves_all_traffic(&shown);
    a_replica_that_goes_takes_no_call_with_it(&shown);
    a_certificate_is_shown(&shown);
    a_forbidden_caller_is_refused_and_nobody_else(&shown);
    shown.demo.signal(Signal::INT);
    assert_eq!(shown.demo.wait(Duration::from_secs(15)), 0);
    fixture.wait_for_nothing_left(&home);
}

const V1: &str = "storefront → catalog-v1";
const V2: &str = "storefront → catalog-v2";
/// What was tried shows within this.
const VISIBLE: Duration = Duration::from_secs(1);
const CART: &str = "storefront → cart";
/// So many requests in a row tell that something has changed for good: by chance they would not come so.
const MANY: u64 = 30;

/// In every message of the shop's programs.
const PAYLOAD: &[u8] = b"leno-demo-payload";
/// The caller without a proxy.
const LEGACY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 77, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 2, 0, 0, 0, 1)),
];

fn its_logs_have_lines(shown: &Shown<'_>) {
    until("the log of a service has a line", SOON, || {
        let words = ["--context", "demo", "logs", "catalog"];
        let mut command = shown.fixture.leno(&shown.home, &words);
        let output = shown.fixture.host.run(&mut command).good();
        assert!(
            !output.stderr.contains("no access log"),
            "{}",
            output.stderr
        );
        output
            .text()
            .contains("storefront → catalog-")
            .then_some(())
    });
}

/// What crosses between the demo's hosts, while every edge carries requests, is encrypted.
fn its_payload_is_in_clear_only_where_the_caller_has_no_proxy(shown: &Shown<'_>) {
    let capture = Capture::start_at(shown.init(), &[PAYLOAD]);
    let before = shown.edges();
    until("every edge carries more", SOON * 2, || {
        let now = shown.edges();
        let more = |(name, (requests, _)): (&String, &(u64, u64))| {
            now.get(name).is_some_and(|of| of.0 >= requests + 3)
        };
        before.iter().all(more).then_some(())
    });
    let ends = capture.ends(PAYLOAD);
    let legacy = |(from, to): &(IpAddr, IpAddr)| LEGACY.contains(from) || LEGACY.contains(to);
    assert!(!ends.is_empty(), "the caller without a proxy is not seen");
    assert!(ends.iter().all(legacy), "{ends:?}");
}

/// The last call of the first version is seen within a second of the command's end.
fn the_split_moves_all_traffic(shown: &Shown<'_>) {
    let (line, said) = shown.try_it("split catalog");
    assert!(line.contains("v1=0 v2=100"), "{line}");
    assert!(said.contains("catalog"), "{said}");
    let mut first = Some(Instant::now());
    let took = once_within(VISIBLE.mul_f64(crowd()), || {
        let since = first.take().unwrap_or_else(|| {
            shown.run(&line.replace("v1=0 v2=100", "v1=50 v2=50"));
            let (v1, _) = shown.edge(V1);
            until("v1 is called again", SOON, || {
                (shown.edge(V1).0 > v1).then_some(())
            });
            shown.run(&line);
            Instant::now()
        });
        let (mut last, mut seen) = (since, (shown.edge(V1).0, shown.edge(V2).0));
        until("v1 is called no more, and v2 goes on", SOON, || {
            let edges = shown.edges();
            let (v1, v2) = (edges.get(V1)?.0, edges.get(V2)?.0);
            if v1 > seen.0 {
                (last, seen) = (Instant::now(), (v1, v2));
            }
            (v2 >= seen.1 + MANY).then_some(())
        });
        last - since
    });
    assert_eq!(took, Ok(()));
    assert_eq!((shown.edge(V1).1, shown.edge(V2).1), (0, 0), "none failed");
}

/// The other replica takes every call, and none fails; that there is one left is seen within a second.
fn a_replica_that_goes_takes_no_call_with_it(shown: &Shown<'_>) {
    let carts = || {
        let proxies = shown.json(&["proxy", "status"]);
        let proxies = proxies.as_array().expect("proxies").clone();
        let workloads = proxies
            .iter()
            .filter_map(|proxy| proxy["workloads"].as_array());
        workloads
            .flatten()
            .filter(|workload| {
                workload["service"]
                    .as_str()
                    .is_some_and(|of| of.ends_with("cart"))
            })
            .count()
    };
    until("there are two carts", SOON, || (carts() == 2).then_some(()));
    let (line, _) = shown.try_it("kill ");
    let pid = line.rsplit(' ').next().expect("a process id").to_owned();
    until("the process is gone", SOON, || {
        (!Path::new("/proc").join(&pid).exists()).then_some(())
    });
    let visible = VISIBLE.mul_f64(crowd());
    until("one cart is left", visible, || (carts() == 1).then_some(()));
    let (before, _) = shown.edge(CART);
    until("the other takes the calls", SOON, || {
        (shown.edge(CART).0 >= before + MANY).then_some(())
    });
    assert_eq!(shown.edge(CART).1, 0, "none failed");
}

fn a_certificate_is_shown(shown: &Shown<'_>) {
    let (_, said) = shown.try_it("proxy certs");
    assert!(
        said.contains("spiffe://demo.leno/ns/shop/sa/storefront"),
        "{said}"
    );
}

/// Failures grow on the edge that was forbidden, and on no other; the last call that was let through is seen within a
/// second of the command's end.
fn a_forbidden_caller_is_refused_and_nobody_else(shown: &Shown<'_>) {
    let (line, _) = shown.try_it(" deny ");
    assert!(line.ends_with("deny storefront cart"), "{line}");
    let mut first = Some(Instant::now());
    let took = once_within(VISIBLE.mul_f64(crowd()), || {
        let since = first.take().unwrap_or_else(|| {
            shown.run(&line.replace(
                " deny storefront cart",
                " delete accesspolicy deny-storefront-cart",
            ));
            let good = || shown.edge(CART).0 - shown.edge(CART).1;
            let before = good();
            until("it may call again", SOON, || {
                (good() > before).then_some(())
            });
            shown.run(&line);
            Instant::now()
        });
        let (mut last, mut seen) = (since, shown.edge(CART));
        until("every call of the cart is refused", SOON, || {
            let (requests, failures) = shown.edge(CART);
            if requests - seen.0 != failures - seen.1 {
                (last, seen) = (Instant::now(), (requests, failures));
            }
            (failures >= seen.1 + MANY).then_some(())
        });
        last - since
    });
    assert_eq!(took, Ok(()));
    for (name, (requests, failures)) in shown.edges() {
        assert!(
            name == CART || failures == 0,
            "{name}: {failures} of {requests} failed"
        );
    }
}
