//! Processes of a test: their output in files, ended by their own id, shown when a test fails.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

pub use rustix::process::Signal;

use crate::wait::until;

/// Longer than any command here takes; reached only by a failure.
const LONG: Duration = Duration::from_secs(40);
/// Lines of each log that a failure shows.
const SHOWN: usize = 40;

/// A file that a process writes, and up to where it was written when the test began.
struct Log {
    name: String,
    path: PathBuf,
    before: usize,
}

static LOGS: Mutex<Vec<Log>> = Mutex::new(Vec::new());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A running process. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
    code: Option<i32>,
}

/// What a command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code, 128 + n when signal n ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Itself, if it succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn good(self) -> Self {
        assert_eq!(
            self.code,
            0,
            "the command failed\n--- stdout\n{}\n--- stderr\n{}",
            self.text(),
            self.stderr
        );
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!(
                "no JSON ({error}), exit code {}\n--- stdout\n{}\n--- stderr\n{}",
                self.code,
                self.text(),
                self.stderr
            ),
        }
    }
}

/// The directory of this test binary's files; it is removed when the arena ends.
///
/// # Panics
/// When it cannot be made.
pub(crate) fn directory() -> PathBuf {
    let dir = std::env::var_os(crate::suite::DIRECTORY).map_or_else(
        || std::env::temp_dir().join(format!("leno-testkit-{}", std::process::id())),
        PathBuf::from,
    );
    fs::create_dir_all(&dir).expect("a directory for the test's files");
    dir
}

impl Process {
    /// Starts it; how (in which namespace) is the caller's.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start(
        name: &str,
        command: &mut Command,
        start: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> io::Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let stem = directory().join("logs");
        fs::create_dir_all(&stem)?;
        let plain: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let out = stem.join(format!("{number:04}-{plain}.out"));
        let err = stem.join(format!("{number:04}-{plain}.err"));
        command
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?);
        let child = start(command)?;
        let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
        for (of, path) in [("", &err), (", stdout", &out)] {
            logs.push(Log {
                name: format!("{name} (pid {}{of})", child.id()),
                path: path.clone(),
                before: 0,
            });
        }
        drop(logs);
        Ok(Self {
            name: name.to_owned(),
            child,
            out,
            err,
            code: None,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it wrote to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.out)
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.err)
    }

    /// Its exit code, if it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        if self.code.is_none()
            && let Some(status) = self.child.try_wait().expect("our own child")
        {
            let signal = status.signal().unwrap_or(0);
            self.code = Some(status.code().unwrap_or(128 + signal));
        }
        self.code
    }

    /// Waits until it ends; its exit code.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> i32 {
        let what = format!("{} ends", self.name);
        until(&what, within, || self.ended())
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) {
        assert_eq!(self.ended(), None, "{} has ended", self.name);
        let pid = rustix::process::Pid::from_raw(self.pid()).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("our own child");
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::KILL);
            self.wait(LONG);
        }
    }

    /// Waits for a text on standard error.
    ///
    /// # Panics
    /// When it ends without, or at the deadline.
    #[track_caller]
    pub fn says(&mut self, text: &str, within: Duration) {
        let end = Instant::now() + within;
        loop {
            let said = self.stderr();
            if said.contains(text) {
                return;
            }
            if let Some(code) = self.ended() {
                // What it said last may have come after we looked.
                let said = self.stderr();
                if said.contains(text) {
                    return;
                }
                panic!(
                    "{} ended with {code} and did not say {text:?}, but:\n{said}",
                    self.name
                );
            }
            assert!(
                Instant::now() < end,
                "{} did not say {text:?} within {within:?}, but:\n{said}",
                self.name
            );
            std::thread::sleep(Duration::from_millis(4));
        }
    }

    /// Waits for its end and takes what it wrote.
    pub(crate) fn output(mut self, within: Duration) -> Output {
        let what = format!("{} ends", self.name);
        let end = Instant::now() + within;
        while self.ended().is_none() {
            assert!(
                Instant::now() < end,
                "not within {within:?}: {what}\n--- stdout\n{}\n--- stderr\n{}",
                self.stdout(),
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        let output = Output {
            code: self.code.unwrap_or(-1),
            stdout: fs::read(&self.out).unwrap_or_default(),
            stderr: self.stderr(),
        };
        self.forget();
        output
    }

    /// A command that was looked at is no log any more.
    fn forget(&self) {
        let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
        logs.retain(|log| log.path != self.out && log.path != self.err);
        for path in [&self.out, &self.err] {
            drop(fs::remove_file(path));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.code.is_none() && matches!(self.child.try_wait(), Ok(None)) {
            // It may end between the two.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Shows this file as well when a test fails.
pub(crate) fn show_file(name: String, path: PathBuf) {
    let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    if !logs.iter().any(|log| log.path == path) {
        let before = 0;
        logs.push(Log { name, path, before });
    }
}

/// What was logged up to now is of no interest to the next test.
pub(crate) fn mark_logs() {
    let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    for log in logs.iter_mut() {
        log.before = read(&log.path).len();
    }
}

/// Shows on standard error what every process logged since the test began.
pub fn show_logs() {
    let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    for log in logs.iter() {
        let text = read(&log.path);
        let text = plain(text.get(log.before..).unwrap_or(&text));
        if text.is_empty() {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("---- {}, the last of {} lines", log.name, lines.len());
        for line in lines.iter().skip(lines.len().saturating_sub(SHOWN)) {
            let cut: String = line.chars().take(600).collect();
            eprintln!("  {cut}");
        }
    }
}

/// Without the colours of a terminal.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |whole, part| {
        whole + part.split_once('m').map_or("", |(_, rest)| rest)
    })
}

/// Lets this test have as many files open as the system allows; how many.
///
/// # Panics
/// When it cannot be had.
pub fn many_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the system's own limit");
    limit.maximum.unwrap_or(u64::MAX)
}
