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

fn caller(name: &str) -> Caller {
    Caller {
        name: name.into(),
        identity: Some(Identity::workload(
            &domain(),
            &label("default"),
            &label(name),
        )),
    }
}

/// What the command decides about `who` (`None`: everybody) in a mesh with these policies; all of front, shop called.
fn decided(action: AccessAction, who: Option<&str>, policies: &[Value]) -> Plan {
    let service = cart();
    let wish = Wish {
        action,
        caller: who.and_then(account),
        service: &service,
    };
    let callers = [caller("front"), caller("shop")];
    plan(&wish, policies, &domain(), &[8080], &callers).unwrap()
}

fn may_call(name: &str, policies: &[&Value]) -> bool {
    let service = cart();
    let rules: Vec<_> = policies
        .iter()
        .map(|value| Standing::read(value, &service).unwrap())
        .flat_map(|of| access_rules(&of.policy, &domain()))
        .collect();
    authorize(&rules, caller(name).identity.as_ref(), 8080).is_allowed()
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
    assert_eq!(
        nobody.cut_off,
        BTreeSet::from(["front".to_owned(), "shop".to_owned()])
    );
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
fn whoever_another_policy_allows_is_not_cut_off() {
    let first = decided(AccessAction::Allow, Some("front"), &[]);
    assert_eq!(first.cut_off, BTreeSet::from(["shop".to_owned()]));
    let second = decided(AccessAction::Allow, Some("shop"), &[first.document]);
    assert_eq!(second.cut_off, BTreeSet::new());
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

#[test]
fn documents_cut_off_whom_the_policies_that_they_replace_let_in() {
    let policy = |value: &Value| Standing::read(value, &cart()).unwrap().policy;
    let allow = |name: &str, who: &[&str]| {
        let callers: Vec<_> = who.iter().map(|who| account(who).unwrap()).collect();
        access_policy(&label(name), &cart(), AccessAction::Allow, &callers)
    };
    let callers = [caller("front"), caller("shop")];
    let lost = |standing: &[Value], proposed: &[Value]| -> Vec<String> {
        let proposed: Vec<_> = proposed.iter().map(policy).collect();
        let lost = cut_off(&cart(), standing, &proposed, &domain(), &[8080], &callers);
        lost.into_iter().collect()
    };
    assert_eq!(lost(&[], &[allow("a", &["front"])]), ["shop"]);
    let standing = [allow("a", &["front", "shop"])];
    assert!(lost(&standing, &[allow("b", &["front"])]).is_empty());
    assert_eq!(lost(&standing, &[allow("a", &["shop"])]), ["front"]);
    assert!(lost(&standing, &[]).is_empty());
}
