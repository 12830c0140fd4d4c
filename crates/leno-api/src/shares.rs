//! Places that are few: watches, requests at once, bytes of their bodies. Of each there are so many in all, so many for a mesh, and so
//! many for one caller, so that one person's thousand leave room for the others.
//!
//! Invariant: what is taken is given back when its [`Place`] is dropped, whatever became of the request.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use leno_types::DnsLabel;

/// How many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// In all.
    pub all: usize,
    /// In one mesh.
    pub mesh: usize,
    /// For one caller.
    pub caller: usize,
}

/// Whose share is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    All(usize),
    Mesh(usize),
    Caller(usize),
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(limit) => write!(f, "the limit is {limit}"),
            Self::Mesh(limit) => write!(f, "the limit of this mesh is {limit}"),
            Self::Caller(limit) => write!(f, "your limit is {limit}"),
        }
    }
}

/// All places of one sort.
#[derive(Debug)]
pub(crate) struct Shares {
    share: Share,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    meshes: HashMap<DnsLabel, usize>,
    callers: HashMap<String, usize>,
}

/// One place.
#[derive(Debug)]
pub(crate) struct Place {
    shares: Arc<Shares>,
    mesh: DnsLabel,
    caller: String,
    count: usize,
}

impl Shares {
    pub(crate) fn new(share: Share) -> Arc<Self> {
        Arc::new(Self {
            share,
            taken: Mutex::default(),
        })
    }

    #[cfg(test)]
    pub(crate) fn taken_in_all(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, or says whose share is used up.
    pub(crate) fn take(self: &Arc<Self>, mesh: &DnsLabel, caller: &str) -> Result<Place, Full> {
        let mut place = Place {
            shares: Arc::clone(self),
            mesh: mesh.clone(),
            caller: caller.to_owned(),
            count: 0,
        };
        place.grow(1)?;
        Ok(place)
    }
}

impl Place {
    /// Takes so many more, or says whose share is used up; none is taken then.
    pub(crate) fn grow(&mut self, count: usize) -> Result<(), Full> {
        let Share { all, mesh, caller } = self.shares.share;
        let mut taken = self.shares.taken();
        let of = |taken: Option<&usize>| taken.copied().unwrap_or(0).saturating_add(count);
        if of(taken.callers.get(&self.caller)) > caller {
            return Err(Full::Caller(caller));
        }
        if of(taken.meshes.get(&self.mesh)) > mesh {
            return Err(Full::Mesh(mesh));
        }
        if of(Some(&taken.all)) > all {
            return Err(Full::All(all));
        }
        taken.all += count;
        *taken.meshes.entry(self.mesh.clone()).or_default() += count;
        *taken.callers.entry(self.caller.clone()).or_default() += count;
        self.count += count;
        Ok(())
    }
}

impl Place {
    /// Gives so many back, or as many as there are.
    pub(crate) fn shrink(&mut self, count: usize) {
        let back = count.min(self.count);
        self.count -= back;
        let mut taken = self.shares.taken();
        taken.all -= back;
        if let Some(count) = taken.meshes.get_mut(&self.mesh) {
            *count -= back;
            if *count == 0 {
                taken.meshes.remove(&self.mesh);
            }
        }
        if let Some(count) = taken.callers.get_mut(&self.caller) {
            *count -= back;
            if *count == 0 {
                taken.callers.remove(&self.caller);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shrink(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn one_callers_many_leave_room_for_others() {
        let shares = Shares::new(Share {
            all: 5,
            mesh: 4,
            caller: 3,
        });
        let (shop, bank) = ("shop".parse().unwrap(), "bank".parse().unwrap());
        let greedy: Vec<Place> = (0..3).map(|_| shares.take(&shop, "a").unwrap()).collect();
        assert_eq!(shares.take(&bank, "a").unwrap_err(), Full::Caller(3));
        let _other = shares.take(&shop, "b").unwrap();
        assert_eq!(shares.take(&shop, "c").unwrap_err(), Full::Mesh(4));
        let _bank = shares.take(&bank, "c").unwrap();
        assert_eq!(shares.take(&bank, "d").unwrap_err(), Full::All(5));
        drop(greedy);
        let taken = shares.taken();
        assert_eq!(
            (taken.all, taken.callers.len()),
            (2, 2),
            "nothing is kept of who left"
        );
    }
}
