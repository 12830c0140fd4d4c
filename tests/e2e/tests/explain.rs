//! Why something was refused, asked of the mesh: `leno explain`, `leno check`, `leno logs`.

use leno_e2e::{Backend, SOON, refusal_id, response};
use leno_testkit::{Answer, Member, Mesh, suite, until, until_ok};

struct Fixture {
    mesh: Mesh,
    cart: Member,
    web: Member,
}

fn start() -> Fixture {
    let mesh = Mesh::with(&["a", "b"], &["cart", "web"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let cart = mesh.run(&b).service("cart").port("80:8080/http");
    Fixture {
        cart: cart.option("check", "none").start(),
        web: mesh.run(&a).account("web").start(),
        mesh,
    }
}

suite!(
    start,
    [
        a_broken_endpoint_is_named_with_rule_file_and_line,
        an_ejected_endpoint_is_shown_with_its_failures_and_its_return,
        a_denied_caller_is_told_nothing_of_the_policy_and_an_admin_all,
        refused_bytes_are_found_by_time_and_caller,
        unknown_ids_say_what_to_do,
        logs_are_shown_for_a_service_and_followed,
        a_proxy_shows_routes_and_how_endpoints_stand,
    ]
);

/// Nothing tries it again.
const POST: &str = "POST /buy HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart}
spec:
  parentRefs: [{kind: Service, group: \"\", name: cart}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /buy}}]
    backendRefs: [{name: cart, port: 80}]
";

impl Fixture {
    fn until_status(&self, status: u16) -> Answer {
        until_ok("the answer is as expected", SOON, || {
            let answer = self.web.try_connect("cart", 80).and_then(|mut wire| {
                wire.try_send(POST)?;
                wire.try_message()
            });
            match answer {
                Ok(answer) if answer.status() == status => Ok(answer),
                Ok(answer) => Err(answer.head),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// What `leno explain` says of it.
    #[track_caller]
    fn explained(&self, answer: &Answer) -> String {
        let id = refusal_id(answer);
        self.mesh.leno(&["explain", &id]).good().text()
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

/// Check 19 of the control plane.
fn a_broken_endpoint_is_named_with_rule_file_and_line(fixture: &mut Fixture) {
    let file = fixture.mesh.host("cp").disk().join("shop.yaml");
    std::fs::write(&file, format!("# the shop\n---\n{ROUTE}")).expect("a file");
    let path = file.display().to_string();
    fixture.mesh.leno(&["apply", "-f", &path, "--wait"]).good();
    // Nobody listens at its port.
    let answer = fixture.until_status(503);
    let said = fixture.explained(&answer);
    let b = fixture.mesh.host("b");
    has(
        &said,
        &[
            "UF 503: the endpoint could not be reached",
            "default/cart:80",
            "as spiffe://",
            "HTTPRoute default/cart rules[0]",
            "shop.yaml:9",
            "backend  default/cart:80 100%: 0 of 1 endpoints usable",
            &format!("{}:8080", b.v4),
            "now: ",
            "Connection refused", // what the program's host said when it was dialled
            "\nNext: leno logs cart --since 1m\n      leno check\n",
            "\n      leno explain UF\n",
        ],
    );
    let id = refusal_id(&answer);
    until("its host has told of its certificate", SOON, || {
        fixture
            .explained(&answer)
            .contains("certificate for ")
            .then_some(())
    });
    let short = fixture.mesh.leno(&["explain", &id[..8], "-o", "json"]);
    let document = short.good().json();
    assert_eq!(document["id"], id.as_str());
    assert_eq!(document["sides"][0]["rule"]["field"], "spec.rules[0]");
    assert!(document["sides"][0]["rule"]["generation"].as_u64() >= Some(1));
    assert_ne!(document["sides"][0]["rule"]["uid"], "");
    assert_eq!(document["sides"][1]["direction"], "inbound");
    // The list has it, with who asked whom.
    let list = fixture.mesh.leno(&["explain"]).good().text();
    has(&list, &["UF", "default/web"]);
    // And the same cause makes `leno check` fail.
    until_ok("check fails for the same cause", SOON, || {
        fixture.until_status(503);
        let check = fixture.mesh.leno(&["check"]);
        let said = check.text();
        let whole = ["calls fail", "shop.yaml:9", "8080", "leno explain "];
        let told = check.code == 3 && whole.iter().all(|part| said.contains(part));
        if told { Ok(()) } else { Err(said) }
    });
    fixture.mesh.leno(&["delete", "httproute", "cart"]).good();
}

fn an_ejected_endpoint_is_shown_with_its_failures_and_its_return(fixture: &mut Fixture) {
    let failing = Backend::http(fixture.cart.listen(8080), |_| response(503, "", ""));
    for _ in 0..6 {
        fixture.until_status(503);
    }
    // The only one is tried all the same; now nobody listens.
    drop(failing);
    let answer = until("the mesh refuses it", SOON, || {
        let answer = fixture.until_status(503);
        answer.field("x-leno-refused").is_some().then_some(answer)
    });
    let said = fixture.explained(&answer);
    has(&said, &["ejected ", " consecutive ", "back in "]);
    let answering = Backend::http(fixture.cart.listen(8080), |_| response(200, "", ""));
    fixture.until_status(200);
    drop(answering);
}

fn a_denied_caller_is_told_nothing_of_the_policy_and_an_admin_all(fixture: &mut Fixture) {
    let _backend = Backend::http(fixture.cart.listen(8080), |_| response(200, "", ""));
    fixture.mesh.leno(&["deny", "web", "cart"]).good();
    let answer = fixture.until_status(403);
    let body = String::from_utf8_lossy(&answer.body);
    assert!(!body.contains("deny-web-cart"), "{body}");
    assert!(!answer.head.contains("deny-web-cart"), "{}", answer.head);
    let said = fixture.explained(&answer);
    has(
        &said,
        &[
            "RBAC 403",
            "policy   AccessPolicy default/deny-web-cart rules[0]",
            "sa/web",
            "leno get accesspolicy deny-web-cart -o yaml",
        ],
    );
    let delete = ["delete", "accesspolicy", "deny-web-cart"];
    fixture.mesh.leno(&delete).good();
    fixture.until_status(200);
}

/// There is no header that could tell an id.
fn refused_bytes_are_found_by_time_and_caller(fixture: &mut Fixture) {
    let mut wire = fixture.web.connect("10.77.0.201", 9999);
    wire.send([0_u8, 1, 2, 3]);
    assert!(wire.try_message().is_err());
    let listed = until("the list has it", SOON, || {
        let list = fixture.mesh.leno(&["explain", "-o", "json"]).good().json();
        let all = list["refusals"].as_array().expect("a list").clone();
        all.into_iter().find(|of| of["to"] == "10.77.0.201:9999")
    });
    assert_eq!(listed["reason"], "UD", "{listed}");
    let id = listed["id"].as_str().expect("an id");
    let said = fixture.mesh.leno(&["explain", id]).good().text();
    has(
        &said,
        &["UD 503", "10.77.0.201:9999", "leno get services -A"],
    );
}

fn unknown_ids_say_what_to_do(fixture: &mut Fixture) {
    for (id, code) in [("0123456789abcdef", 1), ("nonsense", 2), ("012", 6)] {
        let said = fixture.mesh.leno(&["explain", id]);
        assert_eq!(said.code, code, "{id}: {}", said.stderr);
        has(&said.stderr, &["leno explain lists"]);
    }
}

fn logs_are_shown_for_a_service_and_followed(fixture: &mut Fixture) {
    let backend = Backend::http(fixture.cart.listen(8080), |_| response(200, "", ""));
    fixture.until_status(200);
    for of in ["cart", "default/cart", "b"] {
        until("the log has it", SOON, || {
            let said = fixture.mesh.leno(&["logs", of, "--since", "1m"]).good();
            said.text().contains("POST /buy  200").then_some(())
        });
    }
    drop(backend);
    fixture.until_status(503);
    until("failures alone can be asked for", SOON, || {
        let said = fixture.mesh.leno(&["logs", "cart", "--errors"]).good();
        let text = said.text();
        assert!(!text.contains("  200  "), "{text}");
        text.contains("UF").then_some(())
    });
    let follow = ["logs", "cart", "-f", "--errors", "--tail", "0"];
    let mut follow = fixture.mesh.spawn_leno(&follow);
    until("lines are shown as they come", SOON, || {
        fixture.until_status(503);
        follow.stdout().contains("POST /buy").then_some(())
    });
    follow.kill();
    let said = fixture.mesh.leno(&["logs", "nobody"]);
    has(&said.stderr, &["no service, workload or host"]);
}

fn a_proxy_shows_routes_and_how_endpoints_stand(fixture: &mut Fixture) {
    fixture.mesh.apply(ROUTE, &["--wait"]).good();
    fixture.until_status(503);
    let routes = fixture.mesh.leno(&["proxy", "routes", "a"]).good().text();
    has(
        &routes,
        &["HTTPRoute default/cart rules[0]", "/buy", "default/cart=1"],
    );
    until("the endpoint is passed over", SOON, || {
        fixture.until_status(503);
        let said = fixture
            .mesh
            .leno(&["proxy-config", "endpoint", "a"])
            .good()
            .text();
        (said.contains("not reached") || said.contains("ejected")).then_some(())
    });
    fixture.mesh.leno(&["delete", "httproute", "cart"]).good();
}
