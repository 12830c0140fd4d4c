//! What was compiled, by key.
//!
//! Nearly every key is that of a workload, so these are kept by their ids alone: less than half of a key.
//! Invariant: what is listed is in the order of keys.

use std::collections::BTreeMap;

use leno_types::WorkloadUid;

use crate::{Key, entry::Entry, index::after};

/// Kept outputs by key.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    workloads: BTreeMap<WorkloadUid, Entry>,
    others: BTreeMap<Key, Entry>,
}

impl Outputs {
    pub(crate) fn get(&self, key: &Key) -> Option<&Entry> {
        match key {
            Key::OwnWorkload(uid) => self.workloads.get(uid),
            key => self.others.get(key),
        }
    }

    pub(crate) fn contains_key(&self, key: &Key) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn insert(&mut self, key: Key, entry: Entry) {
        match key {
            Key::OwnWorkload(uid) => self.workloads.insert(uid, entry),
            key => self.others.insert(key, entry),
        };
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Entry> {
        match key {
            Key::OwnWorkload(uid) => self.workloads.remove(uid),
            key => self.others.remove(key),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &Entry)> {
        let first = Key::OwnWorkload(WorkloadUid::from_bytes([0; 16]));
        let (before, after) = (
            self.others.range(..first.clone()),
            self.others.range(first..),
        );
        let other = |(key, entry): (&Key, _)| (key.clone(), entry);
        let workloads = self.workloads.iter();
        let workloads = workloads.map(|(uid, entry)| (Key::OwnWorkload(*uid), entry));
        before.map(other).chain(workloads).chain(after.map(other))
    }

    /// The keys, but those of workloads.
    pub(crate) fn other_keys(&self) -> impl Iterator<Item = &Key> {
        self.others.keys()
    }

    /// The workload after this one that has an output.
    pub(crate) fn workload_after(&self, uid: Option<WorkloadUid>) -> Option<WorkloadUid> {
        after(&self.workloads, uid)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use leno_ir::Endpoints;

    use super::*;
    use crate::{Kept, Output};

    #[test]
    fn outputs_of_every_key_are_listed_in_order() {
        let service = || "shop/cart".parse().unwrap();
        let mut keys = vec![
            Key::Hostname("cart.mesh.local".parse().unwrap()),
            Key::OwnWorkload(WorkloadUid::from_bytes([255; 16])),
            Key::OwnWorkload(WorkloadUid::from_bytes([0; 16])),
            Key::Endpoints(service()),
            Key::Host("10.0.0.1".parse().unwrap()),
            Key::Destination(service()),
            Key::Mesh,
        ];
        let output = Output::Endpoints(Endpoints {
            service: service(),
            endpoints: Vec::new(),
        });
        let mut outputs = Outputs::default();
        for key in &keys {
            let kept = Kept::from(&output);
            outputs.insert(key.clone(), Entry::new(&output, kept));
        }
        keys.sort_unstable();
        let listed: Vec<Key> = outputs.iter().map(|(key, _)| key).collect();
        assert_eq!(listed, keys);
        for key in &keys {
            assert!(outputs.contains_key(key) && outputs.remove(key).is_some());
            assert!(!outputs.contains_key(key));
        }
        assert!(outputs.iter().next().is_none());
    }

    #[test]
    fn what_is_kept_of_a_workload_beside_its_bytes_is_small() {
        assert_eq!(size_of::<(WorkloadUid, Entry)>(), 56);
    }
}
