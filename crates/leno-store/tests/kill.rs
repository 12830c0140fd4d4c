//! `kill -9` at random moments while transactions are written: what was acknowledged is there, all of it or nothing of
//! each transaction, and the file is sound. What writes, and is killed, is this program itself, told so by its environment.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

use std::{
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use leno_store::{Expect, Key, Options, SqliteStore, Store, Write};

const ROUNDS: usize = 30;
/// The test, whose name this program is started again with.
const TEST: &str = "acknowledged_writes_survive_kill_9";
/// Names the store that this program writes to until it is killed.
const FILE: &str = "LENO_STORE_KILL_TEST_FILE";

fn key(name: &str) -> Key {
    Key::new("default".parse().unwrap(), "services", "shop", name)
}

/// Three objects that always change together, beside two more writers.
async fn write_for_ever(store: &SqliteStore, start: u64) {
    let one = async |name: &str| {
        for n in start.. {
            let writes = ["a", "b", "c"].map(|part| {
                Write::put(
                    key(&format!("{name}-{part}")),
                    n.to_string().into_bytes(),
                    Expect::Any,
                )
            });
            store.commit(writes.to_vec()).await.unwrap();
            // One line, one write to the pipe: acknowledged.
            std::io::stdout()
                .write_all(format!("{name} {n}\n").as_bytes())
                .unwrap();
        }
    };
    tokio::join!(one("x"), one("y"), one("z"));
}

/// The writing half; never returns.
fn write_until_killed(path: &Path) {
    let options = Options {
        max_changes: 50,
        ..Options::default()
    };
    let store = SqliteStore::open(path, options).unwrap();
    let start = store.revision() + 1;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(write_for_ever(&store, start));
}

/// Runs the writer until it is killed after `life`; answers the last acknowledged number of each of x, y and z.
fn run_and_kill(path: &Path, life: Duration) -> [u64; 3] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = [0; 3];
    let mut note = |line: &str| {
        let Some((name, number)) = line.split_once(' ') else {
            return false;
        };
        let Some(index) = ["x", "y", "z"].iter().position(|known| *known == name) else {
            return false;
        };
        let Ok(number) = number.parse() else {
            return false;
        };
        last[index] = number;
        true
    };
    // The clock starts with the first acknowledgement.
    let mut deadline = None;
    for line in output.by_ref() {
        let acknowledged = note(&line.unwrap());
        if acknowledged && deadline.is_none() {
            deadline = Some(Instant::now() + life);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for line in output.map_while(Result::ok) {
        note(&line);
    }
    last
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    if let Ok(path) = std::env::var(FILE) {
        return write_until_killed(Path::new(&path));
    }
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let life = Duration::from_micros(fastrand::u64(0..60_000));
        let last = run_and_kill(&path, life);
        let store = SqliteStore::open(&path, Options::default()).unwrap();
        store.check_integrity().unwrap();
        for (name, last) in ["x", "y", "z"].into_iter().zip(last) {
            let values = ["a", "b", "c"].map(|part| {
                let entry = store.get(&key(&format!("{name}-{part}"))).unwrap();
                entry.map_or(0, |entry| {
                    std::str::from_utf8(&entry.value).unwrap().parse().unwrap()
                })
            });
            let [a, b, c]: [u64; 3] = values;
            assert!(
                a == b && b == c,
                "round {round}: half a transaction of {name}: {values:?}"
            );
            assert!(
                a >= last,
                "round {round}: {name} {last} was acknowledged, {a} is there"
            );
            acknowledged += u64::from(last > 0);
        }
        let revision = store.revision();
        assert_eq!(revision % 3, 1, "the first is 1");
        let mut watch = store.watch(store.stats().oldest_watchable).unwrap();
        while watch.try_next().unwrap().is_some() {}
        assert_eq!(watch.revision(), revision, "the log reaches to the end");
    }
    assert!(acknowledged >= ROUNDS as u64, "the rounds wrote something");
}
