//! What `leno run` and the agent say to each other over the agent's Unix socket: JSON messages framed by leno-net,
//! with descriptors attached where a message says so.
//!
//! 1. agent → run: [`FromAgent::Host`], so that the namespace gets the host's addresses
//! 2. run → agent: [`ToAgent::Start`] with the capture sockets, in the order of [`Start::sockets`]
//! 3. agent → run: [`FromAgent::Started`] once the workload has its certificate and the must-have set is acked, or
//!    [`FromAgent::Refused`]
//! 4. then, in any order: [`FromAgent::NeedSockets`] answered by [`ToAgent::Sockets`], and [`ToAgent::Health`]
//! 5. run → agent: [`ToAgent::Leaving`] when the program is to end; the agent sends its callers away and says
//!    [`FromAgent::Idle`] when none is left
//! 6. run → agent: [`ToAgent::Exited`]. A connection that ends without it means the program is gone as well.
//!
//! `leno run` keeps the listeners: when the agent is restarted it connects again and hands them over once more, and
//! what waited in their queues is served.

use std::{net::IpAddr, path::PathBuf, str::FromStr};

use leno_types::AppProtocol;
use serde::{Deserialize, Serialize};

pub use crate::handover::Handle;

/// Why a program is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The host's join token does not allow it.
    Scope,
    /// Something else has what it asks for.
    Conflict,
    /// There are too many of something.
    Limit,
    /// What it says of itself cannot be.
    Invalid,
    /// The user may not, or the agent lacks a permission.
    Forbidden,
    /// The control plane is not reached: it may be later.
    Away,
    /// The host is no member of the mesh any more.
    NoMember,
    /// A word of a later version.
    #[serde(other)]
    Other,
}

impl Why {
    /// What a word of the control plane means.
    pub(crate) fn of(code: &str) -> Self {
        serde_json::from_value(code.into()).unwrap_or(Self::Other)
    }
}

/// From `leno run` to the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// Take this workload in.
    Start(Box<Start>),
    /// Unconnected TCP sockets made inside the program's namespace, attached.
    Sockets {
        /// Whether they are of IPv6.
        v6: bool,
    },
    /// What the checks say now.
    Health {
        /// Whether they pass.
        healthy: bool,
        /// What the last one said.
        detail: String,
    },
    /// The program is about to be ended: nobody should begin to call it.
    Leaving,
    /// A successor of the agent asks for its listeners.
    Takeover,
    /// The program has ended.
    Exited {
        /// Its exit code, 128 + n when signal n ended it.
        code: i32,
    },
}

/// A workload as its owner describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// Its id from before the agent was restarted.
    #[serde(default)]
    pub uid: Option<String>,
    /// The namespace; empty means what the agent's scope says, else `default`.
    #[serde(default)]
    pub namespace: String,
    /// The service it serves; empty when it only calls.
    #[serde(default)]
    pub service: String,
    /// The service account; empty means the service's name, or `default` without one.
    #[serde(default)]
    pub service_account: String,
    /// Its `version` label; may be empty.
    #[serde(default)]
    pub version: String,
    /// The program's name, for people.
    pub program: String,
    /// What it serves.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Whose network it is in.
    #[serde(default)]
    pub network: Network,
    /// Whether it is called from its callers' addresses, not from the proxy's.
    #[serde(default)]
    pub preserve_source: bool,
    /// What the attached descriptors are.
    pub sockets: Vec<Socket>,
}

/// Whose network a program is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// One of its own.
    #[default]
    Own,
    /// The host's: its connections are told by its cgroup.
    Host {
        /// The cgroup's directory, which the caller made and owns.
        cgroup: PathBuf,
    },
}

/// A port as `--port 80:8080/http` and `--publish 8080` say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The service's port.
    pub service_port: u16,
    /// Where the program listens.
    pub workload_port: u16,
    /// What it speaks, in the words of [`AppProtocol`]; detected when absent.
    #[serde(default)]
    pub app_protocol: Option<String>,
    /// The host's port for callers from outside the mesh.
    #[serde(default)]
    pub published: Option<u16>,
}

impl Port {
    /// The declared protocol.
    ///
    /// # Errors
    /// The text when it names none.
    pub fn protocol(&self) -> Result<Option<AppProtocol>, leno_types::AppProtocolError> {
        self.app_protocol.as_deref().map(str::parse).transpose()
    }
}

/// Why a text is no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a number that a port can be.
    #[error("\"{0}\" is no port: 1 to 65535")]
    Number(String),
    /// An unknown protocol.
    #[error(transparent)]
    Protocol(#[from] leno_types::AppProtocolError),
}

impl FromStr for Port {
    type Err = PortError;

    /// `SERVICE[:PROGRAM][/PROTOCOL]`, as `80:8080/http`.
    fn from_str(text: &str) -> Result<Self, PortError> {
        let (numbers, protocol) = text
            .split_once('/')
            .map_or((text, None), |(numbers, protocol)| {
                (numbers, Some(protocol))
            });
        let (service, workload) = numbers.split_once(':').unwrap_or((numbers, numbers));
        let number = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(PortError::Number(text.into())),
            Ok(port) => Ok(port),
        };
        let port = Self {
            service_port: number(service)?,
            workload_port: number(workload)?,
            app_protocol: protocol.map(str::to_owned),
            published: None,
        };
        port.protocol()?;
        Ok(port)
    }
}

/// What an attached descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Socket {
    /// A TCP listener to which the program's connections are redirected.
    Outbound,
    /// A UDP socket to which its DNS queries are.
    DnsUdp,
    /// A TCP listener for DNS.
    DnsTcp,
}

/// From the agent to `leno run`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// What the host is.
    Host(Host),
    /// The workload is in the mesh, and its program may start.
    Started(Started),
    /// It was not taken in.
    Refused {
        /// Which kind of reason.
        code: Why,
        /// What to do, for people.
        message: String,
    },
    /// Nobody calls the program any more that is to end.
    Idle,
    /// Listeners, attached; to a successor only.
    Handover {
        /// What they are.
        handles: Vec<Handle>,
        /// Nothing follows.
        last: bool,
    },
    /// Make and send so many sockets.
    NeedSockets {
        /// Of IPv6.
        v6: bool,
        /// How many.
        count: usize,
    },
}

/// The host a program joins on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The mesh.
    pub mesh: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it has a session with the control plane now.
    pub connected: bool,
    /// What keeps it from the control plane; absent while it is connected.
    #[serde(default)]
    pub trouble: Option<Trouble>,
    /// When the first certificate of a program here ends, seconds since 1970: until then they serve and call without a
    /// control plane. Absent without programs.
    #[serde(default)]
    pub good_until: Option<u64>,
}

/// What is wrong, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What happened.
    pub what: String,
    /// What to do.
    pub hint: String,
    /// Whether it passes only by what people do.
    #[serde(default)]
    pub lasting: bool,
}

/// A workload that is in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// Its id.
    pub uid: String,
    /// Who it is.
    pub identity: String,
    /// Seconds its first certificate lasts.
    pub certificate_seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_a_word_and_one_of_a_later_version_is_none_of_ours() {
        for (word, why) in [
            ("scope", Why::Scope),
            ("no_member", Why::NoMember),
            ("tired", Why::Other),
        ] {
            assert_eq!(Why::of(word), why);
        }
    }
}
