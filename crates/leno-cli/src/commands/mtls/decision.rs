//! What `leno mtls strict` and `permissive` decide: which policy to write, and what it does not reach.
//!
//! Asks nobody: the mesh's policies and ports are given to it.
//! Invariant: a policy that people wrote is neither changed nor overruled in silence.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use leno_config::{
    AuthenticationPolicy, AuthenticationTarget, COMMAND_ANNOTATION, Kind, MtlsMode, admit,
    authentication_template,
};
use leno_controlplane::documents::MtlsPort;
use leno_types::{DnsLabel, ServiceName};
use serde_json::{Value, json};

/// What is to take another mode.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Mesh,
    Namespace(DnsLabel),
    Service(ServiceName),
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) mode: MtlsMode,
    pub(super) scope: &'a Scope,
    /// The namespace in which the policy is written.
    pub(super) home: &'a DnsLabel,
    /// Only these ports; all when there is none.
    pub(super) ports: &'a [u16],
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) document: Value,
    name: String,
    /// What the policy of this name said before.
    before: Option<AuthenticationPolicy>,
    words: String,
    /// What goes on taking plaintext all the same, a line for each policy that says so.
    pub(super) stays: Vec<String>,
}

/// Another policy decides, which is not this command's to change.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) policy: String,
    pub(super) source: Option<String>,
    pub(super) why: &'static str,
}

impl Plan {
    /// The command after which everything is as it was.
    pub(super) fn undo(&self, option: &str) -> String {
        let Some(before) = &self.before else {
            return format!("leno delete authenticationpolicy {}{option}", self.name);
        };
        match before.mode {
            Some(mode) if before.ports.is_empty() => {
                format!("leno mtls {}{}{option}", verb(mode), self.words)
            }
            Some(_) | None => "apply the document that was there before".into(),
        }
    }
}

/// The command's word for a mode.
fn verb(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Strict => "strict",
        MtlsMode::Permissive => "permissive",
    }
}

impl Wish<'_> {
    fn name(&self) -> String {
        match self.scope {
            Scope::Mesh => "mtls-of-mesh".into(),
            Scope::Namespace(_) => "mtls-of-namespace".into(),
            Scope::Service(service) => {
                let name: String = format!("mtls-{}", service.name).chars().take(63).collect();
                name.trim_end_matches('-').to_owned()
            }
        }
    }

    fn target(&self) -> AuthenticationTarget {
        match self.scope {
            Scope::Mesh => AuthenticationTarget::Mesh,
            Scope::Namespace(name) => AuthenticationTarget::Namespace(name.clone()),
            Scope::Service(name) => AuthenticationTarget::Service(name.clone()),
        }
    }

    /// What follows the verb on the command line, but for the namespace.
    fn words(&self) -> String {
        let mut words = match self.scope {
            Scope::Mesh | Scope::Namespace(_) => String::new(),
            Scope::Service(service) => format!(" {}", service.name),
        };
        for port in self.ports {
            words.push_str(&format!(" --port {port}"));
        }
        words
    }

    /// Whether a port is what is meant.
    fn means(&self, port: &MtlsPort) -> bool {
        let here = match self.scope {
            Scope::Mesh => true,
            Scope::Namespace(name) => port.namespace == name.as_str(),
            Scope::Service(service) => {
                let names = &port.services;
                port.namespace == service.namespace.as_str()
                    && names.iter().any(|name| name == service.name.as_str())
            }
        };
        here && (self.ports.is_empty() || self.ports.contains(&port.port))
    }

    /// How narrow it is, as [`rank`] has it.
    fn rank(&self) -> u8 {
        match self.scope {
            Scope::Mesh => 1,
            Scope::Namespace(_) => 2,
            Scope::Service(_) if self.ports.is_empty() => 3,
            Scope::Service(_) => 4,
        }
    }
}

/// How narrow the policy is that decides for a port.
fn rank(port: &MtlsPort) -> u8 {
    match port.scope.as_str() {
        "mesh" => 1,
        "namespace" => 2,
        "workload" => 3,
        "port" => 4,
        _ => 0,
    }
}

/// A stored policy.
pub(super) fn read(value: &Value) -> Option<AuthenticationPolicy> {
    let admitted = admit(Kind::AuthenticationPolicy, value.clone()).ok()?;
    admitted.resource.as_authentication_policy().cloned()
}

/// Decides. `all` are the policies of the mesh, `ports` what every port of it does now.
pub(super) fn plan(wish: &Wish<'_>, all: &[Value], ports: &[MtlsPort]) -> Result<Plan, Decided> {
    let (name, target) = (wish.name(), wish.target());
    let policies: Vec<AuthenticationPolicy> = all.iter().filter_map(read).collect();
    let is_ours = |of: &&AuthenticationPolicy| {
        of.meta.name.as_str() == name && of.meta.namespace == *wish.home
    };
    let before = policies.iter().find(is_ours);
    let decided = |of: &AuthenticationPolicy, why| Decided {
        policy: format!("{}/{}", of.meta.namespace, of.meta.name),
        source: of.meta.source.clone(),
        why,
    };
    if let Some(before) = before {
        // What else people wrote under this name, or made of it since, is theirs.
        let annotations = &before.meta.annotations;
        let own = annotations.contains_key(COMMAND_ANNOTATION) && annotations.len() == 1;
        if !own || before.targets != [target.clone()] {
            return Err(decided(before, "is somebody's own document"));
        }
    }
    let rival = policies.iter().find(|of| {
        let me = before.is_some_and(|before| std::ptr::eq(before, *of));
        !me && of.targets.contains(&target)
    });
    if let Some(rival) = rival {
        return Err(decided(
            rival,
            "is for the same already, and of two the oldest decides",
        ));
    }
    let own = format!("{}/{name}", wish.home);
    let meant = || ports.iter().filter(|port| wish.means(port));
    // By labels, or for another service of the same workloads.
    let beside = meant().find(|port| {
        rank(port) >= 3 && wish.rank() >= 3 && port.policy.as_deref() != Some(own.as_str())
    });
    if let Some(port) = beside {
        return Err(Decided {
            policy: port.policy.clone().unwrap_or_default(),
            source: port.source.clone(),
            why: "decides for workloads of this service already",
        });
    }
    let mut levels = before.map_or_else(BTreeMap::new, |of| of.ports.clone());
    levels.extend(wish.ports.iter().map(|port| (*port, wish.mode)));
    let mode = match wish.ports.is_empty() {
        true => Some(wish.mode),
        false => before.and_then(|of| of.mode),
    };
    let mut document = authentication_template(wish.home, &name, &target, mode, &levels);
    let command = format!("leno mtls {}{}", verb(wish.mode), wish.words());
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("annotations".into(), json!({COMMAND_ANNOTATION: command}));
    }
    let reached = |port: &&MtlsPort| rank(port) <= wish.rank();
    let strict = wish.mode == MtlsMode::Strict;
    let now_open = |port: &&MtlsPort| strict && port.mode == MtlsMode::Permissive.as_str();
    let stays = meant().filter(|port| !reached(port)).filter(now_open);
    Ok(Plan {
        document,
        name,
        before: before.cloned(),
        words: wish.words(),
        stays: still_open(stays),
    })
}

/// A line for each policy that keeps ports open.
fn still_open<'p>(ports: impl Iterator<Item = &'p MtlsPort>) -> Vec<String> {
    let mut by: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for port in ports {
        let of = by.entry(port.policy.as_deref().unwrap_or_default());
        of.or_default().insert(super::show::place(port));
    }
    by.into_iter()
        .map(|(policy, places)| {
            let places: Vec<String> = places.into_iter().collect();
            format!(
                "AuthenticationPolicy {policy}, which is narrower, goes on letting plaintext in at {}",
                places.join(", ")
            )
        })
        .collect()
}
