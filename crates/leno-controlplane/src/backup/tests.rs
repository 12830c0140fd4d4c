#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, UNIX_EPOCH};

use leno_store::{Expect, Key, Options, Write as Change};
use tempfile::TempDir;

use super::*;
use crate::{
    documents::TokenRequest,
    people::USERS,
    tokens::{AGENTS, AgentRecord, TOKENS, TokenRecord},
};

const NOW: u64 = 1_800_000_000;

fn key(resource: &str, name: &str) -> Key {
    Key::new("default".parse().unwrap(), resource, "", name)
}

fn put(resource: &str, name: &str, value: serde_json::Value) -> Change {
    Change::put(key(resource, name), value.to_string().into(), Expect::Any)
}

fn agent(name: &str, revoked: bool) -> Change {
    let record = serde_json::json!({"name": name, "scope": {}, "token": "t", "created": 1, "revoked": revoked});
    put(AGENTS, name, record)
}

/// A data directory with a store and a mesh's authority.
struct Place {
    _root: TempDir,
    data: PathBuf,
}

impl Place {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let data = root.path().join("control-plane");
        let authority = data.join("meshes/default");
        fs::create_dir_all(&authority).unwrap();
        fs::write(authority.join("root.pem"), "a root").unwrap();
        fs::write(authority.join("root.key"), "a key").unwrap();
        fs::create_dir(data.join("meshes/begun.new")).unwrap();
        Self { _root: root, data }
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.data.join(STORE), Options::default()).unwrap()
    }

    fn backup(&self, store: &SqliteStore) -> Vec<u8> {
        let mut file = Vec::new();
        write(store, &self.data, "2026-11-21T12:00:00Z".into(), &mut file).unwrap();
        assert!(!self.data.join(COPY).exists());
        file
    }

    async fn restore(&self, backup: &[u8]) -> Result<Restored, RestoreError> {
        restore(backup, &self.data, UNIX_EPOCH + Duration::from_secs(NOW)).await
    }
}

#[tokio::test]
async fn what_was_is_again_but_for_tokens_and_revocations() {
    let place = Place::new();
    let store = place.open();
    let record = TokenRecord::new(&TokenRequest::default(), "t1".into(), &[1; 32], NOW).unwrap();
    let token = put(TOKENS, "t1", serde_json::to_value(&record).unwrap());
    let object = put("services", "cart", serde_json::json!({"is": "old"}));
    let person = put(
        USERS,
        "ann",
        serde_json::json!({"name": "ann", "role": "admin", "since": 1, "issued": 1}),
    );
    let writes = vec![token, agent("a", false), agent("b", false), object, person];
    let then = store.commit(writes).await.unwrap();
    let backup = place.backup(&store);
    let later = vec![
        agent("b", true),
        put("services", "cart", serde_json::json!({"is": "new"})),
        put("services", "late", serde_json::json!({})),
    ];
    let last = store.commit(later).await.unwrap();

    let line = "{\"time\":\"2026-11-01T00:00:00.000Z\",\"who\":\"ann\"}\n";
    for mesh in ["default", "younger"] {
        let log = place.data.join("audit").join(mesh);
        fs::create_dir_all(&log).unwrap();
        fs::write(log.join("changes.ndjson"), line).unwrap();
    }
    let running = place.restore(&backup).await;
    assert!(matches!(running, Err(RestoreError::Runs(_))), "{running:?}");
    drop(store);
    let restored = place.restore(&backup).await.unwrap();
    assert!(restored.revision > last + leno_store::JUMP, "{restored:?}");
    assert_eq!(
        (
            restored.tokens_ended,
            restored.still_revoked,
            restored.people_ended
        ),
        (1, 1, 1)
    );
    assert_eq!(restored.meshes, ["default"]);
    let kept = restored.replaced.unwrap();
    assert!(kept.join(STORE).exists());

    let store = place.open();
    let read = |resource, name| -> serde_json::Value {
        let entry = store.get(&key(resource, name)).unwrap().unwrap();
        assert!(entry.revision > then + leno_store::JUMP);
        serde_json::from_slice(&entry.value).unwrap()
    };
    assert_eq!(read("services", "cart")["is"], "old");
    assert_eq!(store.get(&key("services", "late")).unwrap(), None);
    let since = read(USERS, "ann")["since"].as_u64().unwrap();
    assert!(since > NOW, "her certificates of before count no more");
    let audit = |path: &str| fs::read_to_string(place.data.join("audit").join(path));
    let log = audit("default/changes.ndjson").unwrap();
    let own = log.strip_prefix(line).expect("what was there is there");
    let own: serde_json::Value = serde_json::from_str(own).unwrap();
    assert_eq!(
        (&own["verb"], &own["kind"]),
        (&"restored".into(), &"Mesh".into()),
        "{own}"
    );
    assert_eq!(own["revision"], restored.revision);
    assert_eq!(own["before"]["revision"], last);
    // Whoever has the name later sees nothing of it.
    assert_eq!(audit("younger.removed/changes.ndjson").unwrap(), line);
    assert!(!place.data.join("audit/younger").exists());
    assert_eq!(read(TOKENS, "t1")["expires"], NOW);
    assert_eq!(read(AGENTS, "a")["revoked"], false);
    assert_eq!(read(AGENTS, "b")["revoked"], true);
    let authority = place.data.join("meshes/default/root.key");
    assert_eq!(fs::read_to_string(authority).unwrap(), "a key");
}

#[tokio::test]
async fn a_place_where_nothing_was_takes_a_backup_too() {
    let (from, to) = (Place::new(), Place::new());
    let store = from.open();
    store.commit(vec![agent("a", true)]).await.unwrap();
    let backup = from.backup(&store);
    fs::remove_dir_all(&to.data).unwrap();
    let restored = to.restore(&backup).await.unwrap();
    assert_eq!(restored.replaced, None);
    assert!(to.open().get(&key(AGENTS, "a")).unwrap().is_some());
}

#[tokio::test]
async fn half_a_backup_and_what_is_none_change_nothing() {
    let place = Place::new();
    let store = place.open();
    store.commit(vec![agent("a", false)]).await.unwrap();
    let backup = place.backup(&store);
    drop(store);
    let mut evil = tar::Builder::new(Vec::new());
    let mut head = header(4);
    // As only somebody who means harm writes it: the library itself would not.
    head.as_gnu_mut().unwrap().name[..8].copy_from_slice(b"../a.txt");
    head.set_cksum();
    evil.append(&head, &b"evil"[..]).unwrap();
    let evil = evil.into_inner().unwrap();
    let none = tar::Builder::new(Vec::new()).into_inner().unwrap();
    for bad in [
        &backup[..backup.len() / 2],
        &backup[..1_024],
        b"no tar at all",
        b"",
        &evil,
        &none,
    ] {
        let outcome = place.restore(bad).await;
        assert!(
            matches!(
                outcome,
                Err(RestoreError::Damaged(_) | RestoreError::Store(_))
            ),
            "{outcome:?}"
        );
        assert_eq!(place.open().revision(), 2);
    }
    let beside: Vec<_> = sorted(place.data.parent().unwrap()).unwrap();
    assert_eq!(beside.len(), 1, "nothing stays behind: {beside:?}");
}

#[tokio::test]
async fn as_many_files_as_are_read_again_are_written() {
    let place = Place::new();
    let store = place.open();
    store.commit(vec![agent("a", false)]).await.unwrap();
    let authority = place.data.join("meshes/default");
    // Beside the root and its key, and three that are no authority's.
    for number in 0..MAX_FILES - 5 {
        fs::write(authority.join(format!("of-{number}")), "").unwrap();
    }
    let backup = place.backup(&store);
    fs::write(authority.join("one-more"), "").unwrap();
    let created = "2026-11-21T12:00:00Z".to_owned();
    let outcome = write(&store, &place.data, created, Vec::new());
    assert!(
        matches!(outcome, Err(BackupError::TooMany(files, _)) if files == MAX_FILES + 1),
        "{outcome:?}"
    );
    let written = tar::Archive::new(&*backup).entries().unwrap().count();
    assert_eq!(written, MAX_FILES);
}

/// A backup that is read, and what happens meanwhile.
struct While<F>(std::io::Cursor<Vec<u8>>, F);

impl<F: FnMut()> std::io::Read for While<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.1)();
        self.0.read(buffer)
    }
}

#[tokio::test]
async fn no_control_plane_starts_there_while_it_is_restored() {
    for damage in [false, true] {
        let place = Place::new();
        let store = place.open();
        store.commit(vec![agent("a", false)]).await.unwrap();
        let backup = place.backup(&store);
        drop(store);
        let path = place.data.join(STORE);
        if damage {
            fs::write(&path, "something else").unwrap();
        }
        let mut tries = 0;
        let reader = While(std::io::Cursor::new(backup), || {
            tries += 1;
            let started = SqliteStore::open(&path, Options::default());
            assert!(
                matches!(started, Err(StoreError::InUse { .. })),
                "{started:?}"
            );
        });
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        restore(reader, &place.data, now).await.unwrap();
        assert!(tries > 0);
        assert!(place.open().get(&key(AGENTS, "a")).unwrap().is_some());
    }
}

#[tokio::test]
async fn a_bit_that_a_disk_changed_is_found() {
    let place = Place::new();
    let store = place.open();
    let object = put("services", "cart", serde_json::json!({"is": "old"}));
    store.commit(vec![agent("a", true), object]).await.unwrap();
    let backup = place.backup(&store);
    drop(store);
    let find = |text: &[u8]| {
        let at = backup.windows(text.len()).position(|of| of == text);
        at.expect("it is in the backup")
    };
    let begins = find(b"SQLite format 3");
    let ends = find(b"digests.json");
    let mut places = vec![
        find(b"a key"),
        find(b"\"old\""),
        find(b"\"revoked\""),
        ends + 512,
    ];
    places.extend((begins..ends).step_by(1_021));
    for at in places {
        let mut changed = backup.clone();
        changed[at] ^= 4;
        let outcome = place.restore(&changed).await;
        assert!(
            matches!(outcome, Err(RestoreError::Damaged(_))),
            "{at}: {outcome:?}"
        );
    }
    // One that says to be of the form without digests has them all the same.
    let mut changed = backup.clone();
    let form = find(FORMAT.as_bytes());
    changed[form..form + FORMAT.len()].copy_from_slice(UNSUMMED.as_bytes());
    let outcome = place.restore(&changed).await;
    assert!(
        matches!(outcome, Err(RestoreError::Damaged(_))),
        "{outcome:?}"
    );
    assert_eq!(place.open().revision(), 3);
    assert!(place.restore(&backup).await.is_ok());
}

/// What was written before there were digests.
fn of_form_1(backup: &[u8]) -> Vec<u8> {
    let mut old = Builder::new(Vec::new());
    let mut archive = tar::Archive::new(backup);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if name == MANIFEST {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(FORMAT));
            bytes = text.replace(FORMAT, UNSUMMED).into_bytes();
        }
        if name != DIGESTS {
            let mut header = header(bytes.len() as u64);
            old.append_data(&mut header, &name, &*bytes).unwrap();
        }
    }
    old.into_inner().unwrap()
}

#[tokio::test]
async fn a_backup_of_before_there_were_digests_is_restored() {
    let place = Place::new();
    let store = place.open();
    let object = put("services", "cart", serde_json::json!({"is": "old"}));
    store.commit(vec![object]).await.unwrap();
    let backup = of_form_1(&place.backup(&store));
    let changed = put("services", "cart", serde_json::json!({"is": "new"}));
    store.commit(vec![changed]).await.unwrap();
    drop(store);
    place.restore(&backup).await.unwrap();
    let there = place.open().get(&key("services", "cart")).unwrap();
    assert_eq!(&*there.unwrap().value, b"{\"is\":\"old\"}");
}

#[tokio::test]
async fn a_restore_that_cannot_keep_what_is_there_changes_nothing() {
    let place = Place::new();
    let store = place.open();
    store.commit(vec![agent("a", false)]).await.unwrap();
    let backup = place.backup(&store);
    drop(store);
    let kept = place.restore(&backup).await.unwrap().replaced.unwrap();
    let revision = place.open().revision();
    // In the same second, so that it would have the same name.
    let outcome = place.restore(&backup).await;
    assert!(
        matches!(outcome, Err(RestoreError::Io { .. })),
        "{outcome:?}"
    );
    assert_eq!(place.open().revision(), revision);
    let old = SqliteStore::open(&kept.join(STORE), Options::default()).unwrap();
    assert_eq!(old.revision(), 2, "what was first there is there");
    let beside = sorted(place.data.parent().unwrap()).unwrap();
    assert_eq!(beside.len(), 2, "nothing else stays behind: {beside:?}");
}

#[tokio::test]
async fn who_joined_again_and_which_mesh_was_removed_is_not_forgotten() {
    let place = Place::new();
    let store = place.open();
    let joined = |created: u64, service: &str| {
        let record = serde_json::json!({
            "name": "a", "scope": {"services": [service]}, "token": service, "created": created,
        });
        put(AGENTS, "a", record)
    };
    fs::create_dir_all(place.data.join("meshes/gone")).unwrap();
    let found = |mesh: &str, root: &str| {
        for file in ["root.pem", "root.key"] {
            fs::create_dir_all(place.data.join("meshes").join(mesh)).unwrap();
            fs::write(place.data.join("meshes").join(mesh).join(file), root).unwrap();
        }
    };
    found("gone", "gone's");
    found("remade", "the first's");
    let of = |mesh: &str| Key::new(mesh.parse().unwrap(), "services", "", "x");
    let object = |mesh: &str| Change::put(of(mesh), b"{}".to_vec(), Expect::Any);
    let writes = vec![
        joined(5, "wide"),
        agent("b", false),
        object("gone"),
        object("remade"),
    ];
    store.commit(writes).await.unwrap();
    let backup = place.backup(&store);
    let gone = Change::delete(of("gone"), Expect::Any);
    store.commit(vec![joined(9, "narrow"), gone]).await.unwrap();
    fs::remove_dir_all(place.data.join("meshes/gone")).unwrap();
    found("remade", "the second's");
    drop(store);
    let restored = place.restore(&backup).await.unwrap();
    assert_eq!((restored.joined_again, restored.still_revoked), (1, 0));
    assert_eq!(restored.revived, ["gone", "remade"]);
    for (mesh, revived) in [("default", false), ("gone", true), ("remade", true)] {
        let log = place.data.join("audit").join(mesh).join("changes.ndjson");
        let line: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(log).unwrap()).unwrap();
        assert_eq!(line["after"]["revived"], revived, "{line}");
        assert_eq!(line["after"]["joinedAgain"], 1, "{line}");
    }
    let entry = place.open().get(&key(AGENTS, "a")).unwrap().unwrap();
    let record: AgentRecord = serde_json::from_slice(&entry.value).unwrap();
    assert_eq!(record.created, 9, "a copy from before counts no more");
    assert_eq!(record.token, "narrow");
    assert_eq!(*record.scope.services, ["narrow".parse().unwrap()]);
}

#[tokio::test]
async fn the_newer_record_of_a_host_counts() {
    const DAY: u64 = 24 * 3600;
    let place = Place::new();
    let store = place.open();
    let host = |name: &str, created: u64, renewed: u64, revoked: bool| {
        let record = serde_json::json!({
            "name": name, "scope": {}, "token": "t", "created": created, "renewed": renewed, "revoked": revoked,
        });
        put(AGENTS, name, record)
    };
    let month_ago = NOW - 31 * DAY;
    let writes = vec![
        host("a", month_ago, month_ago, true),
        host("b", month_ago, month_ago, false),
        host("c", month_ago, month_ago, true),
    ];
    store.commit(writes).await.unwrap();
    let backup = place.backup(&store);
    // The name of one that was revoked is another's; one renewed all the time; one joined again, and was revoked again.
    let writes = vec![
        host("a", NOW - DAY, NOW - DAY, false),
        host("b", month_ago, NOW - DAY, false),
        host("c", NOW - DAY, NOW - DAY, true),
    ];
    store.commit(writes).await.unwrap();
    drop(store);
    let restored = place.restore(&backup).await.unwrap();
    assert_eq!((restored.joined_again, restored.still_revoked), (1, 0));
    let store = place.open();
    let read = |name: &str| -> AgentRecord {
        let entry = store.get(&key(AGENTS, name)).unwrap().unwrap();
        serde_json::from_slice(&entry.value).unwrap()
    };
    assert!(!read("a").revoked, "who was revoked was another");
    assert!(!read("a").is_over(NOW) && !read("b").is_over(NOW));
    assert_eq!(read("b").created, month_ago);
    assert!(read("c").revoked);
}

#[tokio::test]
async fn a_link_to_the_state_stays_one() {
    let place = Place::new();
    let store = place.open();
    store.commit(vec![agent("a", false)]).await.unwrap();
    let backup = place.backup(&store);
    drop(store);
    let elsewhere = TempDir::new().unwrap();
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(&place.data, &link).unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let restored = restore(&*backup, &link, now).await.unwrap();
    assert_eq!(fs::read_link(&link).unwrap(), place.data);
    assert_eq!(place.open().revision(), restored.revision);
    assert_eq!(sorted(elsewhere.path()).unwrap(), [link]);
}
