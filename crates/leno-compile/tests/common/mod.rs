//! What the tests of the compiler have in common.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use leno_ir::Mesh;

/// A mesh of this name as proxies are told of it, with nothing in it.
pub(crate) fn mesh(name: &str) -> Mesh {
    Mesh {
        name: name.parse().unwrap(),
        trust_domain: "default.leno".parse().unwrap(),
        trust_bundle: String::new(),
        prefixes: Vec::new(),
        addresses: Vec::new(),
        vip_v4: "240.240.0.0/16".parse().unwrap(),
        vip_v6: "2001:2::/48".parse().unwrap(),
        namespaces: Default::default(),
        domains: Default::default(),
    }
}
