//! The certificate authorities of all worlds: made once, for keys are not what is simulated.
//!
//! The key with which ids are made is fixed, so that equal worlds have equal ids.
//! Invariant: when the last who lives worlds through is done, nothing is left on the disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use leno_controlplane::simulation::make_authority;
use leno_types::MeshName;
use tempfile::TempDir;

use crate::sim::EPOCH;

/// With which ids of workloads are made.
pub(crate) const UID_KEY: [u8; 32] = [7; 32];
/// The meshes that every control plane is started with.
pub(crate) const MESHES: [&str; 2] = ["blue", "red"];

/// What all worlds have in common, and where their disks are.
#[derive(Debug)]
pub struct Ground {
    place: TempDir,
}

impl Ground {
    /// Makes it, in memory where the system has such a place.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> io::Result<Self> {
        let memory = PathBuf::from("/dev/shm");
        let place = match memory.is_dir() {
            true => memory,
            false => std::env::temp_dir(),
        };
        let mut new = tempfile::Builder::new();
        let ground = Self {
            place: new.prefix("leno-simulate-").tempdir_in(place)?,
        };
        // An hour before the worlds begin, so that clocks that go wrong find it valid.
        let now = SystemTime::UNIX_EPOCH + EPOCH - Duration::from_secs(3_600);
        for mesh in meshes() {
            let directory = ground.common().join("meshes").join(mesh.as_str());
            fs::create_dir_all(&directory)?;
            fs::write(directory.join("uid.key"), UID_KEY)?;
            make_authority(&ground.common(), &mesh, now).map_err(io::Error::other)?;
        }
        Ok(ground)
    }

    fn common(&self) -> PathBuf {
        self.place.path().join("common")
    }

    /// The data directory of a new world, removed with it.
    pub(crate) fn disk(&self) -> io::Result<TempDir> {
        let mut new = tempfile::Builder::new();
        let disk = new.prefix("world-").tempdir_in(self.place.path())?;
        for mesh in meshes() {
            let of = Path::new("meshes").join(mesh.as_str());
            let to = disk.path().join(&of);
            fs::create_dir_all(&to)?;
            for file in fs::read_dir(self.common().join(&of))? {
                let file = file?;
                fs::copy(file.path(), to.join(file.file_name()))?;
            }
        }
        Ok(disk)
    }
}

/// The meshes that every control plane is started with.
pub(crate) fn meshes() -> impl Iterator<Item = MeshName> {
    MESHES.into_iter().filter_map(|name| name.parse().ok())
}
