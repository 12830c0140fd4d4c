//! A backup is made while a mesh works, and restored: what was is again, in a new history, and members serve on.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use leno_e2e::{
    Backend, SOON,
    api::{Watching, call},
    response,
};
use leno_testkit::{Member, Mesh, suite, until, until_ok};
use serde_json::{Value, json};

struct Fixture {
    mesh: Mesh,
    /// The control plane's data directory.
    data: PathBuf,
    caller: Member,
    _web: Member,
    _backend: Backend,
}

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a", "b"], &["web"]);
    let web = mesh
        .run(&mesh.host("a"))
        .service("web")
        .port("80:8080/http")
        .start();
    let backend = Backend::http(web.listen(8080), |_| response(200, "", "web"));
    let caller = mesh.run(&mesh.host("b")).start();
    let data = mesh.host("cp").disk().join("default");
    mesh.join("lost");
    Fixture {
        mesh,
        data,
        caller,
        _web: web,
        _backend: backend,
    }
}

suite!(
    start,
    [
        a_backup_is_its_owners_alone_and_none_is_written_over,
        restored_it_is_a_new_history_and_members_serve_on,
        what_is_no_backup_changes_nothing,
        what_was_lost_is_told_and_not_begun_anew,
    ]
);

impl Fixture {
    fn backup(&self) -> String {
        self.data.with_file_name("mesh.tar").display().to_string()
    }

    fn restore(&self, file: &str) -> leno_testkit::Output {
        let data = format!("--data-dir={}", self.data.display());
        self.mesh.leno(&["restore", file, &data])
    }

    /// Puts a service as it was read, with another annotation: how it is answered.
    fn write(&self, object: &Value, mark: &str) -> u16 {
        let mut object = object.clone();
        object["metadata"]["annotations"]["mark"] = json!(mark);
        let socket = self.data.join("admin.sock");
        call(&socket, "PUT", SERVICE, &object).expect("an answer").0
    }

    fn read(&self) -> Value {
        let socket = self.data.join("admin.sock");
        let (status, object) = call(&socket, "GET", SERVICE, &Value::Null).expect("an answer");
        assert_eq!(status, 200, "{object}");
        object
    }

    fn calls(&self) -> Result<(), String> {
        let answer = self
            .caller
            .connect("web", 80)
            .ask("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        match answer.status() {
            200 => Ok(()),
            status => Err(format!("{status}")),
        }
    }
}

const SERVICE: &str = "/api/v1/namespaces/default/services/marked";
const DOCUMENT: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: marked, annotations: {mark: first}}\nspec: {selector: {app: x}, ports: [{port: 80}]}\n";

fn a_backup_is_its_owners_alone_and_none_is_written_over(fixture: &mut Fixture) {
    fixture.mesh.apply(DOCUMENT, &[]).good();
    let token = fixture.mesh.token(&["--service", "web"]);
    assert!(token.starts_with("leno_jt1_"), "one that could be redeemed");
    let file = fixture.backup();
    let said = fixture.mesh.leno(&["backup", &file]).good();
    assert!(said.stderr.contains("leno restore"), "{}", said.stderr);
    let mode = fs::metadata(&file)
        .expect("the backup")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fixture.mesh.leno(&["backup", &file]).code, 6);
    fixture.mesh.leno(&["backup", &file, "--force"]).good();
}

fn restored_it_is_a_new_history_and_members_serve_on(fixture: &mut Fixture) {
    until_ok("web answers", SOON, || fixture.calls());
    let file = fixture.backup();
    let then = fixture.read();
    fixture.mesh.leno(&["backup", &file, "--force"]).good();

    assert_eq!(fixture.write(&then, "second"), 200);
    let since = fixture.read();
    fixture
        .mesh
        .apply(&DOCUMENT.replace("marked", "late"), &[])
        .good();
    fixture.mesh.leno(&["agent", "revoke", "lost"]).good();
    let running = fixture.restore(&file);
    assert_eq!(running.code, 6, "{}", running.stderr);
    assert!(
        running.stderr.contains("end it first"),
        "{}",
        running.stderr
    );

    fixture.mesh.stop_control_plane();
    let said = fixture.restore(&file).good().stderr;
    assert!(said.contains("restored default"), "{said}");
    assert!(
        said.contains("1 hosts that were revoked since then stay so"),
        "{said}"
    );
    fixture.mesh.start_control_plane();

    let again = fixture.read();
    assert_eq!(again["metadata"]["annotations"]["mark"], "first");
    assert_eq!(again["spec"], then["spec"], "its addresses with it");
    let revision = |object: &Value| -> u64 {
        let text = object["metadata"]["resourceVersion"].as_str();
        text.expect("a revision").parse().expect("a number")
    };
    assert!(revision(&again) > revision(&since));
    // What anybody knew before is out of date, whether of the backup or since.
    for stale in [&then, &since] {
        assert_eq!(fixture.write(stale, "stale"), 409);
        let path = format!(
            "/api/v1/services?watch=1&resourceVersion={}",
            revision(stale)
        );
        let mut watching = Watching::start(&fixture.data.join("admin.sock"), &path);
        let told = watching.event().expect("an event");
        assert_eq!(
            (&told["type"], &told["object"]["code"]),
            (&json!("ERROR"), &json!(410)),
            "{told}"
        );
    }
    assert_eq!(fixture.write(&again, "third"), 200);
    // What was done before it stays written down, and itself is.
    let audit = fixture.mesh.leno(&["audit"]).good().text();
    let of = |what: &str| {
        let found = audit.lines().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("{what}: {audit}"))
    };
    assert!(of("created Service default/late") < of("(leno restore)  restored Mesh default"));
    let tokens = fixture.mesh.leno(&["token", "list"]).good().text();
    assert!(!tokens.contains("valid"), "{tokens}");
    let hosts = fixture
        .mesh
        .leno(&["agent", "list", "-o", "json"])
        .good()
        .text();
    let hosts: Vec<Value> = serde_json::from_str(&hosts).expect("a list");
    let lost = hosts.iter().find(|host| host["name"] == "lost");
    assert_eq!(lost.map(|host| &host["state"]), Some(&json!("revoked")));
    // Members are who they were, without a new token.
    until("both hosts are back", SOON, || {
        let status = fixture.mesh.api("/leno/v1/status");
        (status["proxies_connected"] == 2).then_some(())
    });
    until_ok("web answers", SOON, || fixture.calls());
}

fn what_is_no_backup_changes_nothing(fixture: &mut Fixture) {
    let file = fixture.backup();
    let bytes = fs::read(&file).expect("the backup");
    let half = fixture.data.with_file_name("half.tar");
    fs::write(&half, &bytes[..bytes.len() / 2]).expect("a file");
    let before = fixture.read();
    fixture.mesh.stop_control_plane();
    for bad in [half.display().to_string(), "/dev/null".into()] {
        let said = fixture.restore(&bad);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(said.stderr.contains("no whole backup"), "{}", said.stderr);
    }
    fixture.mesh.start_control_plane();
    assert_eq!(fixture.read()["metadata"], before["metadata"]);
}

fn what_was_lost_is_told_and_not_begun_anew(fixture: &mut Fixture) {
    fixture.mesh.stop_control_plane();
    let ready = fixture.data.with_file_name("never-ready");
    for lost in ["store.db", "meshes/default/root.key"] {
        let (path, away) = (fixture.data.join(lost), fixture.data.with_file_name("away"));
        fs::rename(&path, &away).expect("it was there");
        let mut started = fixture.mesh.spawn_control_plane(&ready);
        assert_eq!(started.wait(SOON), 1, "{}", started.stderr());
        let said = started.stderr();
        assert!(
            said.contains("gone") && said.contains("leno restore"),
            "{said}"
        );
        fs::rename(&away, &path).expect("it is put back");
    }
    fixture.mesh.start_control_plane();
    until_ok("web answers", SOON, || fixture.calls());
}
