//! Access rules. What a later version means by one must not widen access: such a rule denies (CP10).

use std::collections::BTreeSet;

use leno_wire::mesh as wire;

use super::{WireError, all, parse, port, provenance_from_wire, provenance_to_wire};
use crate::{AccessAction, AccessRule, Feature, Principal, Provenance};

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
    let needs = Feature::Access.to_string();
    wire::AccessRule {
        action: action.into(),
        principals: rule.principals.iter().map(principal).collect(),
        namespaces: rule.namespaces.clone(),
        ports: rule.ports.iter().map(|port| u32::from(*port)).collect(),
        must_understand: vec![rule.unknown_feature.clone().unwrap_or(needs)],
        provenance: Some(provenance_to_wire(&rule.provenance)),
        guard: false,
    }
}

/// What a workload needs to be understood, as what every version reads as a rule that denies unless it knows better.
pub(super) fn guard(features: &BTreeSet<Feature>) -> Option<wire::AccessRule> {
    (!features.is_empty()).then(|| wire::AccessRule {
        action: wire::AccessAction::Deny.into(),
        must_understand: features.iter().map(ToString::to_string).collect(),
        guard: true,
        ..wire::AccessRule::default()
    })
}

/// The rules, and what else must be understood.
pub(super) fn accesses_from_wire(
    messages: &[wire::AccessRule],
) -> Result<(Vec<AccessRule>, BTreeSet<Feature>), WireError> {
    let (mut rules, mut needs) = (Vec::new(), BTreeSet::new());
    for message in messages {
        let known: Result<Vec<Feature>, _> = message
            .must_understand
            .iter()
            .map(|of| of.parse())
            .collect();
        match known {
            Ok(features) if message.guard => needs.extend(features),
            Ok(_) => rules.push(access_from_wire(message)?),
            Err(unknown) => rules.push(denial(unknown.0, message)),
        }
    }
    Ok((rules, needs))
}

fn access_from_wire(message: &wire::AccessRule) -> Result<AccessRule, WireError> {
    let principal = |text: &String| match text.strip_suffix('*') {
        Some("") => Ok(Principal::AnyAuthenticated),
        Some(prefix) => Ok(Principal::Prefix(prefix.into())),
        None => parse("principals", text).map(Principal::Exact),
    };
    let action = match wire::AccessAction::try_from(message.action) {
        Ok(wire::AccessAction::Allow) => AccessAction::Allow,
        Ok(wire::AccessAction::Deny) => AccessAction::Deny,
        Err(_) => return Ok(denial(format!("access action {}", message.action), message)),
    };
    Ok(AccessRule {
        action,
        principals: all(&message.principals, principal)?,
        namespaces: message.namespaces.clone(),
        ports: all(&message.ports, |number| port("ports", *number))?,
        provenance: provenance(message),
        unknown_feature: None,
    })
}

/// What stands for a rule that this build does not understand. Of what it says nothing is read: a later version may mean
/// anything by it.
fn denial(feature: String, message: &wire::AccessRule) -> AccessRule {
    deny_all(feature, provenance(message))
}

/// Denies everybody, for a feature that this build does not know.
pub(super) fn deny_all(feature: String, provenance: Provenance) -> AccessRule {
    AccessRule {
        action: AccessAction::Deny,
        principals: Vec::new(),
        namespaces: Vec::new(),
        ports: Vec::new(),
        provenance,
        unknown_feature: Some(feature),
    }
}

fn provenance(message: &wire::AccessRule) -> Provenance {
    let provenance = message.provenance.as_ref();
    provenance.map(provenance_from_wire).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::{MtlsMode, OwnWorkload};

    fn workload(rules: Vec<wire::AccessRule>) -> wire::OwnWorkload {
        wire::OwnWorkload {
            uid: "00000000000000000000000000000001".into(),
            namespace: "shop".into(),
            identity: "spiffe://default.leno/ns/shop/sa/cart".into(),
            access: rules,
            ..wire::OwnWorkload::default()
        }
    }

    fn read(message: &wire::OwnWorkload) -> OwnWorkload {
        OwnWorkload::from_wire(message).unwrap()
    }

    #[test]
    fn every_rule_says_what_it_needs_and_an_unknown_need_denies_without_reading_on() {
        let allow = wire::AccessRule {
            principals: vec!["*".into()],
            ..wire::AccessRule::default()
        };
        let known = read(&workload(vec![allow.clone()]));
        assert_eq!(known.access[0].unknown_feature, None);
        assert_eq!(known.needs(), BTreeSet::from([Feature::Access]));
        assert_eq!(known.to_wire().access[0].must_understand, ["access/v1"]);
        // Neither its principals nor its ports are in a form that this build knows.
        let later = wire::AccessRule {
            must_understand: vec!["access/v1".into(), "access/v9".into()],
            principals: vec!["jwt:issuer=x".into()],
            ports: vec![1 << 20],
            ..allow
        };
        let denied = read(&workload(vec![later]));
        let rule = &denied.access[0];
        assert_eq!(rule.action, AccessAction::Deny);
        assert!(rule.principals.is_empty() && rule.ports.is_empty());
        assert_eq!(denied.not_understood().collect::<Vec<_>>(), ["access/v9"]);
    }

    #[test]
    fn an_action_or_a_mode_of_a_later_version_denies_everybody() {
        let later = wire::AccessRule {
            action: 7,
            ..wire::AccessRule::default()
        };
        let denied = read(&workload(vec![later]));
        assert_eq!(
            denied.not_understood().collect::<Vec<_>>(),
            ["access action 7"]
        );
        let mode = wire::OwnWorkload {
            mtls: 9,
            ..workload(Vec::new())
        };
        let denied = read(&mode);
        assert_eq!(denied.mtls.mode, MtlsMode::Strict);
        assert_eq!(denied.not_understood().collect::<Vec<_>>(), ["mtls mode 9"]);
    }

    #[test]
    fn a_guard_is_no_rule_to_who_understands_it_and_denies_to_who_does_not() {
        let own = OwnWorkload {
            must_understand: BTreeSet::from([Feature::Access]),
            ..read(&workload(Vec::new()))
        };
        let sent = own.to_wire();
        assert_eq!(read(&sent), own);
        assert!(read(&sent).access.is_empty(), "nobody is denied for it");
        let mut later = sent;
        later.access[0].must_understand = vec!["authentication/v9".into()];
        let denied = read(&later);
        assert_eq!(
            denied.not_understood().collect::<Vec<_>>(),
            ["authentication/v9"]
        );
        // What is read is sent on as it came: to the file that the next agent begins with.
        assert_eq!(read(&denied.to_wire()), denied);
    }
}
