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
}

/// Connections from one address. Whoever uses one holds its lane.
#[derive(Default)]
pub(crate) struct Lane {
    idle: RefCell<Vec<(client::H1, Dialled, Instant)>>,
    pub(super) shared: RefCell<Vec<client::H2>>,
    pub(super) connecting: Cell<bool>,
    pub(super) connected: Notify,
    used: Cell<Option<Instant>>,
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

    /// How many connections wait, over all lanes.
    pub(super) fn idle(&self) -> usize {
        let of_callers = self.of_callers.borrow();
        let idle = |lane: &Rc<Lane>| lane.idle.borrow().len();
        of_callers.values().map(idle).sum::<usize>() + idle(&self.own)
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
            .retain(|(_, _, since)| now.saturating_duration_since(*since) < limit);
        self.shared.borrow_mut().retain(|h2| !h2.is_closing());
    }

    /// A connection that waits.
    pub(super) fn reuse(&self) -> Option<(client::H1, Dialled)> {
        let mut idle = self.idle.borrow_mut();
        while let Some((h1, dialled, _)) = idle.pop() {
            if h1.is_reusable() {
                return Some((h1, dialled));
            }
        }
        None
    }

    /// Keeps a connection for the next exchange.
    pub(super) fn keep(&self, h1: client::H1, dialled: Dialled, now: Instant) {
        self.used.set(Some(now));
        self.idle.borrow_mut().push((h1, dialled, now));
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
