//! What the authority issues, what it refuses, and that no key is ever printed.

use rustls::pki_types::pem::PemObject;

use super::*;
use crate::{
    TlsError,
    ca::{BACKDATE, CaError, MAX_CSR, MAX_EXTRA_NAMES, spki_pin},
    leaf,
};

fn csr(key: &PrivateKey) -> Csr {
    Csr::from_der(&key.csr().unwrap()).unwrap()
}

#[test]
fn a_certificate_is_backdated_and_lies_within_its_issuers_time() {
    let now = SystemTime::now();
    let domain: TrustDomain = "default.leno".parse().unwrap();
    let root = RootAuthority::generate(&domain, now).unwrap();
    let intermediate = root.issue_intermediate(now, 7 * DAY).unwrap();
    let bundle = TrustBundle::from_pem(domain.clone(), &root.cert_pem()).unwrap();
    let identity = Identity::control_plane(&domain);
    let key = PrivateKey::generate();
    let issue =
        |at, lifetime| intermediate.sign(&csr(&key), &identity, &[], Usage::Workload, at, lifetime);
    let held =
        |chain: &str, at| WorkloadCertificate::new(None, chain, &key, &bundle, 1, at).unwrap();

    // The issuer begins when the mesh does, so a certificate of that moment cannot begin earlier.
    let first = issue(now, HOUR).unwrap();
    assert_eq!(
        held(&first.chain_pem, now).not_before(),
        intermediate.not_before()
    );
    let later = now + DAY;
    let certificate = held(&issue(later, HOUR).unwrap().chain_pem, later);
    let behind = later.duration_since(certificate.not_before()).unwrap();
    assert!(
        behind >= BACKDATE && behind < BACKDATE + Duration::from_secs(1),
        "{behind:?}"
    );

    let long = issue(now + 6 * DAY, 30 * DAY).unwrap();
    assert_eq!(long.not_after, intermediate.not_after());
    let over = issue(now + 8 * DAY, HOUR);
    assert!(matches!(over, Err(CaError::IssuerExpired { .. })));
    assert!(matches!(issue(now, Duration::ZERO), Err(CaError::Lifetime)));
    let past_root = root.issue_intermediate(now, 100 * 365 * DAY).unwrap();
    assert_eq!(past_root.not_after(), root.not_after());
}

#[test]
fn a_certificate_is_renewed_at_half_of_its_life_with_jitter() {
    let mesh = Mesh::new("default.leno");
    let certificate = mesh.certificate("cart", None, 1);
    let after = |jitter| {
        certificate
            .renew_at(jitter)
            .duration_since(mesh.now)
            .unwrap()
            .as_secs()
    };
    assert!((1618..=1621).contains(&after(0.0)), "{}", after(0.0));
    assert!((1798..=1801).contains(&after(0.5)), "{}", after(0.5));
    assert!((1978..=1981).contains(&after(1.0)), "{}", after(1.0));
    assert_eq!(after(f64::NAN), after(0.5));

    // One of ten seconds is backdated by more than its life, and still not due at once.
    let key = PrivateKey::generate();
    let identity = mesh.identity("cart");
    let ten = Duration::from_secs(10);
    let chain = mesh
        .intermediate
        .sign(&csr(&key), &identity, &[], Usage::Workload, mesh.now, ten)
        .unwrap();
    let brief =
        WorkloadCertificate::new(None, &chain.chain_pem, &key, &mesh.bundle, 1, mesh.now).unwrap();
    let due = brief.renew_at(0.5).duration_since(mesh.now).unwrap();
    assert!((4..=5).contains(&due.as_secs()), "{due:?}");
}

#[test]
fn names_come_from_the_authority_and_never_from_the_request() {
    let mesh = Mesh::new("default.leno");
    let key = PrivateKey::generate();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(uri("spiffe://default.leno/ns/shop/sa/payments"));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).unwrap();
    let csr = Csr::from_der(request.der()).unwrap();
    let extra = [
        uid(0x12).to_string(),
        "Localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    let identity = mesh.identity("cart");
    let chain = mesh
        .intermediate
        .sign(&csr, &identity, &extra, Usage::Workload, mesh.now, HOUR)
        .unwrap();
    let held =
        WorkloadCertificate::new(None, &chain.chain_pem, &key, &mesh.bundle, 1, mesh.now).unwrap();
    assert_eq!(held.identity(), &identity);
    assert_eq!(
        held.names(),
        [
            uid(0x12).to_string().as_str(),
            "localhost",
            "127.0.0.1",
            "::1"
        ]
    );
    assert_eq!(held.serial(), chain.serial);
    assert_eq!(held.chain_pem(), chain.chain_pem);
}

#[test]
fn what_the_authority_may_not_name_is_refused() {
    let mesh = Mesh::new("default.leno");
    let key = PrivateKey::generate();
    let sign = |identity: &Identity, extra: &[String]| {
        mesh.intermediate
            .sign(&csr(&key), identity, extra, Usage::Client, mesh.now, HOUR)
    };
    let foreign = "spiffe://other.leno/ns/shop/sa/cart".parse().unwrap();
    assert!(matches!(
        sign(&foreign, &[]),
        Err(CaError::OtherTrustDomain { .. })
    ));
    for bad in ["", "a b", "*.example", "a..b", "é"] {
        let refused = sign(&mesh.identity("cart"), &[bad.to_owned()]);
        assert!(
            matches!(refused, Err(CaError::Name(name)) if name == bad),
            "{bad}"
        );
    }
    let many = vec!["a".to_owned(); MAX_EXTRA_NAMES + 1];
    assert!(sign(&mesh.identity("cart"), &many).is_err());
}

#[test]
fn only_keys_of_two_kinds_that_are_proven_get_a_certificate() {
    let request = |algorithm| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .der()
            .to_vec()
    };
    assert!(Csr::from_der(&request(&rcgen::PKCS_ED25519)).is_ok());
    let p384 = Csr::from_der(&request(&rcgen::PKCS_ECDSA_P384_SHA384));
    assert!(matches!(p384, Err(CaError::CsrKey)));
    let rsa = Csr::from_der(&request(&rcgen::PKCS_RSA_SHA256));
    assert!(matches!(rsa, Err(CaError::CsrKey)));

    let mut unproven = PrivateKey::generate().csr().unwrap();
    *unproven.last_mut().unwrap() ^= 1;
    assert!(matches!(Csr::from_der(&unproven), Err(CaError::CsrProof)));
    let mut longer = PrivateKey::generate().csr().unwrap();
    longer.push(0);
    assert!(matches!(
        Csr::from_der(&longer),
        Err(CaError::CsrMalformed(_))
    ));
    assert!(matches!(
        Csr::from_der(&vec![0; MAX_CSR + 1]),
        Err(CaError::CsrTooLarge(_))
    ));
}

#[test]
fn serial_numbers_are_positive_random_and_127_bits() {
    let mesh = Mesh::new("default.leno");
    let key = PrivateKey::generate();
    let serials: std::collections::BTreeSet<_> = (0..64)
        .map(|_| {
            let identity = mesh.identity("cart");
            mesh.intermediate
                .sign(&csr(&key), &identity, &[], Usage::Client, mesh.now, HOUR)
                .unwrap()
                .serial
        })
        .collect();
    assert_eq!(serials.len(), 64);
    assert!(
        serials
            .iter()
            .all(|serial| u128::from_str_radix(serial, 16).unwrap() < 1 << 127)
    );
    assert!(
        serials
            .iter()
            .any(|serial| u128::from_str_radix(serial, 16).unwrap() > 1 << 125)
    );
}

#[test]
fn authorities_survive_being_written_down_and_are_not_mixed_up() {
    let mesh = Mesh::new("default.leno");
    let root =
        RootAuthority::from_pem(&mesh.root.cert_pem(), mesh.root.key_pem().expose()).unwrap();
    assert_eq!(
        (root.domain(), root.pin()),
        (mesh.root.domain(), mesh.root.pin())
    );
    let (cert, key) = (mesh.intermediate.cert_pem(), mesh.intermediate.key_pem());
    let intermediate = Intermediate::from_pem(&cert, key.expose()).unwrap();
    assert_eq!(intermediate.not_after(), mesh.intermediate.not_after());
    let again = Mesh {
        root,
        intermediate,
        bundle: mesh.bundle.clone(),
        now: mesh.now,
    };
    assert_eq!(again.certificate("cart", None, 7).generation(), 7);

    let mixed = Intermediate::from_pem(&cert, mesh.root.key_pem().expose());
    assert!(matches!(mixed, Err(CaError::KeyMismatch)));
    let leaf = mesh.certificate("cart", None, 1).chain_pem();
    let first = &leaf[..leaf.find("-----END").unwrap() + 26];
    assert!(matches!(
        Intermediate::from_pem(first, key.expose()),
        Err(CaError::Authority(_))
    ));
    let beneath = TrustBundle::from_pem("default.leno".parse().unwrap(), first);
    assert!(matches!(beneath, Err(TlsError::NotAnAuthority { .. })));
}

#[test]
fn ones_own_bad_certificate_is_noticed_before_a_peer_does() {
    let mesh = Mesh::new("default.leno");
    let other = Mesh::new("other.leno");
    let key = PrivateKey::generate();
    let chain = mesh.sign(&key, &mesh.identity("cart"), &[], Usage::Workload, mesh.now);
    let new = |key: &PrivateKey, bundle: &TrustBundle, now| {
        WorkloadCertificate::new(None, &chain, key, bundle, 1, now).err()
    };
    assert!(new(&key, &mesh.bundle, mesh.now).is_none());
    let stranger = PrivateKey::generate();
    assert!(matches!(
        new(&stranger, &mesh.bundle, mesh.now),
        Some(TlsError::KeyMismatch { .. })
    ));
    assert!(matches!(
        new(&key, &other.bundle, mesh.now),
        Some(TlsError::OtherTrustDomain { .. })
    ));
    let late = new(&key, &mesh.bundle, mesh.now + 2 * HOUR);
    assert!(matches!(
        late,
        Some(TlsError::Certificate(crate::VerifyError::Expired { .. }))
    ));
}

#[test]
fn a_pin_is_of_the_key_and_survives_a_new_certificate_for_it() {
    let mesh = Mesh::new("default.leno");
    let pin = mesh.root.pin();
    assert_eq!(mesh.bundle.pins(), [pin.as_str()]);
    assert_eq!(pin.len(), "sha256/".len() + 43);
    let key = PrivateKey::from_pem(mesh.root.key_pem().expose()).unwrap();
    let renewed = mesh.params(|_| {}).self_signed(&key).unwrap();
    assert_eq!(spki_pin(renewed.der()), pin);
    assert_eq!(spki_pin(b"no certificate"), "sha256/");
}

#[test]
fn nothing_that_holds_a_key_prints_it() {
    let mesh = Mesh::new("default.leno");
    let key = PrivateKey::generate();
    let chain = mesh.sign(&key, &mesh.identity("cart"), &[], Usage::Workload, mesh.now);
    let certificate =
        WorkloadCertificate::new(None, &chain, &key, &mesh.bundle, 1, mesh.now).unwrap();
    let printed = format!(
        "{key:?} {:?} {certificate:?} {:?} {:?} {:?} {:#?}",
        key.to_pem(),
        mesh.root,
        mesh.intermediate,
        mesh.root.key_pem(),
        certificate.key(),
    );
    assert!(
        printed.contains("PrivateKey(redacted)") && printed.contains("Secret(redacted)"),
        "{printed}"
    );
    for secret in [
        key.to_pem(),
        mesh.root.key_pem(),
        mesh.intermediate.key_pem(),
    ] {
        let body = secret.expose().lines().nth(1).unwrap().to_owned();
        assert!(body.len() == 64 && !printed.contains(&body), "{printed}");
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from_pem_slice(secret.expose().as_bytes())
            .unwrap();
        // The secret scalar begins at byte 36 of a PKCS#8 P-256 key.
        let scalar = &der.secret_pkcs8_der()[36..44];
        assert!(!printed.contains(&leaf::hex(scalar)), "{printed}");
        assert!(
            !printed.contains(&format!("{scalar:?}")[1..20]),
            "{printed}"
        );
    }
}
