//! A relay between informers and the API, whose connections can be cut and which can refuse new ones.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

#[derive(Default)]
struct Shared {
    closed: AtomicBool,
    accepted: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

/// Listens in the caller's network namespace.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Relay {
    pub(crate) fn start(listener: TcpListener, to: SocketAddr) -> Self {
        let shared = Arc::<Shared>::default();
        let address = listener.local_addr().expect("an address");
        let ours = Arc::clone(&shared);
        thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                if ours.closed.load(Ordering::SeqCst) {
                    continue;
                }
                ours.accepted.fetch_add(1, Ordering::Relaxed);
                // While the control plane is away the connection just ends.
                if let Ok(to) = TcpStream::connect_timeout(&to, Duration::from_secs(2)) {
                    drop(ours.join(&from, &to));
                }
            }
        });
        Self { address, shared }
    }

    /// How many connections came.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Ends every connection at once.
    pub(crate) fn cut(&self) {
        let mut open = self.shared.lock();
        for stream in open.drain(..) {
            // It may have ended by itself.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Ends every connection and takes no others until it is opened.
    pub(crate) fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub(crate) fn open(&self) {
        self.shared.closed.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, from: &TcpStream, to: &TcpStream) -> io::Result<()> {
        for (from, to) in [(from, to), (to, from)] {
            let (mut reads, mut writes) = (from.try_clone()?, to.try_clone()?);
            thread::spawn(move || {
                drop(io::copy(&mut reads, &mut writes));
                // One direction's end is the connection's: nobody here half-closes.
                drop(reads.shutdown(Shutdown::Both));
                drop(writes.shutdown(Shutdown::Both));
            });
        }
        let mut open = self.lock();
        open.retain(|stream| stream.peer_addr().is_ok());
        open.push(from.try_clone()?);
        // A close may have come between the connection and here.
        if self.closed.load(Ordering::SeqCst) {
            from.shutdown(Shutdown::Both)?;
        }
        Ok(())
    }
}
