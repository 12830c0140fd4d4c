//! Sockets, original destinations, nftables, namespaces: the only crate with unsafe code.
