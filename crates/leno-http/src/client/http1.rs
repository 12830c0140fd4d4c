//! An HTTP/1 connection to an application, used by one exchange at a time.

use std::{rc::Rc, task::Context, task::Waker};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    Limits,
    h1::{Reader, Writer, split},
};

/// An HTTP/1 connection to an application, used by one exchange at a time. [`crate::relay`](mod@crate::relay) gives it back when a
/// further exchange may use it.
#[derive(Debug)]
pub struct H1(
    /// In one place for as long as it lives: it goes from hand to hand with every exchange.
    pub(crate) Box<Connection>,
);

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    /// Exchanges it carried before.
    pub(crate) carried: u64,
}

impl H1 {
    /// Takes over a connection. A TCP stream is split without a lock.
    pub fn new<IO: AsyncRead + AsyncWrite + Unpin + 'static>(io: IO, limits: Rc<Limits>) -> Self {
        let (read, write) = split(io);
        Self(Box::new(Connection {
            reader: Reader::new(read, &[], limits),
            writer: Writer::new(write),
            carried: 0,
        }))
    }

    /// Whether a further exchange may begin: the peer did not close it, and nothing unasked came.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.0.reader.is_quiet()
    }

    /// Exchanges it carried.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.0.carried
    }
}

/// For looks that wake nobody.
pub(crate) fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
