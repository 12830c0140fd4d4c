//! One stream of a connection, one way: what is sent arrives later, in order. Two streams know nothing of each other's
//! order.

use std::{collections::VecDeque, time::Duration};

use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, sleep_until};

use crate::sim::Sim;

/// How a network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    Good,
    /// So many milliseconds at most, mostly.
    Slow(u64),
}

impl Quality {
    fn delay(self, sim: &Sim) -> Duration {
        sim.dice(|dice| match self {
            Self::Good => dice.ms(5),
            Self::Slow(ms) if dice.percent(90) => dice.ms(ms),
            Self::Slow(ms) => dice.ms(ms.saturating_mul(4)),
        })
    }
}

/// Carries what comes to `deliver`, until there is no more, or it is no longer taken.
pub(crate) async fn carry<T>(
    mut input: impl Stream<Item = T> + Unpin,
    sim: Sim,
    quality: impl Fn() -> Quality,
    mut deliver: impl FnMut(T) -> bool,
) {
    let mut way: VecDeque<(Instant, T)> = VecDeque::new();
    let mut open = true;
    let mut last = Instant::now();
    while open || !way.is_empty() {
        let next = way.front().map_or(last, |(at, _)| *at);
        tokio::select! {
            biased;
            () = sleep_until(next), if !way.is_empty() => {
                if let Some((_, item)) = way.pop_front() && !deliver(item) {
                    return;
                }
            }
            item = input.next(), if open => match item {
                Some(item) => {
                    last = last.max(Instant::now() + quality().delay(&sim));
                    way.push_back((last, item));
                }
                None => open = false,
            },
        }
    }
}
