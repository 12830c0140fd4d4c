//! What `leno allow` and `leno deny` decide: which policy to write, and what stands in its way.
//!
//! Asks nobody: the mesh's policies are given to it. Who may call is decided by the proxies' own evaluator, so that what
//! is said here is what happens.
//! Invariant: a policy that people wrote is neither changed nor removed.

#[cfg(test)]
mod tests;

use leno_compile::access_rules;
use leno_config::{
    AccessAction, AccessPolicy, AccessTarget, COMMAND_ANNOTATION, Kind, Resource, access_policy,
    admit,
};
use leno_ir::Principal;
use leno_policy::authorize;
use leno_types::{DnsLabel, Identity, ServiceName, TrustDomain};
use serde_json::{Value, json};

/// Longest name of a policy, so that a number still fits behind it.
const MAX_NAME: usize = 60;

/// A policy of the mesh that protects the service.
#[derive(Debug)]
pub(super) struct Standing {
    policy: AccessPolicy,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) action: AccessAction,
    /// The account; `None` is everybody.
    pub(super) caller: Option<(DnsLabel, DnsLabel)>,
    pub(super) service: &'a ServiceName,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) document: Value,
    pub(super) name: String,
    /// Policies of the same namespace that `leno deny` wrote and that say the opposite.
    pub(super) lifted: Vec<String>,
    /// Policies that go on denying, as `namespace/name`.
    pub(super) denying: Vec<(String, String)>,
}

/// Whether a policy with this target is for the service.
fn protects(target: &AccessTarget, service: &ServiceName) -> bool {
    match target {
        AccessTarget::Service(name) => name == service,
        AccessTarget::Namespace(namespace) => *namespace == service.namespace,
        AccessTarget::Mesh => true,
    }
}

impl Standing {
    /// A stored object; `None` when it is no policy or does not protect the service.
    pub(super) fn read(value: &Value, service: &ServiceName) -> Option<Self> {
        let admitted = admit(Kind::AccessPolicy, value.clone()).ok()?;
        let Resource::AccessPolicy(policy) = admitted.resource else {
            return None;
        };
        policy
            .targets
            .iter()
            .any(|target| protects(target, service))
            .then_some(Self { policy })
    }

    fn name(&self) -> &str {
        self.policy.meta.name.as_str()
    }

    fn namespace(&self) -> &DnsLabel {
        &self.policy.meta.namespace
    }

    fn says(&self, other: &AccessPolicy) -> bool {
        self.policy.action == other.action
            && self.policy.targets == other.targets
            && self.policy.rules == other.rules
    }

    /// Whether the command itself wrote it, and nobody has given it to `leno apply` or kubectl since.
    fn is_ours(&self) -> bool {
        let annotations = &self.policy.meta.annotations;
        annotations.contains_key(COMMAND_ANNOTATION) && annotations.len() == 1
    }
}

impl Wish<'_> {
    /// The command line, as it stands in the policy's annotation.
    fn command(&self) -> String {
        let verb = verb(self.action);
        let caller = match &self.caller {
            None => "'*'".to_owned(),
            Some((namespace, account)) if *namespace == self.service.namespace => {
                account.to_string()
            }
            Some((namespace, account)) => format!("{namespace}/{account}"),
        };
        format!("leno {verb} {caller} {}", self.service.name)
    }

    fn document(&self, action: AccessAction, name: &DnsLabel) -> Value {
        let callers: Vec<_> = self.caller.iter().cloned().collect();
        access_policy(name, self.service, action, &callers)
    }

    fn policy(&self, action: AccessAction, name: &DnsLabel) -> Option<AccessPolicy> {
        let admitted = admit(Kind::AccessPolicy, self.document(action, name)).ok()?;
        admitted.resource.as_access_policy().cloned()
    }

    /// A name that no policy has which says something else: `a-b` for `c` and `a` for `b-c` are two things.
    fn name(&self, standing: &[Value]) -> Option<DnsLabel> {
        let who = match &self.caller {
            None => "all".to_owned(),
            Some((namespace, account)) if *namespace == self.service.namespace => {
                account.to_string()
            }
            Some((namespace, account)) => format!("{namespace}-{account}"),
        };
        let full = format!("{}-{who}-{}", verb(self.action), self.service.name);
        let base: String = full.chars().take(MAX_NAME).collect();
        let base = base.trim_end_matches('-').to_owned();
        let numbered = (2..100).map(|number| format!("{base}-{number}"));
        let mut names = std::iter::once(base.clone()).chain(numbered);
        names.find_map(|name| {
            let name: DnsLabel = name.parse().ok()?;
            let wanted = self.policy(self.action, &name)?;
            let same_name = |value: &&Value| {
                let of = |pointer| value.pointer(pointer).and_then(Value::as_str);
                of("/metadata/name") == Some(name.as_str())
                    && of("/metadata/namespace") == Some(self.service.namespace.as_str())
            };
            let free = standing.iter().find(same_name).is_none_or(|value| {
                Standing::read(value, self.service).is_some_and(|of| of.says(&wanted))
            });
            free.then_some(name)
        })
    }

    /// Whether a policy denies the caller that is meant: all of them, where everybody is.
    fn is_denied_by(&self, standing: &Standing, domain: &TrustDomain, ports: &[u16]) -> bool {
        if standing.policy.action != AccessAction::Deny {
            return false;
        }
        let rules = access_rules(&standing.policy, domain);
        match &self.caller {
            Some((namespace, account)) => {
                let identity = Identity::workload(domain, namespace, account);
                let allowed = |port: &u16| authorize(&rules, Some(&identity), *port).is_allowed();
                !ports.iter().all(allowed)
            }
            None => rules.iter().any(|rule| {
                let all = |principal: &_| *principal == Principal::AnyAuthenticated;
                rule.namespaces.is_empty()
                    && (rule.principals.is_empty() || rule.principals.iter().any(all))
            }),
        }
    }
}

/// Decides. `all` are the policies of the whole mesh, `ports` those of the service's programs. `None`: there are a
/// hundred policies of that name that say something else.
pub(super) fn plan(
    wish: &Wish<'_>,
    all: &[Value],
    domain: &TrustDomain,
    ports: &[u16],
) -> Option<Plan> {
    let standing: Vec<Standing> = all
        .iter()
        .filter_map(|value| Standing::read(value, wish.service))
        .collect();
    let name = wish.name(all)?;
    let opposite = wish.policy(AccessAction::Deny, &name);
    let is_lifted = |of: &Standing| {
        wish.action == AccessAction::Allow
            && of.is_ours()
            && *of.namespace() == wish.service.namespace
            && opposite.as_ref().is_some_and(|opposite| of.says(opposite))
    };
    let (lifted, kept): (Vec<&Standing>, Vec<&Standing>) =
        standing.iter().partition(|of| is_lifted(of));
    let denying = kept
        .iter()
        .filter(|of| wish.action == AccessAction::Allow && wish.is_denied_by(of, domain, ports))
        .map(|of| (of.namespace().to_string(), of.name().to_owned()))
        .collect();
    let mut document = wish.document(wish.action, &name);
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert(
            "annotations".into(),
            json!({COMMAND_ANNOTATION: wish.command()}),
        );
    }
    Some(Plan {
        document,
        name: name.to_string(),
        lifted: lifted.iter().map(|of| of.name().to_owned()).collect(),
        denying,
    })
}

/// The command's name.
fn verb(action: AccessAction) -> &'static str {
    match action {
        AccessAction::Allow => "allow",
        AccessAction::Deny => "deny",
    }
}
