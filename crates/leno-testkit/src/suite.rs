//! A test binary of its own: one fixture, many tests in sequence, all of it inside an arena.
//!
//! `cargo test` starts it as it starts any other (`harness = false`): filters, `--exact`, `--skip`, `--list` work.
//! The outer process only makes the arena and waits; the inner one is its init, whose end is everybody's.

use std::{
    env,
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use leno_net::{arena, netns};
use rustix::mount::{MountFlags, mount};

use crate::{
    process::{mark_logs, show_logs},
    skip,
};

/// Set for the inner process: the directory of its files.
pub(crate) const DIRECTORY: &str = "LENO_TESTKIT_DIRECTORY";
/// No test here takes so long.
const LIMIT: Duration = Duration::from_secs(150);

/// One test: its name and what it does with the fixture.
pub struct Test<F> {
    /// Its name, which says what must hold.
    pub name: &'static str,
    /// The test.
    pub run: fn(&mut F),
}

/// `suite!(start, [first_test, second_test]);` makes the `main` of a test binary: `start` makes the fixture.
#[macro_export]
macro_rules! suite {
    ($start:expr, [$($test:ident),* $(,)?]) => {
        fn main() -> std::process::ExitCode {
            $crate::run_suite($start, &[$($crate::Test { name: stringify!($test), run: $test }),*])
        }
    };
}

/// What the command line asks for.
struct Wanted {
    names: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    list: bool,
    ignored: bool,
}

impl Wanted {
    fn parse(mut args: impl Iterator<Item = String>) -> Self {
        let mut wanted = Self {
            names: Vec::new(),
            skip: Vec::new(),
            exact: false,
            list: false,
            ignored: false,
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--exact" => wanted.exact = true,
                "--list" => wanted.list = true,
                "--ignored" => wanted.ignored = true,
                "--skip" => wanted.skip.extend(args.next()),
                "--format" | "--test-threads" | "--color" | "--logfile" | "-Z" => {
                    drop(args.next());
                }
                other if other.starts_with('-') => {}
                name => wanted.names.push(name.to_owned()),
            }
        }
        wanted
    }

    fn wants(&self, name: &str) -> bool {
        let matches = |text: &String| {
            if self.exact {
                name == text
            } else {
                name.contains(text.as_str())
            }
        };
        !self.ignored
            && (self.names.is_empty() || self.names.iter().any(matches))
            && !self.skip.iter().any(matches)
    }
}

/// Runs the tests that the command line names. See [`suite!`](macro@crate::suite).
pub fn run_suite<F>(start: impl FnOnce() -> F, tests: &[Test<F>]) -> ExitCode {
    let wanted = Wanted::parse(env::args().skip(1));
    let tests: Vec<&Test<F>> = tests
        .iter()
        .filter(|test| wanted.wants(test.name))
        .collect();
    if wanted.list {
        for test in tests {
            println!("{}: test", test.name);
        }
        return ExitCode::SUCCESS;
    }
    if tests.is_empty() {
        println!("\nrunning 0 tests\n");
        return ExitCode::SUCCESS;
    }
    if env::var_os(DIRECTORY).is_some() {
        return inner(start, &tests);
    }
    outer(&tests)
}

fn outer<F>(tests: &[&Test<F>]) -> ExitCode {
    let directory = tempfile::Builder::new()
        .prefix("leno-")
        .tempdir()
        .expect("a directory for the test's files");
    // Programs of other users must be able to reach what is theirs in it.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("our own directory");
    let mut argv = vec![env::current_exe().expect("this program").into_os_string()];
    argv.extend(env::args_os().skip(1));
    // The processes' logs are what helps; a backtrace would drive them out.
    let kept = |(name, _): &(OsString, OsString)| name != "RUST_BACKTRACE";
    let mut variables: Vec<(OsString, OsString)> = env::vars_os().filter(kept).collect();
    variables.push((DIRECTORY.into(), directory.path().into()));
    let arena = arena::spawn_init(&argv, &variables, !netns::has_admin_capability());
    let arena = match arena {
        Ok(arena) => arena,
        Err(error) => {
            let reason = format!("no namespaces can be made here: {error}");
            for test in tests {
                println!("test {} ... skipped: {reason}", test.name);
                skip::note(test.name, &reason);
            }
            return ExitCode::SUCCESS;
        }
    };
    let code = arena.wait().expect("the arena's init is our child");
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}

/// When the test that runs now must have ended, in milliseconds since 1970; 0 for none.
static DEADLINE: AtomicU64 = AtomicU64::new(0);

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

fn watch() {
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let deadline = DEADLINE.load(Ordering::Relaxed);
        if deadline != 0 && now() > deadline {
            println!(
                "test {} ... FAILED: no end after {LIMIT:?}",
                skip::current_test()
            );
            show_logs();
            std::process::exit(101);
        }
    }
}

fn limit(on: bool) {
    let limit = u64::try_from(LIMIT.as_millis()).unwrap_or(0);
    DEADLINE.store(if on { now() + limit } else { 0 }, Ordering::Relaxed);
}

/// The test that runs now was asked to take so much longer than any other.
pub fn allow_longer(by: Duration) {
    let by = u64::try_from(by.as_millis()).unwrap_or(0);
    DEADLINE.fetch_add(by, Ordering::Relaxed);
}

/// Some programs leave files in shared memory that are named by process ids: here those begin anew with each arena.
/// Where it cannot be mounted, such a program says so itself.
fn own_shared_memory() {
    let options = Some(c"mode=1777");
    let mounted = mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), options);
    if let Err(error) = mounted {
        println!("(no shared memory of its own: {error})");
    }
}

fn inner<F>(start: impl FnOnce() -> F, tests: &[&Test<F>]) -> ExitCode {
    let lifeline = arena::lifeline().expect("the arena's lifeline");
    std::thread::spawn(move || {
        arena::wait_for_end(&lifeline);
        std::process::exit(1);
    });
    std::thread::spawn(watch);
    own_shared_memory();
    println!("\nrunning {} tests", tests.len());
    let begun = Instant::now();
    limit(true);
    skip::begin("the fixture");
    let fixture = catch_unwind(AssertUnwindSafe(start));
    let skipped = skip::end();
    let Ok(mut fixture) = fixture else {
        show_logs();
        for test in tests {
            println!("test {} ... FAILED: the fixture did not start", test.name);
        }
        return ExitCode::from(101);
    };
    if let Some(reason) = skipped {
        tests.iter().for_each(|test| skip::note(test.name, &reason));
    }
    println!("(fixture: {:.1} s)", begun.elapsed().as_secs_f64());
    let (mut passed, mut missed, mut failed) = (0, 0, Vec::new());
    for test in tests {
        skip::begin(test.name);
        mark_logs();
        limit(true);
        let since = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (test.run)(&mut fixture)));
        limit(false);
        let took = since.elapsed().as_secs_f64();
        match (outcome, skip::end()) {
            (Err(_), _) => {
                // Proxies write their logs a moment later.
                std::thread::sleep(Duration::from_millis(700));
                show_logs();
                println!("test {} ... FAILED ({took:.1} s)", test.name);
                failed.push(test.name);
            }
            (Ok(()), Some(reason)) => {
                println!("test {} ... skipped: {reason}", test.name);
                missed += 1;
            }
            (Ok(()), None) => {
                println!("test {} ... ok ({took:.1} s)", test.name);
                passed += 1;
            }
        }
    }
    limit(true);
    drop(fixture);
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; {missed} skipped; finished in {:.1} s\n",
        failed.len(),
        begun.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {}\n", failed.join(", "));
    ExitCode::from(101)
}
