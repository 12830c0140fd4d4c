#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn label(text: &str) -> DnsLabel {
    text.parse().unwrap()
}

fn web() -> Scope {
    Scope::Service("shop/web".parse().unwrap())
}

fn port(namespace: &str, service: &str, number: u16, mode: &str) -> MtlsPort {
    MtlsPort {
        namespace: namespace.into(),
        services: vec![service.into(), format!("{service}-v1")],
        workload: format!("{service}-1"),
        host: "a".into(),
        port: number,
        published: Some(9080),
        mode: mode.into(),
        ..MtlsPort::default()
    }
}

fn decided(mut port: MtlsPort, scope: &str, policy: &str) -> MtlsPort {
    port.scope = scope.into();
    port.policy = Some(policy.into());
    port
}

fn wish<'w>(mode: MtlsMode, scope: &'w Scope, home: &'w DnsLabel, ports: &'w [u16]) -> Wish<'w> {
    Wish {
        mode,
        scope,
        home,
        ports,
    }
}

#[test]
fn the_document_names_its_command_and_how_it_is_undone() {
    let (shop, scope) = (label("shop"), web());
    let ports = [port("shop", "web", 8080, "PERMISSIVE")];
    let plan = plan(&wish(MtlsMode::Strict, &scope, &shop, &[]), &[], &ports).unwrap();
    assert_eq!(plan.undo(""), "leno delete authenticationpolicy mtls-web");
    assert_eq!(plan.document["spec"]["mtls"]["mode"], "STRICT");
    assert_eq!(
        plan.document["metadata"]["annotations"][COMMAND_ANNOTATION],
        "leno mtls strict web"
    );
    assert!(read(&plan.document).is_some(), "{}", plan.document);
}

#[test]
fn what_a_narrower_policy_keeps_open_is_told() {
    let home = label("default");
    let ports = [
        decided(
            port("shop", "web", 8080, "PERMISSIVE"),
            "workload",
            "shop/open",
        ),
        port("shop", "cart", 8080, "PERMISSIVE"),
    ];
    let decide = |mode| plan(&wish(mode, &Scope::Mesh, &home, &[]), &[], &ports).unwrap();
    let strict = decide(MtlsMode::Strict);
    assert_eq!(strict.stays.len(), 1);
    assert!(strict.stays[0].contains("shop/open") && strict.stays[0].contains("shop/web:8080"));
    assert!(decide(MtlsMode::Permissive).stays.is_empty());
}

#[test]
fn its_own_policy_is_written_again_with_its_ports_and_nobody_elses_is() {
    let (shop, scope) = (label("shop"), web());
    let first = plan(&wish(MtlsMode::Strict, &scope, &shop, &[]), &[], &[]).unwrap();
    let ports = [decided(
        port("shop", "web", 9090, "STRICT"),
        "workload",
        "shop/mtls-web",
    )];
    let standing = [first.document];
    let open = plan(
        &wish(MtlsMode::Permissive, &scope, &shop, &[9090]),
        &standing,
        &ports,
    );
    let open = open.unwrap();
    let spec = &open.document["spec"];
    assert_eq!(spec["mtls"]["mode"], "STRICT");
    assert_eq!(spec["portLevelMtls"]["9090"]["mode"], "PERMISSIVE");
    assert_eq!(
        open.undo(" -n shop"),
        "leno mtls strict web --port 9090 -n shop"
    );
    // Somebody has given it to `leno apply` since.
    let mut theirs = standing;
    theirs[0]["metadata"]["annotations"]["leno.dev/source"] = json!("shop.yaml:1");
    let refused = plan(&wish(MtlsMode::Strict, &scope, &shop, &[]), &theirs, &ports);
    assert_eq!(refused.unwrap_err().policy, "shop/mtls-web");
    theirs[0]["metadata"]["name"] = json!("other");
    let refused = plan(&wish(MtlsMode::Strict, &scope, &shop, &[]), &theirs, &[]);
    assert_eq!(refused.unwrap_err().policy, "shop/other");
    let by_labels = [decided(
        port("shop", "web", 9090, "STRICT"),
        "port",
        "shop/labels",
    )];
    let refused = plan(
        &wish(MtlsMode::Permissive, &scope, &shop, &[]),
        &[],
        &by_labels,
    );
    assert_eq!(refused.unwrap_err().policy, "shop/labels");
}
