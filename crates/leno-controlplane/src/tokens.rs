//! Join tokens as the server keeps them, and the agents they made.
//!
//! Owns the decision whether a token may be spent. Keeps a hash, never the secret. Reads no clock and no store: the
//! caller does, and compares-and-sets what comes out.
//! Invariant: a token makes at most as many agents as it has uses; the same key within ten minutes gets the same
//! answer again and uses nothing up.

use std::{net::IpAddr, time::Duration};

use aws_lc_rs::{constant_time, digest};
use leno_types::DnsLabel;
use serde::{Deserialize, Serialize};

use crate::{
    authority::AGENT_TTL,
    documents::{Scope, TokenInfo, TokenRequest},
    places::Places,
    records::Record,
    registry::AgentScope,
    times::rfc3339,
};

/// How long a lost answer can be had again.
pub const REPEAT: u64 = 600;
/// How long a token can be redeemed when its maker does not say.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// Longest time for which a token can be redeemed.
pub const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most hosts of one token.
pub const MOST_USES: u32 = 1_000;
/// Most tokens of a mesh.
pub const MAX_TOKENS: usize = 4_096;
/// An agent's renewals are written down so often, seconds.
const NOTED_EVERY: u64 = 12 * 3600;
/// The collection of tokens in the store.
pub const TOKENS: &str = "leno/tokens";
/// The collection of agents in the store.
pub const AGENTS: &str = "leno/agents";

/// A token, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its id.
    pub id: String,
    /// SHA-256 of its secret, hex.
    pub secret_hash: String,
    /// What its agents may host.
    pub scope: Scope,
    /// How many agents it may make.
    pub uses: u32,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970.
    pub expires: u64,
    /// What it made.
    #[serde(default)]
    pub redemptions: Vec<Redemption>,
}

/// One agent that a token made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redemption {
    /// The id of the agent's key.
    pub key: String,
    /// The agent.
    pub agent: String,
    /// Seconds since 1970.
    pub at: u64,
    /// The certificate that was answered, while it may be asked for again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chain: String,
}

/// An agent, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Its name.
    pub name: String,
    /// What it may host.
    pub scope: AgentScope,
    /// The token that made it; empty for the control plane's own machine.
    pub token: String,
    /// Seconds since 1970.
    pub created: u64,
    /// When its certificate was last renewed, seconds since 1970; noted twice a day at most.
    #[serde(default)]
    pub renewed: u64,
    /// Whether its certificate counts no more.
    #[serde(default)]
    pub revoked: bool,
    /// When it said goodbye, seconds since 1970; none while it is there, or is away without a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<u64>,
    /// Where it is, and was lately.
    #[serde(default, skip_serializing_if = "Places::is_empty")]
    pub places: Places,
    /// Of its entry in the store; none while it is on its way there.
    #[serde(skip)]
    pub revision: Option<u64>,
}

impl Record for TokenRecord {
    const COLLECTION: &'static str = TOKENS;
}

impl Record for AgentRecord {
    const COLLECTION: &'static str = AGENTS;
}

impl AgentRecord {
    /// The record of an agent that joins now.
    #[must_use]
    pub fn new(name: &DnsLabel, scope: &AgentScope, token: String, now: u64) -> Self {
        Self {
            name: name.to_string(),
            scope: scope.clone(),
            token,
            created: now,
            renewed: now,
            revoked: false,
            stopped: None,
            places: Places::default(),
            revision: None,
        }
    }

    /// Whether a certificate issued then is of an earlier joining: its key may be in a copy of the host's disk.
    #[must_use]
    pub fn outdates(&self, issued: u64) -> bool {
        issued < self.created
    }

    /// Whether this is what was known before `revision` of the store.
    #[must_use]
    pub fn is_before(&self, revision: u64) -> bool {
        self.revision.is_none_or(|own| own < revision)
    }

    /// Notes that its certificate was renewed; whether that is worth writing down.
    pub fn renew(&mut self, now: u64) -> bool {
        let due = now >= self.renewed.saturating_add(NOTED_EVERY);
        if due {
            self.renewed = now;
        }
        due
    }

    /// Whether every certificate it was ever given has ended: it cannot come back but by a new token.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        let last = self.created.max(self.renewed).saturating_add(NOTED_EVERY);
        now > last.saturating_add(AGENT_TTL.as_secs())
    }
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedeemError {
    /// No such id.
    #[error(
        "this control plane knows no token {0}: it was deleted, or made by another mesh's control plane"
    )]
    Unknown(String),
    /// The id is right, the secret is not.
    #[error(
        "the secret of token {0} is wrong: the token was altered; copy all of it, or make another with leno token create"
    )]
    Secret(String),
    /// Its time is over.
    #[error("token {id} expired at {at}: make another with leno token create")]
    Expired {
        /// Which.
        id: String,
        /// When.
        at: String,
    },
    /// It has made as many agents as it may.
    #[error("token {id} is spent: it made {agents}; make another with leno token create")]
    Spent {
        /// Which.
        id: String,
        /// The agents.
        agents: String,
    },
    /// The host is elsewhere.
    #[error("token {id} is for hosts in {cidr}, and this one calls from {source_address}")]
    Network {
        /// Which.
        id: String,
        /// Where its hosts are.
        cidr: String,
        /// Where this one is.
        source_address: IpAddr,
    },
}

/// What is to be done for a token that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Answer what was answered before.
    Repeat(Redemption),
    /// Make an agent.
    Make(AgentScope),
}

/// Why a token is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct TokenRequestError {
    /// Which field.
    pub field: &'static str,
    /// Why, and what would be right.
    pub reason: String,
}

impl TokenRecord {
    /// The record of a new token.
    ///
    /// # Errors
    /// Which field of the request is wrong, and why.
    pub fn new(
        request: &TokenRequest,
        id: String,
        secret: &[u8; 32],
        now: u64,
    ) -> Result<Self, TokenRequestError> {
        let error = |field, reason: String| TokenRequestError { field, reason };
        let ttl = match &request.ttl {
            None => DEFAULT_TTL,
            Some(text) => {
                leno_types::parse_duration(text).map_err(|e| error("ttl", e.to_string()))?
            }
        };
        if ttl.as_secs() == 0 || ttl > LONGEST_TTL {
            return Err(error(
                "ttl",
                "a token can be redeemed for 1s to 720h".into(),
            ));
        }
        let uses = request.uses.unwrap_or(1);
        if uses == 0 || uses > MOST_USES {
            return Err(error("uses", format!("a token has 1 to {MOST_USES} uses")));
        }
        let mut services = request.services.clone();
        services.extend(request.service.clone());
        services.sort();
        services.dedup();
        let scope = Scope {
            any: false,
            namespace: request.namespace.clone(),
            service_account: request.service_account.clone(),
            services,
            cidr: request.cidr.clone(),
        };
        let scope = AgentScope::from_document(&scope).map_err(|reason| error("scope", reason))?;
        Ok(Self {
            id,
            secret_hash: hash(secret),
            scope: scope.to_document(),
            uses,
            created: now,
            expires: now.saturating_add(ttl.as_secs()),
            redemptions: Vec::new(),
        })
    }

    /// Whether a host with this key, calling from `source`, may spend it.
    ///
    /// # Errors
    /// Why not.
    pub fn decide(
        &self,
        secret: &[u8],
        key: &str,
        source: IpAddr,
        now: u64,
    ) -> Result<Decision, RedeemError> {
        let id = || self.id.clone();
        let (ours, theirs) = (self.secret_hash.as_bytes(), hash(secret));
        if constant_time::verify_slices_are_equal(ours, theirs.as_bytes()).is_err() {
            return Err(RedeemError::Secret(id()));
        }
        let scope =
            AgentScope::from_document(&self.scope).map_err(|_| RedeemError::Unknown(id()))?;
        let repeated = self
            .redemptions
            .iter()
            .find(|redemption| redemption.key == key && now < redemption.at.saturating_add(REPEAT));
        if let Some(redemption) = repeated {
            return Ok(Decision::Repeat(redemption.clone()));
        }
        if now >= self.expires {
            return Err(RedeemError::Expired {
                id: id(),
                at: rfc3339(self.expires),
            });
        }
        if self.redemptions.len() >= self.uses as usize {
            let agents: Vec<&str> = self
                .redemptions
                .iter()
                .take(5)
                .map(|made| made.agent.as_str())
                .collect();
            return Err(RedeemError::Spent {
                id: id(),
                agents: agents.join(", "),
            });
        }
        if let Some(cidr) = scope.cidr.filter(|_| !scope.allows_address(source)) {
            return Err(RedeemError::Network {
                id: id(),
                cidr: cidr.to_string(),
                source_address: source,
            });
        }
        Ok(Decision::Make(scope))
    }

    /// Drops the certificates of answers that are not given again: of a token with many uses they would be megabytes,
    /// written anew with each.
    pub fn forget_answers(&mut self, now: u64) {
        for made in &mut self.redemptions {
            if now >= made.at.saturating_add(REPEAT) {
                made.chain = String::new();
            }
        }
    }

    /// For people; no secret and no hash.
    #[must_use]
    pub fn info(&self, now: u64) -> TokenInfo {
        let state = if self.redemptions.len() >= self.uses as usize {
            "spent"
        } else if now >= self.expires {
            "expired"
        } else {
            "valid"
        };
        TokenInfo {
            id: self.id.clone(),
            created: rfc3339(self.created),
            expires: rfc3339(self.expires),
            uses: self.uses,
            redeemed_by: self
                .redemptions
                .iter()
                .map(|made| made.agent.clone())
                .collect(),
            state: state.into(),
            scope: self.scope.clone(),
        }
    }
}

/// A name for an agent, from what its host is called; `attempt` 0 is the plain one.
#[must_use]
pub fn agent_name(host: &str, attempt: u32, random: u64) -> DnsLabel {
    let first = host
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let legal = |c: char| matches!(c, 'a'..='z' | '0'..='9');
    let clean: String = first
        .chars()
        .map(|c| if legal(c) { c } else { '-' })
        .take(50)
        .collect();
    let clean = match clean.trim_matches('-') {
        "" => "host",
        clean => clean,
    };
    let name = match attempt {
        0 => clean.to_owned(),
        _ => format!("{clean}-{:04x}", random & 0xffff),
    };
    name.parse().expect("made of legal characters only")
}

fn hash(secret: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, secret);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn record() -> TokenRecord {
        let request = TokenRequest {
            namespace: "shop".into(),
            service: Some("cart".into()),
            cidr: Some("10.0.0.0/24".into()),
            ..TokenRequest::default()
        };
        TokenRecord::new(&request, "k3".into(), &[7; 32], 1_000).unwrap()
    }

    fn here() -> IpAddr {
        "10.0.0.7".parse().unwrap()
    }

    fn spend(record: &mut TokenRecord, key: &str, at: u64) {
        assert!(matches!(
            record.decide(&[7; 32], key, here(), at),
            Ok(Decision::Make(_))
        ));
        record.redemptions.push(Redemption {
            key: key.into(),
            agent: "b".into(),
            at,
            chain: "chain".into(),
        });
    }

    #[test]
    fn a_token_is_spent_once_and_a_lost_answer_had_again_with_the_same_key() {
        let mut record = record();
        spend(&mut record, "key", 2_000);
        let again = record.decide(&[7; 32], "key", here(), 2_599);
        assert_eq!(again, Ok(Decision::Repeat(record.redemptions[0].clone())));
        let late = record.decide(&[7; 32], "key", here(), 2_600);
        assert!(matches!(late, Err(RedeemError::Spent { .. })), "{late:?}");
        let other = record.decide(&[7; 32], "other", here(), 2_001);
        assert!(other.unwrap_err().to_string().contains("it made b"));
    }

    #[test]
    fn an_answer_is_kept_for_as_long_as_it_may_be_asked_for_again() {
        let mut record = record();
        record.uses = 2;
        spend(&mut record, "key", 2_000);
        record.forget_answers(2_599);
        assert_eq!(record.redemptions[0].chain, "chain");
        record.forget_answers(2_600);
        assert_eq!(record.redemptions[0].chain, "");
        // Who it made is still said, and counted.
        let written = serde_json::to_string(&record).unwrap();
        assert!(!written.contains("chain"), "{written}");
        assert_eq!(
            serde_json::from_str::<TokenRecord>(&written).unwrap(),
            record
        );
        assert_eq!(record.info(2_600).redeemed_by, ["b"]);
        spend(&mut record, "other", 2_600);
        assert_eq!(record.info(2_600).state, "spent");
    }

    #[test]
    fn each_wrong_token_has_its_own_reason() {
        let record = record();
        let decide = |secret: [u8; 32], source: &str, at| {
            record
                .decide(&secret, "key", source.parse().unwrap(), at)
                .unwrap_err()
        };
        assert!(matches!(
            decide([8; 32], "10.0.0.7", 0),
            RedeemError::Secret(_)
        ));
        assert!(matches!(
            decide([7; 32], "10.0.0.7", 1_000 + 3_600),
            RedeemError::Expired { .. }
        ));
        assert!(matches!(
            decide([7; 32], "10.0.1.7", 1_000),
            RedeemError::Network { .. }
        ));
        assert!(!format!("{record:?}").contains("7, 7"));
    }

    #[test]
    fn an_agent_is_over_when_its_last_certificate_is() {
        let month = AGENT_TTL.as_secs();
        let scope = AgentScope::any("default".parse().unwrap());
        let mut agent = AgentRecord::new(&"b".parse().unwrap(), &scope, String::new(), 1_000);
        assert!(!agent.is_over(1_000 + month));
        assert!(agent.is_over(1_000 + month + NOTED_EVERY + 1));
        assert!(!agent.renew(1_000 + NOTED_EVERY - 1) && agent.renew(1_000 + NOTED_EVERY));
        // It was renewed once more before that is worth noting: its certificate then ends later than the note says.
        let unnoted = 1_000 + 2 * NOTED_EVERY - 1;
        assert!(!agent.renew(unnoted) && !agent.is_over(unnoted + month));
    }

    #[test]
    fn a_certificate_of_before_the_last_joining_counts_no_more() {
        let scope = AgentScope::any("default".parse().unwrap());
        let agent = AgentRecord::new(&"b".parse().unwrap(), &scope, String::new(), 1_000);
        assert!(agent.outdates(999) && !agent.outdates(1_000) && !agent.outdates(1_001));
    }

    #[test]
    fn a_record_gives_way_to_a_later_one_only() {
        let scope = AgentScope::any("default".parse().unwrap());
        let mut agent = AgentRecord::new(&"b".parse().unwrap(), &scope, String::new(), 1_000);
        assert!(agent.is_before(1), "it is not in the store yet");
        agent.revision = Some(7);
        assert!(agent.is_before(8) && !agent.is_before(7) && !agent.is_before(6));
    }

    #[test]
    fn a_request_that_cannot_be_is_refused_by_field() {
        for (request, field) in [
            (
                TokenRequest {
                    ttl: Some("0s".into()),
                    ..TokenRequest::default()
                },
                "ttl",
            ),
            (
                TokenRequest {
                    ttl: Some("x".into()),
                    ..TokenRequest::default()
                },
                "ttl",
            ),
            (
                TokenRequest {
                    uses: Some(0),
                    ..TokenRequest::default()
                },
                "uses",
            ),
            (
                TokenRequest {
                    cidr: Some("10".into()),
                    ..TokenRequest::default()
                },
                "scope",
            ),
            (
                TokenRequest {
                    service: Some("A b".into()),
                    ..TokenRequest::default()
                },
                "scope",
            ),
        ] {
            let error = TokenRecord::new(&request, "a".into(), &[0; 32], 0).unwrap_err();
            assert_eq!(error.field, field);
        }
    }

    #[test]
    fn hosts_are_called_by_their_first_label() {
        assert_eq!(agent_name("Web-1.example.org", 0, 0).as_str(), "web-1");
        assert_eq!(agent_name("web", 1, 0xabcd).as_str(), "web-abcd");
        assert_eq!(agent_name("…", 0, 0).as_str(), "host");
    }
}
