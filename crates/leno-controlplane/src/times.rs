//! Points in time as seconds since 1970, and as RFC 3339 for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Seconds since 1970; 0 before.
#[must_use]
pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The text of a point in time; empty where there is none.
#[must_use]
pub(crate) fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// The text of a point in time, to the millisecond.
#[must_use]
pub(crate) fn rfc3339_millis(millis: u64) -> String {
    let nanos = i128::from(millis) * 1_000_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// The text of a point in time.
#[must_use]
pub(crate) fn rfc3339_of(time: SystemTime) -> String {
    rfc3339(unix(time))
}

/// The wall clock as far as it is believed, where something is forgotten by it: a jump counts once it has lasted, so that
/// one which is taken back costs nobody a name, an address or a membership.
#[derive(Debug)]
pub(crate) struct Believed {
    /// What was believed last, and when.
    last: (SystemTime, Duration),
    off_since: Option<Duration>,
}

/// More than a clock is set right by while it runs.
const JUMP: Duration = Duration::from_secs(5 * 60);
/// How long a jump must last.
const LASTS: Duration = Duration::from_secs(3600);

impl Believed {
    /// The clock at the start is believed.
    pub(crate) fn new(wall: SystemTime, now: Duration) -> Self {
        Self {
            last: (wall, now),
            off_since: None,
        }
    }

    /// The believed time; `now` is the time since some beginning, which does not jump and does not sleep.
    pub(crate) fn now(&mut self, wall: SystemTime, now: Duration) -> SystemTime {
        let (last, at) = self.last;
        let expected = last + now.saturating_sub(at);
        let ahead = wall.duration_since(expected);
        let apart = ahead.unwrap_or_else(|behind| behind.duration());
        if apart > JUMP {
            let since = *self.off_since.get_or_insert(now);
            if now < since.saturating_add(LASTS) {
                return expected;
            }
        }
        self.off_since = None;
        self.last = (wall, now);
        wall
    }

    /// Whether the wall clock has jumped, and is not believed.
    pub(crate) fn is_off(&self) -> bool {
        self.off_since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_clock_is_believed_once_it_has_lasted() {
        let (start, s) = (UNIX_EPOCH + 100 * LASTS, Duration::from_secs);
        let mut believed = Believed::new(start, s(0));
        assert_eq!(believed.now(start + s(10), s(10)), start + s(10));
        // Set right by a little, either way: followed.
        assert_eq!(believed.now(start + s(260), s(20)), start + s(260));
        assert_eq!(believed.now(start + s(30), s(30)), start + s(30));
        for (wall, now) in [(start + 50 * LASTS, 40), (start - 50 * LASTS, 60)] {
            assert_eq!(believed.now(wall, s(now)), start + s(now));
            assert!(believed.is_off());
            let now = s(now + 10);
            assert_eq!(believed.now(start + now, now), start + now);
            assert!(!believed.is_off());
        }
        let far = start + 50 * LASTS;
        assert_eq!(believed.now(far, s(80)), start + s(80));
        assert_eq!(believed.now(far + LASTS, s(80) + LASTS), far + LASTS);
        assert!(!believed.is_off());
    }
}
