//! Connections to one port of a program that wait for their next use, by the address they speak from.
//!
//! Where callers' addresses are preserved a connection is of one of them. Invariant: none made for one caller's address
//! is used for another's. Who calls may have many addresses, or choose them: so many lanes are kept and no more, and the
//! one that was not used for longest makes room. Nobody is refused for it: who is admitted is decided by the port's
//! places, and a caller without a lane that is kept has one for that exchange alone.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use leno_http::client;
use tokio::sync::Notify;

use super::Dialled;

/// The lanes of one port.
#[derive(Default)]
pub(super) struct Lanes {
    /// From the proxy's own address.
    own: Rc<Lane>,
    of_callers: RefCell<HashMap<IpAddr, Rc<Lane>>>,
    /// How many connections wait, over all lanes: asked for each request, so it is never counted then.
    idle: Rc<Cell<usize>>,
}

/// Connections from one address. Whoever uses one holds its lane.
#[derive(Default)]
pub(crate) struct Lane {
    idle: RefCell<Vec<Idle>>,
    pub(super) shared: RefCell<Vec<client::H2>>,
    pub(super) connecting: Cell<bool>,
    pub(super) connected: Notify,
    used: Cell<Option<Instant>>,
}

/// A connection that waits, and since when.
struct Idle {
    h1: client::H1,
    dialled: Dialled,
    since: Instant,
    _counted: Counted,
}

/// One of those that wait, while it lives.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(all: &Rc<Cell<usize>>) -> Self {
        all.set(all.get() + 1);
        Self(Rc::clone(all))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Lanes {
    /// The lane from an address, the proxy's own without one; and whether the ceiling was met: another made room, or,
    /// where all are in use, this one is not kept.
    pub(super) fn lane(
        &self,
        source: Option<IpAddr>,
        ceiling: usize,
        now: Instant,
    ) -> (Rc<Lane>, bool) {
        let Some(source) = source else {
            return (Rc::clone(&self.own), false);
        };
        let mut lanes = self.of_callers.borrow_mut();
        let mut full = false;
        if !lanes.contains_key(&source) && lanes.len() >= ceiling {
            let unused = lanes.iter().filter(|(_, lane)| lane.is_unused());
            let Some(oldest) = unused.min_by_key(|(_, lane)| lane.used.get()) else {
                return (Rc::default(), true);
            };
            let oldest = *oldest.0;
            if let Some(lane) = lanes.remove(&oldest) {
                lane.close();
            }
            full = true;
        }
        let lane = Rc::clone(lanes.entry(source).or_default());
        lane.used.set(Some(now));
        (lane, full)
    }

    /// Keeps a connection of a lane for its next exchange, unless so many wait already.
    pub(super) fn keep(&self, lane: &Lane, h1: client::H1, dialled: Dialled, ceiling: usize) {
        if self.idle.get() >= ceiling {
            return;
        }
        let since = Instant::now();
        lane.used.set(Some(since));
        lane.idle.borrow_mut().push(Idle {
            h1,
            dialled,
            since,
            _counted: Counted::new(&self.idle),
        });
    }

    /// Closes everything that waits.
    pub(super) fn close(&self) {
        self.own.close();
        for lane in self.of_callers.borrow().values() {
            lane.close();
        }
    }

    /// Closes what was not used for so long.
    pub(super) fn sweep(&self, limit: Duration, now: Instant) {
        self.own.sweep(limit, now);
        self.of_callers.borrow_mut().retain(|_, lane| {
            lane.sweep(limit, now);
            let used = lane.used.get().unwrap_or(now);
            let keep = !lane.is_unused() || now.saturating_duration_since(used) < limit;
            if !keep {
                lane.close();
            }
            keep
        });
    }
}

impl Lane {
    /// Whether nobody but the table of lanes has it.
    fn is_unused(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) == 1
    }

    fn close(&self) {
        self.idle.borrow_mut().clear();
        for h2 in self.shared.borrow_mut().drain(..) {
            h2.close_gracefully();
        }
    }

    fn sweep(&self, limit: Duration, now: Instant) {
        self.idle
            .borrow_mut()
            .retain(|idle| now.saturating_duration_since(idle.since) < limit);
        self.shared.borrow_mut().retain(|h2| !h2.is_closing());
    }

    /// A connection that waits.
    pub(super) fn reuse(&self) -> Option<(client::H1, Dialled)> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { h1, dialled, .. }) = idle.pop() {
            if h1.is_reusable() {
                return Some((h1, dialled));
            }
        }
        None
    }

    /// An HTTP/2 connection with room for one more stream.
    pub(super) fn usable(&self) -> Option<client::H2> {
        let shared = self.shared.borrow();
        shared.iter().find(|h2| h2.has_capacity()).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_waits_is_counted_until_it_is_dropped() {
        let all = Rc::default();
        let waiting: Vec<Counted> = (0..3).map(|_| Counted::new(&all)).collect();
        assert_eq!(all.get(), 3);
        drop(waiting);
        assert_eq!(all.get(), 0);
    }

    #[test]
    fn the_lane_not_used_for_longest_makes_room_and_one_in_use_never_does() {
        let lanes = Lanes::default();
        let begun = Instant::now();
        let at = |second| begun + Duration::from_secs(second);
        let of = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        let lane = |source, now| lanes.lane(source, 2, now);
        let (first, _) = lane(of(1), at(0));
        drop(lane(of(2), at(1)));
        assert!(Rc::ptr_eq(&first, &lane(of(1), at(2)).0));
        // The second one goes, though the first is as old: somebody is at that.
        let (third, full) = lane(of(3), at(3));
        assert!(full);
        let kept = || {
            let mut last: Vec<u8> = Vec::new();
            last.extend(
                (1..5).filter(|last| lanes.of_callers.borrow().contains_key(&of(*last).unwrap())),
            );
            last
        };
        assert_eq!(kept(), [1, 3]);
        // Both are in use: whoever comes next is served all the same.
        let (fourth, full) = lane(of(4), at(4));
        assert!(full && kept() == [1, 3]);
        let (other, _) = lane(of(4), at(4));
        assert!(!Rc::ptr_eq(&fourth, &other), "for one exchange alone");
        assert!(!lane(None, at(4)).1, "the proxy's own is none of them");
        drop((first, other));
        let (fourth, full) = lane(of(4), at(5));
        assert!(full && kept() == [3, 4]);
        drop((third, fourth));
        lanes.sweep(Duration::from_secs(30), at(40));
        assert!(lanes.of_callers.borrow().is_empty());
    }
}
