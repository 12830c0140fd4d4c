//! Places that are few: watches, and requests at once. Of each there are so many in all, so many for a mesh, and so
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
}

impl Shares {
    pub(crate) fn new(share: Share) -> Arc<Self> {
        Arc::new(Self {
            share,
            taken: Mutex::default(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, or says whose share is used up.
    pub(crate) fn take(self: &Arc<Self>, mesh: &DnsLabel, caller: &str) -> Result<Place, Full> {
        let Share {
            all,
            mesh: of_mesh,
            caller: of_caller,
        } = self.share;
        let mut taken = self.taken();
        if taken.callers.get(caller).is_some_and(|n| *n >= of_caller) {
            return Err(Full::Caller(of_caller));
        }
        if taken.meshes.get(mesh).is_some_and(|n| *n >= of_mesh) {
            return Err(Full::Mesh(of_mesh));
        }
        if taken.all >= all {
            return Err(Full::All(all));
        }
        taken.all += 1;
        *taken.meshes.entry(mesh.clone()).or_default() += 1;
        *taken.callers.entry(caller.to_owned()).or_default() += 1;
        Ok(Place {
            shares: Arc::clone(self),
            mesh: mesh.clone(),
            caller: caller.to_owned(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all -= 1;
        if let Some(count) = taken.meshes.get_mut(&self.mesh) {
            *count -= 1;
            if *count == 0 {
                taken.meshes.remove(&self.mesh);
            }
        }
        if let Some(count) = taken.callers.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                taken.callers.remove(&self.caller);
            }
        }
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
