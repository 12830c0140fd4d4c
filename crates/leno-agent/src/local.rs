//! The agent's Unix socket: accepts `leno run`, reads and writes messages with descriptors.
//!
//! Owns the connections and their ceiling; what a message means is the agent's to decide. Who may connect is decided
//! by the system's word on the peer's user, never by what the peer says.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixListener as StdUnixListener},
    },
    path::Path,
    rc::Rc,
    time::Duration,
};

use leno_net::fdpass::{self, Peer, RecvBuffer};
use leno_runtime::{Scope, Stop};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

use crate::protocol::{FromAgent, ToAgent};

/// So many programs and commands may be connected at once.
const MAX_CONNECTIONS: usize = 1_024;
/// Messages that wait to be written to one of them.
const OUTBOX: usize = 256;

/// A message with its descriptors.
pub(crate) type Outgoing = (FromAgent, Vec<OwnedFd>);

/// One connection of `leno run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Connection(u64);

impl Connection {
    /// The agent's own: a wholly captured namespace. Those on the socket count from one.
    pub(crate) const SIDECAR: Self = Self(0);
}

/// What happens on the socket.
pub(crate) enum LocalEvent {
    Opened {
        connection: Connection,
        peer: Peer,
        out: mpsc::Sender<Outgoing>,
    },
    Message {
        connection: Connection,
        message: ToAgent,
        descriptors: Vec<OwnedFd>,
    },
    Closed {
        connection: Connection,
    },
}

/// The socket a predecessor handed over, or a new one.
pub(crate) fn listen(inherited: Option<StdUnixListener>, path: &Path) -> io::Result<UnixListener> {
    match inherited {
        Some(listener) => UnixListener::from_std(listener),
        None => bind(path),
    }
}

/// Binds the socket; a dead predecessor's is replaced, a living one's is an error.
fn bind(path: &Path) -> io::Result<UnixListener> {
    nobody_listens(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // Everybody may connect; the agent asks the system who it is before it listens to anything.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// That no agent lives behind this socket; otherwise the error says which, and what to do.
pub(crate) fn nobody_listens(path: &Path) -> io::Result<()> {
    let Ok(other) = std::os::unix::net::UnixStream::connect(path) else {
        return Ok(());
    };
    let who = fdpass::peer_blocking(&other)
        .map_or_else(|_| String::new(), |peer| format!(" (pid {})", peer.pid));
    let text = format!(
        "another agent{who} listens on {}: end it first, take its place with leno agent --takeover, or give this one a run directory of its own",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::AddrInUse, text))
}

/// Accepts until the stop.
pub(crate) async fn serve(listener: UnixListener, events: mpsc::Sender<LocalEvent>, stop: Stop) {
    let scope = Scope::new(stop.clone(), Some(MAX_CONNECTIONS));
    let mut next = 0;
    while let Some(accepted) = stop.run_until_stopped(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the agent's socket cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        next += 1;
        let work = converse(
            Connection(next),
            Rc::new(stream),
            events.clone(),
            scope.clone(),
        );
        if scope.spawn("local connection", work).is_err() {
            tracing::warn!(
                MAX_CONNECTIONS,
                "too many programs are connected to the agent; one was turned away"
            );
        }
    }
}

async fn converse(
    connection: Connection,
    stream: Rc<UnixStream>,
    events: mpsc::Sender<LocalEvent>,
    scope: Scope,
) {
    let Ok(peer) = fdpass::peer(&stream) else {
        return;
    };
    let (out, outgoing) = mpsc::channel(OUTBOX);
    // Ends with the agent, and when the agent has let go of this connection.
    let over = scope.stop().child();
    if events
        .send(LocalEvent::Opened {
            connection,
            peer,
            out,
        })
        .await
        .is_err()
    {
        return;
    }
    if scope
        .spawn("local writer", {
            let (stream, over) = (Rc::clone(&stream), over.clone());
            async move {
                write(stream, outgoing).await;
                over.trigger();
            }
        })
        .is_ok()
    {
        // At the end of this agent the program must look for the next one at once, and what is said to it still
        // arrives: the writer ends by itself.
        over.run_until_stopped(read(connection, &stream, &events))
            .await;
    }
    // Nobody is left to tell when the agent has gone first.
    drop(events.send(LocalEvent::Closed { connection }).await);
}

async fn write(stream: Rc<UnixStream>, mut outgoing: mpsc::Receiver<Outgoing>) {
    while let Some((message, descriptors)) = outgoing.recv().await {
        let Ok(bytes) = serde_json::to_vec(&message) else {
            continue;
        };
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        if fdpass::send(&stream, &bytes, &borrowed).await.is_err() {
            return;
        }
    }
}

async fn read(connection: Connection, stream: &UnixStream, events: &mpsc::Sender<LocalEvent>) {
    let mut buffer = RecvBuffer::default();
    loop {
        let received = match fdpass::recv(stream, &mut buffer).await {
            Ok(Some(received)) => received,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a local connection broke");
                return;
            }
        };
        let message = match serde_json::from_slice(&received.bytes) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%error, "a local connection says what the agent does not understand; is leno of another version?");
                return;
            }
        };
        let event = LocalEvent::Message {
            connection,
            message,
            descriptors: received.fds,
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}
