//! A map that is mostly small: a row of sorted pairs, and a tree once there are many.
//!
//! Every stream keeps a few of them, and there are thousands of streams: a tree's node exists whole for one pair, and
//! stays when that has gone. A proxy may ask for many names all the same, so nothing here takes longer with each pair.
//! Invariant: a row is sorted, has at most [`ROW`] pairs and room for a quarter more; what is empty holds nothing.

use std::{borrow::Borrow, collections::BTreeMap};

/// So many pairs stand in a row.
const ROW: usize = 64;

/// A map that is mostly small. Like a [`BTreeMap`], it is in order and keeps the key that came first.
#[derive(Clone, Debug)]
pub(super) enum Few<K, V> {
    Row(Vec<(K, V)>),
    #[expect(clippy::box_collection, reason = "so that a row takes no more")]
    Tree(Box<BTreeMap<K, V>>),
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self::Row(Vec::new())
    }
}

impl<K: Ord, V> Few<K, V> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Row(row) => row.len(),
            Self::Tree(tree) => tree.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Row(row) => {
                let at = place(row, key).ok()?;
                row.get(at).map(|(key, value)| (key, value))
            }
            Self::Tree(tree) => tree.get_key_value(key),
        }
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    pub(super) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).is_some()
    }

    pub(super) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Row(row) => {
                let at = place(row, key).ok()?;
                row.get_mut(at).map(|(_, value)| value)
            }
            Self::Tree(tree) => tree.get_mut(key),
        }
    }

    /// What is there, or its default.
    pub(super) fn get_or_default(&mut self, key: K) -> &mut V
    where
        K: Clone,
        V: Default,
    {
        if !self.contains_key(&key) {
            self.insert(key.clone(), V::default());
        }
        self.get_mut(&key).expect("it is there or was inserted")
    }

    /// Gives what was there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(there) = self.get_mut(&key) {
            return Some(std::mem::replace(there, value));
        }
        match self {
            Self::Row(row) if row.len() < ROW => {
                if row.len() == row.capacity() {
                    row.reserve_exact(row.len() / 4 + 1);
                }
                let at = row.partition_point(|(before, _)| *before < key);
                row.insert(at, (key, value));
            }
            Self::Row(row) => {
                let all = row.drain(..).chain([(key, value)]);
                *self = Self::Tree(Box::new(all.collect()));
            }
            Self::Tree(tree) => drop(tree.insert(key, value)),
        }
        None
    }

    pub(super) fn remove_entry<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Row(row) => {
                let at = place(row, key).ok()?;
                let removed = row.remove(at);
                if row.len() <= row.capacity() / 2 {
                    row.shrink_to_fit();
                }
                Some(removed)
            }
            Self::Tree(tree) => {
                let removed = tree.remove_entry(key)?;
                // Not as soon as it could be a row: one that comes and goes would have it built again and again.
                if tree.len() <= ROW / 2 {
                    *self = Self::Row(std::mem::take(&mut **tree).into_iter().collect());
                }
                Some(removed)
            }
        }
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.remove_entry(key).map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (row, tree) = match self {
            Self::Row(row) => (row.as_slice(), None),
            Self::Tree(tree) => (&[][..], Some(tree)),
        };
        let row = row.iter().map(|(key, value)| (key, value));
        row.chain(tree.into_iter().flat_map(|tree| tree.iter()))
    }

    /// From this key on, be it there or not.
    pub(super) fn iter_from<'s>(
        &'s self,
        key: &K,
    ) -> impl Iterator<Item = (&'s K, &'s V)> + use<'s, K, V> {
        let (row, tree) = match self {
            Self::Row(row) => {
                let at = row.partition_point(|(before, _)| before < key);
                (row.get(at..).unwrap_or_default(), None)
            }
            Self::Tree(tree) => (&[][..], Some(tree.range(key..))),
        };
        let row = row.iter().map(|(key, value)| (key, value));
        row.chain(tree.into_iter().flatten())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

fn place<K: Borrow<Q>, V, Q: Ord + ?Sized>(row: &[(K, V)], key: &Q) -> Result<usize, usize> {
    row.binary_search_by(|(of, _)| of.borrow().cmp(key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room<K: Ord, V>(map: &Few<K, V>) -> usize {
        match map {
            Few::Row(row) => row.capacity(),
            Few::Tree(tree) => tree.len(),
        }
    }

    proptest! {
        /// Ranges come and go, so that a row becomes a tree and a row again.
        #[test]
        fn it_is_a_map_in_order_however_many_there_are_and_keeps_little_room(
            steps in prop::collection::vec((any::<bool>(), 0..200_u8, 1..120_u8, any::<u8>()), 1..40)
        ) {
            let (mut few, mut plain) = (Few::default(), BTreeMap::new());
            for (come, from, many, value) in steps {
                for key in from..from.saturating_add(many) {
                    match come {
                        true => prop_assert_eq!(few.insert(key, value), plain.insert(key, value)),
                        false => prop_assert_eq!(few.remove_entry(&key), plain.remove_entry(&key)),
                    }
                    prop_assert!(room(&few) <= few.len().max(1) * 2, "{} for {}", room(&few), few.len());
                }
                prop_assert_eq!(few.len(), plain.len());
                prop_assert!(few.iter().eq(plain.iter()));
                prop_assert!(few.iter_from(&from).eq(plain.range(from..)));
                prop_assert_eq!(few.get(&value), plain.get(&value));
                if let Some(there) = few.get_mut(&from) {
                    *there = 0;
                    plain.insert(from, 0);
                }
            }
            let keys: Vec<u8> = few.keys().copied().collect();
            for key in keys {
                few.remove(&key);
            }
            prop_assert!(few.is_empty() && room(&few) == 0);
        }
    }
}
