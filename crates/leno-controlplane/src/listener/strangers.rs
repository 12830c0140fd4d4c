//! Who is connected and has not shown a certificate: handshakes, hosts that redeem a token, people who log in.
//!
//! Owns their ceiling. The oldest makes room, so that who is at it does not wait behind who is
//! not. Invariant: connections of agents and people never count here, and are never ended for a stranger.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use leno_runtime::Stop;

/// Connections without a client certificate that may be open at once, handshakes included; the oldest is closed for a
/// new one.
const STRANGERS: usize = 1_024;

/// The open connections of strangers. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Strangers {
    open: Rc<RefCell<VecDeque<(u64, Stop)>>>,
    next: Rc<Cell<u64>>,
    ended: Arc<AtomicU64>,
}

impl Strangers {
    /// One more; when there is no room the oldest is told to go.
    pub(super) fn enter(&self, stop: &Stop) -> Stranger {
        let leave = stop.child();
        let mut open = self.open.borrow_mut();
        if open.len() >= STRANGERS
            && let Some((_, oldest)) = open.pop_front()
        {
            oldest.trigger();
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        open.push_back((number, leave.clone()));
        Stranger {
            number,
            of: self.clone(),
            leave,
        }
    }

    /// How many were ended to make room, for the metrics.
    pub(crate) fn ended(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.ended)
    }
}

/// A stranger's place; dropped when it leaves or has shown who it is.
pub(super) struct Stranger {
    of: Strangers,
    number: u64,
    leave: Stop,
}

impl Stranger {
    /// Told when it has to make room, and when everybody has to leave.
    pub(super) fn leave(&self) -> &Stop {
        &self.leave
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut open = self.of.open.borrow_mut();
        // Those that were told to go are out of the list already.
        if let Ok(at) = open.binary_search_by_key(&self.number, |(number, _)| *number) {
            open.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_stranger_makes_room_and_who_left_does_not_count() {
        let (strangers, stop) = (Strangers::default(), Stop::new());
        let mut there: Vec<_> = (0..STRANGERS).map(|_| strangers.enter(&stop)).collect();
        drop(there.pop());
        let last = strangers.enter(&stop);
        assert!(there.iter().all(|stranger| !stranger.leave().is_stopping()));
        let one_more = strangers.enter(&stop);
        assert!(there[0].leave().is_stopping());
        assert!(!there[1].leave().is_stopping() && !last.leave().is_stopping());
        assert!(!one_more.leave().is_stopping());
        assert_eq!(strangers.ended().load(Ordering::Relaxed), 1);
        drop((there, last, one_more));
        assert!(strangers.open.borrow().is_empty());
    }
}
