//! Too much is asked of a program, or of its host: the least important is refused first, for a reason; the rest is served.

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use leno_e2e::{Backend, SOON, median, response};
use leno_testkit::{Answer, Member, Mesh, Wire, many_open_files, suite, until};
use leno_types::ports;

/// docs/limits.md, `app_connections`.
const PLACES: usize = 512;
/// 70 % of `app_queue`: so many of low priority wait while others ask as well.
const LOW_WAITING: usize = 717;

/// `web` on a, published on 8080; `caller` on b; hosts s and t are outside.
struct Fixture {
    mesh: Mesh,
    web: Web,
    caller: Member,
}

/// A program that answers `/hold` when its gate is open, and everything else at once.
struct Web {
    _member: Member,
    _backend: Backend,
    gate: Arc<RwLock<()>>,
    held: Arc<AtomicUsize>,
}

fn start() -> Fixture {
    many_open_files();
    let mut mesh = Mesh::with(&["a", "b"], &["web"]);
    mesh.network.add("s");
    mesh.network.add("t");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let program = mesh.run(&a).service("web");
    let program = program.port("80:8080/http").option("publish", "8080");
    let member = program.start();
    let (gate, held): (Arc<RwLock<()>>, Arc<AtomicUsize>) = Default::default();
    let (opened, count) = (Arc::clone(&gate), Arc::clone(&held));
    let backend = Backend::connections(member.listen(8080), move |mut wire| {
        while let Ok(head) = wire.try_head() {
            if head.starts_with("GET /hold ") {
                count.fetch_add(1, Ordering::SeqCst);
                drop(opened.read());
            }
            if wire.try_send(response(200, "", "web")).is_err() {
                return;
            }
        }
    });
    let caller = mesh.run(&b).start();
    let fixture = Fixture {
        web: Web {
            _member: member,
            _backend: backend,
            gate,
            held,
        },
        mesh,
        caller,
    };
    until("web is called by name and from outside", SOON, || {
        let member = fixture.ask("/", "")?;
        let outside = fixture.outside("s", "/").try_message().ok()?;
        (member.status() == 200 && outside.status() == 200).then_some(())
    });
    fixture
}

suite!(
    start,
    [
        while_all_is_calm_nothing_is_refused,
        callers_from_outside_leave_room_for_members,
        a_program_leaves_its_neighbours_files_to_open,
    ]
);

impl Fixture {
    /// What a member is answered.
    fn ask(&self, path: &str, fields: &str) -> Option<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: web\r\n{fields}\r\n");
        let mut wire = self.caller.try_connect("web", 80).ok()?;
        wire.try_send(request).ok()?;
        wire.try_message().ok()
    }

    /// A caller from outside who has asked.
    fn outside(&self, from: &str, path: &str) -> Wire {
        let at: SocketAddr = (self.mesh.host("a").v4, 8080).into();
        let stream = self.mesh.host(from).connect(at).expect("a connection");
        let mut wire = Wire::new(stream);
        wire.send(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n"));
        wire
    }

    fn shed(&self, labels: &[&str]) -> f64 {
        let of = |host| self.mesh.metric(host, "leno_shed_total", labels);
        of("a") + of("b")
    }
}

fn while_all_is_calm_nothing_is_refused(fixture: &mut Fixture) {
    for _ in 0..20 {
        for fields in ["", "priority: u=7\r\n"] {
            let answer = fixture.ask("/", fields).expect("an answer");
            assert_eq!(answer.status(), 200, "{}", answer.head);
        }
        assert_eq!(fixture.outside("s", "/").message().status(), 200);
    }
    assert_eq!(fixture.shed(&[]), 0.0);
}

/// Whether there is something to read, without waiting.
fn is_answered(wire: &Wire) -> bool {
    let stream = wire.stream();
    stream.set_nonblocking(true).expect("a socket's flag");
    let answered = stream.peek(&mut [0]).is_ok();
    stream.set_nonblocking(false).expect("a socket's flag");
    answered
}

fn callers_from_outside_leave_room_for_members(fixture: &mut Fixture) {
    let gate = Arc::clone(&fixture.web.gate);
    let shut = gate.write().expect("no panic");
    // All places that low priority gets once others ask as well; one address alone gets no more than 252.
    let held = (0..PLACES * 7 / 10 + 1).map(|count| {
        let from = if count < 252 { "s" } else { "t" };
        fixture.outside(from, "/hold")
    });
    let first: Vec<Wire> = held.collect();
    until("the program is at them", Duration::from_secs(20), || {
        (fixture.web.held.load(Ordering::SeqCst) == first.len()).then_some(())
    });
    let unhurried = |fixture: &Fixture| {
        let since = Instant::now();
        let answer = fixture.ask("/", "").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        since.elapsed()
    };
    unhurried(fixture);
    let more = (0..LOW_WAITING + 200).map(|_| fixture.outside("t", "/hold"));
    let mut more: Vec<Wire> = more.collect();
    let refused = until("those for whom there is no room are told so", SOON, || {
        unhurried(fixture);
        let refused = more.iter_mut().filter(|wire| is_answered(wire));
        let refused: Vec<Answer> = refused.map(Wire::message).collect();
        (!refused.is_empty()).then_some(refused)
    });
    for answer in &refused {
        assert_eq!(answer.status(), 503, "{}", answer.head);
        assert_eq!(answer.field("retry-after"), Some("1"), "{}", answer.head);
        assert_eq!(answer.field("x-leno-refused"), None, "{}", answer.head);
    }
    // A member is served as if nobody else were there.
    let took = median((0..20).map(|_| unhurried(fixture)).collect());
    assert!(took < Duration::from_secs(1), "{took:?} while others wait");
    until("log, metrics and admin page tell why", SOON, || {
        let log = fixture.mesh.access_log("a");
        let line = log.iter().find(|line| line["response_flags"] == "OM")?;
        assert_eq!(line["response_code"], 503, "{line}");
        let refused = fixture
            .mesh
            .metric("a", "leno_refused_total", &["reason=\"OM\""]);
        let page = fixture.mesh.admin("a", "/refusals").to_string();
        (refused >= 1.0 && page.contains("\"OM\"")).then_some(())
    });
    until("people are told", SOON, || {
        let said = fixture.mesh.leno(&["status"]).text();
        said.contains("503 OM").then_some(())
    });
    // It is busy, not ill: its health is asked past the line, and its proxy's elsewhere.
    let at = ([127, 0, 0, 1], ports::READINESS).into();
    let mut probe = Wire::new(fixture.mesh.host("a").connect(at).expect("a connection"));
    let ready = probe.ask("GET /healthz/ready HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(ready.status(), 200, "{}", ready.head);
    let said = fixture.mesh.leno(&["status"]).text();
    let web = said.lines().find(|line| line.starts_with("web-"));
    assert!(web.is_some_and(|line| line.contains(" healthy ")), "{said}");
    assert!(fixture.shed(&["priority=\"low\"", "signal=\"app\""]) >= 1.0);
    for priority in ["default", "high"] {
        let label = format!("priority=\"{priority}\"");
        assert_eq!(fixture.shed(&[&label]), 0.0, "{priority}");
    }
    drop((shut, first, more));
    until("whoever comes then is served", SOON, || {
        let outside = fixture.outside("s", "/").try_message().ok()?;
        let member = fixture.ask("/", "priority: u=7\r\n")?;
        (outside.status() == 200 && member.status() == 200).then_some(())
    });
    for _ in 0..20 {
        let answer = fixture.ask("/", "priority: u=7\r\n").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        assert_eq!(fixture.outside("s", "/").message().status(), 200);
    }
}

fn a_program_leaves_its_neighbours_files_to_open(fixture: &mut Fixture) {
    /// So many may the agent have open; an eighth of it are one program's connections.
    const FILES: usize = 800;
    let host = fixture.mesh.network.add("few");
    let token = fixture.mesh.token(&[]);
    let join = fixture.mesh.join_command(&host, &token);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {FILES}; exec \"$0\" \"$@\"")])
        .arg(join.get_program())
        .args(join.get_args());
    let agent = host.spawn(&mut command);
    fixture.mesh.adopt_agent("few", agent);
    fixture.mesh.wait_ready("few");
    let (greedy, second) = (
        fixture.mesh.run(&host).start(),
        fixture.mesh.run(&host).start(),
    );
    let world = fixture.mesh.network.add_outside("world");
    let at: SocketAddr = (world.v4, 9000).into();
    let _world = Backend::connections(world.listen(at).expect("a listener"), |mut wire| {
        // Says something and holds on.
        if wire.try_send("x").is_ok() {
            drop(wire.try_rest());
        }
    });
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..FILES / 8 + 20 {
        // Above the ceiling it is reset, at once or with the first look.
        let heard = greedy.within(|| {
            let mut stream = TcpStream::connect_timeout(&at, SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            stream.read_exact(&mut [0]).map(|()| stream)
        });
        held.extend(heard);
    }
    assert_eq!(held.len(), FILES / 8);
    let mut wire = second.connect("web", 80);
    let answer = wire.ask("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    until("the ceiling is counted", SOON, || {
        let limit = ["limit=\"outbound_connections\""];
        let met = fixture
            .mesh
            .metric("few", "leno_limit_reached_total", &limit);
        (met >= 20.0).then_some(())
    });
}
