//! Power of two choices over peak-EWMA, with ejection of endpoints that fail.
//!
//! Invariant: an ejected endpoint stays in the table, so that its return can be reported; and some endpoint is always
//! offered while any is usable at all: refusing everybody because all look ill helps nobody (Envoy's panic mode).

use std::{
    fmt,
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
    fault: Option<Fault>,
    ejections: u32,
    ejected: Option<Hold>,
    unreachable: u32,
    passed_over: Option<Hold>,
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
    Failure(Fault),
    /// It could not be reached: it is passed over at once.
    ConnectFailure,
    /// It has too much to do, and says so: it is well, and others are better.
    Busy,
    /// Nothing can be concluded: the caller went away.
    Cancelled,
}

/// What a failure was, for people who ask why an endpoint is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An answer of this status.
    Status(u16),
    /// An answer of this gRPC status.
    Grpc(u8),
    /// It ended the exchange, or its connection, before its answer was over.
    Reset,
    /// It took too long.
    Timeout,
    /// Its answer broke its protocol.
    Protocol,
    /// It could not be reached.
    Unreachable,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Grpc(status) => write!(f, "gRPC {status}"),
            Self::Reset => f.write_str("resets"),
            Self::Timeout => f.write_str("time-outs"),
            Self::Protocol => f.write_str("broken answers"),
            Self::Unreachable => f.write_str("failed connections"),
        }
    }
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

/// What `proxy endpoints` and `explain` show.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Open requests.
    pub pending: u32,
    /// Failures in a row.
    pub failures: u32,
    /// What the last failure was, if the last answer was one.
    pub fault: Option<Fault>,
    /// It was taken out for failing, and is not back yet.
    pub ejected: Option<Out>,
    /// It is passed over because it could not be reached.
    pub unreachable: Option<Out>,
}

/// For how long an endpoint is, and stays, out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// How long ago that began.
    pub since: Duration,
    /// When it is back.
    pub left: Duration,
    /// After so many failures in a row.
    pub failures: u32,
    /// What the last of them was.
    pub fault: Option<Fault>,
}

/// When an endpoint was taken out, and until when.
#[derive(Clone, Copy, Debug)]
struct Hold {
    from: Instant,
    until: Instant,
    failures: u32,
    fault: Option<Fault>,
}

impl Hold {
    fn out(self, now: Instant) -> Option<Out> {
        let left = self.until.checked_duration_since(now)?;
        (!left.is_zero()).then(|| Out {
            since: now.saturating_duration_since(self.from),
            left,
            failures: self.failures,
            fault: self.fault,
        })
    }
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
        let holds = |hold: Option<Hold>| hold.is_some_and(|hold| now < hold.until);
        holds(self.ejected) || holds(self.passed_over)
    }
}

impl Entry {
    /// It could not be reached: longer each time in a row.
    fn pass_over(&mut self, now: Instant) {
        let hold = UNREACHABLE
            .saturating_mul(1 << self.unreachable.min(5))
            .min(UNREACHABLE_MAX);
        self.unreachable = self.unreachable.saturating_add(1);
        self.passed_over = Some(Hold {
            from: now,
            until: now + hold,
            failures: self.unreachable,
            fault: Some(Fault::Unreachable),
        });
        self.fault = Some(Fault::Unreachable);
        self.failures += 1;
    }

    fn eject(&mut self, now: Instant) -> Ejection {
        let failures = std::mem::take(&mut self.failures);
        self.ejections = self.ejections.saturating_add(1);
        let hold = BASE_EJECTION
            .saturating_mul(self.ejections)
            .min(MAX_EJECTION);
        self.ejected = Some(Hold {
            from: now,
            until: now + hold,
            failures,
            fault: self.fault,
        });
        Ejection {
            uid: self.endpoint.uid,
            hold,
            failures,
        }
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
                        fault: None,
                        ejections: 0,
                        ejected: None,
                        unreachable: 0,
                        passed_over: None,
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
            .filter(|entry| entry.ejected.is_some_and(|hold| now < hold.until))
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
                (entry.failures, entry.unreachable) = (0, 0);
                (entry.fault, entry.passed_over) = (None, None);
                let long_back = |hold: Hold| now >= hold.until + BASE_EJECTION;
                if entry.ejected.is_none_or(long_back) {
                    entry.ejections = 0;
                }
                return None;
            }
            Outcome::ConnectFailure => entry.pass_over(now),
            Outcome::Failure(fault) => {
                entry.fault = Some(fault);
                entry.failures += 1;
            }
        }
        let tripped = entry.failures >= CONSECUTIVE_FAILURES
            && room
            && entry.ejected.is_none_or(|hold| now >= hold.until);
        tripped.then(|| entry.eject(now))
    }

    /// Every endpoint as it stands.
    #[must_use]
    pub fn states(&self, now: Instant) -> Vec<EndpointState> {
        let state = |entry: &Entry| EndpointState {
            endpoint: Arc::clone(&entry.endpoint),
            pending: entry.pending,
            failures: entry.failures,
            fault: entry.fault,
            ejected: entry.ejected.and_then(|hold| hold.out(now)),
            unreachable: entry.passed_over.and_then(|hold| hold.out(now)),
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
