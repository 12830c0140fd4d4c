#![allow(clippy::disallowed_methods, reason = "a test ends with its tasks")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::future::poll_fn;

use tokio::task::{LocalSet, spawn_local, yield_now};

use super::*;

/// Keeps every write; takes none while blocked.
#[derive(Clone, Default)]
struct Recorder(Rc<RefCell<Recorded>>);

#[derive(Default)]
struct Recorded {
    writes: Vec<Vec<u8>>,
    blocked: bool,
    failed: bool,
    waker: Option<Waker>,
}

impl Recorder {
    fn lengths(&self) -> Vec<usize> {
        self.0.borrow().writes.iter().map(Vec::len).collect()
    }
}

impl AsyncRead for Recorder {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut recorded = self.0.borrow_mut();
        if recorded.failed {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if recorded.blocked {
            recorded.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        recorded.writes.push(all);
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test)
}

async fn write(io: &mut Corked<Recorder>, bytes: &[u8]) {
    assert_eq!(
        poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, bytes))
            .await
            .unwrap(),
        bytes.len()
    );
    poll_fn(|cx| Pin::new(&mut *io).poll_flush(cx))
        .await
        .unwrap();
}

#[test]
fn writes_of_one_round_become_one_and_large_ones_take_them_along() {
    run(async {
        let (corker, flusher) = Corker::new();
        let flusher = spawn_local(flusher);
        yield_now().await;
        let recorder = Recorder::default();
        let mut io = Corked::new(recorder.clone(), &corker);
        write(&mut io, b"one").await;
        write(&mut io, b"two").await;
        assert!(
            recorder.lengths().is_empty(),
            "held back until the queue is empty"
        );
        while recorder.lengths().is_empty() {
            yield_now().await;
        }
        assert_eq!(recorder.0.borrow().writes, [b"onetwo"]);
        write(&mut io, b"head").await;
        write(&mut io, &[0; BYPASS]).await;
        assert_eq!(recorder.lengths(), [6, 4 + BYPASS]);
        assert_eq!(
            io.inner.borrow().buffer.capacity(),
            0,
            "an idle stream holds no buffer"
        );
        flusher.abort();
    });
}

#[test]
fn of_much_that_is_ready_the_beginning_goes_out_early_and_the_rest_in_growing_pieces() {
    run(async {
        let (corker, flusher) = Corker::new();
        let flusher = spawn_local(flusher);
        yield_now().await;
        let recorder = Recorder::default();
        let mut io = Corked::new(recorder.clone(), &corker);
        for turn in 1..3 {
            for _ in 0..10 {
                write(&mut io, &[0; 1024]).await;
            }
            let early = [EARLY + 1024, 2 * EARLY + 1024];
            assert_eq!(recorder.lengths(), early, "turn {turn}");
            while recorder.lengths().len() < 3 {
                yield_now().await;
            }
            assert_eq!(recorder.lengths()[2..], [2 * 1024]);
            recorder.0.borrow_mut().writes.clear();
        }
        flusher.abort();
    });
}

#[test]
fn a_task_that_goes_on_writing_cannot_hold_others_back_for_ever() {
    run(async {
        let (corker, flusher) = Corker::new();
        let flusher = spawn_local(flusher);
        yield_now().await;
        let quiet = Recorder::default();
        let mut io = Corked::new(quiet.clone(), &corker);
        let mut busy = Corked::new(Recorder::default(), &corker);
        write(&mut io, b"x").await;
        for _ in 0..20 {
            write(&mut busy, b"y").await;
            yield_now().await;
        }
        assert_eq!(quiet.lengths(), [1]);
        flusher.abort();
    });
}

#[test]
fn a_full_socket_wakes_the_owner_who_finishes_the_write() {
    run(async {
        let (corker, flusher) = Corker::new();
        let flusher = spawn_local(flusher);
        yield_now().await;
        let recorder = Recorder::default();
        recorder.0.borrow_mut().blocked = true;
        let mut io = Corked::new(recorder.clone(), &corker);
        let owner = spawn_local(async move {
            write(&mut io, b"late").await;
            // As the h2 crate does whenever it is woken.
            poll_fn(|cx| {
                let flushed = Pin::new(&mut io).poll_flush(cx).is_ready();
                let empty = io.inner.borrow().buffer.is_empty();
                if flushed && empty {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        });
        while recorder.0.borrow().waker.is_none() {
            yield_now().await;
        }
        recorder.0.borrow_mut().blocked = false;
        let waker = recorder.0.borrow_mut().waker.take().unwrap();
        waker.wake();
        owner.await.unwrap();
        assert_eq!(recorder.lengths(), [4]);
        flusher.abort();
    });
}

#[test]
fn a_failed_write_is_reported_to_the_owner() {
    run(async {
        let (corker, flusher) = Corker::new();
        let flusher = spawn_local(flusher);
        yield_now().await;
        let recorder = Recorder::default();
        recorder.0.borrow_mut().failed = true;
        let mut io = Corked::new(recorder.clone(), &corker);
        write(&mut io, b"x").await;
        let error = loop {
            yield_now().await;
            if let Err(error) = poll_fn(|cx| Pin::new(&mut io).poll_flush(cx)).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        flusher.abort();
    });
}

#[test]
fn without_its_task_nothing_is_held_back() {
    run(async {
        let (corker, flusher) = Corker::new();
        let recorder = Recorder::default();
        let mut io = Corked::new(recorder.clone(), &corker);
        write(&mut io, b"before").await;
        let flusher = spawn_local(flusher);
        yield_now().await;
        write(&mut io, b"held").await;
        flusher.abort();
        while !flusher.is_finished() {
            yield_now().await;
        }
        write(&mut io, b"after").await;
        assert_eq!(recorder.0.borrow().writes.concat(), b"beforeheldafter");
        assert_eq!(recorder.lengths(), [6, 4, 5]);
    });
}
