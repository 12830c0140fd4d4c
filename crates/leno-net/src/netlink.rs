//! Blocking netlink.
#[derive(Debug)]
pub(crate) struct Netlink;
