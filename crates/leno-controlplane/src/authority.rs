//! The certificate authority of one mesh: its files, its intermediate, what it signs.
//!
//! Owns `root.pem`, `root.key`, `intermediate.pem`, `intermediate.key`, `uid.key` and, while roots are rotated,
//! `root-other.pem` in the mesh's directory: keys 0600, written to a new file and renamed. Refuses to start with half
//! of a pair: a lost root must be restored, not replaced in silence.
//! Invariant: the intermediate that signs has at least half of its life before it, or the root is about to end.

use std::{
    fs, io,
    io::Write,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use leno_tls::{
    PrivateKey, TrustBundle, WorkloadCertificate,
    ca::{CaError, Csr, Intermediate, IssuedChain, RootAuthority, Usage},
};
use leno_types::{DnsLabel, Identity, MeshName, TrustDomain, WorkloadUid};

use crate::StartError;

/// Life of an agent's certificate; renewed daily (CP3).
pub const AGENT_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Life of the control plane's own certificate; renewed at half of it.
pub const SERVER_TTL: Duration = Duration::from_secs(24 * 3600);
/// Life of a person's certificate.
pub const USER_TTL: Duration = Duration::from_secs(12 * 3600);

/// The certificate authority of one mesh.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    root: RootAuthority,
    intermediate: Intermediate,
    bundle: TrustBundle,
    intermediate_ttl: Duration,
    workload_ttl: Duration,
    uid_key: [u8; 32],
    /// Certificates signed since the start.
    pub signed: u64,
}

impl Authority {
    /// Reads the authority in `directory`, or makes it.
    ///
    /// # Errors
    /// When files are missing, damaged, or of another trust domain.
    pub fn open(
        directory: &Path,
        mesh: &MeshName,
        domain: &TrustDomain,
        (workload_ttl, intermediate_ttl): (Duration, Duration),
        now: SystemTime,
    ) -> Result<Self, StartError> {
        let error = |reason: String| StartError::Authority {
            mesh: mesh.to_string(),
            reason,
        };
        let io_error = |error: io::Error| StartError::DataDir {
            path: directory.into(),
            source: error,
        };
        let ca_error = |e: CaError| error(e.to_string());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(io_error)?;
        let root = match read_pair(directory, "root").map_err(error)? {
            Some((cert, key)) => RootAuthority::from_pem(&cert, &key).map_err(ca_error)?,
            None => {
                let root = RootAuthority::generate(domain, now).map_err(ca_error)?;
                // The key first: a certificate without its key would be half a pair.
                write(directory, "root.key", root.key_pem().expose()).map_err(io_error)?;
                write(directory, "root.pem", &root.cert_pem()).map_err(io_error)?;
                root
            }
        };
        if root.domain() != domain {
            return Err(error(format!(
                "its root is of trust domain {}, and {domain} is asked for: give the same --trust-domain as before, \
                 or another data directory",
                root.domain()
            )));
        }
        let intermediate = match read_pair(directory, "intermediate").map_err(error)? {
            Some((cert, key)) => Intermediate::from_pem(&cert, &key).map_err(ca_error)?,
            None => {
                let made = root
                    .issue_intermediate(now, intermediate_ttl)
                    .map_err(ca_error)?;
                save_intermediate(directory, &made).map_err(io_error)?;
                made
            }
        };
        let mut roots = root.cert_pem();
        match fs::read_to_string(directory.join("root-other.pem")) {
            Ok(other) => roots.push_str(&other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(error)),
        }
        let bundle =
            TrustBundle::from_pem(domain.clone(), &roots).map_err(|e| error(e.to_string()))?;
        Ok(Self {
            directory: directory.into(),
            root,
            intermediate,
            bundle,
            intermediate_ttl,
            workload_ttl,
            uid_key: uid_key(directory).map_err(io_error)?,
            signed: 0,
        })
    }

    /// The roots to trust.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        self.root.domain()
    }

    /// The key with which ids of workloads are made.
    #[must_use]
    pub fn uid_key(&self) -> &[u8; 32] {
        &self.uid_key
    }

    /// When the intermediate ends.
    #[must_use]
    pub fn intermediate_not_after(&self) -> SystemTime {
        self.intermediate.not_after()
    }

    /// When the root ends.
    #[must_use]
    pub fn root_not_after(&self) -> SystemTime {
        self.root.not_after()
    }

    /// Life of a workload's certificate.
    #[must_use]
    pub fn workload_ttl(&self) -> Duration {
        self.workload_ttl
    }

    /// Renews the intermediate when half of its life is left; whether it did. What the old one signed stays valid: each
    /// certificate carries its issuer.
    ///
    /// # Errors
    /// When the root has ended, or the files cannot be written: the old one signs on.
    pub fn renew(&mut self, now: SystemTime) -> Result<bool, RenewError> {
        let (from, until) = (
            self.intermediate.not_before(),
            self.intermediate.not_after(),
        );
        // Not by its own beginning, which is backdated: one that lives for minutes would be due at once, and always.
        let half = now.checked_add(self.intermediate_ttl / 2);
        let due = half.is_none_or(|half| half >= until);
        // A clock that was set back must not leave everybody with an issuer from the future.
        let early = now < from;
        if (!due && !early) || until >= self.root.not_after() {
            return Ok(false);
        }
        let made = self.root.issue_intermediate(now, self.intermediate_ttl)?;
        save_intermediate(&self.directory, &made)?;
        self.intermediate = made;
        Ok(true)
    }

    /// A certificate for a workload.
    ///
    /// # Errors
    /// When the request or the authority cannot be used.
    pub fn sign_workload(
        &mut self,
        csr: &Csr,
        identity: &Identity,
        uid: WorkloadUid,
        now: SystemTime,
    ) -> Result<IssuedChain, CaError> {
        let names = [uid.to_string()];
        self.sign(
            csr,
            identity,
            &names,
            Usage::Workload,
            now,
            self.workload_ttl,
        )
    }

    /// A certificate for an agent.
    ///
    /// # Errors
    /// When the request or the authority cannot be used.
    pub fn sign_agent(
        &mut self,
        csr: &Csr,
        agent: &DnsLabel,
        now: SystemTime,
    ) -> Result<IssuedChain, CaError> {
        let identity = Identity::agent(self.domain(), agent);
        self.sign(csr, &identity, &[], Usage::Client, now, AGENT_TTL)
    }

    /// A certificate for a person.
    ///
    /// # Errors
    /// When the request or the authority cannot be used.
    pub fn sign_user(
        &mut self,
        csr: &Csr,
        user: &DnsLabel,
        now: SystemTime,
    ) -> Result<IssuedChain, CaError> {
        let identity = Identity::user(self.domain(), user);
        self.sign(csr, &identity, &[], Usage::Client, now, USER_TTL)
    }

    /// A new key and certificate for the control plane itself: for its TLS port, reached by `names`, and for calls it
    /// makes.
    ///
    /// # Errors
    /// When the authority cannot be used.
    pub fn own_certificate(
        &mut self,
        names: &[String],
        generation: u64,
        now: SystemTime,
    ) -> Result<WorkloadCertificate, RenewError> {
        let key = PrivateKey::generate();
        let csr = Csr::from_der(&key.csr()?)?;
        let identity = Identity::control_plane(self.domain());
        let chain = self.sign(&csr, &identity, names, Usage::Workload, now, SERVER_TTL)?;
        let bundle = &self.bundle;
        let made = WorkloadCertificate::new(None, &chain.chain_pem, &key, bundle, generation, now)?;
        Ok(made)
    }

    fn sign(
        &mut self,
        csr: &Csr,
        identity: &Identity,
        names: &[String],
        usage: Usage,
        now: SystemTime,
        ttl: Duration,
    ) -> Result<IssuedChain, CaError> {
        let chain = self
            .intermediate
            .sign(csr, identity, names, usage, now, ttl)?;
        self.signed = self.signed.saturating_add(1);
        Ok(chain)
    }
}

/// Why something was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] leno_tls::TlsError),
    /// The disk.
    #[error("its file cannot be written")]
    Io(#[from] io::Error),
}

/// Names by which the control plane's certificate is good.
#[must_use]
pub fn server_names(domain: &TrustDomain, hosts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = vec!["localhost".into(), "127.0.0.1".into(), "::1".into()];
    names.push(domain.to_string());
    names.extend(hosts);
    names.retain(|name| match name.parse::<IpAddr>() {
        Ok(address) => !address.is_unspecified(),
        Err(_) => !name.contains('_'),
    });
    names.sort();
    names.dedup();
    names.truncate(leno_tls::ca::MAX_EXTRA_NAMES);
    names
}

fn save_intermediate(directory: &Path, made: &Intermediate) -> io::Result<()> {
    // One file for both would be atomic, but people and tools expect two; a crash in between leaves a pair that does
    // not match, which `read_pair` sees, and drops: an intermediate can always be made anew.
    write(directory, "intermediate.key", made.key_pem().expose())?;
    write(directory, "intermediate.pem", &made.cert_pem())
}

/// A certificate and its key; `None` when both are missing. An intermediate that is incomplete is as good as none.
fn read_pair(directory: &Path, name: &str) -> Result<Option<(String, String)>, String> {
    let read = |file: String| match fs::read_to_string(directory.join(&file)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!(
            "{} cannot be read: {error}",
            directory.join(file).display()
        )),
    };
    let (cert, key) = (read(format!("{name}.pem"))?, read(format!("{name}.key"))?);
    match (cert, key) {
        (Some(cert), Some(key)) => {
            let usable = name == "root" || Intermediate::from_pem(&cert, &key).is_ok();
            Ok(usable.then_some((cert, key)))
        }
        // The key is written first, and a certificate without it was never used.
        (None, _) => Ok(None),
        (Some(_), None) if name == "root" => Err(format!(
            "{} is missing: restore it from a backup; a new root would be trusted by nobody who joined",
            directory.join("root.key").display()
        )),
        (Some(_), None) => Ok(None),
    }
}

fn uid_key(directory: &Path) -> io::Result<[u8; 32]> {
    if let Ok(bytes) = fs::read(directory.join("uid.key"))
        && let Ok(key) = bytes.try_into()
    {
        return Ok(key);
    }
    let key = random::<32>();
    write_bytes(directory, "uid.key", &key)?;
    Ok(key)
}

/// Bytes that nobody can guess.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works");
    bytes
}

fn write(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    write_bytes(directory, name, text.as_bytes())
}

/// Writes a file whole or not at all, 0600, on disk when this returns.
fn write_bytes(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (path, new) = (directory.join(name), directory.join(format!("{name}.new")));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn an_intermediate_is_renewed_at_half_of_its_life_and_what_it_signed_stays_good() {
        let directory = tempfile::tempdir().unwrap();
        let (mesh, domain) = ("default".parse().unwrap(), "default.leno".parse().unwrap());
        let minute = Duration::from_secs(60);
        let mut now = SystemTime::now();
        let open = |now| Authority::open(directory.path(), &mesh, &domain, (minute, minute), now);
        let mut authority = open(now).unwrap();
        let key = PrivateKey::generate();
        let csr = Csr::from_der(&key.csr().unwrap()).unwrap();
        let mut chains = Vec::new();
        for _ in 0..3 {
            assert!(!authority.renew(now).unwrap(), "it is new");
            let chain = authority.sign_agent(&csr, &"b".parse().unwrap(), now);
            chains.push(chain.unwrap().chain_pem);
            now += minute / 2 - Duration::from_secs(2);
            assert!(!authority.renew(now).unwrap(), "it is not half over");
            now += Duration::from_secs(2);
            assert!(authority.renew(now).unwrap());
        }
        // All were issued by another, and the last two are good now; so is the authority after a restart.
        let (bundle, last) = (authority.bundle().clone(), chains.split_off(1));
        for chain in last {
            WorkloadCertificate::new(None, &chain, &key, &bundle, 1, now - minute / 2).unwrap();
        }
        let again = open(now).unwrap();
        assert_eq!(
            again.intermediate_not_after(),
            authority.intermediate_not_after()
        );
        // A clock that was set back: an issuer from the future is no use to anybody.
        assert!(authority.renew(now - Duration::from_secs(330)).unwrap());
    }
}
