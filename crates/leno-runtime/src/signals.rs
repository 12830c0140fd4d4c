//! The signals that ask a process for something.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal as Source, SignalKind, signal};

/// One signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGINT`: a person pressed Ctrl-C.
    Interrupt,
    /// `SIGTERM`: a supervisor asks for the end.
    Terminate,
    /// `SIGHUP`: the terminal went away, or a supervisor asks to read files again.
    Hangup,
}

impl Signal {
    /// Its number on Linux (signal(7)).
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "SIGHUP",
        })
    }
}

/// `SIGINT`, `SIGTERM` and `SIGHUP` as a stream that does not end.
///
/// From its making on none of the three ends the process by itself, for as long as the process lives, also when this
/// value is gone. Signals that come faster than they are read may be seen as one.
#[derive(Debug)]
pub struct Signals {
    interrupt: Source,
    terminate: Source,
    hangup: Source,
}

impl Signals {
    /// Starts to listen; within a runtime.
    ///
    /// # Errors
    /// When the operating system refuses a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Dropping the wait loses none.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::Terminate,
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.hangup.recv() => Signal::Hangup,
            // Only a runtime that is going away closes all three.
            else => std::future::pending().await,
        }
    }

    /// Ends with the first `SIGINT` or `SIGTERM`; a `SIGHUP` before it is passed over.
    pub async fn next_end(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::Hangup => {}
                end @ (Signal::Interrupt | Signal::Terminate) => return end,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use rustix::process::{Signal as Raw, getpid, kill_process};

    use super::{Signal, Signals};

    #[tokio::test]
    async fn each_signal_is_told_apart_and_a_hangup_is_no_end() {
        let mut signals = Signals::new().unwrap();
        for (raw, expected) in [
            (Raw::HUP, Signal::Hangup),
            (Raw::INT, Signal::Interrupt),
            (Raw::TERM, Signal::Terminate),
        ] {
            kill_process(getpid(), raw).unwrap();
            assert_eq!(signals.next().await, expected);
        }
        kill_process(getpid(), Raw::HUP).unwrap();
        assert_eq!(signals.next().await, Signal::Hangup);
        kill_process(getpid(), Raw::HUP).unwrap();
        kill_process(getpid(), Raw::TERM).unwrap();
        assert_eq!(signals.next_end().await, Signal::Terminate);
    }
}
