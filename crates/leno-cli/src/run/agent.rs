//! The connection of `leno run` to the host's agent, and its return after the agent's restart.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use leno_agent::protocol::{FromAgent, Host, Network, Port, Socket, Start, Started, ToAgent, Why};
use leno_net::{
    capture,
    fdpass::{self, RecvBuffer},
    socket,
};
use tokio::net::UnixStream;

use super::{host::HostPlace, namespace::Namespace};
use crate::{exit::CommandError, joined::Joined, places};

/// An agent that does not answer so long is none.
const ANSWER: Duration = Duration::from_secs(30);
/// Between two tries to find an agent that was restarted.
const RETURN: Duration = Duration::from_millis(200);
/// Sockets that go with one message.
const BATCH: usize = fdpass::MAX_DESCRIPTORS;
/// No agent needs more at once; asking for more is a mistake of its own.
const MAX_SOCKETS: usize = 256;

/// A connection to an agent, before the runtime starts.
pub(crate) struct AgentSocket {
    stream: StdUnixStream,
    path: PathBuf,
}

impl AgentSocket {
    /// Connects to the agent at `path`, or at the usual places.
    pub(crate) fn connect(path: Option<&Path>) -> Result<Self, CommandError> {
        let is_named = path.is_some();
        let places = path.map_or_else(places::agent_sockets, |path| vec![path.to_owned()]);
        let mut last = None;
        for path in places {
            match StdUnixStream::connect(&path) {
                Ok(stream) => {
                    if !is_named {
                        trust(&stream, &path)?;
                    }
                    return Ok(Self { stream, path });
                }
                Err(error) => last = Some((path, error)),
            }
        }
        let (path, error) =
            last.unwrap_or_else(|| (PathBuf::new(), io::ErrorKind::NotFound.into()));
        let what = format!("no agent answers at {}: {error}", path.display());
        Err(CommandError::unreachable(what).hint(match Joined::here() {
            Some(joined) => format!("{joined}: leno agent starts its agent"),
            None => "start a mesh here with leno up, or join one with leno join --token-file FILE"
                .into(),
        }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the agent says of the host.
    pub(crate) fn host(&self) -> Result<Host, CommandError> {
        let lost = |error: io::Error| {
            CommandError::unreachable(format!("the agent does not answer: {error}"))
        };
        self.stream.set_read_timeout(Some(ANSWER)).map_err(lost)?;
        let message = fdpass::recv_blocking(&self.stream).map_err(lost)?;
        let message =
            message.ok_or_else(|| CommandError::unreachable("the agent closed the connection"))?;
        match serde_json::from_slice(&message.bytes) {
            Ok(FromAgent::Host(host)) => Ok(host),
            Ok(FromAgent::Refused { code, message }) => Err(refused(code, message)),
            Ok(_) => Err(CommandError::unreachable(
                "the agent speaks out of turn; is it of another version?",
            )),
            Err(error) => Err(CommandError::unreachable(format!(
                "the agent is not understood: {error}"
            ))),
        }
    }
}

/// What the agent at `path` says of the host; `None` when it does not answer.
pub(crate) async fn host_of(path: &Path) -> Option<Host> {
    let stream = UnixStream::connect(path).await.ok()?;
    let message = fdpass::recv(&stream, &mut RecvBuffer::default()).await;
    match serde_json::from_slice(&message.ok()??.bytes) {
        Ok(FromAgent::Host(host)) => Some(host),
        Ok(_) | Err(_) => None,
    }
}

/// An agent sees all that a program sends. Where nobody named its socket it is root's or one's own: in /tmp another user
/// may have been there first.
fn trust(stream: &StdUnixStream, path: &Path) -> Result<(), CommandError> {
    let failed = |error| CommandError::failed(format!("{}: {error}", path.display()));
    let uid = fdpass::peer_blocking(stream).map_err(failed)?.uid;
    if [0, leno_net::process::user()].contains(&uid) {
        return Ok(());
    }
    let what = format!("at {} another user listens (user {uid})", path.display());
    Err(CommandError::permission(what)
        .hint("if that is the agent you mean, name it: leno run --agent PATH"))
}

/// Where the program is.
pub(crate) enum Place {
    /// In a network of its own.
    Namespace(Namespace),
    /// In the host's.
    Host(HostPlace),
}

impl Place {
    /// Starts the program there.
    pub(crate) fn start<T>(
        &self,
        start: impl FnOnce() -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        match self {
            Self::Namespace(_) => start(),
            Self::Host(host) => host.within(start),
        }
    }

    /// After the program's end.
    pub(crate) async fn clean_up(&self) {
        if let Self::Host(host) = self {
            host.remove().await;
        }
    }

    fn network(&self) -> Network {
        match self {
            Self::Namespace(_) => Network::Own,
            Self::Host(host) => Network::Host {
                cgroup: host.path().to_owned(),
            },
        }
    }

    fn sockets(&self) -> (Vec<Socket>, Vec<BorrowedFd<'_>>) {
        match self {
            Self::Namespace(namespace) => namespace.sockets(),
            Self::Host(_) => Default::default(),
        }
    }

    /// How many sockets of a family are made here when so many are asked for.
    fn sockets_to_make(&self, v6: bool, wanted: usize) -> usize {
        match self {
            Self::Namespace(namespace) if !v6 || namespace.v6 => wanted.min(MAX_SOCKETS),
            Self::Namespace(_) | Self::Host(_) => 0,
        }
    }
}

/// What the agent says to a program that runs.
pub(crate) enum News {
    /// It needs sockets.
    Need(Need),
    /// Nobody calls the program any more.
    Idle,
}

/// Why the program was not handed over.
enum Failed {
    /// The agent is gone: another may come.
    Lost,
    /// It said no.
    Refused(CommandError),
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}

/// Sockets that the agent needs.
pub(crate) struct Need {
    v6: bool,
    count: usize,
}

/// The connection of a program that is, or was, in the mesh.
pub(crate) struct Link {
    /// `None` while the agent is away.
    stream: Option<(UnixStream, RecvBuffer)>,
    path: PathBuf,
    start: Start,
    started: Started,
    place: Place,
    /// Why the agent did not take the program back, as it was told to people.
    refusal: Option<String>,
    healthy: Option<(bool, String)>,
}

impl Link {
    /// Hands the namespace over and waits until the program may start.
    pub(crate) async fn start(
        socket: AgentSocket,
        start: Start,
        place: Place,
    ) -> Result<Self, CommandError> {
        let lost =
            |error: io::Error| CommandError::unreachable(format!("the agent went away: {error}"));
        socket.stream.set_read_timeout(None).map_err(lost)?;
        socket.stream.set_nonblocking(true).map_err(lost)?;
        let stream = UnixStream::from_std(socket.stream).map_err(lost)?;
        let mut link = Self {
            stream: None,
            path: socket.path,
            start,
            started: Started {
                uid: String::new(),
                identity: String::new(),
                certificate_seconds: 0,
            },
            place,
            refusal: None,
            healthy: None,
        };
        link.start.network = link.place.network();
        let patience = tokio::time::timeout(ANSWER, link.persist(stream));
        link.started = patience
            .await
            .map_err(|_| CommandError::unreachable("the agent did not answer in 30 s"))??;
        Ok(link)
    }

    /// Hands over until it is done: an agent that is replaced meanwhile has a successor.
    async fn persist(&mut self, mut stream: UnixStream) -> Result<Started, CommandError> {
        loop {
            match self.hand_over(stream).await {
                Ok(started) => return Ok(started),
                Err(Failed::Refused(error)) => return Err(error),
                Err(Failed::Lost) => {}
            }
            stream = loop {
                tokio::time::sleep(RETURN).await;
                if let Ok(stream) = UnixStream::connect(&self.path).await {
                    break stream;
                }
            };
        }
    }

    /// Who the program is.
    pub(crate) fn started(&self) -> &Started {
        &self.started
    }

    /// What the program serves.
    pub(crate) fn ports(&self) -> &[Port] {
        &self.start.ports
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    async fn hand_over(&mut self, stream: UnixStream) -> Result<Started, Failed> {
        let (kinds, descriptors) = self.place.sockets();
        self.start.sockets = kinds;
        let message = ToAgent::Start(Box::new(self.start.clone()));
        let bytes = serde_json::to_vec(&message).map_err(io::Error::other)?;
        fdpass::send(&stream, &bytes, &descriptors).await?;
        let mut buffer = RecvBuffer::default();
        loop {
            let message = fdpass::recv(&stream, &mut buffer).await?;
            let message = message.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset))?;
            let understood = serde_json::from_slice(&message.bytes).map_err(|error| {
                Failed::Refused(CommandError::unreachable(format!(
                    "the agent is not understood: {error}; is it of another version?"
                )))
            });
            match understood? {
                FromAgent::Started(started) => {
                    self.start.uid = Some(started.uid.clone());
                    self.stream = Some((stream, buffer));
                    return Ok(started);
                }
                FromAgent::Refused { code, message } => {
                    return Err(Failed::Refused(refused(code, message)));
                }
                FromAgent::NeedSockets { v6, count } => {
                    self.send_sockets(&stream, v6, count).await?;
                }
                FromAgent::Host(_) | FromAgent::Idle | FromAgent::Handover { .. } => {}
            }
        }
    }

    /// What the agent needs next; comes back to an agent that was restarted. Dropping it in between loses nothing.
    pub(crate) async fn next(&mut self) -> News {
        loop {
            let Some((stream, buffer)) = &mut self.stream else {
                tokio::time::sleep(RETURN).await;
                self.come_back().await;
                continue;
            };
            match fdpass::recv(stream, buffer).await {
                Ok(Some(message)) => match serde_json::from_slice(&message.bytes) {
                    Ok(FromAgent::NeedSockets { v6, count }) => {
                        return News::Need(Need { v6, count });
                    }
                    Ok(FromAgent::Idle) => return News::Idle,
                    Ok(_) | Err(_) => {}
                },
                Ok(None) | Err(_) => self.stream = None,
            }
        }
    }

    /// Makes sockets inside the namespace and sends them.
    pub(crate) async fn supply(&mut self, need: Need) {
        if let Some((stream, _)) = &self.stream
            && self
                .send_sockets(stream, need.v6, need.count)
                .await
                .is_err()
        {
            self.stream = None;
        }
    }

    async fn come_back(&mut self) {
        let Ok(stream) = UnixStream::connect(&self.path).await else {
            return;
        };
        match tokio::time::timeout(ANSWER, self.hand_over(stream)).await {
            Ok(Ok(started)) => {
                self.started = started;
                self.refusal = None;
                if let Some((healthy, detail)) = self.healthy.take() {
                    self.health(healthy, detail).await;
                }
            }
            Ok(Err(Failed::Refused(error))) => {
                let text = error.to_string();
                if self.refusal.as_ref() != Some(&text) {
                    say!("leno: the agent does not take the program back: {text}");
                }
                self.refusal = Some(text);
                tokio::time::sleep(RETURN * 10).await;
            }
            Ok(Err(Failed::Lost)) | Err(_) => {}
        }
    }

    async fn send_sockets(&self, stream: &UnixStream, v6: bool, count: usize) -> io::Result<()> {
        let mut left = self.place.sockets_to_make(v6, count);
        while left > 0 {
            let batch = left.min(BATCH);
            let make = |_| match self.start.preserve_source {
                true => socket::transparent_socket(v6, capture::MARK),
                false => socket::stream_socket(v6, true),
            };
            let made = (0..batch).map(make).collect::<io::Result<Vec<_>>>()?;
            let bytes = serde_json::to_vec(&ToAgent::Sockets { v6 })?;
            let borrowed: Vec<_> = made.iter().map(AsFd::as_fd).collect();
            fdpass::send(stream, &bytes, &borrowed).await?;
            left -= batch;
        }
        Ok(())
    }

    /// Tells the agent what the checks say.
    pub(crate) async fn health(&mut self, healthy: bool, detail: String) {
        self.healthy = Some((healthy, detail.clone()));
        self.say(&ToAgent::Health { healthy, detail }).await;
    }

    /// Asks the agent to send the program's callers away; false when there is no agent to ask.
    pub(crate) async fn leave(&mut self) -> bool {
        self.say(&ToAgent::Leaving).await;
        self.stream.is_some()
    }

    /// Tells the agent that the program has ended.
    pub(crate) async fn exited(&mut self, code: i32) {
        self.say(&ToAgent::Exited { code }).await;
    }

    async fn say(&mut self, message: &ToAgent) {
        let Some((stream, _)) = &self.stream else {
            return;
        };
        let Ok(bytes) = serde_json::to_vec(message) else {
            return;
        };
        if fdpass::send(stream, &bytes, &[]).await.is_err() {
            self.stream = None;
        }
    }
}

fn refused(code: Why, message: String) -> CommandError {
    match code {
        Why::Away => CommandError::unreachable(message),
        Why::Forbidden => CommandError::permission(message),
        Why::Scope | Why::Conflict | Why::Limit | Why::Invalid | Why::NoMember | Why::Other => {
            CommandError::refused(message)
        }
    }
}
