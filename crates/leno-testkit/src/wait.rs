//! Waiting for something to become true, with an end that names what was waited for.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(4);

/// Asks until there is an answer.
///
/// # Panics
/// At the deadline, naming `what`.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {within:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// Asks until it succeeds; the last error is told at the deadline.
///
/// # Panics
/// At the deadline, naming `what` and the last error.
#[track_caller]
pub fn until_ok<T, E: Debug>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + within;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(
                Instant::now() < end,
                "not within {within:?}: {what}; at last: {error:?}"
            ),
        }
        std::thread::sleep(POLL);
    }
}

/// Asks again and again for a while: it must be true each time.
///
/// # Panics
/// As soon as it is not.
#[track_caller]
pub fn holds_for(what: &str, how_long: Duration, mut ask: impl FnMut() -> bool) {
    let end = Instant::now() + how_long;
    while Instant::now() < end {
        assert!(ask(), "it did not stay so for {how_long:?}: {what}");
        std::thread::sleep(POLL);
    }
}
