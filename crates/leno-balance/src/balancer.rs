//! Power of two choices over peak-EWMA, with ejection of endpoints that fail.
//!
//! Invariant: an ejected endpoint stays in the table, so that its return can be reported; and some endpoint is always
//! offered while any is usable at all: refusing everybody because all look ill helps nobody (Envoy's panic mode).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use leno_ir::{Endpoint, Health};
use leno_types::WorkloadUid;

use crate::ewma::PeakEwma;

/// So many failures in a row eject an endpoint (Envoy `consecutive_5xx`).
pub const CONSECUTIVE_FAILURES: u32 = 5;
/// The first ejection's length; the n-th in a row is n times as long (Envoy `base_ejection_time`).
pub const BASE_EJECTION: Duration = Duration::from_secs(30);
/// No ejection is longer (Envoy `max_ejection_time`).
pub const MAX_EJECTION: Duration = Duration::from_secs(300);
/// At most this share of a service's endpoints is ejected for failures, but always one may be. An endpoint that
/// cannot be reached at all is passed over in any case.
pub const MAX_EJECTED_PERCENT: usize = 50;
/// Costs that differ by less than this factor are the same: which of two equals happened to answer a little faster
/// must not starve the other.
const NOISE: f64 = 2.0;
/// How long an endpoint that refused a connection is passed over; doubles while it goes on.
const UNREACHABLE: Duration = Duration::from_millis(500);
/// It is never passed over for longer without being tried.
const UNREACHABLE_MAX: Duration = Duration::from_secs(10);
/// What an endpoint that has too much to do is taken to need for its next answer: a quick refusal must not make it look
/// quick. Fades as every observation.
const BUSY: Duration = Duration::from_secs(1);

/// The endpoints of one service, as one worker sees them.
#[derive(Debug, Default)]
pub struct Balancer {
    entries: Vec<Entry>,
    /// Where the fittest are, during a pick; kept for its room.
    drawn_from: Vec<usize>,
}

/// How fit an endpoint is to be called; the best come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    Healthy,
    /// Its health is bad or unknown.
    Doubtful,
    /// Ejected or unreachable.
    Out,
    /// Tried for this request already.
    Avoided,
}

#[derive(Debug)]
struct Entry {
    endpoint: Arc<Endpoint>,
    load: PeakEwma,
    pending: u32,
    failures: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
    unreachable: u32,
    unreachable_until: Option<Instant>,
}

/// An endpoint that was chosen.
#[derive(Clone, Debug)]
pub struct Pick {
    /// It.
    pub endpoint: Arc<Endpoint>,
    /// Nothing healthy was left, and this one was taken all the same.
    pub forced: bool,
}

/// How an exchange with an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer that is no failure.
    Success,
    /// A 5xx answer, a reset, a time-out.
    Failure,
    /// It could not be reached: it is passed over at once.
    ConnectFailure,
    /// It has too much to do, and says so: it is well, and others are better.
    Busy,
    /// Nothing can be concluded: the caller went away.
    Cancelled,
}

/// An endpoint was taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Which.
    pub uid: WorkloadUid,
    /// How long.
    pub hold: Duration,
    /// After so many failures in a row.
    pub failures: u32,
}

/// What `proxy endpoints` shows.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Open requests.
    pub pending: u32,
    /// Failures in a row.
    pub failures: u32,
    /// How long it stays out.
    pub ejected_for: Option<Duration>,
}

impl Entry {
    fn fitness(&self, now: Instant, avoid: &[WorkloadUid]) -> Fitness {
        if avoid.contains(&self.endpoint.uid) {
            Fitness::Avoided
        } else if self.is_out(now) {
            Fitness::Out
        } else if self.endpoint.health == Health::Healthy {
            Fitness::Healthy
        } else {
            Fitness::Doubtful
        }
    }

    fn is_out(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
            || self.unreachable_until.is_some_and(|until| now < until)
    }
}

impl Balancer {
    /// Without endpoints.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a new set of endpoints; what is known of those that stay is kept.
    pub fn update(&mut self, endpoints: &[Endpoint]) {
        let mut old = std::mem::take(&mut self.entries);
        self.entries = endpoints
            .iter()
            .map(|endpoint| {
                let known = old
                    .iter()
                    .position(|entry| entry.endpoint.uid == endpoint.uid)
                    .map(|i| old.swap_remove(i));
                match known {
                    Some(entry) if *entry.endpoint == *endpoint => entry,
                    Some(entry) => Entry {
                        endpoint: Arc::new(endpoint.clone()),
                        ..entry
                    },
                    None => Entry {
                        endpoint: Arc::new(endpoint.clone()),
                        load: PeakEwma::new(),
                        pending: 0,
                        failures: 0,
                        ejections: 0,
                        ejected_until: None,
                        unreachable: 0,
                        unreachable_until: None,
                    },
                }
            })
            .collect();
    }

    /// Chooses an endpoint among those `usable` says fit, not among `avoid` if there is any other.
    ///
    /// Healthy ones first; then those whose health is bad or unknown; last, ejected ones. Each is looked at once.
    pub fn pick(
        &mut self,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
        usable: &dyn Fn(&Endpoint) -> bool,
        avoid: &[WorkloadUid],
    ) -> Option<Pick> {
        let mut best = Fitness::Avoided;
        self.drawn_from.clear();
        for (index, entry) in self.entries.iter().enumerate() {
            if !usable(&entry.endpoint) {
                continue;
            }
            let fitness = entry.fitness(now, avoid);
            if fitness < best {
                best = fitness;
                self.drawn_from.clear();
            }
            if fitness == best {
                self.drawn_from.push(index);
            }
        }
        let endpoint = self.cheaper_of_two(now, random)?;
        Some(Pick {
            endpoint,
            forced: best != Fitness::Healthy,
        })
    }

    /// The cheaper of two random ones.
    fn cheaper_of_two(
        &self,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<Arc<Endpoint>> {
        let count = self.drawn_from.len();
        let nth = |n: usize| self.entries.get(*self.drawn_from.get(n)?);
        let below =
            |limit: usize, random: u64| usize::try_from(random % limit.max(1) as u64).unwrap_or(0);
        let chosen = match count {
            0 => return None,
            1 => nth(0)?,
            _ => {
                let first = below(count, random());
                let second = (first + 1 + below(count - 1, random())) % count;
                let (first, second) = (nth(first)?, nth(second)?);
                let cheaper = second.load.cost(now, second.pending) * NOISE
                    < first.load.cost(now, first.pending);
                if cheaper { second } else { first }
            }
        };
        Some(Arc::clone(&chosen.endpoint))
    }

    /// The endpoint with this id.
    #[must_use]
    pub fn endpoint(&self, uid: WorkloadUid) -> Option<&Arc<Endpoint>> {
        self.entries
            .iter()
            .find(|entry| entry.endpoint.uid == uid)
            .map(|entry| &entry.endpoint)
    }

    /// All of them, fit or not.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.entries.iter().map(|entry| &entry.endpoint)
    }

    /// How many endpoints there are, fit or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A request was sent to it.
    pub fn started(&mut self, uid: WorkloadUid) {
        if let Some(entry) = self.entry(uid) {
            entry.pending += 1;
        }
    }

    /// That request ended; `latency` is to the first byte of the answer. `Some` when this one ejects the endpoint.
    pub fn finished(
        &mut self,
        uid: WorkloadUid,
        now: Instant,
        outcome: Outcome,
        latency: Option<Duration>,
    ) -> Option<Ejection> {
        let total = self.entries.len();
        let out = self
            .entries
            .iter()
            .filter(|entry| entry.ejected_until.is_some_and(|until| now < until))
            .count();
        let room = out == 0 || (out + 1) * 100 <= total * MAX_EJECTED_PERCENT;
        let entry = self.entry(uid)?;
        entry.pending = entry.pending.saturating_sub(1);
        if let Some(latency) = latency.filter(|_| outcome != Outcome::Busy) {
            entry.load.observe(now, latency);
        }
        match outcome {
            Outcome::Cancelled => return None,
            Outcome::Busy => {
                entry.load.observe(now, BUSY);
                return None;
            }
            Outcome::Success => {
                (entry.failures, entry.unreachable, entry.unreachable_until) = (0, 0, None);
                if entry
                    .ejected_until
                    .is_none_or(|until| now >= until + BASE_EJECTION)
                {
                    entry.ejections = 0;
                }
                return None;
            }
            Outcome::ConnectFailure => {
                let hold = UNREACHABLE
                    .saturating_mul(1 << entry.unreachable.min(5))
                    .min(UNREACHABLE_MAX);
                entry.unreachable = entry.unreachable.saturating_add(1);
                entry.unreachable_until = Some(now + hold);
                entry.failures += 1;
            }
            Outcome::Failure => entry.failures += 1,
        }
        let tripped = entry.failures >= CONSECUTIVE_FAILURES
            && room
            && entry.ejected_until.is_none_or(|until| now >= until);
        tripped.then(|| {
            let failures = std::mem::take(&mut entry.failures);
            entry.ejections = entry.ejections.saturating_add(1);
            let hold = BASE_EJECTION
                .saturating_mul(entry.ejections)
                .min(MAX_EJECTION);
            entry.ejected_until = Some(now + hold);
            Ejection {
                uid,
                hold,
                failures,
            }
        })
    }

    /// Every endpoint as it stands.
    #[must_use]
    pub fn states(&self, now: Instant) -> Vec<EndpointState> {
        let state = |entry: &Entry| {
            let until = entry.ejected_until.max(entry.unreachable_until);
            EndpointState {
                endpoint: Arc::clone(&entry.endpoint),
                pending: entry.pending,
                failures: entry.failures,
                ejected_for: until
                    .and_then(|until| until.checked_duration_since(now))
                    .filter(|left| !left.is_zero()),
            }
        };
        self.entries.iter().map(state).collect()
    }

    fn entry(&mut self, uid: WorkloadUid) -> Option<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|entry| entry.endpoint.uid == uid)
    }
}

#[cfg(test)]
mod tests;
