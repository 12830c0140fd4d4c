//! What becomes of a panic in a task or a thread: one log line that names it, and one count.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many named tasks and threads of this process have panicked so far.
#[must_use]
pub fn panics_total() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Counts and logs the panic of `task`.
pub(crate) fn report(task: &str, message: &str) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    tracing::error!(task, panic = message, "task panicked");
}

/// The text that `panic!` was given, where it was text.
pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(not a text)")
}
