//! Under how many names each caller is told apart in metrics.
//!
//! A peer proves its identity and says its workload, version and service. Invariant: what one identity says makes at
//! most so many edges, so that it cannot use up those of everybody else.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
};

use leno_telemetry::counters::Limit;
use leno_types::Identity;

use crate::counters::limit;

/// Identities told apart; those of a mesh are as many as its service accounts.
const IDENTITIES: usize = 4_096;

/// The names of every caller.
#[derive(Default)]
pub(crate) struct Callers {
    /// Names by their hash: with a key of this process, so that no two can be made to be the same.
    known: RefCell<HashMap<Identity, HashSet<u64>>>,
    hasher: RandomState,
}

impl Callers {
    /// Whether this caller may be shown under this name: one more than `ceiling` is not.
    pub(crate) fn has_room(&self, identity: &Identity, name: &[u8], ceiling: usize) -> bool {
        let name = self.hasher.hash_one(name);
        let mut known = self.known.borrow_mut();
        if !known.contains_key(identity) && known.len() < IDENTITIES {
            known.insert(identity.clone(), HashSet::new());
        }
        let room = known.get_mut(identity).is_some_and(|names| {
            names.contains(&name) || (names.len() < ceiling && names.insert(name))
        });
        if !room {
            limit(Limit::CallerNames);
        }
        room
    }
}
