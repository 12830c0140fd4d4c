//! Who calls whom and how it goes: ten minutes of it, from the agents' reports.
//!
//! Owns a ring of 1 s slots for a minute and of 10 s slots for ten, and totals since the start. The source's report
//! counts; the destination's only where the caller has no proxy, so that nothing counts twice.
//! Invariant: at most [`MAX_SERIES`] series and 122 slots, and in each of a series as many reasons as there are
//! refusals, whatever agents send; what is beyond is counted.

mod outsiders;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use leno_telemetry::LatencyHistogram;
use leno_types::{Refusal, deployed_name};
use leno_wire::agent::EdgeDelta;

use crate::{documents::Edge, told::one_line};

pub use outsiders::{Caller as OutsideCaller, Calls as OutsideCalls, MAX_OUTSIDERS, Outsiders};

/// Series of one mesh.
pub const MAX_SERIES: usize = 4_096;
/// What people call a caller that has no proxy: nobody proved who it is.
pub const LEGACY: &str = "legacy";
/// Edges of one report.
pub const MAX_EDGES: usize = 2_048;
/// Longest name or identity that is kept.
const MAX_TEXT: usize = 512;
/// Slots of a minute, and the one that still runs.
const FINE: u64 = 61;
/// Slots of ten minutes, and the one that still runs.
const COARSE: u64 = 61;
const COARSE_SECONDS: u64 = 10;

/// The longest window there is.
pub const LONGEST: Duration = Duration::from_secs((COARSE - 1) * COARSE_SECONDS);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesKey {
    source: String,
    destination: String,
    protocol: String,
    by_destination: bool,
    mtls: bool,
    source_identity: String,
    destination_identity: String,
}

#[derive(Clone, Debug, Default)]
struct Sample {
    requests: u64,
    failures: u64,
    latency: LatencyHistogram,
    /// Why the mesh refused; a closed set, and mostly empty.
    refusals: Vec<(Refusal, u64)>,
}

impl Sample {
    fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failures = self.failures.saturating_add(other.failures);
        self.latency.merge(&other.latency);
        for (refusal, count) in &other.refusals {
            self.refused(*refusal, *count);
        }
    }

    fn refused(&mut self, refusal: Refusal, count: u64) {
        match self.refusals.iter_mut().find(|held| held.0 == refusal) {
            Some(held) => held.1 = held.1.saturating_add(count),
            None => self.refusals.push((refusal, count)),
        }
    }
}

/// Samples of one span of time, by series.
#[derive(Debug)]
struct Slot {
    /// Which span since the start.
    index: u64,
    samples: BTreeMap<usize, Sample>,
}

/// A caller and who served it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served<'a> {
    /// What people call the caller.
    pub source: &'a str,
    /// Empty: nobody proved who it is.
    pub source_identity: &'a str,
    /// What people call the one called: its service with its version.
    pub destination: &'a str,
    /// Who that is.
    pub destination_identity: &'a str,
}

/// How a mesh's workloads are called in the answers.
pub trait Names {
    /// What people call a workload of that name: its service, or its program, with its version.
    fn display(&self, workload: &str) -> Option<String>;
}

/// Ten minutes of who called whom.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Ids are never given twice, so that a slot cannot mean another series.
    series: BTreeMap<SeriesKey, usize>,
    keys: BTreeMap<usize, SeriesKey>,
    next_id: usize,
    totals: BTreeMap<usize, Sample>,
    fine: VecDeque<Slot>,
    coarse: VecDeque<Slot>,
    /// Who calls from outside the mesh.
    pub outsiders: Outsiders,
    /// Edges dropped because of a ceiling.
    pub dropped: u64,
    /// Edges that could not be read.
    pub malformed: u64,
}

impl Telemetry {
    /// Takes in what an agent saw.
    pub fn record(&mut self, edges: &[EdgeDelta], names: &impl Names, now: Duration) {
        forget(&mut self.fine, now.as_secs(), FINE);
        forget(&mut self.coarse, now.as_secs() / COARSE_SECONDS, COARSE);
        let over = edges.len().saturating_sub(MAX_EDGES);
        self.dropped = self.dropped.saturating_add(over as u64);
        for edge in edges.iter().take(MAX_EDGES) {
            let Ok(latency) = LatencyHistogram::decode(&edge.latency) else {
                self.malformed = self.malformed.saturating_add(1);
                continue;
            };
            let sample = sample(edge, latency);
            if sample.requests == 0 && sample.latency.is_empty() {
                continue;
            }
            match self.series(edge, names) {
                Some(id) => self.add(id, &sample, now.as_secs()),
                None => self.dropped = self.dropped.saturating_add(1),
            }
        }
    }

    /// The edges of the last `window`, and the span it really covers: beyond a minute it begins at a whole ten seconds.
    /// The second that still runs is left out: what agents report of it is still to come.
    #[must_use]
    pub fn window(&self, window: Duration, now: Duration) -> (f64, Vec<Edge>) {
        let window = window.clamp(Duration::from_secs(1), LONGEST).as_secs();
        let until = now.as_secs();
        let (from, fine_from) = if window < FINE {
            let from = until.saturating_sub(window);
            (from, from)
        } else {
            let whole = until / COARSE_SECONDS;
            let from = whole.saturating_sub(window.div_ceil(COARSE_SECONDS));
            // The ten seconds that still run, by the second.
            (from * COARSE_SECONDS, whole * COARSE_SECONDS)
        };
        let coarse = from / COARSE_SECONDS..fine_from / COARSE_SECONDS;
        let coarse = self
            .coarse
            .iter()
            .filter(|slot| coarse.contains(&slot.index));
        let fine = fine_from..until;
        let fine = self.fine.iter().filter(|slot| fine.contains(&slot.index));
        let mut sums: BTreeMap<usize, Sample> = BTreeMap::new();
        for (id, sample) in coarse.chain(fine).flat_map(|slot| &slot.samples) {
            sums.entry(*id).or_default().add(sample);
        }
        let seconds = (until - from).max(1) as f64;
        (seconds, self.edges(&sums, seconds))
    }

    /// Who was served by whom in the last ten minutes, each pair once for each side that told of it.
    #[must_use]
    pub fn served(&self, now: Duration) -> Vec<Served<'_>> {
        let oldest = (now.as_secs() / COARSE_SECONDS).saturating_sub(COARSE - 1);
        let recent = || self.coarse.iter().rev().filter(|slot| slot.index >= oldest);
        let was_served = |id: &usize| {
            recent().any(|slot| {
                let sample = slot.samples.get(id);
                sample.is_some_and(|of| of.requests > of.failures)
            })
        };
        let keys = self.keys.iter().filter(|(id, _)| was_served(id));
        let keys = keys.map(|(_, key)| key);
        keys.map(|key| Served {
            source: &key.source,
            source_identity: &key.source_identity,
            destination: &key.destination,
            destination_identity: &key.destination_identity,
        })
        .collect()
    }

    /// Everything since the start.
    #[must_use]
    pub fn totals(&self, now: Duration) -> (f64, Vec<Edge>) {
        let seconds = now.as_secs_f64().max(1.0);
        (seconds, self.edges(&self.totals, seconds))
    }

    /// How many series there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether nothing was ever reported.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    fn add(&mut self, id: usize, sample: &Sample, second: u64) {
        self.totals.entry(id).or_default().add(sample);
        slot(&mut self.fine, second, FINE)
            .entry(id)
            .or_default()
            .add(sample);
        let coarse = slot(&mut self.coarse, second / COARSE_SECONDS, COARSE);
        coarse.entry(id).or_default().add(sample);
    }

    fn series(&mut self, edge: &EdgeDelta, names: &impl Names) -> Option<usize> {
        let key = SeriesKey {
            source: source_name(edge, names),
            destination: destination_name(edge, names),
            protocol: protocol(&edge.protocol).into(),
            by_destination: edge.reporter == 1,
            mtls: edge.mtls,
            source_identity: text(&edge.source_identity),
            destination_identity: text(&edge.destination_identity),
        };
        if let Some(id) = self.series.get(&key) {
            return Some(*id);
        }
        if self.series.len() >= MAX_SERIES && !self.forget_idle() {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.keys.insert(id, key.clone());
        self.series.insert(key, id);
        Some(id)
    }

    /// Forgets one series that no slot holds any more, totals included.
    fn forget_idle(&mut self) -> bool {
        let live: BTreeSet<usize> = self
            .fine
            .iter()
            .chain(&self.coarse)
            .flat_map(|slot| slot.samples.keys().copied())
            .collect();
        let Some(idle) = self.keys.keys().find(|id| !live.contains(id)).copied() else {
            return false;
        };
        if let Some(key) = self.keys.remove(&idle) {
            self.series.remove(&key);
        }
        self.totals.remove(&idle);
        true
    }

    fn edges(&self, sums: &BTreeMap<usize, Sample>, seconds: f64) -> Vec<Edge> {
        let known = |(id, sample)| Some((self.keys.get(id)?, sample));
        let series: Vec<(&SeriesKey, &Sample)> = sums.iter().filter_map(known).collect();
        // Callers that report themselves, by what their certificate says.
        let reporting: BTreeSet<&str> = self
            .keys
            .values()
            .filter(|key| !key.by_destination && !key.source_identity.is_empty())
            .map(|key| key.source_identity.as_str())
            .collect();
        let mut merged: BTreeMap<(&str, &str, &str), (Sample, Edge)> = BTreeMap::new();
        for (key, sample) in series {
            if key.by_destination && key.mtls && reporting.contains(key.source_identity.as_str()) {
                continue;
            }
            let name = (
                key.source.as_str(),
                key.destination.as_str(),
                key.protocol.as_str(),
            );
            let (sum, edge) = merged.entry(name).or_insert_with(|| {
                let edge = Edge {
                    source: key.source.clone(),
                    destination: key.destination.clone(),
                    protocol: key.protocol.clone(),
                    mtls: true,
                    ..Edge::default()
                };
                (Sample::default(), edge)
            });
            sum.add(sample);
            edge.mtls &= key.mtls;
            let given = |identity: &String| Some(identity.clone()).filter(|text| !text.is_empty());
            edge.source_identity = given(&key.source_identity).or(edge.source_identity.take());
            edge.destination_identity =
                given(&key.destination_identity).or(edge.destination_identity.take());
        }
        merged
            .into_values()
            .map(|(sum, edge)| finish(edge, &sum, seconds))
            .collect()
    }
}

/// What a report says of an edge. A code that is not known here, of a newer agent, is a failure without a reason.
fn sample(edge: &EdgeDelta, latency: LatencyHistogram) -> Sample {
    let mut sample = Sample {
        requests: edge.requests,
        failures: edge.failures.min(edge.requests),
        latency,
        refusals: Vec::new(),
    };
    for (code, count) in &edge.refusals {
        // A client that went away is no failure of anybody's.
        if let Ok(refusal) = code.parse::<Refusal>()
            && refusal != Refusal::ClientGone
        {
            sample.refused(refusal, (*count).min(sample.failures));
        }
    }
    sample
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn finish(edge: Edge, sum: &Sample, seconds: f64) -> Edge {
    let rate = (sum.requests > 0)
        .then(|| (sum.requests - sum.failures.min(sum.requests)) as f64 / sum.requests as f64);
    let millis = |q: f64| {
        sum.latency
            .quantile(q)
            // Whole microseconds: what is finer the histogram does not know.
            .map(|latency| latency.as_micros() as f64 / 1e3)
    };
    Edge {
        requests: sum.requests,
        failures: sum.failures,
        success_rate: rate,
        // What is finer is noise of the window's edges.
        rps: (sum.requests as f64 / seconds * 1e3).round() / 1e3,
        p50_ms: millis(0.5),
        p99_ms: millis(0.99),
        refusals: sum
            .refusals
            .iter()
            .map(|(refusal, count)| (refusal.code().to_owned(), *count))
            .collect(),
        ..edge
    }
}

/// The newest slot, made if it is not there; what comes late counts in it.
fn slot(ring: &mut VecDeque<Slot>, index: u64, keep: u64) -> &mut BTreeMap<usize, Sample> {
    if ring.back().is_none_or(|slot| slot.index < index) {
        ring.push_back(Slot {
            index,
            samples: BTreeMap::new(),
        });
    }
    forget(ring, index, keep);
    let newest = ring
        .back_mut()
        .expect("a slot was just made where there was none");
    &mut newest.samples
}

fn forget(ring: &mut VecDeque<Slot>, index: u64, keep: u64) {
    while ring.front().is_some_and(|slot| slot.index + keep <= index) {
        ring.pop_front();
    }
}

fn protocol(text: &str) -> &'static str {
    ["http/1.1", "http/2", "grpc", "websocket"]
        .into_iter()
        .find(|known| *known == text)
        .unwrap_or("tcp")
}

fn source_name(edge: &EdgeDelta, names: &impl Names) -> String {
    match edge.source_workload.as_str() {
        "" | "unknown" => LEGACY.into(),
        workload => names
            .display(workload)
            .unwrap_or_else(|| text(deployed_name(workload))),
    }
}

fn destination_name(edge: &EdgeDelta, names: &impl Names) -> String {
    if let Some(name) = names.display(&edge.destination_workload) {
        return name;
    }
    let service = edge
        .destination_service
        .split('.')
        .next()
        .unwrap_or_default();
    let service = service.rsplit('/').next().unwrap_or_default();
    let base = match (service, edge.destination_workload.as_str()) {
        ("" | "unknown", "") => return "unknown".into(),
        ("" | "unknown", workload) => return text(deployed_name(workload)),
        (service, _) => service,
    };
    match edge.destination_version.as_str() {
        "" | "unknown" => text(base),
        version => text(&format!("{base}-{version}")),
    }
}

/// What an agent wrote, as it is kept: people read it on terminals, to which a control character is a command.
fn text(given: &str) -> String {
    one_line(given, MAX_TEXT)
}
