//! What the fuzz targets call (tests/parsers): readers of what strangers send that are nobody else's to call.
//! Each takes any bytes, says whether anything could be read out of them, and panics where that is not what must hold of it.

use leno_types::Identity;

use crate::{
    ca::{Csr, spki_pin},
    leaf::{self, Leaf},
};

/// A certificate: refused, or one with exactly one valid identity.
pub fn certificate(der: &[u8]) -> bool {
    assert!(spki_pin(der).starts_with("sha256/"));
    let read = Leaf::parse(der);
    if let Ok(leaf) = &read {
        assert!(leaf.identity.as_str().parse::<Identity>().is_ok());
        assert!(!leaf::show(leaf.not_before).is_empty() && !leaf::show(leaf.not_after).is_empty());
    }
    read.is_ok()
}

/// A certificate request: refused with a reason, or one that its key signed.
pub fn request(der: &[u8]) -> bool {
    let read = Csr::from_der(der);
    match &read {
        Ok(request) => assert!(!request.key_id().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    read.is_ok()
}
