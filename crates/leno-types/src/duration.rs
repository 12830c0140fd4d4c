//! Durations as the Gateway API writes them (GEP-2257): `1h30m`, `10s`, `500ms`; at most four units, each at most
//! five digits, no fraction.

use std::{fmt::Write, time::Duration};

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no duration: write whole numbers with h, m, s or ms, such as 10s or 1h30m")]
pub struct DurationError(pub String);

/// Parses a GEP-2257 duration.
///
/// # Errors
/// [`DurationError`] when the text has another shape.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.into());
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        if number.is_empty() || number.len() > 5 {
            return Err(error());
        }
        let number: u64 = number.parse().map_err(|_| error())?;
        let (millis, tail) = if let Some(tail) = tail.strip_prefix("ms") {
            (1, tail)
        } else if let Some(tail) = tail.strip_prefix('s') {
            (1_000, tail)
        } else if let Some(tail) = tail.strip_prefix('m') {
            (60_000, tail)
        } else if let Some(tail) = tail.strip_prefix('h') {
            (3_600_000, tail)
        } else {
            return Err(error());
        };
        total += Duration::from_millis(number * millis);
        if tail.is_empty() {
            return Ok(total);
        }
        rest = tail;
    }
    Err(error())
}

/// Writes a duration the way [`parse_duration`] reads it; below a millisecond it is rounded down.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    if millis == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if millis >= size {
            write!(text, "{}{unit}", millis / size).expect("writing to a string cannot fail");
            millis %= size;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_the_gateway_api_does() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("0s", 0),
            ("1h1m1s1ms", 3_661_001),
        ] {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration.as_millis(), millis);
            assert_eq!(format_duration(duration), text);
        }
        for bad in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "100000s",
            "1s1s1s1s1s",
            "1d",
            " 1s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
