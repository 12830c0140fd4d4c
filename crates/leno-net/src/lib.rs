//! Sockets, original destinations, nftables, namespaces: the only crate with unsafe code.
//!
//! Owns everything that Leno asks of the Linux kernel beyond plain sockets. All unsafe code is in `sys.rs`.
//! Set-up calls (namespaces, links, capture) are blocking and rare: they belong before a runtime starts or on
//! a thread of their own. Refuses to know what a mesh is: no configuration, no identity, no policy.

pub mod arena;
pub mod capture;
pub mod cgroup;
mod error;
pub mod fdpass;
pub mod link;
pub mod memory;
pub mod mounts;
mod netlink;
pub mod netns;
pub mod process;
pub mod program;
pub mod room;
pub mod socket;
mod sys;

pub use error::NetError;
