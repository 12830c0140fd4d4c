//! Things by number: each is kept once, and what refers to it takes four bytes.
//!
//! Invariant: as long as a thing is kept, its number is its own.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
};

use hashbrown::HashTable;
use slab::Slab;

/// The number of a thing, from 1.
pub(crate) type Number = NonZeroU32;
/// Room is made for a share of what there is at a time: doubling would leave up to half of a mesh's unused.
const SHARE: usize = 8;

/// Things, what is known of each, and their numbers.
#[derive(Debug)]
pub(crate) struct Numbered<T, V> {
    all: Slab<(T, V)>,
    numbers: HashTable<Number>,
    /// Its seed is random: who names things cannot make their hashes equal.
    hasher: RandomState,
}

impl<T, V> Default for Numbered<T, V> {
    fn default() -> Self {
        Self {
            all: Slab::new(),
            numbers: HashTable::new(),
            hasher: RandomState::new(),
        }
    }
}

impl<T: Hash + Eq, V: Default> Numbered<T, V> {
    /// The number of a thing that is kept.
    pub(crate) fn find(&self, thing: &T) -> Option<Number> {
        let hash = self.hasher.hash_one(thing);
        let same = |number: &Number| self.thing(*number) == Some(thing);
        self.numbers.find(hash, same).copied()
    }

    /// The number of a thing, which is kept from now on.
    ///
    /// # Panics
    /// With 2³² things, more than fit into memory.
    pub(crate) fn number(&mut self, thing: T) -> Number {
        if let Some(number) = self.find(&thing) {
            return number;
        }
        let hash = self.hasher.hash_one(&thing);
        if self.all.len() == self.all.capacity() {
            self.all.reserve_exact(self.all.len() / SHARE + SHARE);
        }
        let place = self.all.insert((thing, V::default()));
        let number = u32::try_from(place + 1).ok().and_then(Number::new);
        let number = number.expect("fewer things than fit into memory");
        let Self {
            all,
            numbers,
            hasher,
        } = self;
        let rehash = |number: &Number| {
            let thing = all.get(at(*number)).map(|(thing, _)| thing);
            thing.map_or(0, |thing| hasher.hash_one(thing))
        };
        numbers.insert_unique(hash, number, rehash);
        number
    }

    /// The thing of a number.
    pub(crate) fn thing(&self, number: Number) -> Option<&T> {
        self.all.get(at(number)).map(|(thing, _)| thing)
    }

    /// What is known of a thing.
    pub(crate) fn get(&self, number: Number) -> Option<&V> {
        self.all.get(at(number)).map(|(_, known)| known)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, number: Number) -> Option<&mut V> {
        self.all.get_mut(at(number)).map(|(_, known)| known)
    }

    /// Keeps a thing no longer; its number may be another's from now on.
    pub(crate) fn remove(&mut self, number: Number) -> Option<V> {
        let hash = self.hasher.hash_one(self.thing(number)?);
        if let Ok(entry) = self.numbers.find_entry(hash, |of| *of == number) {
            entry.remove();
        }
        self.all.try_remove(at(number)).map(|(_, known)| known)
    }
}

/// Where a number's thing is.
fn at(number: Number) -> usize {
    number.get() as usize - 1
}
