//! One worker's traffic: a few additions per request, no lock, no atomic, no clock.
//!
//! Owns what was counted since the last delta. Invariant: at most [`MAX_EDGES`] edges and
//! [`MAX_RESPONSES_PER_EDGE`] kinds of response on each; what is beyond is counted as `other`, and that is counted.

use std::{collections::HashMap, sync::Arc, time::Duration};

use leno_types::Refusal;

use crate::{
    EdgeKey, LatencyHistogram, RequestOutcome, ResponseKey,
    prometheus::{Bytes, Milliseconds},
};

/// How many edges one worker tells apart.
pub const MAX_EDGES: usize = 4_096;

/// How many kinds of response one edge tells apart: a destination chooses its status codes freely.
pub const MAX_RESPONSES_PER_EDGE: usize = 48;

/// An edge of one [`Recorder`]; it means nothing to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EdgeId(u32);

/// Counts one worker's traffic.
#[derive(Debug)]
pub struct Recorder {
    ids: HashMap<Arc<EdgeKey>, EdgeId>,
    edges: Vec<Edge>,
    changed: Vec<EdgeId>,
    max_edges: usize,
    edges_overflowed: u64,
    responses_overflowed: u64,
}

#[derive(Debug)]
struct Edge {
    key: Arc<EdgeKey>,
    changed: bool,
    since: Counted,
}

/// What was counted on one edge since the last delta.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) requests: Vec<(ResponseKey, Requests)>,
    pub(crate) tcp: Vec<(Option<Refusal>, Tcp)>,
    /// From a stream's beginning, or from what its caller said first, to the first byte back.
    pub(crate) tcp_first_byte: Option<Box<Milliseconds>>,
    /// To the first byte, of requests and of streams.
    pub(crate) latency: LatencyHistogram,
}

/// Requests that ended alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// How many.
    pub count: u64,
    /// How long they took, in milliseconds.
    pub(crate) milliseconds: Milliseconds,
    /// The bytes of their bodies.
    pub(crate) request_bytes: Bytes,
    /// The bytes of their responses' bodies.
    pub(crate) response_bytes: Bytes,
}

/// Connections that ended alike; those still open count as having ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// How many were opened.
    pub opened: u64,
    /// How many were closed.
    pub closed: u64,
    /// Bytes sent to the caller, as Istio counts: by the destination.
    pub sent: u64,
    /// Bytes received from the caller.
    pub received: u64,
}

/// What one worker counted between two deltas. Adding the same to several totals is fine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The edges on which something happened.
    pub edges: Vec<EdgeDelta>,
    /// Edges that were counted as `other`.
    pub edges_overflowed: u64,
    /// Responses that were counted as `other`.
    pub responses_overflowed: u64,
}

/// What happened on one edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeDelta {
    /// Which edge.
    pub key: Arc<EdgeKey>,
    pub(crate) counted: Counted,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// Tells [`MAX_EDGES`] edges apart.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_edges(MAX_EDGES)
    }

    /// Tells `max_edges` edges apart.
    #[must_use]
    pub fn with_max_edges(max_edges: usize) -> Self {
        Self {
            ids: HashMap::new(),
            edges: Vec::new(),
            changed: Vec::new(),
            max_edges,
            edges_overflowed: 0,
            responses_overflowed: 0,
        }
    }

    /// The id of an edge, for as long as this recorder lives: ask once per connection or route, not per request.
    pub fn edge(&mut self, key: &EdgeKey) -> EdgeId {
        if let Some(id) = self.ids.get(key) {
            return *id;
        }
        if self.edges.len() < self.max_edges {
            return self.insert(key.clone());
        }
        self.edges_overflowed += 1;
        let other = EdgeKey::other(key.reporter, key.protocol, key.mtls);
        match self.ids.get(&other) {
            Some(id) => *id,
            None => self.insert(other), // at most one for each combination of three closed sets
        }
    }

    /// Counts one finished request.
    pub fn request(&mut self, edge: EdgeId, outcome: &RequestOutcome) {
        let Some(counted) = self.touch(edge) else {
            return;
        };
        let key = ResponseKey::from(outcome);
        let known = counted.requests.iter().position(|held| held.0 == key);
        let full = known.is_none() && counted.requests.len() >= MAX_RESPONSES_PER_EDGE;
        let key = if full { ResponseKey::OTHER } else { key };
        let requests = entry(&mut counted.requests, key);
        requests.count += 1;
        let micros = u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX);
        requests.milliseconds.record(micros);
        requests.request_bytes.record(outcome.request_bytes);
        requests.response_bytes.record(outcome.response_bytes);
        counted
            .latency
            .record(outcome.first_byte.unwrap_or(outcome.duration));
        self.responses_overflowed += u64::from(full);
    }

    /// Counts a connection that was opened.
    pub fn tcp_opened(&mut self, edge: EdgeId) {
        if let Some(counted) = self.touch(edge) {
            entry(&mut counted.tcp, None).opened += 1;
        }
    }

    /// Counts how long a connection's caller waited for the first byte.
    pub fn tcp_first_byte(&mut self, edge: EdgeId, latency: Duration) {
        if let Some(counted) = self.touch(edge) {
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            counted
                .tcp_first_byte
                .get_or_insert_default()
                .record(micros);
            counted.latency.record(latency);
        }
    }

    /// Counts bytes of a connection that stays open.
    pub fn tcp_bytes(&mut self, edge: EdgeId, sent: u64, received: u64) {
        if let Some(counted) = self.touch(edge) {
            let tcp = entry(&mut counted.tcp, None);
            tcp.sent = tcp.sent.saturating_add(sent);
            tcp.received = tcp.received.saturating_add(received);
        }
    }

    /// Counts a connection that was closed, with its bytes not yet counted, and why the mesh closed it.
    pub fn tcp_closed(&mut self, edge: EdgeId, sent: u64, received: u64, refusal: Option<Refusal>) {
        if let Some(counted) = self.touch(edge) {
            let tcp = entry(&mut counted.tcp, refusal);
            tcp.closed += 1;
            tcp.sent = tcp.sent.saturating_add(sent);
            tcp.received = tcp.received.saturating_add(received);
        }
    }

    /// What was counted since this was last called.
    pub fn take_delta(&mut self) -> Delta {
        let mut edges = Vec::with_capacity(self.changed.len());
        for id in self.changed.drain(..) {
            if let Some(edge) = self.edges.get_mut(id.0 as usize) {
                edge.changed = false;
                let counted = std::mem::take(&mut edge.since);
                edges.push(EdgeDelta {
                    key: Arc::clone(&edge.key),
                    counted,
                });
            }
        }
        Delta {
            edges,
            edges_overflowed: std::mem::take(&mut self.edges_overflowed),
            responses_overflowed: std::mem::take(&mut self.responses_overflowed),
        }
    }

    /// How many edges are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.edges.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    fn insert(&mut self, key: EdgeKey) -> EdgeId {
        let id = EdgeId(u32::try_from(self.edges.len()).unwrap_or(u32::MAX));
        let key = Arc::new(key);
        self.ids.insert(Arc::clone(&key), id);
        self.edges.push(Edge {
            key,
            changed: false,
            since: Counted::default(),
        });
        id
    }

    fn touch(&mut self, id: EdgeId) -> Option<&mut Counted> {
        let edge = self.edges.get_mut(id.0 as usize)?;
        if !edge.changed {
            edge.changed = true;
            self.changed.push(id);
        }
        Some(&mut edge.since)
    }
}

impl Delta {
    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty() && self.edges_overflowed == 0 && self.responses_overflowed == 0
    }
}

impl EdgeDelta {
    /// How many requests ended in which way.
    pub fn requests(&self) -> impl Iterator<Item = (ResponseKey, &Requests)> {
        self.counted
            .requests
            .iter()
            .map(|(key, requests)| (*key, requests))
    }

    /// How many connections, in which way.
    pub fn tcp(&self) -> impl Iterator<Item = (Option<Refusal>, Tcp)> + '_ {
        self.counted.tcp.iter().copied()
    }

    /// How long requests and streams took to the first byte back.
    #[must_use]
    pub fn latency(&self) -> &LatencyHistogram {
        &self.counted.latency
    }
}

impl Requests {
    /// The bytes of all requests' bodies.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        self.request_bytes.sum()
    }

    /// The bytes of all responses' bodies.
    #[must_use]
    pub fn response_bytes(&self) -> u64 {
        self.response_bytes.sum()
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.milliseconds.merge(&other.milliseconds);
        self.request_bytes.merge(&other.request_bytes);
        self.response_bytes.merge(&other.response_bytes);
    }
}

impl Tcp {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.opened = self.opened.saturating_add(other.opened);
        self.closed = self.closed.saturating_add(other.closed);
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
    }
}

impl Counted {
    pub(crate) fn merge(&mut self, other: &Self) -> u64 {
        let mut overflowed = 0;
        for (key, requests) in &other.requests {
            let known = self.requests.iter().any(|held| held.0 == *key);
            let full = !known && self.requests.len() >= MAX_RESPONSES_PER_EDGE;
            overflowed += if full { requests.count } else { 0 };
            let key = if full { ResponseKey::OTHER } else { *key };
            entry(&mut self.requests, key).merge(requests);
        }
        for (refusal, tcp) in &other.tcp {
            entry(&mut self.tcp, *refusal).merge(tcp);
        }
        if let Some(first) = &other.tcp_first_byte {
            self.tcp_first_byte.get_or_insert_default().merge(first);
        }
        self.latency.merge(&other.latency);
        overflowed
    }
}

/// The value of `key`, made when it is not there. Lists are short: a handful of keys, most used first.
fn entry<K: PartialEq, V: Default>(list: &mut Vec<(K, V)>, key: K) -> &mut V {
    let at = list
        .iter()
        .position(|held| held.0 == key)
        .unwrap_or_else(|| {
            list.push((key, V::default()));
            list.len() - 1
        });
    &mut list[at].1
}
