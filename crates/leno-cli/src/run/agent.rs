//! The connection of `leno run` to the host's agent, and its return after the agent's restart.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use leno_agent::protocol::{FromAgent, Host, Port, Start, Started, ToAgent};
use leno_net::{
    fdpass::{self, RecvBuffer},
    socket,
};
use tokio::net::UnixStream;

use super::namespace::Namespace;
use crate::{exit::CommandError, places};

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
        let places = path.map_or_else(places::agent_sockets, |path| vec![path.to_owned()]);
        let mut last = None;
        for path in places {
            match StdUnixStream::connect(&path) {
                Ok(stream) => return Ok(Self { stream, path }),
                Err(error) => last = Some((path, error)),
            }
        }
        let (path, error) =
            last.unwrap_or_else(|| (PathBuf::new(), io::ErrorKind::NotFound.into()));
        let what = format!("no agent answers at {}: {error}", path.display());
        Err(CommandError::unreachable(what)
            .hint("start a mesh here with leno up, or join one with leno join --token-file FILE"))
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
            Ok(FromAgent::Refused { message, .. }) => Err(CommandError::refused(message)),
            Ok(_) => Err(CommandError::unreachable(
                "the agent speaks out of turn; is it of another version?",
            )),
            Err(error) => Err(CommandError::unreachable(format!(
                "the agent is not understood: {error}"
            ))),
        }
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
    namespace: Namespace,
    healthy: Option<(bool, String)>,
}

impl Link {
    /// Hands the namespace over and waits until the program may start.
    pub(crate) async fn start(
        socket: AgentSocket,
        start: Start,
        namespace: Namespace,
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
            namespace,
            healthy: None,
        };
        link.started = tokio::time::timeout(ANSWER, link.hand_over(stream))
            .await
            .map_err(|_| CommandError::unreachable("the agent did not answer in 30 s"))??;
        Ok(link)
    }

    /// Who the program is.
    pub(crate) fn started(&self) -> &Started {
        &self.started
    }

    /// What the program serves.
    pub(crate) fn ports(&self) -> &[Port] {
        &self.start.ports
    }

    async fn hand_over(&mut self, stream: UnixStream) -> Result<Started, CommandError> {
        let (kinds, descriptors) = self.namespace.sockets();
        self.start.sockets = kinds;
        let lost =
            |error: io::Error| CommandError::unreachable(format!("the agent went away: {error}"));
        let message = ToAgent::Start(Box::new(self.start.clone()));
        let bytes = serde_json::to_vec(&message).map_err(CommandError::failed)?;
        fdpass::send(&stream, &bytes, &descriptors)
            .await
            .map_err(lost)?;
        let mut buffer = RecvBuffer::default();
        loop {
            let message = fdpass::recv(&stream, &mut buffer).await.map_err(lost)?;
            let message = message
                .ok_or_else(|| CommandError::unreachable("the agent closed the connection"))?;
            match serde_json::from_slice(&message.bytes).map_err(|error| {
                CommandError::unreachable(format!("the agent is not understood: {error}"))
            })? {
                FromAgent::Started(started) => {
                    self.start.uid = Some(started.uid.clone());
                    self.stream = Some((stream, buffer));
                    return Ok(started);
                }
                FromAgent::Refused { code, message } => return Err(refused(&code, message)),
                FromAgent::NeedSockets { v6, count } => {
                    self.send_sockets(&stream, v6, count).await.map_err(lost)?
                }
                FromAgent::Host(_) | FromAgent::Handover { .. } => {}
            }
        }
    }

    /// What the agent needs next; comes back to an agent that was restarted. Dropping it in between loses nothing.
    pub(crate) async fn next(&mut self) -> Need {
        loop {
            let Some((stream, buffer)) = &mut self.stream else {
                tokio::time::sleep(RETURN).await;
                self.come_back().await;
                continue;
            };
            match fdpass::recv(stream, buffer).await {
                Ok(Some(message)) => {
                    if let Ok(FromAgent::NeedSockets { v6, count }) =
                        serde_json::from_slice(&message.bytes)
                    {
                        return Need { v6, count };
                    }
                }
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
                if let Some((healthy, detail)) = self.healthy.take() {
                    self.health(healthy, detail).await;
                }
            }
            Ok(Err(error)) => {
                eprintln!("leno: the agent does not take the program back: {error}");
                tokio::time::sleep(RETURN * 10).await;
            }
            Err(_) => {}
        }
    }

    async fn send_sockets(&self, stream: &UnixStream, v6: bool, count: usize) -> io::Result<()> {
        let mut left = if v6 && !self.namespace.v6 {
            0
        } else {
            count.min(MAX_SOCKETS)
        };
        while left > 0 {
            let batch = left.min(BATCH);
            let made = (0..batch)
                .map(|_| socket::stream_socket(v6, true))
                .collect::<io::Result<Vec<_>>>()?;
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

fn refused(code: &str, message: String) -> CommandError {
    match code {
        "away" => CommandError::unreachable(message),
        "forbidden" => CommandError::permission(message),
        _ => CommandError::refused(message),
    }
}
