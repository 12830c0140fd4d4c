//! The thread that writes: takes what waits, does it in one SQLite transaction with one sync, then answers.
//!
//! Invariant: nothing is answered `Ok`, or published to watchers, before the sync that makes it durable.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rusqlite::{Connection, Savepoint, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Change, Entry, Expect, Key, StoreError, Write,
    log::{Log, Logged},
    schema,
};

/// Transactions that share one sync.
const GROUP: usize = 64;
/// Old changes that one group removes from the file beyond as many as it added.
const COMPACTION_SLICE: i64 = 256;

/// One transaction and whom to tell.
pub(crate) struct Request {
    pub(crate) writes: Vec<Write>,
    pub(crate) answer: oneshot::Sender<Result<u64, StoreError>>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) full: AtomicU64,
}

/// The one that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    db: Connection,
    log: Arc<Log>,
    counters: Arc<Counters>,
    head: u64,
}

/// How the transactions of a group came out, once it is on disk.
struct Outcome {
    answers: Vec<Result<u64, StoreError>>,
    logged: Vec<Logged>,
    head: u64,
}

impl Writer {
    pub(crate) fn new(db: Connection, log: Arc<Log>, counters: Arc<Counters>, head: u64) -> Self {
        Self {
            db,
            log,
            counters,
            head,
        }
    }

    /// Serves requests until `stop`, and then what is in the queue. A sender that is still held (by a future that
    /// nobody polls, say) must not keep the thread.
    pub(crate) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        stop: oneshot::Receiver<()>,
    ) {
        let mut group = Vec::with_capacity(GROUP);
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                count = requests.recv_many(&mut group, GROUP) => {
                    if count == 0 {
                        return;
                    }
                    self.serve(std::mem::take(&mut group));
                }
                _ = &mut stop, if !requests.is_closed() => requests.close(),
            }
        }
    }

    /// Does one transaction now.
    pub(crate) fn write(&mut self, writes: Vec<Write>) -> Result<u64, StoreError> {
        let (answer, mut outcome) = oneshot::channel();
        self.serve(vec![Request { writes, answer }]);
        outcome.try_recv().map_err(|_| StoreError::Closed)?
    }

    /// Commits a group. When the storage refuses it, each transaction gets a try of its own, so that a large one
    /// for which there is no room takes no small one with it.
    fn serve(&mut self, group: Vec<Request>) {
        match self.commit(&group) {
            Ok(outcome) => self.publish(group, outcome),
            Err(error) if group.len() == 1 => {
                if matches!(error, StoreError::Full) {
                    self.counters.full.fetch_add(1, Ordering::Relaxed);
                }
                tracing::warn!(%error, "a transaction was not written");
                for request in group {
                    answer(request, Err(error.clone()));
                }
            }
            Err(_) => {
                for request in group {
                    self.serve(vec![request]);
                }
            }
        }
    }

    fn publish(&mut self, group: Vec<Request>, outcome: Outcome) {
        let Outcome {
            answers,
            logged,
            head,
        } = outcome;
        self.head = head;
        self.log.append(logged);
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
        for (request, outcome) in group.into_iter().zip(answers) {
            let counter = match outcome {
                Ok(_) => &self.counters.commits,
                Err(_) => &self.counters.refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            answer(request, outcome);
        }
    }

    fn commit(&mut self, group: &[Request]) -> Result<Outcome, StoreError> {
        let result = self.try_commit(group);
        if result.is_err() {
            self.log.set_pending(self.head);
        }
        result
    }

    fn try_commit(&mut self, group: &[Request]) -> Result<Outcome, StoreError> {
        let error = |error: rusqlite::Error| StoreError::from_sqlite("written", &error);
        let mut transaction = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(error)?;
        let mut outcome = Outcome {
            answers: Vec::with_capacity(group.len()),
            logged: Vec::new(),
            head: self.head,
        };
        for request in group {
            let mut savepoint = transaction.savepoint().map_err(error)?;
            match apply(&savepoint, outcome.head, &request.writes) {
                Ok(logged) => {
                    savepoint.commit().map_err(error)?;
                    outcome.head += logged.len() as u64;
                    outcome.logged.extend(logged);
                    outcome.answers.push(Ok(outcome.head));
                }
                Err(refused) if is_condition(&refused) => {
                    savepoint.rollback().map_err(error)?;
                    savepoint.commit().map_err(error)?;
                    outcome.answers.push(Err(refused));
                }
                Err(failed) => return Err(failed),
            }
        }
        if outcome.logged.is_empty() {
            return Ok(outcome); // nothing was written: the transaction rolls back
        }
        transaction
            .prepare_cached("UPDATE meta SET revision = ?1")
            .and_then(|mut statement| statement.execute([outcome.head.cast_signed()]))
            .map_err(error)?;
        let slice = COMPACTION_SLICE.saturating_add_unsigned(outcome.logged.len() as u64);
        transaction
            .prepare_cached(
                "DELETE FROM changes WHERE revision IN \
                 (SELECT revision FROM changes WHERE revision <= ?1 ORDER BY revision LIMIT ?2)",
            )
            .and_then(|mut statement| statement.execute([self.log.oldest().cast_signed(), slice]))
            .map_err(error)?;
        self.log.set_pending(outcome.head);
        transaction.commit().map_err(error)?;
        Ok(outcome)
    }
}

/// Answers; whoever asked may have gone, and what was written stays written.
fn answer(request: Request, outcome: Result<u64, StoreError>) {
    if request.answer.send(outcome).is_err() {
        tracing::debug!("the writer of a transaction did not wait for its outcome");
    }
}

/// Whether the transaction's own condition failed, and not the storage.
const fn is_condition(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Conflict { .. } | StoreError::Exists { .. } | StoreError::NotFound { .. }
    )
}

/// Does the writes of one transaction after revision `head`.
fn apply(db: &Savepoint<'_>, mut head: u64, writes: &[Write]) -> Result<Vec<Logged>, StoreError> {
    let mut logged = Vec::with_capacity(writes.len());
    for write in writes {
        let previous = current(db, &write.key)?;
        check(write, previous.as_ref())?;
        head += 1;
        logged.push(one(db, head, write, previous)?);
    }
    Ok(logged)
}

fn current(db: &Connection, key: &Key) -> Result<Option<Entry>, StoreError> {
    schema::get(db, key).map_err(|error| StoreError::from_sqlite("written", &error))
}

/// Whether the write's condition holds.
fn check(write: &Write, previous: Option<&Entry>) -> Result<(), StoreError> {
    let key = || write.key.clone();
    match (write.expect, previous) {
        (Expect::Absent, Some(_)) => Err(StoreError::Exists { key: key() }),
        (Expect::Revision(_), None) => Err(StoreError::NotFound { key: key() }),
        (Expect::Revision(expected), Some(entry)) if entry.revision != expected => {
            Err(StoreError::Conflict {
                key: key(),
                expected,
                found: entry.revision,
            })
        }
        (_, None) if write.value.is_none() => Err(StoreError::NotFound { key: key() }),
        _ => Ok(()),
    }
}

/// Does one write whose condition holds, as revision `revision`.
fn one(
    db: &Connection,
    revision: u64,
    write: &Write,
    previous: Option<Entry>,
) -> Result<Logged, StoreError> {
    let error = |error: rusqlite::Error| StoreError::from_sqlite("written", &error);
    let key = &write.key;
    let columns = (
        key.mesh.as_str(),
        &*key.resource,
        &*key.namespace,
        &*key.name,
    );
    let created = previous.as_ref().map_or(revision, |entry| entry.created);
    let change = match (&write.value, &previous) {
        (Some(value), _) => {
            db.prepare_cached("INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")
                .and_then(|mut statement| {
                    statement.execute((
                        columns.0,
                        columns.1,
                        columns.2,
                        columns.3,
                        value,
                        revision.cast_signed(),
                        created.cast_signed(),
                    ))
                })
                .map_err(error)?;
            Change::Put(Entry {
                key: key.clone(),
                value: value.as_slice().into(),
                revision,
                created,
            })
        }
        (None, Some(entry)) => {
            db.prepare_cached(
                "DELETE FROM entries WHERE mesh = ?1 AND resource = ?2 AND namespace = ?3 AND name = ?4",
            )
            .and_then(|mut statement| statement.execute(columns))
            .map_err(error)?;
            Change::Delete {
                key: key.clone(),
                revision,
                last: Arc::clone(&entry.value),
            }
        }
        (None, None) => return Err(StoreError::NotFound { key: key.clone() }),
    };
    db.prepare_cached("INSERT INTO changes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")
        .and_then(|mut statement| {
            statement.execute((
                revision.cast_signed(),
                columns.0,
                columns.1,
                columns.2,
                columns.3,
                write.value.is_none(),
                created.cast_signed(),
                previous.as_ref().map(|entry| &*entry.value),
                previous
                    .as_ref()
                    .map_or(0, |entry| entry.revision.cast_signed()),
            ))
        })
        .map_err(error)?;
    Ok(Logged { change, previous })
}
