//! What people write, and what a machine runs out of: each a clear error, and nothing lost.

use std::{
    fs,
    process::Command,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use leno_e2e::{Backend, Load, SOON, api::call, response};
use leno_testkit::{Member, Mesh, Output, leno_binary, skip, suite, until, until_ok};
use serde_json::Value;

/// Two hosts with traffic between them, while people make mistakes.
struct Fixture {
    mesh: Mesh,
    _web: (Member, Backend),
    caller: Member,
}

fn start() -> Fixture {
    let mut mesh = Mesh::builder().services(&["web", "other"]).start();
    mesh.join("a");
    mesh.join("b");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let web = mesh.run(&a).service("web").port("80:8080").start();
    let backend = Backend::http(web.listen(8080), |_| response(200, "", "ok"));
    let caller = mesh.run(&b).start();
    until("web answers", SOON, || {
        let mut wire = caller.try_connect("web", 80).ok()?;
        wire.try_send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").ok()?;
        (wire.try_message().ok()?.status() == 200).then_some(())
    });
    Fixture {
        mesh,
        _web: (web, backend),
        caller,
    }
}

suite!(
    start,
    [
        a_document_is_created_unchanged_then_configured,
        a_dry_run_changes_nothing,
        what_is_malformed_is_refused_with_file_and_line,
        a_wrong_field_is_refused_with_its_path_and_the_nearest_name,
        one_wrong_document_keeps_the_whole_batch_out,
        a_duplicate_in_a_batch_is_refused,
        what_is_huge_is_refused_quickly,
        a_route_to_nowhere_is_stored_and_said_to_answer_500,
        two_writers_of_one_revision_make_one_conflict,
        a_port_that_is_taken_is_told_with_its_owner,
        a_full_disk_refuses_changes_and_nothing_else,
    ]
);

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  ports: [{{port: {port}}}]\n"
    )
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    assert_eq!(output.code, 6, "{}{}", output.text(), output.stderr);
    for word in words {
        assert!(
            output.stderr.contains(word),
            "{word:?} is not in: {}",
            output.stderr
        );
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

fn names(mesh: &Mesh) -> String {
    mesh.leno(&["get", "services", "-o", "name"]).good().text()
}

fn a_document_is_created_unchanged_then_configured(fixture: &mut Fixture) {
    for (port, result) in [
        (80, "created"),
        (80, "unchanged"),
        (81, "configured"),
        (81, "unchanged"),
    ] {
        let output = fixture.mesh.apply(&service("first", port), &[]).good();
        assert!(
            output.text().contains(&format!("service/first {result}")),
            "{}",
            output.text()
        );
    }
    let json = fixture
        .mesh
        .leno(&["get", "service", "first", "-o", "json"])
        .good()
        .json();
    let object = json.pointer("/items/0").unwrap_or(&json);
    assert_eq!(object["spec"]["ports"][0]["port"], 81, "{json}");
    assert!(
        object["spec"]["clusterIP"]
            .as_str()
            .is_some_and(|ip| ip.starts_with("240.240.")),
        "{json}"
    );
    fixture.mesh.leno(&["delete", "service", "first"]).good();
    assert!(!names(&fixture.mesh).contains("first"));
}

fn a_dry_run_changes_nothing(fixture: &mut Fixture) {
    let before = names(&fixture.mesh);
    let output = fixture
        .mesh
        .apply(&service("dry", 80), &["--dry-run"])
        .good();
    assert!(output.text().contains("dry run"), "{}", output.text());
    assert_eq!(names(&fixture.mesh), before);
    let output = fixture
        .mesh
        .leno(&["deny", "shop", "web", "--dry-run", "-o", "yaml"])
        .good();
    assert!(
        output.text().contains("kind: AccessPolicy"),
        "{}",
        output.text()
    );
    assert!(
        !fixture
            .mesh
            .leno(&["get", "accesspolicies"])
            .text()
            .contains("deny-shop-web")
    );
}

fn what_is_malformed_is_refused_with_file_and_line(fixture: &mut Fixture) {
    for (text, words) in [
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: [\n",
            vec![".yaml:"],
        ),
        (
            "apiVersion: v1\nkind: Service\n  metadata: 1\n",
            vec![".yaml:3"],
        ),
        (
            "apiVersion: v1\nkind: Sevice\nmetadata: {name: a}\n",
            vec![".yaml:2", "Service"],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: Not_A_Name}\n",
            vec![".yaml:3", "metadata.name"],
        ),
        ("kind: Service\nmetadata: {name: a}\n", vec!["apiVersion"]),
        ("- 1\n- 2\n", vec![".yaml:1"]),
        ("\0\u{1}\u{2}", vec![".yaml:1"]),
    ] {
        refused(&fixture.mesh.apply(text, &[]), &words);
    }
    for (path, code) in [("/nowhere/at-all.yaml", 1), ("/dev/null", 1)] {
        let output = fixture.mesh.leno(&["apply", "-f", path]);
        assert_eq!(output.code, code, "{path}: {}", output.stderr);
        assert!(!output.stderr.is_empty());
    }
}

fn a_wrong_field_is_refused_with_its_path_and_the_nearest_name(fixture: &mut Fixture) {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web}\nspec:\n  parentRefs: [{kind: Service, group: \"\", name: web}]\n  rules:\n  - backendRefs: [{name: web, port: 80, wieght: 5}]\n";
    refused(
        &fixture.mesh.apply(route, &[]),
        &[".yaml:7", "spec.rules[0].backendRefs[0]", "weight"],
    );
    let port =
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec:\n  ports: [{port: 70000}]\n";
    refused(
        &fixture.mesh.apply(port, &[]),
        &[".yaml:5", "spec.ports[0].port", "70000"],
    );
}

fn one_wrong_document_keeps_the_whole_batch_out(fixture: &mut Fixture) {
    let text = format!(
        "{}---\n{}---\n{}",
        service("good-one", 80),
        service("bad", 0),
        service("good-two", 80)
    );
    let output = fixture.mesh.apply(&text, &[]);
    refused(&output, &["nothing was applied", "spec.ports[0].port"]);
    let names = names(&fixture.mesh);
    assert!(!names.contains("good-"), "{names}");
}

fn a_duplicate_in_a_batch_is_refused(fixture: &mut Fixture) {
    let text = format!("{}---\n{}", service("twice", 80), service("twice", 81));
    refused(&fixture.mesh.apply(&text, &[]), &["twice"]);
    assert!(!names(&fixture.mesh).contains("twice"));
}

fn what_is_huge_is_refused_quickly(fixture: &mut Fixture) {
    let bomb = {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = vec![format!("*a{}", level - 1); 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        text
    };
    let deep = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: deep}}\nspec: {}{}\n",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let wide = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: wide\n  annotations: {{a: {}}}\nspec: {{ports: [{{port: 80}}]}}\n",
        "x".repeat(3 << 20)
    );
    let large = format!("# {}\n{}", "x".repeat(17 << 20), service("large", 80));
    for (what, text) in [
        ("an alias bomb", bomb),
        ("a deep one", deep),
        ("a wide one", wide),
        ("a large one", large),
    ] {
        let since = Instant::now();
        let output = fixture.mesh.apply(&text, &[]);
        assert_ne!(output.code, 0, "{what}");
        assert!(
            output.code == 6 || output.code == 1,
            "{what}: {} {}",
            output.code,
            output.stderr.chars().take(500).collect::<String>()
        );
        assert!(
            output.stderr.len() < 10_000,
            "{what}: {} bytes of error",
            output.stderr.len()
        );
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "{what}: {:?}",
            since.elapsed()
        );
    }
    names(&fixture.mesh);
}

fn a_route_to_nowhere_is_stored_and_said_to_answer_500(fixture: &mut Fixture) {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web}\nspec:\n  parentRefs: [{kind: Service, group: \"\", name: web}]\n  rules:\n  - matches: [{path: {type: PathPrefix, value: /nowhere}}]\n    backendRefs: [{name: absent, port: 80}]\n  - matches: [{path: {type: PathPrefix, value: /}}]\n";
    let words = [
        ".yaml:8",
        "there is no service default/absent: every request of this rule is answered 500",
    ];
    for option in ["--dry-run", "-n=default"] {
        let told = fixture.mesh.apply(route, &[option]).good();
        for word in words {
            assert!(told.stderr.contains(word), "{option}: {}", told.stderr);
        }
    }
    let output = fixture.mesh.apply(route, &["--wait"]);
    refused(&output, &words);
    refused(&output, &["httproute/web is in force as far as it goes"]);
    let check = fixture.mesh.leno(&["check"]);
    assert_eq!(check.code, 3, "{}", check.text());
    let what = "what httproute default/web refers to is not there";
    assert!(check.text().contains(what), "{}", check.text());
    let ask = |path: &str| {
        fixture
            .caller
            .connect("web", 80)
            .ask(format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n"))
            .status()
    };
    until("the route is in force as far as it goes", SOON, || {
        (ask("/nowhere") != 200).then_some(())
    });
    assert_eq!(ask("/"), 200, "the rest goes on");
    // The Gateway API says so of a backend that is not there.
    let status = ask("/nowhere");
    let all = fixture.mesh.leno(&["delete", "httproutes", "--all"]).good();
    assert!(
        all.text().contains("httproute/web deleted"),
        "{}",
        all.text()
    );
    assert_eq!(status, 500);
    until("it is gone", SOON, || {
        (ask("/nowhere") == 200).then_some(())
    });
}

fn two_writers_of_one_revision_make_one_conflict(fixture: &mut Fixture) {
    const PATH: &str = "/api/v1/namespaces/default/services/contended";
    fixture.mesh.apply(&service("contended", 80), &[]).good();
    let socket = fixture.mesh.host("cp").disk().join("default/admin.sock");
    let read = || {
        let (status, object) = call(&socket, "GET", PATH, &Value::Null).expect("an answer");
        assert_eq!(status, 200, "{object}");
        object
    };
    for round in 0..20_u64 {
        let read_by_both = read();
        let write = |port: u64| {
            let mut object = read_by_both.clone();
            object["spec"]["ports"][0]["port"] = port.into();
            call(&socket, "PUT", PATH, &object).expect("an answer")
        };
        let both = [1_000 + round, 2_000 + round];
        let together = Barrier::new(2);
        let answers = thread::scope(|scope| {
            let writers = both.map(|port| {
                let (write, together) = (&write, &together);
                scope.spawn(move || {
                    together.wait();
                    write(port)
                })
            });
            writers.map(|writer| writer.join().expect("an answer"))
        });
        let statuses = answers.each_ref().map(|(status, _)| *status);
        let winner = match statuses {
            [200, 409] => 0,
            [409, 200] => 1,
            _ => panic!("round {round}: {answers:?}"),
        };
        let (_, refused) = &answers[1 - winner];
        assert_eq!(refused["reason"], "Conflict", "{refused}");
        assert_eq!(read()["spec"]["ports"][0]["port"], both[winner]);
    }
    let stale =
        service("contended", 80).replace("contended}", "contended, resourceVersion: \"1\"}");
    refused(&fixture.mesh.apply(&stale, &[]), &["contended"]);
    fixture
        .mesh
        .leno(&["delete", "service", "contended"])
        .good();
}

fn a_port_that_is_taken_is_told_with_its_owner(fixture: &mut Fixture) {
    let cp = fixture.mesh.host("cp");
    let mut command = Command::new(leno_binary());
    command
        .arg("control-plane")
        .arg(format!("--data-dir={}", cp.disk().join("second").display()))
        .arg(format!("--listen={}:15012", cp.v4))
        .arg("--metrics=none");
    let output = cp.run(&mut command);
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(
        output.stderr.contains("15012")
            && output.stderr.contains("leno")
            && output.stderr.contains("pid"),
        "{}",
        output.stderr
    );
    // And the data directory of one that runs is nobody else's.
    let mut command = Command::new(leno_binary());
    command
        .arg("control-plane")
        .arg(format!(
            "--data-dir={}",
            cp.disk().join("default").display()
        ))
        .arg(format!("--listen={}:16012", cp.v4))
        .arg("--metrics=none");
    let output = cp.run(&mut command);
    assert_eq!(output.code, 1, "{}", output.stderr);
    names(&fixture.mesh);
}

fn a_full_disk_refuses_changes_and_nothing_else(fixture: &mut Fixture) {
    let cp = fixture.mesh.host("cp");
    let dir = cp.disk().join("small");
    fs::create_dir_all(&dir).expect("a directory");
    let path = dir.display().to_string();
    let mounted = cp.exec(&["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", &path]);
    if mounted.code != 0 {
        skip!("no tmpfs can be mounted here: {}", mounted.stderr.trim());
    }
    // The same mesh from here on, its state moved to the small disk.
    fixture.mesh.stop_control_plane();
    let copied = cp.exec(&[
        "sh",
        "-c",
        &format!("cp -a {}/. {path}/", cp.disk().join("default").display()),
    ]);
    copied.good();
    fixture.mesh.move_data_to(&dir);
    fixture.mesh.start_control_plane();
    until_ok("the control plane has its agents back", SOON, || {
        let output = fixture.mesh.apply(&service("before", 80), &[]);
        if output.code == 0 {
            Ok(())
        } else {
            Err(output.stderr)
        }
    });
    let load = Load::start(&fixture.caller, "web", 20);
    let filler = dir.join("filler");
    cp.exec(&[
        "sh",
        "-c",
        &format!(
            "dd if=/dev/zero of={} bs=64k 2>/dev/null; true",
            filler.display()
        ),
    ]);
    let mut number = 0;
    let said = until("a change is refused", Duration::from_secs(30), || {
        number += 1;
        let output = fixture.mesh.apply(&service(&format!("s{number}"), 80), &[]);
        (output.code != 0).then_some(output.stderr)
    });
    assert!(said.contains("store full"), "{said}");
    assert!(names(&fixture.mesh).contains("before"), "reading works");
    let a = fixture.mesh.host("a");
    let program = fixture.mesh.run(&a).program(["true"]).to_end();
    assert_eq!(program.code, 0, "a program joins: {}", program.stderr);
    fs::remove_file(&filler).expect("space again");
    until_ok("it works again without a restart", SOON, || {
        let output = fixture.mesh.apply(&service("after", 80), &[]);
        if output.code == 0 {
            Ok(())
        } else {
            Err(output.stderr)
        }
    });
    let kept = names(&fixture.mesh);
    for number in 1..number {
        assert!(
            kept.contains(&format!("s{number}")),
            "what was acknowledged is kept: s{number} in {kept}"
        );
    }
    load.more(10);
    let tally = load.stop();
    assert!(tally.bad.is_empty(), "{tally:?}");
}
