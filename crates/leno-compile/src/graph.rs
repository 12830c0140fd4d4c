//! Who read what: the reverse index that finds what a change makes dirty.
//!
//! Of every workload a handful of reads is kept, both ways; so few take no more room than they need.

use std::collections::{BTreeMap, BTreeSet};

use crate::view::Read;

/// As many readers are kept in a row; more in a tree.
const FEW: usize = 8;

/// Who read something.
#[derive(Debug)]
enum Readers<N> {
    Few(Vec<N>),
    Many(BTreeSet<N>),
}

impl<N: Clone + Ord> Readers<N> {
    fn insert(&mut self, node: &N) {
        match self {
            Self::Few(nodes) if nodes.contains(node) => {}
            Self::Few(nodes) if nodes.len() < FEW => {
                nodes.reserve_exact(1);
                nodes.push(node.clone());
            }
            Self::Few(nodes) => {
                let nodes = nodes.drain(..).chain([node.clone()]);
                *self = Self::Many(nodes.collect());
            }
            Self::Many(nodes) => {
                nodes.insert(node.clone());
            }
        }
    }

    fn remove(&mut self, node: &N) {
        match self {
            Self::Few(nodes) => nodes.retain(|of| of != node),
            Self::Many(nodes) => {
                nodes.remove(node);
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(nodes) => nodes.is_empty(),
            Self::Many(nodes) => nodes.is_empty(),
        }
    }

    fn add_to(&self, all: &mut BTreeSet<N>) {
        match self {
            Self::Few(nodes) => all.extend(nodes.iter().cloned()),
            Self::Many(nodes) => all.extend(nodes.iter().cloned()),
        }
    }
}

/// The reads of compiled nodes, both ways.
#[derive(Debug)]
pub(crate) struct Graph<N> {
    /// In order, each once.
    reads: BTreeMap<N, Box<[Read]>>,
    readers: BTreeMap<Read, Readers<N>>,
}

impl<N: Clone + Ord> Graph<N> {
    /// Nothing was read.
    pub(crate) fn new() -> Self {
        Self {
            reads: BTreeMap::new(),
            readers: BTreeMap::new(),
        }
    }

    /// A node was compiled: what it read now replaces what it read before.
    pub(crate) fn record(&mut self, node: &N, reads: BTreeSet<Read>) {
        let before = self.reads.get(node).map_or(&[][..], |reads| reads);
        if before.iter().eq(&reads) {
            return;
        }
        let before = self.reads.remove(node).unwrap_or_default();
        for read in before.iter().filter(|read| !reads.contains(*read)) {
            if let Some(readers) = self.readers.get_mut(read) {
                readers.remove(node);
                if readers.is_empty() {
                    self.readers.remove(read);
                }
            }
        }
        for read in reads
            .iter()
            .filter(|read| before.binary_search(read).is_err())
        {
            let readers = self.readers.entry(read.clone());
            let readers = readers.or_insert_with(|| Readers::Few(Vec::new()));
            readers.insert(node);
        }
        if !reads.is_empty() {
            self.reads.insert(node.clone(), reads.into_iter().collect());
        }
    }

    /// The nodes that read any of these.
    pub(crate) fn dirty(&self, touched: &BTreeSet<Read>) -> BTreeSet<N> {
        let mut dirty = BTreeSet::new();
        for readers in touched.iter().filter_map(|read| self.readers.get(read)) {
            readers.add_to(&mut dirty);
        }
        dirty
    }
}
