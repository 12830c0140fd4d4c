//! Turns: long work is done in pieces, one at a time, and between two pieces everybody else is served.
//!
//! Owns whose piece is next: each mesh in its turn, in it each of its callers, and of a caller's requests that wait the
//! one that came first: two of them go on, and the others hold nothing yet. Whatever is short takes no turn, and waits for one piece at most.
//! Invariant: between two pieces the runtime has looked at its sockets, and run whatever else was ready. Nobody keeps a
//! turn while it waits for something: a turn is what is done until the next `await`.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use leno_types::DnsLabel;
use tokio::sync::oneshot;

use crate::Counters;

/// Objects of one piece.
const OBJECTS: usize = 32;
/// Bytes after which a piece is enough, however few objects they are.
pub(crate) const BYTES: usize = 64 << 10;

/// Everybody who waits for a turn.
#[derive(Debug)]
pub(crate) struct Turns {
    state: Mutex<State>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    /// Whose turn is about to begin.
    next: Option<u64>,
    waiting: BTreeMap<DnsLabel, BTreeMap<String, Requests>>,
    /// The mesh that had a turn last, and in each that waits the caller.
    last: Option<DnsLabel>,
    last_callers: HashMap<DnsLabel, String>,
    tickets: u64,
}

/// Those of one caller by their age.
type Requests = BTreeMap<u64, oneshot::Sender<()>>;

/// One request's place in the line.
#[derive(Debug)]
pub(crate) struct Line {
    turns: Arc<Turns>,
    mesh: DnsLabel,
    caller: String,
    ticket: u64,
    objects: usize,
    bytes: usize,
}

/// Waits for its turn; gives it on when it begins, and when nobody waits for it any more.
struct Waiting<'a>(&'a Line);

impl Turns {
    pub(crate) fn new(counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            counters,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a request that may be long, behind those that are there.
    pub(crate) fn line(self: &Arc<Self>, mesh: &DnsLabel, caller: &str) -> Line {
        let mut state = self.state();
        state.tickets += 1;
        Line {
            turns: Arc::clone(self),
            mesh: mesh.clone(),
            caller: caller.to_owned(),
            ticket: state.tickets,
            objects: 0,
            bytes: 0,
        }
    }
}

impl Line {
    /// Ready when it is this request's turn, which lasts until whoever awaits this awaits something else. May be dropped
    /// while waiting.
    pub(crate) async fn turn(&mut self) {
        (self.objects, self.bytes) = (0, 0);
        let (told, turn) = oneshot::channel();
        let waiting = Waiting(self);
        {
            let mut state = self.turns.state();
            let callers = state.waiting.entry(self.mesh.clone()).or_default();
            let requests = callers.entry(self.caller.clone()).or_default();
            requests.insert(self.ticket, told);
            if state.next.is_none() {
                state.choose();
            }
        }
        // The sender is in the line until it is chosen, and nobody takes it out but ourselves.
        let _chosen = turn.await;
        // To the end of the runtime's round: whatever else is ready, on sockets too, is done before.
        tokio::task::yield_now().await;
        self.turns.counters.turns.fetch_add(1, Ordering::Relaxed);
        drop(waiting);
    }

    /// Goes behind the others of its caller: what it does from now on is as new as theirs.
    pub(crate) fn anew(&mut self) {
        let mut state = self.turns.state();
        state.tickets += 1;
        self.ticket = state.tickets;
    }

    /// Notes that one more object is done, of so many bytes; waits for another turn when that was enough for one.
    pub(crate) async fn worked(&mut self, bytes: usize) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.objects >= OBJECTS || self.bytes >= BYTES {
            self.turn().await;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Line {
            turns,
            mesh,
            caller,
            ticket,
            ..
        } = self.0;
        let mut state = turns.state();
        if state.next == Some(*ticket) {
            state.choose();
            return;
        }
        if let Some(callers) = state.waiting.get_mut(mesh)
            && let Some(requests) = callers.get_mut(caller)
        {
            requests.remove(ticket);
            state.forget_empty(mesh, caller);
        }
    }
}

impl State {
    /// Chooses who is next: the mesh after the one that was last, the caller after its last, the request that came first.
    fn choose(&mut self) {
        self.next = None;
        let Some(mesh) = following(&self.waiting, self.last.as_ref()).cloned() else {
            self.last = None;
            return;
        };
        let Some(callers) = self.waiting.get_mut(&mesh) else {
            return;
        };
        let last = self.last_callers.get(&mesh);
        let Some(caller) = following(callers, last).cloned() else {
            return;
        };
        let first = callers.get_mut(&caller).and_then(BTreeMap::pop_first);
        self.last_callers.insert(mesh.clone(), caller.clone());
        self.forget_empty(&mesh, &caller);
        self.last = Some(mesh);
        if let Some((ticket, told)) = first {
            self.next = Some(ticket);
            // Whoever has left meanwhile says so when it is dropped.
            let _left = told.send(());
        }
    }

    fn forget_empty(&mut self, mesh: &DnsLabel, caller: &str) {
        let Some(callers) = self.waiting.get_mut(mesh) else {
            return;
        };
        if callers.get(caller).is_some_and(BTreeMap::is_empty) {
            callers.remove(caller);
        }
        if callers.is_empty() {
            self.waiting.remove(mesh);
        }
        if self.waiting.is_empty() {
            self.last_callers.clear();
        }
    }
}

/// The key after this one, or the first.
fn following<'m, K: Ord, V>(map: &'m BTreeMap<K, V>, last: Option<&K>) -> Option<&'m K> {
    let after = last.and_then(|last| {
        let range = (Bound::Excluded(last), Bound::Unbounded);
        map.range(range).next()
    });
    after.or_else(|| map.iter().next()).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_goes_on_for_long_goes_behind_what_waits_already() {
        let (turns, mesh) = (Turns::new(Arc::default()), "shop".parse().unwrap());
        let mut now = turns.line(&mesh, "ada");
        let mut old = turns.line(&mesh, "ada");
        let mut new = turns.line(&mesh, "ada");
        old.anew();
        let mut now = Box::pin(now.turn());
        assert!(now.as_mut().now_or_never().is_none(), "it is its turn");
        let mut old = Box::pin(old.turn());
        let mut new = Box::pin(new.turn());
        assert!(old.as_mut().now_or_never().is_none());
        assert!(new.as_mut().now_or_never().is_none());
        now.await;
        new.await;
        assert_eq!(turns.counters.turns.load(Ordering::Relaxed), 2);
        old.await;
    }
}
