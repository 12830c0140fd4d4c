#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn line(mesh: &str, outcome: AuditOutcome) -> AuditLine {
    AuditLine {
        mesh: mesh.parse().unwrap(),
        who: "ann".into(),
        from: "10.0.0.1".into(),
        verb: "created".into(),
        object: AuditObject {
            kind: "Service".into(),
            namespace: "default".into(),
            name: "cart".into(),
        },
        before: None,
        after: Some(json!({"spec": 1})),
        outcome,
    }
}

fn refused() -> AuditOutcome {
    AuditOutcome::Refused {
        code: 403,
        message: "no".into(),
    }
}

fn lines(log: &AuditLog, mesh: &str) -> Vec<Value> {
    let mut reading = log.read(&mesh.parse().unwrap()).ok().unwrap();
    let lines = reading.lines(None);
    let parse = |line: &String| serde_json::from_str(line).unwrap();
    lines.iter().map(parse).collect()
}

#[test]
fn each_mesh_has_its_lines_and_a_removed_one_leaves_none_to_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let log = AuditLog::new(directory.path().join("audit"));
    let shop = "shop".parse().unwrap();
    log.open(&shop);
    log.open(&"default".parse().unwrap());
    log.note(line("shop", AuditOutcome::Done(7)));
    log.note(line("shop", refused()));
    log.note(line("nowhere", AuditOutcome::Done(8)));
    assert!(lines(&log, "default").is_empty());
    let all = lines(&log, "shop");
    assert_eq!(all.len(), 2);
    assert_eq!(
        (&all[0]["who"], &all[0]["revision"]),
        (&json!("ann"), &json!(7))
    );
    assert_eq!(
        (&all[1]["outcome"], &all[1]["code"]),
        (&json!("refused"), &json!(403))
    );
    log.close(&shop);
    log.open(&shop);
    assert!(lines(&log, "shop").is_empty());
    assert!(
        directory
            .path()
            .join("audit/shop.removed/changes.ndjson")
            .exists()
    );
}

#[test]
fn more_readers_than_have_room_are_refused_until_one_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let log = AuditLog::new(directory.path().join("audit"));
    let (shop, bank) = ("shop".parse().unwrap(), "bank".parse().unwrap());
    log.open(&shop);
    log.open(&bank);
    let mut readers: Vec<_> = (0..MAX_READERS)
        .map(|_| log.read(&shop).ok().unwrap())
        .collect();
    assert!(matches!(log.read(&shop), Err(Unread::Busy)));
    assert_eq!(log.counters(&shop).readers_exceeded, 1);
    assert!(log.read(&bank).is_ok(), "each mesh has places of its own");
    readers.pop();
    assert!(log.read(&shop).is_ok());
}

#[test]
fn who_is_refused_all_day_pushes_no_change_out() {
    let directory = tempfile::tempdir().unwrap();
    let log = AuditLog::new(directory.path().join("audit"));
    let shop = "shop".parse().unwrap();
    log.open(&shop);
    log.note(line("shop", AuditOutcome::Done(1)));
    for _ in 0..10_000 {
        log.note(line("shop", refused()));
    }
    let counters = log.counters(&shop);
    assert_eq!(counters.refused + counters.suppressed, 10_000);
    assert!(counters.suppressed > 9_000, "{counters:?}");
    assert_eq!(lines(&log, "shop")[0]["revision"], 1);
}

#[test]
fn no_change_is_made_once_too_many_lines_wait_for_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("audit");
    fs::write(&blocked, "no directory").unwrap();
    let log = AuditLog::new(blocked.clone());
    let shop: MeshName = "shop".parse().unwrap();
    log.open(&shop);
    let counters = || log.counters(&shop);
    // Many at once are begun while all is well, and all of them are accounted for.
    let many = 3 * MAX_WAITING;
    assert!(log.ready(&shop, many).is_ok());
    for revision in 0..many as u64 {
        log.account(line("shop", AuditOutcome::Done(revision)));
    }
    let refused = log.ready(&shop, 1).unwrap_err();
    assert!(matches!(refused, Unready::Waits(why) if why.contains("audit log")));
    // Who joins is not asked before, and is not held up.
    log.note(line("shop", AuditOutcome::Unsure));
    let Counters {
        held,
        waiting,
        lost,
        failed,
        ..
    } = counters();
    assert_eq!((held, waiting, lost), (1, many, 1));
    assert_eq!(failed, 1, "the disk is not asked for each line");
    fs::remove_file(&blocked).unwrap();
    let flush = || locked(&log.logs).get_mut(&shop).unwrap().flush(&shop);
    flush();
    assert!(log.ready(&shop, many).is_ok());
    assert_eq!(lines(&log, "shop").len(), many);
}

#[test]
fn while_lines_wait_no_more_are_begun_than_may_wait() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("audit");
    fs::write(&blocked, "no directory").unwrap();
    let log = AuditLog::new(blocked);
    let shop: MeshName = "shop".parse().unwrap();
    log.open(&shop);
    log.account(line("shop", AuditOutcome::Done(1)));
    assert!(log.ready(&shop, MAX_WAITING - 1).is_ok());
    assert!(log.ready(&shop, MAX_WAITING).is_err());
}

#[test]
fn no_more_lines_come_to_wait_than_had_room_when_their_changes_began() {
    let directory = tempfile::tempdir().unwrap();
    let log = AuditLog::new(directory.path().join("audit"));
    let (shop, bank) = ("shop".parse().unwrap(), "bank".parse().unwrap());
    log.open(&shop);
    log.open(&bank);
    let batch = log.ready(&shop, MAX_BEGUN - 1).unwrap();
    let one = log.ready(&shop, 1).unwrap();
    assert!(matches!(log.ready(&shop, 1), Err(Unready::Busy(_))));
    assert_eq!(log.counters(&shop).begun_exceeded, 1);
    assert!(log.ready(&bank, MAX_BEGUN).is_ok(), "each mesh has its own");
    drop(one);
    assert!(log.ready(&shop, 2).is_err());
    assert!(log.ready(&shop, 1).is_ok());
    drop(batch);
    assert!(log.ready(&shop, MAX_BEGUN).is_ok());
}

#[test]
fn a_large_object_is_named_by_its_digest() {
    let large = json!("x".repeat(MAX_OBJECT));
    let small = bounded(&large);
    assert_eq!(small["omittedBytes"], MAX_OBJECT + 2);
    assert_eq!(small["sha256"].as_str().unwrap().len(), 64);
}
