//! `openssl s_client` at port 15008: the right certificate is served, each wrong one refused, and counted by its reason.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use leno_e2e::{
    Backend, SOON,
    peer::{Identity, identity, uid_of},
    response,
};
use leno_testkit::{Member, Mesh, PAYLOAD, Process, need, suite, until};

/// `web` on a; a caller on b, whose certificate of ten seconds the stranger on host s has.
struct Fixture {
    mesh: Mesh,
    log: Backend,
    web_uid: String,
    _members: [Member; 2],
}

fn start() -> Fixture {
    let mut mesh = Mesh::builder()
        .option("workload-ttl", "10s")
        .services(&["web"])
        .start();
    mesh.join("a");
    mesh.join("b");
    mesh.network.add("s");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let web = mesh.run(&a).service("web").port("80:8080").start();
    let log = Backend::http(web.listen(8080), |_| response(200, "", PAYLOAD));
    let caller = mesh.run(&b).start();
    Fixture {
        log,
        web_uid: uid_of(&mesh, "web"),
        _members: [web, caller],
        mesh,
    }
}

suite!(
    start,
    [
        the_right_certificate_is_served_until_it_ends,
        each_wrong_certificate_is_refused_with_its_reason,
    ]
);

/// One field of a head, as RFC 7541 6.2.2 has it: without indexing and without Huffman's code.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |of: &str| {
        let length = u8::try_from(of.len()).expect("a short text");
        [&[length], of.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let [_, length @ ..] = length.to_be_bytes();
    let head = [&length[..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head.as_slice(), payload].concat()
}

impl Fixture {
    /// An `openssl s_client` that asks for a tunnel to `web`, and for `/` through it.
    fn client(&self, openssl: &Path, arguments: &[&str]) -> Process {
        let (a, stranger) = (self.mesh.host("a").v4, self.mesh.host("s"));
        let head = [
            literal(":method", "CONNECT"),
            literal(":authority", &format!("{a}:8080")),
        ];
        let request = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, b""),
            frame(1, 4, 1, &head.concat()),
            frame(0, 0, 1, b"GET / HTTP/1.1\r\nhost: web\r\n\r\n"),
        ];
        let file = stranger.disk().join("request");
        fs::write(&file, request.concat()).expect("a request");
        let script = format!("exec \"$@\" < {}", file.display());
        let to = format!("{a}:15008");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(openssl);
        command.args(["s_client", "-quiet", "-alpn", "h2", "-connect", &to]);
        stranger.spawn(command.args(arguments))
    }

    fn failed(&self, reason: &str) -> f64 {
        let label = format!("reason=\"{reason}\"");
        self.mesh
            .metric("a", "leno_tls_handshakes_failed_total", &[&label])
    }

    /// Nothing is served, and the reason is counted: this one, and no other.
    #[track_caller]
    fn assert_refused(&self, openssl: &Path, arguments: &[&str], reason: &str) {
        let (seen, before, all) = (
            self.log.seen().len(),
            self.failed(reason),
            self.mesh
                .metric("a", "leno_tls_handshakes_failed_total", &[]),
        );
        let mut client = self.client(openssl, arguments);
        client.wait(SOON);
        assert!(!client.stdout().contains(PAYLOAD), "{reason}");
        until("the reason is counted", SOON, || {
            (self.failed(reason) >= before + 1.0).then_some(())
        });
        let now = self
            .mesh
            .metric("a", "leno_tls_handshakes_failed_total", &[]);
        assert_eq!(now - all, self.failed(reason) - before, "{reason}");
        assert_eq!(self.log.seen().len(), seen, "{reason}");
    }
}

fn shown_by(who: &Identity) -> [&str; 6] {
    let (chain, key) = (&who.chain, &who.key);
    ["-cert", chain, "-cert_chain", chain, "-key", key]
}

fn the_right_certificate_is_served_until_it_ends(fixture: &mut Fixture) {
    let openssl = need!("openssl");
    let (b, s) = (fixture.mesh.host("b"), fixture.mesh.host("s"));
    // A machine that stands still may have let a first one end.
    let served = (0..3).any(|_| {
        let own = identity(&b, &s, "own");
        let name = ["-servername", &fixture.web_uid];
        let mut client = fixture.client(&openssl, &[&name[..], &shown_by(&own)].concat());
        let began = Instant::now();
        loop {
            if client.stdout().contains(PAYLOAD) {
                return true;
            }
            if client.ended().is_some() || began.elapsed() > SOON {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert!(served, "the right certificate is not served");
    // The same files, later.
    let file = |field: &str| {
        s.disk()
            .join(format!("own-{field}.pem"))
            .display()
            .to_string()
    };
    let own = Identity {
        chain: file("chain"),
        key: file("key"),
        roots: file("bundle"),
    };
    let name = ["-servername", &fixture.web_uid];
    let seconds = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.expect("a clock").as_secs()
    };
    let openssl_text = openssl.display().to_string();
    let ended = until("it has ended", SOON * 3, || {
        let left = ["x509", "-in", &own.chain, "-checkend", "0"];
        let ended = s.exec(&[&[openssl_text.as_str()], &left[..]].concat()).code != 0;
        ended.then(seconds)
    });
    // Its end counts in whole seconds, to the end of the last.
    until("also by a second", SOON, || {
        (seconds() > ended + 1).then_some(())
    });
    let arguments = [&name[..], &shown_by(&own)].concat();
    fixture.assert_refused(&openssl, &arguments, "expired");
}

/// Makes a certificate with these extensions: by the CA of that name, or by itself.
fn make(fixture: &Fixture, openssl: &Path, name: &str, extensions: &str, by: Option<&str>) {
    let host = fixture.mesh.host("s");
    let file = |name: &str, kind: &str| host.disk().join(format!("{name}.{kind}"));
    let config = format!(
        "[req]\ndistinguished_name=dn\nprompt=no\nx509_extensions=ext\n[dn]\nCN={name}\n[ext]\n{extensions}\n"
    );
    fs::write(file(name, "conf"), config).expect("a configuration");
    let mut command = Command::new(openssl);
    command.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "1"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
    for (option, kind) in [("-config", "conf"), ("-keyout", "key"), ("-out", "pem")] {
        command.arg(option).arg(file(name, kind));
    }
    if let Some(by) = by {
        command.arg("-CA").arg(file(by, "pem"));
        command.arg("-CAkey").arg(file(by, "key"));
    }
    host.run(&mut command).good();
}

const SAN: &str = "subjectAltName=URI:spiffe://default.leno/ns/default/sa/default";
const LEAF: &str = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature";
const USAGE: &str = "extendedKeyUsage=clientAuth,serverAuth";

fn each_wrong_certificate_is_refused_with_its_reason(fixture: &mut Fixture) {
    let openssl = need!("openssl");
    let host = fixture.mesh.host("s");
    let file = |name: &str| host.disk().join(name).display().to_string();
    make(
        fixture,
        &openssl,
        "ca",
        "basicConstraints=critical,CA:TRUE",
        None,
    );
    let other = "subjectAltName=URI:spiffe://other.leno/ns/default/sa/default";
    let two = format!("{SAN},URI:spiffe://default.leno/ns/default/sa/web");
    let servers = "extendedKeyUsage=serverAuth";
    let authority = "basicConstraints=critical,CA:TRUE";
    let dns = "subjectAltName=DNS:default";
    // What it says of itself, by whom, and why it is refused.
    let cases: [(&[&str], Option<&str>, &str); 8] = [
        (&[SAN, LEAF, USAGE], None, "self_signed"),
        (&[SAN, LEAF, USAGE], Some("ca"), "unknown_issuer"),
        (&[other, LEAF, USAGE], Some("ca"), "other_trust_domain"),
        (&[LEAF, USAGE], Some("ca"), "no_san"),
        (&[dns, LEAF, USAGE], Some("ca"), "no_san"),
        (&[&two, LEAF, USAGE], Some("ca"), "several_sans"),
        (&[SAN, LEAF, servers], Some("ca"), "wrong_usage"),
        (&[SAN, authority, USAGE], Some("ca"), "wrong_usage"),
    ];
    let name = ["-servername", &fixture.web_uid];
    for (number, (extensions, by, reason)) in cases.into_iter().enumerate() {
        let leaf = format!("wrong-{number}");
        make(fixture, &openssl, &leaf, &extensions.join("\n"), by);
        let (pem, key) = (file(&format!("{leaf}.pem")), file(&format!("{leaf}.key")));
        let shown = ["-cert", &pem, "-key", &key];
        fixture.assert_refused(&openssl, &[&name[..], &shown].concat(), reason);
    }
    let ca = fs::read_to_string(file("ca.pem")).expect("the CA");
    fs::write(file("long.pem"), ca.repeat(10)).expect("a chain");
    let (pem, key, long) = (file("wrong-1.pem"), file("wrong-1.key"), file("long.pem"));
    let shown = ["-cert", &pem, "-key", &key, "-cert_chain", &long];
    let too_long = [&name[..], &shown].concat();
    fixture.assert_refused(&openssl, &too_long, "chain_too_long");
    fixture.assert_refused(&openssl, &name, "no_certificate");
    let old = [&name[..], &["-tls1_2"]].concat();
    fixture.assert_refused(&openssl, &old, "tls_version");
    let nobody = ["-servername", "0123456789abcdef0123456789abcdef"];
    fixture.assert_refused(&openssl, &nobody, "unknown_workload");
}
