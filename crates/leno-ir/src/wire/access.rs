//! Access rules. What a later version means by one must not widen access: such a rule denies (CP10).

use leno_wire::mesh as wire;

use super::{WireError, all, parse, port, provenance_from_wire, provenance_to_wire};
use crate::{AccessAction, AccessRule, FEATURES, Principal};

pub(super) fn access_to_wire(rule: &AccessRule) -> wire::AccessRule {
    let principal = |principal: &Principal| match principal {
        Principal::AnyAuthenticated => "*".to_owned(),
        Principal::Exact(identity) => identity.to_string(),
        Principal::Prefix(prefix) => format!("{prefix}*"),
    };
    let action = match rule.action {
        AccessAction::Allow => wire::AccessAction::Allow,
        AccessAction::Deny => wire::AccessAction::Deny,
    };
    wire::AccessRule {
        action: action.into(),
        principals: rule.principals.iter().map(principal).collect(),
        namespaces: rule.namespaces.clone(),
        ports: rule.ports.iter().map(|port| u32::from(*port)).collect(),
        must_understand: rule.unknown_feature.iter().cloned().collect(),
        provenance: Some(provenance_to_wire(&rule.provenance)),
    }
}

pub(super) fn access_from_wire(message: &wire::AccessRule) -> Result<AccessRule, WireError> {
    let principal = |text: &String| match text.strip_suffix('*') {
        Some("") => Ok(Principal::AnyAuthenticated),
        Some(prefix) => Ok(Principal::Prefix(prefix.into())),
        None => parse("principals", text).map(Principal::Exact),
    };
    // An action or a feature from a later version must not widen access: the rule then denies (CP10).
    let known = wire::AccessAction::try_from(message.action).ok();
    let feature = message
        .must_understand
        .iter()
        .find(|feature| !FEATURES.contains(&feature.as_str()))
        .cloned();
    let unknown_feature = feature.or_else(|| {
        known
            .is_none()
            .then(|| format!("access action {}", message.action))
    });
    Ok(AccessRule {
        action: match known {
            Some(wire::AccessAction::Allow) => AccessAction::Allow,
            Some(wire::AccessAction::Deny) | None => AccessAction::Deny,
        },
        principals: all(&message.principals, principal)?,
        namespaces: message.namespaces.clone(),
        ports: all(&message.ports, |number| port("ports", *number))?,
        provenance: message
            .provenance
            .as_ref()
            .map(provenance_from_wire)
            .unwrap_or_default(),
        unknown_feature,
    })
}
