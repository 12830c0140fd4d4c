//! Who read what: the reverse index that finds what a change makes dirty.
//!
//! Of every workload some reads are kept, both ways, so both sides are numbers, and few of them take no more room
//! than they need. Invariant: a read is kept exactly as long as somebody read it, a node as long as it read something.

use std::{collections::BTreeSet, hash::Hash};

use crate::{
    numbered::{Number, Numbered},
    view::Read,
};

/// As many readers are kept beside each other; more in a tree.
const FEW: usize = 3;

/// Who read something. Nearly all that is read of a mesh is a workload, which its own proxy, its service and its host
/// are told of.
#[derive(Debug)]
enum Readers {
    Few([Option<Number>; FEW]),
    #[expect(
        clippy::box_collection,
        reason = "so that the many with few readers are small"
    )]
    Many(Box<BTreeSet<Number>>),
}

impl Default for Readers {
    fn default() -> Self {
        Self::Few([None; FEW])
    }
}

impl Readers {
    fn insert(&mut self, node: Number) {
        match self {
            Self::Few(nodes) if nodes.contains(&Some(node)) => {}
            Self::Few(nodes) => match nodes.iter_mut().find(|of| of.is_none()) {
                Some(free) => *free = Some(node),
                None => {
                    let all = nodes.iter().flatten().copied().chain([node]);
                    *self = Self::Many(Box::new(all.collect()));
                }
            },
            Self::Many(nodes) => {
                nodes.insert(node);
            }
        }
    }

    fn remove(&mut self, node: Number) {
        match self {
            Self::Few(nodes) => {
                let of = nodes.iter_mut().filter(|of| **of == Some(node));
                of.for_each(|of| *of = None);
            }
            Self::Many(nodes) => {
                nodes.remove(&node);
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(nodes) => nodes.iter().all(Option::is_none),
            Self::Many(nodes) => nodes.is_empty(),
        }
    }

    fn each(&self, take: impl FnMut(Number)) {
        match self {
            Self::Few(nodes) => nodes.iter().flatten().copied().for_each(take),
            Self::Many(nodes) => nodes.iter().copied().for_each(take),
        }
    }
}

/// The reads of compiled nodes, both ways.
#[derive(Debug)]
pub(crate) struct Graph<N> {
    /// Of each node what it read, in the order of numbers.
    nodes: Numbered<N, Box<[Number]>>,
    reads: Numbered<Read, Readers>,
}

impl<N: Clone + Ord + Hash> Graph<N> {
    /// Nothing was read.
    pub(crate) fn new() -> Self {
        Self {
            nodes: Numbered::default(),
            reads: Numbered::default(),
        }
    }

    /// A node was compiled: what it read now replaces what it read before.
    pub(crate) fn record(&mut self, node: &N, reads: BTreeSet<Read>) {
        let known = self.nodes.find(node);
        if reads.is_empty() && known.is_none() {
            return;
        }
        let number = known.unwrap_or_else(|| self.nodes.number(node.clone()));
        let mut now: Box<[Number]> = reads
            .into_iter()
            .map(|read| self.reads.number(read))
            .collect();
        now.sort_unstable();
        let before = self.nodes.get_mut(number).map(std::mem::take);
        let before = before.unwrap_or_default();
        for read in now
            .iter()
            .filter(|read| before.binary_search(read).is_err())
        {
            if let Some(readers) = self.reads.get_mut(*read) {
                readers.insert(number);
            }
        }
        for read in before
            .iter()
            .filter(|read| now.binary_search(read).is_err())
        {
            self.forget(*read, number);
        }
        match self.nodes.get_mut(number) {
            Some(reads) if !now.is_empty() => *reads = now,
            _ => drop(self.nodes.remove(number)),
        }
    }

    /// A node read something no longer.
    fn forget(&mut self, read: Number, node: Number) {
        let Some(readers) = self.reads.get_mut(read) else {
            return;
        };
        readers.remove(node);
        if readers.is_empty() {
            self.reads.remove(read);
        }
    }

    /// The nodes that read any of these.
    pub(crate) fn dirty(&self, touched: &BTreeSet<Read>) -> BTreeSet<N> {
        let mut dirty = BTreeSet::new();
        for read in touched.iter().filter_map(|read| self.reads.find(read)) {
            if let Some(readers) = self.reads.get(read) {
                readers.each(|node| dirty.extend(self.nodes.thing(node).cloned()));
            }
        }
        dirty
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn read(number: u16) -> Read {
        Read::Applied(format!("shop/s{number}").parse().unwrap())
    }

    proptest! {
        #[test]
        fn whoever_read_something_is_found_and_nothing_else_is_kept(
            steps in prop::collection::vec((0_u16..12, prop::collection::btree_set(0_u16..30, 0..12)), 1..60)
        ) {
            let mut graph = Graph::new();
            let mut plain = std::collections::BTreeMap::new();
            for (node, reads) in steps {
                graph.record(&node, reads.iter().copied().map(read).collect());
                plain.insert(node, reads);
                for asked in 0..30 {
                    let expected: BTreeSet<u16> = plain
                        .iter()
                        .filter(|(_, reads)| reads.contains(&asked))
                        .map(|(node, _)| *node)
                        .collect();
                    prop_assert_eq!(graph.dirty(&BTreeSet::from([read(asked)])), expected.clone());
                    prop_assert_eq!(graph.reads.find(&read(asked)).is_some(), !expected.is_empty());
                }
                for (node, reads) in &plain {
                    prop_assert_eq!(graph.nodes.find(node).is_some(), !reads.is_empty());
                }
            }
        }
    }
}
