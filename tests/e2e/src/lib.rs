//! What several end-to-end tests share: backends made by hand, and nginx.

pub mod api;
pub mod peer;

use std::{
    io,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use leno_testkit::{Answer, Member, Mesh, Process, Wire, until};

/// A condition of the mesh comes true within this.
pub const SOON: Duration = Duration::from_secs(10);

/// A server whose connections are served by a function, a thread each, until it is dropped.
pub struct Backend {
    stop: Arc<AtomicBool>,
    accepting: Option<std::thread::JoinHandle<()>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    address: std::net::SocketAddr,
    seen: Arc<Mutex<Vec<Answer>>>,
}

impl Backend {
    /// Serves each connection of a listener.
    ///
    /// # Panics
    /// When the listener has no address.
    pub fn connections(
        listener: TcpListener,
        serve: impl Fn(Wire) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (ended, held) = (Arc::clone(&stop), Arc::clone(&open));
        // Polled, so that it ends without a connection of its own.
        listener.set_nonblocking(true).expect("a socket's flag");
        let accepting =
            std::thread::spawn(move || accept(&listener, &ended, &held, &Arc::new(serve)));
        Self {
            stop,
            accepting: Some(accepting),
            open,
            address,
            seen: Arc::default(),
        }
    }

    /// Answers each request of HTTP/1 with what a function makes of it: a whole response as it goes on the wire.
    pub fn http(
        listener: TcpListener,
        answer: impl Fn(&Answer) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let seen: Arc<Mutex<Vec<Answer>>> = Arc::default();
        let log = Arc::clone(&seen);
        let mut backend = Self::connections(listener, move |mut wire| {
            while let Ok(request) = wire.try_message() {
                let bytes = answer(&request);
                log.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(request);
                if wire.try_send(bytes).is_err() {
                    return;
                }
            }
        });
        backend.seen = seen;
        backend
    }

    /// The requests it saw.
    #[must_use]
    pub fn seen(&self) -> Vec<Answer> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }
}

impl Drop for Backend {
    /// Nobody listens any more, and nothing is open.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
        for stream in self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            // It may have ended by itself.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn accept(
    listener: &TcpListener,
    ended: &AtomicBool,
    held: &Mutex<Vec<TcpStream>>,
    serve: &Arc<impl Fn(Wire) + Send + Sync + 'static>,
) {
    while !ended.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("a socket's flag");
                let clone = stream.try_clone().expect("a second handle");
                held.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(clone);
                let serve = Arc::clone(serve);
                std::thread::spawn(move || {
                    let handle = stream.try_clone();
                    serve(Wire::new(stream));
                    // The second handle must not keep it open.
                    drop(handle.map(|stream| stream.shutdown(Shutdown::Both)));
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return,
        }
    }
}

/// A response of HTTP/1.1 with a body.
#[must_use]
pub fn response(status: u16, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!(
        "HTTP/1.1 {status} Said\r\n{fields}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A resolver that a program without IPv4 can ask. Nobody is there: what asks is captured.
///
/// # Panics
/// When it cannot be set.
#[track_caller]
pub fn resolver_of_ipv6(mesh: &Mesh) {
    let file = mesh.host("cp").disk().join("resolv.conf");
    std::fs::write(&file, "nameserver 2001:db8::53\n").expect("a file");
    // In this test's own mount namespace.
    let mut mount = std::process::Command::new("mount");
    let mounted = mount.arg("--bind").arg(file).arg("/etc/resolv.conf");
    assert!(mounted.status().expect("mount").success());
}

/// nginx in a program's network: its configuration is `http`'s content.
///
/// # Panics
/// When it does not start.
#[must_use]
pub fn nginx(
    member: &Member,
    nginx: &std::path::Path,
    dir: &std::path::Path,
    http: &str,
) -> Process {
    std::fs::create_dir_all(dir).expect("nginx's directory");
    let file = dir.join("nginx.conf");
    let dir = dir.display();
    let text = format!(
        "daemon off; master_process off; user root; pid {dir}/pid; error_log stderr;
         events {{ worker_connections 512; }}
         http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
           fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
           client_max_body_size 0; {http} }}"
    );
    std::fs::write(&file, text).expect("nginx's configuration");
    member.spawn(
        std::process::Command::new(nginx)
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr"]),
    )
}

/// The id under which a refusal is found again.
///
/// # Panics
/// When the answer names none.
#[must_use]
#[track_caller]
pub fn refusal_id(answer: &Answer) -> String {
    let told = answer.field("x-leno-refused").unwrap_or_default();
    let id = told.split("id=").nth(1).unwrap_or_default().to_owned();
    let digits = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(digits, "{}", answer.head);
    id
}

/// The answer was refused for this reason, and the proxy of host `by` tells the same under the same id: a line of its
/// access log, its metrics, its admin page.
///
/// # Panics
/// When one of them does not.
#[track_caller]
pub fn shown(mesh: &Mesh, answer: &Answer, by: &str, code: &str) {
    let told = answer.field("x-leno-refused").unwrap_or_default();
    assert!(
        told.starts_with(&format!("{code}; by=")),
        "{told:?} is not {code}: {}",
        answer.head
    );
    let id = refusal_id(answer);
    let line = until("the access log tells of it", SOON, || {
        let log = mesh.access_log(by);
        let found = log.iter().find(|line| line["refusal_id"] == id.as_str());
        found.cloned()
    });
    assert_eq!(line["response_flags"], code, "{line}");
    // A stream of bytes has no status.
    let (status, counter) = if line["protocol"] == "tcp" {
        (0, "istio_tcp_connections_closed_total")
    } else {
        (answer.status(), "istio_requests_total")
    };
    assert_eq!(line["response_code"], status, "{line}");
    let flags = format!("response_flags=\"{code}\"");
    let reason = format!("reason=\"{code}\"");
    until("it is counted", SOON, || {
        let counted = mesh.metric(by, counter, &[&flags]);
        let refused = mesh.metric(by, "leno_refused_total", &[&reason]);
        (counted >= 1.0 && refused >= 1.0).then_some(())
    });
    until("the admin page has it", SOON, || {
        let page = mesh.admin(by, "/refusals").to_string();
        (page.contains(&id) && page.contains(&format!("\"{code}\""))).then_some(())
    });
    if mesh.control_plane.is_some() {
        explained(mesh, &id, code);
    }
}

/// People are told why, who refused whom what, and what to do next.
#[track_caller]
fn explained(mesh: &Mesh, id: &str, code: &str) {
    let said = mesh.leno(&["explain", id]).good().text();
    let page = format!("leno explain {code}\n");
    for part in [id, &format!("{code} "), " → ", "said by ", "Next: ", &page] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let next = said.rsplit("Next: ").next().unwrap_or_default();
    let first = next.split("  |  ").next().unwrap_or_default();
    assert!(
        first.starts_with("leno "),
        "{first:?} is no command:\n{said}"
    );
    let list = mesh.leno(&["explain"]).good().text();
    assert!(list.contains(code), "{code} is not in\n{list}");
}

/// Bytes that are the same each time and compress badly.
#[must_use]
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A stranger's script in Python.
#[must_use]
pub fn script(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("strangers")
        .join(name)
}

/// A script to be run with these arguments.
#[must_use]
pub fn run_script(
    python: &std::path::Path,
    name: &str,
    arguments: &[&str],
) -> std::process::Command {
    let mut command = std::process::Command::new(python);
    command.arg("-u").arg(script(name)).args(arguments);
    command
}

/// Whether something is done within a limit at least once of a few times: a promise of the product, which the machine
/// may break for reasons of its own. What each time took is the error.
///
/// # Errors
/// When none was.
pub fn once_within(
    limit: Duration,
    mut measured: impl FnMut() -> Duration,
) -> Result<(), Vec<Duration>> {
    let mut took = Vec::new();
    for _ in 0..4 {
        match measured() {
            time if time < limit => return Ok(()),
            time => took.push(time),
        }
    }
    Err(took)
}

/// Notices when the machine, or this process, stands still: looks at the clock again and again.
pub struct Stillness {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Duration>>,
}

impl Stillness {
    /// Begins to look.
    #[must_use]
    pub fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            longest
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// The longest time between two looks.
    ///
    /// # Panics
    /// When its thread did.
    #[must_use]
    pub fn longest(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("asked once");
        thread.join().expect("who looked at the clock")
    }
}

/// How many times longer than alone something may take on this machine now, by the work that others have for it.
///
/// # Panics
/// When the system does not tell its load.
#[must_use]
pub fn crowd() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").expect("the load");
    let load = text.split(' ').next().and_then(|load| load.parse().ok());
    let load: f64 = load.expect("a number");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (load / cores as f64).max(1.0)
}

/// The median of some durations.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn median(mut of: Vec<Duration>) -> Duration {
    of.sort();
    *of.get(of.len() / 2).expect("something was measured")
}

/// GETs one after the other on a thread, until it is stopped: whether each succeeds.
pub struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<Tally>>,
}

/// What a load saw.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Requests answered with 200.
    pub good: u64,
    /// What each other one ended with.
    pub bad: Vec<String>,
}

impl Load {
    /// Calls `http://NAME/` as `member`, with a new connection after every `per_connection` requests.
    #[must_use]
    pub fn start(member: &Member, name: &str, per_connection: usize) -> Self {
        // A load to be seen, not to be felt.
        Self::paced(member, name, per_connection, Duration::from_millis(1))
    }

    /// The same with this pause after each request.
    #[must_use]
    pub fn paced(member: &Member, name: &str, per_connection: usize, pause: Duration) -> Self {
        let request = format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n");
        Self::of(request, member, name, per_connection, pause)
    }

    /// The same with POSTs, which are never sent twice.
    #[must_use]
    pub fn posts(member: &Member, name: &str, per_connection: usize) -> Self {
        let request = format!("POST / HTTP/1.1\r\nhost: {name}\r\ncontent-length: 2\r\n\r\nhi");
        Self::of(
            request,
            member,
            name,
            per_connection,
            Duration::from_millis(1),
        )
    }

    fn of(
        request: String,
        member: &Member,
        name: &str,
        per_connection: usize,
        pause: Duration,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let good = Arc::new(AtomicU64::new(0));
        let (ended, counted) = (Arc::clone(&stop), Arc::clone(&good));
        let (caller, name) = (member.connector(), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut tally = Tally::default();
            while !ended.load(Ordering::Relaxed) {
                let mut wire = match caller.connect(&name, 80) {
                    Ok(wire) => wire,
                    Err(error) => {
                        tally.bad.push(format!("connect: {error}"));
                        continue;
                    }
                };
                for _ in 0..per_connection {
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    match ask(&mut wire, &request) {
                        Ok(()) => {
                            tally.good += 1;
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            tally.bad.push(error);
                            break;
                        }
                    }
                    std::thread::sleep(pause);
                }
            }
            tally
        });
        Self {
            stop,
            good,
            thread: Some(thread),
        }
    }

    /// Waits until so many more have been answered with 200.
    ///
    /// # Panics
    /// When that does not happen.
    #[track_caller]
    pub fn more(&self, count: u64) {
        let before = self.good.load(Ordering::Relaxed);
        until("the load goes on", Duration::from_secs(30), || {
            (self.good.load(Ordering::Relaxed) >= before + count).then_some(())
        });
    }

    /// Ends it; what it saw.
    ///
    /// # Panics
    /// When its thread did.
    #[must_use]
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("the load's thread")
    }
}

fn ask(wire: &mut Wire, request: &str) -> Result<(), String> {
    wire.try_send(request)
        .map_err(|error| format!("send: {error}"))?;
    let answer = wire
        .try_message()
        .map_err(|error| format!("read: {error}"))?;
    match answer.status() {
        200 => Ok(()),
        status => Err(format!(
            "{status} {}",
            answer.field("x-leno-refused").unwrap_or_default()
        )),
    }
}

/// The proportional memory of a process, in bytes.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn memory_of(pid: i32) -> u64 {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the agent runs");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .expect("its memory");
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .expect("a number")
        * 1024
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::{fs, path::Path};

    #[test]
    fn every_test_that_the_checks_name_exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let page = fs::read_to_string(root.join("docs/checks.md")).unwrap();
        let named = page.split('`').filter_map(|text| text.split_once(".rs::"));
        let mut count = 0;
        for (file, name) in named {
            count += 1;
            let path = root.join(format!("{file}.rs"));
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.contains(&format!("fn {name}(")), "{file}.rs::{name}");
        }
        assert!(count >= 40, "{count} tests are named");
    }
}
