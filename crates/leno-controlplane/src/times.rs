//! Points in time as seconds since 1970, and as RFC 3339 for people.

use std::time::{SystemTime, UNIX_EPOCH};

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

/// The text of a point in time.
#[must_use]
pub(crate) fn rfc3339_of(time: SystemTime) -> String {
    rfc3339(unix(time))
}
