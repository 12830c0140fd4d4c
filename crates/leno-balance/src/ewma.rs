//! Peak-EWMA: an estimate of latency that rises at once with a slow answer and sinks slowly after it.

use std::time::{Duration, Instant};

/// How long an observation takes to lose 63 % of its weight.
const DECAY: Duration = Duration::from_secs(3);
/// What an endpoint that has not answered yet is taken for.
const UNKNOWN: Duration = Duration::from_millis(1);

/// The estimate of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct PeakEwma {
    nanos: f64,
    at: Option<Instant>,
}

impl PeakEwma {
    pub(crate) fn new() -> Self {
        Self {
            nanos: UNKNOWN.as_secs_f64() * 1e9,
            at: None,
        }
    }

    /// Takes one observed latency in.
    pub(crate) fn observe(&mut self, now: Instant, latency: Duration) {
        let latency = latency.as_secs_f64() * 1e9;
        let Some(at) = self.at.replace(now) else {
            self.nanos = latency;
            return;
        };
        if latency > self.nanos {
            self.nanos = latency;
            return;
        }
        let keep = (-now.saturating_duration_since(at).as_secs_f64() / DECAY.as_secs_f64()).exp();
        // Even answers within the same instant must be able to lower a peak.
        let keep = keep.min(0.999);
        self.nanos = self.nanos * keep + latency * (1.0 - keep);
    }

    /// The cost of sending it one more request while `pending` are open.
    pub(crate) fn cost(&self, now: Instant, pending: u32) -> f64 {
        let idle = self
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let faded = self.nanos * (-idle.as_secs_f64() / DECAY.as_secs_f64()).exp();
        faded.max(1.0) * (f64::from(pending) + 1.0)
    }
}
