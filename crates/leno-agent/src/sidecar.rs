//! A whole namespace as one workload: what a container's sidecar adds to the agent.
//!
//! Owns the capture rules of the namespace, the listeners behind them and the workload's health. To the rest of the
//! agent it is one more program on the local socket, of which only the dialling differs: the proxy shares the
//! namespace, so it makes its own marked sockets. Invariant: from the rules on nothing leaves the namespace past the
//! proxy. They stay when the agent dies, wait for its successor, and go only when it ends on request; where another
//! program removes them, the agent restores them within a second.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    time::Duration,
};

use leno_net::{
    capture::{self, Installed, SourceAddresses, WholeNamespace},
    fdpass::Peer,
    socket,
};
use leno_types::{HostPort, ports};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    agent::AgentError,
    busy,
    config::{Config, Exclusions},
    host,
    hosted::LISTEN_BACKLOG,
    local::{Connection, LocalEvent},
    protocol::{FromAgent, Port, Socket, Start, ToAgent, Why},
    saved::SavedWorkload,
};

/// systemd-resolved's, the one on loopback that is captured.
const STUB_RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
/// The nftables table of a wholly captured namespace.
const TABLE: &str = "leno";
/// Until the program is fit for the first time it is asked often, so that it is called soon.
const EAGER: Duration = Duration::from_millis(100);
const INTERVAL: Duration = Duration::from_secs(1);
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// So many failures in a row make it unfit; one success makes it fit again.
const FAILURES: u32 = 2;
/// Messages from the agent that wait.
const OUTBOX: usize = 16;

/// A namespace that is captured, its workload not registered yet.
pub(crate) struct Sidecar {
    start: Start,
    sockets: Vec<OwnedFd>,
    check: Option<SocketAddr>,
    /// What reaches the namespace from outside the mesh; the data plane takes it.
    pub(crate) inbound: Vec<TcpListener>,
}

/// What was installed in the namespace.
pub(crate) struct Rules {
    pub(crate) capture: Installed,
    /// Where callers' addresses are preserved.
    pub(crate) way_back: Option<SourceAddresses>,
}

/// Takes the namespace: listeners first, so that there is never a rule without somebody behind it, then the rules,
/// which the agent watches from then on.
pub(crate) fn take(
    start: &Start,
    config: &Config,
    before: Option<&mut Vec<SavedWorkload>>,
) -> Result<(Sidecar, Rules), AgentError> {
    let families: &[bool] = if leno_net::link::ipv6_enabled() {
        &[false, true]
    } else {
        &[false]
    };
    let mut start = Start {
        uid: before.and_then(|before| former_uid(start, before)),
        sockets: Vec::new(),
        ..start.clone()
    };
    let (mut sockets, mut inbound) = (Vec::new(), Vec::new());
    for v6 in families.iter().copied() {
        let local = |port| SocketAddr::new(loopback(v6), port);
        start
            .sockets
            .extend([Socket::Outbound, Socket::DnsUdp, Socket::DnsTcp]);
        sockets.push(listen(local(ports::OUTBOUND))?.into());
        let udp = socket::bind_udp(local(ports::DNS));
        sockets.push(
            udp.map_err(|error| unusable(local(ports::DNS), &error))?
                .into(),
        );
        sockets.push(listen(local(ports::DNS))?.into());
        inbound.push(listen(SocketAddr::new(everywhere(v6), ports::INBOUND))?);
    }
    let exclusions = &config.exclusions;
    let networks = exclusions.outbound_networks.iter();
    let rules = WholeNamespace {
        outbound_port: ports::OUTBOUND,
        inbound_port: ports::INBOUND,
        dns_port: ports::DNS,
        excluded_inbound_ports: exclusions.inbound_ports.clone(),
        excluded_outbound_ports: exclusions.outbound_ports.clone(),
        excluded_outbound_cidrs: networks
            .map(|network| (network.address(), network.length()))
            .collect(),
        excluded_outbound_users: exclusions.outbound_users.clone(),
    };
    // A predecessor may have been told otherwise.
    let way_back = match start.preserve_source {
        true => Some(SourceAddresses::install()?),
        false => SourceAddresses::remove().map(|_| None)?,
    };
    // An agent that cannot begin leaves nothing behind.
    let capture = rules
        .install(TABLE)
        .inspect_err(|_| drop(SourceAddresses::remove()))?;
    tracing::info!("this namespace's connections go through the mesh");
    let (resolvers, _) = host::resolvers();
    let deaf = |of: &SocketAddr| of.ip().is_loopback() && of.ip() != STUB_RESOLVER;
    if let Some(resolver) = resolvers.first().filter(|of| deaf(of)) {
        tracing::warn!(
            resolver = %resolver.ip(),
            "/etc/resolv.conf names a resolver on loopback, where only 127.0.0.53 is captured: programs here find no names of the mesh; give the container another (dns:, --dns), or have programs call services by their addresses"
        );
    }
    if *exclusions != Exclusions::default() {
        tracing::warn!(?exclusions, "but for these, which are not protected");
    }
    let sidecar = Sidecar {
        check: check_address(&start.ports, &config.addresses),
        start,
        sockets,
        inbound,
    };
    Ok((sidecar, Rules { capture, way_back }))
}

/// Gives the namespace back.
pub(crate) fn release() {
    match capture::remove(TABLE) {
        Ok(true) => tracing::info!(
            table = TABLE,
            "removed the capture rules of this namespace: what starts a connection now is outside the mesh"
        ),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "the capture rules of this namespace stay behind"),
    }
    if let Err(error) = SourceAddresses::remove() {
        tracing::error!(%error, "what let callers' addresses be preserved stays behind");
    }
}

/// The names among `addresses` as addresses: once the rules stand, a lookup is answered by the very proxy that waits
/// for the control plane.
pub(crate) async fn resolve(addresses: &[HostPort]) -> Vec<HostPort> {
    let mut resolved = Vec::new();
    for address in addresses {
        if address.host().parse::<IpAddr>().is_err()
            && let Ok(Ok(found)) = timeout(
                CHECK_TIMEOUT,
                tokio::net::lookup_host((address.host(), address.port())),
            )
            .await
        {
            resolved.extend(found.map(HostPort::from));
        }
        resolved.push(address.clone());
    }
    resolved
}

impl Sidecar {
    /// Registers the workload and watches its health, for as long as the agent listens.
    pub(crate) async fn run(self, events: mpsc::Sender<LocalEvent>) {
        let (out, mut answers) = mpsc::channel(OUTBOX);
        let peer = Peer {
            uid: leno_net::process::user(),
            gid: 0,
            pid: std::process::id().cast_signed(),
        };
        let opened = LocalEvent::Opened {
            connection: Connection::SIDECAR,
            peer,
            out,
        };
        if events.send(opened).await.is_err() {
            return;
        }
        while let Some(answer) = answers.recv().await {
            match answer.0 {
                FromAgent::Host(_) => {
                    if !self.ask(&events).await {
                        return;
                    }
                }
                FromAgent::Refused {
                    code: Why::Away,
                    message,
                } => {
                    tracing::warn!(message, "this namespace is not in the mesh yet");
                    if !self.ask(&events).await {
                        return;
                    }
                }
                // This task is critical: its end is the agent's.
                FromAgent::Refused { code, message } => {
                    tracing::error!(?code, message, "this namespace was not taken in");
                    return;
                }
                FromAgent::Started(_) => break,
                // The proxy makes its own here.
                FromAgent::NeedSockets { .. } | FromAgent::Idle | FromAgent::Handover { .. } => {}
            }
        }
        self.watch(&events).await;
    }

    /// Asks to be taken in; false when nobody is there to ask.
    async fn ask(&self, events: &mpsc::Sender<LocalEvent>) -> bool {
        let copies: io::Result<Vec<OwnedFd>> =
            self.sockets.iter().map(OwnedFd::try_clone).collect();
        match copies {
            Ok(descriptors) => {
                let message = LocalEvent::Message {
                    connection: Connection::SIDECAR,
                    message: ToAgent::Start(Box::new(self.start.clone())),
                    descriptors,
                };
                events.send(message).await.is_ok()
            }
            Err(error) => {
                tracing::error!(%error, "the capture listeners cannot be handed on");
                false
            }
        }
    }

    /// Tells each change of health.
    async fn watch(&self, events: &mpsc::Sender<LocalEvent>) {
        let Some(address) = self.check else {
            return std::future::pending().await;
        };
        let (mut told, mut failures) = (None, 0);
        loop {
            let asked = timeout(CHECK_TIMEOUT, accepts(address)).await;
            let asked = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let (healthy, detail) = match asked {
                Ok(()) => (true, "passes".to_owned()),
                Err(error) => (false, format!("{address}: {error}")),
            };
            failures = if healthy { 0 } else { failures + 1 };
            if told != Some(healthy) && (healthy || failures >= FAILURES || told.is_none()) {
                told = Some(healthy);
                let message = LocalEvent::Message {
                    connection: Connection::SIDECAR,
                    message: ToAgent::Health { healthy, detail },
                    descriptors: Vec::new(),
                };
                if events.send(message).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(if told == Some(true) { INTERVAL } else { EAGER }).await;
        }
    }
}

/// Whether somebody accepts there, asked past the capture.
async fn accepts(address: SocketAddr) -> io::Result<()> {
    let descriptor = socket::stream_socket(address.is_ipv6(), true)?;
    socket::connect(descriptor, address).await.map(drop)
}

/// Where the workload is asked whether it is fit: where the proxy will dial it.
fn check_address(ports: &[Port], addresses: &[IpAddr]) -> Option<SocketAddr> {
    let port = ports.first()?.workload_port;
    Some(SocketAddr::new(*addresses.first()?, port))
}

/// The id under which a predecessor of this agent had the namespace. One that was told otherwise what the workload is had
/// another: that is registered no more.
fn former_uid(start: &Start, before: &mut Vec<SavedWorkload>) -> Option<String> {
    let of = |start: &Start| {
        let Start {
            namespace,
            service,
            service_account,
            version,
            ports,
            ..
        } = start.clone();
        (namespace, service, service_account, version, ports)
    };
    let former = before.iter().position(|workload| {
        workload.start.service == start.service && workload.start.namespace == start.namespace
    })?;
    if of(&before.get(former)?.start) == of(start) {
        return before.get(former).map(|workload| workload.uid.clone());
    }
    let gone = before.remove(former);
    tracing::info!(
        workload = gone.name,
        "the namespace is registered anew: what it serves has changed"
    );
    None
}

fn listen(address: SocketAddr) -> Result<TcpListener, AgentError> {
    socket::listen_tcp(address, LISTEN_BACKLOG).map_err(|error| unusable(address, &error))
}

fn unusable(address: SocketAddr, error: &io::Error) -> AgentError {
    AgentError::Listen(busy::why(address, error, "run this proxy where it is free"))
}

fn loopback(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}

fn everywhere(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}
