//! The certificate authorities of all worlds: made once, for keys are not what is simulated.
//!
//! The key with which ids are made is fixed, so that equal worlds have equal ids.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use leno_controlplane::{
    authority::Authority,
    simulation::{TTLS, domain_of},
};
use leno_types::MeshName;
use tempfile::TempDir;

/// With which ids of workloads are made.
pub(crate) const UID_KEY: [u8; 32] = [7; 32];

static MADE: Mutex<Option<TempDir>> = Mutex::new(None);

/// The directory of the authorities of these meshes.
pub(crate) fn directory(meshes: &[MeshName], now: SystemTime) -> io::Result<PathBuf> {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(made) = &*made {
        return Ok(made.path().into());
    }
    let new = tempfile::Builder::new()
        .prefix("leno-simulate-")
        .tempdir()?;
    for mesh in meshes {
        let directory: PathBuf = Path::new(new.path()).join(mesh.as_str());
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("uid.key"), UID_KEY)?;
        let made = Authority::open(&directory, mesh, &domain_of(mesh), TTLS, now);
        made.map_err(io::Error::other)?;
    }
    let path = new.path().into();
    *made = Some(new);
    Ok(path)
}
