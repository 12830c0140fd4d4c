//! Who may come without proving who they are: so many at a time, and the oldest makes room, so that nobody waits behind
//! who is only there.
//!
//! Owns who is there and since when. Never ends anybody: who has to go is told, by a stop of their own.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::Stop;

/// Those who are there, up to a ceiling. Clones are the same.
#[derive(Clone)]
pub struct Guests {
    ceiling: usize,
    open: Rc<RefCell<VecDeque<(u64, Stop)>>>,
    next: Rc<Cell<u64>>,
    ended: Arc<AtomicU64>,
}

/// One's place; free again when it is dropped.
pub struct Guest {
    of: Guests,
    number: u64,
    leave: Stop,
}

impl Guests {
    /// So many at a time; `ended` counts those who had to make room.
    #[must_use]
    pub fn new(ceiling: usize, ended: Arc<AtomicU64>) -> Self {
        Self {
            ceiling: ceiling.max(1),
            open: Rc::default(),
            next: Rc::default(),
            ended,
        }
    }

    /// One more; when there is no room the oldest is told to go.
    #[must_use]
    pub fn enter(&self, stop: &Stop) -> Guest {
        let leave = stop.child();
        let mut open = self.open.borrow_mut();
        if open.len() >= self.ceiling
            && let Some((_, oldest)) = open.pop_front()
        {
            oldest.trigger();
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        open.push_back((number, leave.clone()));
        Guest {
            number,
            of: self.clone(),
            leave,
        }
    }
}

impl Guest {
    /// Told when it has to make room, and when everybody has to leave.
    #[must_use]
    pub fn leave(&self) -> &Stop {
        &self.leave
    }
}

impl Drop for Guest {
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
    fn the_oldest_guest_makes_room_and_who_left_does_not_count() {
        let (guests, stop) = (Guests::new(3, Arc::default()), Stop::new());
        let mut there: Vec<_> = (0..3).map(|_| guests.enter(&stop)).collect();
        drop(there.pop());
        let last = guests.enter(&stop);
        assert!(there.iter().all(|guest| !guest.leave().is_stopping()));
        let one_more = guests.enter(&stop);
        assert!(there[0].leave().is_stopping());
        assert!(!there[1].leave().is_stopping() && !last.leave().is_stopping());
        assert!(!one_more.leave().is_stopping());
        assert_eq!(guests.ended.load(Ordering::Relaxed), 1);
        drop((there, last, one_more));
        assert!(guests.open.borrow().is_empty());
    }
}
