//! Ends an exchange from outside: its policy was revoked, its certificate's grace is over.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
};

/// A switch that ends every exchange that watches it. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Rc<State>);

#[derive(Debug, Default)]
struct State {
    cancelled: Cell<bool>,
    waiters: RefCell<Vec<Option<Waker>>>,
}

/// One exchange's place among those to be woken.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    cancel: &'a Cancel,
    slot: Option<usize>,
}

impl Cancel {
    /// A switch that is not thrown.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends what watches it, now and later.
    pub fn cancel(&self) {
        self.0.cancelled.set(true);
        let waiters = std::mem::take(&mut *self.0.waiters.borrow_mut());
        waiters.into_iter().flatten().for_each(Waker::wake);
    }

    /// Whether it was thrown.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.get()
    }

    pub(crate) fn watch(&self) -> Watch<'_> {
        Watch {
            cancel: self,
            slot: None,
        }
    }
}

impl Watch<'_> {
    /// Whether it was thrown; otherwise wakes the task when it is.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> bool {
        if self.cancel.is_cancelled() {
            return true;
        }
        let mut waiters = self.cancel.0.waiters.borrow_mut();
        let slot = *self.slot.get_or_insert_with(|| {
            waiters.iter().position(Option::is_none).unwrap_or_else(|| {
                waiters.push(None);
                waiters.len() - 1
            })
        });
        match waiters.get_mut(slot) {
            Some(Some(waker)) if waker.will_wake(cx.waker()) => {}
            Some(place) => *place = Some(cx.waker().clone()),
            None => {}
        }
        false
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot
            && let Some(place) = self.cancel.0.waiters.borrow_mut().get_mut(slot)
        {
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests;
