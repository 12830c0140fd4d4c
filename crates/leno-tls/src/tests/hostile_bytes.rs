//! Nothing a stranger sends panics, and nothing damaged is taken for whole.

use proptest::prelude::*;

use super::*;
use crate::{leaf::Leaf, verify_failure_reason};

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_request_and_no_certificate(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Csr::from_der(&bytes).is_err());
        prop_assert!(Leaf::parse(&bytes).is_err());
        prop_assert_eq!(crate::ca::spki_pin(&bytes), "sha256/");
    }

    /// The signature covers the request's info; around it a parser may be lenient, but the key stays the sender's.
    #[test]
    fn a_damaged_request_is_refused(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let whole = PrivateKey::generate().csr().unwrap();
        let at = at.index(whole.len());
        prop_assert!(Csr::from_der(&whole[..at]).is_err());

        let mut damaged = whole.clone();
        damaged[at] ^= 1 << bit;
        let signed = 3..3 + 2 + usize::from(whole[4]);
        match Csr::from_der(&damaged) {
            Ok(csr) => {
                prop_assert!(!signed.contains(&at), "byte {} is signed", at);
                let original = Csr::from_der(&whole).unwrap();
                prop_assert_eq!(csr.public_key(), original.public_key());
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn a_damaged_certificate_panics_nobody(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mesh = shared();
        let mut der = pem::certificates(&mesh.certificate("cart", None, 1).chain_pem()).unwrap().remove(0).to_vec();
        for (at, byte) in changes {
            let at = at.index(der.len());
            der[at] = byte;
        }
        // Whether it still parses is chance, but what does has one valid identity.
        if let Ok(leaf) = Leaf::parse(&der) {
            prop_assert!(leaf.identity.as_str().parse::<Identity>().is_ok());
        }
        let pem = pem::certificate(&der);
        if let Ok(bundle) = TrustBundle::from_pem(mesh.bundle.domain().clone(), &pem) {
            prop_assert_eq!(bundle.pins().len(), 1);
        }
    }

    #[test]
    fn random_text_is_no_bundle_and_no_key(text in "\\PC{0,200}") {
        prop_assert!(TrustBundle::from_pem("a".parse().unwrap(), &text).is_err());
        prop_assert!(PrivateKey::from_pem(&text).is_err());
    }
}

fn shared() -> &'static Mesh {
    static MESH: std::sync::OnceLock<Mesh> = std::sync::OnceLock::new();
    MESH.get_or_init(|| Mesh::new("default.leno"))
}

#[tokio::test]
async fn a_damaged_handshake_ends_in_an_error_with_a_label() {
    use tokio::io::AsyncWriteExt;
    let mesh = shared();
    let acceptor = mesh.acceptor(vec![mesh.certificate("cart", None, 1)]);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..200 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut bytes = vec![22, 3, 1, 0, 200];
        bytes.extend(random.to_be_bytes().iter().cycle().take(200));
        let (mut here, there) = tokio::io::duplex(1024);
        here.write_all(&bytes).await.unwrap();
        drop(here);
        let error = acceptor.accept(there).await.err().unwrap();
        assert!(
            matches!(verify_failure_reason(&error), "protocol" | "io"),
            "{error}"
        );
    }
}
