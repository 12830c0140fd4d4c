//! Backups: one tar file with a copy of the store and every mesh's authority, made while the control plane runs.
//!
//! Owns the file's form. A backup holds the keys of the authorities: whoever has it can be anyone in its meshes, so it
//! is made for the machine's own people alone, and written 0600.
//! Invariant: the copy of the store is of one moment, and every mesh in it has its authority in the backup.

mod digests;
mod restore;

use std::{
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use leno_store::{SqliteStore, Store, StoreError};
use leno_types::MeshName;
use serde::{Deserialize, Serialize};
use tar::{Builder, EntryType, Header};

use digests::{DIGESTS, Digests, Through};

pub use restore::{RestoreError, Restored, restore};

/// What this code writes and reads.
const FORMAT: &str = "leno-backup/2";
/// The same without [`DIGESTS`], which is read still.
const UNSUMMED: &str = "leno-backup/1";
const MANIFEST: &str = "manifest.json";
const STORE: &str = "store.db";
const MESHES: &str = "meshes";
/// Beside the store while a backup is made.
const COPY: &str = "backup-copy.db";
/// An authority's files are keys and certificates: none is larger, in bytes.
const MAX_AUTHORITY_FILE: u64 = 1 << 20;

/// Files of a backup.
const MAX_FILES: usize = 4_096;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    format: String,
    /// The version of Leno that made it.
    leno: String,
    /// When, RFC 3339.
    created: String,
    /// The store's revision at that moment.
    revision: u64,
    /// Whose authorities it holds.
    meshes: Vec<String>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store could not be copied.
    #[error("the store cannot be copied")]
    Store(#[from] StoreError),
    /// It would not be read again.
    #[error(
        "a backup has at most {MAX_FILES} files, this would have {0}: take away what is no authority's from the directories in {1:?}"
    )]
    TooMany(usize, PathBuf),
    /// An authority cannot be read, or nobody takes what is written.
    #[error("{what}")]
    Io {
        /// What was read or written.
        what: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> BackupError {
    let what = what.into();
    move |source| BackupError::Io { what, source }
}

/// Writes a backup of the control plane whose store and data directory these are. Takes as long as its reader and the
/// disk do: not for a thread that serves.
///
/// # Errors
/// What keeps it from being made; what was written until then is no backup, and [`restore()`] refuses it.
pub fn write(
    store: &SqliteStore,
    data_dir: &Path,
    created: String,
    out: impl Write,
) -> Result<(), BackupError> {
    let copy = data_dir.join(COPY);
    remove_if_there(&copy).map_err(io_error("the last backup's copy cannot be removed"))?;
    let outcome = write_with(store, data_dir, &copy, created, out);
    if let Err(error) = remove_if_there(&copy) {
        tracing::warn!(%error, path = %copy.display(), "the backup's copy of the store stays behind");
    }
    outcome
}

fn write_with(
    store: &SqliteStore,
    data_dir: &Path,
    copy: &Path,
    created: String,
    out: impl Write,
) -> Result<(), BackupError> {
    let revision = store.revision();
    store.copy_to(copy)?;
    let directory = data_dir.join(MESHES);
    let authorities =
        authorities(&directory).map_err(io_error("the authorities' files cannot be read"))?;
    // Beside them what it says of itself, the store, and the digests.
    let files = 3 + authorities.iter().map(|of| of.files.len()).sum::<usize>();
    if files > MAX_FILES {
        return Err(BackupError::TooMany(files, directory));
    }
    let manifest = Manifest {
        format: FORMAT.into(),
        leno: env!("CARGO_PKG_VERSION").into(),
        created,
        revision,
        meshes: authorities.iter().map(|of| of.mesh.clone()).collect(),
    };
    let (mut tar, mut digests) = (Builder::new(out), Digests::default());
    let mut add = |name: String, bytes: &[u8]| {
        append(&mut tar, &mut digests, name, bytes.len() as u64, bytes)
    };
    add(MANIFEST.into(), &json(&manifest)?)?;
    for Authority { mesh, files } in authorities {
        for (file, bytes) in files {
            add(format!("{MESHES}/{mesh}/{file}"), &bytes)?;
        }
    }
    let unwritten = || io_error("the backup cannot be written");
    let mut file = fs::File::open(copy).map_err(unwritten())?;
    let length = file.metadata().map_err(unwritten())?.len();
    append(&mut tar, &mut digests, STORE.into(), length, &mut file)?;
    let text = json(&digests)?;
    append(
        &mut tar,
        &mut Digests::default(),
        DIGESTS.into(),
        text.len() as u64,
        &*text,
    )?;
    tar.into_inner()
        .and_then(|mut out| out.flush())
        .map_err(unwritten())
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, BackupError> {
    serde_json::to_vec_pretty(value).map_err(|error| BackupError::Io {
        what: "what the backup says of itself cannot be written".into(),
        source: error.into(),
    })
}

fn append(
    tar: &mut Builder<impl Write>,
    digests: &mut Digests,
    name: String,
    length: u64,
    bytes: impl Read,
) -> Result<(), BackupError> {
    let mut bytes = Through::new(bytes);
    tar.append_data(&mut header(length), &name, &mut bytes)
        .map_err(io_error("the backup cannot be written"))?;
    digests.note(name, bytes);
    Ok(())
}

fn header(length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(length);
    header
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

struct Authority {
    mesh: String,
    files: Vec<(String, Vec<u8>)>,
}

/// The files of every mesh's authority, in order.
fn authorities(directory: &Path) -> io::Result<Vec<Authority>> {
    let mut found = Vec::new();
    for mesh in sorted(directory)? {
        // One that is being made or removed has an ending to its name.
        let whole = |name: &String| name.parse::<MeshName>().is_ok() && mesh.is_dir();
        let Some(name) = name_of(&mesh).filter(whole) else {
            continue;
        };
        let mut files = Vec::new();
        for file in sorted(&mesh)? {
            let of = fs::metadata(&file)?;
            // Its own socket, or what somebody else put there, is none of an authority's.
            if let Some(name) = name_of(&file)
                && of.is_file()
                && of.len() <= MAX_AUTHORITY_FILE
            {
                files.push((name, fs::read(&file)?));
            }
        }
        found.push(Authority { mesh: name, files });
    }
    Ok(found)
}

fn sorted(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries: Result<Vec<_>, _> = fs::read_dir(directory)?.collect();
    let mut paths: Vec<PathBuf> = entries?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests;
