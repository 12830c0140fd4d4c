//! The grace after a restart: for so long agents may be on their way back, and what is missing may only be late.
//!
//! It ends when everybody who is known is back and has named its workloads. How many one has nobody knows, but who names
//! more is not done: so nobody may have named any for a while.
//! Invariant: it ends at its time, whatever happens.

use std::time::Duration;

/// How long after a restart agents may take to come back before what is missing is missed.
pub(super) const RESTART_GRACE: Duration = Duration::from_secs(30);
/// For how long nobody names workloads once all have.
const SETTLE: Duration = Duration::from_secs(2);

/// A grace that is not over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grace {
    pub(super) until: Duration,
    /// Since when all are back with so many workloads.
    complete: Option<(Duration, usize)>,
}

impl Grace {
    /// It begins.
    pub(super) const fn new(until: Duration) -> Self {
        Self {
            until,
            complete: None,
        }
    }

    /// Whether it is over, with everybody back or not, and so many workloads named.
    pub(super) fn is_over(&mut self, now: Duration, all_back: bool, named: usize) -> bool {
        let since = match self.complete {
            _ if !all_back => None,
            Some((since, as_many)) if as_many == named => Some(since),
            _ => Some(now),
        };
        self.complete = since.map(|since| (since, named));
        now >= self.until || since.is_some_and(|since| now >= since.saturating_add(SETTLE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_lasts_until_all_are_back_and_nobody_names_more() {
        let mut grace = Grace::new(RESTART_GRACE);
        assert!(!grace.is_over(at(1), false, 0));
        assert!(!grace.is_over(at(5), true, 10), "the last came now");
        assert!(!grace.is_over(at(7), true, 90), "some name theirs still");
        assert!(!grace.is_over(at(9), true, 100));
        assert!(!grace.is_over(at(10), true, 100));
        assert!(grace.is_over(at(11), true, 100));
    }

    #[test]
    fn it_begins_to_end_anew_when_one_leaves_again_and_ends_at_its_time() {
        let mut grace = Grace::new(RESTART_GRACE);
        assert!(!grace.is_over(at(1), true, 10));
        assert!(!grace.is_over(at(2), false, 10));
        assert!(!grace.is_over(at(3), true, 10));
        assert!(!grace.is_over(at(4), true, 10));
        assert!(grace.is_over(at(5), true, 10));
        let mut grace = Grace::new(RESTART_GRACE);
        assert!(!grace.is_over(at(29), true, 10));
        assert!(grace.is_over(at(30), true, 11), "whoever names more then");
    }
}
