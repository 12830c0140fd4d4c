//! The retry budget of one service: retries may add at most a fifth to the load of the last ten seconds, and a few
//! are always possible (Linkerd's and Istio's idea of a budget; row S2).

use std::time::{Duration, Instant};

/// Retries per hundred requests.
pub const BUDGET_PERCENT: u64 = 20;
/// Over how long requests are counted.
pub const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// So many retries at the same time are always possible.
pub const MIN_CONCURRENT_RETRIES: u32 = 3;

const SLOTS: usize = 10;

/// Requests and retries of the last ten seconds.
#[derive(Debug, Default)]
pub struct RetryBudget {
    slots: [Slot; SLOTS],
    start: Option<Instant>,
    concurrent: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// An empty budget.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one request, not a retry.
    pub fn request(&mut self, now: Instant) {
        self.slot(now).requests += 1;
    }

    /// Takes one retry out of the budget, if it has one; to be given back by [`Self::retry_finished`].
    pub fn try_retry(&mut self, now: Instant) -> bool {
        let second = self.second(now);
        let live = self
            .slots
            .iter()
            .filter(|slot| slot.second + SLOTS as u64 > second);
        let (requests, retries) = live.fold((0, 0), |sum, slot| {
            (sum.0 + slot.requests, sum.1 + slot.retries)
        });
        if (retries + 1) * 100 > requests * BUDGET_PERCENT
            && self.concurrent >= MIN_CONCURRENT_RETRIES
        {
            return false;
        }
        self.slot(now).retries += 1;
        self.concurrent += 1;
        true
    }

    /// A retry that was taken has ended.
    pub fn retry_finished(&mut self) {
        self.concurrent = self.concurrent.saturating_sub(1);
    }

    fn second(&mut self, now: Instant) -> u64 {
        now.saturating_duration_since(*self.start.get_or_insert(now))
            .as_secs()
            + SLOTS as u64
    }

    fn slot(&mut self, now: Instant) -> &mut Slot {
        let second = self.second(now);
        let index = usize::try_from(second % SLOTS as u64).unwrap_or(0);
        let slot = &mut self.slots[index];
        if slot.second != second {
            *slot = Slot {
                second,
                ..Slot::default()
            };
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        reason = "a test needs a time to begin with"
    )]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_retries_are_possible_at_once_without_any_load() {
        let now = Instant::now();
        let mut budget = RetryBudget::new();
        assert!((0..3).all(|_| budget.try_retry(now)));
        assert!(!budget.try_retry(now));
        budget.retry_finished();
        assert!(budget.try_retry(now));
    }

    proptest! {
        #[test]
        fn beyond_the_minimum_retries_stay_within_a_fifth_of_ten_seconds_requests(
            steps in proptest::collection::vec((0u64..400, any::<bool>(), any::<bool>()), 1..400),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut budget = RetryBudget::new();
            let (mut requests, mut open) = (Vec::new(), 0u32);
            let mut granted: Vec<Instant> = Vec::new();
            for (millis, retry, finish) in steps {
                now += Duration::from_millis(millis);
                if finish && open > 0 {
                    budget.retry_finished();
                    open -= 1;
                }
                if !retry {
                    budget.request(now);
                    requests.push(now);
                } else if budget.try_retry(now) {
                    let within = |at: &&Instant| now.duration_since(**at) < BUDGET_WINDOW + Duration::from_secs(1);
                    let load = requests.iter().filter(within).count();
                    let retries = granted.iter().filter(|at| now.duration_since(**at) + Duration::from_secs(1) < BUDGET_WINDOW).count();
                    prop_assert!(open < MIN_CONCURRENT_RETRIES || (retries + 1) * 100 <= load * 20);
                    granted.push(now);
                    open += 1;
                }
            }
        }
    }
}
