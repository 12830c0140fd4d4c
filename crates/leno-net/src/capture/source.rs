//! The way back from programs to callers' addresses, where Leno shares the network with them.
//!
//! A socket of Leno's that speaks from a caller's address (IP_TRANSPARENT) carries a mark. The program answers to that
//! address, which is elsewhere: its answers are known by their connection's mark, get the mark themselves, and are routed
//! to loopback by it. Reverse path filters see nothing of it: what loopback delivers was routed before.
//! Invariant: no packet from a caller's address that Leno made leaves by a link.
//!
//! The connection is tracked in a zone of its own, as far as it comes from Leno: a real one of the same caller, which
//! was redirected to Leno, may have the same ends.

use super::nft::{Hook, Made, Start, Table};
use super::{CAPABILITY, Installed, SOURCE_MARK, install, remove};
use crate::{NetError, link};

/// Its table, beside those of captures.
const TABLE: &str = "leno-source";
const ZONE: &str = "zone";
const RETURN: &str = "return";
/// Of connection tracking; any but 0, which is everybody's.
const SOURCE_ZONE: u16 = 0x1e_e1;

/// The way back of a namespace, which sockets of `socket::transparent_socket` with `SOURCE_MARK` need.
#[derive(Debug)]
pub struct SourceAddresses(Installed);

impl SourceAddresses {
    /// Installs it, or takes over what is there.
    ///
    /// # Errors
    /// What is not permitted, or which part the kernel has not.
    pub fn install() -> Result<Self, NetError> {
        let installed = install(TABLE, |start| Ok(batch(start)))?;
        routes()?;
        Ok(Self(installed))
    }

    /// Installs again what somebody else removed; true when somebody had.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn restore(&self) -> Result<bool, NetError> {
        let rules = self.0.restore()?;
        Ok(routes()? || rules)
    }

    /// Removes it, whoever installed it; true when there was something.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn remove() -> Result<bool, NetError> {
        let routes = link::end_marked_delivery()
            .map_err(|error| NetError::step("remove the way back of answers", CAPABILITY, error));
        let rules = remove(TABLE);
        Ok(routes? || rules?)
    }
}

fn routes() -> Result<bool, NetError> {
    let what = "route answers to callers' addresses back (it needs CONFIG_IP_MULTIPLE_TABLES)";
    link::deliver_marked_here().map_err(|error| NetError::step(what, CAPABILITY, error))
}

fn batch(start: Start) -> Made {
    let mut table = Table::make(TABLE, start);
    table.base_chain(ZONE, Hook::RawOutput);
    table.rule(ZONE, |rule| {
        rule.mark(SOURCE_MARK).set_original_zone(SOURCE_ZONE);
    });
    table.base_chain(RETURN, Hook::RouteOutput);
    table.rule(RETURN, |rule| {
        rule.mark(SOURCE_MARK).set_connection_mark(SOURCE_MARK);
    });
    table.rule(RETURN, |rule| {
        rule.connection_mark(SOURCE_MARK).set_mark(SOURCE_MARK);
    });
    table.finish()
}
