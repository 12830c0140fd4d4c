//! The way back of answers to callers' addresses: what carries a mark is delivered here, wherever it is addressed to.
//!
//! A rule of policy routing and a routing table with one local route, for each family; both carry numbers that nobody
//! else uses, so that what is ours is told from what is others'.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::route::{DELETE_ROUTE, NEW_ROUTE, RTA_OIF, SCOPE_HOST, TYPE_LOCAL, route_header};
use super::{change, family, index, ipv6_enabled};
use crate::capture::SOURCE_MARK;
use crate::netlink::{ACK, Batch, CREATE, EXCLUSIVE};

const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const RTA_TABLE: u16 = 15;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const TO_TABLE: u8 = 1;
/// The routing table, called as the mark.
const TABLE: u32 = SOURCE_MARK;
/// Before the rules that hosts have for themselves, which begin at 32766, and those of most other programs.
const PRIORITY: u32 = 1_000;

/// Has what carries `capture::SOURCE_MARK` delivered here; true when anything of it was missing.
pub fn deliver_marked_here() -> io::Result<bool> {
    let mut added = false;
    for of in families() {
        for (what, build) in STEPS {
            match change(&format!("add {what}"), |netlink, batch| {
                let loopback = index(netlink, "lo")?;
                build(batch, of, loopback, true);
                Ok(())
            }) {
                Ok(()) => added = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(added)
}

/// Ends what [`deliver_marked_here`] began; true when there was something.
pub fn end_marked_delivery() -> io::Result<bool> {
    let mut removed = false;
    for of in families() {
        for (what, build) in STEPS.into_iter().rev() {
            match change(&format!("delete {what}"), |netlink, batch| {
                let loopback = index(netlink, "lo")?;
                build(batch, of, loopback, false);
                Ok(())
            }) {
                Ok(()) => removed = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

fn families() -> impl Iterator<Item = IpAddr> {
    let v6 = ipv6_enabled().then_some(Ipv6Addr::UNSPECIFIED.into());
    std::iter::once(Ipv4Addr::UNSPECIFIED.into()).chain(v6)
}

/// What a step is, and how it is said for a family, with loopback's index: to be added, or deleted.
type Step = (&'static str, fn(&mut Batch, IpAddr, u32, bool));

/// The route first: a rule without it would lead nowhere.
const STEPS: [Step; 2] = [
    ("the local route of marked packets", route),
    ("the routing rule of marked packets", rule),
];

fn flags(add: bool) -> u16 {
    if add { CREATE | EXCLUSIVE | ACK } else { ACK }
}

fn route(batch: &mut Batch, of: IpAddr, loopback: u32, add: bool) {
    let kind = if add { NEW_ROUTE } else { DELETE_ROUTE };
    let header = route_header(family(of), 0, 0, SCOPE_HOST, TYPE_LOCAL);
    batch.message(kind, flags(add), &header, |to| {
        to.u32(RTA_TABLE, TABLE);
        to.u32(RTA_OIF, loopback);
    });
}

fn rule(batch: &mut Batch, of: IpAddr, _loopback: u32, add: bool) {
    let kind = if add { NEW_RULE } else { DELETE_RULE };
    // `struct fib_rule_hdr`.
    let header = [family(of), 0, 0, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0];
    batch.message(kind, flags(add), &header, |to| {
        to.u32(FRA_PRIORITY, PRIORITY);
        to.u32(FRA_FWMARK, SOURCE_MARK);
        to.u32(FRA_FWMASK, u32::MAX);
        to.u32(FRA_TABLE, TABLE);
    });
}
