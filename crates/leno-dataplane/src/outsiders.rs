//! Who calls from outside the mesh: whom STRICT cuts off, by workload, port and address.
//!
//! Owns a row for each such caller that did anything since the last report, or is still connected. Asks no policy.
//! Invariant: at most [`CEILING`] rows, whatever the outside sends; who is beyond is counted.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use leno_telemetry::counters::Limit;
use leno_types::WorkloadUid;

use crate::{api::Outsider, counters::limit, state::Shared};

/// Callers that are told apart between two reports.
const CEILING: usize = 1_024;
/// Who is connected and says nothing is told again so often.
const EVERY: Duration = Duration::from_secs(30);

/// The rows.
#[derive(Default)]
pub(crate) struct Outsiders(RefCell<HashMap<Caller, Row>>);

/// The workload called, its program's port, and from where.
type Caller = (WorkloadUid, u16, IpAddr);

#[derive(Default)]
struct Row {
    calls: u64,
    refused: u64,
    open: usize,
    told: Option<Instant>,
}

/// A connection of such a caller while it is open.
pub(crate) struct Visit {
    shared: Rc<Shared>,
    caller: Caller,
}

impl Outsiders {
    /// What happened since the last look.
    pub(crate) fn take(&self, now: Instant) -> Vec<Outsider> {
        let mut rows = self.0.borrow_mut();
        let mut told = Vec::new();
        for ((workload, port, address), row) in rows.iter_mut() {
            let quiet = row.calls == 0 && row.refused == 0;
            if quiet && row.told.is_some_and(|told| now < told + EVERY) {
                continue;
            }
            row.told = Some(now);
            told.push(Outsider {
                workload: *workload,
                port: *port,
                address: *address,
                calls: std::mem::take(&mut row.calls),
                refused: std::mem::take(&mut row.refused),
            });
        }
        rows.retain(|_, row| row.open > 0);
        told
    }

    fn with(&self, caller: Caller, change: impl FnOnce(&mut Row)) {
        let mut rows = self.0.borrow_mut();
        if rows.len() >= CEILING && !rows.contains_key(&caller) {
            limit(Limit::Outsiders);
            return;
        }
        change(rows.entry(caller).or_default());
    }
}

impl Visit {
    /// A connection from `address` to a workload's port.
    pub(crate) fn begin(
        shared: &Rc<Shared>,
        workload: WorkloadUid,
        port: u16,
        address: IpAddr,
    ) -> Self {
        let caller = (workload, port, address.to_canonical());
        shared.outsiders.with(caller, |row| row.open += 1);
        Self {
            shared: Rc::clone(shared),
            caller,
        }
    }

    /// A request, or a stream of bytes, went on to the program.
    pub(crate) fn called(&self) {
        let rows = &self.shared.outsiders;
        rows.with(self.caller, |row| row.calls = row.calls.saturating_add(1));
    }

    /// One was refused because it came in clear.
    pub(crate) fn refused(&self) {
        let rows = &self.shared.outsiders;
        rows.with(self.caller, |row| {
            row.refused = row.refused.saturating_add(1)
        });
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut rows = self.shared.outsiders.0.borrow_mut();
        if let Some(row) = rows.get_mut(&self.caller) {
            // One that found no room was not counted in.
            row.open = row.open.saturating_sub(1);
        }
    }
}
