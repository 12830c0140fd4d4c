//! Who read what: the reverse index that finds what a change makes dirty.
//!
//! Of every workload a dozen reads is kept, both ways, so both sides are numbers, and few of them take no more room
//! than they need. Invariant: a read is kept exactly as long as somebody read it, a node as long as it read something.

use std::{collections::BTreeSet, hash::Hash};

use crate::{
    numbered::{Number, Numbered},
    view::Read,
};

/// As many readers are kept in a row; more in a tree.
const FEW: usize = 8;

/// Who read something.
#[derive(Debug)]
enum Readers {
    Few(Vec<Number>),
    Many(BTreeSet<Number>),
}

impl Default for Readers {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Readers {
    fn insert(&mut self, node: Number) {
        match self {
            Self::Few(nodes) if nodes.contains(&node) => {}
            Self::Few(nodes) if nodes.len() < FEW => {
                nodes.reserve_exact(1);
                nodes.push(node);
            }
            Self::Few(nodes) => *self = Self::Many(nodes.drain(..).chain([node]).collect()),
            Self::Many(nodes) => {
                nodes.insert(node);
            }
        }
    }

    fn remove(&mut self, node: Number) {
        match self {
            Self::Few(nodes) => nodes.retain(|of| *of != node),
            Self::Many(nodes) => {
                nodes.remove(&node);
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(nodes) => nodes.is_empty(),
            Self::Many(nodes) => nodes.is_empty(),
        }
    }

    fn each(&self, mut take: impl FnMut(Number)) {
        match self {
            Self::Few(nodes) => nodes.iter().copied().for_each(&mut take),
            Self::Many(nodes) => nodes.iter().copied().for_each(&mut take),
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
