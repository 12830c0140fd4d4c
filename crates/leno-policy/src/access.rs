//! Who may call: deny beats allow; once a workload has an allow rule, what none allows is denied.

use leno_ir::{AccessAction, AccessRule};
use leno_types::Identity;

/// The answer, with the rule that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'r> {
    /// Let it through.
    Allowed {
        /// The allow rule that matched; `None` when the workload has none.
        by: Option<&'r AccessRule>,
    },
    /// Refuse it.
    Denied {
        /// The deny rule that matched; `None` when allow rules are there and none matched.
        by: Option<&'r AccessRule>,
        /// The reason for people.
        because: &'static str,
    },
}

impl Verdict<'_> {
    /// Whether it is let through.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

/// Whether `caller` (`None`: it proved no identity) may reach `port` of a workload with these rules.
#[must_use]
pub fn authorize<'r>(rules: &'r [AccessRule], caller: Option<&Identity>, port: u16) -> Verdict<'r> {
    if let Some(rule) = rules.iter().find(|rule| rule.unknown_feature.is_some()) {
        let because = "a rule needs a feature that this proxy does not know";
        return Verdict::Denied {
            by: Some(rule),
            because,
        };
    }
    let matching = |action: AccessAction| {
        rules
            .iter()
            .find(|rule| rule.action == action && applies(rule, caller, port))
    };
    if let Some(rule) = matching(AccessAction::Deny) {
        return Verdict::Denied {
            by: Some(rule),
            because: "a rule denies it",
        };
    }
    if !rules.iter().any(|rule| rule.action == AccessAction::Allow) {
        return Verdict::Allowed { by: None };
    }
    match matching(AccessAction::Allow) {
        Some(rule) => Verdict::Allowed { by: Some(rule) },
        None => Verdict::Denied {
            by: None,
            because: "no rule allows it",
        },
    }
}

fn applies(rule: &AccessRule, caller: Option<&Identity>, port: u16) -> bool {
    let principal = rule.principals.is_empty()
        || caller.is_some_and(|caller| {
            rule.principals
                .iter()
                .any(|principal| principal.contains(caller))
        });
    let namespace = rule.namespaces.is_empty()
        || caller
            .and_then(Identity::namespace)
            .is_some_and(|of| rule.namespaces.iter().any(|name| name == of));
    principal && namespace && (rule.ports.is_empty() || rule.ports.contains(&port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use leno_ir::{Principal, Provenance};

    use super::*;

    fn rule(action: AccessAction, principals: Vec<Principal>) -> AccessRule {
        AccessRule {
            action,
            principals,
            namespaces: Vec::new(),
            ports: Vec::new(),
            provenance: Provenance::default(),
            unknown_feature: None,
        }
    }

    fn web() -> Identity {
        "spiffe://default.leno/ns/shop/sa/web".parse().unwrap()
    }

    #[test]
    fn without_rules_everybody_is_let_in_and_with_an_allow_rule_only_those_it_names() {
        assert!(authorize(&[], None, 80).is_allowed());
        let allow = [rule(AccessAction::Allow, vec![Principal::Exact(web())])];
        assert!(authorize(&allow, Some(&web()), 80).is_allowed());
        let other = "spiffe://default.leno/ns/shop/sa/other".parse().unwrap();
        assert!(!authorize(&allow, Some(&other), 80).is_allowed());
        assert!(
            !authorize(&allow, None, 80).is_allowed(),
            "who proved nothing is not let in"
        );
    }

    #[test]
    fn deny_beats_allow_whatever_their_order() {
        let allow = rule(AccessAction::Allow, vec![Principal::AnyAuthenticated]);
        let deny = rule(
            AccessAction::Deny,
            vec![Principal::Prefix("spiffe://default.leno/ns/shop/".into())],
        );
        for rules in [[allow.clone(), deny.clone()], [deny, allow]] {
            assert!(!authorize(&rules, Some(&web()), 80).is_allowed());
            let elsewhere = "spiffe://default.leno/ns/else/sa/web".parse().unwrap();
            assert!(authorize(&rules, Some(&elsewhere), 80).is_allowed());
        }
    }

    #[test]
    fn namespaces_and_ports_narrow_a_rule() {
        let mut deny = rule(AccessAction::Deny, Vec::new());
        deny.namespaces = vec!["shop".into()];
        deny.ports = vec![8080];
        let rules = [deny];
        assert!(!authorize(&rules, Some(&web()), 8080).is_allowed());
        assert!(authorize(&rules, Some(&web()), 8081).is_allowed());
        assert!(authorize(&rules, None, 8080).is_allowed());
    }

    #[test]
    fn a_rule_with_an_unknown_feature_denies_everybody() {
        let mut allow = rule(AccessAction::Allow, vec![Principal::AnyAuthenticated]);
        allow.unknown_feature = Some("access/v9".into());
        assert!(!authorize(&[allow], Some(&web()), 80).is_allowed());
    }
}
