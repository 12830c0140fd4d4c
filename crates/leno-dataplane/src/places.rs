//! What one workload may have open at once, so that no program takes from its neighbours on the host what they need.

use std::{cell::Cell, rc::Rc};

use leno_telemetry::counters::Limit;

use crate::{Limits, counters::limit};

/// Places of one workload.
pub(crate) struct WorkloadPlaces {
    /// Connections of its program, and HTTP/2 streams on them.
    pub(crate) outbound: Places,
    /// Connections to it from outside the mesh, and HTTP/2 streams on them.
    pub(crate) published: Places,
    /// HTTP/2 streams within CONNECT streams of peers to it.
    pub(crate) tunnelled: Places,
    /// DNS queries of its program that wait for somebody.
    pub(crate) dns_queries: Places,
    /// DNS connections of its program.
    pub(crate) dns_connections: Places,
}

/// The places of one kind; clones are the same ones.
#[derive(Clone)]
pub(crate) struct Places {
    taken: Rc<Cell<usize>>,
    ceiling: usize,
    limit: Limit,
}

/// One place, free again when it is dropped.
pub(crate) struct Place(Rc<Cell<usize>>);

impl WorkloadPlaces {
    /// All free.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            outbound: Places::new(limits.outbound_connections, Limit::OutboundConnections),
            published: Places::new(limits.published_connections, Limit::PublishedConnections),
            tunnelled: Places::new(limits.tunnelled_streams, Limit::TunnelledStreams),
            dns_queries: Places::new(limits.dns_queries, Limit::DnsQueries),
            dns_connections: Places::new(limits.dns_connections, Limit::DnsConnections),
        }
    }
}

impl Places {
    fn new(ceiling: usize, limit: Limit) -> Self {
        Self {
            taken: Rc::default(),
            ceiling,
            limit,
        }
    }

    /// A place; `None` at the ceiling, which is counted.
    pub(crate) fn take(&self) -> Option<Place> {
        let taken = self.taken.get();
        if taken >= self.ceiling {
            limit(self.limit);
            return None;
        }
        self.taken.set(taken + 1);
        Some(Place(Rc::clone(&self.taken)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
