//! Panics of a world, which lives on one thread: tasks that are caught would otherwise end unseen.

use std::{cell::RefCell, panic, sync::Once};

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A world begins on this thread.
pub(crate) fn forget() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            LAST.set(Some(info.to_string()));
            before(info);
        }));
    });
    LAST.set(None);
}

/// The last panic of this thread since then.
pub(crate) fn last() -> Option<String> {
    LAST.take()
}
