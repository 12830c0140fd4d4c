//! The watches that are open: how many there may be, and which of them nobody reads.
//!
//! A watch is asked for its next event only when its caller has taken the last one, so a caller that stops reading
//! costs no more memory. It still has a place; when places are wanted, those who have not read for [`STALLED`] lose
//! theirs, and their watch ends when they read again.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

use leno_types::DnsLabel;
use tokio::time::{Duration, Instant};

use crate::{
    Counters,
    shares::{Full, Place, Share, Shares},
};

/// A caller that has not taken an event for so long may lose its watch to another.
pub(crate) const STALLED: Duration = Duration::from_secs(30);

/// Every open watch.
pub(crate) struct Watchers {
    shares: Arc<Shares>,
    counters: Arc<Counters>,
    open: Mutex<Vec<Weak<Watcher>>>,
}

/// One open watch.
pub(crate) struct Watcher {
    place: Mutex<Option<Place>>,
    /// Since when an event waits to be taken.
    waits: Mutex<Option<Instant>>,
    ended: AtomicBool,
    counters: Arc<Counters>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchers {
    pub(crate) fn new(share: Share, counters: Arc<Counters>) -> Self {
        Self {
            shares: Shares::new(share),
            counters,
            open: Mutex::default(),
        }
    }

    /// Takes a place for a watch; one that nobody reads makes room.
    pub(crate) fn open(&self, mesh: &DnsLabel, caller: &str) -> Result<Arc<Watcher>, Full> {
        let place = self.shares.take(mesh, caller).or_else(|full| {
            self.end_stalled(Instant::now());
            self.shares.take(mesh, caller).map_err(|_| full)
        });
        let place = place.inspect_err(|_| {
            let exceeded = &self.counters.watches_exceeded;
            exceeded.fetch_add(1, Ordering::Relaxed);
        })?;
        self.counters.watches.fetch_add(1, Ordering::Relaxed);
        let watcher = Arc::new(Watcher {
            place: Mutex::new(Some(place)),
            waits: Mutex::new(None),
            ended: AtomicBool::new(false),
            counters: Arc::clone(&self.counters),
        });
        let mut open = locked(&self.open);
        // Those that have ended make room here whenever the list would grow.
        if open.len() == open.capacity() {
            open.retain(|watcher| watcher.strong_count() > 0);
        }
        open.push(Arc::downgrade(&watcher));
        Ok(watcher)
    }

    fn end_stalled(&self, now: Instant) {
        for watcher in locked(&self.open).iter().filter_map(Weak::upgrade) {
            let waits = *locked(&watcher.waits);
            let is_stalled = waits.is_some_and(|since| now.duration_since(since) >= STALLED);
            if is_stalled && locked(&watcher.place).take().is_some() {
                watcher.ended.store(true, Ordering::Relaxed);
                let stalled = &self.counters.watches_stalled;
                stalled.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Watcher {
    /// An event waits to be taken from now on.
    pub(crate) fn waits(&self) {
        *locked(&self.waits) = Some(Instant::now());
    }

    /// It was taken.
    pub(crate) fn taken(&self) {
        *locked(&self.waits) = None;
    }

    /// Whether another watch has its place.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.counters.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_watch_that_nobody_reads_makes_room_for_one_that_somebody_does() {
        let share = Share {
            all: 2,
            mesh: 2,
            caller: 2,
        };
        let counters = Arc::new(Counters::default());
        let watchers = Watchers::new(share, Arc::clone(&counters));
        let mesh = "default".parse().unwrap();
        let read = watchers.open(&mesh, "a").unwrap();
        let unread = watchers.open(&mesh, "a").unwrap();
        read.waits();
        read.taken();
        unread.waits();
        assert!(watchers.open(&mesh, "a").is_err(), "not yet");
        watchers.end_stalled(Instant::now() + STALLED);
        assert!(unread.is_ended() && !read.is_ended());
        let _new = watchers.open(&mesh, "a").unwrap();
        assert_eq!(counters.watches_stalled.load(Ordering::Relaxed), 1);
        assert_eq!(counters.watches_exceeded.load(Ordering::Relaxed), 1);
    }
}
