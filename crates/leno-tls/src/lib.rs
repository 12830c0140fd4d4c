//! Identities, verification, rotation and certificate authority; the only user of rustls.
