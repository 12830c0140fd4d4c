//! The wish that something ends: passed down, never up.

use tokio_util::sync::CancellationToken;

/// Tells tasks, on any thread, to finish what they do and end. Clones are the same stop.
///
/// Stopping is one way: once triggered it stays so. A [`child`](Self::child) stops with its parent, never the reverse.
#[derive(Clone, Debug, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// A stop that nobody has triggered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends once [`trigger`](Self::trigger) was called, at once if it already was.
    pub fn cancelled(&self) -> impl Future<Output = ()> {
        self.0.cancelled()
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Asks for the end of all that holds this stop or a child of it.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// A stop for a part: it ends with the whole, and can be ended alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Runs `work` until it ends (`Some`) or the end is asked for (`None`, and `work` is dropped where it stood).
    // Not an `async fn`: that would hold the work once more.
    pub fn run_until_stopped<F: Future>(&self, work: F) -> impl Future<Output = Option<F::Output>> {
        self.0.run_until_cancelled(work)
    }
}

#[cfg(test)]
mod tests {
    use super::Stop;

    #[tokio::test]
    async fn a_child_stops_with_its_parent_and_not_the_reverse() {
        let whole = Stop::new();
        let (first, second) = (whole.child(), whole.child());
        first.trigger();
        assert!(first.is_stopping() && !whole.is_stopping() && !second.is_stopping());
        whole.trigger();
        second.cancelled().await;
        assert_eq!(
            second.run_until_stopped(std::future::pending::<()>()).await,
            None
        );
    }
}
