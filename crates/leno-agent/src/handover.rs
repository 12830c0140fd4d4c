//! Listeners handed to a successor over the agent's socket (data plane, decision 15).
//!
//! The successor connects, asks, and gets every listener of this host as a descriptor: the sockets stay open
//! throughout, so no connection is refused and none that waits in a queue is lost. The predecessor then stops to
//! accept and lets what is open finish. The programs' own listeners are theirs: `leno run` hands them to the
//! successor when it comes back.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::Duration,
};

use leno_net::fdpass;
use leno_types::WorkloadUid;
use serde::{Deserialize, Serialize};

use crate::{
    agent::AgentError,
    protocol::{FromAgent, ToAgent},
};

/// A predecessor that does not answer so long will not.
const ANSWER: Duration = Duration::from_secs(5);

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handle {
    /// Mutual TLS between proxies.
    Hbone,
    /// Proxy admin.
    Admin,
    /// Metrics.
    Metrics,
    /// Readiness.
    Readiness,
    /// The agent's own socket.
    Socket,
    /// A published port.
    Published,
    /// To which connections of a program on the host's network are redirected.
    Captured,
    /// To which its DNS queries are.
    CapturedUdp,
}

/// The listeners of this process, as copies that can be handed on.
#[derive(Default)]
pub(crate) struct Handles(Vec<Kept>);

struct Kept {
    handle: Handle,
    /// Whose it is; `None` for the host's own.
    owner: Option<WorkloadUid>,
    descriptor: OwnedFd,
}

impl Handles {
    /// Keeps a copy of a listener of the host's.
    pub(crate) fn keep(&mut self, handle: Handle, listener: &impl AsFd) -> io::Result<()> {
        self.keep_for(None, handle, listener)
    }

    /// Keeps a copy of a listener, for as long as its owner is there.
    pub(crate) fn keep_for(
        &mut self,
        owner: Option<WorkloadUid>,
        handle: Handle,
        listener: &impl AsFd,
    ) -> io::Result<()> {
        let descriptor = listener.as_fd().try_clone_to_owned()?;
        self.0.push(Kept {
            handle,
            owner,
            descriptor,
        });
        Ok(())
    }

    /// Lets go of what a workload had: a copy would keep its ports open.
    pub(crate) fn release(&mut self, owner: WorkloadUid) {
        self.0.retain(|kept| kept.owner != Some(owner));
    }

    /// The messages that hand all of them over, with their descriptors.
    pub(crate) fn messages(&mut self) -> Vec<(FromAgent, Vec<OwnedFd>)> {
        let mut messages = Vec::new();
        while !self.0.is_empty() {
            let batch = self
                .0
                .split_off(self.0.len().saturating_sub(fdpass::MAX_DESCRIPTORS));
            let (handles, descriptors) = batch
                .into_iter()
                .map(|kept| (kept.handle, kept.descriptor))
                .unzip();
            messages.push((
                FromAgent::Handover {
                    handles,
                    last: self.0.is_empty(),
                },
                descriptors,
            ));
        }
        messages
    }
}

/// What a successor got; what it has no use for is closed with it.
#[derive(Default)]
pub(crate) struct Inherited {
    tcp: HashMap<Handle, Vec<TcpListener>>,
    udp: Vec<UdpSocket>,
    pub(crate) socket: Option<UnixListener>,
}

impl Inherited {
    /// The listeners for one purpose.
    pub(crate) fn take(&mut self, handle: Handle) -> Vec<TcpListener> {
        self.tcp.remove(&handle).unwrap_or_default()
    }

    /// The listener of a published port at this address.
    pub(crate) fn published(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let listeners = self.tcp.get_mut(&Handle::Published)?;
        let at = listeners
            .iter()
            .position(|of| of.local_addr().is_ok_and(|of| of == address))?;
        Some(listeners.swap_remove(at))
    }

    /// The listeners for one purpose on one port.
    pub(crate) fn take_port(&mut self, handle: Handle, port: u16) -> Vec<TcpListener> {
        let listeners = self.tcp.entry(handle).or_default();
        let on_port = |of: &mut TcpListener| of.local_addr().is_ok_and(|of| of.port() == port);
        listeners.extract_if(.., on_port).collect()
    }

    /// The datagram sockets on one port.
    pub(crate) fn take_udp_port(&mut self, port: u16) -> Vec<UdpSocket> {
        let on_port = |of: &mut UdpSocket| of.local_addr().is_ok_and(|of| of.port() == port);
        self.udp.extract_if(.., on_port).collect()
    }

    fn add(&mut self, handle: Handle, descriptor: OwnedFd) {
        match handle {
            Handle::Socket => self.socket = Some(descriptor.into()),
            Handle::CapturedUdp => self.udp.push(descriptor.into()),
            Handle::Hbone
            | Handle::Admin
            | Handle::Metrics
            | Handle::Readiness
            | Handle::Captured
            | Handle::Published => {
                self.tcp.entry(handle).or_default().push(descriptor.into());
            }
        }
    }
}

/// Asks the agent at `path` for its listeners.
pub(crate) fn take_over(path: &Path) -> Result<Inherited, AgentError> {
    let failed = |what: String| {
        AgentError::Listen(format!(
            "no takeover from the agent at {}: {what}; start without --takeover when none runs",
            path.display()
        ))
    };
    let lost = |error: io::Error| failed(error.to_string());
    let stream = UnixStream::connect(path).map_err(lost)?;
    stream.set_read_timeout(Some(ANSWER)).map_err(lost)?;
    let ask = serde_json::to_vec(&ToAgent::Takeover).map_err(|error| failed(error.to_string()))?;
    fdpass::send_blocking(&stream, &ask, &[]).map_err(lost)?;
    let mut inherited = Inherited::default();
    loop {
        let message = fdpass::recv_blocking(&stream)
            .map_err(lost)?
            .ok_or_else(|| failed("it closed the connection".into()))?;
        match serde_json::from_slice(&message.bytes).map_err(|error| failed(error.to_string()))? {
            FromAgent::Handover { handles, last } => {
                handles
                    .into_iter()
                    .zip(message.fds)
                    .for_each(|(handle, descriptor)| inherited.add(handle, descriptor));
                if last {
                    return Ok(inherited);
                }
            }
            FromAgent::Refused { message, .. } => return Err(failed(message)),
            FromAgent::Host(_)
            | FromAgent::Started(_)
            | FromAgent::Idle
            | FromAgent::NeedSockets { .. } => {}
        }
    }
}
