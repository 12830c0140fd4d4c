//! What the store promises, on real files.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;

use leno_store::{
    Change, Entry, Expect, Key, Options, SqliteStore, Store, StoreError, Watch, Write,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

fn key(name: &str) -> Key {
    Key::new("default".parse().unwrap(), "services", "shop", name)
}

fn put(name: &str, value: &str, expect: Expect) -> Write {
    Write::put(key(name), value.into(), expect)
}

struct Temporary {
    directory: TempDir,
    options: Options,
}

impl Temporary {
    fn new(options: Options) -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            options,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("data/store.db")
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path(), self.options).unwrap()
    }
}

fn drain(watch: &mut Watch) -> Vec<(Change, Option<Entry>)> {
    std::iter::from_fn(|| watch.try_next_with_previous().unwrap()).collect()
}

#[tokio::test]
async fn a_write_is_read_back_with_its_revisions() {
    let temporary = Temporary::new(Options::default());
    let store = temporary.open();
    assert_eq!(
        store.revision(),
        1,
        "0 means any revision to clients of the API"
    );
    let first = store
        .commit(vec![put("cart", "1", Expect::Absent)])
        .await
        .unwrap();
    let second = store
        .commit(vec![put("cart", "2", Expect::Revision(first))])
        .await
        .unwrap();
    let entry = store.get(&key("cart")).unwrap().unwrap();
    assert_eq!(
        (&*entry.value, entry.revision, entry.created),
        (&b"2"[..], second, first)
    );
    assert_eq!(store.get(&key("other")).unwrap(), None);
    assert_eq!(store.revision(), second);
    assert_eq!(store.commit(Vec::new()).await.unwrap(), second);
}

#[tokio::test]
async fn conditions_hold_or_nothing_of_the_transaction_happens() {
    let temporary = Temporary::new(Options::default());
    let store = temporary.open();
    let revision = store
        .commit(vec![put("cart", "1", Expect::Any)])
        .await
        .unwrap();
    let cases = [
        vec![
            put("new", "1", Expect::Absent),
            put("cart", "2", Expect::Absent),
        ],
        vec![
            put("new", "1", Expect::Any),
            put("cart", "2", Expect::Revision(revision + 1)),
        ],
        vec![
            put("new", "1", Expect::Any),
            put("none", "2", Expect::Revision(1)),
        ],
        vec![
            put("new", "1", Expect::Any),
            Write::delete(key("none"), Expect::Any),
        ],
    ];
    let mut errors = Vec::new();
    for writes in cases {
        errors.push(store.commit(writes).await.unwrap_err());
        assert_eq!(store.get(&key("new")).unwrap(), None);
    }
    assert!(
        matches!(
            errors.as_slice(),
            [
                StoreError::Exists { .. },
                StoreError::Conflict {
                    expected: 3,
                    found: 2,
                    ..
                },
                StoreError::NotFound { .. },
                StoreError::NotFound { .. }
            ]
        ),
        "{errors:?}"
    );
    assert_eq!(store.revision(), revision);
    assert_eq!(store.stats().refused, 4);
}

#[tokio::test]
async fn of_many_writers_with_one_revision_exactly_one_wins() {
    let temporary = Temporary::new(Options::default());
    let store = temporary.open();
    let revision = store
        .commit(vec![put("cart", "0", Expect::Any)])
        .await
        .unwrap();
    let writers = (0..100).map(|n| {
        store.commit(vec![put(
            "cart",
            &n.to_string(),
            Expect::Revision(revision),
        )])
    });
    let mut won = 0;
    let mut lost = 0;
    let mut running = JoinSet::new();
    for writer in writers {
        running.spawn(writer);
    }
    for outcome in running.join_all().await {
        match outcome {
            Ok(_) => won += 1,
            Err(StoreError::Conflict { .. }) => lost += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((won, lost), (1, 99));
    assert!(
        store.stats().groups < 20,
        "writes that wait share a sync: {:?}",
        store.stats()
    );
}

#[tokio::test]
async fn a_list_is_ordered_scoped_and_of_one_moment() {
    let temporary = Temporary::new(Options::default());
    let store = temporary.open();
    let mesh: leno_types::DnsLabel = "default".parse().unwrap();
    let other = Key::new("other".parse().unwrap(), "services", "shop", "cart");
    let pay = Key::new(mesh.clone(), "services", "pay", "zeta");
    let route = Key::new(mesh.clone(), "routes", "shop", "cart");
    let writes = [key("b"), key("a"), other, pay, route]
        .map(|key| Write::put(key, b"{}".to_vec(), Expect::Absent));
    let revision = store.commit(writes.to_vec()).await.unwrap();
    let names = |namespace| {
        let (entries, at) = store.list(&mesh, "services", namespace).unwrap();
        assert_eq!(at, revision);
        entries
            .iter()
            .map(|entry| entry.key.to_string())
            .collect::<Vec<_>>()
    };
    let all = [
        "default/services/pay/zeta",
        "default/services/shop/a",
        "default/services/shop/b",
    ];
    assert_eq!(names(None), all);
    assert_eq!(names(Some("shop")), all[1..]);
    assert_eq!(names(Some("nowhere")), [""; 0]);
    let meshes: Vec<_> = store
        .meshes()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(meshes, ["default", "other"]);
}

#[tokio::test]
async fn a_watch_tells_each_change_once_in_order_and_also_after_a_restart() {
    let temporary = Temporary::new(Options::default());
    let store = temporary.open();
    store
        .commit(vec![put("a", "1", Expect::Any), put("b", "1", Expect::Any)])
        .await
        .unwrap();
    store
        .commit(vec![put("a", "2", Expect::Any), put("a", "3", Expect::Any)])
        .await
        .unwrap();
    store
        .commit(vec![
            Write::delete(key("b"), Expect::Any),
            put("b", "4", Expect::Absent),
        ])
        .await
        .unwrap();
    let live = drain(&mut store.watch(1).unwrap());
    let seen: Vec<_> = live
        .iter()
        .map(|(change, previous)| {
            let previous = previous
                .as_ref()
                .map(|entry| (entry.revision, entry.value.to_vec()));
            let value = match change {
                Change::Put(entry) => Some((entry.created, entry.value.to_vec())),
                Change::Delete { last, .. } => {
                    assert_eq!(previous.as_ref().unwrap().1, last.to_vec());
                    None
                }
            };
            (change.revision(), value, previous)
        })
        .collect();
    let bytes = |text: &str| text.as_bytes().to_vec();
    assert_eq!(
        seen,
        [
            (2, Some((2, bytes("1"))), None),
            (3, Some((3, bytes("1"))), None),
            (4, Some((2, bytes("2"))), Some((2, bytes("1")))),
            (5, Some((2, bytes("3"))), Some((4, bytes("2")))),
            (6, None, Some((3, bytes("1")))),
            (7, Some((7, bytes("4"))), None),
        ]
    );
    let incarnation = store.incarnation();
    drop(store);
    let store = temporary.open();
    assert_eq!(store.incarnation(), incarnation);
    // From every position, inside transactions too.
    for from in 1..=7 {
        let later = drain(&mut store.watch(from).unwrap());
        let told = usize::try_from(from).unwrap() - 1;
        assert_eq!(later, live[told..], "from {from}");
    }
}

#[tokio::test]
async fn what_was_there_before_a_change_is_held_once_while_the_log_has_it() {
    let temporary = Temporary::new(Options::default());
    let held_once = |store: &SqliteStore, from| {
        let mut watch = store.watch(from).unwrap();
        let changes = drain(&mut watch);
        let [(Change::Put(first), None), (_, Some(before))] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert_eq!(first, before);
        std::sync::Arc::ptr_eq(&first.value, &before.value)
    };
    let store = temporary.open();
    let from = store.revision();
    for value in ["1", "2"] {
        let write = put("cart", value, Expect::Any);
        store.commit(vec![write]).await.unwrap();
    }
    assert!(held_once(&store, from));
    drop(store);
    assert!(held_once(&temporary.open(), from), "read from the file");
}

#[tokio::test]
async fn a_waiting_watch_wakes_for_a_change() {
    let temporary = Temporary::new(Options::default());
    let store = temporary.open();
    let mut watch = store.watch(1).unwrap();
    let (change, revision) =
        tokio::join!(watch.next(), store.commit(vec![put("a", "1", Expect::Any)]));
    assert_eq!(change.unwrap().revision(), revision.unwrap());
    let (ended, ()) = tokio::join!(watch.next(), async { drop(store) });
    assert!(matches!(ended, Err(StoreError::Closed)));
}

#[tokio::test]
async fn the_change_log_is_bounded_and_slow_watchers_are_told() {
    let options = Options {
        max_changes: 10,
        ..Options::default()
    };
    let temporary = Temporary::new(options);
    let store = temporary.open();
    let mut slow = store.watch(1).unwrap();
    for n in 0..40 {
        store
            .commit(vec![put("a", &n.to_string(), Expect::Any)])
            .await
            .unwrap();
    }
    assert!(matches!(
        slow.try_next(),
        Err(StoreError::Lagged {
            seen: 1,
            oldest: 31
        })
    ));
    assert!(matches!(
        store.watch(30),
        Err(StoreError::Compacted {
            from: 30,
            oldest: 31
        })
    ));
    assert!(
        matches!(store.watch(42), Err(StoreError::Compacted { .. })),
        "a future revision is of another history"
    );
    assert_eq!(drain(&mut store.watch(31).unwrap()).len(), 10);
    let stats = store.stats();
    assert_eq!(
        (stats.lagged, stats.compacted, stats.oldest_watchable),
        (1, 2, 31)
    );
    drop(store);
    let store = temporary.open();
    assert!(matches!(store.watch(30), Err(StoreError::Compacted { .. })));
    assert_eq!(drain(&mut store.watch(31).unwrap()).len(), 10);
}

#[tokio::test]
async fn the_bytes_of_the_change_log_are_bounded() {
    let options = Options {
        max_change_bytes: 10_000,
        ..Options::default()
    };
    let temporary = Temporary::new(options);
    let store = temporary.open();
    for _ in 0..40 {
        store
            .commit(vec![put("a", &"x".repeat(1_000), Expect::Any)])
            .await
            .unwrap();
    }
    let left = drain(&mut store.watch(store.stats().oldest_watchable).unwrap()).len();
    assert!((1..10).contains(&left), "{left}");
    drop(store);
    let store = temporary.open();
    assert_eq!(
        drain(&mut store.watch(store.stats().oldest_watchable).unwrap()).len(),
        left
    );
}

#[tokio::test]
async fn a_full_store_says_so_and_works_again_when_there_is_room() {
    let options = Options {
        max_file_bytes: 400 << 10,
        ..Options::default()
    };
    let temporary = Temporary::new(options);
    let store = temporary.open();
    store
        .commit(vec![put("small", "1", Expect::Any)])
        .await
        .unwrap();
    let large = "x".repeat(100 << 10);
    let mut names = Vec::new();
    let error = loop {
        let name = format!("large-{}", names.len());
        match store.commit(vec![put(&name, &large, Expect::Absent)]).await {
            Ok(_) => names.push(name),
            Err(error) => break error,
        }
        assert!(names.len() < 10);
    };
    assert!(matches!(error, StoreError::Full), "{error:?}");
    assert!(error.to_string().contains("store full"));
    assert_eq!(store.stats().full, 1);
    // What is there can be read, and a small write that waits together with one that is too large goes through.
    let too_large = store.commit(vec![put("more", &large, Expect::Any)]);
    let small = store.commit(vec![put("small", "2", Expect::Any)]);
    let (too_large, small) = tokio::join!(too_large, small);
    assert!(matches!(too_large, Err(StoreError::Full)));
    small.unwrap();
    assert_eq!(
        store.get(&key(&names[0])).unwrap().unwrap().value.len(),
        large.len()
    );
    store.check_integrity().unwrap();
}

#[test]
fn files_are_private_and_a_second_opener_is_refused() {
    let temporary = Temporary::new(Options::default());
    let store = temporary.open();
    let directory = temporary.path().parent().unwrap().to_owned();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    let mut files = 0;
    for file in std::fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
        files += 1;
    }
    assert!(files >= 3, "store, log and lock");
    let second = SqliteStore::open(&temporary.path(), temporary.options);
    assert!(
        matches!(second, Err(StoreError::InUse { .. })),
        "{second:?}"
    );
    drop(store);
    drop(temporary.open());
}

#[test]
fn what_a_later_leno_wrote_and_what_is_no_store_is_refused_untouched() {
    let temporary = Temporary::new(Options::default());
    drop(temporary.open());
    let raw = rusqlite::Connection::open(temporary.path()).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let error = SqliteStore::open(&temporary.path(), temporary.options).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Newer {
                found: 99,
                known: 1,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("run the Leno that wrote it"));

    for content in [
        &b"this is no database, but somebody's letter to somebody else"[..],
        &[0xff; 8192],
    ] {
        std::fs::write(temporary.path(), content).unwrap();
        let error = SqliteStore::open(&temporary.path(), temporary.options).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        assert_eq!(std::fs::read(temporary.path()).unwrap(), content);
    }
    std::fs::remove_file(temporary.path()).unwrap();
    let raw = rusqlite::Connection::open(temporary.path()).unwrap();
    raw.execute_batch("CREATE TABLE letters (text)").unwrap();
    drop(raw);
    let error = SqliteStore::open(&temporary.path(), temporary.options).unwrap_err();
    assert!(error.to_string().contains("is no Leno store"), "{error}");
}

#[test]
fn readers_see_whole_transactions_while_a_writer_writes() {
    let temporary = Temporary::new(Options::default());
    let store = temporary.open();
    let mesh = "default".parse().unwrap();
    let write = async || {
        for n in 0..200 {
            let value = n.to_string();
            let writes = ["a", "b"].map(|name| put(name, &value, Expect::Any));
            store.commit(writes.to_vec()).await.unwrap();
        }
    };
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
                .block_on(write());
        });
        let mut lists = 0;
        while !writing.is_finished() {
            let (entries, revision) = store.list(&mesh, "services", None).unwrap();
            assert_eq!(revision % 2, 1, "the first is 1");
            if let [a, b] = entries.as_slice() {
                assert_eq!(a.value, b.value);
                assert_eq!(b.revision, revision);
                // What was listed can be watched from, even when the log has not heard of it yet.
                store.watch(revision).unwrap();
                lists += 1;
            }
        }
        assert!(lists > 0);
    });
}
