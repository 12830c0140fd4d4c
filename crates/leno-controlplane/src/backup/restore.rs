//! A control plane's state from a backup: put together beside the place, then into the place in one step.
//!
//! Refuses while a control plane runs there. What was there is kept under another name.
//! Invariants: at no moment is half a state in the place; hosts that were revoked, or joined again, stay so where the old
//! state still says it; no join token and no person's certificate of the backup counts any more; the audit log goes on, with a line of this.

mod audit;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    io::Read,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use leno_store::{Expect, Hold, Options, SqliteStore, Store, StoreError, Write, begin_anew, hold};
use leno_types::{DnsLabel, MeshName};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::de::DeserializeOwned;
use tar::Archive;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    FORMAT, MANIFEST, MAX_AUTHORITY_FILE, MAX_FILES, MESHES, Manifest, STORE, UNSUMMED,
    digests::{DIGESTS, Digests, Through},
};
use crate::{
    audit::AUDIT,
    people::{USERS, UserRecord},
    times::unix,
    tokens::{AGENTS, AgentRecord, TOKENS, TokenRecord},
};

/// Largest store of a backup, in bytes: the ceiling of a store.
const MAX_STORE: u64 = 4 << 30;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its meshes.
    pub meshes: Vec<String>,
    /// When the backup was made, RFC 3339.
    pub created: String,
    /// The store's new revision.
    pub revision: u64,
    /// Join tokens that could still have been redeemed, and cannot any more.
    pub tokens_ended: usize,
    /// Hosts revoked since the backup, which stay so.
    pub still_revoked: usize,
    /// Hosts that joined again since the backup: what they had before counts no more.
    pub joined_again: usize,
    /// Meshes that had been removed since the backup, and are there again with their members: in the place of another of
    /// the name, where one had been made meanwhile.
    pub revived: Vec<String>,
    /// People of the backup, who may do nothing until they are given a certificate again.
    pub people_ended: usize,
    /// Where what was there before is now.
    pub replaced: Option<PathBuf>,
}

/// Why nothing was restored; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A control plane runs with this state.
    #[error("a control plane runs with {0:?}: end it first (leno down), then restore")]
    Runs(PathBuf),
    /// Something else is kept there.
    #[error(
        "{0:?} holds other things than a control plane's state: name the data directory that leno control-plane or leno up was given"
    )]
    Foreign(PathBuf),
    /// The place cannot be exchanged.
    #[error(
        "{0:?} is a mount point, which nothing can be put in the place of in one step: mount that disk one directory higher, and have the state in a directory on it"
    )]
    Mounted(PathBuf),
    /// It is no backup, or not all of one.
    #[error("this is no whole backup of Leno ({0}): leno backup makes one")]
    Damaged(String),
    /// The store in it cannot be used.
    #[error("the store in the backup cannot be used")]
    Store(#[from] StoreError),
    /// The disk says no.
    #[error("{path:?} cannot be written")]
    Io {
        /// What was to be written.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

fn damaged(reason: impl std::fmt::Display) -> RestoreError {
    RestoreError::Damaged(reason.to_string())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { path, source }
}

/// Puts the state of the backup that `archive` reads into `data_dir`, a control plane's data directory.
///
/// # Errors
/// Why nothing was restored.
pub async fn restore(
    archive: impl Read,
    data_dir: &Path,
    now: SystemTime,
) -> Result<Restored, RestoreError> {
    // A link leads to where the state is: on a disk of its own, perhaps, and it stays there.
    let real = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.into());
    let data_dir = &*real;
    let before = Before::read(data_dir)?;
    let staging = beside(data_dir, ".restoring")?;
    let outcome = restore_into(&staging, archive, data_dir, &before, now).await;
    if staging.exists() && outcome.is_err() {
        drop(fs::remove_dir_all(&staging));
    }
    outcome
}

async fn restore_into(
    staging: &Path,
    archive: impl Read,
    data_dir: &Path,
    before: &Before,
    now: SystemTime,
) -> Result<Restored, RestoreError> {
    if staging.exists() {
        // Of a restore that did not end.
        fs::remove_dir_all(staging).map_err(io_error(staging))?;
    }
    let manifest = unpack(archive, staging)?;
    let path = staging.join(STORE);
    begin_anew(&path, before.revision)?;
    let store = SqliteStore::open(&path, Options::default())?;
    let meshes = store.meshes()?;
    for mesh in &meshes {
        let authority = staging.join(MESHES).join(mesh.as_str());
        if ["root.pem", "root.key"]
            .iter()
            .any(|file| !authority.join(file).exists())
        {
            return Err(damaged(format!("it has no authority of mesh {mesh}")));
        }
    }
    let mut restored = Restored {
        meshes: meshes.iter().map(ToString::to_string).collect(),
        created: manifest.created,
        revision: 0,
        tokens_ended: 0,
        still_revoked: 0,
        joined_again: 0,
        revived: Vec::new(),
        people_ended: 0,
        replaced: None,
    };
    let mut writes = Vec::new();
    for mesh in store.meshes()? {
        let ended = tokens(&store, &mesh, unix(now))?;
        restored.tokens_ended += ended.len();
        let hosts = hosts(&store, &mesh, before, staging, &mut restored)?;
        let people = people(&store, &mesh, unix(now))?;
        restored.people_ended += people.len();
        writes.extend(ended.into_iter().chain(hosts).chain(people));
        let here = data_dir.join(MESHES).join(mesh.as_str()).exists();
        if before.revision > 0 && !(here && audit::is_same(&mesh, data_dir, staging)) {
            restored.revived.push(mesh.to_string());
        }
    }
    restored.revision = store.commit(writes).await?;
    drop(store);
    audit::keep(data_dir, staging, before, &restored)?;
    restored.replaced = swap(staging, data_dir, unix(now))?;
    Ok(restored)
}

/// What the state that is replaced still says.
#[derive(Default)]
struct Before {
    /// Until the end no control plane starts there: what it acknowledged would go with the state that is replaced.
    _held: Option<Held>,
    revision: u64,
    /// By mesh: its root, and its hosts by name.
    hosts: BTreeMap<DnsLabel, (Vec<u8>, BTreeMap<String, AgentRecord>)>,
}

/// The place of a store, by whatever holds it: dropped at the end.
enum Held {
    Open { _store: SqliteStore },
    Damaged { _hold: Hold },
}

impl Before {
    /// Nothing, when there is none or it cannot be read: a damaged store is what backups are for.
    fn read(data_dir: &Path) -> Result<Self, RestoreError> {
        let path = data_dir.join(STORE);
        if !path.exists() {
            return match is_foreign(data_dir) {
                true => Err(RestoreError::Foreign(data_dir.into())),
                false => Ok(Self::default()),
            };
        }
        let store = match SqliteStore::open(&path, Options::default()) {
            Ok(store) => store,
            Err(StoreError::InUse { .. }) => return Err(RestoreError::Runs(data_dir.into())),
            Err(error) => {
                tracing::warn!(%error, "the state that is there cannot be read: hosts revoked since the backup have to be revoked again");
                let held = hold(&path).map_err(|error| match error {
                    StoreError::InUse { .. } => RestoreError::Runs(data_dir.into()),
                    error => error.into(),
                })?;
                return Ok(Self {
                    _held: Some(Held::Damaged { _hold: held }),
                    ..Self::default()
                });
            }
        };
        let revision = store.revision();
        let mut hosts = BTreeMap::new();
        for mesh in store.meshes()? {
            let agents: Vec<AgentRecord> = records(&store, &mesh, AGENTS)?;
            let named = agents.into_iter().map(|agent| (agent.name.clone(), agent));
            let root = root_of(data_dir, &mesh);
            hosts.insert(mesh, (root, named.collect()));
        }
        Ok(Self {
            _held: Some(Held::Open { _store: store }),
            revision,
            hosts,
        })
    }
}

/// Whether a directory has something in it, and nothing by which a control plane that lost its store is known.
fn is_foreign(data_dir: &Path) -> bool {
    let mut entries = fs::read_dir(data_dir).into_iter().flatten();
    entries.next().is_some()
        && ![MESHES, AUDIT]
            .iter()
            .any(|own| data_dir.join(own).exists())
}

/// The root of a mesh's authority; empty when it cannot be read.
fn root_of(data_dir: &Path, mesh: &MeshName) -> Vec<u8> {
    let path = data_dir.join(MESHES).join(mesh.as_str()).join("root.pem");
    fs::read(path).unwrap_or_default()
}

fn records<T: DeserializeOwned>(
    store: &SqliteStore,
    mesh: &MeshName,
    collection: &str,
) -> Result<Vec<T>, RestoreError> {
    let (entries, _) = store.list(mesh, collection, None)?;
    let read = |entry: &leno_store::Entry| serde_json::from_slice(&entry.value).ok();
    Ok(entries.iter().filter_map(read).collect())
}

/// Ends every token that could still be redeemed: one that was spent since the backup would be fresh again.
fn tokens(store: &SqliteStore, mesh: &MeshName, now: u64) -> Result<Vec<Write>, RestoreError> {
    change(store, mesh, TOKENS, |token: &mut TokenRecord| {
        let valid = token.expires > now && token.redemptions.len() < token.uses as usize;
        token.expires = token.expires.min(now);
        valid
    })
}

/// Lets no certificate of a person count that was given before: who was revoked or made less since the backup has one.
/// They are short, and made anew on the control plane's machine.
fn people(store: &SqliteStore, mesh: &MeshName, now: u64) -> Result<Vec<Write>, RestoreError> {
    change(store, mesh, USERS, |person: &mut UserRecord| {
        person.since = person.since.max(now.saturating_add(1));
        true
    })
}

/// Revokes whom the state before had revoked, in the mesh of the same root. Who had joined again since the backup keeps
/// what that gave: a copy of what it was before would count again otherwise, with all that it was allowed. Of the others
/// it is known when they renewed last: whose certificate is good is not taken for gone.
fn hosts(
    store: &SqliteStore,
    mesh: &MeshName,
    before: &Before,
    staging: &Path,
    restored: &mut Restored,
) -> Result<Vec<Write>, RestoreError> {
    let Some((root, known)) = before.hosts.get(mesh) else {
        return Ok(Vec::new());
    };
    if *root != root_of(staging, mesh) {
        return Ok(Vec::new());
    }
    change(store, mesh, AGENTS, |agent: &mut AgentRecord| {
        let Some(was) = known.get(&agent.name) else {
            return false;
        };
        let backed_up = agent.clone();
        let again = was.created > agent.created;
        if again {
            // Of an earlier host of this name nothing counts, not even that it was revoked.
            agent.clone_from(was);
        } else {
            agent.revoked |= was.revoked;
            agent.renewed = agent.renewed.max(was.renewed);
        }
        let revoked = agent.revoked && !backed_up.revoked;
        restored.still_revoked += usize::from(revoked);
        restored.joined_again += usize::from(again && !agent.revoked);
        *agent != backed_up
    })
}

/// The writes for those records of a collection that `mend` changed.
fn change<T: DeserializeOwned + serde::Serialize>(
    store: &SqliteStore,
    mesh: &MeshName,
    collection: &str,
    mut mend: impl FnMut(&mut T) -> bool,
) -> Result<Vec<Write>, RestoreError> {
    let (entries, _) = store.list(mesh, collection, None)?;
    let mut writes = Vec::new();
    for entry in entries {
        let Ok(mut record) = serde_json::from_slice::<T>(&entry.value) else {
            continue;
        };
        if mend(&mut record) {
            let value = serde_json::to_vec(&record).map_err(damaged)?;
            writes.push(Write::put(entry.key, value, Expect::Any));
        }
    }
    Ok(writes)
}

/// Puts the files of the backup into `staging`; none but those a backup has, and none anywhere else.
fn unpack(archive: impl Read, staging: &Path) -> Result<Manifest, RestoreError> {
    make_dir(staging)?;
    let (mut manifest, mut store) = (None, false);
    let (mut found, mut said) = (Digests::default(), None);
    let mut archive = Archive::new(archive);
    // Raw: names are as long as they are in a header, and no extension of the form is read.
    let entries = archive.entries().map_err(damaged)?.raw(true);
    for (number, entry) in entries.enumerate() {
        let entry = entry.map_err(damaged)?;
        if number >= MAX_FILES || !entry.header().entry_type().is_file() || said.is_some() {
            return Err(damaged("something in it is none of a backup"));
        }
        let name = entry.path().map_err(damaged)?.into_owned();
        let parts: Option<Vec<&str>> = name
            .components()
            .map(|part| match part {
                Component::Normal(part) => part.to_str(),
                _ => None,
            })
            .collect();
        let mut entry = Through::new(entry);
        match parts.as_deref() {
            Some([MANIFEST]) => {
                let read = serde_json::from_reader((&mut entry).take(MAX_AUTHORITY_FILE));
                manifest = Some(read.map_err(damaged)?);
            }
            Some([DIGESTS]) => {
                let read = serde_json::from_reader((&mut entry).take(MAX_AUTHORITY_FILE));
                said = Some(read.map_err(damaged)?);
                continue;
            }
            Some([STORE]) => {
                take(&mut entry, &staging.join(STORE), MAX_STORE)?;
                store = true;
            }
            Some([MESHES, mesh, file]) if mesh.parse::<MeshName>().is_ok() => {
                let directory = staging.join(MESHES).join(mesh);
                make_dir(&directory)?;
                take(&mut entry, &directory.join(file), MAX_AUTHORITY_FILE)?;
            }
            _ => return Err(damaged(format!("{name:?} is none of a backup"))),
        }
        found.note(name.display().to_string(), entry);
    }
    let manifest: Manifest = manifest.ok_or_else(|| damaged("it says nothing of itself"))?;
    let told = match (&*manifest.format, said) {
        // Digests that are there count, whatever else has changed: only those of form 1 may be missing.
        (FORMAT | UNSUMMED, Some(said)) => found
            .differs(&said)
            .map(|name| format!("{name:?} in it has changed since it was made")),
        (FORMAT, None) => Some("it is cut short".into()),
        (UNSUMMED, None) => None,
        (other, _) => Some(format!(
            "it is of form {other}, made by Leno {}",
            manifest.leno
        )),
    };
    if let Some(told) = told {
        return Err(damaged(told));
    }
    if OffsetDateTime::parse(&manifest.created, &Rfc3339).is_err() {
        return Err(damaged("it does not say when it was made"));
    }
    if store {
        Ok(manifest)
    } else {
        Err(damaged("the store is not in it: was it cut short?"))
    }
}

fn make_dir(path: &Path) -> Result<(), RestoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error(path))
}

/// Writes one file, 0600, and has it on disk.
fn take(entry: &mut impl Read, path: &Path, most: u64) -> Result<(), RestoreError> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error(path))?;
    let written = io::copy(&mut entry.take(most + 1), &mut file);
    let written = written.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
        _ => io_error(path)(error),
    })?;
    if written > most {
        return Err(damaged(format!("{} is too large", path.display())));
    }
    file.sync_all().map_err(io_error(path))
}

/// A place in the same directory, so that a rename is one step.
fn beside(path: &Path, ending: &str) -> Result<PathBuf, RestoreError> {
    let name = path.file_name().ok_or_else(|| RestoreError::Io {
        path: path.into(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "it names no directory"),
    })?;
    let mut name: OsString = name.into();
    name.push(ending);
    Ok(path.with_file_name(name))
}

/// Puts `staging` into the place; what was there is kept, and named. It has that name before it is set aside: whenever
/// this ends, nothing of it is in a place that the next restore clears.
fn swap(staging: &Path, data_dir: &Path, now: u64) -> Result<Option<PathBuf>, RestoreError> {
    let sync = |path: &Path| fs::File::open(path).and_then(|dir| dir.sync_all());
    sync(staging).map_err(io_error(staging))?;
    let replaced = if data_dir.exists() {
        let kept = beside(data_dir, &format!(".before-restore-{now}"))?;
        renameat_with(CWD, staging, CWD, &kept, RenameFlags::NOREPLACE)
            .map_err(|error| io_error(&kept)(error.into()))?;
        if let Err(error) = renameat_with(CWD, &kept, CWD, data_dir, RenameFlags::EXCHANGE) {
            drop(fs::rename(&kept, staging));
            return Err(match error {
                rustix::io::Errno::BUSY | rustix::io::Errno::XDEV => {
                    RestoreError::Mounted(data_dir.into())
                }
                error => io_error(data_dir)(error.into()),
            });
        }
        Some(kept)
    } else {
        fs::rename(staging, data_dir).map_err(io_error(data_dir))?;
        None
    };
    let parent = match data_dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync(parent).map_err(io_error(parent))?;
    Ok(replaced)
}
