//! Refusals that are remembered for people, in shares: who makes many of them makes room among its own.
//!
//! Decides which one is forgotten when there are too many: of the workload that has most of them; there of the caller that
//! has most; there of its kind that has most; the oldest. So a program that is refused a thousand times takes nothing
//! from another's last refusal, nor from what else happened to it, and no trace is wiped out by making noise afterwards.
//!
//! Invariant: at most `most` are kept, and whoever has no more than its part of them (`most` through the number of
//! workloads) loses none.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    rc::Rc,
};

use crate::RefusalRecord;

/// The latest refusals of each.
#[derive(Debug)]
pub struct Remembered {
    most: usize,
    kept: VecDeque<Kept>,
    /// How many there are of each workload, each caller of it, and each kind of that, by their hashes: two that fall
    /// together share what they have, no more.
    counts: HashMap<u64, Count>,
    hasher: RandomState,
}

type Count = Rc<Cell<usize>>;

#[derive(Debug)]
struct Kept {
    refusal: RefusalRecord,
    shares: [(u64, Count); 3],
}

impl Remembered {
    /// At most so many.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            kept: VecDeque::new(),
            counts: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Takes one in; gives the one that is forgotten for it.
    pub fn take(&mut self, refusal: RefusalRecord) -> Option<RefusalRecord> {
        let shares = self.shares(&refusal).map(|hash| {
            let count = Rc::clone(self.counts.entry(hash).or_default());
            count.set(count.get() + 1);
            (hash, count)
        });
        self.kept.push_back(Kept { refusal, shares });
        if self.kept.len() <= self.most {
            return None;
        }
        let of = |kept: &Kept| kept.shares.each_ref().map(|(_, count)| count.get());
        let all = self.kept.iter().enumerate();
        let (at, _) = all.max_by_key(|(at, kept)| (of(kept), Reverse(*at)))?;
        let Kept { refusal, shares } = self.kept.remove(at)?;
        for (hash, count) in shares {
            count.set(count.get() - 1);
            if count.get() == 0 {
                self.counts.remove(&hash);
            }
        }
        Some(refusal)
    }

    /// Of the workload; of the caller, where those who proved nothing are one; of the kind.
    fn shares(&self, of: &RefusalRecord) -> [u64; 3] {
        let workload = (of.workload, of.outbound);
        let caller = (workload, &of.caller);
        let from = of.from.map(|from| from.ip());
        let kind = (caller, from, of.reason, of.destination);
        let hash = &self.hasher;
        [
            hash.hash_one(workload),
            hash.hash_one(caller),
            hash.hash_one(kind),
        ]
    }

    /// All of them, the newest last.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &RefusalRecord> {
        self.kept.iter().map(|kept| &kept.refusal)
    }

    /// Hands all of them over, the newest last.
    pub fn drain(&mut self) -> impl Iterator<Item = RefusalRecord> {
        self.counts.clear();
        self.kept.drain(..).map(|kept| kept.refusal)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::SystemTime;

    use leno_types::{Refusal, WorkloadUid};
    use proptest::prelude::*;

    use super::*;

    /// Who was refused what: workload, caller, reason, port.
    type Who = (u8, u8, bool, u16);

    fn refusal(id: u64, (workload, caller, denied, port): Who) -> RefusalRecord {
        RefusalRecord {
            at: SystemTime::UNIX_EPOCH,
            id,
            reason: if denied {
                Refusal::Denied
            } else {
                Refusal::ClientProtocol
            },
            workload: Some(WorkloadUid::from_bytes([workload; 16])),
            outbound: false,
            caller: Some(format!("spiffe://d/ns/shop/sa/c{caller}").parse().unwrap()),
            destination: Some(([10, 0, 0, 5], port).into()),
            service: None,
            detail: String::new(),
            rule: String::new(),
            from: Some(([10, 0, 0, 9], 40_000).into()),
            by_peer: false,
            config_version: "7".into(),
            chain: Box::default(),
        }
    }

    fn ids(remembered: &Remembered) -> Vec<u64> {
        remembered.all().map(|of| of.id).collect()
    }

    #[test]
    fn a_flood_takes_nothing_from_others_nor_from_what_else_befell_the_same_program() {
        let mut remembered = Remembered::new(8);
        // Another program's, another caller's, another reason's, another port's.
        let others = [
            (2, 1, true, 80),
            (1, 2, true, 80),
            (1, 1, false, 80),
            (1, 1, true, 81),
        ];
        for (id, who) in others.into_iter().enumerate() {
            assert!(remembered.take(refusal(id as u64, who)).is_none());
        }
        let forgotten = (4..600).filter_map(|id| remembered.take(refusal(id, (1, 1, true, 80))));
        let forgotten: Vec<u64> = forgotten.map(|of| of.id).collect();
        assert_eq!(
            forgotten,
            (4..596).collect::<Vec<_>>(),
            "the oldest of its kind"
        );
        assert_eq!(ids(&remembered), [0, 1, 2, 3, 596, 597, 598, 599]);
    }

    #[test]
    fn a_flood_of_many_kinds_takes_from_its_caller_alone() {
        let mut remembered = Remembered::new(8);
        for (id, who) in [(2, 9, true, 80), (1, 2, true, 80), (1, 3, true, 80)]
            .into_iter()
            .enumerate()
        {
            assert!(remembered.take(refusal(id as u64, who)).is_none());
        }
        for id in 3..600_u16 {
            remembered.take(refusal(id.into(), (1, 1, true, id)));
        }
        assert_eq!(ids(&remembered), [0, 1, 2, 595, 596, 597, 598, 599]);
    }

    #[test]
    fn what_was_handed_over_counts_no_more() {
        let mut remembered = Remembered::new(2);
        remembered.take(refusal(1, (1, 1, true, 80)));
        remembered.take(refusal(2, (1, 1, true, 80)));
        assert_eq!(
            remembered.drain().map(|of| of.id).collect::<Vec<_>>(),
            [1, 2]
        );
        for (id, who) in [
            (3, (2, 1, true, 80)),
            (4, (1, 1, true, 80)),
            (5, (1, 1, true, 80)),
        ] {
            remembered.take(refusal(id, who));
        }
        assert_eq!(ids(&remembered), [3, 5]);
        assert_eq!(
            remembered.counts.len(),
            6,
            "nothing is kept of what is not there"
        );
    }

    proptest! {
        #[test]
        fn whoever_has_no_more_than_its_part_loses_none(
            calls in prop::collection::vec((0_u8..4, 0_u8..3, any::<bool>(), 0_u16..3), 1..200),
            most in 4_usize..24,
        ) {
            let mut remembered = Remembered::new(most);
            let mut told: HashMap<u8, Vec<u64>> = HashMap::new();
            for (id, who) in (0..).zip(&calls) {
                remembered.take(refusal(id, *who));
                told.entry(who.0).or_default().push(id);
                let kept = ids(&remembered);
                prop_assert!(kept.len() <= most);
                prop_assert_eq!(kept.last(), Some(&id), "the newest is always there");
                prop_assert!(kept.is_sorted());
                let part = most / told.len();
                for (workload, all) in &told {
                    let newest = all.len() <= part;
                    let lost = all.iter().filter(|id| !kept.contains(id)).count();
                    prop_assert!(!newest || lost == 0, "workload {} lost {} of {}", workload, lost, all.len());
                }
                let counted: usize = remembered.counts.values().map(|count| count.get()).sum();
                prop_assert_eq!(counted, kept.len() * 3);
            }
        }
    }
}
