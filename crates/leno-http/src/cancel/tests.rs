use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Wake,
};

use super::*;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn those_that_watch_are_woken_once_and_places_are_used_again() {
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let cx = Context::from_waker(&waker);
    let cancel = Cancel::new();
    for _ in 0..100 {
        let mut gone = cancel.watch();
        assert!(!gone.poll(&cx));
    }
    assert_eq!(cancel.0.waiters.borrow().len(), 1, "places do not pile up");
    let mut first = cancel.watch();
    let mut second = cancel.watch();
    assert!(!first.poll(&cx) && !first.poll(&cx) && !second.poll(&cx));
    cancel.cancel();
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    assert!(first.poll(&cx) && cancel.watch().poll(&cx));
}
