//! The bounded change log, in memory, shared by all watchers.
//!
//! A watcher is a position in it, not a queue: a slow one costs nothing and, once the log has moved past it, is
//! cut with [`StoreError::Lagged`].
//! Invariant: the revisions in the log are contiguous and end at the published head.

use std::{
    collections::VecDeque,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use crate::{Change, Entry, StoreError};

/// A change with what was there before.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub(crate) change: Change,
    pub(crate) previous: Option<Entry>,
}

impl Logged {
    /// What it counts against the ceiling on bytes.
    fn bytes(&self) -> usize {
        let value = match &self.change {
            Change::Put(entry) => entry.value.len(),
            Change::Delete { .. } => 0, // its last value is the previous one
        };
        let key = self.change.key();
        let key = key.resource.len() + key.namespace.len() + key.name.len();
        value + key + self.previous.as_ref().map_or(0, |entry| entry.value.len())
    }
}

#[derive(Debug, Default)]
struct Changes {
    list: VecDeque<Logged>,
    bytes: usize,
    /// The revision before the first in the list.
    oldest: u64,
}

/// The log; one writer, any number of watchers.
#[derive(Debug)]
pub(crate) struct Log {
    changes: RwLock<Changes>,
    head: watch::Sender<u64>,
    /// The head that the transaction now being committed will have: a reader of the file may see it a moment
    /// before it is published here.
    pending: AtomicU64,
    closed: AtomicBool,
    max_changes: usize,
    max_bytes: usize,
    pub(crate) lagged: AtomicU64,
    pub(crate) compacted: AtomicU64,
}

impl Changes {
    fn push(&mut self, mut logged: Logged) {
        if let Some(previous) = &mut logged.previous
            && let Some(same) = self.put_at(previous.revision)
            && same == previous
        {
            // Both were read or written for themselves: what is in the log already is not held twice.
            *previous = same.clone();
        }
        self.bytes += logged.bytes();
        self.list.push_back(logged);
    }

    /// What a revision wrote, as long as it is in the log.
    fn put_at(&self, revision: u64) -> Option<&Entry> {
        let place = revision.checked_sub(self.oldest)?.checked_sub(1)?;
        match &self.list.get(usize::try_from(place).ok()?)?.change {
            Change::Put(entry) => Some(entry),
            Change::Delete { .. } => None,
        }
    }
}

impl Log {
    /// A log that ends at `head` and holds `list`, whose revisions are contiguous.
    pub(crate) fn new(head: u64, list: VecDeque<Logged>, max: (usize, usize)) -> Self {
        let changes = Changes {
            oldest: head - list.len() as u64,
            ..Changes::default()
        };
        let log = Self {
            changes: RwLock::new(changes),
            head: watch::Sender::new(head),
            pending: AtomicU64::new(head),
            closed: AtomicBool::new(false),
            max_changes: max.0,
            max_bytes: max.1,
            lagged: AtomicU64::new(0),
            compacted: AtomicU64::new(0),
        };
        log.append(list);
        log
    }

    /// The revision of the last published change.
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// The earliest revision that can be watched from.
    pub(crate) fn oldest(&self) -> u64 {
        self.read().oldest
    }

    /// Says which head is about to be committed; after a failure, the old one again.
    pub(crate) fn set_pending(&self, head: u64) {
        self.pending.store(head, Ordering::SeqCst);
    }

    /// Publishes what was committed.
    pub(crate) fn append(&self, list: impl IntoIterator<Item = Logged>) {
        let head = {
            let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
            list.into_iter().for_each(|logged| changes.push(logged));
            while changes.list.len() > self.max_changes || changes.bytes > self.max_bytes {
                let Some(first) = changes.list.pop_front() else {
                    break;
                };
                changes.bytes -= first.bytes();
                changes.oldest += 1;
            }
            changes.oldest + changes.list.len() as u64
        };
        self.head.send_if_modified(|current| {
            let newer = head > *current;
            *current = head;
            newer
        });
    }

    /// Ends every watch: nothing will follow.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.head.send_modify(|_| ());
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Changes> {
        self.changes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watch of what comes after `from`.
    pub(crate) fn watch(self: &Arc<Self>, from: u64) -> Result<Watch, StoreError> {
        let wake = self.head.subscribe();
        let oldest = self.oldest();
        if from < oldest || from > self.head().max(self.pending.load(Ordering::SeqCst)) {
            self.compacted.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::Compacted { from, oldest });
        }
        Ok(Watch {
            log: Arc::clone(self),
            wake,
            seen: from,
        })
    }

    /// The change that follows `seen`, if there is one.
    fn after(&self, seen: u64) -> Result<Option<Logged>, StoreError> {
        let changes = self.read();
        let Some(index) = seen.checked_sub(changes.oldest) else {
            self.lagged.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::Lagged {
                seen,
                oldest: changes.oldest,
            });
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        Ok(changes.list.get(index).cloned())
    }
}

/// Changes in revision order, from a position in the log.
#[derive(Debug)]
pub struct Watch {
    log: Arc<Log>,
    wake: watch::Receiver<u64>,
    seen: u64,
}

impl Watch {
    /// The next change; waits for it. May be dropped while waiting and called again.
    ///
    /// # Errors
    /// [`StoreError::Lagged`] when the log has moved past this watch: list again.
    pub async fn next(&mut self) -> Result<Change, StoreError> {
        self.next_with_previous().await.map(|(change, _)| change)
    }

    /// As [`Watch::next`], with the entry that was there before the change.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn next_with_previous(&mut self) -> Result<(Change, Option<Entry>), StoreError> {
        loop {
            // Marked as seen before the log is read, so that what is published in between wakes us.
            self.wake.borrow_and_update();
            if let Some(next) = self.try_next_with_previous()? {
                return Ok(next);
            }
            if self.log.closed.load(Ordering::SeqCst) {
                return Err(StoreError::Closed);
            }
            self.wake.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }

    /// The next change, if there is one already.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub fn try_next(&mut self) -> Result<Option<Change>, StoreError> {
        Ok(self.try_next_with_previous()?.map(|(change, _)| change))
    }

    /// As [`Watch::try_next`], with the entry that was there before the change.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub fn try_next_with_previous(
        &mut self,
    ) -> Result<Option<(Change, Option<Entry>)>, StoreError> {
        let Some(Logged { change, previous }) = self.log.after(self.seen)? else {
            return Ok(None);
        };
        self.seen = change.revision();
        Ok(Some((change, previous)))
    }

    /// The last revision this watch has told, or began at: where another may resume.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.seen
    }
}
