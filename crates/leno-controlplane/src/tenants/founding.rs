//! How a mesh comes to be, and how it ends: its authority's files, its record in the store, and their order.
//!
//! Made: the files under another name (`NAME.new`), then the record, then the files' own name. The record is the
//! moment at which the mesh exists. Removed: the record says so, everything of the mesh in the store goes, then the
//! files, and the record last. Whatever a crash leaves between is finished, or taken away, at the next start.
//! Refuses to touch files that no record speaks of: they may be the only root that somebody's hosts trust.
//! Invariant: a mesh that was acknowledged is whole, and of one that was not nothing is left.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use leno_ir::Prefix;
use leno_store::{Entry, Expect, Store, StoreError, Write};
use leno_types::{HostPort, JOINING_SUFFIX, MeshName, TrustDomain};

use super::{MAX_PREFIXES, MESHES, MeshRecord};
use crate::{
    StartError,
    authority::{Authority, server_names},
    core::Clock,
    mesh::{Mesh, Settings},
    times::unix,
};

/// Entries that are deleted in one transaction: other meshes' writes wait for it.
const SLICE: usize = 256;
/// How often what others write meanwhile is read again.
const TRIES: usize = 8;

/// What a mesh is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: MeshName,
    pub(crate) domain: TrustDomain,
    pub(crate) prefixes: Vec<Prefix>,
    /// The revision of the store of its record; 0 for the control plane's own mesh, which has none.
    pub(crate) begins: u64,
}

impl Plan {
    /// Reads what a person asks for.
    ///
    /// # Errors
    /// Which field is wrong, and why.
    pub(crate) fn read(
        name: &str,
        domain: Option<&str>,
        prefixes: &[String],
    ) -> Result<Self, String> {
        let name: MeshName = name.parse().map_err(|error| format!("name: {error}"))?;
        let default = format!("{name}.leno");
        let domain: TrustDomain = domain
            .unwrap_or(&default)
            .parse()
            .map_err(|error| format!("trustDomain: {error}"))?;
        if domain.as_str().ends_with(JOINING_SUFFIX) {
            return Err(format!(
                "trustDomain: {domain} ends in {JOINING_SUFFIX}, by which hosts that join call a mesh: choose another"
            ));
        }
        if prefixes.len() > MAX_PREFIXES {
            return Err(format!(
                "prefixes: a mesh has {MAX_PREFIXES} networks at most"
            ));
        }
        let prefixes = prefixes
            .iter()
            .map(|text| text.parse().map_err(|error| format!("prefixes: {error}")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name,
            domain,
            prefixes,
            begins: 0,
        })
    }

    /// What a record says that was first written at a revision.
    fn of_record(name: &MeshName, record: &MeshRecord, begins: u64) -> Result<Self, String> {
        let plan = Self::read(name.as_str(), Some(&record.trust_domain), &record.prefixes)?;
        Ok(Self { begins, ..plan })
    }
}

/// Why a mesh is not made, or not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FoundingError {
    /// There are files of a mesh that the store does not know.
    #[error(
        "{0} holds the certificate authority of a mesh that this control plane's store does not know: if nobody needs it any more, move it away and try again"
    )]
    Stray(PathBuf),
    /// The disk.
    #[error("{0} cannot be written: {1}")]
    Disk(PathBuf, io::Error),
    /// The authority or its certificate.
    #[error(transparent)]
    Authority(#[from] StartError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes, opens and removes meshes.
#[derive(Clone)]
pub(crate) struct Founder {
    /// One directory a mesh.
    pub(crate) root: PathBuf,
    /// Life of a workload's certificate, and of an intermediate.
    pub(crate) ttls: (Duration, Duration),
    pub(crate) advertise: Vec<HostPort>,
    pub(crate) clock: Clock,
}

impl Founder {
    /// Refuses, for a new mesh, a trust domain by which callers would reach another one: by its name in TLS a mesh is
    /// chosen, without a dot at its end, and the control plane's own names are the first mesh's.
    pub(crate) fn admit(&self, domain: &TrustDomain) -> Result<(), String> {
        let text = domain.as_str();
        let label =
            |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
        if !text.split('.').all(label) || text.parse::<IpAddr>().is_ok() {
            return Err(format!(
                "trustDomain: {text} is no domain name: labels between single dots, as shop.example"
            ));
        }
        let own = self.advertise.iter().map(HostPort::host);
        if own
            .chain(["localhost"])
            .any(|own| own.eq_ignore_ascii_case(text))
        {
            return Err(format!(
                "trustDomain: {text} is a name of the control plane itself: choose another"
            ));
        }
        Ok(())
    }

    fn directory(&self, name: &MeshName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// No mesh's name has a dot.
    fn beside(&self, name: &MeshName, suffix: &str) -> PathBuf {
        self.root.join(format!("{name}.{suffix}"))
    }

    /// Reads a mesh's authority, or makes it, and a mesh of which the store has not been read yet.
    pub(crate) fn open(&self, plan: &Plan) -> Result<Mesh, StartError> {
        let now = self.clock.wall();
        let directory = self.directory(&plan.name);
        let mut authority = Authority::open(&directory, &plan.name, &plan.domain, self.ttls, now)?;
        let hosts = self.advertise.iter().map(|place| place.host().to_owned());
        let names = server_names(&plan.domain, hosts);
        let error = |reason: String| StartError::Authority {
            mesh: plan.name.to_string(),
            reason,
        };
        authority.renew(now).map_err(|e| error(e.to_string()))?;
        let certificate = authority
            .own_certificate(&names, 1, now)
            .map_err(|e| error(e.to_string()))?;
        let settings = Settings {
            name: plan.name.clone(),
            prefixes: plan.prefixes.clone(),
            advertise: self.advertise.clone(),
            begins: plan.begins,
        };
        let now = self.clock.uptime();
        Ok(Mesh::new(settings, authority, certificate, now))
    }

    /// Makes a mesh, which is then to be opened; the revision at which it begins. Once this returns, it is there after any
    /// crash.
    pub(crate) async fn found(&self, store: &dyn Store, plan: &Plan) -> Result<u64, FoundingError> {
        let (own, new) = (self.directory(&plan.name), self.beside(&plan.name, "new"));
        if own.exists() {
            return Err(FoundingError::Stray(own));
        }
        remove(&new)?;
        let now = self.clock.wall();
        let made = Authority::open(&new, &plan.name, &plan.domain, self.ttls, now);
        let recorded = match made {
            Ok(authority) => {
                sync(&self.root)?;
                let record = MeshRecord {
                    trust_domain: plan.domain.to_string(),
                    prefixes: plan.prefixes.iter().map(Prefix::to_string).collect(),
                    created: unix(now),
                    pins: authority.bundle().pins(),
                    deleting: false,
                };
                record_new(store, &plan.name, &record).await
            }
            Err(error) => Err(error.into()),
        };
        match recorded {
            Ok(begins) => {
                self.settle(&plan.name)?;
                Ok(begins)
            }
            Err(error) => {
                remove(&new)?;
                Err(error)
            }
        }
    }

    /// Gives the files of a mesh that is recorded their name.
    fn settle(&self, name: &MeshName) -> Result<(), FoundingError> {
        let (own, new) = (self.directory(name), self.beside(name, "new"));
        fs::rename(&new, &own).map_err(|error| FoundingError::Disk(own, error))?;
        sync(&self.root)
    }

    /// Removes what there is of a mesh that is not served any more, and its record last.
    pub(crate) async fn dissolve(
        &self,
        store: &dyn Store,
        name: &MeshName,
    ) -> Result<(), FoundingError> {
        clear(store, name).await?;
        let (own, gone) = (self.directory(name), self.beside(name, "gone"));
        remove(&gone)?;
        if own.exists() {
            // At once out of sight: half a directory of keys is nobody's mesh.
            fs::rename(&own, &gone).map_err(|error| FoundingError::Disk(own, error))?;
            sync(&self.root)?;
            remove(&gone)?;
        }
        match store
            .commit(vec![Write::delete(MeshRecord::key(name), Expect::Any)])
            .await
        {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Finishes what a crash left, and opens every mesh that is recorded, but `own`. One that cannot be opened is told
    /// of and left as it is: it is no reason for the others to wait.
    pub(crate) async fn reopen(
        &self,
        store: &dyn Store,
        own: &MeshName,
    ) -> Result<Vec<Mesh>, StoreError> {
        let mut opened = Vec::new();
        let mut known = Vec::new();
        for name in store.meshes()? {
            let Some((record, entry)) = MeshRecord::read(store, &name)? else {
                continue;
            };
            known.push(name.clone());
            if record.deleting {
                if let Err(error) = self.dissolve(store, &name).await {
                    tracing::error!(mesh = %name, %error, "a mesh is not removed yet");
                }
            } else if name != *own {
                match self.reopen_one(&name, &record, entry.created) {
                    Ok(mesh) => opened.push(mesh),
                    Err(reason) => {
                        tracing::error!(mesh = %name, reason, "a mesh is not served");
                    }
                }
            }
        }
        self.sweep(&known);
        Ok(opened)
    }

    fn reopen_one(
        &self,
        name: &MeshName,
        record: &MeshRecord,
        begins: u64,
    ) -> Result<Mesh, String> {
        let plan = Plan::of_record(name, record, begins)?;
        let directory = self.directory(name);
        if !directory.exists() {
            self.settle(name).map_err(|_| {
                format!(
                    "its certificate authority is missing: restore {} from a backup",
                    directory.display()
                )
            })?;
        }
        let whole = directory.join("root.pem").exists() && directory.join("root.key").exists();
        if !whole {
            let what = "its root is missing: restore root.pem and root.key in";
            return Err(format!("{what} {} from a backup", directory.display()));
        }
        let mesh = self.open(&plan).map_err(|error| error.to_string())?;
        let pins = mesh.authority.bundle().pins();
        if !pins.iter().any(|pin| record.pins.contains(pin)) {
            return Err(format!(
                "{} holds another certificate authority than the one it was made with: restore that from a backup",
                directory.display()
            ));
        }
        Ok(mesh)
    }

    /// Removes files of meshes that were never made, or were removed already.
    fn sweep(&self, known: &[MeshName]) {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return;
        };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let Some((name, suffix)) = file.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            let recorded = known.iter().any(|known| known.as_str() == name);
            if (suffix == "new" && !recorded) || suffix == "gone" {
                match fs::remove_dir_all(entry.path()) {
                    Ok(()) => tracing::info!(path = ?entry.path(), "what a crash left was removed"),
                    Err(error) => {
                        tracing::warn!(path = ?entry.path(), %error, "it cannot be removed")
                    }
                }
            }
        }
    }
}

/// Writes the record of a new mesh, after what stray writes have left under its name; its revision.
async fn record_new(
    store: &dyn Store,
    name: &MeshName,
    record: &MeshRecord,
) -> Result<u64, FoundingError> {
    clear(store, name).await?;
    let write = record.write(name, Expect::Absent);
    Ok(store.commit(vec![write]).await?)
}

/// Deletes everything of a mesh from the store but its record, a slice at a time.
async fn clear(store: &dyn Store, name: &MeshName) -> Result<(), StoreError> {
    for collection in store.collections(name)? {
        for _ in 0..TRIES {
            let (entries, _) = store.list(name, &collection, None)?;
            if entries.is_empty() || *collection == *MESHES {
                break;
            }
            for slice in entries.chunks(SLICE) {
                let delete = |entry: &Entry| {
                    Write::delete(entry.key.clone(), Expect::Revision(entry.revision))
                };
                match store.commit(slice.iter().map(delete).collect()).await {
                    // Somebody wrote meanwhile: the next look sees it.
                    Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), FoundingError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FoundingError::Disk(path.into(), error))
        }
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> Result<(), FoundingError> {
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| FoundingError::Disk(directory.into(), error))
}
