//! A switch that ends streams from outside: for exchanges of leno-http and for bytes alike.

use leno_http::Cancel;
use tokio::sync::Notify;

/// Ends what watches it, now and later.
#[derive(Default)]
pub(crate) struct Ending {
    /// The same switch, as exchanges watch it.
    pub(crate) cancel: Cancel,
    thrown: Notify,
}

impl Ending {
    /// Throws it.
    pub(crate) fn throw(&self) {
        self.cancel.cancel();
        self.thrown.notify_waiters();
    }

    /// Ready once it was thrown.
    pub(crate) async fn thrown(&self) {
        while !self.cancel.is_cancelled() {
            // One thread: nothing can come between the look and the wait.
            self.thrown.notified().await;
        }
    }
}
