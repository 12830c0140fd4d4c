#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn label(text: &str) -> DnsLabel {
    text.parse().unwrap()
}

fn domain() -> TrustDomain {
    "default.leno".parse().unwrap()
}

fn cart() -> ServiceName {
    ServiceName::new(label("default"), label("cart"))
}

fn account(name: &str) -> Option<(DnsLabel, DnsLabel)> {
    Some((label("default"), label(name)))
}

/// What the command decides about `who` (`None`: everybody) in a mesh with these policies.
fn decided(action: AccessAction, who: Option<&str>, policies: &[Value]) -> Plan {
    let service = cart();
    let wish = Wish {
        action,
        caller: who.and_then(account),
        service: &service,
    };
    plan(&wish, policies, &domain(), &[8080]).unwrap()
}

fn may_call(name: &str, policies: &[&Value]) -> bool {
    let service = cart();
    let rules: Vec<_> = policies
        .iter()
        .map(|value| Standing::read(value, &service).unwrap())
        .flat_map(|of| access_rules(&of.policy, &domain()))
        .collect();
    let caller = Identity::workload(&domain(), &label("default"), &label(name));
    authorize(&rules, Some(&caller), 8080).is_allowed()
}

/// The same document, as if a person had applied it from a file.
fn from_a_file(mut document: Value) -> Value {
    document["metadata"]["annotations"] = json!({"leno.dev/source": "shop.yaml:1"});
    document
}

#[test]
fn no_allow_overrides_a_deny_of_everybody() {
    let nobody = decided(AccessAction::Deny, None, &[]);
    assert_eq!(nobody.document["spec"]["action"], "Deny");
    for who in [Some("front"), None] {
        let allow = decided(AccessAction::Allow, who, &[]).document;
        assert!(!may_call("front", &[&nobody.document, &allow]));
        assert!(may_call("front", &[&allow]), "the deny alone is in the way");
    }
    let rules = access_rules(
        &Standing::read(&nobody.document, &cart()).unwrap().policy,
        &domain(),
    );
    assert!(
        !authorize(&rules, None, 8080).is_allowed(),
        "without identity neither"
    );
}

#[test]
fn an_allow_says_which_policies_still_deny() {
    let everybody = decided(AccessAction::Deny, None, &[]).document;
    let plan = decided(AccessAction::Allow, Some("front"), &[everybody]);
    assert_eq!(
        plan.denying,
        [("default".to_owned(), "deny-all-cart".to_owned())]
    );
    assert_eq!(plan.lifted, Vec::<String>::new());
    let mesh_wide = json!({
        "apiVersion": "leno.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": "ports", "namespace": "ops"},
        "spec": {"targetRefs": [{"kind": "Mesh"}], "action": "Deny",
                 "rules": [{"from": [{"namespaces": ["default"]}], "to": [{"ports": [8080]}]}]},
    });
    let plan = decided(AccessAction::Allow, Some("front"), &[mesh_wide]);
    assert_eq!(plan.denying, [("ops".to_owned(), "ports".to_owned())]);
}

#[test]
fn an_allow_lifts_the_deny_that_the_command_wrote_and_no_other() {
    let deny = decided(AccessAction::Deny, Some("front"), &[]).document;
    let plan = decided(
        AccessAction::Allow,
        Some("front"),
        std::slice::from_ref(&deny),
    );
    assert_eq!(
        (plan.lifted.as_slice(), plan.denying.len()),
        (["deny-front-cart".to_owned()].as_slice(), 0)
    );
    let applied = from_a_file(deny.clone());
    let plan = decided(AccessAction::Allow, Some("front"), &[applied]);
    assert_eq!(
        (plan.lifted.len(), plan.denying.len()),
        (0, 1),
        "a person's is left alone"
    );
    let plan = decided(AccessAction::Allow, Some("shop"), &[deny]);
    assert_eq!(
        (plan.lifted.len(), plan.denying.len()),
        (0, 0),
        "another's is left alone"
    );
}

#[test]
fn a_policy_that_says_something_else_is_never_overwritten() {
    let first = decided(AccessAction::Deny, Some("front"), &[]);
    let again = decided(
        AccessAction::Deny,
        Some("front"),
        std::slice::from_ref(&first.document),
    );
    assert_eq!(
        again.name, "deny-front-cart",
        "the same is written over itself"
    );
    let mut other = first.document;
    other["spec"]["rules"] = json!([{"from": [{"serviceAccounts": ["else/front"]}]}]);
    let beside = decided(
        AccessAction::Deny,
        Some("front"),
        std::slice::from_ref(&other),
    );
    assert_eq!(beside.name, "deny-front-cart-2");
    other["spec"]["targetRefs"][0]["name"] = "elsewhere".into();
    let beside = decided(AccessAction::Deny, Some("front"), &[other]);
    assert_eq!(beside.name, "deny-front-cart-2");
}

#[test]
fn a_name_that_is_too_long_is_cut() {
    let long = "a".repeat(60);
    assert!(decided(AccessAction::Deny, Some(&long), &[]).name.len() <= 63);
}
