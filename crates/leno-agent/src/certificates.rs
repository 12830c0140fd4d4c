//! Certificates of one host: asked for, renewed at half life with jitter, tried again when the control plane is away.
//!
//! Keys are made here and never leave: only the request for a certificate does.

use std::time::{Duration, Instant, SystemTime};

use leno_tls::{PrivateKey, TrustBundle, WorkloadCertificate};
use leno_types::{TrustDomain, WorkloadUid};
use leno_wire::agent::{RenewRequest, SignWorkloadRequest, agent_client::AgentClient};
use tonic::transport::Channel;

const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// An agent's own certificate lasts 30 days and is renewed daily (CP3).
const AGENT_RENEWAL: Duration = Duration::from_secs(24 * 3600);

/// A certificate with the key it was asked for with, and the bundle that came with it.
pub(crate) struct Issued {
    pub(crate) key: PrivateKey,
    pub(crate) certificate: WorkloadCertificate,
    pub(crate) bundle: TrustBundle,
}

/// When to ask next.
#[derive(Debug)]
pub(crate) struct Renewal {
    due: Option<SystemTime>,
    asked: bool,
    not_before: Option<Instant>,
    wait: Duration,
}

impl Renewal {
    /// Due at once.
    pub(crate) fn now() -> Self {
        Self {
            due: None,
            asked: false,
            not_before: None,
            wait: FIRST_RETRY,
        }
    }

    /// Due when this certificate is at half its life.
    pub(crate) fn of(certificate: &WorkloadCertificate, jitter: f64) -> Self {
        Self {
            due: Some(certificate.renew_at(jitter)),
            ..Self::now()
        }
    }

    /// Due a day after an agent's certificate was issued, or at half life if that comes first.
    pub(crate) fn of_agent(certificate: &WorkloadCertificate, jitter: f64) -> Self {
        let daily = certificate.not_before() + AGENT_RENEWAL;
        Self {
            due: Some(certificate.renew_at(jitter).min(daily)),
            ..Self::now()
        }
    }

    /// Whether to ask now; if so, it is taken as asked.
    pub(crate) fn take(&mut self, now: SystemTime, tick: Instant) -> bool {
        let due =
            self.due.is_none_or(|due| now >= due) && self.not_before.is_none_or(|at| tick >= at);
        let take = due && !self.asked;
        self.asked |= take;
        take
    }

    /// It failed: again after a while.
    pub(crate) fn failed(&mut self, tick: Instant) {
        self.asked = false;
        self.not_before = Some(tick + self.wait);
        self.wait = (self.wait * 2).min(LAST_RETRY);
    }
}

/// Asks for a workload's certificate.
pub(crate) async fn sign_workload(
    channel: Channel,
    uid: WorkloadUid,
    generation: u64,
    domain: TrustDomain,
) -> Result<Issued, String> {
    let key = PrivateKey::generate();
    let csr = key.csr().map_err(|error| error.to_string())?;
    let request = SignWorkloadRequest {
        uid: uid.to_string(),
        csr,
    };
    let answer = AgentClient::new(channel).sign_workload(request).await;
    let answer = answer
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    issued(
        Some(uid),
        &answer.chain,
        &answer.trust_bundle,
        key,
        generation,
        domain,
    )
}

/// Asks for the agent's own next certificate.
pub(crate) async fn renew_agent(channel: Channel, domain: TrustDomain) -> Result<Issued, String> {
    let key = PrivateKey::generate();
    let csr = key.csr().map_err(|error| error.to_string())?;
    let answer = AgentClient::new(channel).renew(RenewRequest { csr }).await;
    let answer = answer
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    issued(None, &answer.chain, &answer.trust_bundle, key, 0, domain)
}

fn issued(
    uid: Option<WorkloadUid>,
    chain: &str,
    bundle: &str,
    key: PrivateKey,
    generation: u64,
    domain: TrustDomain,
) -> Result<Issued, String> {
    let bundle = TrustBundle::from_pem(domain, bundle).map_err(|error| error.to_string())?;
    let certificate =
        WorkloadCertificate::new(uid, chain, &key, &bundle, generation, SystemTime::now());
    let certificate = certificate.map_err(|error| error.to_string())?;
    Ok(Issued {
        key,
        certificate,
        bundle,
    })
}
