//! A host's membership in a mesh, as kept on its disk (CP3): which mesh, where its control plane is, the agent's key
//! and certificate, the bundle. 0600 in a directory of 0700; a rebooted host comes back with it by itself.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use leno_tls::{PrivateKey, TlsError, TrustBundle, WorkloadCertificate};
use leno_types::{DnsLabel, HostPort, MeshName, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::files;

const FILE: &str = "membership.json";
/// Its content is shorter: a key, a chain of three certificates, a bundle of two.
const LONGEST: usize = 32 * 1024;

/// A host's membership in a mesh.
#[derive(Clone)]
pub struct Membership {
    /// The mesh.
    pub mesh: MeshName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The agent's name, as the control plane gave it.
    pub agent: DnsLabel,
    /// Where the control plane is reached; any of them.
    pub control_planes: Vec<HostPort>,
    /// The roots to trust.
    pub bundle: TrustBundle,
    /// The agent's key.
    pub key: PrivateKey,
    /// The agent's certificate.
    pub certificate: WorkloadCertificate,
}

/// Why a membership cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The disk says no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The content is not what was written.
    #[error(
        "{path} is damaged ({reason}): join again with a new token (leno token create, then leno join)"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The certificate's time is over.
    #[error(
        "this host's certificate is not valid any more ({0}): join again with a new token, or set the clock right"
    )]
    Certificate(TlsError),
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    mesh: String,
    trust_domain: String,
    agent: String,
    control_planes: Vec<String>,
    bundle: String,
    key: String,
    chain: String,
}

impl Membership {
    /// Reads it; `None` when this host has not joined.
    ///
    /// # Errors
    /// When there is one, but it cannot be used.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, MembershipError> {
        let path = data_dir.join(FILE);
        let shown = || path.display().to_string();
        let content = files::read_optional(&path).map_err(|source| MembershipError::Io {
            path: shown(),
            source,
        })?;
        let Some(content) = content else {
            return Ok(None);
        };
        let damaged = |reason: String| MembershipError::Damaged {
            path: shown(),
            reason,
        };
        let disk: OnDisk =
            serde_json::from_slice(&content).map_err(|error| damaged(error.to_string()))?;
        let trust_domain: TrustDomain = disk
            .trust_domain
            .parse()
            .map_err(|error| damaged(format!("{error}")))?;
        let bundle = TrustBundle::from_pem(trust_domain.clone(), &disk.bundle)
            .map_err(|error| damaged(error.to_string()))?;
        let key = PrivateKey::from_pem(&disk.key).map_err(|error| damaged(error.to_string()))?;
        let certificate =
            WorkloadCertificate::new(None, &disk.chain, &key, &bundle, 0, SystemTime::now())
                .map_err(MembershipError::Certificate)?;
        let control_planes = disk
            .control_planes
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>();
        Ok(Some(Self {
            mesh: disk
                .mesh
                .parse()
                .map_err(|error| damaged(format!("{error}")))?,
            trust_domain,
            agent: disk
                .agent
                .parse()
                .map_err(|error| damaged(format!("{error}")))?,
            control_planes: control_planes.map_err(|error| damaged(format!("{error}")))?,
            bundle,
            key,
            certificate,
        }))
    }

    /// Where it is kept below a directory.
    #[must_use]
    pub fn file(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE)
    }

    /// Makes sure that there is a place to write it to: a token that was spent for nothing cannot be had back.
    ///
    /// # Errors
    /// When the disk would not take it.
    pub fn prepare(data_dir: &Path) -> Result<(), MembershipError> {
        let path = data_dir.join(FILE);
        let tried = files::private_dir(data_dir).and_then(|()| files::try_private(&path, LONGEST));
        tried.map_err(|source| MembershipError::Io {
            path: path.display().to_string(),
            source,
        })
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the disk does not take it; what was there before stays.
    pub fn save(&self, data_dir: &Path) -> Result<(), MembershipError> {
        let path = data_dir.join(FILE);
        let disk = OnDisk {
            mesh: self.mesh.to_string(),
            trust_domain: self.trust_domain.to_string(),
            agent: self.agent.to_string(),
            control_planes: self
                .control_planes
                .iter()
                .map(ToString::to_string)
                .collect(),
            bundle: self.bundle.to_pem(),
            key: self.key.to_pem().expose().to_owned(),
            chain: self.certificate.chain_pem(),
        };
        let written = serde_json::to_vec_pretty(&disk)
            .map_err(io::Error::other)
            .and_then(|content| {
                files::private_dir(data_dir)?;
                files::write_private(&path, &content)
            });
        written.map_err(|source| MembershipError::Io {
            path: path.display().to_string(),
            source,
        })
    }
}
