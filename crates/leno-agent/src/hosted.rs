//! The workloads of this host: from a program's wish to be taken in, to its end.
//!
//! A workload passes through: asked for (the control plane was told), registered (it has an id), ready (it has its
//! certificate and its own description), told (its program may start).

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    time::Duration,
};

use leno_dataplane::{AppDial, CaptureSockets};
use leno_ir::OwnWorkload;
use leno_tls::{PrivateKey, TrustBundle, WorkloadCertificate};
use leno_types::{Identity, WorkloadUid, ports};
use leno_wire::agent as wire;

use crate::{
    certificates::Renewal,
    handover::Inherited,
    host_network::{self, HostCapture, Ports, Prepared},
    local::Connection,
    protocol::{Network, Port, Socket, Start},
    saved::SavedWorkload,
};

/// So many ports one workload may have.
const MAX_PORTS: usize = 64;

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
}

/// What a program brings along, and what is opened for it.
pub(crate) struct Sockets {
    pub(crate) capture: CaptureSockets,
    pub(crate) published: Vec<(u16, TcpListener)>,
    /// Of a program on the host's network, until its workload has an id.
    pub(crate) host: Option<Prepared>,
}

/// Why a program is not taken in, in the protocol's words.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Unfit {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl Hosted {
    /// What is written down for a successor; `None` before there is a certificate.
    pub(crate) fn saved(&self) -> Option<SavedWorkload> {
        Some(SavedWorkload {
            uid: self.uid.to_string(),
            identity: self.identity.to_string(),
            name: self.name.clone(),
            run_user: self.run_user,
            key: self.key.as_ref()?.to_pem().expose().to_owned(),
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
    let invalid = |message: String| Err(Unfit::new("invalid", message));
    if start.ports.len() > MAX_PORTS {
        return invalid(format!(
            "{} ports are more than {MAX_PORTS}",
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
    host: &[std::net::IpAddr],
    app: AppDial,
    inherited: &mut Inherited,
) -> Result<Sockets, Unfit> {
    let brought = brought(start, descriptors, app)?;
    let opened = opened(start, host, None, app, inherited)?;
    Ok(match start.network {
        Network::Host { .. } => opened,
        Network::Own => Sockets {
            capture: brought,
            ..opened
        },
    })
}

/// Takes the descriptors that a program attached for what it says they are.
pub(crate) fn brought(
    start: &Start,
    descriptors: Vec<OwnedFd>,
    app: AppDial,
) -> Result<CaptureSockets, Unfit> {
    if start.sockets.len() != descriptors.len() {
        let text = format!(
            "{} sockets were announced and {} came",
            start.sockets.len(),
            descriptors.len()
        );
        return Err(Unfit::new("invalid", text));
    }
    let mut capture = captured_by_nobody(app);
    for (kind, descriptor) in start.sockets.iter().zip(descriptors) {
        match kind {
            Socket::Outbound => capture.outbound.push(descriptor.into()),
            Socket::DnsUdp => capture.dns_udp.push(descriptor.into()),
            Socket::DnsTcp => capture.dns_tcp.push(descriptor.into()),
        }
    }
    Ok(capture)
}

/// Opens what a program needs on the host; what is in its own network is not there yet.
pub(crate) fn opened(
    start: &Start,
    host: &[std::net::IpAddr],
    ports: Option<Ports>,
    app: AppDial,
    inherited: &mut Inherited,
) -> Result<Sockets, Unfit> {
    let (capture, prepared) = match &start.network {
        Network::Host { cgroup } => {
            let (capture, prepared) = host_network::open(cgroup, ports, inherited)?;
            (capture, Some(prepared))
        }
        Network::Own => (captured_by_nobody(app), None),
    };
    Ok(Sockets {
        capture,
        published: published(start, host, inherited)?,
        host: prepared,
    })
}

fn captured_by_nobody(app: AppDial) -> CaptureSockets {
    CaptureSockets {
        outbound: Vec::new(),
        dns_udp: Vec::new(),
        dns_tcp: Vec::new(),
        app,
    }
}

fn published(
    start: &Start,
    host: &[std::net::IpAddr],
    inherited: &mut Inherited,
) -> Result<Vec<(u16, TcpListener)>, Unfit> {
    let mut listeners = Vec::new();
    for number in start.ports.iter().filter_map(|port| port.published) {
        for address in host {
            let address = SocketAddr::new(*address, number);
            let listener = inherited
                .published(address)
                .map_or_else(|| leno_net::socket::listen_tcp(address, LISTEN_BACKLOG), Ok);
            match listener {
                Ok(listener) => listeners.push((number, listener)),
                Err(error) => return Err(Unfit::new("conflict", taken(address, &error))),
            }
        }
    }
    Ok(listeners)
}

/// Connections that wait to be accepted on one listener.
pub(crate) const LISTEN_BACKLOG: i32 = 1_024;

/// Why a port cannot be listened on, and who has it.
pub(crate) fn taken(address: SocketAddr, error: &std::io::Error) -> String {
    match leno_net::process::owner_of_port(address.port()) {
        Some((pid, program)) => format!(
            "port {} is taken by {program} (pid {pid}): end it, or choose another port",
            address.port()
        ),
        None => format!("cannot listen on {address}: {error}"),
    }
}
