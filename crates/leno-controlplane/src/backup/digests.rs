//! What a backup says of its own bytes: a SHA-256 of each file, in the last one.
//!
//! It finds what disks and copies did to a file, of which neither tar nor SQLite would say a word. Who changes a backup
//! on purpose changes it as well: a backup is as good as the place where it was kept.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// The last file of a backup.
pub(super) const DIGESTS: &str = "digests.json";

/// SHA-256 of each file, in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Digests(BTreeMap<String, String>);

impl Digests {
    /// Notes a file whose bytes went by.
    pub(super) fn note<T>(&mut self, name: String, through: Through<T>) {
        let digest = through.digest.finish();
        let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        self.0.insert(name, hex.collect());
    }

    /// A file that is not as `said`, or that one of both does not have.
    pub(super) fn differs<'a>(&'a self, said: &'a Self) -> Option<&'a str> {
        let here = self
            .0
            .iter()
            .filter(|(name, of)| said.0.get(*name) != Some(of));
        let there = said.0.keys().filter(|name| !self.0.contains_key(*name));
        here.map(|(name, _)| name)
            .chain(there)
            .map(String::as_str)
            .next()
    }
}

/// Bytes on their way, summed up.
pub(super) struct Through<T> {
    inner: T,
    digest: Context,
}

impl<T> Through<T> {
    pub(super) fn new(inner: T) -> Self {
        Self {
            inner,
            digest: Context::new(&SHA256),
        }
    }
}

impl<T: Read> Read for Through<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
