//! Hosts that join again or are shown the door, and services whose instances come and go: one program is one workload, and a name stays.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use leno_e2e::{Backend, Load, SOON, response};
use leno_testkit::{Answer, Member, Mesh, Signal, Wire, skip, suite, until, until_ok};
use serde_json::Value;

/// What a host that is no member any more is told to do.
const OUT: &str = "end the agent, leno leave, then leno join";

/// `cart` runs on host b; it is called from a.
struct Fixture {
    mesh: Mesh,
    caller: Member,
    _cart: Member,
    _backend: Backend,
}

fn start() -> Fixture {
    let mesh = Mesh::with(&["a", "b"], &["cart", "gone"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let cart = mesh.run(&b).service("cart").port("80:8080").start();
    let backend = Backend::http(cart.listen(8080), |_| response(200, "", "cart"));
    let caller = mesh.run(&a).start();
    let fixture = Fixture {
        mesh,
        caller,
        _cart: cart,
        _backend: backend,
    };
    until_ok("cart answers", SOON, || fixture.call("cart"));
    fixture
}

suite!(
    start,
    [
        a_host_that_joins_again_with_a_running_program_is_served_as_itself,
        a_host_that_lost_its_membership_leaves_no_ghost,
        a_revoked_host_is_out_until_a_new_token_lets_it_in,
        a_host_of_another_control_plane_knows_that_it_is,
        a_host_that_joins_right_after_a_restart_is_known_to_callers_that_came_back,
        a_stranger_at_the_address_of_a_host_that_is_gone_is_told_nothing,
        where_the_run_directory_is_on_a_disk_no_key_is_kept_and_programs_come_back,
        a_program_outside_of_a_new_token_is_told_and_its_host_once,
    ]
);

impl Fixture {
    /// The body of what `name` answers, or what else came.
    fn call(&self, name: &str) -> Result<String, String> {
        let mut wire = self
            .caller
            .try_connect(name, 80)
            .map_err(|error| format!("connect: {error}"))?;
        let asked = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        let answer = wire.try_send(asked).and_then(|()| wire.try_message());
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status() {
            200 => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
            _ => Err(answer.head),
        }
    }

    /// What is answered at an address, which no name was asked for.
    fn call_at(&self, to: SocketAddr) -> io::Result<Answer> {
        let stream = self
            .caller
            .within(|| TcpStream::connect_timeout(&to, SOON))?;
        let mut wire = Wire::new(stream);
        wire.try_send("GET /secret HTTP/1.1\r\nhost: gone\r\nconnection: close\r\n\r\n")?;
        wire.try_message()
    }

    /// Uid and host of every workload of a service.
    fn workloads(&self, service: &str) -> Vec<(String, String)> {
        let list = self.mesh.leno(&["get", "workloads", "-o", "json"]).good();
        let list: Value = serde_json::from_str(&list.text()).expect("JSON");
        let items = list["items"].as_array().expect("items");
        let of = |item: &&Value| item["spec"]["service"] == service;
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        items
            .iter()
            .filter(of)
            .map(|item| (text(&item["metadata"]["uid"]), text(&item["spec"]["host"])))
            .collect()
    }

    /// On b nothing says that all is well, and no program is taken in; what is told names this reason.
    fn is_out(&self, reason: &str) {
        let b = self.mesh.host("b");
        let refused = self.mesh.run(&b).program(["true"]).to_end();
        assert_eq!(refused.code, 6, "{}", refused.stderr);
        let mut check = Command::new(leno_testkit::leno_binary());
        let none = b.disk().join("no-context");
        check
            .arg("check")
            .env("LENO_AGENT_SOCKET", self.mesh.agent_socket("b"))
            .env("LENO_CONFIG", none);
        let check = b.run(&mut check);
        assert_eq!(check.code, 3, "{}", check.text());
        for said in [refused.stderr.clone(), check.text()] {
            assert!(said.contains(reason) && said.contains(OUT), "{said}");
        }
    }

    /// Ends an agent as Ctrl-C does.
    fn end_agent(&mut self, host: &str) {
        let agent = self.mesh.agent(host);
        agent.signal(Signal::INT);
        assert_eq!(agent.wait(SOON), 0);
    }
}

fn a_host_that_joins_again_with_a_running_program_is_served_as_itself(fixture: &mut Fixture) {
    let before = fixture.workloads("cart");
    assert_eq!(before.len(), 1);
    fixture.end_agent("b");
    let b = fixture.mesh.host("b");
    fixture.mesh.join_existing(&b);
    until_ok("cart answers again", SOON, || fixture.call("cart"));
    until("it is the workload that it was", SOON, || {
        (fixture.workloads("cart") == before).then_some(())
    });
    // It stays so: what was registered beside it would be called in turn.
    let load = Load::start(&fixture.caller, "cart", 1);
    load.more(100);
    let tally = load.stop();
    assert_eq!(tally.bad, Vec::<String>::new());
    assert_eq!(fixture.workloads("cart"), before);
}

fn a_host_that_lost_its_membership_leaves_no_ghost(fixture: &mut Fixture) {
    let before = fixture.workloads("cart");
    // Not a goodbye: its lease still runs when the host comes back as somebody else.
    fixture.mesh.kill_agent("b");
    let b = fixture.mesh.host("b");
    fs::remove_file(b.disk().join("data/membership.json")).expect("a membership");
    fixture.mesh.join_existing(&b);
    let (uid, host) = until("one workload, under a new id", SOON, || {
        let now = fixture.workloads("cart");
        let [one] = now.as_slice() else { return None };
        (!before.contains(one)).then(|| one.clone())
    });
    assert!(host.starts_with("b-"), "{uid} is {host}'s");
    until_ok("cart answers again", SOON, || fixture.call("cart"));
    let load = Load::start(&fixture.caller, "cart", 1);
    load.more(100);
    let tally = load.stop();
    assert_eq!(tally.bad, Vec::<String>::new());
    assert_eq!(fixture.workloads("cart"), [(uid, host)]);
}

fn a_revoked_host_is_out_until_a_new_token_lets_it_in(fixture: &mut Fixture) {
    let [(_, name)] = fixture.workloads("cart").try_into().expect("one workload");
    until_ok("cart answers", SOON, || fixture.call("cart"));
    let unknown = fixture.mesh.leno(&["agent", "revoke", "nobody"]);
    assert_eq!(unknown.code, 6, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("leno agent list"), "{unknown:?}");
    let own = fixture.mesh.leno(&["agent", "list"]).good().text();
    let row = own.lines().find(|line| line.starts_with(&name));
    assert!(row.is_some_and(|row| row.contains("connected")), "{own}");

    fixture.mesh.leno(&["agent", "revoke", &name]).good();
    // Its present session ends, and what it offered is withdrawn.
    until("nobody is sent to its program", SOON, || {
        let refused = fixture.call("cart").err()?;
        refused.contains(" 503 ").then_some(())
    });
    until("its workload is gone", SOON, || {
        fixture.workloads("cart").is_empty().then_some(())
    });
    let list = fixture.mesh.leno(&["agent", "list"]).good().text();
    let row = list.lines().find(|line| line.starts_with(&name));
    assert!(row.is_some_and(|row| row.contains("revoked")), "{list}");
    // Its host knows, and says once what to do.
    fixture.mesh.agent("b").says(OUT, SOON);
    fixture.is_out("a member of the mesh no more");
    let said = fixture.mesh.agent("b").stderr();
    let told = said.matches("what runs goes on until its certificates end");
    assert_eq!(told.count(), 1, "{said}");
    assert!(!said.contains("control plane is away"), "{said}");
    // Its next session is refused, also after its restart; revoking it again changes nothing.
    fixture.end_agent("b");
    fixture.mesh.spawn_agent("b");
    fixture.mesh.agent("b").says(OUT, SOON);
    fixture.mesh.leno(&["agent", "revoke", &name]).good();
    assert_eq!(fixture.workloads("cart"), []);

    fixture.mesh.kill_agent("b");
    let b = fixture.mesh.host("b");
    fixture.mesh.join_existing(&b);
    until_ok("cart answers again", SOON, || fixture.call("cart"));
    // A revoked name is never given again.
    until("it is a workload of another host", SOON, || {
        let [(_, again)] = fixture.workloads("cart").try_into().ok()?;
        (again != name).then_some(())
    });
}

fn a_program_outside_of_a_new_token_is_told_and_its_host_once(fixture: &mut Fixture) {
    const TOLD: &str = "a program was not taken in";
    let host = fixture.mesh.join("less");
    let gone = fixture.mesh.run(&host).service("gone").port("80:8080");
    let gone = gone.start();
    fixture.end_agent("less");
    fs::remove_file(host.disk().join("data/membership.json")).expect("a membership");
    let token = fixture.mesh.token(&["--service", "cart"]);
    let mut process = fixture.mesh.spawn_join(&host, &token, &["--verbose"]);
    process.says(TOLD, SOON);
    until("the program's terminal says it", SOON, || {
        let said = gone.process.stderr();
        said.contains("does not take the program back")
            .then_some(())
    });
    process.says("not taken in again", SOON);
    let said = process.stderr();
    let own = format!("pid={}", gone.process.pid());
    let told: Vec<&str> = said
        .lines()
        .filter(|line| line.contains(" WARN ") && line.contains(TOLD))
        .collect();
    assert!(matches!(told[..], [one] if one.contains(&own)), "{said}");
}

fn a_host_of_another_control_plane_knows_that_it_is(fixture: &mut Fixture) {
    let before = fixture.mesh.host("cp").disk().join("default");
    let another = fixture.mesh.host("cp").disk().join("another");
    fixture.mesh.stop_control_plane();
    fixture.mesh.move_data_to(&another);
    fixture.mesh.start_control_plane();
    fixture
        .mesh
        .agent("b")
        .says("another than the one that this host joined", SOON);
    fixture.mesh.agent("b").says(OUT, SOON);
    fixture.is_out("another than the one that this host joined");
    // The one that it joined is back: so is the host, by itself, and says so.
    fixture.mesh.stop_control_plane();
    fixture.mesh.move_data_to(&before);
    fixture.mesh.start_control_plane();
    until("b is connected again", Duration::from_secs(90), || {
        let said = fixture.mesh.agent("b").stderr();
        let (_, since) = said.rsplit_once("is another than the one")?;
        let back = since.contains("connected to the control plane again");
        back.then_some(())
    });
    until_ok("cart answers", SOON, || fixture.call("cart"));
}

/// A control plane that has just started still waits for agents that may come back: here for one that never will.
fn a_host_that_joins_right_after_a_restart_is_known_to_callers_that_came_back(
    fixture: &mut Fixture,
) {
    fixture.mesh.join("away");
    fixture.mesh.kill_agent("away");
    fixture.mesh.stop_control_plane();
    fixture.mesh.start_control_plane();
    until("the caller's agent is back", SOON, || {
        let said = fixture.mesh.agent("a").stderr();
        let (_, since) = said.rsplit_once("the control plane is away")?;
        since
            .contains("connected to the control plane again")
            .then_some(())
    });
    let new = fixture.mesh.network.add_outside("new");
    fixture.mesh.join_existing(&new);
    let gone = fixture.mesh.run(&new).service("gone").port("80:8080");
    let gone = gone.start();
    let _backend = Backend::http(gone.listen(8080), |_| response(200, "", "gone"));
    until_ok("its program is called by its address", SOON, || {
        let answer = fixture.call_at(SocketAddr::from((new.v4, 8080)))?;
        let served = answer.status() == 200 && answer.body == b"gone";
        served.then_some(()).ok_or(io::Error::other(answer.head))
    });
    fixture.end_agent("new");
}

fn a_stranger_at_the_address_of_a_host_that_is_gone_is_told_nothing(fixture: &mut Fixture) {
    // In no network of the mesh: nothing but its own coming says that it is a member.
    let far = fixture.mesh.network.add_outside("far");
    fixture.mesh.join_existing(&far);
    let gone = fixture.mesh.run(&far).service("gone").port("80:8080");
    let gone = gone.start();
    let _backend = Backend::http(gone.listen(8080), |_| response(200, "", "gone"));
    let to = SocketAddr::from((far.v4, 8080));
    let served = |fixture: &Fixture| {
        let answer = fixture
            .call_at(to)
            .ok()
            .filter(|answer| answer.status() == 200)?;
        (answer.body == b"gone").then_some(())
    };
    until("its program is called by its address", SOON, || {
        served(fixture)
    });
    assert_eq!(fixture.workloads("gone").len(), 1);

    fixture.mesh.kill_agent("far");
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080));
    let stranger = far.listen(any).expect("a listener");
    let stranger = Backend::http(stranger, |_| response(200, "", "stranger"));
    let silent = |fixture: &Fixture| {
        for _ in 0..3 {
            let answer = fixture.call_at(to);
            let told = answer.is_ok_and(|answer| answer.status() == 200);
            assert!(!told, "the stranger answered");
        }
        assert!(stranger.seen().is_empty(), "a request went out in clear");
    };
    until("its lease has ended", SOON, || {
        silent(fixture);
        fixture.workloads("gone").is_empty().then_some(())
    });
    silent(fixture);
    // Nor does a control plane forget whose address it was, or a caller that learns the mesh anew.
    fixture.mesh.kill_control_plane();
    fixture.mesh.start_control_plane();
    fixture.mesh.kill_agent("a");
    fixture.mesh.spawn_agent("a");
    until_ok("cart answers again", SOON, || fixture.call("cart"));
    silent(fixture);
    // The stranger can be reached all the same, or nothing was shown.
    let cp = fixture.mesh.host("cp");
    let mut wire = Wire::new(cp.connect(to).expect("a connection"));
    assert_eq!(
        wire.ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n").body,
        b"stranger"
    );
}

fn where_the_run_directory_is_on_a_disk_no_key_is_kept_and_programs_come_back(
    fixture: &mut Fixture,
) {
    let saved = |dir: &Path| fs::read_to_string(dir.join("workloads.json")).unwrap_or_default();
    let b = fixture.mesh.host("b");
    until("in memory it is kept", SOON, || {
        saved(&b.run_dir()).contains("PRIVATE KEY").then_some(())
    });
    let k = fixture.mesh.join("k");
    fixture.mesh.kill_agent("k");
    let dir = k.disk().join("on-disk");
    fs::create_dir_all(&dir).expect("a directory");
    if leno_net::memory::is_in_memory(&dir).expect("its file system") {
        skip!("all of the test's files are in memory");
    }
    let start = |mesh: &mut Mesh| {
        let mut agent = mesh.spawn_agent_at(&k, &dir);
        agent.says("the run directory is on a disk", SOON);
        mesh.adopt_agent("k", agent);
        mesh.wait_ready("k");
    };
    start(&mut fixture.mesh);
    let socket = dir.join("agent.sock").display().to_string();
    let gone = fixture.mesh.run(&k).service("gone").port("80:8080");
    let gone = gone.env("LENO_AGENT_SOCKET", &socket).start();
    let _backend = Backend::http(gone.listen(8080), |_| response(200, "", "gone"));
    until_ok("it answers", SOON, || fixture.call("gone"));
    until("it is written down", SOON, || {
        saved(&dir).contains("gone").then_some(())
    });
    assert!(!saved(&dir).contains("PRIVATE KEY"));
    fixture.mesh.kill_agent("k");
    start(&mut fixture.mesh);
    until_ok("it answers again", SOON, || fixture.call("gone"));
    assert!(!saved(&dir).contains("PRIVATE KEY"));
}
