//! `leno describe`, `get --watch`, `diff` and `edit`: in kubectl's words, of the same API.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use leno_e2e::SOON;
use leno_testkit::{Mesh, leno_binary, suite, until};

struct Fixture {
    mesh: Mesh,
    /// The file of [`shop`] as it was applied.
    file: String,
}

fn shop(weight: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: cart}}\nspec:\n  selector: {{app: cart}}\n  \
         ports: [{{port: 80, targetPort: 8080}}]\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: cart}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, name: cart}}]\n  rules:\n  \
         - backendRefs:\n    - {{name: cart, port: 80, weight: {weight}}}\n"
    )
}

fn start() -> Fixture {
    let mesh = Mesh::builder().start();
    let file = mesh.host("cp").disk().join("shop.yaml");
    fs::write(&file, shop(95)).expect("documents are written");
    let file = file.display().to_string();
    mesh.leno(&["apply", "-f", &file]).good();
    Fixture { mesh, file }
}

suite!(
    start,
    [
        a_service_is_described_with_what_belongs_to_it,
        a_diff_shows_what_would_change_and_changes_nothing,
        a_watch_shows_rows_as_they_change,
        an_edit_is_applied_or_kept,
    ]
);

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

fn a_service_is_described_with_what_belongs_to_it(fixture: &mut Fixture) {
    let service = fixture
        .mesh
        .leno(&["describe", "svc", "cart"])
        .good()
        .text();
    has(
        &service,
        &[
            "Name:         cart",
            "Written at:   ",
            "shop.yaml:1",
            "app: cart",
            "Endpoints:    <none>",
            "Routes:       httproute/cart",
            "Policies:     <none>",
        ],
    );
    let route = fixture
        .mesh
        .leno(&["describe", "httproute/cart"])
        .good()
        .text();
    has(
        &route,
        &["weight: 95", "PARENT", "service/cart", "Programmed"],
    );
    assert!(!route.contains('\u{1b}'), "no colour where nobody sees it");
    let nobody = fixture.mesh.leno(&["describe", "svc", "nobody"]);
    assert_eq!(nobody.code, 1, "{}", nobody.stderr);
    has(
        &nobody.stderr,
        &["services \"nobody\" not found", "leno get services -A"],
    );
}

fn a_diff_shows_what_would_change_and_changes_nothing(fixture: &mut Fixture) {
    let same = fixture.mesh.leno(&["diff", "-f", &fixture.file]);
    assert_eq!(
        (same.code, same.text().as_str()),
        (0, ""),
        "{}",
        same.stderr
    );
    let changed = fixture.mesh.host("cp").disk().join("changed.yaml");
    let more =
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: new}\nspec: {ports: [{port: 81}]}\n";
    fs::write(&changed, shop(50) + more).expect("documents are written");
    let path = changed.display().to_string();
    for _ in 0..2 {
        let diff = fixture.mesh.leno(&["diff", "-f", &path]);
        assert_eq!(diff.code, 1, "{}", diff.stderr);
        has(
            &diff.text(),
            &[
                "--- httproute/cart in default, as it is",
                "-      weight: 95",
                "+      weight: 50",
                "+++ service/new in default",
                "+kind: Service",
            ],
        );
        assert!(!diff.text().contains("--- service/cart"), "{}", diff.text());
    }
}

fn a_watch_shows_rows_as_they_change(fixture: &mut Fixture) {
    let config = fixture.mesh.config_file();
    let mut command = Command::new(leno_binary());
    command
        .args(["get", "httproutes", "--watch"])
        .env("LENO_CONFIG", config);
    let mut watch = fixture.mesh.host("cp").spawn(&mut command);
    let shows = |text: &str| {
        until(text, SOON, || watch.stdout().contains(text).then_some(()));
    };
    shows("Programmed");
    let split = shop(1).replace(
        "weight: 1}",
        "weight: 1}\n    - {name: other, port: 80, weight: 3}",
    );
    fixture.mesh.apply(&split, &[]);
    shows("cart=1,other=3");
    fixture.mesh.leno(&["delete", "httproute", "cart"]).good();
    shows("deleted");
    let text = watch.stdout();
    let first: Vec<&str> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(first, ["NAME", "SERVICES", "BACKENDS", "STATUS", "AGE"]);
    assert_eq!(text.matches("NAME").count(), 1, "{text}");
    watch.kill();
    fixture.mesh.leno(&["apply", "-f", &fixture.file]).good();
}

fn an_edit_is_applied_or_kept(fixture: &mut Fixture) {
    let editor = |script: &str| {
        let path = fixture.mesh.host("cp").disk().join("editor.sh");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("an editor is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
        path.display().to_string()
    };
    let edit = |script: &str| {
        let editor = editor(script);
        fixture
            .mesh
            .leno(&["edit", "httproute", "cart", "--editor", &editor])
    };
    has(&edit("true").good().text(), &["httproute/cart unchanged"]);
    let changed = edit("sed -i 's/weight: 95/weight: 7/' \"$1\"").good();
    has(&changed.text(), &["httproute/cart configured"]);
    let now = fixture
        .mesh
        .leno(&["get", "httproute", "cart", "-o", "json"])
        .good()
        .json();
    let weight = now.pointer("/spec/rules/0/backendRefs/0/weight");
    assert_eq!(weight, Some(&7.into()), "{now}");
    let place = now.pointer("/metadata/annotations/leno.dev~1source");
    assert_eq!(place, None, "no file says 7: {now}");
    // What is wrong is said with its line, and the file is still there.
    let wrong = edit("sed -i 's/weight: 7/weigth: 7/' \"$1\"");
    assert_eq!(wrong.code, 6, "{}", wrong.stderr);
    has(
        &wrong.stderr,
        &[
            "unknown field; did you mean weight?",
            "what you wrote is in ",
        ],
    );
    let kept = wrong
        .stderr
        .split("what you wrote is in ")
        .nth(1)
        .unwrap_or_default()
        .trim();
    let text = fs::read_to_string(kept).expect("the file is kept");
    has(&text, &["weigth: 7"]);
    fs::remove_file(kept).expect("it is removed");
    // Somebody else was faster: theirs is not overwritten.
    let file = &fixture.file;
    let config = fixture.mesh.config_file();
    let leno = leno_binary();
    let (config, leno) = (config.display(), leno.display());
    let late = edit(&format!(
        "LENO_CONFIG={config} {leno} apply -f {file} && sed -i 's/weight: 7/weight: 8/' \"$1\""
    ));
    assert_eq!(late.code, 6, "{}", late.stderr);
    has(&late.stderr, &["the object has been modified"]);
    if let Some(kept) = late.stderr.split("what you wrote is in ").nth(1) {
        fs::remove_file(kept.trim()).expect("it is removed");
    }
}
