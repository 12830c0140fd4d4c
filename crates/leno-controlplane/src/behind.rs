//! What the state has written down and nobody waits for: virtual addresses, remembered services, agents' upkeep.
//!
//! Owns what is not on disk yet: of each key its newest write, so there are never more than keys. One batch is under way
//! at a time, so that no older write comes after a newer one. Refuses to give up: what a full or failing disk did not
//! take is tried again until it does.
//! Invariant: a write is on disk in the end, or a newer one of its key is, or somebody else has changed that key.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use leno_store::{Expect, Key, Store, StoreError, Write};
use leno_types::MeshName;

/// What failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(2);

/// The writes that are not on disk yet.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    waiting: BTreeMap<Key, Write>,
    /// Whether a batch is under way.
    busy: bool,
    /// When what failed is tried again.
    again: Option<Duration>,
}

/// What the store did not take of a batch.
#[derive(Debug, Default)]
pub(crate) struct Left {
    writes: Vec<Write>,
    error: Option<StoreError>,
}

impl Behind {
    /// More to write; of a key the newest.
    pub(crate) fn add(&mut self, writes: impl IntoIterator<Item = Write>) {
        let keyed = writes.into_iter().map(|write| (write.key.clone(), write));
        self.waiting.extend(keyed);
    }

    /// Nothing of a mesh is to be written any more.
    pub(crate) fn forget(&mut self, mesh: &MeshName) {
        self.waiting.retain(|key, _| key.mesh != *mesh);
    }

    /// The batch to be written now, if any; [`Behind::done`] must follow.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<Vec<Write>> {
        let early = self.again.is_some_and(|again| now < again);
        if self.busy || early || self.waiting.is_empty() {
            return None;
        }
        self.busy = true;
        Some(self.rest())
    }

    /// Everything that is not under way.
    pub(crate) fn rest(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    /// A batch came out; what is left of it is tried again, unless a newer write of its key waits.
    pub(crate) fn done(&mut self, left: Left, now: Duration) {
        self.busy = false;
        let failed_before = self.again.take().is_some();
        if let Some(error) = left.error {
            if !failed_before {
                tracing::error!(%error, writes = left.writes.len(), "virtual addresses, services or agents are not written down; it is tried again until they are");
            }
            self.again = Some(now.saturating_add(AGAIN));
        } else if failed_before {
            tracing::warn!("what could not be written down is on disk now");
        }
        for write in left.writes {
            self.waiting.entry(write.key.clone()).or_insert(write);
        }
    }
}

/// Writes a batch: what has no condition in one transaction, everything else each by itself, so that one whose condition
/// does not hold takes none with it.
pub(crate) async fn write(store: &dyn Store, batch: Vec<Write>) -> Left {
    let is_plain = |write: &Write| write.expect == Expect::Any && write.value.is_some();
    let (plain, conditional): (Vec<Write>, Vec<Write>) = batch.into_iter().partition(is_plain);
    let transactions = std::iter::once(plain).chain(conditional.into_iter().map(|of| vec![of]));
    let commits = transactions.map(|writes| async {
        let outcome = store.commit(writes.clone()).await;
        (writes, outcome)
    });
    let mut left = Left::default();
    for (writes, outcome) in join_all(commits).await {
        match outcome {
            // The end of the store is the end of this process.
            Ok(_) | Err(StoreError::Closed) => {}
            Err(
                error @ (StoreError::Conflict { .. }
                | StoreError::Exists { .. }
                | StoreError::NotFound { .. }),
            ) => tracing::debug!(%error, "somebody else was faster"),
            Err(error) => {
                left.writes.extend(writes);
                left.error = Some(error);
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Mutex;

    use leno_store::{Commit, Entry, Watch};
    use leno_types::DnsLabel;

    use super::*;

    /// A disk that is full as long as it is said to be.
    #[derive(Default)]
    struct Disk {
        full: Mutex<bool>,
        written: Mutex<Vec<String>>,
    }

    impl Store for Disk {
        fn commit(&self, writes: Vec<Write>) -> Commit {
            let conflict = writes
                .iter()
                .find(|write| write.expect == Expect::Revision(1));
            let outcome = match conflict {
                Some(write) => Err(StoreError::NotFound {
                    key: write.key.clone(),
                }),
                None if *self.full.lock().unwrap() && !writes.is_empty() => Err(StoreError::Full),
                None => Ok(1),
            };
            if outcome.is_ok() {
                let shown = |write: &Write| {
                    let value = write.value.clone().unwrap_or_else(|| b"gone".to_vec());
                    format!("{}={}", write.key.name, String::from_utf8(value).unwrap())
                };
                let mut written = self.written.lock().unwrap();
                written.extend(writes.iter().map(shown));
            }
            Box::pin(std::future::ready(outcome))
        }

        fn get(&self, _: &Key) -> Result<Option<Entry>, StoreError> {
            unreachable!("nothing is read")
        }

        fn list(
            &self,
            _: &DnsLabel,
            _: &str,
            _: Option<&str>,
        ) -> Result<(Vec<Entry>, u64), StoreError> {
            unreachable!("nothing is read")
        }

        fn meshes(&self) -> Result<Vec<DnsLabel>, StoreError> {
            unreachable!("nothing is read")
        }

        fn collections(&self, _: &DnsLabel) -> Result<Vec<std::sync::Arc<str>>, StoreError> {
            unreachable!("nothing is read")
        }

        fn watch(&self, _: u64) -> Result<Watch, StoreError> {
            unreachable!("nothing is read")
        }

        fn revision(&self) -> u64 {
            unreachable!("nothing is read")
        }

        fn incarnation(&self) -> u128 {
            unreachable!("nothing is read")
        }
    }

    fn key(name: &str) -> Key {
        Key::new("default".parse().unwrap(), "leno/vips", "shop", name)
    }

    fn put(name: &str, value: &str) -> Write {
        Write::put(key(name), value.into(), Expect::Any)
    }

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn what_a_full_disk_did_not_take_is_written_when_it_has_room() {
        let (disk, mut behind) = (Disk::default(), Behind::default());
        *disk.full.lock().unwrap() = true;
        behind.add([put("a", "1"), put("b", "1")]);
        let batch = behind.begin(Duration::ZERO).unwrap();
        // Newer than what is under way, and it waits for that.
        behind.add([put("b", "2")]);
        assert!(behind.begin(Duration::ZERO).is_none());
        behind.done(write(&disk, batch).await, Duration::ZERO);
        assert!(behind.begin(SOON).is_none(), "not at once again");
        *disk.full.lock().unwrap() = false;
        let batch = behind.begin(AGAIN).unwrap();
        behind.done(write(&disk, batch).await, AGAIN);
        assert_eq!(*disk.written.lock().unwrap(), ["a=1", "b=2"]);
        assert!(behind.begin(AGAIN).is_none(), "nothing is left");
    }

    #[tokio::test]
    async fn a_write_whose_condition_does_not_hold_is_given_up_and_takes_none_with_it() {
        let (disk, mut behind) = (Disk::default(), Behind::default());
        let late = Write::put(key("late"), b"1".to_vec(), Expect::Revision(1));
        behind.add([put("a", "1"), late, Write::delete(key("c"), Expect::Any)]);
        let batch = behind.begin(SOON).unwrap();
        behind.done(write(&disk, batch).await, SOON);
        assert_eq!(*disk.written.lock().unwrap(), ["a=1", "c=gone"]);
        assert!(behind.begin(SOON).is_none());
    }
}
