//! Further names of services, by HostnameGenerator: they are the services' own in every way, and end with what made them.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
};

use leno_e2e::{Backend, SOON, response};
use leno_testkit::{Member, Mesh, Output, suite, until, until_ok};

/// An ordinary user who may run programs on host b.
const USER: u32 = 4322;

/// `cart` on a in two versions, of which the second is called nobody's first choice; `db` speaks no HTTP; callers on b.
struct Fixture {
    mesh: Mesh,
    caller: Member,
    _members: Vec<Member>,
    _backends: Vec<Backend>,
}

fn start() -> Fixture {
    let services = ["cart", "db", "front", "mine"];
    let mut mesh = Mesh::builder().services(&services).start();
    mesh.join("a");
    mesh.join_with("b", &[&format!("--allow-user={USER}=mine,default")]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let cart = |version: &str, port: &str| {
        let member = mesh.run(&a).service("cart").version(version);
        member.port(port).start()
    };
    let (v1, v2) = (cart("v1", "80:8080/http"), cart("v2", "80:8081/http"));
    let db = mesh.run(&a).service("db").port("5432:5432/tcp").start();
    let caller = mesh.run(&b).service("front").start();
    let backends = vec![
        Backend::http(v1.listen(8080), |_| response(200, "", "v1")),
        Backend::http(v2.listen(8081), |_| response(200, "", "v2")),
        Backend::connections(db.listen(5432), |mut wire| {
            if let Ok(line) = wire.try_until(b"\n") {
                drop(wire.try_send([b"db has ", &*line].concat()));
            }
        }),
    ];
    until("cart answers", SOON, || {
        (call(&caller, "cart") == "200").then_some(())
    });
    Fixture {
        mesh,
        caller,
        _members: vec![v1, v2, db],
        _backends: backends,
    }
}

suite!(
    start,
    [
        a_templates_name_is_called_as_the_services_own,
        routes_and_policies_of_the_service_hold_for_it,
        bytes_and_headless_services_have_such_names_too,
        a_name_ends_with_its_label_and_with_its_generator,
        of_two_services_one_has_the_name_and_the_other_is_told,
        a_service_that_the_template_does_not_fit_is_told_of_and_breaks_no_other,
        a_template_that_is_none_is_refused_with_file_and_line,
        names_are_known_after_the_control_planes_restart,
        an_ordinary_users_program_has_and_calls_such_names,
    ]
);

fn generator(name: &str, selector: &str, template: &str) -> String {
    format!(
        "apiVersion: leno.dev/v1alpha1\nkind: HostnameGenerator\nmetadata: {{name: {name}}}\nspec:\n  selector: {{service: {selector}}}\n  template: '{template}'\n"
    )
}

/// Gives every service a name below `domain`, until it is dropped by name.
fn everywhere(fixture: &Fixture, name: &str, domain: &str) {
    let text = generator(name, "{}", &format!("{{{{ .Name }}}}.{domain}"));
    let applied = fixture.mesh.apply(&text, &["--wait"]).good();
    assert!(applied.text().contains("programmed"), "{}", applied.text());
}

fn delete(fixture: &Fixture, name: &str) {
    let deleted = fixture.mesh.leno(&["delete", "hg", name]);
    deleted.good();
}

/// The status of a call by `curl`.
fn call(member: &Member, name: &str) -> String {
    let url = format!("http://{name}/");
    let form = "%{http_code}";
    let out = member.curl(&["-s", "-m", "10", "-o", "/dev/null", "-w", form, &url]);
    out.text().trim().to_owned()
}

fn body(member: &Member, options: &[&str], name: &str) -> String {
    let url = format!("http://{name}/");
    let mut words = vec!["-s", "-m", "10"];
    words.extend(options);
    words.push(&url);
    member.curl(&words).text()
}

fn addresses(member: &Member, name: &str) -> Vec<IpAddr> {
    let found = member.look_up(name).unwrap_or_default();
    let mut found: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn status(fixture: &Fixture, kind: &str, name: &str) -> serde_json::Value {
    let output = fixture.mesh.leno(&["get", kind, name, "-o", "json"]);
    output.good().json()["status"].clone()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    assert_ne!(output.code, 0, "{}", output.text());
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {}", output.stderr);
    }
}

fn a_templates_name_is_called_as_the_services_own(fixture: &mut Fixture) {
    everywhere(fixture, "all", "svc.mesh.local");
    let name = "cart.svc.mesh.local";
    let own = addresses(&fixture.caller, "cart");
    assert_eq!(own.len(), 2, "an address of each family: {own:?}");
    // It is in force once `apply --wait` says so.
    assert_eq!(addresses(&fixture.caller, name), own);
    for family in ["-4", "-6"] {
        let said = body(&fixture.caller, &[family], name);
        assert!(["v1", "v2"].contains(&said.as_str()), "{family}: {said}");
    }
    let path = format!("http://CART.svc.mesh.local./by-{}", std::process::id());
    fixture.caller.curl(&[&path]).good();
    let line = until("the call is logged", SOON, || {
        let mut lines = fixture.mesh.access_log("b").into_iter();
        let path = format!("/by-{}", std::process::id());
        lines.find(|line| line["path"] == *path && line["reporter"] == "source")
    });
    assert_eq!(line["destination_service"], "default/cart", "{line}");
    let shown = status(fixture, "service", "cart");
    assert_eq!(shown["addresses"][0]["hostname"], name, "{shown}");
    let table = fixture.mesh.leno(&["get", "hg"]).good().text();
    assert!(table.contains("{{ .Name }}.svc.mesh.local"), "{table}");
    let wide = fixture.mesh.leno(&["get", "services", "-o", "wide"]);
    assert!(wide.good().text().contains(name));
    // Who runs a program chooses its version, and no name that a token was not made for.
    assert!(fixture.caller.look_up("cart-v2").is_ok());
    assert!(fixture.caller.look_up("cart-v2.svc.mesh.local").is_err());
    // What no service has below the domain is somebody else's to tell.
    assert!(fixture.caller.look_up("nobody.svc.mesh.local").is_err());
    delete(fixture, "all");
}

fn routes_and_policies_of_the_service_hold_for_it(fixture: &mut Fixture) {
    everywhere(fixture, "ruled", "ruled.example.com");
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: cart}\nspec:\n  parentRefs: [{kind: Service, group: \"\", name: cart}]\n  rules:\n  - backendRefs: [{name: cart-v2, port: 80}]\n";
    fixture.mesh.apply(route, &["--wait"]).good();
    for _ in 0..8 {
        assert_eq!(body(&fixture.caller, &[], "cart.ruled.example.com"), "v2");
    }
    fixture.mesh.leno(&["delete", "httproute", "cart"]).good();
    fixture
        .mesh
        .leno(&["deny", "front", "cart", "--yes"])
        .good();
    until("the call is denied", SOON, || {
        (call(&fixture.caller, "cart.ruled.example.com") == "403").then_some(())
    });
    assert_eq!(call(&fixture.caller, "cart"), "403");
    let undo = ["delete", "accesspolicy", "deny-front-cart"];
    fixture.mesh.leno(&undo).good();
    until("the call is allowed", SOON, || {
        (call(&fixture.caller, "cart.ruled.example.com") == "200").then_some(())
    });
    delete(fixture, "ruled");
}

fn bytes_and_headless_services_have_such_names_too(fixture: &mut Fixture) {
    let each = "apiVersion: v1\nkind: Service\nmetadata: {name: each}\nspec:\n  clusterIP: None\n  selector: {app: cart}\n  ports: [{port: 8080, targetPort: 8080, appProtocol: http}]\n";
    fixture.mesh.apply(each, &[]).good();
    everywhere(fixture, "all", "svc.mesh.local");
    let answer = until_ok("db answers", SOON, || {
        let mut wire = fixture.caller.try_connect("db.svc.mesh.local", 5432)?;
        wire.try_send("rows\n")?;
        wire.try_rest()
    });
    assert_eq!(answer, b"db has rows\n");
    let own = until("the headless service has addresses", SOON, || {
        Some(addresses(&fixture.caller, "each")).filter(|all| !all.is_empty())
    });
    let a = fixture.mesh.host("a");
    assert!(own.contains(&a.v4.into()), "{own:?}");
    assert_eq!(addresses(&fixture.caller, "each.svc.mesh.local"), own);
    let said = body(&fixture.caller, &["-4"], "each.svc.mesh.local:8080");
    assert_eq!(said, "v1");
    fixture.mesh.leno(&["delete", "service", "each"]).good();
    until("the name ends with its service", SOON, || {
        fixture
            .caller
            .look_up("each.svc.mesh.local")
            .is_err()
            .then_some(())
    });
    delete(fixture, "all");
}

fn labelled(labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, labels: {labels}}}\nspec:\n  selector: {{app: cart}}\n  ports: [{{port: 80, targetPort: 8080, appProtocol: http}}]\n"
    )
}

fn a_name_ends_with_its_label_and_with_its_generator(fixture: &mut Fixture) {
    let mesh = &fixture.mesh;
    mesh.apply(&labelled("{public: shop, team: a}"), &[]).good();
    let text = generator(
        "public",
        "{matchLabels: {team: a}}",
        "{{ label \"public\" }}.example.com",
    );
    mesh.apply(&text, &["--wait"]).good();
    let name = "shop.example.com";
    until("it is called by its label", SOON, || {
        (body(&fixture.caller, &[], name) == "v1").then_some(())
    });
    mesh.apply(&labelled("{public: store, team: a}"), &[])
        .good();
    until("it is called by its new label", SOON, || {
        (body(&fixture.caller, &[], "store.example.com") == "v1").then_some(())
    });
    until("the old name is gone", SOON, || {
        fixture.caller.look_up(name).is_err().then_some(())
    });
    mesh.apply(&labelled("{public: store, team: b}"), &[])
        .good();
    until("who is not selected has no name", SOON, || {
        let gone = fixture.caller.look_up("store.example.com").is_err();
        gone.then_some(())
    });
    mesh.apply(&labelled("{public: store, team: a}"), &[])
        .good();
    until("it has it again", SOON, || {
        fixture.caller.look_up("store.example.com").ok()
    });
    delete(fixture, "public");
    until("the name ends with its generator", SOON, || {
        let gone = fixture.caller.look_up("store.example.com").is_err();
        gone.then_some(())
    });
    fixture.mesh.leno(&["delete", "service", "shop"]).good();
}

fn of_two_services_one_has_the_name_and_the_other_is_told(fixture: &mut Fixture) {
    everywhere(fixture, "flat", "flat.mesh.local");
    let name = "db.flat.mesh.local";
    let derived = addresses(&fixture.caller, "db");
    assert_eq!(addresses(&fixture.caller, name), derived);
    // What a person wrote goes before what only programs made.
    let other = "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: other}\nspec:\n  ports: [{port: 80}]\n";
    fixture.mesh.apply(other, &[]).good();
    until("the applied service has the name", SOON, || {
        let now = addresses(&fixture.caller, name);
        (!now.is_empty() && now != derived).then_some(())
    });
    until("the other service is told", SOON, || {
        let shown = status(fixture, "service", "db");
        let outcome = &shown["hostnameGenerators"][0]["conditions"][0];
        (outcome["reason"] == "Conflict").then_some(())
    });
    let message = format!("default/db: {name} is the name of other/db, which was applied");
    until("the generator tells of it", SOON, || {
        let told = status(fixture, "hg", "flat")["conditions"].to_string();
        told.contains(&message).then_some(())
    });
    let table = fixture.mesh.leno(&["get", "hg"]).good().text();
    assert!(table.contains("Conflict"), "{table}");
    // Another generator gives nothing that somebody has.
    let again = generator(
        "again",
        "{namespaces: [default]}",
        "{{ .Name }}.flat.mesh.local",
    );
    let applied = fixture.mesh.apply(&again, &["--wait"]);
    let also = format!("default/db: {name} is also the name of other/db");
    refused(&applied, &["not every service has its name", &also]);
    delete(fixture, "again");
    let gone = ["delete", "service", "db", "-n", "other"];
    fixture.mesh.leno(&gone).good();
    until("the other has it back", SOON, || {
        (addresses(&fixture.caller, name) == derived).then_some(())
    });
    delete(fixture, "flat");
}

fn a_service_that_the_template_does_not_fit_is_told_of_and_breaks_no_other(fixture: &mut Fixture) {
    let mesh = &fixture.mesh;
    mesh.apply(&labelled("{public: shop}"), &[]).good();
    let text = generator("public", "{}", "{{ label \"public\" }}.example.org");
    let lacks = "default/cart: it has no label \"public\"";
    let dry = mesh.apply(&text, &["--dry-run"]).good();
    assert!(dry.stderr.contains(lacks), "{}", dry.stderr);
    let applied = mesh.apply(&text, &["--wait"]);
    refused(&applied, &[".yaml:6", "spec.template", lacks]);
    assert_eq!(body(&fixture.caller, &[], "shop.example.org"), "v1");
    let found = mesh.leno(&["check"]);
    let said = format!("{}{}", found.text(), found.stderr);
    assert!(
        said.contains("hostnamegenerator default/public"),
        "leno check tells of it: {said}"
    );
    delete(fixture, "public");
    fixture.mesh.leno(&["delete", "service", "shop"]).good();
}

fn a_template_that_is_none_is_refused_with_file_and_line(fixture: &mut Fixture) {
    let text = generator("wrong", "{}", "{{ .Nam }}.mesh.local");
    refused(
        &fixture.mesh.apply(&text, &[]),
        &[".yaml:6", "spec.template", "did you mean .Name?"],
    );
    let text = generator("wrong", "{}", "{{ .Name }}.svc.cluster.local");
    refused(&fixture.mesh.apply(&text, &[]), &["a domain of its own"]);
    let text = generator("dry", "{}", "{{ .Name }}.dry.example.com");
    let dry = fixture.mesh.apply(&text, &["--dry-run"]).good();
    assert!(dry.text().contains("dry run"), "{}", dry.text());
    let table = fixture.mesh.leno(&["get", "hostnamegenerators"]).text();
    assert!(!table.contains("dry"), "{table}");
    let text = generator("none", "{matchLabels: {tier: none}}", "{{ .Name }}.a.b");
    let dry = fixture.mesh.apply(&text, &["--dry-run"]).good();
    let warning = "spec.selector.service: it selects no service";
    assert!(dry.stderr.contains(warning), "{}", dry.stderr);
}

fn names_are_known_after_the_control_planes_restart(fixture: &mut Fixture) {
    everywhere(fixture, "all", "svc.mesh.local");
    let before = addresses(&fixture.caller, "cart.svc.mesh.local");
    fixture.mesh.kill_control_plane();
    // Who knows it goes on.
    assert_eq!(addresses(&fixture.caller, "cart.svc.mesh.local"), before);
    assert_eq!(call(&fixture.caller, "cart.svc.mesh.local"), "200");
    fixture.mesh.start_control_plane();
    // Nobody has asked for this one before.
    let db = until_ok("the other is known", SOON, || {
        fixture.caller.look_up("db.svc.mesh.local")
    });
    assert!(!db.is_empty());
    assert_eq!(addresses(&fixture.caller, "cart.svc.mesh.local"), before);
    delete(fixture, "all");
}

fn an_ordinary_users_program_has_and_calls_such_names(fixture: &mut Fixture) {
    let b = fixture.mesh.host("b");
    let probe = b.run(Command::new("setpriv").args([
        &format!("--reuid={USER}"),
        &format!("--regid={USER}"),
        "--clear-groups",
        "unshare",
        "-Urn",
        "true",
    ]));
    if probe.code != 0 {
        leno_testkit::skip!(
            "an ordinary user can make no namespaces here: {}",
            probe.stderr.trim()
        );
    }
    everywhere(fixture, "all", "svc.mesh.local");
    let mine = fixture.mesh.run(&b).user(USER).service("mine");
    let mine = mine.port("80:8089").start();
    let _backend = Backend::http(mine.listen(8089), |_| response(200, "", "mine"));
    until("it is called by its name", SOON, || {
        (body(&fixture.caller, &[], "mine.svc.mesh.local") == "mine").then_some(())
    });
    until("it calls by a name", SOON, || {
        (call(&mine, "cart.svc.mesh.local") == "200").then_some(())
    });
    delete(fixture, "all");
}
