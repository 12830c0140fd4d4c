//! Trust bundles and keys as PEM: any text is refused or read.
#![no_main]

use leno_tls::{PrivateKey, TrustBundle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(domain) = "fuzz.leno".parse() {
        drop(TrustBundle::from_pem(domain, text));
    }
    drop(PrivateKey::from_pem(text));
});
