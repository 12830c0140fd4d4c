//! Two meshes with the same names on one control plane: nothing of one is reachable from the other, and neither is
//! touched by what becomes of the other, or of the control plane.

use std::{fs, process::Command, time::Duration};

use leno_e2e::{
    Backend, SOON,
    peer::{Identity, identity, uid_of},
    response, run_script,
};
use leno_testkit::{
    Capture, Member, Mesh, Network, PAYLOAD, leno_binary, need, suite, until, until_ok,
};

/// Mesh `default` has `cart` on a and a caller on b; mesh `shop` the same on c and d.
struct Fixture {
    mesh: Mesh,
    callers: [Member; 2],
    _carts: [Member; 2],
    logs: [Backend; 2],
}

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a", "b"], &["cart"]);
    let (v4, v6) = (
        format!("--prefix={}", Network::V4),
        format!("--prefix={}", Network::V6),
    );
    mesh.leno(&["mesh", "create", "shop", &v4, &v6]).good();
    for name in ["c", "d"] {
        join_shop(&mut mesh, name);
    }
    let host = |name| mesh.host(name);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(host);
    let cart = |host| mesh.run(host).service("cart").port("80:8080/http").start();
    let carts = [cart(&a), cart(&c)];
    let callers = [mesh.run(&b).start(), mesh.run(&d).start()];
    let serve = |member: &Member, name: &'static str| {
        Backend::http(member.listen(8080), move |_| {
            response(200, &format!("mesh: {name}\r\n"), PAYLOAD)
        })
    };
    let logs = [serve(&carts[0], "default"), serve(&carts[1], "shop")];
    Fixture {
        mesh,
        callers,
        _carts: carts,
        logs,
    }
}

/// A new host joins mesh `shop`.
fn join_shop(mesh: &mut Mesh, name: &str) {
    let token = mesh.leno(&["--context", "shop", "token", "create", "--service", "cart"]);
    let token = token.good().text().trim().to_owned();
    let host = mesh.network.add(name);
    let process = mesh.spawn_join(&host, &token, &[]);
    mesh.adopt_agent(name, process);
    mesh.wait_ready(name);
}

suite!(
    start,
    [
        a_name_means_ones_own_meshs_service,
        a_call_across_fails_in_tls_and_nothing_of_it_is_in_clear,
        a_credential_of_one_mesh_is_forbidden_on_the_others_path,
        a_viewer_reads_and_writes_nothing_and_the_log_says_who_tried,
        both_outlive_a_control_plane_that_was_killed,
        a_mesh_whose_making_was_killed_is_whole_or_not_there,
        the_end_of_one_leaves_the_other,
    ]
);

fn ask(caller: &Member) -> Option<String> {
    let mut wire = caller.try_connect("cart", 80).ok()?;
    let answer = wire.ask("GET / HTTP/1.1\r\nhost: cart\r\n\r\n");
    (answer.status() == 200).then(|| answer.field("mesh").unwrap_or_default().to_owned())
}

fn a_name_means_ones_own_meshs_service(fixture: &mut Fixture) {
    for (caller, name) in fixture.callers.iter().zip(["default", "shop"]) {
        let answered = until("cart is called", SOON, || ask(caller));
        assert_eq!(answered, name);
    }
}

fn a_call_across_fails_in_tls_and_nothing_of_it_is_in_clear(fixture: &mut Fixture) {
    need!("python3");
    let python = leno_testkit::python().expect("it was looked for");
    let (a, b) = (fixture.mesh.host("a"), fixture.mesh.host("b"));
    let seen = fixture.logs[0].seen().len();
    let capture = Capture::start(&[PAYLOAD.as_bytes(), b"a-question-across"]);
    // As a program would: the address lies in its own mesh's networks, and is no member of it.
    let to = a.v4.to_string();
    if let Ok(mut wire) = fixture.callers[1].try_connect(&to, 8080) {
        let question = "GET /a-question-across HTTP/1.1\r\nhost: x\r\n\r\n";
        drop(wire.try_send(question));
        let answer = wire.try_message();
        assert!(
            answer
                .as_ref()
                .map_or(true, |answer| answer.status() >= 400),
            "{answer:?}"
        );
    }
    // As somebody who speaks to the other's proxy with the certificate of a workload of this one.
    let d = fixture.mesh.host("d");
    let (own, foreign) = (identity(&b, &d, "own"), identity(&d, &d, "foreign"));
    let uid = uid_of(&fixture.mesh, "cart");
    let metadata = format!("x-leno-to=1 {}:8080 default/cart:80 a", a.v4);
    let ask = |who: &Identity, alpn: &str| {
        let to = [&*to, "15008", &*uid, alpn, &*who.chain, &*who.key];
        let request = [
            ":method=GET",
            ":scheme=https",
            ":path=/a-question-across",
            ":authority=cart",
            &*metadata,
        ];
        let arguments = [&to[..], &request].concat();
        let output = d.run(&mut run_script(&python, "h2raw.py", &arguments));
        assert_eq!(output.code, 0, "{}{}", output.text(), output.stderr);
        output.text()
    };
    // From there, and so, it is answered: it is the certificate that makes the difference.
    let said = ask(&own, "leno/1");
    assert!(said.contains("status 200"), "{said}");
    for alpn in ["leno/1", "h2"] {
        let said = ask(&foreign, alpn);
        assert!(!said.contains("status"), "{alpn}: {said}");
    }
    let reached = fixture.logs[0].seen().len() - seen;
    assert_eq!(reached, 1, "one's own alone reaches the program");
    capture.assert_no_cleartext(b"a-question-across");
    capture.assert_no_cleartext(PAYLOAD.as_bytes());
}

/// A person of mesh `shop`; the file with their context.
fn person(fixture: &Fixture, name: &str, role: &str) -> String {
    let made = fixture
        .mesh
        .leno(&["user", "create", name, "--role", role, "--mesh", "shop"]);
    let file = fixture
        .mesh
        .host("c")
        .disk()
        .join(format!("{name}.context"));
    fs::write(&file, made.good().text()).expect("a file");
    file.display().to_string()
}

/// A command of theirs, on host c.
fn as_person(fixture: &Fixture, file: &str, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(leno_binary());
    command.args(arguments).env("LENO_CONFIG", file);
    let output = fixture.mesh.host("c").run(&mut command);
    (output.code, format!("{}{}", output.text(), output.stderr))
}

fn a_credential_of_one_mesh_is_forbidden_on_the_others_path(fixture: &mut Fixture) {
    let own = person(fixture, "adam", "admin");
    let (code, said) = as_person(fixture, &own, &["get", "services"]);
    assert!(code == 0 && said.contains("cart"), "{code} {said}");
    let text = fs::read_to_string(&own).expect("the context");
    assert!(text.contains("/meshes/shop"), "{text}");
    let other = format!("{own}.other");
    fs::write(&other, text.replace("/meshes/shop", "/meshes/default")).expect("a file");
    for command in [
        &["get", "services"] as &[&str],
        &["token", "list"],
        &["token", "create"],
        &["delete", "service", "cart"],
        &["audit"],
        &["user", "list"],
    ] {
        let (code, said) = as_person(fixture, &other, command);
        assert!(
            code == 4 && said.contains("no role there"),
            "{command:?}: {code} {said}"
        );
    }
    // Nor is a mesh's admin anybody to the control plane.
    let (code, said) = as_person(fixture, &own, &["mesh", "create", "mine"]);
    assert!(
        code == 4 && said.contains("control plane's own admin"),
        "{code} {said}"
    );
}

fn a_viewer_reads_and_writes_nothing_and_the_log_says_who_tried(fixture: &mut Fixture) {
    let vera = person(fixture, "vera", "viewer");
    for command in [
        &["get", "services"] as &[&str],
        &["token", "list"],
        &["status"],
    ] {
        let (code, said) = as_person(fixture, &vera, command);
        assert_eq!(code, 0, "{command:?}: {said}");
    }
    for command in [
        &["token", "create"] as &[&str],
        &["user", "revoke", "vera"],
        &["audit"],
    ] {
        let (code, said) = as_person(fixture, &vera, command);
        let needs = "viewer, which only reads, and this needs admin";
        let how = "leno user create vera --role admin --mesh shop";
        assert!(
            code == 4 && said.contains(needs) && said.contains(how),
            "{command:?}: {code} {said}"
        );
    }
    let log = fixture
        .mesh
        .leno(&["--context", "shop", "audit"])
        .good()
        .text();
    for word in [
        "created User vera as viewer",
        "tried to create Token",
        "joined Agent c",
        "created Mesh shop",
    ] {
        assert!(log.contains(word), "{word} is not in {log}");
    }
    let refused = |line: &str| line.contains("user/vera") && line.contains("refused 403");
    assert!(log.lines().any(refused), "{log}");
    let other = fixture.mesh.leno(&["audit"]).good().text();
    assert!(
        !other.contains("vera") && !other.contains("Mesh shop"),
        "{other}"
    );
    // Taken away, it is so at once.
    fixture
        .mesh
        .leno(&["--context", "shop", "user", "revoke", "vera"])
        .good();
    let (code, said) = as_person(fixture, &vera, &["get", "services"]);
    assert!(code == 4 && said.contains("no role there"), "{code} {said}");
}

fn both_outlive_a_control_plane_that_was_killed(fixture: &mut Fixture) {
    fixture.mesh.kill_control_plane();
    fixture.mesh.start_control_plane();
    let list = fixture.mesh.leno(&["mesh", "list"]).good().text();
    assert!(
        list.contains("shop.leno") && list.contains("default.leno"),
        "{list}"
    );
    join_shop(&mut fixture.mesh, "e");
    let e = fixture.mesh.host("e");
    let newcomer = fixture.mesh.run(&e).start();
    let answered = until("the newcomer calls cart", SOON, || ask(&newcomer));
    assert_eq!(answered, "shop");
    a_name_means_ones_own_meshs_service(fixture);
}

fn a_mesh_whose_making_was_killed_is_whole_or_not_there(fixture: &mut Fixture) {
    let (mut made, mut unmade) = (0, 0);
    for number in 0..8_u64 {
        let name = format!("m{number}");
        let cp = fixture.mesh.host("cp");
        let socket = cp.disk().join("default/admin.sock");
        let mut asking = cp.spawn(Command::new("sh").args([
            "-c",
            &format!(
                "curl -sS --unix-socket {} http://leno/meshes -H 'content-type: application/json' -d '{{\"name\":\"{name}\"}}'",
                socket.display()
            ),
        ]));
        std::thread::sleep(Duration::from_millis(number * 4));
        fixture.mesh.kill_control_plane();
        asking.kill();
        fixture.mesh.start_control_plane();
        let list = fixture
            .mesh
            .leno(&["mesh", "list", "-o", "json"])
            .good()
            .text();
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let state =
            |mesh: &serde_json::Value| (mesh["name"] == *name).then(|| mesh["state"].clone());
        match list.as_array().expect("a list").iter().find_map(state) {
            Some(state) => {
                assert_eq!(state, "serving", "{name}");
                made += 1;
            }
            None => {
                fixture.mesh.leno(&["mesh", "create", &name]).good();
                unmade += 1;
            }
        }
        let directories = fs::read_dir(cp.disk().join("default/meshes")).expect("a directory");
        for entry in directories {
            let file = entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8");
            assert!(!file.contains('.'), "{file} is left");
        }
        fixture
            .mesh
            .leno(&["mesh", "delete", &name, "--yes"])
            .good();
    }
    assert_eq!(made + unmade, 8);
}

fn the_end_of_one_leaves_the_other(fixture: &mut Fixture) {
    let refused = fixture.mesh.leno(&["mesh", "delete", "shop", "--yes"]);
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("connected") && refused.stderr.contains("--purge"),
        "{}",
        refused.stderr
    );
    let unsure = fixture.mesh.leno(&["mesh", "delete", "shop"]);
    assert_eq!(unsure.code, 2, "{}", unsure.stderr);
    let gone = fixture
        .mesh
        .leno(&["mesh", "delete", "shop", "--purge", "--yes"]);
    assert!(gone.good().text().contains("its certificate authority"));
    let list = fixture.mesh.leno(&["mesh", "list"]).good().text();
    assert!(!list.contains("shop"), "{list}");
    let lost = fixture.mesh.leno(&["--context", "shop", "get", "services"]);
    assert_eq!(lost.code, 1, "{}", lost.stderr);
    // Its hosts are told, and no host of the other's is.
    until_ok("the agent of c says so", SOON, || {
        let log = fixture.mesh.agent("c").stderr();
        match log.contains("control plane") {
            true => Ok(()),
            false => Err(log),
        }
    });
    let answered = until("cart is called", SOON, || ask(&fixture.callers[0]));
    assert_eq!(answered, "default");
}
