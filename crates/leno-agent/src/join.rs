//! Joining: a token is spent for an agent's certificate.
//!
//! The control plane's pin is checked in the handshake, before the secret leaves this host.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use leno_tls::{PrivateKey, TlsError, TrustBundle, WorkloadCertificate, control::ControlConnector};
use leno_types::{DnsLabel, JoinToken, MeshName};
use leno_wire::agent::{RedeemRequest, agent_client::AgentClient};

use crate::{
    Membership,
    dial::{self, DialError},
};

/// A larger difference between the two clocks is named: certificates are backdated by five minutes.
const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// Why a host did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token's time is over.
    #[error("the join token expired: make another (leno token create)")]
    Expired,
    /// The control plane was not reached, or is not the one that the token pins.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The control plane said no.
    #[error("the control plane refused the token: {0}")]
    Refused(String),
    /// The control plane lets into another mesh than the token says.
    #[error(
        "the token is for mesh \"{token}\", and the control plane lets into mesh \"{answer}\": ask for another token (leno token create)"
    )]
    OtherMesh {
        /// On the token.
        token: MeshName,
        /// In the answer.
        answer: MeshName,
    },
    /// What came back cannot be used.
    #[error("the control plane's answer cannot be used: {0}{1}")]
    Answer(String, String),
}

/// Spends `token` for a membership. A host with a `previous` one of this mesh proves that it is the same host, and stays
/// it: its name and its workloads' ids are kept, and what it may host is what the new token says.
///
/// # Errors
/// Why not, and what to do.
pub async fn join(
    token: &JoinToken,
    host: &DnsLabel,
    addresses: &[IpAddr],
    previous: Option<&Membership>,
) -> Result<Membership, JoinError> {
    let now = SystemTime::now();
    if unix(now) > token.expires {
        return Err(JoinError::Expired);
    }
    let connector = match previous.filter(|previous| is_proof(previous, token, now)) {
        Some(previous) => {
            ControlConnector::pinned_as(&token.pins, &previous.certificate, dial::ALPN)
        }
        None => ControlConnector::pinned(&token.pins, dial::ALPN),
    };
    let connector = connector
        .map_err(DialError::Tls)?
        .with_server_name(&token.server_name());
    let channel = dial::dial_any(&token.addresses, &connector).await?;
    let key = PrivateKey::generate();
    let request = RedeemRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.to_vec(),
        csr: key
            .csr()
            .map_err(|error| JoinError::Answer(error.to_string(), String::new()))?,
        host: host.to_string(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        clock: unix(now),
        mesh: token.mesh.to_string(),
    };
    let answer = AgentClient::new(channel).redeem(request).await;
    let answer = answer
        .map_err(|status| JoinError::Refused(status.message().to_owned()))?
        .into_inner();
    let skew = skew(answer.clock);
    let unusable =
        |error: &dyn std::fmt::Display| JoinError::Answer(error.to_string(), skew.clone());
    let trust_domain = answer
        .trust_domain
        .parse()
        .map_err(|error| unusable(&error))?;
    let bundle = TrustBundle::from_pem(trust_domain, &answer.trust_bundle)
        .map_err(|error| unusable(&error))?;
    let certificate =
        WorkloadCertificate::new(None, &answer.chain, &key, &bundle, 0, SystemTime::now())
            .map_err(|error: TlsError| unusable(&error))?;
    let mesh: MeshName = answer.mesh.parse().map_err(|error| unusable(&error))?;
    if mesh != token.mesh {
        let token = token.mesh.clone();
        return Err(JoinError::OtherMesh {
            token,
            answer: mesh,
        });
    }
    Ok(Membership {
        mesh,
        trust_domain: bundle.domain().clone(),
        agent: answer.agent.parse().map_err(|error| unusable(&error))?,
        control_planes: token.addresses.clone(),
        bundle,
        key,
        certificate,
    })
}

/// Whether the control plane that the token pins can believe the certificate of before: of another authority, or out of
/// its time, it would only break the handshake.
fn is_proof(previous: &Membership, token: &JoinToken, now: SystemTime) -> bool {
    let pins = previous.bundle.pins();
    previous.mesh == token.mesh
        && pins.iter().any(|pin| token.pins.contains(pin))
        && previous.certificate.remaining(now).is_some()
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// How far the two clocks are apart, as the end of a sentence; empty when they agree.
fn skew(theirs: u64) -> String {
    let ours = unix(SystemTime::now());
    let apart = ours.abs_diff(theirs);
    if apart <= CLOCK_SKEW.as_secs() {
        return String::new();
    }
    let direction = if ours > theirs { "ahead of" } else { "behind" };
    format!("; this host's clock is {apart} s {direction} the control plane's: set it right")
}
