//! A deadline that moves often and passes seldom: moving it costs nothing, the timer is set anew only when it fires
//! too early.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer, kept for many deadlines.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Whether `deadline` has passed; wakes the task when it does.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> bool {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }

    /// `future`, unless `deadline` passes first.
    pub(crate) async fn within<T>(
        &mut self,
        deadline: Instant,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            if self.poll(cx, deadline) {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }
}

/// The timers of one connection from a client, used by its exchanges in turn: an exchange that ends in time costs no
/// work on the runtime's timers, as the one it takes is armed for an earlier deadline already.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers(Rc<RefCell<Vec<Timer>>>);

/// Timers kept for later.
const KEPT: usize = 16;

/// A timer that goes back to its connection.
#[derive(Debug)]
pub(crate) struct Borrowed {
    timer: Timer,
    home: Timers,
}

impl Timers {
    pub(crate) fn take(&self) -> Borrowed {
        Borrowed {
            timer: self.0.borrow_mut().pop().unwrap_or_default(),
            home: self.clone(),
        }
    }
}

impl Borrowed {
    /// As [`Timer::poll`].
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> bool {
        self.timer.poll(cx, deadline)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let mut kept = self.home.0.borrow_mut();
        if self.timer.sleep.is_some() && kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.timer));
        }
    }
}
