//! What does not answer at all: a dial ends after its time, with a reason, and not when the kernel gives up.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use leno_e2e::{SOON, shown};
use leno_testkit::{Answer, Member, Mesh, need, suite, until_ok};

/// `full` on a, whose program accepts nobody; `caller` on b.
struct Fixture {
    mesh: Mesh,
    full: Member,
    caller: Member,
}

fn start() -> Fixture {
    let mesh = Mesh::with(&["a", "b"], &["full"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let full = mesh.run(&a).service("full");
    let full = full.port("80:8080/http").option("check", "none").start();
    let caller = mesh.run(&b).start();
    Fixture { mesh, full, caller }
}

suite!(
    start,
    [
        a_program_that_accepts_nobody_is_given_up_in_time,
        a_host_that_answers_nothing_is_given_up_in_time,
    ]
);

/// `connect_timeout` is a second; a host and a program may have two addresses each. The kernel alone takes two minutes.
const IN_TIME: std::ops::Range<Duration> = Duration::from_millis(950)..Duration::from_secs(9);

/// What a caller is answered, and after which time.
fn post(caller: &Member) -> std::io::Result<(Answer, Duration)> {
    let mut wire = caller.try_connect("full", 80)?;
    let since = Instant::now();
    wire.try_send("POST / HTTP/1.1\r\nhost: full\r\ncontent-length: 0\r\n\r\n")?;
    let answer = wire.try_message()?;
    Ok((answer, since.elapsed()))
}

fn a_program_that_accepts_nobody_is_given_up_in_time(fixture: &mut Fixture) {
    // The shortest queue there is, and no room left in it: further connections are not even refused.
    let full = &fixture.full;
    let shorten = full.within(|| fs::write("/proc/sys/net/core/somaxconn", "1"));
    shorten.expect("a program's network has a queue of its own");
    let _listener = full.listen(8080);
    let within = Duration::from_millis(300);
    let to = (Ipv4Addr::LOCALHOST, 8080).into();
    let connect = || full.within(|| TcpStream::connect_timeout(&to, within));
    let mut queued = Vec::new();
    while let Ok(stream) = connect() {
        queued.push(stream);
        assert!(queued.len() < 16, "a queue without end");
    }
    let (answer, took) = until_ok("it is given up", SOON, || {
        let (answer, took) = post(&fixture.caller)?;
        match IN_TIME.contains(&took) {
            true => Ok((answer, took)),
            false => Err(std::io::Error::other(format!("{took:?}: {}", answer.head))),
        }
    });
    assert_eq!(answer.status(), 503, "{took:?}: {}", answer.head);
    shown(&fixture.mesh, &answer, "a", "UF");
}

fn a_host_that_answers_nothing_is_given_up_in_time(fixture: &mut Fixture) {
    let _nft = need!("nft");
    let a = fixture.mesh.host("a");
    // Known before it vanishes; who never called it has no connection to it.
    let b = fixture.mesh.host("b");
    let second = fixture.mesh.run(&b).start();
    until_ok("it is known", SOON, || second.look_up("full").map(|_| ()));
    let rules = "add table inet gone
        add chain inet gone in { type filter hook input priority 0; }
        add rule inet gone in tcp dport 15008 drop";
    a.exec(&["nft", rules]).good();
    let tried = post(&second);
    a.exec(&["nft", "delete table inet gone"]).good();
    let (answer, took) = tried.expect("an answer");
    assert_eq!(answer.status(), 503, "{took:?}: {}", answer.head);
    assert!(IN_TIME.contains(&took), "{took:?}: {}", answer.head);
    shown(&fixture.mesh, &answer, "b", "UF");
}
