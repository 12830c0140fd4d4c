//! Steady callers: at a rate, gentle to a peer that is away, and brief about it.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::net::CallError;
use crate::say;

/// Waits after the first and after many calls in a row that reached nobody.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often a failing peer is mentioned.
const MENTION_EVERY: Duration = Duration::from_secs(1);

/// Says that a peer fails, once a second at most, however many callers of it there are.
#[derive(Debug)]
pub(crate) struct Complaints {
    program: &'static str,
    peer: Cow<'static, str>,
    last: Cell<Option<Instant>>,
}

impl Complaints {
    pub(crate) fn new(program: &'static str, peer: impl Into<Cow<'static, str>>) -> Self {
        Self {
            program,
            peer: peer.into(),
            last: Cell::new(None),
        }
    }

    pub(crate) fn hear(&self, error: &dyn fmt::Display) {
        if self.is_due(Instant::now()) {
            say(self.program, format_args!("{}: {error}", self.peer));
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let due = self
            .last
            .get()
            .is_none_or(|last| now.duration_since(last) >= MENTION_EVERY);
        if due {
            self.last.set(Some(now));
        }
        due
    }
}

/// Calls again and again, `per_second` times where calls are quicker than that, for ever; never where it is 0.
pub(crate) async fn repeat<F>(per_second: f64, complaints: &Complaints, call: impl Fn() -> F)
where
    F: Future<Output = Result<(), CallError>>,
{
    if per_second <= 0.0 {
        return pending().await;
    }
    let period = Duration::from_secs_f64((1.0 / per_second).min(3600.0));
    // Callers that start together shall not call together.
    let first = Instant::now() + period.min(LONGEST_WAIT).mul_f64(fastrand::f64());
    let mut pace = interval_at(first, period);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut wait = FIRST_WAIT;
    loop {
        pace.tick().await;
        match call().await {
            Ok(()) => wait = FIRST_WAIT,
            Err(error) => {
                complaints.hear(&error);
                if error.is_unreachable() {
                    sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::{Complaints, repeat};
    use crate::net::CallError;

    async fn calls_in_a_minute(error: impl Fn() -> Result<(), CallError>) -> u32 {
        let (calls, complaints) = (Cell::new(0), Complaints::new("test", "peer"));
        let steady = repeat(10.0, &complaints, || {
            calls.set(calls.get() + 1);
            let result = error();
            async { result }
        });
        assert!(timeout(Duration::from_secs(60), steady).await.is_err());
        calls.get()
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_peer_that_answers_is_called_at_the_rate_also_with_a_refusal() {
        assert!((599..=601).contains(&calls_in_a_minute(|| Ok(())).await));
        let refused = || Err(CallError::Status(http::StatusCode::SERVICE_UNAVAILABLE));
        assert!((599..=601).contains(&calls_in_a_minute(refused).await));
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_peer_that_is_away_is_tried_about_once_a_second() {
        let away = || Err(CallError::Connect(io::ErrorKind::ConnectionRefused.into()));
        let calls = calls_in_a_minute(away).await;
        assert!((50..=65).contains(&calls), "{calls}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_peer_is_mentioned_once_a_second_at_most() {
        let (complaints, now) = (Complaints::new("test", "peer"), Instant::now());
        let at = |milliseconds| complaints.is_due(now + Duration::from_millis(milliseconds));
        assert_eq!(
            [0, 1, 999, 1000, 1500, 2000].map(at),
            [true, false, false, true, false, true]
        );
    }
}
