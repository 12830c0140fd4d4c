//! `leno demo`: what it shows is true, and nothing of it is left.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    time::Duration,
};

use leno_e2e::SOON;
use leno_testkit::{Host, Network, Process, Signal, leno_binary, need, skip, suite, until};
use serde_json::Value;

/// Within so long nothing is left.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// A demo shows traffic within so long, also a build that is not optimised, on a busy machine.
const READY: Duration = Duration::from_secs(40);

/// A machine with nothing on it.
struct Fixture {
    host: Rc<Host>,
    _network: Network,
    before: Vec<String>,
    mounts: Vec<String>,
    number: u32,
}

fn start() -> Fixture {
    let mut network = Network::new();
    Fixture {
        host: network.add("m"),
        _network: network,
        before: processes(),
        mounts: mounts(),
        number: 0,
    }
}

suite!(
    start,
    [
        its_document_is_complete_and_every_edge_carried_traffic,
        two_run_side_by_side,
        what_it_suggests_works_while_it_runs,
        however_it_is_ended_nothing_is_left,
        an_ordinary_user_sees_it_as_well,
        where_namespaces_are_forbidden_it_names_the_permission,
    ]
);

/// Everything that runs in this test's own PID namespace: id and program.
fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let mut found: Vec<String> = entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            (!stat.contains(") Z ")).then(|| {
                format!(
                    "{pid} {}",
                    fs::read_to_string(entry.path().join("comm"))
                        .unwrap_or_default()
                        .trim()
                )
            })
        })
        .collect();
    found.sort();
    found
}

/// The mounts of this test's own namespace, by their mount points.
fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let point = |line: &str| line.split(' ').nth(4).unwrap_or_default().to_owned();
    text.lines().map(point).collect()
}

impl Fixture {
    /// A home of its own for each run, so that whatever is left there is seen.
    fn home(&mut self) -> PathBuf {
        self.number += 1;
        let home = self.host.disk().join(format!("home-{}", self.number));
        for dir in ["tmp", "config", "data", "run"] {
            fs::create_dir_all(home.join(dir)).expect("a home");
        }
        home
    }

    fn leno(&self, home: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(leno_binary());
        command.args(words);
        places(&mut command, home);
        command
    }

    fn demo(&self, home: &Path, words: &[&str]) -> Process {
        self.host.spawn(self.leno(home, &["demo"]).args(words))
    }

    /// Nothing runs, no file is there, no link is left, no context.
    #[track_caller]
    fn assert_nothing_left(&self, home: &Path) {
        until("every process is gone", LEFT_WITHIN, || {
            let left: Vec<String> = processes()
                .into_iter()
                .filter(|of| !self.before.contains(of))
                .collect();
            left.is_empty().then_some(())
        });
        let mut files = Vec::new();
        walk(home, &mut files);
        assert!(files.is_empty(), "{files:?}");
        let links = self
            .host
            .within(|| fs::read_to_string("/proc/thread-self/net/dev"))
            .expect("the links");
        assert_eq!(
            links.lines().filter(|line| line.contains(':')).count(),
            2,
            "{links}"
        );
        // Fewer may be left: the host takes its copies away when what is mounted there is removed.
        let new: Vec<String> = mounts()
            .into_iter()
            .filter(|point| !self.mounts.contains(point))
            .collect();
        assert!(new.is_empty(), "{new:?}");
    }
}

fn places(command: &mut Command, home: &Path) {
    command
        .env("HOME", home)
        .env("TMPDIR", home.join("tmp"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env_remove("LENO_CONFIG")
        .env_remove("LENO_CONTEXT");
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

/// Checks the document as the design describes it.
#[track_caller]
fn check(document: &Value, mesh: &str) {
    assert_eq!(document["mesh"], mesh);
    assert_eq!(document["trust_domain"], format!("{mesh}.leno"));
    assert!(
        document["version"]
            .as_str()
            .is_some_and(|version| !version.is_empty())
    );
    let ready = document["ready_ms"].as_u64().expect("ready_ms");
    assert!(ready > 0 && ready < 30_000, "{ready}");
    let edges = document["edges"].as_array().expect("edges");
    let mut protocols: Vec<&str> = edges
        .iter()
        .filter_map(|edge| edge["protocol"].as_str())
        .collect();
    protocols.sort_unstable();
    protocols.dedup();
    assert_eq!(
        protocols,
        ["grpc", "http/1.1", "http/2", "tcp", "websocket"]
    );
    for edge in edges {
        let number = |name: &str| {
            edge[name]
                .as_f64()
                .unwrap_or_else(|| panic!("{name} in {edge}"))
        };
        assert!(number("requests") >= 1.0, "{edge}");
        assert!(number("rps") > 0.0, "{edge}");
        assert!(
            number("success_rate") >= 0.99 && number("success_rate") <= 1.0,
            "{edge}"
        );
        let expected = (number("requests") - number("failures")) / number("requests");
        assert!((number("success_rate") - expected).abs() < 1e-9, "{edge}");
        if edge["p50_ms"].is_number() {
            assert!(
                number("p50_ms") > 0.0 && number("p50_ms") <= number("p99_ms"),
                "{edge}"
            );
        } else {
            assert_eq!(edge["protocol"], "tcp", "{edge}");
        }
        let identity = |of: &str, name: &str| {
            let name = name.split("-v").next().unwrap_or_default().to_owned();
            assert_eq!(
                edge[of],
                format!("spiffe://{mesh}.leno/ns/shop/sa/{name}"),
                "{edge}"
            );
        };
        if edge["source"] == "legacy" {
            assert!(
                edge["mtls"] == false
                    && edge["source_identity"].is_null()
                    && edge["destination_identity"].is_null(),
                "{edge}"
            );
        } else {
            assert_eq!(edge["mtls"], true, "{edge}");
            identity(
                "source_identity",
                edge["source"].as_str().expect("a source"),
            );
            identity(
                "destination_identity",
                edge["destination"].as_str().expect("a destination"),
            );
        }
    }
    assert!(
        edges
            .iter()
            .any(|edge| edge["source"] == "legacy" && edge["destination"] == "storefront")
    );
    let proxies = document["proxies"].as_array().expect("proxies");
    assert!(proxies.len() >= 7, "{proxies:?}");
    let workloads = |proxy: &Value| proxy["workloads"].as_array().map_or(0, Vec::len);
    assert!(
        proxies.iter().any(|proxy| workloads(proxy) == 2),
        "two programs share a host"
    );
    assert!(proxies.iter().map(workloads).sum::<usize>() >= 8);
    let memory: u64 = proxies
        .iter()
        .filter_map(|proxy| proxy["pss_bytes"].as_u64())
        .sum();
    assert!(memory > 0 && memory < 150_000_000, "{memory}");
    assert!(proxies.iter().all(|proxy| {
        proxy["config_version"]
            .as_str()
            .is_some_and(|version| !version.is_empty())
    }));
}

fn its_document_is_complete_and_every_edge_carried_traffic(fixture: &mut Fixture) {
    let home = fixture.home();
    let output = fixture
        .host
        .run(&mut fixture.leno(&home, &["demo", "--for", "10s", "-o", "json"]));
    assert_eq!(output.code, 0, "{}{}", output.text(), output.stderr);
    check(&output.json(), "demo");
    fixture.assert_nothing_left(&home);
}

fn two_run_side_by_side(fixture: &mut Fixture) {
    let home = fixture.home();
    let mut first = fixture.demo(&home, &["--for", "14s", "-o", "json"]);
    until("the first has its name", READY, || {
        let config = fs::read_to_string(home.join("config/leno/config")).unwrap_or_default();
        config.contains("demo").then_some(())
    });
    let mut second = fixture.demo(&home, &["--for", "8s", "-o", "json"]);
    for (process, mesh) in [(&mut second, "demo-2"), (&mut first, "demo")] {
        let code = process.wait(Duration::from_secs(70));
        assert_eq!(code, 0, "{mesh}: {}{}", process.stdout(), process.stderr());
        check(
            &serde_json::from_str(&process.stdout()).expect("one document"),
            mesh,
        );
    }
    fixture.assert_nothing_left(&home);
}

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
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        places(&mut command, &self.home);
        (
            line.clone(),
            self.fixture.host.run(&mut command).good().text(),
        )
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

fn what_it_suggests_works_while_it_runs(fixture: &mut Fixture) {
    let home = fixture.home();
    let mut shown = Shown::start(fixture, home.clone());
    assert_eq!(shown.tries.len(), 4, "{:?}", shown.tries);
    until("both versions of the catalog are called", SOON, || {
        let edges = shown.edges();
        let called = |name: &str| edges.get(name).is_some_and(|(requests, _)| *requests > 0);
        (called(V1) && called(V2)).then_some(())
    });
    the_split_moves_all_traffic(&shown);
    a_replica_that_goes_takes_no_call_with_it(&shown);
    a_certificate_is_shown(&shown);
    a_forbidden_caller_is_refused_and_nobody_else(&shown);
    shown.demo.signal(Signal::INT);
    assert_eq!(shown.demo.wait(Duration::from_secs(15)), 0);
    fixture.assert_nothing_left(&home);
}

const V1: &str = "storefront → catalog-v1";
const V2: &str = "storefront → catalog-v2";
const CART: &str = "storefront → cart";
/// So many requests in a row tell that something has changed for good: by chance they would not come so.
const MANY: u64 = 30;

/// The first version is called no more, while the second takes many requests.
fn the_split_moves_all_traffic(shown: &Shown<'_>) {
    let (line, said) = shown.try_it("split catalog");
    assert!(line.contains("v1=0 v2=100"), "{line}");
    assert!(said.contains("catalog"), "{said}");
    let mut since = (shown.edge(V1).0, shown.edge(V2).0);
    until("v1 is called no more, and v2 goes on", SOON, || {
        let edges = shown.edges();
        let (v1, v2) = (edges.get(V1)?.0, edges.get(V2)?.0);
        if v1 > since.0 {
            since = (v1, v2);
        }
        (v2 >= since.1 + MANY).then_some(())
    });
    assert_eq!((shown.edge(V1).1, shown.edge(V2).1), (0, 0), "none failed");
}

/// The other replica takes every call, and none fails.
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
    until("one cart is left", SOON, || (carts() == 1).then_some(()));
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

/// Failures grow on the edge that was forbidden, and on no other.
fn a_forbidden_caller_is_refused_and_nobody_else(shown: &Shown<'_>) {
    let (line, _) = shown.try_it(" deny ");
    assert!(line.ends_with("deny storefront cart"), "{line}");
    let mut since = None;
    until("every call of the cart is refused", SOON, || {
        let (requests, failures) = shown.edge(CART);
        // The first refusals may come between calls that were let through before.
        let (first, refused) = *since.get_or_insert((requests, failures));
        if requests - first != failures - refused {
            since = Some((requests, failures));
        }
        (failures >= refused + MANY && requests - first == failures - refused).then_some(())
    });
    for (name, (requests, failures)) in shown.edges() {
        assert!(
            name == CART || failures == 0,
            "{name}: {failures} of {requests} failed"
        );
    }
}

fn however_it_is_ended_nothing_is_left(fixture: &mut Fixture) {
    for signal in [Signal::TERM, Signal::KILL] {
        let home = fixture.home();
        let mut demo = fixture.demo(&home, &[]);
        until("it is ready", READY, || {
            assert_eq!(demo.ended(), None, "{}", demo.stderr());
            (demo.stdout() + &demo.stderr())
                .contains("mTLS on")
                .then_some(())
        });
        demo.signal(signal);
        demo.wait(Duration::from_secs(15));
        fixture.assert_nothing_left(&home);
    }
    // In the middle of its start.
    let home = fixture.home();
    let mut demo = fixture.demo(&home, &[]);
    until("it has begun", READY, || {
        (processes().len() > fixture.before.len() + 4).then_some(())
    });
    demo.signal(Signal::KILL);
    demo.wait(Duration::from_secs(15));
    fixture.assert_nothing_left(&home);
}

fn an_ordinary_user_sees_it_as_well(fixture: &mut Fixture) {
    let setpriv = need!("setpriv");
    let user = ["--reuid=4321", "--regid=4321", "--clear-groups"];
    let probe = fixture.host.run(
        Command::new(&setpriv)
            .args(user)
            .args(["unshare", "-Urn", "true"]),
    );
    if probe.code != 0 {
        skip!(
            "an ordinary user can make no namespaces here: {}",
            probe.stderr.trim()
        );
    }
    let home = fixture.home();
    fixture
        .host
        .exec(&["chown", "-R", "4321:4321", &home.display().to_string()])
        .good();
    let mut command = Command::new(setpriv);
    command
        .args(user)
        .arg(leno_binary())
        .args(["demo", "--for", "8s", "-o", "json"]);
    places(&mut command, &home);
    let output = fixture.host.run(&mut command);
    assert_eq!(output.code, 0, "{}{}", output.text(), output.stderr);
    check(&output.json(), "demo");
    fixture.assert_nothing_left(&home);
}

fn where_namespaces_are_forbidden_it_names_the_permission(fixture: &mut Fixture) {
    let home = fixture.home();
    let leno = leno_binary().display().to_string();
    let script =
        format!("echo 0 > /proc/sys/user/max_net_namespaces && exec {leno} demo --for 1s -o json");
    let unshare = need!("unshare");
    let mut command = Command::new(unshare);
    command.args(["-Ur", "sh", "-c", &script]);
    places(&mut command, &home);
    let output = fixture.host.run(&mut command);
    if output.stderr.contains("max_net_namespaces") && !output.stderr.contains("leno") {
        skip!("this cannot be forbidden here: {}", output.stderr.trim());
    }
    assert_eq!(output.code, 4, "{}", output.stderr);
    assert_eq!(
        output.text(),
        "",
        "standard output is for the document alone"
    );
    assert!(
        output.stderr.contains("namespace") && output.stderr.contains("sysctl"),
        "{}",
        output.stderr
    );
    fixture.assert_nothing_left(&home);
}
