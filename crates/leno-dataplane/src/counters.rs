//! This worker's own counters: a few additions, no atomics; names and labels are leno-telemetry's.

use std::cell::RefCell;

use leno_telemetry::counters::{Counter, Counters, Family, Gauge, Limit};
use leno_types::{Priority, Refusal, Signal};

thread_local! {
    static COUNTERS: RefCell<Counters> = RefCell::default();
}

/// Counts one.
pub(crate) fn count(counter: Counter) {
    COUNTERS.with_borrow_mut(|counters| counters.count(counter));
}

/// Counts that a ceiling was met.
pub(crate) fn limit(limit: Limit) {
    COUNTERS.with_borrow_mut(|counters| counters.limit(limit));
}

/// Counts that a ceiling was met so often.
pub(crate) fn limits(limit: Limit, times: u64) {
    COUNTERS.with_borrow_mut(|counters| counters.limits(limit, times));
}

/// Counts a refusal.
pub(crate) fn refused(reason: Refusal) {
    COUNTERS.with_borrow_mut(|counters| counters.refused(reason));
}

/// Counts what was refused because there is too much to do.
pub(crate) fn shed(priority: Priority, signal: Signal) {
    COUNTERS.with_borrow_mut(|counters| counters.shed(priority, signal));
}

/// Counts a failed handshake.
pub(crate) fn handshake_failed(reason: &'static str) {
    COUNTERS.with_borrow_mut(|counters| counters.handshake_failed(reason));
}

/// What was counted since this was last called.
pub(crate) fn take() -> Counters {
    let http = leno_http::Counters::with(leno_http::Counters::snapshot);
    COUNTERS.with_borrow_mut(|counters| {
        for (name, total) in http {
            counters.observe(Family::Http, name, total);
        }
        counters.take_delta()
    })
}

/// One more of something open, for as long as it lives.
pub(crate) struct Open(Gauge);

impl Open {
    pub(crate) fn new(gauge: Gauge) -> Self {
        COUNTERS.with_borrow_mut(|counters| counters.gauge(gauge, 1));
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        COUNTERS.with_borrow_mut(|counters| counters.gauge(self.0, -1));
    }
}

/// Moves a gauge.
pub(crate) fn gauge(gauge: Gauge, by: i64) {
    COUNTERS.with_borrow_mut(|counters| counters.gauge(gauge, by));
}
