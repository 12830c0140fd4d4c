//! From what a caller proposes to what is stored: admitted, completed by the control plane, stamped by the system.

use std::sync::Arc;

use leno_config::{Admitted, Finding, Kind, Resource, admit};
use leno_types::DnsLabel;
use serde_json::Value;

use crate::{Api, Proposed, object, turns::Line};

/// What a write will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Created,
    Configured,
    Unchanged,
}

impl Outcome {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// An object as it will be stored.
pub(crate) struct Planned {
    pub(crate) value: Value,
    pub(crate) outcome: Outcome,
    /// What is to be said of it.
    pub(crate) warnings: Vec<Finding>,
}

/// The first half: what can be said of the object by itself.
pub(crate) fn admitted(kind: Kind, mut proposed: Value) -> Result<(Value, Resource), Vec<Finding>> {
    object::strip(&mut proposed);
    let Admitted { value, resource } = admit(kind, proposed)?;
    Ok((value, resource))
}

/// What is to be said of objects that are written together, with each.
pub(crate) fn warn(
    api: &Api,
    mesh: &DnsLabel,
    resources: &[&Resource],
    planned: &mut [&mut Planned],
) {
    let all = api.derived.warnings(mesh, resources);
    for (planned, warnings) in planned.iter_mut().zip(all) {
        planned.warnings = warnings;
    }
}

/// Whose word the annotations are that say where a document comes from ([`leno_config::PROVENANCE`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provenance {
    /// A batch's: whoever sends it says anew where each document was written.
    Said,
    /// Whoever changes one object hands on what it had.
    HandedOn,
}

/// Whom writes cut off, where one of them says who may call. What is deleted is said by key alone.
pub(crate) async fn cut_off(
    api: &Api,
    mesh: &DnsLabel,
    line: &mut Line,
    writes: Vec<Written<'_>>,
) -> Vec<String> {
    let decides = |kind: Kind| matches!(kind, Kind::AccessPolicy | Kind::AuthenticationPolicy);
    if !writes.iter().any(|of| decides(of.kind)) {
        return Vec::new();
    }
    let mut proposed: Vec<Proposed> = Vec::new();
    for written in writes {
        line.worked(written.size).await;
        proposed.extend(written.proposed());
    }
    if !proposed.iter().any(|of| decides(of.kind)) {
        return Vec::new();
    }
    // It looks at all of the mesh.
    line.turn().await;
    api.derived.cut_off(mesh, proposed).await
}

/// A write as it is planned.
pub(crate) struct Written<'a> {
    pub(crate) kind: Kind,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// `None`: it is deleted.
    pub(crate) planned: Option<&'a Planned>,
    /// Its bytes, of one of many.
    pub(crate) size: usize,
}

impl Written<'_> {
    /// As it would stand, with the time at which it was made; `None` where nothing changes by it.
    fn proposed(&self) -> Option<Proposed> {
        // Only what decides who may call, and of whom, makes a difference.
        let counts = matches!(
            self.kind,
            Kind::Service | Kind::AccessPolicy | Kind::AuthenticationPolicy
        );
        let unchanged = |of: &Planned| of.outcome == Outcome::Unchanged;
        if !counts || self.planned.is_some_and(unchanged) {
            return None;
        }
        let resource = match self.planned {
            Some(planned) => Some(Arc::new(
                admit(self.kind, planned.value.clone()).ok()?.resource,
            )),
            None => None,
        };
        Some(Proposed {
            kind: self.kind,
            namespace: self.namespace.parse().ok()?,
            name: self.name.parse().ok()?,
            resource,
        })
    }
}

/// The second half: what the control plane and the system add, given what is there.
pub(crate) fn complete(
    api: &Api,
    mesh: &DnsLabel,
    kind: Kind,
    mut value: Value,
    old: Option<&Value>,
    provenance: Provenance,
) -> Result<Planned, Vec<Finding>> {
    let now = api.environment.now();
    api.derived.admit_write(mesh, kind, &mut value, old, now)?;
    object::strip(&mut value);
    if let (Some(old), Provenance::HandedOn) = (old, provenance) {
        object::forget_provenance(old, &mut value);
    }
    let now = object::timestamp(now);
    let (uid, created, generation) = match old {
        None => (object::uuid(api.environment.random()), now, 1),
        Some(old) => {
            let generation = old
                .pointer("/metadata/generation")
                .and_then(Value::as_u64)
                .unwrap_or(1);
            (
                object::meta_text(old, "uid").into(),
                object::meta_text(old, "creationTimestamp").into(),
                generation,
            )
        }
    };
    if let Some(metadata) = object::metadata(&mut value) {
        metadata.insert("uid".into(), uid.into());
        metadata.insert("creationTimestamp".into(), created.into());
        metadata.insert("generation".into(), generation.into());
    }
    let outcome = match old {
        None => Outcome::Created,
        Some(old) if *old == value => Outcome::Unchanged,
        Some(old) => {
            if object::spec_differs(old, &value)
                && let Some(metadata) = object::metadata(&mut value)
            {
                metadata.insert("generation".into(), generation.saturating_add(1).into());
            }
            Outcome::Configured
        }
    };
    let warnings = Vec::new();
    Ok(Planned {
        value,
        outcome,
        warnings,
    })
}
