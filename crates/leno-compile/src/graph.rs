//! Who read what: the reverse index that finds what a change makes dirty.

use std::collections::{BTreeMap, BTreeSet};

use crate::view::Read;

/// The reads of compiled nodes, both ways.
#[derive(Debug)]
pub(crate) struct Graph<N> {
    reads: BTreeMap<N, BTreeSet<Read>>,
    readers: BTreeMap<Read, BTreeSet<N>>,
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
        let before = self.reads.remove(node).unwrap_or_default();
        for read in before.difference(&reads) {
            if let Some(readers) = self.readers.get_mut(read) {
                readers.remove(node);
                if readers.is_empty() {
                    self.readers.remove(read);
                }
            }
        }
        for read in reads.difference(&before) {
            self.readers
                .entry(read.clone())
                .or_default()
                .insert(node.clone());
        }
        if !reads.is_empty() {
            self.reads.insert(node.clone(), reads);
        }
    }

    /// The nodes that read any of these.
    pub(crate) fn dirty(&self, touched: &BTreeSet<Read>) -> BTreeSet<N> {
        let readers = touched.iter().filter_map(|read| self.readers.get(read));
        readers.flatten().cloned().collect()
    }
}
