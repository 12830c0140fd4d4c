//! What needs a process of its own: an ordinary user's namespaces, a program without capabilities, arenas.
//!
//! Without the harness, whose threads a user namespace does not allow. The binary runs itself again with
//! `LENO_TEST_STAGE`, as another user where that is the question.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{V4, keep_everything_inside, loopback_listeners, of_family, run};
use leno_net::arena;
use leno_net::capture::OwnNamespace;
use leno_net::program::{self, Spawn};
use leno_net::{NetError, link, netns, process, socket};

const STAGE: &str = "LENO_TEST_STAGE";
const NOBODY: u32 = 65534;

fn main() {
    match std::env::var(STAGE).as_deref() {
        Ok("own-namespace") => in_own_namespace_as_an_ordinary_user(),
        Ok("cannot-mark") => cannot_mark(),
        Ok("arena") => start_an_arena(),
        Ok("init") => init(),
        Ok("daemon") => daemon(),
        Ok("count-threads") => count_threads(),
        Ok(other) => panic!("there is no stage {other}"),
        Err(_) => tests(),
    }
}

fn tests() {
    let tests: [(&str, fn()); 9] = [
        (
            "an_ordinary_user_captures_a_namespace_of_its_own",
            ordinary_user_captures,
        ),
        (
            "a_user_namespace_is_refused_to_a_process_with_threads",
            threads_are_refused,
        ),
        (
            "a_program_without_capabilities_cannot_mark",
            root_program_cannot_mark,
        ),
        (
            "a_program_becomes_its_user_with_its_groups",
            becomes_its_user,
        ),
        (
            "a_program_that_is_not_there_is_named",
            missing_programs_are_named,
        ),
        (
            "a_program_is_waited_for_and_signalled",
            waited_for_and_signalled,
        ),
        ("an_arena_of_root_dies_with_its_killed_parent", || {
            arena_dies_with_its_parent(false)
        }),
        (
            "an_arena_of_an_ordinary_user_dies_with_its_killed_parent",
            || arena_dies_with_its_parent(true),
        ),
        ("an_arena_reports_what_it_cannot_start", arena_reports),
    ];
    let wanted = std::env::args()
        .nth(1)
        .filter(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    for (name, test) in tests.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        match leno_testkit::noting_skips(name, test) {
            None => println!("test {name} ... ok"),
            Some(reason) => println!("test {name} ... skipped: {reason}"),
        }
    }
}

fn root() -> bool {
    let root = netns::has_admin_capability();
    if !root {
        leno_testkit::skipped("needs root");
    }
    root
}

/// A copy of this binary where every user can run it.
struct Copy(PathBuf);

impl Copy {
    fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("leno-net-test-{}-{number}", std::process::id()));
        std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
        Self(path)
    }

    fn stage(&self, stage: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.env(STAGE, stage).current_dir("/");
        command
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}: {out}{err}", output.status);
    out.into_owned()
}

fn ordinary_user_captures() {
    let copy = Copy::new();
    let mut command = copy.stage("own-namespace");
    if netns::has_admin_capability() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let text = succeed(&mut command);
    if let Some(reason) = text.strip_prefix("skipped: ") {
        return leno_testkit::skipped(reason.trim_end());
    }
    assert!(text.contains("captured"), "{text}");
    print!("{text}");
}

fn in_own_namespace_as_an_ordinary_user() {
    assert!(!netns::has_admin_capability());
    assert_eq!(
        netns::unshare_net().unwrap_err().kind(),
        io::ErrorKind::PermissionDenied
    );
    let before = (rustix::process::geteuid(), rustix::process::getegid());
    match netns::unshare_user_and_net() {
        Ok(()) => {}
        Err(error @ NetError::UserNamespace { .. }) => {
            println!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(
        (rustix::process::geteuid(), rustix::process::getegid()),
        before
    );
    assert!(netns::has_admin_capability());
    link::loopback_up().unwrap();
    keep_everything_inside();
    program::allow_low_ports().unwrap();
    run(async {
        let (outbound_port, outbound) = loopback_listeners();
        OwnNamespace {
            outbound_port,
            dns_port: 15053,
        }
        .install("leno")
        .unwrap();
        for to in ["240.240.0.5:80", "[2001:2::5]:80"]
            .map(|to| to.parse::<std::net::SocketAddr>().unwrap())
        {
            let _client = tokio::net::TcpStream::connect(to).await.unwrap();
            let (accepted, _) = of_family(&outbound, to.ip()).accept().await.unwrap();
            assert_eq!(socket::original_destination(&accepted).unwrap(), Some(to));
        }
        let server = socket::listen_tcp((V4, 80).into(), 8).unwrap();
        let server = tokio::net::TcpListener::from_std(server).unwrap();
        socket::connect(socket::stream_socket(false, true).unwrap(), (V4, 80).into())
            .await
            .unwrap();
        server.accept().await.unwrap();
    });
    let mut child = spawn_stage("cannot-mark");
    assert!(child.wait().unwrap().success());
    println!("captured as uid {}", before.0.as_raw());
}

/// This binary again, as a program of `leno run`.
fn spawn_stage(stage: &str) -> program::Child {
    program::spawn(&Spawn {
        argv: vec![std::env::current_exe().unwrap().into()],
        env_remove: vec!["LENO_TEST_SECRET".into()],
        env_set: vec![(STAGE.into(), stage.into())],
        uid_gid: None,
        drop_capabilities: true,
    })
    .unwrap()
}

fn cannot_mark() {
    assert!(std::env::var_os("LENO_TEST_SECRET").is_none());
    let error = socket::stream_socket(false, true).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(!netns::has_admin_capability());
    let (family, kind) = (
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::RAW,
    );
    let raw = rustix::net::socket(family, kind, Some(rustix::net::ipproto::ICMP));
    assert_eq!(raw.unwrap_err(), rustix::io::Errno::PERM);
    let rules = OwnNamespace {
        outbound_port: 1,
        dns_port: 2,
    };
    assert!(matches!(
        rules.install("leno"),
        Err(NetError::Permission { .. })
    ));
    assert!(matches!(
        leno_net::capture::remove("leno"),
        Err(NetError::Permission { .. })
    ));
    assert!(link::set_down("lo").is_err());
    // Nor by a namespace of its own making: its sockets here still belong to the one around it.
    let _made = netns::unshare_user_as_root_with(netns::Namespaces::default());
    assert!(socket::stream_socket(false, true).is_err());
    assert!(leno_net::capture::remove("leno").is_err());
}

fn root_program_cannot_mark() {
    if !root() {
        return;
    }
    let copy = Copy::new();
    let spawn = |uid_gid| Spawn {
        argv: vec![copy.0.clone().into()],
        env_set: vec![(STAGE.into(), "cannot-mark".into())],
        uid_gid,
        drop_capabilities: true,
        ..Spawn::default()
    };
    for uid_gid in [None, Some((NOBODY, NOBODY))] {
        let status = program::spawn(&spawn(uid_gid)).unwrap().wait().unwrap();
        assert!(status.success(), "{status} as {uid_gid:?}");
    }
    // And what root runs has what containers commonly have.
    let mut command = shell("grep Cap /proc/self/status");
    command.drop_capabilities = true;
    let status = capture_output(&command);
    let bits = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    for name in ["CapBnd:", "CapPrm:", "CapEff:"] {
        for (forbidden, number) in [
            ("NET_ADMIN", 12),
            ("NET_RAW", 13),
            ("SYS_MODULE", 16),
            ("SYS_PTRACE", 19),
        ] {
            assert_eq!(bits(name) >> number & 1, 0, "{forbidden} in {status}");
        }
        assert_eq!(bits(name) >> 21 & 1, 0, "SYS_ADMIN in {status}");
        assert_eq!(bits(name) >> 27 & 1, 0, "MKNOD in {status}");
        assert_eq!(bits(name) >> 10 & 1, 1, "NET_BIND_SERVICE in {status}");
    }
    assert_eq!((bits("CapInh:"), bits("CapAmb:")), (0, 0));
}

fn shell(script: &str) -> Spawn {
    Spawn {
        argv: ["sh", "-c", script].map(OsString::from).to_vec(),
        ..Spawn::default()
    }
}

/// Runs `spawn` with its output going to a file.
fn capture_output(spawn: &Spawn) -> String {
    let path = std::env::temp_dir().join(format!("leno-net-test-{}-output", std::process::id()));
    std::fs::write(&path, "").unwrap();
    rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o666)).unwrap();
    let mut spawn = spawn.clone();
    let script = spawn.argv[2].to_str().unwrap().to_owned();
    spawn.argv[2] = format!("exec > {}; {script}", path.display()).into();
    let status = program::spawn(&spawn).unwrap().wait().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(status.success(), "{status}: {text}");
    text
}

fn becomes_its_user() {
    if !root() {
        return;
    }
    let mut spawn = shell("id -u; id -g; id -G; echo $LENO_TEST_SECRET; echo $VISIBLE");
    spawn.uid_gid = Some((NOBODY, NOBODY));
    spawn.env_set = vec![
        ("LENO_TEST_SECRET".into(), "1".into()),
        ("VISIBLE".into(), "yes".into()),
    ];
    spawn.env_remove = vec!["PATH_IS_KEPT".into()];
    assert_eq!(capture_output(&spawn), "65534\n65534\n65534\n1\nyes\n");
}

fn missing_programs_are_named() {
    let missing = Spawn {
        argv: vec!["no-such-program".into()],
        ..Spawn::default()
    };
    let error = program::spawn(&missing).unwrap_err();
    assert!(
        matches!(&error, NetError::ProgramNotFound { program } if program == "no-such-program"),
        "{error}"
    );
    let copy = Copy::new();
    std::fs::write(&copy.0, "no program").unwrap();
    rustix::fs::chmod(&copy.0, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    let closed = Spawn {
        argv: vec![copy.0.clone().into()],
        ..Spawn::default()
    };
    let error = program::spawn(&closed).unwrap_err();
    assert!(
        matches!(&error, NetError::ProgramNotExecutable { .. }),
        "{error}"
    );
    assert!(program::spawn(&Spawn::default()).is_err());
}

fn waited_for_and_signalled() {
    run(async {
        let mut child = program::spawn(&shell("exit 7")).unwrap();
        assert_eq!(child.exited().await.unwrap().code(), Some(7));
        assert_eq!(
            child.exited().await.unwrap().code(),
            Some(7),
            "asked again it says the same"
        );
        child.signal(15).unwrap();

        let mut child = program::spawn(&shell("exec cat /dev/zero > /dev/null")).unwrap();
        assert!(process::memory(child.pid()).unwrap().rss_bytes > 0);
        assert_eq!(child.try_wait().unwrap(), None);
        child.signal(15).unwrap();
        assert_eq!(child.exited().await.unwrap().signal(), Some(15));
    });
}

fn threads_are_refused() {
    let copy = Copy::new();
    succeed(&mut copy.stage("count-threads"));
}

fn count_threads() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || held.recv());
    let error = netns::unshare_user_and_net().unwrap_err();
    assert!(matches!(error, NetError::UserNamespace { .. }), "{error}");
    drop(hold);
    assert!(thread.join().unwrap().is_err());
}

/// The parent of an arena is killed; what its init left running detached must be gone, and its pipe with it.
fn arena_dies_with_its_parent(as_user: bool) {
    if !root() {
        return;
    }
    let copy = Copy::new();
    let mut command = copy.stage("arena");
    if as_user {
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut parent = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    if let Some(reason) = line.strip_prefix("skipped: ") {
        parent.wait().unwrap();
        return leno_testkit::skipped(reason.trim_end());
    }
    assert_eq!(line, "init is 1, root true, links 1, daemon started\n");
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The daemon holds the other end of this pipe, as does init: its end is their end.
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

fn start_an_arena() {
    let as_user_root = !netns::has_admin_capability();
    let program = std::env::current_exe().unwrap().into();
    let env = [
        (OsString::from(STAGE), OsString::from("init")),
        ("PATH".into(), std::env::var_os("PATH").unwrap()),
    ];
    match arena::spawn_init(&[program], &env, as_user_root) {
        Ok(arena) => {
            arena.wait().unwrap();
        }
        Err(error @ NetError::UserNamespace { .. }) => println!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    }
}

fn init() {
    let lifeline = arena::lifeline().unwrap();
    assert!(lifeline.as_raw_fd() > 2);
    assert!(
        std::fs::read_link("/proc/self").unwrap().as_os_str() == "1",
        "/proc is of the new namespace"
    );
    let links = std::fs::read_dir("/sys/class/net").unwrap().count();
    link::loopback_up().unwrap();
    // A daemon: another session, its parent gone, so that nothing but the namespace's end reaches it.
    let mut daemon = Command::new("setsid")
        .arg("--fork")
        .arg(std::env::current_exe().unwrap())
        .env(STAGE, "daemon")
        .spawn()
        .unwrap();
    assert!(daemon.wait().unwrap().success());
    let pid = std::process::id();
    println!(
        "init is {pid}, root {}, links {links}, daemon started",
        rustix::process::geteuid().is_root()
    );
    let main = program::spawn(&shell("exec cat /dev/zero > /dev/null")).unwrap();
    let code = arena::reap_forever(lifeline, Some(main.pid())).unwrap();
    std::process::exit(code);
}

fn daemon() {
    loop {
        std::thread::park();
    }
}

fn arena_reports() {
    if !root() {
        return;
    }
    let error = arena::spawn_init(&["no-such-program".into()], &[], false).unwrap_err();
    assert!(matches!(error, NetError::ProgramNotFound { .. }), "{error}");
    let arguments = ["sh", "-c", "exit 3"].map(OsString::from);
    let arena = arena::spawn_init(&arguments, &[], false).unwrap();
    assert_eq!(arena.wait().unwrap(), 3);
    let arguments = ["sh", "-c", "read line <&$LENO_LIFELINE_FD; exit 5"].map(OsString::from);
    let arena = arena::spawn_init(&arguments, &[], true).unwrap();
    assert_eq!(arena.end().unwrap(), 5);
    assert!(arena::lifeline().is_err());
    assert_eq!(
        arena::kill_all().unwrap_err().kind(),
        io::ErrorKind::PermissionDenied
    );
}
