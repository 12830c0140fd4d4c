//! The proxy's own counters: ceilings met, refusals, handshakes, queries, certificates; and its gauges.
//!
//! Owns every name, and its help, which is the doc comment. One worker holds a [`Counters`] without atomics and hands out deltas; the process adds them up.
//! Invariant: labels come from closed sets of the program's own, never from a peer, so nothing here grows.

use std::collections::BTreeMap;

use leno_types::{Priority, Refusal, Signal};

use crate::prometheus::{self, Kind, Labels};

macro_rules! closed_set {
    ($(#[$meta:meta])* $name:ident { $(#[doc = $help:literal] $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $(#[doc = $help] $variant,)* }

        impl $name {
            /// Every one there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }

            /// What it says, in a sentence.
            #[must_use]
            pub const fn help(self) -> &'static str { match self { $(Self::$variant => $help.trim_ascii(),)* } }
        }
    };
}

closed_set! {
    /// What is counted without a label.
    Counter {
        /// Connections taken up by capture, outbound.
        OutboundConnections = "leno_connections_outbound_total",
        /// Connections taken up that did not come through the mesh.
        InboundConnections = "leno_connections_inbound_total",
        /// Connections from other proxies.
        MeshConnections = "leno_connections_mesh_total",
        /// Connections opened to other proxies.
        PeerConnections = "leno_connections_peer_total",
        /// Handshakes that succeeded, both sides.
        Handshakes = "leno_tls_handshakes_total",
        /// Certificates that were replaced by a newer generation.
        CertificateRotations = "leno_certificate_rotations_total",
        /// Connections drained because their certificate was replaced.
        RotationDrains = "leno_rotation_drains_total",
        /// Streams ended because a newer policy denies them.
        PolicyEndedStreams = "leno_policy_ended_streams_total",
        /// Tries of a request after the first.
        Retries = "leno_retries_total",
        /// Endpoints taken out for failing.
        Ejections = "leno_endpoint_ejections_total",
        /// Destinations asked of the control plane.
        Discoveries = "leno_discoveries_total",
        /// Destinations whose answer did not come in time.
        DiscoveryTimeouts = "leno_discovery_timeouts_total",
        /// DNS queries.
        DnsQueries = "leno_dns_queries_total",
        /// DNS queries answered from the mesh.
        DnsMeshAnswers = "leno_dns_mesh_answers_total",
        /// DNS queries that failed upstream.
        DnsFailures = "leno_dns_failures_total",
        /// Configuration updates taken up.
        ConfigUpdates = "leno_config_updates_total",
        /// Configuration updates refused.
        ConfigRejections = "leno_config_rejections_total",
        /// Lines of access log dropped because nobody took them.
        LogLinesDropped = "leno_access_log_dropped_total",
        /// Lines of access log that are kept for `leno logs` no more.
        LogLinesForgotten = "leno_access_log_forgotten_total",
        /// Refusals that are remembered for `leno explain` no more.
        RefusalsForgotten = "leno_refusals_forgotten_total",
        /// Programs whose own refusal is remembered no more: it is told of again.
        ProgramRefusalsForgotten = "leno_program_refusals_forgotten_total",
        /// Times capture rules were found gone and restored; what was begun in the second before passed the mesh by.
        RulesRestored = "leno_capture_rules_restored_total",
        /// Responses of the control plane of which something was refused.
        XdsNacks = "leno_xds_nacks_total",
        /// Edges not reported to the control plane because too many waited.
        ReportEdgesDropped = "leno_report_edges_dropped_total",
    }
}

closed_set! {
    /// A ceiling of a worker. Meeting it is counted as `leno_limit_reached_total{limit=..}`; those of HTTP messages are
    /// counted by leno-http, and shown as [`Family::Http`].
    Limit {
        /// Tasks of one worker.
        Tasks = "tasks",
        /// Destinations and services known at once.
        Destinations = "destinations",
        /// Destinations asked for and not answered yet.
        Discoveries = "discoveries",
        /// Handshakes open at once.
        Handshakes = "handshakes",
        /// Connections from outside the mesh on which nothing was said yet.
        SilentConnections = "silent_connections",
        /// Captured connections of one workload, and streams on them.
        OutboundConnections = "outbound_connections",
        /// Callers from outside the mesh that are told apart.
        Outsiders = "outsiders",
        /// Connections to one workload from outside the mesh, and streams on them.
        PublishedConnections = "published_connections",
        /// HTTP/2 streams within CONNECT streams of peers to one workload.
        TunnelledStreams = "tunnelled_streams",
        /// Names of the workloads of one caller's identity.
        CallerNames = "caller_names",
        /// Mesh connections from one workload to another.
        ConnectionsPerPeer = "connections_per_peer",
        /// The age of a mesh connection.
        ConnectionAge = "connection_age",
        /// Requests waiting for room on a connection.
        Queue = "queue",
        /// Connections to one port of an application.
        AppConnections = "app_connections",
        /// Requests waiting for one of those.
        AppQueue = "app_queue",
        /// Callers' addresses from which one port of an application is called.
        AppSources = "app_sources",
        /// Unconnected sockets in stock.
        AppSockets = "app_sockets",
        /// Tries of one request.
        Tries = "tries",
        /// The silence of a stream of bytes.
        StreamIdle = "stream_idle",
        /// DNS queries of one workload that wait for an answer.
        DnsQueries = "dns_queries",
        /// DNS queries that the kernel threw away before they were read: each one's program asks again after seconds.
        DnsInbox = "dns_inbox",
        /// DNS connections of one workload over TCP.
        DnsConnections = "dns_connections",
        /// Refusals remembered between two reports.
        Refusals = "refusals",
        /// Connections to one of the agent's own HTTP ports.
        AdminConnections = "admin_connections",
    }
}

closed_set! {
    /// What goes up and down.
    Gauge {
        /// Connections of applications and callers open.
        OpenConnections = "leno_open_connections",
        /// Connections to and from other proxies open.
        OpenMeshConnections = "leno_open_mesh_connections",
        /// Handshakes open.
        OpenHandshakes = "leno_open_handshakes",
        /// Requests being served.
        OpenRequests = "leno_open_requests",
        /// Streams of bytes open.
        OpenStreams = "leno_open_streams",
        /// Destinations known.
        KnownDestinations = "leno_known_destinations",
        /// Workloads served.
        Workloads = "leno_workloads",
        /// The lag of the worker that stands, in milliseconds, by tens.
        Lag = "leno_worker_lag_milliseconds",
        /// The proxy's memory, in percent of what it has and could still get.
        Memory = "leno_memory_used_percent",
        /// Resources of the control plane held.
        XdsResources = "leno_xds_resources",
    }
}

closed_set! {
    /// What is counted with one label.
    Family {
        /// Ceilings met, by limit.
        LimitReached = "leno_limit_reached_total",
        /// Refusals, by reason.
        Refused = "leno_refused_total",
        /// Handshakes failed, by reason.
        HandshakeFailed = "leno_tls_handshakes_failed_total",
        /// Ceilings and errors of HTTP messages, by event.
        Http = "leno_http_events_total",
    }
}

closed_set! {
    /// What is counted with a priority and a signal.
    ShedFamily {
        /// What was refused because there is too much to do, by priority and signal.
        Shed = "leno_shed_total",
    }
}

const SHED: usize = Priority::ALL.len() * Signal::ALL.len();

impl Family {
    const fn label(self) -> &'static str {
        match self {
            Self::LimitReached => "limit",
            Self::Refused | Self::HandshakeFailed => "reason",
            Self::Http => "event",
        }
    }
}

/// One worker's counters and gauges, or the sum of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    plain: [u64; Counter::ALL.len()],
    gauges: [i64; Gauge::ALL.len()],
    labelled: BTreeMap<(Family, &'static str), u64>,
    /// By priority and signal.
    shed: [u64; SHED],
    /// What [`Counters::observe`] was last told; not part of a sum.
    observed: BTreeMap<(Family, &'static str), u64>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            plain: [0; Counter::ALL.len()],
            gauges: [0; Gauge::ALL.len()],
            labelled: BTreeMap::new(),
            shed: [0; SHED],
            observed: BTreeMap::new(),
        }
    }
}

impl Counters {
    /// Counts one.
    pub fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `more`.
    pub fn add(&mut self, counter: Counter, more: u64) {
        if let Some(value) = self.plain.get_mut(counter as usize) {
            *value = value.saturating_add(more);
        }
    }

    /// Counts that a ceiling was hit.
    pub fn limit(&mut self, limit: Limit) {
        self.limits(limit, 1);
    }

    /// Counts that a ceiling was hit so often.
    pub fn limits(&mut self, limit: Limit, times: u64) {
        self.labelled(Family::LimitReached, limit.as_str(), times);
    }

    /// Counts a refusal.
    pub fn refused(&mut self, refusal: Refusal) {
        self.labelled(Family::Refused, refusal.code(), 1);
    }

    /// Counts what was refused because there is too much to do.
    pub fn shed(&mut self, priority: Priority, signal: Signal) {
        if let Some(value) = self.shed.get_mut(shed_place(priority, signal)) {
            *value = value.saturating_add(1);
        }
    }

    /// Counts a failed handshake; `reason` is a label of a closed set.
    pub fn handshake_failed(&mut self, reason: &'static str) {
        self.labelled(Family::HandshakeFailed, reason, 1);
    }

    /// Takes up a counter that somebody else keeps and shows as its total; what it rose by is counted.
    pub fn observe(&mut self, family: Family, name: &'static str, total: u64) {
        let last = self.observed.insert((family, name), total).unwrap_or(0);
        self.labelled(family, name, total.saturating_sub(last));
    }

    /// Moves a gauge.
    pub fn gauge(&mut self, gauge: Gauge, by: i64) {
        if let Some(value) = self.gauges.get_mut(gauge as usize) {
            *value = value.saturating_add(by);
        }
    }

    /// What was counted, and by how much gauges moved, since this was last called.
    pub fn take_delta(&mut self) -> Self {
        let observed = std::mem::take(&mut self.observed);
        let delta = std::mem::take(self);
        self.observed = observed;
        delta
    }

    /// Adds a delta of any worker.
    pub fn merge(&mut self, delta: &Self) {
        for (value, more) in self.plain.iter_mut().zip(delta.plain) {
            *value = value.saturating_add(more);
        }
        for (value, more) in self.gauges.iter_mut().zip(delta.gauges) {
            *value = value.saturating_add(more);
        }
        for (value, more) in self.shed.iter_mut().zip(delta.shed) {
            *value = value.saturating_add(more);
        }
        for ((family, name), more) in &delta.labelled {
            self.labelled(*family, name, *more);
        }
    }

    /// A counter's value.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.plain.get(counter as usize).copied().unwrap_or(0)
    }

    /// How often a ceiling was hit.
    #[must_use]
    pub fn get_limit(&self, limit: Limit) -> u64 {
        self.get_labelled(Family::LimitReached, limit.as_str())
    }

    /// A labelled counter's value.
    #[must_use]
    pub fn get_labelled(&self, family: Family, name: &'static str) -> u64 {
        self.labelled.get(&(family, name)).copied().unwrap_or(0)
    }

    /// How much was refused because there is too much to do.
    #[must_use]
    pub fn get_shed(&self, priority: Priority, signal: Signal) -> u64 {
        let place = shed_place(priority, signal);
        self.shed.get(place).copied().unwrap_or(0)
    }

    /// A gauge's value.
    #[must_use]
    pub fn get_gauge(&self, gauge: Gauge) -> i64 {
        self.gauges.get(gauge as usize).copied().unwrap_or(0)
    }

    /// Appends all in Prometheus text format. Limits and refusals are there from the first scrape, at 0, so that an
    /// alert on their rise sees the first one.
    pub fn prometheus(&self, out: &mut String) {
        for counter in Counter::ALL {
            let value = std::iter::once(("", self.get(*counter)));
            prometheus::counters(out, counter.as_str(), counter.help(), value);
        }
        for gauge in Gauge::ALL {
            prometheus::header(out, gauge.as_str(), Kind::Gauge, gauge.help());
            prometheus::sample(out, gauge.as_str(), "", self.get_gauge(*gauge));
        }
        let mut labelled = self.labelled.clone();
        for limit in Limit::ALL {
            labelled
                .entry((Family::LimitReached, limit.as_str()))
                .or_default();
        }
        for refusal in Refusal::ALL {
            labelled
                .entry((Family::Refused, refusal.code()))
                .or_default();
        }
        for family in Family::ALL {
            prometheus::header(out, family.as_str(), Kind::Counter, family.help());
            for ((_, name), value) in labelled.iter().filter(|((held, _), _)| held == family) {
                let labels = Labels::default().with(family.label(), name).finish();
                prometheus::sample(out, family.as_str(), &labels, value);
            }
        }
        self.prometheus_shed(out);
    }

    fn prometheus_shed(&self, out: &mut String) {
        let family = ShedFamily::Shed;
        prometheus::header(out, family.as_str(), Kind::Counter, family.help());
        for priority in Priority::ALL {
            for signal in Signal::ALL {
                let labels = Labels::default()
                    .with("priority", priority.as_str())
                    .with("signal", signal.as_str())
                    .finish();
                let value = self.get_shed(*priority, *signal);
                prometheus::sample(out, family.as_str(), &labels, value);
            }
        }
    }

    fn labelled(&mut self, family: Family, name: &'static str, more: u64) {
        let value = self.labelled.entry((family, name)).or_default();
        *value = value.saturating_add(more);
    }
}

const fn shed_place(priority: Priority, signal: Signal) -> usize {
    priority as usize * Signal::ALL.len() + signal as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_of_two_workers_add_up_and_are_given_once() {
        let (mut one, mut two, mut sum) = (
            Counters::default(),
            Counters::default(),
            Counters::default(),
        );
        one.count(Counter::DnsQueries);
        one.limit(Limit::Handshakes);
        one.gauge(Gauge::OpenConnections, 3);
        two.add(Counter::DnsQueries, 4);
        two.refused(Refusal::Denied);
        two.handshake_failed("expired");
        two.shed(Priority::Low, Signal::Lag);
        two.gauge(Gauge::OpenConnections, 2);
        sum.merge(&one.take_delta());
        sum.merge(&two.take_delta());
        one.gauge(Gauge::OpenConnections, -1);
        sum.merge(&one.take_delta());
        sum.merge(&two.take_delta());
        assert_eq!(sum.get(Counter::DnsQueries), 5);
        assert_eq!(sum.get_limit(Limit::Handshakes), 1);
        assert_eq!(sum.get_labelled(Family::Refused, "RBAC"), 1);
        assert_eq!(sum.get_labelled(Family::HandshakeFailed, "expired"), 1);
        assert_eq!(sum.get_shed(Priority::Low, Signal::Lag), 1);
        assert_eq!(sum.get_shed(Priority::Default, Signal::Lag), 0);
        assert_eq!(sum.get_gauge(Gauge::OpenConnections), 4);
    }

    #[test]
    fn a_total_kept_elsewhere_is_counted_by_its_rise() {
        let (mut worker, mut sum) = (Counters::default(), Counters::default());
        for total in [3, 3, 10] {
            worker.observe(Family::Http, "head_timeouts", total);
            sum.merge(&worker.take_delta());
        }
        assert_eq!(sum.get_labelled(Family::Http, "head_timeouts"), 10);
    }

    #[test]
    fn every_name_is_unique_and_every_limit_and_refusal_shows_from_the_start() {
        let mut text = String::new();
        Counters::default().prometheus(&mut text);
        for limit in Limit::ALL {
            assert!(text.contains(&format!(
                "leno_limit_reached_total{{limit=\"{}\"}} 0\n",
                limit.as_str()
            )));
        }
        for refusal in Refusal::ALL {
            assert!(text.contains(&format!("leno_refused_total{{reason=\"{refusal}\"}} 0\n")));
        }
        assert!(text.contains("leno_shed_total{priority=\"low\",signal=\"app\"} 0\n"));
        let mut names: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        let headers = text
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .count();
        assert_eq!(
            headers,
            Counter::ALL.len() + Gauge::ALL.len() + Family::ALL.len() + ShedFamily::ALL.len()
        );
    }
}
