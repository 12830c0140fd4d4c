//! A proxy of another make or version: it speaks an agent's protocol with a joined host's own certificate, claims what it
//! is told to claim, and refuses what it is told to refuse.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use hyper_util::rt::TokioIo;
use leno_agent::Membership;
use leno_testkit::Host;
use leno_tls::{Alpn, control::ControlConnector};
use leno_wire::{
    agent::{
        AgentMessage, ControlMessage, Hello, Pong, Port, Register, agent_client::AgentClient,
        agent_message::Message, control_message,
    },
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, Status,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    type_url,
};
use tokio::{net::TcpStream, sync::mpsc, sync::oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// What it is.
pub(crate) struct Make {
    /// Its version.
    pub(crate) version: &'static str,
    /// What it understands.
    pub(crate) features: &'static [&'static str],
    /// The service of the one workload that it hosts.
    pub(crate) service: Option<&'static str>,
    /// The services whose routes it asks for.
    pub(crate) asks: &'static [&'static str],
    /// Why it refuses a resource.
    pub(crate) refuses: fn(&Resource) -> Option<String>,
}

/// One that is connected until it is dropped.
pub(crate) struct Stranger {
    /// The resources it was given, by name, with their versions.
    seen: Arc<Mutex<BTreeMap<String, String>>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Stranger {
    /// Connects from a host that has joined, to the control plane at `to`.
    pub(crate) fn start(host: &Host, to: SocketAddr, make: Make) -> Self {
        let membership = Membership::load(&host.disk().join("data"))
            .expect("a membership")
            .expect("the host has joined");
        let socket = host.connect(to).expect("the control plane listens");
        let seen: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
        let (end, ended) = oneshot::channel();
        let noted = Arc::clone(&seen);
        let address = host.v4.to_string();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    spoken = speak(socket, &membership, address, &make, &noted) => panic!("the stranger's connection ended: {spoken:?}"),
                    _ = ended => {}
                }
            });
        });
        Self {
            seen,
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// Whether it was given a resource.
    pub(crate) fn has(&self, name: &str) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.contains_key(name)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // Who has ended already hears nothing.
        let _told = self.end.take().map(|end| end.send(()));
        if let Some(thread) = self.thread.take() {
            // What it died of is in the log already.
            drop(thread.join());
        }
    }
}

async fn speak(
    socket: std::net::TcpStream,
    membership: &Membership,
    address: String,
    make: &Make,
    seen: &Mutex<BTreeMap<String, String>>,
) -> Result<(), tonic::Status> {
    let failed = |error: &dyn std::fmt::Display| tonic::Status::unknown(error.to_string());
    socket
        .set_nonblocking(true)
        .and_then(|()| socket.set_read_timeout(None))
        .map_err(|error| failed(&error))?;
    let socket = TcpStream::from_std(socket).map_err(|error| failed(&error))?;
    let certificate = Some(&membership.certificate);
    let connector = ControlConnector::trusted(&membership.bundle, certificate, &[Alpn::H2])
        .map_err(|error| failed(&error))?;
    let connected = connector
        .connect(socket)
        .await
        .map_err(|error| failed(&error))?;
    let mut once = Some(TokioIo::new(connected.stream));
    let service = tower::service_fn(move |_: http::Uri| {
        let stream = once.take().ok_or_else(|| io::Error::other("once only"));
        async move { stream }
    });
    let channel = Endpoint::from_static("http://control-plane")
        .connect_with_connector(service)
        .await
        .map_err(|error| failed(&error))?;
    let (say, outbox) = mpsc::channel(64);
    let message = |message| AgentMessage {
        message: Some(message),
    };
    let hello = Hello {
        addresses: vec![address],
        version: make.version.into(),
        features: make.features.iter().map(ToString::to_string).collect(),
        ..Hello::default()
    };
    drop(say.send(message(Message::Hello(hello))).await);
    let mut client = AgentClient::new(channel.clone());
    let session = client.session(ReceiverStream::new(outbox)).await?;
    let mut session = session.into_inner();
    if let Some(service) = make.service {
        drop(
            say.send(message(Message::Register(registration(service))))
                .await,
        );
    }
    let (ask, outbox) = mpsc::channel(64);
    for request in subscriptions(make.asks) {
        drop(ask.send(request).await);
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let discovery = client.delta_aggregated_resources(ReceiverStream::new(outbox));
    let mut discovery = discovery.await?.into_inner();
    loop {
        tokio::select! {
            told = session.message() => match told? {
                Some(ControlMessage { message: Some(control_message::Message::Ping(ping)) }) => {
                    let pong = Pong { sequence: ping.sequence };
                    drop(say.send(message(Message::Pong(pong))).await);
                }
                Some(_) => {}
                None => return Ok(()),
            },
            given = discovery.message() => match given? {
                Some(given) => drop(ask.send(answer(given, make.refuses, seen)).await),
                None => return Ok(()),
            },
        }
    }
}

fn registration(service: &str) -> Register {
    Register {
        request: 1,
        service: service.into(),
        ports: vec![Port {
            service_port: 80,
            workload_port: 8080,
            app_protocol: "http".into(),
            published: 0,
        }],
        ready: true,
        ..Register::default()
    }
}

fn subscriptions(asks: &[&str]) -> Vec<DeltaDiscoveryRequest> {
    let of = |url: &str, names: Vec<String>| DeltaDiscoveryRequest {
        type_url: url.into(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    };
    let mut requests = vec![
        of(type_url::MESH, vec!["*".into()]),
        of(type_url::OWN_WORKLOAD, vec!["*".into()]),
    ];
    if !asks.is_empty() {
        let names = asks.iter().map(|name| format!("svc/default/{name}"));
        requests.push(of(type_url::DESTINATION, names.collect()));
    }
    requests
}

/// The acknowledgement of an answer, or what is refused of it.
fn answer(
    given: DeltaDiscoveryResponse,
    refuses: fn(&Resource) -> Option<String>,
    seen: &Mutex<BTreeMap<String, String>>,
) -> DeltaDiscoveryRequest {
    let mut refused = Vec::new();
    for resource in given.resources {
        refused.extend(refuses(&resource).map(|why| format!("{}: {why}", resource.name)));
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(resource.name, resource.version);
    }
    let detail = (!refused.is_empty()).then(|| Status {
        code: 3,
        message: refused.join("; "),
        details: Vec::new(),
    });
    DeltaDiscoveryRequest {
        type_url: given.type_url,
        response_nonce: given.nonce,
        error_detail: detail,
        ..DeltaDiscoveryRequest::default()
    }
}
