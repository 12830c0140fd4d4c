#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

#[test]
fn what_is_no_context_is_said_to_be_none() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n";
    let error = of_text(route, "good.yaml").unwrap_err();
    assert_eq!(
        (error.code, error.what.as_str()),
        (6, "good.yaml is no context: it is of kind HTTPRoute")
    );
    let error = of_text("kind: Config\n", "empty").unwrap_err();
    assert!(error.what.contains("none is in it"), "{error}");
    assert_eq!(of_text("[", "x").unwrap_err().code, 6);
}

#[test]
fn without_the_current_context_no_other_is_taken_for_it() {
    let mut file = File::default();
    for name in ["default", "shop"] {
        let context = Context {
            name: name.into(),
            server: Server::parse("https://127.0.0.1:15012/meshes/shop").unwrap(),
            namespace: "default".into(),
            credentials: None,
        };
        put(&mut file, &context, false);
    }
    assert_eq!(file.current_context, "default");
    take_away(&mut file, "default");
    let none = select(&file, &file.current_context, Path::new("f")).unwrap_err();
    assert!(
        none.what.contains("no context is the current one"),
        "{none}"
    );
    assert!(none.hint.contains("known are: shop"), "{none}");
}

#[test]
fn a_context_survives_the_way_to_another_user() {
    let context = Context {
        name: "shop".into(),
        server: Server::parse("https://127.0.0.1:15012/meshes/shop").unwrap(),
        namespace: "default".into(),
        credentials: Some(Credentials {
            trust_domain: "shop.leno".into(),
            bundle: "a bundle".into(),
            certificate: "a certificate".into(),
            key: "a key".into(),
        }),
    };
    let file: File = serde_saphyr::from_str(&export(&context).unwrap()).unwrap();
    let read = select(&file, &file.current_context, Path::new("")).unwrap();
    assert_eq!(read, context);
    let missing = select(&file, "shopp", Path::new("f")).unwrap_err();
    assert!(missing.hint.contains("did you mean \"shop\"?"), "{missing}");
}
