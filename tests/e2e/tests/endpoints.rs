//! Several endpoints of one service: who is called, who is passed over, and what becomes of one that has vanished.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use leno_e2e::{Backend, SOON, response, shown};
use leno_testkit::{Host, Member, Mesh, Wire, need, suite, until, until_ok};

/// Hosts a, b and c for replicas, d for callers.
struct Fixture {
    mesh: Mesh,
    caller: Member,
}

fn start() -> Fixture {
    let services = ["even", "ill", "few", "gone"];
    let mesh = Mesh::with(&["a", "b", "c", "d"], &services);
    let caller = mesh.run(&mesh.host("d")).start();
    Fixture { mesh, caller }
}

suite!(
    start,
    [
        a_slow_replica_gets_less,
        a_replica_that_fails_is_passed_over_and_comes_back_after_its_time,
        retries_stay_within_their_budget,
        streams_to_a_host_that_has_vanished_end_with_their_reason,
    ]
);

/// One replica: what it answers may be changed, and it counts who asked.
struct Replica {
    _member: Member,
    _backend: Backend,
    asked: Arc<AtomicU64>,
    status: Arc<AtomicU16>,
    delay: Arc<AtomicU64>,
}

impl Replica {
    fn start(mesh: &Mesh, host: &str, service: &str, open: &Arc<Gate>) -> Self {
        let host = mesh.host(host);
        let program = mesh.run(&host).service(service).port("80:8080/http");
        let member = program.option("check", "none").start();
        let (asked, delay) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let status = Arc::new(AtomicU16::new(200));
        let (count, code, wait) = (Arc::clone(&asked), Arc::clone(&status), Arc::clone(&delay));
        let open = Arc::clone(open);
        let backend = Backend::http(member.listen(8080), move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            open.pass();
            std::thread::sleep(Duration::from_millis(wait.load(Ordering::SeqCst)));
            response(code.load(Ordering::SeqCst), "", "replica")
        });
        Self {
            _member: member,
            _backend: backend,
            asked,
            status,
            delay,
        }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

/// Holds answers back while it is shut.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.lock().unwrap_or_else(PoisonError::into_inner) = shut;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.opened.wait_while(shut, |shut| *shut);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Fixture {
    /// Three replicas, and the caller knows of all of them.
    #[track_caller]
    fn replicas(&self, service: &str, open: &Arc<Gate>) -> [Replica; 3] {
        let all = ["a", "b", "c"].map(|host| Replica::start(&self.mesh, host, service, open));
        until_ok("each of them is called", SOON, || {
            self.get(service)?;
            match all.iter().all(|replica| replica.asked() > 0) {
                true => Ok(()),
                false => Err(503),
            }
        });
        all
    }

    /// A request on a connection of its own; another status than 200 is the error.
    fn get(&self, service: &str) -> Result<(), u16> {
        let request = format!("GET / HTTP/1.1\r\nhost: {service}\r\nconnection: close\r\n\r\n");
        let wire = self.caller.try_connect(service, 80);
        let answer = wire.and_then(|mut wire| {
            wire.try_send(request)?;
            wire.try_message()
        });
        match answer {
            Ok(answer) if answer.status() == 200 => Ok(()),
            Ok(answer) => Err(answer.status()),
            Err(error) => panic!("no answer at all: {error}"),
        }
    }

    fn counter(&self, name: &str) -> f64 {
        self.mesh.metric("d", name, &[])
    }
}

/// Requests by eight callers at once, so many each; what each replica was asked.
fn shares(fixture: &Fixture, service: &str, each: usize, all: &[Replica; 3]) -> [u64; 3] {
    let before = [0, 1, 2].map(|i: usize| all[i].asked());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let caller = fixture.caller.connector();
            scope.spawn(move || {
                let mut wire = caller.connect(service, 80).expect("a connection");
                for _ in 0..each {
                    let answer = wire.ask(format!("GET / HTTP/1.1\r\nhost: {service}\r\n\r\n"));
                    assert_eq!(answer.status(), 200, "{}", answer.head);
                }
            });
        }
    });
    [0, 1, 2].map(|i: usize| all[i].asked() - before[i])
}

fn a_slow_replica_gets_less(fixture: &mut Fixture) {
    let all = fixture.replicas("even", &Arc::default());
    // As quick as each other, within what threads on a busy machine are.
    for replica in &all {
        replica.delay.store(5, Ordering::SeqCst);
    }
    let even = shares(fixture, "even", 50, &all);
    assert_eq!(even.iter().sum::<u64>(), 400, "{even:?}");
    assert!(even.iter().all(|share| *share >= 60), "{even:?}");
    all[1].delay.store(100, Ordering::SeqCst);
    let uneven = shares(fixture, "even", 50, &all);
    assert_eq!(uneven.iter().sum::<u64>(), 400, "{uneven:?}");
    assert!(uneven[1] * 3 < uneven[0].min(uneven[2]), "{uneven:?}");
}

fn a_replica_that_fails_is_passed_over_and_comes_back_after_its_time(fixture: &mut Fixture) {
    const IN_A_ROW: u64 = 5;
    const HOLD: Duration = Duration::from_secs(30);
    let all = fixture.replicas("ill", &Arc::default());
    let [_, b, c] = &all;
    let ejections = || fixture.counter("leno_endpoint_ejections_total");
    let (ejected_before, asked_before) = (ejections(), b.asked());
    b.answers(500);
    let mut failed = 0;
    until("it has failed often enough", SOON, || {
        failed += u64::from(fixture.get("ill") == Err(500));
        (failed == IN_A_ROW).then_some(())
    });
    let since = Instant::now();
    for _ in 0..60 {
        assert_eq!(fixture.get("ill"), Ok(()));
    }
    assert_eq!(b.asked() - asked_before, IN_A_ROW, "it is called no more");
    until("it is counted", SOON, || {
        (ejections() - ejected_before >= 1.0).then_some(())
    });
    // A second one of three would be more than half: it goes on being asked, and its answer is its own.
    c.answers(500);
    let asked = c.asked();
    until("the second one goes on being called", SOON, || {
        let failed = fixture.get("ill") == Err(500);
        (failed && c.asked() >= asked + 3 * IN_A_ROW).then_some(())
    });
    all[0].answers(500);
    for _ in 0..30 {
        assert_eq!(fixture.get("ill"), Err(500), "an answer of the program");
    }
    assert_eq!(b.asked() - asked_before, IN_A_ROW, "nor is it called now");
    for replica in &all {
        replica.answers(200);
    }
    until("it comes back", HOLD + SOON, || {
        assert_eq!(fixture.get("ill"), Ok(()));
        std::thread::sleep(Duration::from_millis(20));
        (b.asked() - asked_before > IN_A_ROW).then_some(())
    });
    let out = since.elapsed();
    assert!(out > HOLD - Duration::from_secs(1), "back after {out:?}");
}

/// Nothing passes to or from port 15008 of a host any more, and nobody is told.
fn cut(host: &Host) {
    let rules = "add table inet cut
        add chain inet cut in { type filter hook input priority 0; }
        add chain inet cut out { type filter hook output priority 0; }
        add rule inet cut in tcp dport 15008 drop
        add rule inet cut out tcp sport 15008 drop";
    host.exec(&["nft", rules]).good();
}

/// What was cut is whole again.
fn mend(host: &Host) {
    host.exec(&["nft", "delete table inet cut"]).good();
}

fn retries_stay_within_their_budget(fixture: &mut Fixture) {
    const REQUESTS: u64 = 100;
    // A fifth of what was asked in the last ten seconds, or three at a time in each of the proxy's threads: where one
    // ends at once another may begin.
    const BUDGET: f64 = 0.2;
    const SPARE: f64 = 12.0;
    let _nft = need!("nft");
    let gate = Arc::new(Gate::default());
    let all = fixture.replicas("few", &gate);
    let hosts = [fixture.mesh.host("b"), fixture.mesh.host("c")];
    for host in &hosts {
        cut(host);
    }
    // A caller that has no connection yet: what it sends there waits for one, and fails at the same time.
    let caller = fixture.mesh.run(&fixture.mesh.host("d")).start();
    let (retries_before, asked_before) = (fixture.counter("leno_retries_total"), all[0].asked());
    gate.set(true);
    let mut open: Vec<Wire> = (0..REQUESTS).map(|_| caller.connect("few", 80)).collect();
    for wire in &mut open {
        wire.send("GET / HTTP/1.1\r\nhost: few\r\n\r\n");
    }
    let refused = "UF";
    let flags = format!("reason=\"{refused}\"");
    let turned_away = || fixture.mesh.metric("d", "leno_refused_total", &[&flags]);
    until("each is with the replica or was refused", SOON, || {
        let with_it = all[0].asked() - asked_before;
        #[expect(clippy::cast_precision_loss, reason = "a hundred at most")]
        let all_there = with_it as f64 + turned_away() >= REQUESTS as f64;
        all_there.then_some(())
    });
    gate.set(false);
    let answers: Vec<_> = open.iter_mut().map(Wire::message).collect();
    let bad: Vec<_> = answers.iter().filter(|of| of.status() != 200).collect();
    let reached = all[0].asked() - asked_before;
    assert_eq!(reached + bad.len() as u64, REQUESTS, "none twice");
    let one = bad.first().expect("the budget was met");
    shown(&fixture.mesh, one, "d", refused);
    let retries = until("retries are counted", SOON, || {
        let now = fixture.counter("leno_retries_total") - retries_before;
        (now >= 1.0).then_some(now)
    });
    // Requests of finding the replicas are counted too.
    #[expect(clippy::cast_precision_loss, reason = "some hundreds at most")]
    let asked = all.iter().map(Replica::asked).sum::<u64>() as f64 + REQUESTS as f64;
    assert!(
        retries <= asked * BUDGET + SPARE,
        "{retries} retries of {asked} requests"
    );
    // What a retry saved was answered elsewhere.
    assert!(reached > 0, "{reached}");
    for host in &hosts {
        mend(host);
    }
}

fn streams_to_a_host_that_has_vanished_end_with_their_reason(fixture: &mut Fixture) {
    let _nft = need!("nft");
    let a = fixture.mesh.host("a");
    let gone = fixture.mesh.run(&a).service("gone");
    let member = gone.port("80:8080").option("check", "none").start();
    let (told, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (began, over) = (Arc::clone(&told), Arc::clone(&ended));
    let _backend = Backend::connections(member.listen(8080), move |mut wire| {
        // Asked, it says nothing until whoever asked is gone.
        if wire.try_message().is_ok() {
            began.fetch_add(1, Ordering::SeqCst);
            drop(wire.try_rest());
            over.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut wire = until_ok("it is called", SOON, || {
        let mut wire = fixture.caller.try_connect("gone", 80)?;
        wire.try_send("GET / HTTP/1.1\r\nhost: gone\r\n\r\n")?;
        Ok::<_, std::io::Error>(wire)
    });
    until("the program was asked", SOON, || {
        (told.load(Ordering::SeqCst) == 1).then_some(())
    });
    let dead = |host: &str| {
        let labels = ["event=\"h2_dead_peers\""];
        fixture.mesh.metric(host, "leno_http_events_total", &labels)
    };
    let before = [dead("d"), dead("a")];
    cut(&a);
    let since = Instant::now();
    let answer = wire.message();
    let took = since.elapsed();
    assert_eq!(answer.status(), 503, "{}", answer.head);
    shown(&fixture.mesh, &answer, "d", "UC");
    // Four seconds of silence and five without an answer to a ping; nothing but a ping ends it then.
    let within = Duration::from_secs(6)..Duration::from_secs(15);
    assert!(within.contains(&took), "{took:?}");
    until("both ends noticed", SOON, || {
        let now = [dead("d"), dead("a")];
        (now[0] > before[0] && now[1] > before[1]).then_some(())
    });
    until("the program is told that its caller is gone", SOON, || {
        (ended.load(Ordering::SeqCst) == 1).then_some(())
    });
    mend(&a);
}
