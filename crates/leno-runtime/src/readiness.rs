//! Whether a process may be given work. Said by an explicit call, never by dropping something.

use std::sync::Arc;

use tokio::sync::watch;

/// Starts as not ready, becomes ready once and stays so. Clones, on any thread, are the same readiness.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<bool>>);

impl Readiness {
    /// Not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Says that work may come, and wakes who waits.
    pub fn set_ready(&self) {
        self.0
            .send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    /// Whether [`set_ready`](Self::set_ready) was called.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends once [`set_ready`](Self::set_ready) was called, at once if it already was.
    pub async fn wait_ready(&self) {
        let mut receiver = self.0.subscribe();
        let ready = receiver.wait_for(|ready| *ready).await;
        debug_assert!(
            ready.is_ok(),
            "`self` keeps the sender, so waiting cannot fail"
        );
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Readiness;

    #[tokio::test]
    async fn waiting_ends_by_the_call_from_another_thread_and_not_before() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready());
        let setter = readiness.clone();
        let waiter = readiness.wait_ready();
        let thread = std::thread::spawn(move || setter.set_ready());
        waiter.await;
        assert!(readiness.is_ready());
        readiness.wait_ready().await;
        assert!(thread.join().is_ok());
    }
}
