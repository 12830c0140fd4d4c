//! HTTP between two hosts: plain programs, plain names, and nothing in clear between them.

use std::time::Duration;

use leno_e2e::{Backend, SOON, nginx, noise, response};
use leno_testkit::{
    Capture, Member, Mesh, PAYLOAD, Process, Wire, need, skip, suite, until, until_ok,
};

/// Host a serves `web` (nginx) and `raw` (whatever a test makes of it); `shop` on host b calls, and is called.
struct Fixture {
    mesh: Mesh,
    web: Member,
    raw: Member,
    shop: Member,
    _others: [Member; 2],
    _servers: Vec<Process>,
}

fn start() -> Fixture {
    let mesh = Mesh::with(&["a", "b"], &["web", "raw", "shop", "duo", "uno", "quiet"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let web = mesh.run(&a).service("web").port("80:8080").start();
    let raw = mesh
        .run(&a)
        .service("raw")
        .port("80:8081")
        .option("check", "none")
        .start();
    let shop = mesh
        .run(&b)
        .service("shop")
        .port("80:8082")
        .option("check", "none")
        .start();
    // nginx as its caller speaks; one that speaks only HTTP/2; one that is declared to speak HTTP/1.
    let duo = mesh.run(&a).service("duo").port("80:8080").start();
    let uno = mesh.run(&a).service("uno").port("80:8080/http").start();
    let mut servers = Vec::new();
    if let Some(program) = leno_testkit::program("nginx") {
        for (member, listen) in [(&web, "8080"), (&duo, "8080 http2"), (&uno, "8080")] {
            let dir = a.disk().join(member.name.replace('/', "-"));
            let http = format!(
                "server {{ listen {listen}; location / {{ return 200 '{PAYLOAD} of nginx'; }} }}"
            );
            servers.push(nginx(member, &program, &dir, &http));
        }
        for (name, version) in [
            ("web", "--http1.1"),
            ("duo", "--http2-prior-knowledge"),
            ("uno", "--http2-prior-knowledge"),
        ] {
            until_ok("nginx answers through the mesh", SOON, || {
                let output = shop.curl(&[version, &format!("http://{name}/")]);
                if output.text().contains(PAYLOAD) {
                    Ok(())
                } else {
                    Err(output)
                }
            });
        }
    }
    Fixture {
        mesh,
        web,
        raw,
        shop,
        _others: [duo, uno],
        _servers: servers,
    }
}

suite!(
    start,
    [
        a_plain_name_is_called_over_mutual_tls_in_both_families,
        both_hosts_call_each_other,
        names_resolve_in_every_form_and_no_other,
        reports_carry_both_identities,
        header_case_order_and_duplicates_survive_the_mesh,
        private_fields_of_an_application_never_reach_the_peer,
        http_1_0_is_answered_to_its_end,
        chunked_bodies_and_trailers_pass_both_ways,
        a_hundred_continue_comes_from_the_backend,
        a_refused_expectation_sends_no_byte_of_the_body,
        early_hints_are_relayed,
        responses_without_a_body_have_none,
        large_bodies_arrive_whole_both_ways,
        closing_a_client_connection_keeps_the_mesh_connection,
        ambiguous_requests_are_refused_and_never_forwarded,
        trace_headers_are_passed_on_or_made,
        a_service_without_an_endpoint_is_refused_with_a_reason,
        an_endpoint_that_closes_is_told_apart_from_one_that_refuses,
        http_2_in_clear_reaches_backends_of_either_version,
        tls_of_the_programs_own_passes_through,
        a_connection_that_says_nothing_or_something_else_teaches_nothing,
    ]
);

fn a_plain_name_is_called_over_mutual_tls_in_both_families(fixture: &mut Fixture) {
    let (_curl, _nginx) = (need!("curl"), need!("nginx"));
    let capture = Capture::start(&[PAYLOAD.as_bytes(), b"GET /"]);
    for family in ["-4", "-6"] {
        let output = fixture.shop.curl(&[family, "-i", "http://web/"]).good();
        assert!(
            output.text().ends_with(&format!("{PAYLOAD} of nginx")),
            "{}",
            output.text()
        );
        assert!(
            output.text().starts_with("HTTP/1.1 200"),
            "{}",
            output.text()
        );
    }
    capture.assert_no_cleartext(PAYLOAD.as_bytes());
    capture.assert_no_cleartext(b"GET /");
}

fn both_hosts_call_each_other(fixture: &mut Fixture) {
    let _there = Backend::http(fixture.raw.listen(8081), |_| response(200, "", "there"));
    let _back = Backend::http(fixture.shop.listen(8082), |_| response(200, "", PAYLOAD));
    let capture = Capture::start(&[PAYLOAD.as_bytes()]);
    for _ in 0..10 {
        let there = fixture
            .shop
            .connect("raw", 80)
            .ask("GET / HTTP/1.1\r\nhost: raw\r\n\r\n");
        let back = fixture
            .raw
            .connect("shop", 80)
            .ask("GET / HTTP/1.1\r\nhost: shop\r\n\r\n");
        assert_eq!((there.status(), back.status()), (200, 200));
        assert_eq!(back.body, PAYLOAD.as_bytes());
    }
    capture.assert_no_cleartext(PAYLOAD.as_bytes());
}

fn names_resolve_in_every_form_and_no_other(fixture: &mut Fixture) {
    let first = fixture.shop.look_up("web").expect("web");
    assert!(first.iter().any(|address| address.is_ipv4()), "{first:?}");
    assert!(first.iter().any(|address| address.is_ipv6()), "{first:?}");
    for name in [
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
        "WEB",
    ] {
        assert_eq!(fixture.shop.look_up(name).expect(name), first, "{name}");
    }
    for name in ["web.other", "absent", "web.default.svc.cluster"] {
        assert!(fixture.shop.look_up(name).is_err(), "{name}");
    }
}

fn reports_carry_both_identities(fixture: &mut Fixture) {
    let _backend = Backend::http(fixture.raw.listen(8081), |_| response(200, "", ""));
    for _ in 0..5 {
        fixture
            .shop
            .connect("raw", 80)
            .ask("GET / HTTP/1.1\r\nhost: raw\r\n\r\n");
    }
    let edge = until("the edge is reported", SOON, || {
        let edges = fixture.mesh.api("/leno/v1/telemetry/edges?window=60s");
        let found = edges["edges"].as_array()?.iter().find(|edge| {
            edge["source"] == "shop"
                && edge["destination"] == "raw"
                && edge["protocol"] == "http/1.1"
        });
        found
            .filter(|edge| edge["requests"].as_u64() >= Some(5))
            .cloned()
    });
    assert_eq!(edge["mtls"], true, "{edge}");
    assert_eq!(
        edge["source_identity"],
        "spiffe://default.leno/ns/default/sa/shop"
    );
    assert_eq!(
        edge["destination_identity"],
        "spiffe://default.leno/ns/default/sa/raw"
    );
    assert!(edge["p50_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{edge}");
    let raw = "destination_service_name=\"raw\"";
    for (host, labels) in [
        (
            "b",
            [
                "reporter=\"source\"",
                "source_workload=",
                raw,
                "response_code=\"200\"",
            ],
        ),
        (
            "a",
            [
                "reporter=\"destination\"",
                "connection_security_policy=\"mutual_tls\"",
                raw,
                "response_code=\"200\"",
            ],
        ),
    ] {
        until("both sides count", SOON, || {
            (fixture.mesh.metric(host, "istio_requests_total", &labels) >= 5.0).then_some(())
        });
    }
}

fn header_case_order_and_duplicates_survive_the_mesh(fixture: &mut Fixture) {
    let backend = Backend::http(fixture.raw.listen(8081), |_| {
        response(
            200,
            "X-rEPLY: 1\r\nSet-Cookie: b=2\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\n",
            "",
        )
    });
    let mut wire = fixture.shop.connect("raw", 80);
    let answer = wire.ask("GET /p?q=%2F HTTP/1.1\r\nHost: raw\r\nX-CaSe: Yes\r\nx-TWICE: 1\r\nX-Twice: 2\r\nCookie: c=1; d=2\r\n\r\n");
    let request = backend.seen().pop().expect("a request");
    for line in [
        "GET /p?q=%2F HTTP/1.1",
        "X-CaSe: Yes",
        "x-TWICE: 1",
        "X-Twice: 2",
        "Cookie: c=1; d=2",
    ] {
        assert!(
            request.head.lines().any(|of| of == line),
            "{line} is not in {}",
            request.head
        );
    }
    assert!(answer.head.contains("X-rEPLY: 1"), "{}", answer.head);
    let cookies: Vec<&str> = answer
        .head
        .lines()
        .filter(|line| line.to_ascii_lowercase().starts_with("set-cookie"))
        .collect();
    assert_eq!(
        cookies,
        ["Set-Cookie: b=2", "set-cookie: a=1", "Set-Cookie: b=2"]
    );
}

fn private_fields_of_an_application_never_reach_the_peer(fixture: &mut Fixture) {
    let backend = Backend::http(fixture.raw.listen(8081), |_| {
        response(200, "X-Leno-Refused: UH\r\nx-leno-to: 1 x\r\n", "")
    });
    let mut wire = fixture.shop.connect("raw", 80);
    let answer = wire.ask("GET / HTTP/1.1\r\nhost: raw\r\nX-Leno-To: 1 127.0.0.1:15000 a:80 -\r\nx-leno-from: 1 a b c d\r\nx-leno-hop: 3\r\n\r\n");
    assert_eq!(answer.status(), 200);
    let request = backend.seen().pop().expect("a request");
    assert!(
        !request.head.to_ascii_lowercase().contains("x-leno-"),
        "{}",
        request.head
    );
    assert!(
        !answer.head.to_ascii_lowercase().contains("x-leno-"),
        "{}",
        answer.head
    );
}

fn http_1_0_is_answered_to_its_end(fixture: &mut Fixture) {
    let _backend = Backend::connections(fixture.raw.listen(8081), |mut wire| {
        let request = wire.message();
        let version = request.head.lines().next().unwrap_or_default().to_owned();
        // No length: the end of the connection ends the body.
        wire.send(format!(
            "HTTP/1.0 200 OK\r\nx-saw: {version}\r\n\r\nto the end"
        ));
    });
    for request in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: raw\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: raw\r\n\r\n",
    ] {
        let mut wire = fixture.shop.connect("raw", 80);
        let answer = wire.ask(request);
        assert_eq!(answer.status(), 200, "{request:?}: {}", answer.head);
        assert_eq!(answer.body, b"to the end");
        if request.contains("HTTP/1.0") {
            assert!(
                answer.field("transfer-encoding").is_none(),
                "{}",
                answer.head
            );
            assert_eq!(wire.try_rest().expect("the end"), b"");
        }
    }
}

fn chunked_bodies_and_trailers_pass_both_ways(fixture: &mut Fixture) {
    let backend = Backend::connections(fixture.raw.listen(8081), |mut wire| {
        let head = wire.head();
        assert!(
            head.to_ascii_lowercase()
                .contains("transfer-encoding: chunked"),
            "{head}"
        );
        let mut body = Vec::new();
        let trailers = loop {
            let size = usize::from_str_radix(&wire.line(), 16).expect("a size");
            if size == 0 {
                break wire
                    .try_until(b"\r\n")
                    .map(|line| String::from_utf8_lossy(&line).into_owned());
            }
            body.extend(wire.try_exactly(size).expect("a chunk"));
            wire.try_exactly(2).expect("its end");
        };
        let said = format!(
            "{}|{}",
            String::from_utf8_lossy(&body),
            trailers.unwrap_or_default().trim()
        );
        wire.send(format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n{:x}\r\n{said}\r\n0\r\nx-end: done\r\n\r\n",
            said.len()
        ));
    });
    let mut wire = fixture.shop.connect("raw", 80);
    wire.send("POST / HTTP/1.1\r\nhost: raw\r\nte: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    wire.send("4;ext=1\r\ndefg\r\n0\r\nx-sum: 7\r\n\r\n");
    let head = wire.head();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut rest = Vec::new();
    let mut first = wire.try_until(b"\r\n\r\n").expect("the body's end");
    rest.append(&mut first);
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(
        rest.to_ascii_lowercase().contains("abcdefg|x-sum: 7"),
        "{rest:?}"
    );
    assert!(
        rest.to_ascii_lowercase().contains("0\r\nx-end: done"),
        "{rest:?}"
    );
    drop(backend);
}

fn a_hundred_continue_comes_from_the_backend(fixture: &mut Fixture) {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let _backend = Backend::connections(fixture.raw.listen(8081), move |mut wire| {
        let head = wire.head();
        assert!(
            head.to_ascii_lowercase().contains("expect: 100-continue"),
            "{head}"
        );
        let told = wait.lock().expect("one at a time").recv_timeout(SOON);
        told.expect("told to go on");
        wire.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = wire.try_exactly(5).expect("the body");
        wire.send(response(200, "", body));
    });
    let mut wire = fixture.shop.connect("raw", 80);
    wire.send("POST / HTTP/1.1\r\nhost: raw\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    let short = Some(Duration::from_millis(300));
    wire.stream().set_read_timeout(short).expect("a timeout");
    assert!(wire.try_head().is_err(), "nobody but the backend says 100");
    go.send(()).expect("the backend waits");
    wire.stream()
        .set_read_timeout(Some(SOON))
        .expect("a timeout");
    assert!(wire.head().starts_with("HTTP/1.1 100"));
    wire.send("hello");
    assert_eq!(wire.message().body, b"hello");
}

fn a_refused_expectation_sends_no_byte_of_the_body(fixture: &mut Fixture) {
    let (send, seen) = std::sync::mpsc::channel();
    let _backend = Backend::connections(fixture.raw.listen(8081), move |mut wire| {
        wire.head();
        wire.send(
            "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        );
        wire.finish();
        drop(send.send(wire.try_rest()));
    });
    let mut wire = fixture.shop.connect("raw", 80);
    let answer = wire
        .ask("POST / HTTP/1.1\r\nhost: raw\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(answer.status(), 417);
    // Whatever follows now belongs to no request that was taken.
    drop(wire.try_send("hello"));
    let rest = seen.recv_timeout(SOON).expect("the backend saw the end");
    assert_eq!(rest.unwrap_or_default(), b"");
}

fn early_hints_are_relayed(fixture: &mut Fixture) {
    let _backend = Backend::http(fixture.raw.listen(8081), |_| {
        let mut bytes = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n".to_vec();
        bytes.extend(response(200, "", "after"));
        bytes
    });
    let mut wire = fixture.shop.connect("raw", 80);
    let hint = wire.ask("GET / HTTP/1.1\r\nhost: raw\r\n\r\n");
    assert_eq!(
        (hint.status(), hint.field("link")),
        (103, Some("</a.css>; rel=preload"))
    );
    assert_eq!(wire.message().body, b"after");
}

fn responses_without_a_body_have_none(fixture: &mut Fixture) {
    let backend = Backend::http(fixture.raw.listen(8081), |request| {
        match request.request() {
            ("HEAD", _) => b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n".to_vec(),
            (_, "/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            (_, "/304") => b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n".to_vec(),
            _ => response(200, "", "last"),
        }
    });
    // One connection: a body too many or too few would be taken for the next response.
    let mut wire = fixture.shop.connect("raw", 80);
    wire.send("HEAD / HTTP/1.1\r\nhost: raw\r\n\r\n");
    let head = wire.head();
    assert!(
        head.to_ascii_lowercase().contains("content-length: 1234"),
        "{head}"
    );
    assert_eq!(
        wire.ask("GET /204 HTTP/1.1\r\nhost: raw\r\n\r\n").status(),
        204
    );
    let unmodified = wire.ask("GET /304 HTTP/1.1\r\nhost: raw\r\n\r\n");
    assert_eq!(
        (unmodified.status(), unmodified.field("etag")),
        (304, Some("\"1\""))
    );
    assert_eq!(
        wire.ask("GET /last HTTP/1.1\r\nhost: raw\r\n\r\n").body,
        b"last"
    );
    assert_eq!(backend.seen().len(), 4);
}

fn large_bodies_arrive_whole_both_ways(fixture: &mut Fixture) {
    let size = 24 * 1024 * 1024;
    let _backend = Backend::http(fixture.raw.listen(8081), |request| {
        response(200, "", &request.body)
    });
    let body = noise(size);
    for framing in ["length", "chunked"] {
        let mut wire = fixture.shop.connect("raw", 80);
        let mut writer = Wire::new(wire.stream().try_clone().expect("a second handle"));
        let sent = body.clone();
        let chunked = framing == "chunked";
        let sending = std::thread::spawn(move || {
            if !chunked {
                writer.send(format!(
                    "POST / HTTP/1.1\r\nhost: raw\r\ncontent-length: {}\r\n\r\n",
                    sent.len()
                ));
                return writer.send(sent);
            }
            writer.send("POST / HTTP/1.1\r\nhost: raw\r\ntransfer-encoding: chunked\r\n\r\n");
            for part in sent.chunks(100_000) {
                writer.send(format!("{:x}\r\n", part.len()));
                writer.send(part);
                writer.send("\r\n");
            }
            writer.send("0\r\n\r\n");
        });
        let answer = wire.message();
        sending.join().expect("the body is sent");
        assert_eq!(answer.status(), 200, "{framing}");
        assert!(
            answer.body == body,
            "{framing}: {} bytes came of {size}, or others",
            answer.body.len()
        );
    }
}

fn closing_a_client_connection_keeps_the_mesh_connection(fixture: &mut Fixture) {
    let _backend = Backend::http(fixture.raw.listen(8081), |request| {
        assert!(
            request
                .field("connection")
                .is_none_or(|value| !value.contains("x-hop"))
        );
        assert!(request.field("x-hop").is_none(), "{}", request.head);
        response(200, "", "")
    });
    let ask = || {
        let mut wire = fixture.shop.connect("raw", 80);
        let answer =
            wire.ask("GET / HTTP/1.1\r\nhost: raw\r\nconnection: close, x-hop\r\nx-hop: 1\r\n\r\n");
        assert_eq!(answer.status(), 200);
        assert_eq!(
            wire.try_rest().expect("the end"),
            b"",
            "the client's connection ends"
        );
    };
    ask();
    let before = fixture.mesh.metric("b", "leno_connections_mesh_total", &[]);
    for _ in 0..30 {
        ask();
    }
    let after = fixture.mesh.metric("b", "leno_connections_mesh_total", &[]);
    assert!(
        before >= 1.0 && after - before <= 1.0,
        "{before} connections became {after}"
    );
}

fn ambiguous_requests_are_refused_and_never_forwarded(fixture: &mut Fixture) {
    let backend = Backend::http(fixture.raw.listen(8081), |_| response(200, "", ""));
    let bad = [
        "POST / HTTP/1.1\r\nhost: raw\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: raw\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nhost: raw\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: raw\r\ncontent-length: +5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nhost: raw\r\nhost: other\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: raw\r\nx-a: 1\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : raw\r\n\r\n",
        "GET / HTTP/1.1\nhost: raw\n\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: raw\r\nx-a: \0\r\n\r\n",
    ];
    for request in bad {
        let mut wire = fixture.shop.connect("raw", 80);
        let answer = wire.ask(request);
        // A transfer coding that nobody here knows is not malformed (RFC 9112, 6.1).
        let status = if request.contains("xchunked") {
            501
        } else {
            400
        };
        assert_eq!(answer.status(), status, "{request:?}: {}", answer.head);
        assert!(
            answer
                .field("x-leno-refused")
                .is_some_and(|reason| reason.starts_with("DPE")),
            "{request:?}: {}",
            answer.head
        );
        assert_eq!(
            wire.try_rest().unwrap_or_default(),
            b"",
            "the connection ends: {request:?}"
        );
    }
    assert_eq!(backend.seen().len(), 0);
}

fn trace_headers_are_passed_on_or_made(fixture: &mut Fixture) {
    let backend = Backend::http(fixture.raw.listen(8081), |_| response(200, "", ""));
    let mut wire = fixture.shop.connect("raw", 80);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    wire.ask(format!(
        "GET / HTTP/1.1\r\nhost: raw\r\ntraceparent: {trace}\r\ntracestate: a=1\r\n\r\n"
    ));
    wire.ask("GET / HTTP/1.1\r\nhost: raw\r\nb3: 4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1\r\n\r\n");
    wire.ask("GET / HTTP/1.1\r\nhost: raw\r\n\r\n");
    let seen = backend.seen();
    let parent = |index: usize| {
        seen[index]
            .field("traceparent")
            .unwrap_or_default()
            .to_owned()
    };
    assert!(
        parent(0).contains("4bf92f3577b34da6a3ce929d0e0e4736"),
        "{}",
        seen[0].head
    );
    assert_eq!(seen[0].field("tracestate"), Some("a=1"));
    assert!(
        seen[1]
            .field("b3")
            .is_some_and(|b3| b3.starts_with("4bf92f3577b34da6a3ce929d0e0e4736")),
        "{}",
        seen[1].head
    );
    let parts: Vec<usize> = parent(2).split('-').map(str::len).collect();
    assert_eq!(parts, [2, 32, 16, 2], "{}", seen[2].head);
}

fn a_service_without_an_endpoint_is_refused_with_a_reason(fixture: &mut Fixture) {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: empty}\nspec:\n  selector: {app: nobody}\n  ports: [{port: 80, targetPort: 8080}]\n";
    fixture.mesh.apply(service, &["--wait"]).good();
    let answer = until("the service is known", SOON, || {
        let mut wire = fixture.web.try_connect("empty", 80).ok()?;
        Some(wire.ask("GET / HTTP/1.1\r\nhost: empty\r\n\r\n"))
    });
    assert_eq!(answer.status(), 503, "{}", answer.head);
    let reason = answer.field("x-leno-refused").expect("a reason").to_owned();
    assert!(
        reason.starts_with("UH;") && reason.contains("id="),
        "{reason}"
    );
    let id = reason.split("id=").nth(1).expect("an id").to_owned();
    until("the log tells of it", SOON, || {
        let log = fixture.mesh.access_log("a");
        log.iter()
            .any(|line| line.to_string().contains(&id))
            .then_some(())
    });
    let counted = |host| {
        let labels = ["reason=\"UH\""];
        fixture.mesh.metric(host, "leno_refused_total", &labels)
    };
    until("it is counted", SOON, || {
        (counted("a") >= 1.0).then_some(())
    });
    fixture.mesh.leno(&["delete", "service", "empty"]).good();
}

fn an_endpoint_that_closes_is_told_apart_from_one_that_refuses(fixture: &mut Fixture) {
    let ask = |fixture: &Fixture| {
        let mut wire = fixture.shop.connect("raw", 80);
        // Not idempotent: nothing tries it again.
        let answer = wire.ask("POST / HTTP/1.1\r\nhost: raw\r\ncontent-length: 0\r\n\r\n");
        (
            answer.status(),
            answer
                .field("x-leno-refused")
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let closing = Backend::connections(fixture.raw.listen(8081), |mut wire| drop(wire.try_head()));
    let (status, reason) = ask(fixture);
    assert_eq!(status, 503, "{reason}");
    assert!(reason.starts_with("UC;"), "{reason}");
    drop(closing);
    until("nobody listens, and that is said", SOON, || {
        let (status, reason) = ask(fixture);
        (status == 503 && reason.starts_with("UF;")).then_some(())
    });
}

fn http_2_in_clear_reaches_backends_of_either_version(fixture: &mut Fixture) {
    let (_h2load, _nginx) = (need!("h2load"), need!("nginx"));
    for url in ["http://duo/", "http://uno/"] {
        let output = fixture
            .shop
            .exec(&["h2load", "-n", "2000", "-c", "4", "-m", "16", url])
            .good();
        let text = output.text();
        assert!(
            text.contains("2000 succeeded, 0 failed, 0 errored"),
            "{url}: {text}"
        );
        assert!(text.contains("status codes: 2000 2xx"), "{url}: {text}");
    }
}

fn tls_of_the_programs_own_passes_through(fixture: &mut Fixture) {
    let openssl = need!("openssl");
    let b = fixture.mesh.host("b");
    let dir = b.disk();
    let (key, certificate) = (dir.join("own.key"), dir.join("own.pem"));
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let made = b.exec(&[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=own.test",
        "-keyout",
        &path(&key),
        "-out",
        &path(&certificate),
    ]);
    if made.code != 0 {
        skip!("openssl makes no certificate: {}", made.stderr);
    }
    let server = fixture
        .mesh
        .run(&b)
        .service("shop")
        .version("tls")
        .port("443:8443/tls")
        .start();
    let _running = server.spawn(std::process::Command::new(openssl).args([
        "s_server",
        "-accept",
        "8443",
        "-www",
        "-key",
        &path(&key),
        "-cert",
        &path(&certificate),
    ]));
    until_ok("TLS of its own is answered", SOON, || {
        let output = fixture.web.curl(&["-k", "-v", "https://shop-tls/"]);
        if output.code == 0 && output.stderr.contains("CN=own.test") {
            Ok(())
        } else {
            Err(output)
        }
    });
}

fn a_connection_that_says_nothing_or_something_else_teaches_nothing(fixture: &mut Fixture) {
    let b = fixture.mesh.host("b");
    let quiet = fixture
        .mesh
        .run(&b)
        .service("quiet")
        .port("80:8085")
        .option("check", "none")
        .start();
    let backend = Backend::http(quiet.listen(8085), |_| response(200, "", "ok"));
    let ask = || {
        let mut wire = fixture.web.try_connect("quiet", 80).ok()?;
        wire.try_send("GET / HTTP/1.1\r\nhost: quiet\r\nx-leno-to: forged\r\n\r\n")
            .ok()?;
        wire.try_message().ok()
    };
    // As a check of somebody else's does, or a mistaken client: before anything else, and after.
    for probe in ["", "hello\r\n", "\x16\x03\x01\x00\x01\x01"] {
        let mut wire = until("the service is known", SOON, || {
            fixture.web.try_connect("quiet", 80).ok()
        });
        wire.send(probe);
        wire.finish();
        drop(wire.try_rest());
        until(&format!("it answers after {probe:?}"), SOON, || {
            ask().filter(|answer| answer.status() == 200)
        });
        let request = backend.seen().pop().expect("a request");
        // Only what understands HTTP takes private fields out.
        assert!(
            request.field("x-leno-to").is_none(),
            "{probe:?}: {}",
            request.head
        );
    }
}
