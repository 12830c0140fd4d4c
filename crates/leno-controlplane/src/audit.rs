//! The audit log: who changed what, and who was refused, for each mesh by itself.
//!
//! Owns `audit/MESH/` in the data directory: `changes.ndjson` and `refused.ndjson` with those set aside, so that
//! whoever is refused all day pushes no change out. Lines are with the system when a change is acknowledged. What the
//! disk does not take waits in memory, and is tried again; when so many wait that no more can, changes are refused
//! until they are written (docs/decisions/2026-11-changes-wait-for-their-audit-line.md). A change has room for its line
//! before it is made, so that no more can come to wait than are begun at once.
//! Invariant: no secret is in a line, and no line of one mesh in another's log.

mod file;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Take},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use leno_api::{Audit, AuditLine, AuditObject, AuditOutcome, Begun, Unready};
use leno_runtime::Stop;
use leno_types::{DnsLabel, MeshName};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use crate::{mesh::locked, times::rfc3339_of};
use file::Lines;

/// Where the log is, in the data directory.
pub(crate) const AUDIT: &str = "audit";
/// Bytes of one file of changes.
const FILE_BYTES: u64 = 8 << 20;
/// Files of changes of one mesh.
const FILES: u32 = 4;
/// Bytes of one file of refusals.
const REFUSED_BYTES: u64 = 1 << 20;
/// Files of refusals of one mesh.
const REFUSED_FILES: u32 = 2;
/// Changes of one mesh whose lines wait for the disk; then changes are refused. So many more may come to wait as were
/// begun before.
const MAX_WAITING: usize = 1_024;
/// Changes of one mesh that are begun and not noted yet, of which a batch has as many as it has objects; others are
/// told to try again.
const MAX_BEGUN: usize = 32_768;
/// Refusals of one mesh that are written down in a second; others are counted.
const REFUSED_RATE: u32 = 10;
/// Bytes of an object in a line; of a larger one its size and digest are.
const MAX_OBJECT: usize = 32 << 10;
/// Lines that one answer has, the newest.
const MAX_LINES: usize = 10_000;
/// Answers from the log of one mesh at once: each holds its lines until they are taken.
const MAX_READERS: usize = 4;
/// Lines that wait for who follows the log; slower ones are told that lines are missing.
const FOLLOWED: usize = 256;
/// Logs of removed meshes that are kept.
const REMOVED_KEPT: usize = 64;
/// What waits is tried again so often.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest message of a refusal in a line.
const MAX_MESSAGE: usize = 512;

/// What is counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Lines of changes written.
    pub(crate) changes: u64,
    /// Lines of refusals written.
    pub(crate) refused: u64,
    /// Refusals that were too many to be written down.
    pub(crate) suppressed: u64,
    /// Writes that the disk did not take.
    pub(crate) failed: u64,
    /// Changes that were refused because lines wait.
    pub(crate) held: u64,
    /// Changes that were refused because too many were begun.
    pub(crate) begun_exceeded: u64,
    /// Lines that were lost because even more waited.
    pub(crate) lost: u64,
    /// Lines that wait.
    pub(crate) waiting: usize,
    /// Readers that were refused because too many read.
    pub(crate) readers_exceeded: u64,
}

/// Why a log is not read.
pub(crate) enum Unread {
    /// There is no such mesh.
    NoMesh,
    /// Too many read it now.
    Busy,
}

/// A log that somebody reads.
pub(crate) struct Reading {
    files: Vec<Take<File>>,
    /// The lines to come.
    pub(crate) followed: broadcast::Receiver<Arc<str>>,
    /// The reader's place, to be kept as long as its lines are.
    pub(crate) place: OwnedSemaphorePermit,
}

struct Log {
    changes: Lines,
    refused: Lines,
    /// The second, and how many refusals were written down in it.
    refused_in: (u64, u32),
    counters: Counters,
    followers: broadcast::Sender<Arc<str>>,
    readers: Arc<Semaphore>,
    /// Room for changes that are begun.
    begun: Arc<Semaphore>,
}

/// The audit log of all meshes.
pub(crate) struct AuditLog {
    directory: PathBuf,
    logs: Mutex<BTreeMap<MeshName, Log>>,
}

impl AuditLog {
    /// In this directory, which is made with the first line.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            logs: Mutex::default(),
        }
    }

    /// Lines of this mesh are kept from now on.
    pub(crate) fn open(&self, mesh: &MeshName) {
        let directory = self.directory.join(mesh.as_str());
        locked(&self.logs)
            .entry(mesh.clone())
            .or_insert_with(|| Log {
                changes: Lines::new(directory.join("changes.ndjson"), FILE_BYTES, FILES),
                refused: Lines::new(
                    directory.join("refused.ndjson"),
                    REFUSED_BYTES,
                    REFUSED_FILES,
                ),
                refused_in: (0, 0),
                counters: Counters::default(),
                followers: broadcast::Sender::new(FOLLOWED),
                readers: Arc::new(Semaphore::new(MAX_READERS)),
                begun: Arc::new(Semaphore::new(MAX_BEGUN)),
            });
    }

    /// A mesh is removed: its log stays on the disk under another name, and no later mesh of its name sees it.
    pub(crate) fn close(&self, mesh: &MeshName) {
        locked(&self.logs).remove(mesh);
        let (own, kept) = (
            self.directory.join(mesh.as_str()),
            self.directory.join(format!("{mesh}.removed")),
        );
        let moved = remove(&kept).and_then(|()| match fs::rename(&own, &kept) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            moved => moved,
        });
        if let Err(error) = moved.and_then(|()| self.sweep()) {
            tracing::error!(%mesh, %error, "the audit log of a removed mesh stays where it is");
        }
    }

    /// Of the logs of removed meshes the oldest go.
    fn sweep(&self) -> io::Result<()> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|of| of == "removed") {
                removed.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        removed.sort();
        let over = removed.len().saturating_sub(REMOVED_KEPT);
        removed
            .iter()
            .take(over)
            .try_for_each(|(_, path)| remove(path))
    }

    /// What is counted of a mesh.
    pub(crate) fn counters(&self, mesh: &MeshName) -> Counters {
        let logs = locked(&self.logs);
        let count = |log: &Log| Counters {
            waiting: log.changes.waiting() + log.refused.waiting(),
            ..log.counters
        };
        logs.get(mesh).map(count).unwrap_or_default()
    }

    /// Begins to read the log of a mesh.
    pub(crate) fn read(&self, mesh: &MeshName) -> Result<Reading, Unread> {
        let mut logs = locked(&self.logs);
        let log = logs.get_mut(mesh).ok_or(Unread::NoMesh)?;
        let Ok(place) = Arc::clone(&log.readers).try_acquire_owned() else {
            log.counters.readers_exceeded += 1;
            return Err(Unread::Busy);
        };
        let changes = log.changes.written().into_iter();
        Ok(Reading {
            files: changes.chain(log.refused.written()).collect(),
            followed: log.followers.subscribe(),
            place,
        })
    }

    fn keep(&self, line: &AuditLine, most: usize) {
        let now = SystemTime::now();
        if let Some(log) = locked(&self.logs).get_mut(&line.mesh) {
            log.note(line, now, most);
        }
    }

    /// Tries again what the disk did not take, until `stop`.
    pub(crate) async fn keep_writing(self: Arc<Self>, stop: Stop) {
        while stop
            .run_until_stopped(tokio::time::sleep(AGAIN))
            .await
            .is_some()
        {
            for (mesh, log) in locked(&self.logs).iter_mut() {
                log.flush(mesh);
            }
        }
    }
}

impl Reading {
    /// The lines that are not older, oldest first. Reads files of many megabytes: not for a thread that serves.
    pub(crate) fn lines(&mut self, since: Option<SystemTime>) -> Vec<String> {
        let since = since.map(time_of).unwrap_or_default();
        let mut lines: Vec<String> = Vec::new();
        for file in &mut self.files {
            let mut bytes = Vec::new();
            // What can be read of it is told.
            drop(file.read_to_end(&mut bytes));
            let text = String::from_utf8_lossy(&bytes);
            let recent = text.lines().filter(|line| time_in(line) >= since.as_str());
            lines.extend(recent.map(str::to_owned));
        }
        // Stable: lines of one moment stay in their order.
        lines.sort_by(|a, b| time_in(a).cmp(time_in(b)));
        lines.drain(..lines.len().saturating_sub(MAX_LINES));
        lines
    }
}

impl Audit for AuditLog {
    fn ready(&self, mesh: &DnsLabel, changes: usize) -> Result<Begun, Unready> {
        let mut logs = locked(&self.logs);
        let Some(log) = logs.get_mut(mesh) else {
            return Ok(None);
        };
        let waiting = log.changes.waiting();
        if waiting > 0 && changes.saturating_add(waiting) > MAX_WAITING {
            log.counters.held += 1;
            return Err(Unready::Waits(format!(
                "the audit log cannot be written, and no more than {MAX_WAITING} lines may wait for it: no change is made that nobody could account for; free some space under {}",
                self.directory.display()
            )));
        }
        let room = u32::try_from(changes)
            .ok()
            .and_then(|changes| Arc::clone(&log.begun).try_acquire_many_owned(changes).ok());
        if room.is_none() {
            log.counters.begun_exceeded += 1;
            return Err(Unready::Busy(format!(
                "more than {MAX_BEGUN} changes of mesh {mesh} are being made at once: try again later"
            )));
        }
        Ok(room)
    }

    fn note(&self, line: AuditLine) {
        self.keep(&line, MAX_WAITING.saturating_mul(2));
    }

    fn account(&self, line: AuditLine) {
        // There is room for it since it was begun: no more come than MAX_BEGUN once changes are refused.
        self.keep(&line, usize::MAX);
    }
}

impl Log {
    /// Keeps a line, unless `most` wait already.
    fn note(&mut self, line: &AuditLine, now: SystemTime, most: usize) {
        let refused = matches!(line.outcome, AuditOutcome::Refused { .. });
        if refused && !self.may_refuse(crate::times::unix(now)) {
            self.counters.suppressed += 1;
            return;
        }
        let text = format!("{}\n", document(line, now));
        // Nobody may follow.
        drop(self.followers.send(text.as_str().into()));
        if refused {
            self.counters.refused += 1;
            // Refusals wait for no disk: who is refused writes nothing into memory.
            if self.refused.waiting() == 0 {
                self.refused.push(text);
            }
        } else if self.changes.waiting() >= most {
            // Changes are refused by now; what comes still are hosts that join.
            self.counters.lost += 1;
        } else {
            self.counters.changes += 1;
            self.changes.push(text);
        }
        // A disk that takes nothing is asked again in a second, not for each line.
        if self.changes.waiting() <= 1 {
            self.flush(&line.mesh);
        }
    }

    fn may_refuse(&mut self, second: u64) -> bool {
        if self.refused_in.0 != second {
            self.refused_in = (second, 0);
        }
        self.refused_in.1 += 1;
        self.refused_in.1 <= REFUSED_RATE
    }

    fn flush(&mut self, mesh: &MeshName) {
        let flushed = self.changes.flush().and_then(|()| self.refused.flush());
        if let Err(error) = flushed {
            if self.counters.failed == 0 || self.changes.waiting() % 100 == 1 {
                tracing::error!(%mesh, %error, waiting = self.changes.waiting(), "the audit log cannot be written; its lines wait");
            }
            self.counters.failed += 1;
        }
    }
}

/// A line as JSON; its time is the first field.
fn document(line: &AuditLine, now: SystemTime) -> String {
    let AuditLine {
        mesh,
        who,
        from,
        verb,
        object,
        before,
        after,
        outcome,
    } = line;
    let AuditObject {
        kind,
        namespace,
        name,
    } = object;
    let mut fields = Map::new();
    for (name, text) in [
        ("mesh", mesh.as_str()),
        ("who", who),
        ("from", from),
        ("verb", verb),
        ("kind", kind),
        ("namespace", namespace),
        ("name", name),
    ] {
        fields.insert(name.into(), text.into());
    }
    for (name, object) in [("before", before), ("after", after)] {
        if let Some(object) = object {
            fields.insert(name.into(), bounded(object));
        }
    }
    match outcome {
        AuditOutcome::Done(revision) => {
            fields.insert("outcome".into(), "done".into());
            fields.insert("revision".into(), (*revision).into());
        }
        AuditOutcome::Refused { code, message } => {
            fields.insert("outcome".into(), "refused".into());
            fields.insert("code".into(), (*code).into());
            let message: String = message.chars().take(MAX_MESSAGE).collect();
            fields.insert("message".into(), message.into());
        }
        AuditOutcome::Unsure => {
            fields.insert("outcome".into(), "unsure".into());
        }
    }
    let rest = Value::Object(fields).to_string();
    let rest = rest.strip_prefix('{').unwrap_or(&rest);
    format!("{}{}\",{rest}", TIME, time_of(now))
}

/// What a line begins with.
const TIME: &str = "{\"time\":\"";

/// When a line was written; texts of this form are in the order of time.
fn time_in(line: &str) -> &str {
    let rest = line.strip_prefix(TIME).unwrap_or_default();
    rest.split('"').next().unwrap_or_default()
}

fn time_of(time: SystemTime) -> String {
    let millis = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_millis());
    let seconds = rfc3339_of(time);
    format!("{}.{millis:03}Z", seconds.trim_end_matches('Z'))
}

fn bounded(object: &Value) -> Value {
    let text = object.to_string();
    if text.len() <= MAX_OBJECT {
        return object.clone();
    }
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let hex: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    json!({"omittedBytes": text.len(), "sha256": hex})
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
