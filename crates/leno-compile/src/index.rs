//! Indexes: sets of values by key, and objects by namespace and name.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use leno_types::DnsLabel;

use crate::known::ObjectName;

/// Puts a value into an index of sets.
pub(crate) fn insert<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: V) {
    index.entry(key).or_default().insert(value);
}

/// Takes a value out of an index of sets; an empty set is none.
pub(crate) fn remove<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}

/// The values of a key.
pub(crate) fn members<'k, K: Ord, V>(
    index: &'k BTreeMap<K, BTreeSet<V>>,
    key: &K,
) -> impl Iterator<Item = &'k V> {
    index.get(key).into_iter().flatten()
}

/// The key after this one; the first for none.
pub(crate) fn after<K: Copy + Ord, V>(map: &BTreeMap<K, V>, key: Option<K>) -> Option<K> {
    let from = key.map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest = map.range((from, Bound::Unbounded));
    rest.next().map(|(key, _)| *key)
}

/// The objects of a namespace, by name.
pub(crate) fn of_namespace<'a, V>(
    objects: &'a BTreeMap<ObjectName, V>,
    namespace: &DnsLabel,
) -> impl Iterator<Item = &'a V> {
    // No label sorts before "0".
    let first = "0".parse().ok();
    let start = first.map(|first| ObjectName::new(namespace.clone(), first));
    start
        .into_iter()
        .flat_map(|start| objects.range(start..))
        .take_while(move |(name, _)| name.namespace == *namespace)
        .map(|(_, object)| object)
}

/// Sets or takes away an object; gives what was there.
pub(crate) fn replace<V>(
    map: &mut BTreeMap<ObjectName, V>,
    name: &ObjectName,
    value: Option<V>,
) -> Option<V> {
    match value {
        Some(value) => map.insert(name.clone(), value),
        None => map.remove(name),
    }
}
