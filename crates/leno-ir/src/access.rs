//! Who may call a workload: rules by identity, each with the place it was written.

use leno_types::Identity;

use crate::Provenance;

/// What a rule that matches does. Deny beats allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessAction {
    /// Let it through; once a workload has an allow rule, what none allows is denied.
    Allow,
    /// Refuse it.
    Deny,
}

/// One rule. It matches a caller when every list that is not empty has a member that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// What it does.
    pub action: AccessAction,
    /// Identities.
    pub principals: Vec<Principal>,
    /// Namespaces of the caller's identity.
    pub namespaces: Vec<String>,
    /// Ports of the workload.
    pub ports: Vec<u16>,
    /// Where it was written.
    pub provenance: Provenance,
    /// A feature it needs which this build does not know: the rule then denies everybody.
    pub unknown_feature: Option<String>,
}

/// A set of identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Every peer that proved an identity.
    AnyAuthenticated,
    /// One identity.
    Exact(Identity),
    /// Every identity whose URI begins so.
    Prefix(String),
}

impl Principal {
    /// Whether `identity` is in the set.
    #[must_use]
    pub fn contains(&self, identity: &Identity) -> bool {
        match self {
            Self::AnyAuthenticated => true,
            Self::Exact(one) => one == identity,
            Self::Prefix(prefix) => identity.as_str().starts_with(prefix.as_str()),
        }
    }
}
