//! `leno up` and `leno down`: a mesh on one machine, in front or in the background, for root and who called sudo.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    time::Duration,
};

use leno_e2e::SOON;
use leno_testkit::{Host, Network, Output, Signal, leno_binary, need, skip, suite, until};

/// It drains within this.
const ENDS: Duration = Duration::from_secs(20);
/// An ordinary user who calls sudo.
const USER: u32 = 4321;

/// A machine, and a place on it for each test.
struct Fixture {
    host: Rc<Host>,
    _network: Network,
    number: u32,
    place: PathBuf,
}

fn start() -> Fixture {
    let mut network = Network::new();
    let host = network.add("m");
    Fixture {
        place: host.disk(),
        host,
        _network: network,
        number: 0,
    }
}

suite!(
    start,
    [
        detached_it_is_ready_when_the_command_returns_and_down_ends_it,
        a_second_one_says_that_the_first_runs_and_what_to_do,
        one_that_was_killed_is_followed_by_another,
        where_nothing_can_be_said_it_runs_all_the_same,
        a_backup_is_taken_back_as_the_command_says,
        an_agent_that_its_control_plane_refuses_is_not_said_to_be_ready,
        a_port_that_is_taken_is_told_in_front_and_in_the_background,
        contexts_of_another_user_are_told_before_anything_is_made,
        what_is_in_the_way_is_told_before_anything_is_started,
        every_check_has_an_id_and_a_paragraph,
        a_token_that_is_not_given_leaves_the_terminal_as_it_was,
        a_host_of_loopback_alone_says_what_it_cannot_preserve,
        a_run_directory_that_another_user_made_is_refused,
        a_context_for_another_machine_works_there_and_its_file_is_nobody_elses,
        the_person_behind_sudo_has_a_context_of_their_own,
        purge_waits_for_programs_on_the_hosts_network,
    ]
);

impl Fixture {
    /// A new place, where nothing is yet.
    fn new_place(&mut self) {
        self.number += 1;
        self.place = self.host.disk().join(format!("p{}", self.number));
        fs::create_dir_all(&self.place).expect("a directory");
    }

    fn path(&self, name: &str) -> String {
        self.place.join(name).display().to_string()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(leno_binary());
        command
            .args(words)
            .env("LENO_CONFIG", self.path("config/leno"))
            .env("LENO_AGENT_SOCKET", self.path("run/agent.sock"))
            .env_remove("LENO_CONTEXT")
            .env_remove("SUDO_UID");
        command
    }

    #[track_caller]
    fn leno(&self, words: &[&str]) -> Output {
        self.host.run(&mut self.command(words))
    }

    fn up_command(&self, words: &[&str]) -> Command {
        let mut command = self.command(&["up"]);
        command
            .args(words)
            .arg(format!("--data-dir={}", self.path("data")))
            .arg(format!("--run-dir={}", self.path("run")));
        command
    }

    #[track_caller]
    fn up(&self, words: &[&str]) -> Output {
        self.host.run(&mut self.up_command(words))
    }

    #[track_caller]
    fn down(&self, words: &[&str]) -> Output {
        let data = format!("--data-dir={}", self.path("data"));
        self.leno(&[&["down", &data], words].concat())
    }

    /// The process that runs in the background.
    fn pid(&self) -> u32 {
        let note = fs::read_to_string(self.place.join("data/up.lock")).expect("its note");
        let note: serde_json::Value = serde_json::from_str(&note).expect("JSON");
        let pid = note["pid"].as_u64().expect("a process id");
        u32::try_from(pid).expect("a process id")
    }
}

fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

#[track_caller]
fn says(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.code, code, "{}{}", output.text(), output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "{word:?}: {}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

fn detached_it_is_ready_when_the_command_returns_and_down_ends_it(fixture: &mut Fixture) {
    fixture.new_place();
    says(
        &fixture.up(&["--detach"]),
        0,
        &["✔ agent ready", "in the background (pid", "leno down"],
    );
    let pid = fixture.pid();
    assert!(runs(pid));
    fixture.leno(&["run", "--", "true"]).good();
    let status = fixture.leno(&["status"]).good().text();
    assert!(status.contains("mesh default"), "{status}");
    let top = fixture.leno(&["top", "-o", "yaml"]).good().text();
    assert!(top.starts_with("---\n") && top.contains("edges:"), "{top}");
    says(&fixture.down(&[]), 0, &["ended leno up"]);
    assert!(!runs(pid), "it has ended when the command returns");
    says(&fixture.leno(&["status"]), 5, &["leno up"]);
    says(&fixture.down(&[]), 0, &["no leno up runs"]);
    // It is the same mesh the next time.
    let authority = fixture.place.join("data/control-plane/meshes/default");
    let kept = || fs::metadata(&authority).and_then(|of| of.created()).ok();
    let before = kept();
    fixture.up(&["--detach"]).good();
    assert_eq!(kept(), before);
    says(
        &fixture.down(&["--purge"]),
        0,
        &["ended leno up", "removed"],
    );
    for name in ["data", "run", "config"] {
        assert!(!fixture.place.join(name).exists(), "{name} is left");
    }
}

fn a_second_one_says_that_the_first_runs_and_what_to_do(fixture: &mut Fixture) {
    fixture.new_place();
    fixture.up(&["--detach"]).good();
    let pid = fixture.pid();
    for words in [&[][..], &["--detach"]] {
        let output = fixture.up(words);
        let named = format!("pid {pid}");
        says(&output, 1, &["runs here already", &named, "leno down"]);
    }
    assert!(runs(pid));
    fixture.leno(&["status"]).good();
    fixture.down(&["--purge"]).good();
}

fn one_that_was_killed_is_followed_by_another(fixture: &mut Fixture) {
    fixture.new_place();
    let mut first = fixture.host.spawn(&mut fixture.up_command(&[]));
    first.says("agent ready", ENDS);
    first.kill();
    says(&fixture.down(&[]), 0, &["no leno up runs"]);
    let mut second = fixture.host.spawn(&mut fixture.up_command(&[]));
    second.says("agent ready", ENDS);
    fixture.leno(&["run", "--", "true"]).good();
    fixture.down(&["--purge"]).good();
    assert_eq!(second.wait(ENDS), 0, "{}", second.stderr());
}

/// The disk that its log goes to is full.
fn where_nothing_can_be_said_it_runs_all_the_same(fixture: &mut Fixture) {
    fixture.new_place();
    let up = fixture.up_command(&["--verbose"]);
    let mut quiet = Command::new("sh");
    quiet
        .args(["-c", "exec \"$@\" 2>/dev/full", "sh"])
        .arg(up.get_program())
        .args(up.get_args())
        .envs(
            up.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let mut up = fixture.host.spawn(&mut quiet);
    until("programs may start", ENDS, || {
        (fixture.leno(&["run", "--", "true"]).code == 0).then_some(())
    });
    fixture
        .leno(&["token", "create", "--service", "web"])
        .good();
    says(&fixture.down(&["--purge"]), 0, &["ended leno up"]);
    assert_eq!(up.wait(ENDS), 0);
}

fn a_backup_is_taken_back_as_the_command_says(fixture: &mut Fixture) {
    fixture.new_place();
    fixture.up(&["--detach"]).good();
    fixture.leno(&["mesh", "create", "shop"]).good();
    fixture.leno(&["user", "create", "eve"]).good();
    let listed = |fixture: &Fixture| fixture.leno(&["user", "list"]).good().text();
    assert!(!listed(fixture).contains("needs a new certificate"));
    let (file, data) = (fixture.path("mesh.tar"), fixture.path("data"));
    let told = fixture.leno(&["backup", &file]).good().stderr;
    let again = told
        .split("leno restore ")
        .nth(1)
        .expect("how to take it back");
    let words: Vec<&str> = again.split_whitespace().collect();
    let restore = [&["restore"], &words[..]].concat();
    // While it runs, by whichever name its directory is called.
    let by_ups = ["restore", &file, "--data-dir", &data];
    says(&fixture.leno(&restore), 6, &["runs with", "leno down"]);
    says(&fixture.leno(&by_ups), 6, &["runs with", "leno down"]);
    fixture.leno(&["mesh", "delete", "shop", "--yes"]).good();
    fixture.down(&[]).good();
    // Somebody else's directory is nobody's state.
    let other = format!("--data-dir={}", fixture.path("config"));
    says(
        &fixture.leno(&["restore", &file, &other]),
        1,
        &["nothing was changed"],
    );
    let up = format!("leno up --data-dir {data}");
    says(&fixture.leno(&by_ups), 0, &["restored default, shop", &up]);
    fixture.up(&["--detach"]).good();
    let meshes = fixture.leno(&["mesh", "list"]).good().text();
    assert!(meshes.contains("shop"), "{meshes}");
    assert!(
        listed(fixture).contains("needs a new certificate, after a restore: leno user create eve")
    );
    fixture.down(&["--purge"]).good();
}

/// What the command of its message says makes it a member again.
fn an_agent_that_its_control_plane_refuses_is_not_said_to_be_ready(fixture: &mut Fixture) {
    fixture.new_place();
    let other = fixture.place.clone();
    fixture.up(&["--detach"]).good();
    fixture.down(&[]).good();
    fixture.new_place();
    fixture.up(&["--detach"]).good();
    fixture.down(&[]).good();
    // The control plane's state of one mesh, and the membership of another of that name.
    let (ours, theirs) = (
        fixture.place.join("data/control-plane"),
        other.join("data/control-plane"),
    );
    fs::remove_dir_all(&ours).expect("its state");
    fs::rename(theirs, ours).expect("the other's");
    let refused = fixture.up(&["--detach"]);
    let what = ["is not in the mesh", "is another than the one"];
    says(&refused, 1, &what);
    fixture.down(&[]).good();
    let leave = refused.stderr.split("(leno ").nth(1);
    let leave = leave.and_then(|rest| rest.split(')').next());
    let words: Vec<&str> = leave.expect("a command").split(' ').collect();
    says(&fixture.leno(&words), 0, &["removed"]);
    says(&fixture.up(&["--detach"]), 0, &["✔ agent ready"]);
    fixture.leno(&["run", "--", "true"]).good();
    fixture.down(&["--purge"]).good();
}

fn a_port_that_is_taken_is_told_in_front_and_in_the_background(fixture: &mut Fixture) {
    fixture.new_place();
    let ports = [
        (15012, "--listen"),
        (15014, "--control-plane-metrics"),
        (15008, "--hbone-port"),
    ];
    for (port, option) in ports {
        let taken = fixture.host.listen(([0, 0, 0, 0], port).into());
        let taken = taken.expect("a listener");
        let (number, own) = (port.to_string(), format!("pid {}", std::process::id()));
        for words in [&[][..], &["--detach"]] {
            says(&fixture.up(words), 1, &[&number, &own, option]);
        }
        drop(taken);
        // Neither keys nor a lock of a mesh that never was.
        for left in ["data/control-plane", "data/up.lock", "config/leno"] {
            assert!(!fixture.place.join(left).exists(), "{left} is left");
        }
    }
    // Each can be moved.
    let moved = ["--listen=0.0.0.0:25012", "--hbone-port=25008", "--detach"];
    let taken = [15012, 15008].map(|port| fixture.host.listen(([0, 0, 0, 0], port).into()));
    assert!(taken.iter().all(Result::is_ok));
    says(&fixture.up(&moved), 0, &[":25012"]);
    fixture.leno(&["run", "--", "true"]).good();
    fixture.down(&["--purge"]).good();
}

fn contexts_of_another_user_are_told_before_anything_is_made(fixture: &mut Fixture) {
    let setpriv = need!("setpriv");
    fixture.new_place();
    let theirs = fixture.place.join("config");
    fs::create_dir(&theirs).expect("a directory");
    for (dir, mode) in [(&fixture.place, 0o777), (&theirs, 0o700)] {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("our own directory");
    }
    let up = fixture.up_command(&[]);
    let mut as_user = Command::new(&setpriv);
    let id = [format!("--reuid={USER}"), format!("--regid={USER}")];
    as_user.args(id).arg("--clear-groups").arg(up.get_program());
    as_user
        .args(up.get_args())
        .env("LENO_CONFIG", theirs.join("leno"));
    let said = fixture.host.run(&mut as_user);
    says(&said, 4, &["config/leno cannot be read", "LENO_CONFIG"]);
    assert!(!fixture.place.join("data").exists(), "{}", said.stderr);
}

fn what_is_in_the_way_is_told_before_anything_is_started(fixture: &mut Fixture) {
    let _nft = need!("nft");
    fixture.new_place();
    let before = fixture.leno(&["check", "--pre"]).good().text();
    assert!(before.contains("✔ Leno's ports are free"), "{before}");
    let taken = fixture.host.listen(([0, 0, 0, 0], 15008).into());
    let rules = "table ip6 shut { chain in { type filter hook input priority 0; policy drop; }; }";
    fixture.host.exec(&["nft", rules]).good();
    let said = fixture.leno(&["check", "--pre"]);
    fixture.host.exec(&["nft", "delete table ip6 shut"]).good();
    drop(taken);
    assert_eq!(said.code, 3, "{}", said.stderr);
    let own = format!("(pid {})", std::process::id());
    for word in [
        &*own,
        "--hbone-port",
        "nft insert rule ip6 shut in tcp dport",
    ] {
        assert!(said.text().contains(word), "{word}: {}", said.text());
    }
}

/// What each check found, by its id.
fn found(output: &Output) -> BTreeMap<String, serde_json::Value> {
    let list: Vec<serde_json::Value> = serde_json::from_str(&output.text()).expect("a list");
    let id = |of: &serde_json::Value| of["id"].as_str().expect("an id").to_owned();
    list.into_iter().map(|of| (id(&of), of)).collect()
}

fn every_check_has_an_id_and_a_paragraph(fixture: &mut Fixture) {
    fixture.new_place();
    fixture.up(&["--detach"]).good();
    let here = found(&fixture.leno(&["check", "-o", "json"]).good());
    let before = found(&fixture.leno(&["check", "--pre", "-o", "json"]));
    let ids: BTreeSet<&String> = here.keys().chain(before.keys()).collect();
    assert!(ids.len() >= 25, "of a mesh without programs: {ids:?}");
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for of in here.values().chain(before.values()) {
        let (page, id) = of["page"]
            .as_str()
            .and_then(|page| page.split_once('#'))
            .expect("a page");
        let text = fs::read_to_string(pages.join(page)).expect("the page");
        assert!(
            text.contains(&format!("\n### {id}\n")),
            "{id} has no paragraph"
        );
    }
    let config = fixture.place.join("config/leno");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("our own file");
    let said = fixture.leno(&["check", "-o", "json"]);
    assert_eq!(said.code, 3, "{}", said.text());
    let ill = &found(&said)["context-private"];
    assert_eq!(ill["ok"], false, "{ill}");
    assert!(
        ill["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("chmod 600")),
        "{ill}"
    );
    let said = fixture.down(&["--purge"]).good().stderr;
    assert!(said.contains("removed context default"), "{said}");
}

/// Gives `leno join` a terminal, and Ctrl-C when it shows nothing any more; says whether it shows again what is typed.
const INTERRUPTED: &str = "
import os, pty, subprocess, sys, termios
master, slave = pty.openpty()
shows = lambda: bool(termios.tcgetattr(slave)[3] & termios.ECHO)
join = subprocess.Popen(sys.argv[1:], stdin=slave)
while shows() and join.poll() is None: pass
os.write(master, b'\\x03')
print(join.wait(20), shows())
";

fn a_token_that_is_not_given_leaves_the_terminal_as_it_was(fixture: &mut Fixture) {
    let python = need!("python3").display().to_string();
    fixture.new_place();
    let leno = leno_binary().display().to_string();
    let dirs = ["data", "run"].map(|dir| format!("--{dir}-dir={}", fixture.path(dir)));
    let join = [&*leno, "join", "--token-file", "-", &dirs[0], &dirs[1]];
    let words = [&[&*python, "-c", INTERRUPTED][..], &join].concat();
    let said = fixture.host.exec(&words);
    assert_eq!(said.text().trim(), "1 True", "{}", said.stderr);
    assert!(
        said.stderr.contains("nothing was changed"),
        "{}",
        said.stderr
    );
}

fn a_host_of_loopback_alone_says_what_it_cannot_preserve(fixture: &mut Fixture) {
    fixture.new_place();
    fixture.up(&["--detach", "--address=127.0.0.1"]).good();
    let serves = ["run", "--service=web", "--preserve-source", "--", "true"];
    let said = fixture.leno(&serves).good().stderr;
    assert!(said.contains("no address but loopback"), "{said}");
    let calls = ["run", "--preserve-source", "--", "true"];
    let said = fixture.leno(&calls).good().stderr;
    assert!(!said.contains("no address but loopback"), "{said}");
    fixture.down(&["--purge"]).good();
}

fn a_run_directory_that_another_user_made_is_refused(fixture: &mut Fixture) {
    const STRANGER: u32 = 4321;
    fixture.new_place();
    let run = fixture.place.join("run");
    fs::create_dir(&run).expect("a directory");
    if let Err(error) = std::os::unix::fs::chown(&run, Some(STRANGER), None) {
        skip!("a directory cannot be given to another user here: {error}");
    }
    says(&fixture.up(&[]), 1, &["run: it is not", "4321"]);
    assert_eq!(fs::read_dir(&run).expect("it is there").count(), 0);
}

fn a_context_for_another_machine_works_there_and_its_file_is_nobody_elses(fixture: &mut Fixture) {
    fixture.new_place();
    fixture.up(&["--detach"]).good();
    let file = fixture.place.join("ann");
    let open = fs::File::create(&file).expect("a file");
    open.set_permissions(fs::Permissions::from_mode(0o644))
        .expect("a mode");
    let mut create = fixture.command(&["user", "create", "ann"]);
    let mut create = fixture.host.within(|| create.stdout(open).spawn());
    let created = create.as_mut().expect("it starts").wait();
    assert!(created.expect("it ends").success());
    let mode = fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let elsewhere = |words: &[&str]| {
        let mut command = fixture.command(words);
        command.env("LENO_CONFIG", fixture.path("elsewhere/config"));
        fixture.host.run(&mut command)
    };
    says(&elsewhere(&["status"]), 5, &["leno up"]);
    let path = file.display().to_string();
    says(
        &elsewhere(&["context", "import", "-f", &path]),
        0,
        &["written"],
    );
    let status = elsewhere(&["status"]).good().text();
    assert!(status.contains("mesh default"), "{status}");
    let listed = elsewhere(&["context", "list"]).good().text();
    assert!(listed.contains("https://"), "{listed}");
    // The way to another mesh is not lost to one of the same name.
    let exported = fs::read_to_string(&file).expect("a context");
    let (before, after) = exported.split_once("https://").expect("a server");
    let (_, path) = after.split_once("/meshes/").expect("a mesh");
    let colleague = fixture.path("colleague.yaml");
    let text = format!("{before}https://192.0.2.7:15012/meshes/{path}");
    fs::write(&colleague, text).expect("a file");
    says(
        &elsewhere(&["context", "import", "-f", &colleague]),
        6,
        &["there is a context \"default\" already", "--name"],
    );
    assert_eq!(elsewhere(&["context", "list"]).good().text(), listed);
    let named = ["context", "import", "--name", "theirs", "-f", &colleague];
    says(&elsewhere(&named), 0, &["\"theirs\" written"]);
    let both = elsewhere(&["context", "list"]).good().text();
    assert!(
        both.contains("default") && both.contains("192.0.2.7"),
        "{both}"
    );
    fixture.down(&["--purge"]).good();
}

fn the_person_behind_sudo_has_a_context_of_their_own(fixture: &mut Fixture) {
    let setpriv = need!("setpriv");
    fixture.new_place();
    let home = fixture.place.join("home");
    fs::create_dir_all(&home).expect("a home");
    let passwd = fixture.place.join("passwd");
    let line = format!("ann:x:{USER}:{USER}::{}:/bin/sh\n", home.display());
    fs::write(&passwd, format!("root:x:0:0::/root:/bin/sh\n{line}")).expect("a file");
    let own = std::os::unix::fs::chown(&home, Some(USER), Some(USER));
    let passwd = passwd.display().to_string();
    let mounted = fixture
        .host
        .exec(&["mount", "--bind", &passwd, "/etc/passwd"]);
    if own.is_err() || mounted.code != 0 {
        skip!("there can be no other user here: {}", mounted.stderr.trim());
    }
    let mut up = fixture.up_command(&["--detach"]);
    let up = fixture.host.run(up.env("SUDO_UID", USER.to_string()));
    fixture.host.exec(&["umount", "/etc/passwd"]).good();
    up.good();
    let config = home.join(".config/leno/config");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&config).expect("a context"));
    assert_eq!(owner, USER);
    let as_ann = |words: &[&str]| {
        let mut command = Command::new(&setpriv);
        let id = [format!("--reuid={USER}"), format!("--regid={USER}")];
        command.args(id).arg("--clear-groups").arg(leno_binary());
        command
            .args(words)
            .env("HOME", &home)
            .env("LENO_AGENT_SOCKET", fixture.path("run/agent.sock"))
            .env_remove("LENO_CONFIG")
            .env_remove("LENO_CONTEXT")
            .env_remove("XDG_CONFIG_HOME");
        fixture.host.run(&mut command)
    };
    let status = until("it speaks to the mesh", SOON, || {
        let output = as_ann(&["status"]);
        (output.code == 0).then(|| output.text())
    });
    assert!(status.contains("mesh default"), "{status}");
    as_ann(&["token", "create", "--service", "cart"]).good();
    open(&fixture.place);
    as_ann(&["run", "--", "true"]).good();
    fixture.down(&["--purge"]).good();
}

/// Everybody may come as far as the sockets: their directory is in one of the test's own.
fn open(place: &Path) {
    for dir in [place.to_owned(), place.join("run")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("our own directory");
    }
}

fn purge_waits_for_programs_on_the_hosts_network(fixture: &mut Fixture) {
    let nft = need!("nft");
    fixture.new_place();
    fixture.up(&["--detach"]).good();
    let words = ["run", "--network", "host", "--", "sh", "-c"];
    let mut command = fixture.command(&words);
    let mut program = fixture
        .host
        .spawn(command.arg("echo it runs >&2; exec sleep infinity"));
    let started = until("the program runs, or may not", SOON, || {
        match program.ended() {
            Some(code) => Some(code),
            None => program.stderr().contains("it runs").then_some(0),
        }
    });
    if started == 4 {
        fixture.down(&["--purge"]).good();
        skip!("{}", program.stderr());
    }
    let tables = || {
        let mut list = Command::new(&nft);
        fixture
            .host
            .run(list.args(["list", "tables"]))
            .good()
            .text()
    };
    assert!(tables().contains("leno-"), "{}", tables());
    let refused = fixture.down(&["--purge"]);
    says(
        &refused,
        6,
        &["sh (program-", "end them first", "leno down --purge"],
    );
    assert!(runs(fixture.pid()), "nothing was ended");
    program.signal(Signal::TERM);
    program.wait(SOON);
    fixture.down(&["--purge"]).good();
    assert_eq!(tables(), "", "no rule is left");
}
