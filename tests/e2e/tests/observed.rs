//! What people see of the traffic: metrics as a Prometheus library reads them, the access log, trace headers.

use std::{collections::BTreeMap, net::IpAddr};

use leno_e2e::{Backend, SOON, response, run_script};
use leno_testkit::{Answer, Member, Mesh, Wire, need, need_python, suite, until};
use serde_json::Value;

/// On a: `web` (HTTP, published on 8080) and `db` (bytes); on b: `shop`, which calls; `world` is outside.
struct Fixture {
    mesh: Mesh,
    web: Member,
    db: Member,
    shop: Member,
}

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a", "b"], &["web", "db", "shop"]);
    mesh.network.add_outside("world");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let web = mesh
        .run(&a)
        .service("web")
        .version("v1")
        .port("80:8080/http");
    let web = web
        .option("check", "none")
        .option("publish", "8080")
        .start();
    let db = mesh.run(&a).service("db").port("5432:5432/tcp");
    Fixture {
        web,
        db: db.option("check", "none").start(),
        shop: mesh.run(&b).account("shop").start(),
        mesh,
    }
}

suite!(
    start,
    [
        prometheus_reads_istios_names_labels_and_numbers,
        each_side_logs_a_request_as_json_with_istios_names,
        what_a_caller_wrote_cannot_break_a_line_of_the_log,
        traces_pass_on_whole_and_begin_where_none_came,
    ]
);

/// A sample of a scrape.
struct Sample {
    labels: BTreeMap<String, String>,
    value: f64,
    kind: String,
}

impl Fixture {
    /// What a Prometheus library makes of a host's metrics, asked for from outside the mesh.
    fn scrape(&self, python: &std::path::Path, host: &str) -> BTreeMap<String, Vec<Sample>> {
        let url = format!("http://{}:15020/metrics", self.mesh.host(host).v4);
        let mut script = run_script(python, "prometheus_scrape.py", &[&url]);
        let output = self.mesh.host("world").run(&mut script).good().json();
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for sample in output.as_array().expect("a list") {
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            let labels = sample["labels"].as_object().expect("labels").iter();
            samples
                .entry(text(&sample["name"]))
                .or_default()
                .push(Sample {
                    labels: labels
                        .map(|(name, value)| (name.clone(), text(value)))
                        .collect(),
                    value: sample["value"].as_f64().expect("a number"),
                    kind: text(&sample["type"]),
                });
        }
        samples
    }
}

/// Those with all of these labels.
fn with<'s>(samples: &'s [Sample], labels: &[(&str, &str)]) -> impl Iterator<Item = &'s Sample> {
    samples.iter().filter(|sample| {
        let has =
            |(name, value): &(&str, &str)| sample.labels.get(*name).is_some_and(|of| of == value);
        labels.iter().all(has)
    })
}

const REQUESTS: f64 = 7.0;
const CONNECTIONS: f64 = 3.0;

type Series = (
    &'static str,
    &'static str,
    Vec<(&'static str, &'static str)>,
    f64,
);

/// What one of both sides counts of the requests of four bytes, and of the connections that bring five and take six.
fn expected(reporter: &'static str) -> [Series; 8] {
    let common = [
        ("reporter", reporter),
        (
            "source_principal",
            "spiffe://default.leno/ns/default/sa/shop",
        ),
        ("source_workload_namespace", "default"),
        ("destination_workload_namespace", "default"),
        ("destination_service_namespace", "default"),
        ("connection_security_policy", "mutual_tls"),
        ("response_flags", "-"),
    ];
    let web = [
        (
            "destination_principal",
            "spiffe://default.leno/ns/default/sa/web",
        ),
        ("destination_service", "web.default.svc.cluster.local"),
        ("destination_service_name", "web"),
        ("destination_version", "v1"),
        ("destination_canonical_revision", "v1"),
        ("request_protocol", "http"),
        ("response_code", "200"),
    ];
    let db = [
        (
            "destination_principal",
            "spiffe://default.leno/ns/default/sa/db",
        ),
        ("destination_service_name", "db"),
        ("request_protocol", "tcp"),
    ];
    let (web, db) = ([&common[..], &web].concat(), [&common[..], &db].concat());
    [
        ("istio_requests_total", "counter", web.clone(), REQUESTS),
        (
            "istio_request_duration_milliseconds_count",
            "histogram",
            web.clone(),
            REQUESTS,
        ),
        (
            "istio_request_bytes_sum",
            "histogram",
            web.clone(),
            REQUESTS * 4.0,
        ),
        (
            "istio_response_bytes_sum",
            "histogram",
            web.clone(),
            REQUESTS * 10.0,
        ),
        (
            "istio_tcp_connections_opened_total",
            "counter",
            db.clone(),
            CONNECTIONS,
        ),
        (
            "istio_tcp_connections_closed_total",
            "counter",
            db.clone(),
            CONNECTIONS,
        ),
        (
            "istio_tcp_sent_bytes_total",
            "counter",
            db.clone(),
            CONNECTIONS * 6.0,
        ),
        (
            "istio_tcp_received_bytes_total",
            "counter",
            db.clone(),
            CONNECTIONS * 5.0,
        ),
    ]
}

fn prometheus_reads_istios_names_labels_and_numbers(fixture: &mut Fixture) {
    let python = need_python!("prometheus_client");
    let _web = Backend::http(fixture.web.listen(8080), |_| {
        response(200, "", "0123456789")
    });
    let _db = Backend::connections(fixture.db.listen(5432), |mut wire| {
        drop(wire.try_exactly(5).and_then(|_| wire.try_send("answer")));
    });
    let mut wire = fixture.shop.connect("web", 80);
    for _ in 0..7 {
        let request = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nbody";
        assert_eq!(wire.ask(request).status(), 200);
    }
    for _ in 0..3 {
        let mut wire = fixture.shop.connect("db", 5432);
        wire.send("query");
        assert_eq!(wire.try_rest().expect("an answer"), b"answer");
    }
    for (host, reporter) in [("b", "source"), ("a", "destination")] {
        let expected = expected(reporter);
        let scraped = until("all of it is counted", SOON, || {
            let scraped = fixture.scrape(&python, host);
            let counted = |(name, _, labels, value): &Series| {
                let of = scraped.get(*name)?;
                Some(with(of, labels).map(|sample| sample.value).sum::<f64>() >= *value)
            };
            let all = expected.iter().all(|one| counted(one) == Some(true));
            all.then_some(scraped)
        });
        for (name, kind, labels, value) in expected {
            let found: Vec<&Sample> = with(&scraped[name], &labels).collect();
            let [one] = found.as_slice() else {
                panic!("{name}: {} samples", found.len());
            };
            assert_eq!((one.value, one.kind.as_str()), (value, kind), "{name}");
            for workload in ["source_workload", "destination_workload"] {
                assert_ne!(one.labels[workload], "unknown", "{name}");
            }
        }
        // An alert on a rise sees the first one.
        for code in leno_types::Refusal::ALL {
            let labels = [("reason", code.code())];
            let of = with(&scraped["leno_refused_total"], &labels);
            assert_eq!(of.count(), 1, "{code}");
        }
    }
}

/// The line of a request, by its path, as one side wrote it.
fn line(mesh: &Mesh, host: &str, reporter: &str, path: &str) -> Value {
    until("the line is written", SOON, || {
        let log = mesh.access_log(host);
        let mut ours = log.into_iter();
        ours.find(|line| line["reporter"] == reporter && line["path"] == path)
    })
}

fn each_side_logs_a_request_as_json_with_istios_names(fixture: &mut Fixture) {
    let _web = Backend::http(fixture.web.listen(8080), |_| {
        response(201, "", "0123456789")
    });
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answer = fixture.shop.connect("web", 80).ask(format!(
        "PUT /line?q=1 HTTP/1.1\r\nhost: web\r\nuser-agent: tester/1\r\nx-request-id: id-1\r\ntraceparent: \
         00-{trace}-00f067aa0ba902b7-01\r\ncontent-length: 4\r\n\r\nbody"
    ));
    assert_eq!(answer.status(), 201);
    let (a, b) = (fixture.mesh.host("a"), fixture.mesh.host("b"));
    let vips = fixture.shop.look_up("web").expect("web");
    for (host, reporter) in [("b", "source"), ("a", "destination")] {
        let line = line(&fixture.mesh, host, reporter, "/line?q=1");
        for (name, value) in [
            ("protocol", "http/1.1"),
            ("method", "PUT"),
            ("authority", "web"),
            ("response_flags", "-"),
            ("user_agent", "tester/1"),
            ("request_id", "id-1"),
            ("trace_id", trace),
            ("connection_security_policy", "mutual_tls"),
            ("destination_service", "default/web"),
            (
                "source_identity",
                "spiffe://default.leno/ns/default/sa/shop",
            ),
            (
                "destination_identity",
                "spiffe://default.leno/ns/default/sa/web",
            ),
            ("upstream_host", &format!("{}:8080", a.v4)),
        ] {
            assert_eq!(line[name], value, "{name}: {line}");
        }
        for (name, value) in [
            ("response_code", 201),
            ("bytes_received", 4),
            ("bytes_sent", 10),
        ] {
            assert_eq!(line[name], value, "{name}: {line}");
        }
        assert!(
            line["duration"].is_u64() && line["upstream_service_time"].is_u64(),
            "{line}"
        );
        let version = line["config_version"].as_str().unwrap_or_default();
        assert!(version.parse::<u64>().is_ok_and(|it| it > 0), "{line}");
        let began = line["start_time"].as_str().unwrap_or_default();
        assert!(began.len() == 24 && began.ends_with('Z'), "{line}");
        let address = |name: &str| -> IpAddr {
            let text = line[name].as_str().unwrap_or_default();
            text.parse::<std::net::SocketAddr>().expect(name).ip()
        };
        let (from, to) = (
            address("downstream_remote_address"),
            address("downstream_local_address"),
        );
        if reporter == "source" {
            assert!(vips.iter().any(|vip| vip.ip() == to), "{line}");
        } else {
            assert_eq!((from, to), (b.v4.into(), a.v4.into()), "{line}");
        }
    }
    // A caller without a proxy has no identity, and none is made up.
    let stream = fixture.mesh.host("world").connect((a.v4, 8080).into());
    let answer = Wire::new(stream.expect("a published port"))
        .ask("GET /outside HTTP/1.1\r\nhost: web\r\n\r\n");
    assert_eq!(answer.status(), 201);
    let line = line(&fixture.mesh, "a", "destination", "/outside");
    assert_eq!(line["connection_security_policy"], "none", "{line}");
    assert!(
        line["source_identity"].is_null() && line["destination_identity"].is_null(),
        "{line}"
    );
}

fn what_a_caller_wrote_cannot_break_a_line_of_the_log(fixture: &mut Fixture) {
    let _web = Backend::http(fixture.web.listen(8080), |_| response(200, "", ""));
    let ask = |path: &str, agent: &[u8]| {
        let mut request = format!("GET {path} HTTP/1.1\r\nhost: web\r\nuser-agent: ").into_bytes();
        request.extend_from_slice(agent);
        request.extend_from_slice(b"\r\n\r\n");
        fixture.shop.connect("web", 80).ask(request).status()
    };
    let evil = b"\"},{\"response_code\":200}\\ \x80\xff \xe2\x80\xae";
    assert_eq!(ask("/odd\"path", evil), 200);
    let long = "x".repeat(5_000);
    assert_eq!(ask("/long", long.as_bytes()), 200);
    for (host, reporter) in [("b", "source"), ("a", "destination")] {
        // Every line is JSON, or reading the log fails.
        let odd = line(&fixture.mesh, host, reporter, "/odd\"path");
        let said = odd["user_agent"].as_str().expect("a text");
        assert!(said.starts_with("\"},{\"response_code\":200}\\ "), "{said}");
        let long = line(&fixture.mesh, host, reporter, "/long");
        let said = long["user_agent"].as_str().expect("a text");
        assert!((1_000..1_100).contains(&said.len()), "{}", said.len());
    }
}

/// The trace fields of a request, in their order.
fn traced(request: &Answer) -> Vec<(String, String)> {
    let fields = request
        .head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "));
    let ours = fields.filter(|(name, _)| {
        let name = name.to_ascii_lowercase();
        name == "b3" || name.starts_with("x-b3-") || name.starts_with("trace")
    });
    ours.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect()
}

fn traces_pass_on_whole_and_begin_where_none_came(fixture: &mut Fixture) {
    need!("curl");
    let web = Backend::http(fixture.web.listen(8080), |_| response(200, "", ""));
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let parent = format!("00-{trace}-{span}-01");
    let single = format!("{trace}-{span}-1-05e3ac9a4f6e3b90");
    let cases: [&[(&str, &str)]; 4] = [
        &[
            ("traceparent", &parent),
            ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ],
        &[("b3", &single)],
        &[
            ("x-b3-traceid", trace),
            ("x-b3-spanid", span),
            ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
            ("x-b3-sampled", "1"),
        ],
        &[("traceparent", &parent), ("b3", &single)],
    ];
    let mut paths = Vec::new();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (number, fields) in cases.iter().enumerate() {
            let path = format!("/trace{version}/{number}");
            let given: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect();
            let mut words = vec![version];
            given.iter().for_each(|field| words.extend(["-H", field]));
            let url = format!("http://web{path}");
            words.push(&url);
            fixture.shop.curl(&words).good();
            let request = web.seen().pop().expect("a request");
            let expected: Vec<(String, String)> = fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(traced(&request), expected, "{version}");
            paths.push(path);
        }
        let mut made = Vec::new();
        for _ in 0..2 {
            fixture.shop.curl(&[version, "http://web/"]).good();
            made.push(traced(&web.seen().pop().expect("a request")));
        }
        let world = fixture.mesh.host("world");
        let url = format!("http://{}:8080/", fixture.mesh.host("a").v4);
        world.exec(&["curl", "-sS", version, &url]).good();
        made.push(traced(&web.seen().pop().expect("a request")));
        for fields in &made {
            let [(name, value)] = fields.as_slice() else {
                panic!("{fields:?}");
            };
            let lengths: Vec<usize> = value.split('-').map(str::len).collect();
            assert_eq!(
                (name.as_str(), lengths),
                ("traceparent", vec![2, 32, 16, 2])
            );
        }
        made.dedup();
        assert_eq!(made.len(), 3, "a trace of its own for each: {made:?}");
    }
    for path in paths {
        let line = line(&fixture.mesh, "a", "destination", &path);
        assert_eq!(line["trace_id"], trace, "{path}");
    }
}
