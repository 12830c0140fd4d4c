//! The signals that `leno run` passes on to its program.

use std::{future::poll_fn, io, task::Poll};

use leno_runtime::{Signal, Signals};
use tokio::signal::unix::{Signal as Source, SignalKind, signal};

/// SIGQUIT, SIGUSR1, SIGUSR2 and SIGWINCH (signal(7)): none of them is for `leno run` itself.
const OTHERS: [i32; 4] = [3, 10, 12, 28];
/// What a terminal sends to its whole process group: SIGINT, SIGQUIT, SIGWINCH.
const FROM_TERMINAL: [i32; 3] = [2, 3, 28];

/// Every signal that a program may be sent.
pub(crate) struct Passed {
    ends: Signals,
    others: Vec<(i32, Source)>,
}

impl Passed {
    /// Starts to listen.
    pub(crate) fn new() -> io::Result<Self> {
        let listen = |number| Ok((number, signal(SignalKind::from_raw(number))?));
        Ok(Self {
            ends: Signals::new()?,
            others: OTHERS.into_iter().map(listen).collect::<io::Result<_>>()?,
        })
    }

    /// The number of the next one. Dropping the wait loses none.
    pub(crate) async fn next(&mut self) -> i32 {
        let Self { ends, others } = self;
        let other = poll_fn(|context| {
            for (number, source) in others.iter_mut() {
                if let Poll::Ready(Some(())) = source.poll_recv(context) {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        });
        tokio::select! {
            signal = ends.next() => Signal::number(signal),
            number = other => number,
        }
    }
}

/// Whether a program that shares our terminal has it already.
pub(crate) fn reaches_the_group(number: i32) -> bool {
    FROM_TERMINAL.contains(&number)
}
