//! The store on a disk that can be slow, full or broken, and that loses its machine between a commit and its answer.
//!
//! Beneath it is the real store on a file. Invariant: what is refused was not written.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use leno_store::{Around, Commit, Options, SqliteStore, Store, StoreError, Write};
use tokio::sync::Notify;

use crate::dice::Dice;

/// How the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Well,
    /// Each transaction waits for so many milliseconds at most.
    Slow(u64),
    Full,
    Broken,
    /// Each transaction is refused or done by the throw.
    Flaky,
    /// The machine is lost at the next transaction: before it is done, or after and before it is answered.
    Fatal {
        after: bool,
    },
}

/// What the disk does next; outlives the control planes that use it.
pub(crate) struct Weather {
    now: Mutex<(State, Dice)>,
    /// The machine is lost.
    pub(crate) lost: Notify,
}

impl Weather {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Mutex::new((State::Well, Dice::new(seed))),
            lost: Notify::new(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, (State, Dice)> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, state: State) {
        self.locked().0 = state;
    }
}

/// The disk with its store.
pub(crate) struct Disk {
    store: Arc<SqliteStore>,
    weather: Arc<Weather>,
}

/// Changes that watchers may be behind: few, so that they are cut off now and then.
const LOG: usize = 64;

impl Disk {
    pub(crate) fn open(path: &Path, weather: Arc<Weather>) -> Result<Self, StoreError> {
        let options = Options {
            max_changes: LOG,
            ..Options::default()
        };
        let store = Arc::new(SqliteStore::open_without_thread(path, options)?);
        Ok(Self { store, weather })
    }
}

impl Around for Disk {
    fn store(&self) -> &SqliteStore {
        &self.store
    }

    fn commit(&self, writes: Vec<Write>) -> Commit {
        let (store, weather) = (Arc::clone(&self.store), Arc::clone(&self.weather));
        Box::pin(async move {
            if writes.is_empty() {
                return store.commit(writes).await;
            }
            let (before, after) = {
                let (state, dice) = &mut *weather.locked();
                match state {
                    State::Slow(ms) => (dice.ms(*ms), dice.ms(*ms)),
                    _ => (dice.ms(4), dice.ms(4)),
                }
            };
            tokio::time::sleep(before).await;
            let (state, refused) = {
                let (state, dice) = &mut *weather.locked();
                (*state, dice.percent(50))
            };
            let broken = || StoreError::Io {
                doing: "written",
                detail: "disk I/O error".into(),
            };
            match state {
                State::Full => return Err(StoreError::Full),
                State::Broken => return Err(broken()),
                State::Flaky if refused => return Err(broken()),
                State::Fatal { after: false } => lose(&weather).await,
                State::Well | State::Slow(_) | State::Flaky | State::Fatal { after: true } => {}
            }
            let outcome = store.commit(writes).await;
            drop(store);
            if state == (State::Fatal { after: true }) {
                lose(&weather).await;
            }
            tokio::time::sleep(after).await;
            outcome
        })
    }
}

/// The machine is lost: nothing is answered any more.
async fn lose(weather: &Weather) {
    weather.set(State::Well);
    weather.lost.notify_one();
    tokio::time::sleep(Duration::from_secs(3600)).await;
}
