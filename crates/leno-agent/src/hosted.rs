//! The workloads of this host: from a program's wish to be taken in, to its end.
//!
//! A workload passes through: asked for (the control plane was told), registered (it has an id), ready (it has its
//! certificate and its own description), told (its program may start).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    time::Duration,
};

use leno_dataplane::{AppDial, CaptureSockets};
use leno_ir::OwnWorkload;
use leno_net::{
    NetError,
    socket::{self, Expected, ForeignNetwork},
};
use leno_tls::{PrivateKey, TrustBundle, WorkloadCertificate};
use leno_types::{Identity, MAX_WORKLOAD_PORTS, WorkloadUid, ports};
use leno_wire::agent as wire;

use crate::{
    busy,
    certificates::Renewal,
    handover::Inherited,
    host_network::{self, HostCapture, Ports, Prepared},
    local::Connection,
    protocol::{Network, Port, Socket, Start, Why},
    saved::SavedWorkload,
};

/// A workload that the control plane knows.
pub(crate) struct Hosted {
    pub(crate) uid: WorkloadUid,
    pub(crate) identity: Identity,
    pub(crate) name: String,
    pub(crate) run_user: u32,
    pub(crate) start: Start,
    /// `None` while its program is expected back after the agent's restart.
    pub(crate) connection: Option<Connection>,
    pub(crate) sockets: Option<Sockets>,
    pub(crate) key: Option<PrivateKey>,
    pub(crate) certificate: Option<WorkloadCertificate>,
    pub(crate) bundle: Option<TrustBundle>,
    pub(crate) own: Option<OwnWorkload>,
    pub(crate) renewal: Renewal,
    pub(crate) generation: u64,
    /// The data plane knows it.
    pub(crate) told: bool,
    /// Its program knows that it may run.
    pub(crate) greeted: bool,
    pub(crate) healthy: bool,
    /// Its program is about to end.
    pub(crate) leaving: bool,
    /// Sockets that the data plane asked for while the program was not connected, IPv4 and IPv6.
    pub(crate) owed: [usize; 2],
    /// Of a program on the host's network.
    pub(crate) host: Option<HostCapture>,
    /// Of a program of another user than root and the agent's own: the sockets that it is dialled with are made there.
    pub(crate) foreign: Option<ForeignNetwork>,
}

/// What a program brings along, and what is opened for it.
pub(crate) struct Sockets {
    pub(crate) capture: CaptureSockets,
    pub(crate) published: Vec<(u16, TcpListener)>,
    /// Of a program of another user: where its sockets are made.
    pub(crate) foreign: Option<ForeignNetwork>,
    /// Of a program on the host's network, until its workload has an id.
    pub(crate) host: Option<Prepared>,
}

/// Why a program is not taken in, in the protocol's words.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub(crate) code: Why,
    pub(crate) message: String,
}

impl Unfit {
    pub(crate) fn new(code: Why, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<NetError> for Unfit {
    fn from(error: NetError) -> Self {
        let code = match error {
            NetError::Permission { .. } => Why::Forbidden,
            _ => Why::Invalid,
        };
        Self::new(code, error.to_string())
    }
}

impl Hosted {
    /// What is written down for a successor, with its key where that touches no disk; `None` before there is a
    /// certificate.
    pub(crate) fn saved(&self, keep_key: bool) -> Option<SavedWorkload> {
        let key = self.key.as_ref()?;
        Some(SavedWorkload {
            uid: self.uid.to_string(),
            identity: self.identity.to_string(),
            name: self.name.clone(),
            run_user: self.run_user,
            key: match keep_key {
                true => key.to_pem().expose().to_owned(),
                false => String::new(),
            },
            chain: self.certificate.as_ref()?.chain_pem(),
            bundle: self.bundle.as_ref()?.to_pem(),
            start: self.start.clone(),
            healthy: self.healthy,
            ports: self.host.as_ref().map(HostCapture::ports),
        })
    }

    /// How it is registered; the same again after a reconnect.
    pub(crate) fn registration(&self, request: u64) -> wire::Register {
        registration(
            &self.start,
            request,
            &self.uid.to_string(),
            &self.name,
            self.healthy && !self.leaving,
        )
    }

    /// What is left of its certificate's life.
    pub(crate) fn certificate_left(&self, now: std::time::SystemTime) -> Option<Duration> {
        self.certificate
            .as_ref()
            .and_then(|certificate| certificate.remaining(now))
    }
}

/// The message that registers a program.
pub(crate) fn registration(
    start: &Start,
    request: u64,
    uid: &str,
    name: &str,
    ready: bool,
) -> wire::Register {
    let port = |port: &Port| wire::Port {
        service_port: port.service_port.into(),
        workload_port: port.workload_port.into(),
        app_protocol: port.app_protocol.clone().unwrap_or_default(),
        published: port.published.unwrap_or(0).into(),
    };
    wire::Register {
        request,
        uid: uid.into(),
        namespace: start.namespace.clone(),
        service: start.service.clone(),
        service_account: start.service_account.clone(),
        version: start.version.clone(),
        ports: start.ports.iter().map(port).collect(),
        name: name.into(),
        ready,
    }
}

/// Checks what a program wants before anybody is asked.
pub(crate) fn check(start: &Start) -> Result<(), Unfit> {
    let invalid = |message: String| Err(Unfit::new(Why::Invalid, message));
    if start.ports.len() > MAX_WORKLOAD_PORTS {
        return invalid(format!(
            "{} ports are more than {MAX_WORKLOAD_PORTS}",
            start.ports.len()
        ));
    }
    for port in &start.ports {
        if let Err(error) = port.protocol() {
            return invalid(error.to_string());
        }
        for number in [Some(port.workload_port), port.published]
            .into_iter()
            .flatten()
        {
            if number == 0 || ports::is_reserved(number) {
                return invalid(format!(
                    "port {number} is one of Leno's own: choose another"
                ));
            }
        }
        let same =
            |other: &&Port| other.service_port == port.service_port && port.service_port != 0;
        if start.ports.iter().filter(same).count() > 1 {
            return invalid(format!("service port {} is given twice", port.service_port));
        }
    }
    if let Network::Host { .. } = start.network
        && let Some(port) = start
            .ports
            .iter()
            .find(|port| port.published == Some(port.workload_port))
    {
        let text = format!(
            "a program on the host's network listens on port {} itself: publish another, such as --publish 80:{}, or \
             leave --publish away",
            port.workload_port, port.workload_port
        );
        return invalid(text);
    }
    if start.service.is_empty() && start.ports.iter().any(|port| port.service_port != 0) {
        return invalid("a --port needs a --service that it belongs to".into());
    }
    Ok(())
}

/// Takes the program's descriptors for what it says they are, and opens what it needs on the host.
pub(crate) fn sockets(
    start: &Start,
    descriptors: Vec<OwnedFd>,
    host: &[IpAddr],
    app: AppDial,
    owner: Owner,
    inherited: &mut Inherited,
) -> Result<Sockets, Unfit> {
    let (capture, foreign) = brought(start, descriptors, app, owner)?;
    let opened = opened(start, host, None, app, inherited)?;
    Ok(match start.network {
        Network::Host { .. } => opened,
        Network::Own => Sockets {
            capture,
            foreign,
            ..opened
        },
    })
}

/// Whose the descriptors are that a program attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Root's or the agent's own user's: whoever can do the agent harm anyway.
    Trusted,
    /// Another's, who could make a socket of its block whoever uses it: none of them is used.
    Foreign(u32),
}

/// Takes the descriptors that a program attached for what they should be. Of another user's program they show only
/// where to listen.
pub(crate) fn brought(
    start: &Start,
    descriptors: Vec<OwnedFd>,
    app: AppDial,
    owner: Owner,
) -> Result<(CaptureSockets, Option<ForeignNetwork>), Unfit> {
    if start.sockets.len() != descriptors.len() {
        let text = format!(
            "{} sockets were announced and {} came",
            start.sockets.len(),
            descriptors.len()
        );
        return Err(Unfit::new(Why::Invalid, text));
    }
    let outbound = start.sockets.iter().position(|of| *of == Socket::Outbound);
    let foreign = match (owner, &start.network) {
        (Owner::Foreign(user), Network::Own) => {
            let shown = outbound.and_then(|at| descriptors.get(at));
            let shown = shown.ok_or_else(|| {
                Unfit::new(
                    Why::Invalid,
                    "a program in a network of its own brings listeners",
                )
            })?;
            socket::check(shown, Expected::BoundStream)
                .map_err(|error| Unfit::new(Why::Invalid, error.to_string()))?;
            let network = ForeignNetwork::of(shown, user);
            Some(network.map_err(|error| cannot_enter(user, &error))?)
        }
        (Owner::Foreign(_), Network::Host { .. }) | (Owner::Trusted, _) => None,
    };
    let mut capture = captured_by_nobody(start, app);
    for (kind, descriptor) in start.sockets.iter().zip(descriptors) {
        take(&mut capture, *kind, descriptor, foreign.as_ref())
            .map_err(|error| Unfit::new(Why::Invalid, error.to_string()))?;
    }
    Ok((capture, foreign))
}

fn take(
    capture: &mut CaptureSockets,
    kind: Socket,
    theirs: OwnedFd,
    foreign: Option<&ForeignNetwork>,
) -> io::Result<()> {
    let listens = |theirs: OwnedFd| match foreign {
        Some(network) => {
            socket::check(&theirs, Expected::BoundStream)?;
            network.listener(&theirs, LISTEN_BACKLOG)
        }
        None => socket::check(&theirs, Expected::Listener).map(|()| theirs.into()),
    };
    match kind {
        Socket::Outbound => capture.outbound.push(listens(theirs)?),
        Socket::DnsTcp => capture.dns_tcp.push(listens(theirs)?),
        Socket::DnsUdp => {
            socket::check(&theirs, Expected::BoundDatagram)?;
            capture.dns_udp.push(match foreign {
                Some(network) => network.datagrams(&theirs)?,
                None => theirs.into(),
            });
        }
    }
    Ok(())
}

fn cannot_enter(user: u32, error: &io::Error) -> Unfit {
    let text = format!(
        "the agent cannot use the network of user {user}'s program ({error}): only an agent of root serves other users \
         than its own"
    );
    Unfit::new(Why::Forbidden, text)
}

/// Opens what a program needs on the host; what is in its own network is not there yet.
pub(crate) fn opened(
    start: &Start,
    host: &[IpAddr],
    ports: Option<Ports>,
    app: AppDial,
    inherited: &mut Inherited,
) -> Result<Sockets, Unfit> {
    let (capture, prepared) = match &start.network {
        Network::Host { cgroup } => {
            let (mut capture, prepared) = host_network::open(cgroup, ports, inherited)?;
            capture.preserve_source = start.preserve_source;
            (capture, Some(prepared))
        }
        Network::Own => (captured_by_nobody(start, app), None),
    };
    Ok(Sockets {
        capture,
        published: published(start, host, inherited)?,
        foreign: None,
        host: prepared,
    })
}

fn captured_by_nobody(start: &Start, app: AppDial) -> CaptureSockets {
    CaptureSockets {
        outbound: Vec::new(),
        dns_udp: Vec::new(),
        dns_tcp: Vec::new(),
        app,
        preserve_source: start.preserve_source,
    }
}

fn published(
    start: &Start,
    host: &[IpAddr],
    inherited: &mut Inherited,
) -> Result<Vec<(u16, TcpListener)>, Unfit> {
    let mut listeners = Vec::new();
    for number in start.ports.iter().filter_map(|port| port.published) {
        for (address, needed) in published_at(host) {
            let address = SocketAddr::new(address, number);
            let listener = inherited
                .published(address)
                .map_or_else(|| leno_net::socket::listen_tcp(address, LISTEN_BACKLOG), Ok);
            match listener {
                Ok(listener) => listeners.push((number, listener)),
                Err(error) if needed => {
                    let code = match error.kind() {
                        std::io::ErrorKind::PermissionDenied => Why::Forbidden,
                        _ => Why::Conflict,
                    };
                    let instead = "publish another port (--publish HOST:PROGRAM)";
                    return Err(Unfit::new(code, busy::why(address, &error, instead)));
                }
                Err(_) => {
                    tracing::warn!(%address, "a published port is not on loopback: somebody else's is")
                }
            }
        }
    }
    Ok(listeners)
}

/// Where a published port listens: where others reach this host, which must work, and on its loopback.
fn published_at(host: &[IpAddr]) -> impl Iterator<Item = (IpAddr, bool)> {
    let loopback = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    let missing = move |of: &IpAddr| {
        host.iter().any(|address| address.is_ipv4() == of.is_ipv4()) && !host.contains(of)
    };
    let others = host.iter().map(|address| (*address, true));
    others.chain(
        loopback
            .into_iter()
            .filter(missing)
            .map(|address| (address, false)),
    )
}

/// Connections that wait to be accepted on one listener.
pub(crate) const LISTEN_BACKLOG: i32 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_is_on_the_loopback_of_each_family_that_the_host_has() {
        let host: IpAddr = Ipv4Addr::new(10, 0, 0, 2).into();
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        let at = |host: &[IpAddr]| published_at(host).collect::<Vec<_>>();
        assert_eq!(at(&[host]), [(host, true), (loopback, false)]);
        assert_eq!(at(&[loopback]), [(loopback, true)], "not twice");
        let both = at(&[host, Ipv6Addr::from(1_u128 << 112).into()]);
        assert_eq!(both.len(), 4);
    }
}
