//! What this proxy saw, for the control plane, for Prometheus, and for the access log.
//!
//! Reports to the control plane are deltas: what happened since the last one that was sent. While there is nobody to
//! send to, they are merged by edge and so stay bounded.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::{File, OpenOptions},
    io::Write,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use leno_dataplane::{Event, Outsider};
use leno_telemetry::{
    Delta, EdgeDelta, EdgeKey, LatencyHistogram, Protocol, Reporter as Side, Totals,
    counters::{Counter, Counters, Gauge, Limit},
};
use leno_types::WorkloadUid;
use leno_wire::agent as wire;

use crate::explain::Refusals;

/// Between two reports in which something happened.
const INTERVAL: Duration = Duration::from_millis(200);
/// Between two reports in which nothing did: the control plane keeps the proxy's size and certificates current.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// Reading one's own memory costs a walk over the page tables.
const MEMORY_INTERVAL: Duration = Duration::from_secs(2);
/// Edges that wait to be reported; what comes above it is dropped, counted.
const MAX_WAITING: usize = 4_096;
/// Callers from outside the mesh that wait to be reported; the same of those above it.
const MAX_OUTSIDERS: usize = 1_024;

/// Collects what the data plane tells.
pub(crate) struct Reporter {
    totals: Totals,
    counters: Counters,
    refusals: Refusals,
    waiting: HashMap<Arc<EdgeKey>, wire::EdgeDelta>,
    outsiders: HashMap<(WorkloadUid, u16, IpAddr), Outsider>,
    dropped: u64,
    sequence: u64,
    reported: Option<Instant>,
    measured: Option<Instant>,
    memory: (u64, u64),
    log: Option<File>,
}

/// What the agent counts itself.
pub(crate) struct Own {
    /// Responses of the control plane of which something was refused.
    pub(crate) nacks: u64,
    /// Resources held.
    pub(crate) resources: usize,
    /// Times capture rules were restored.
    pub(crate) rules_restored: u64,
    /// Connections to the admin ports that made room.
    pub(crate) readers_ended: u64,
    /// Lines of the access log that are kept no more.
    pub(crate) lines_forgotten: u64,
    /// Programs whose refusal is remembered no more.
    pub(crate) programs_forgotten: u64,
}

impl Reporter {
    /// With an access log at this place.
    pub(crate) fn new(access_log: Option<&Path>) -> Self {
        let open = |path: &Path| {
            let opened = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o640)
                .open(path);
            opened.inspect_err(|error| tracing::error!(path = %path.display(), %error, "the access log cannot be written")).ok()
        };
        Self {
            totals: Totals::default(),
            counters: Counters::default(),
            refusals: Refusals::default(),
            waiting: HashMap::new(),
            outsiders: HashMap::new(),
            dropped: 0,
            sequence: 0,
            reported: None,
            measured: None,
            memory: (0, 0),
            log: access_log.and_then(open),
        }
    }

    /// Takes a report of the data plane in; gives the lines of its log.
    pub(crate) fn take(&mut self, event: Event) -> Vec<u8> {
        let Event::Telemetry {
            delta,
            counters,
            log,
            refusals,
            outsiders,
        } = event
        else {
            return Vec::new();
        };
        self.totals.merge(&delta);
        self.counters.merge(&counters);
        self.wait_for_sending(&delta);
        self.outsiders_wait(outsiders);
        self.refusals.take(refusals);
        if let Some(file) = &mut self.log
            && !log.is_empty()
            && let Err(error) = file.write_all(&log)
        {
            tracing::warn!(%error, "lines of the access log are lost");
        }
        log
    }

    fn wait_for_sending(&mut self, delta: &Delta) {
        for edge in &delta.edges {
            let message = to_wire(edge);
            let room = self.waiting.len() < MAX_WAITING;
            match self.waiting.entry(Arc::clone(&edge.key)) {
                Entry::Occupied(mut waiting) => merge(waiting.get_mut(), &message),
                Entry::Vacant(free) if room => drop(free.insert(message)),
                Entry::Vacant(_) => self.dropped += 1,
            }
        }
    }

    fn outsiders_wait(&mut self, outsiders: Vec<Outsider>) {
        for outsider in outsiders {
            let key = (outsider.workload, outsider.port, outsider.address);
            let room = self.outsiders.len() < MAX_OUTSIDERS;
            match self.outsiders.entry(key) {
                Entry::Occupied(mut waiting) => {
                    let waiting = waiting.get_mut();
                    waiting.calls = waiting.calls.saturating_add(outsider.calls);
                    waiting.refused = waiting.refused.saturating_add(outsider.refused);
                }
                Entry::Vacant(free) if room => drop(free.insert(outsider)),
                Entry::Vacant(_) => self.dropped += 1,
            }
        }
    }

    /// The next report, when one is due.
    pub(crate) fn report(
        &mut self,
        now: Instant,
        version: &str,
        certificates: Vec<wire::CertificateState>,
    ) -> Option<wire::Report> {
        let interval = if self.waiting.is_empty() && self.outsiders.is_empty() {
            IDLE_INTERVAL
        } else {
            INTERVAL
        };
        if self
            .reported
            .is_some_and(|at| now.duration_since(at) < interval)
        {
            return None;
        }
        self.reported = Some(now);
        if self
            .measured
            .is_none_or(|at| now.duration_since(at) >= MEMORY_INTERVAL)
        {
            self.measured = Some(now);
            self.memory = memory().unwrap_or(self.memory);
        }
        self.sequence += 1;
        let (rss_bytes, pss_bytes) = self.memory;
        Some(wire::Report {
            sequence: self.sequence,
            edges: std::mem::take(&mut self.waiting).into_values().collect(),
            outsiders: self.outsiders.drain().map(|(_, of)| outsider(of)).collect(),
            proxy: Some(wire::ProxyState {
                rss_bytes,
                pss_bytes,
                config_version: version.to_owned(),
                connections: 0,
                certificates,
            }),
        })
    }

    /// The latest refusals.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Everything as Prometheus text.
    pub(crate) fn prometheus(&self, own: &Own) -> String {
        let Own {
            nacks,
            resources,
            rules_restored,
            readers_ended,
            lines_forgotten,
            programs_forgotten,
        } = *own;
        let mut counters = self.counters.clone();
        counters.add(Counter::XdsNacks, nacks);
        counters.add(Counter::ReportEdgesDropped, self.dropped);
        counters.add(Counter::RulesRestored, rules_restored);
        counters.add(Counter::RefusalsForgotten, self.refusals.forgotten());
        counters.add(Counter::LogLinesForgotten, lines_forgotten);
        counters.add(Counter::ProgramRefusalsForgotten, programs_forgotten);
        counters.limits(Limit::AdminConnections, readers_ended);
        let resources = i64::try_from(resources).unwrap_or(i64::MAX);
        counters.gauge(Gauge::XdsResources, resources);
        let mut out = String::new();
        self.totals.prometheus(&mut out);
        counters.prometheus(&mut out);
        out
    }
}

fn memory() -> Option<(u64, u64)> {
    let pid = i32::try_from(std::process::id()).ok()?;
    leno_net::process::memory(pid)
        .ok()
        .map(|memory| (memory.rss_bytes, memory.pss_bytes))
}

fn to_wire(edge: &EdgeDelta) -> wire::EdgeDelta {
    let EdgeKey {
        reporter,
        source_workload,
        source_namespace,
        source_identity,
        destination_workload,
        destination_namespace,
        destination_service,
        destination_version,
        destination_identity,
        protocol,
        mtls,
    } = &*edge.key;
    let text = |text: &Arc<str>| text.to_string();
    let identity = |identity: &Option<leno_types::Identity>| {
        identity
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default()
    };
    let mut message = wire::EdgeDelta {
        reporter: match reporter {
            Side::Source => 0,
            Side::Destination => 1,
        },
        source_workload: text(source_workload),
        source_namespace: text(source_namespace),
        source_identity: identity(source_identity),
        destination_workload: text(destination_workload),
        destination_namespace: text(destination_namespace),
        destination_service: text(destination_service),
        destination_version: text(destination_version),
        destination_identity: identity(destination_identity),
        protocol: protocol.as_str().to_owned(),
        mtls: *mtls,
        latency: edge.latency().encode(),
        ..wire::EdgeDelta::default()
    };
    for (key, requests) in edge.requests() {
        message.requests += requests.count;
        message.failures += if key.is_failure() { requests.count } else { 0 };
        message.bytes_sent += requests.request_bytes();
        message.bytes_received += requests.response_bytes();
        if let Some(refusal) = key.refusal {
            *message
                .refusals
                .entry(refusal.code().to_owned())
                .or_default() += requests.count;
        }
    }
    for (refusal, tcp) in edge.tcp() {
        message.opened += tcp.opened;
        message.closed += tcp.closed;
        message.bytes_sent += tcp.sent;
        message.bytes_received += tcp.received;
        // A connection that the mesh refused is one that failed; of bytes alone nothing else can be said.
        if let (Some(refusal), Protocol::Tcp) = (refusal, protocol) {
            message.failures += tcp.closed;
            *message
                .refusals
                .entry(refusal.code().to_owned())
                .or_default() += tcp.closed;
        }
    }
    if *protocol == Protocol::Tcp {
        message.requests += message.opened;
    }
    message
}

fn outsider(of: Outsider) -> wire::Outsider {
    let Outsider {
        workload,
        port,
        address,
        calls,
        refused,
    } = of;
    wire::Outsider {
        workload: workload.to_string(),
        port: port.into(),
        address: address.to_string(),
        calls,
        refused,
    }
}

fn merge(into: &mut wire::EdgeDelta, more: &wire::EdgeDelta) {
    into.requests += more.requests;
    into.failures += more.failures;
    into.opened += more.opened;
    into.closed += more.closed;
    into.bytes_sent += more.bytes_sent;
    into.bytes_received += more.bytes_received;
    for (code, count) in &more.refusals {
        *into.refusals.entry(code.clone()).or_default() += count;
    }
    let histograms = LatencyHistogram::decode(&into.latency).and_then(|mut sum| {
        sum.merge(&LatencyHistogram::decode(&more.latency)?);
        Ok(sum)
    });
    if let Ok(sum) = histograms {
        into.latency = sum.encode();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Prometheus refuses a scrape in which a series or its head comes twice.
    #[test]
    fn no_metric_is_written_twice() {
        let text = Reporter::new(None).prometheus(&Own {
            nacks: 3,
            resources: 7,
            rules_restored: 5,
            readers_ended: 2,
            lines_forgotten: 11,
            programs_forgotten: 13,
        });
        let mut seen = BTreeSet::new();
        for line in text
            .lines()
            .map(|line| line.rsplit_once(' ').map_or(line, |(name, _)| name))
        {
            let is_text = line.starts_with("# HELP");
            assert!(
                is_text || seen.insert(line.to_owned()),
                "{line} comes twice"
            );
        }
        for sample in [
            "leno_xds_nacks_total 3\n",
            "leno_limit_reached_total{limit=\"admin_connections\"} 2\n",
            "leno_xds_resources 7\n",
            "leno_capture_rules_restored_total 5\n",
            "leno_access_log_forgotten_total 11\n",
            "leno_program_refusals_forgotten_total 13\n",
        ] {
            assert!(text.contains(sample), "{sample}");
        }
    }
}
