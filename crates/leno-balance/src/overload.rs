//! When a whole worker is overloaded, and who is refused first then.
//!
//! Each signal is measured in percent of its ceiling; each priority may use a share of it, and the rest is kept for
//! what is more important. Never reads a clock. Invariant: below the smallest share nobody is refused.

use std::time::Duration;

use leno_types::{Priority, Signal};

/// Percent of a ceiling that what is of low priority may use.
pub const LOW_SHARE: u8 = 70;
/// Percent of a ceiling that everything but high priority may use.
pub const DEFAULT_SHARE: u8 = 90;
/// So many samples of the lag in a row must be high: the least of them counts. A burst, or a machine that stood still
/// for a moment, makes one of them high; a queue that does not go away makes them all so (as CoDel tells them apart).
pub const LAG_SAMPLES: usize = 5;

/// Percent of a ceiling that a priority may use.
#[must_use]
pub const fn share(priority: Priority) -> u8 {
    match priority {
        Priority::Low => LOW_SHARE,
        Priority::Default => DEFAULT_SHARE,
        Priority::High => 100,
    }
}

/// How much of a ceiling a priority may use; never nothing.
#[must_use]
pub fn part(ceiling: usize, priority: Priority) -> usize {
    ceiling
        .saturating_mul(usize::from(share(priority)))
        .div_ceil(100)
        .min(ceiling)
}

/// What part of `ceiling` is used, in percent: rounded down, so that only all of it is 100.
#[must_use]
pub fn percent(used: u64, ceiling: u64) -> u8 {
    if used >= ceiling {
        return 100;
    }
    let percent = u128::from(used) * 100 / u128::from(ceiling);
    u8::try_from(percent).unwrap_or(100)
}

/// How near a process is to the end of its memory: what it has, of that and what it could still get. What its
/// neighbours hold for good does not count, so that a full machine alone is no overload.
#[must_use]
pub fn memory_percent(own: u64, free: u64) -> u8 {
    percent(own, own.saturating_add(free))
}

/// How loaded a worker is, in percent of each of its ceilings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Open tasks.
    pub tasks: u8,
    /// The lag that stands.
    pub lag: u8,
    /// Memory.
    pub memory: u8,
}

impl Pressure {
    /// Whether nobody is refused.
    #[must_use]
    pub const fn is_calm(self) -> bool {
        self.tasks < LOW_SHARE && self.lag < LOW_SHARE && self.memory < LOW_SHARE
    }

    /// Whether something of this priority is refused, and by which signal; the worst one is named.
    #[must_use]
    pub fn refuses(self, priority: Priority) -> Option<Signal> {
        let signals = [
            (self.memory, Signal::Memory),
            (self.tasks, Signal::Tasks),
            (self.lag, Signal::Lag),
        ];
        let (worst, signal) = signals
            .into_iter()
            .reduce(|one, other| if other.0 > one.0 { other } else { one })?;
        (worst >= share(priority)).then_some(signal)
    }
}

/// How late a worker comes to what is ready to run.
#[derive(Clone, Debug, Default)]
pub struct Lag {
    late: [Duration; LAG_SAMPLES],
    next: usize,
}

impl Lag {
    /// Takes in how late a timer was.
    pub fn observe(&mut self, late: Duration) {
        if let Some(place) = self.late.get_mut(self.next) {
            *place = late;
        }
        self.next = (self.next + 1) % LAG_SAMPLES;
    }

    /// The lag that stands: the least of the last samples.
    #[must_use]
    pub fn standing(&self) -> Duration {
        self.late.iter().copied().min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pressure(tasks: u8, lag: u8, memory: u8) -> Pressure {
        Pressure { tasks, lag, memory }
    }

    #[test]
    fn each_priority_is_refused_at_its_share_and_the_worst_signal_is_named() {
        let refused = |pressure: Pressure| {
            [Priority::Low, Priority::Default, Priority::High]
                .map(|priority| pressure.refuses(priority))
        };
        assert_eq!(refused(pressure(69, 69, 69)), [None; 3]);
        let (tasks, lag) = (Some(Signal::Tasks), Some(Signal::Lag));
        assert_eq!(refused(pressure(70, 0, 69)), [tasks, None, None]);
        assert_eq!(refused(pressure(89, 90, 0)), [lag, lag, None]);
        assert_eq!(refused(pressure(95, 70, 100)), [Some(Signal::Memory); 3]);
    }

    #[test]
    fn one_late_moment_is_no_lag_and_a_row_of_them_is() {
        let mut lag = Lag::default();
        for _ in 1..LAG_SAMPLES {
            lag.observe(Duration::from_secs(9));
            assert_eq!(lag.standing(), Duration::ZERO);
        }
        lag.observe(Duration::from_secs(3));
        assert_eq!(lag.standing(), Duration::from_secs(3));
        lag.observe(Duration::from_millis(1));
        assert_eq!(lag.standing(), Duration::from_millis(1));
    }

    #[test]
    fn a_machine_that_others_have_filled_is_no_overload_of_a_small_proxy() {
        // 30 MB here, 1 GB of 64 free.
        assert_eq!(memory_percent(30 << 20, 1 << 30), 2);
        // A container of 128 MiB that it has nearly filled itself.
        assert_eq!(memory_percent(120 << 20, 8 << 20), 93);
        assert_eq!(memory_percent(1, 0), 100);
        assert_eq!(memory_percent(0, 0), 100);
    }

    proptest! {
        #[test]
        fn what_is_more_important_is_never_refused_before_what_is_less(
            tasks in 0u8..=110, lag in 0u8..=110, memory in 0u8..=110,
        ) {
            let pressure = pressure(tasks, lag, memory);
            let refused = Priority::ALL.iter().map(|of| pressure.refuses(*of).is_some());
            prop_assert!(refused.is_sorted_by(|less, more| less >= more));
            prop_assert_eq!(pressure.is_calm(), pressure.refuses(Priority::Low).is_none());
        }

        #[test]
        fn shares_of_a_ceiling_grow_with_the_priority_up_to_all_of_it(ceiling in 0usize..100_000) {
            let parts: Vec<usize> = Priority::ALL.iter().map(|of| part(ceiling, *of)).collect();
            prop_assert!(parts.is_sorted());
            prop_assert_eq!(parts.last().copied(), Some(ceiling));
            prop_assert_eq!(parts.contains(&0), ceiling == 0);
        }
    }
}
