//! One simulated host: joined with a token, connected by mutual TLS from an address of its own, with real gRPC streams.
//! Every answer of discovery is acknowledged at once, and told.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use leno_tls::{Alpn, PrivateKey, TrustBundle, WorkloadCertificate, control::ControlConnector};
use leno_types::JoinToken;
use leno_wire::{
    agent::{
        AgentMessage, ControlMessage, HealthChange, Hello, Pong, Port, RedeemRequest,
        RedeemResponse, Register, agent_client::AgentClient, agent_message, control_message,
    },
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    type_url,
};
use prost::Message;
use tokio::{net::TcpSocket, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::Failure;

/// As the agent has it.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// As the agent has it.
const WINDOW: u32 = 1 << 20;
const OUTBOX: usize = 256;
/// For a handshake.
const PATIENCE: Duration = Duration::from_secs(60);
/// The types, in the order in which the agent asks for them.
const TYPES: [&str; 4] = [
    type_url::MESH,
    type_url::OWN_WORKLOAD,
    type_url::DESTINATION,
    type_url::ENDPOINTS,
];

/// An acknowledgement.
pub(crate) struct Ack {
    pub(crate) at: Instant,
    pub(crate) host: usize,
    pub(crate) bytes: usize,
    pub(crate) names: Vec<String>,
}

/// What all hosts tell.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) acks: RefCell<Vec<Ack>>,
    pub(crate) resources: Cell<u64>,
    pub(crate) connected: Cell<usize>,
    pub(crate) registered: Cell<usize>,
}

/// One host.
pub(crate) struct Host {
    pub(crate) index: usize,
    name: String,
    source: Ipv4Addr,
    certificate: WorkloadCertificate,
    bundle: TrustBundle,
    /// The services of its workloads, one of each.
    services: Vec<String>,
    /// What it calls.
    pub(crate) calls: Vec<String>,
    uids: RefCell<BTreeMap<u64, String>>,
    held: RefCell<BTreeMap<String, BTreeMap<String, String>>>,
    session: RefCell<Option<mpsc::Sender<AgentMessage>>>,
    heard: Rc<Heard>,
}

/// The address that a host calls from: each has its own, on the loopback.
fn source(index: usize) -> Ipv4Addr {
    let number = u32::try_from(index).unwrap_or(0) + 1;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number)
}

async fn channel(
    to: SocketAddr,
    from: Ipv4Addr,
    connector: ControlConnector,
) -> Result<Channel, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    // Beside thousands of others it may take its time; the agent's own patience is not what is measured.
    let connector = connector.with_timeout(PATIENCE);
    let connected = connector.connect(stream).await.map_err(Failure::tls)?;
    let mut ready = Some(TokioIo::new(connected.stream));
    let once = tower::service_fn(move |_: http::Uri| {
        let stream = ready.take();
        let stream = stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    let endpoint = Endpoint::from_static("http://control-plane")
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW);
    Ok(endpoint.connect_with_connector(once).await?)
}

impl Host {
    /// Spends a token.
    pub(crate) async fn join(
        index: usize,
        to: SocketAddr,
        token: &JoinToken,
        services: Vec<String>,
        calls: Vec<String>,
        heard: &Rc<Heard>,
    ) -> Result<Self, Failure> {
        let (key, source) = (PrivateKey::generate(), source(index));
        let connector = ControlConnector::pinned(&token.pins, &[Alpn::H2]).map_err(Failure::tls)?;
        let mut client = AgentClient::new(channel(to, source, connector).await?);
        let request = RedeemRequest {
            token_id: token.id.clone(),
            token_secret: token.secret.to_vec(),
            csr: key.csr().map_err(Failure::tls)?,
            host: format!("load-{index}"),
            ..RedeemRequest::default()
        };
        let answer: RedeemResponse = client.redeem(request).await?.into_inner();
        let domain = answer.trust_domain.parse();
        let domain = domain.map_err(|_| Failure::Plane("no trust domain".into()))?;
        let bundle = TrustBundle::from_pem(domain, &answer.trust_bundle).map_err(Failure::tls)?;
        let now = SystemTime::now();
        let certificate = WorkloadCertificate::new(None, &answer.chain, &key, &bundle, 0, now);
        Ok(Self {
            index,
            name: answer.agent,
            source,
            certificate: certificate.map_err(Failure::tls)?,
            bundle,
            services,
            calls,
            uids: RefCell::default(),
            held: RefCell::default(),
            session: RefCell::default(),
            heard: Rc::clone(heard),
        })
    }

    /// Keeps it connected, as an agent does.
    pub(crate) async fn run(self: Rc<Self>, to: SocketAddr) {
        let mut wait = RETRY.0;
        loop {
            let welcomed = Cell::new(false);
            if let Err(error) = self.converse(to, &welcomed).await
                && !matches!(
                    error,
                    Failure::Io(_) | Failure::Tls(_) | Failure::Status(_) | Failure::Transport(_)
                )
            {
                eprintln!("control-load: host {}: {error}", self.index);
            }
            self.session.replace(None);
            if welcomed.get() {
                self.heard.connected.set(self.heard.connected.get() - 1);
                wait = RETRY.0;
            }
            tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            wait = (wait * 2).min(RETRY.1);
        }
    }

    async fn converse(&self, to: SocketAddr, welcomed: &Cell<bool>) -> Result<(), Failure> {
        let connector =
            ControlConnector::trusted(&self.bundle, Some(&self.certificate), &[Alpn::H2]);
        let connector = connector.map_err(Failure::tls)?;
        let channel = channel(to, self.source, connector).await?;
        let (session, said) = mpsc::channel(OUTBOX);
        let (ads, asked) = mpsc::channel(OUTBOX);
        for message in self.first_words() {
            drop(session.try_send(message));
        }
        for request in self.first_requests() {
            drop(ads.try_send(request));
        }
        self.session.replace(Some(session.clone()));
        let listen = async {
            let mut client = AgentClient::new(channel.clone());
            let mut heard = client
                .session(ReceiverStream::new(said))
                .await?
                .into_inner();
            while let Some(message) = heard.next().await {
                self.on_session(message?, &session, welcomed);
            }
            Ok::<(), Failure>(())
        };
        let follow = async {
            let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
            let asked = ReceiverStream::new(asked);
            let mut told = client.delta_aggregated_resources(asked).await?.into_inner();
            while let Some(response) = told.next().await {
                drop(ads.try_send(self.on_ads(response?)));
            }
            Ok::<(), Failure>(())
        };
        tokio::select! {
            ended = listen => ended,
            ended = follow => ended,
        }
    }

    fn first_words(&self) -> Vec<AgentMessage> {
        let hello = agent_message::Message::Hello(Hello {
            host: self.name.clone(),
            addresses: vec![self.source.to_string()],
            features: leno_ir::Feature::names(),
            ..Hello::default()
        });
        let uids = self.uids.borrow();
        let register = |(number, service): (usize, &String)| {
            let number = number as u64;
            agent_message::Message::Register(Register {
                request: number,
                uid: uids.get(&number).cloned().unwrap_or_default(),
                service: service.clone(),
                name: service.clone(),
                ports: vec![Port {
                    service_port: 80,
                    workload_port: 8_000 + u32::try_from(number).unwrap_or(0),
                    app_protocol: "http".into(),
                    published: 0,
                }],
                ready: true,
                ..Register::default()
            })
        };
        let registers = self.services.iter().enumerate().map(register);
        std::iter::once(hello)
            .chain(registers)
            .map(|message| AgentMessage {
                message: Some(message),
            })
            .collect()
    }

    fn first_requests(&self) -> Vec<DeltaDiscoveryRequest> {
        let held = self.held.borrow();
        let request = |url: &&str| {
            let names = match *url {
                type_url::MESH | type_url::OWN_WORKLOAD => vec!["*".into()],
                _ => self.calls.clone(),
            };
            let versions = held.get(*url).into_iter().flatten();
            DeltaDiscoveryRequest {
                node: Some(Node {
                    id: self.name.clone(),
                    ..Node::default()
                }),
                type_url: (*url).into(),
                resource_names_subscribe: names,
                initial_resource_versions: versions
                    .map(|(name, version)| (name.clone(), version.clone()))
                    .collect(),
                ..DeltaDiscoveryRequest::default()
            }
        };
        TYPES.iter().map(request).collect()
    }

    fn on_session(
        &self,
        message: ControlMessage,
        session: &mpsc::Sender<AgentMessage>,
        welcomed: &Cell<bool>,
    ) {
        match message.message {
            Some(control_message::Message::Ping(ping)) => {
                let pong = agent_message::Message::Pong(Pong {
                    sequence: ping.sequence,
                });
                let message = Some(pong);
                drop(session.try_send(AgentMessage { message }));
            }
            Some(control_message::Message::Registered(registered)) => {
                self.uids
                    .borrow_mut()
                    .insert(registered.request, registered.uid);
                self.heard.registered.set(self.heard.registered.get() + 1);
            }
            Some(control_message::Message::Welcome(_)) => {
                welcomed.set(true);
                self.heard.connected.set(self.heard.connected.get() + 1);
            }
            Some(control_message::Message::Refused(refused)) => {
                eprintln!("control-load: host {}: {}", self.index, refused.message);
            }
            // Nobody asks its proxies anything.
            Some(control_message::Message::Ask(_)) | None => {}
        }
    }

    /// Takes an answer in; the acknowledgement.
    fn on_ads(&self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let bytes = response.encoded_len();
        let mut held = self.held.borrow_mut();
        let held = held.entry(response.type_url.clone()).or_default();
        let mut names = response.removed_resources;
        for name in &names {
            held.remove(name);
        }
        for resource in response.resources {
            self.heard.resources.set(self.heard.resources.get() + 1);
            held.insert(resource.name.clone(), resource.version);
            names.push(resource.name);
        }
        let at = Instant::now();
        self.heard.acks.borrow_mut().push(Ack {
            at,
            host: self.index,
            bytes,
            names,
        });
        DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Says that the checks of one of its workloads pass, or no longer.
    pub(crate) fn health(&self, number: u64, healthy: bool) {
        let uid = self.uids.borrow().get(&number).cloned();
        let session = self.session.borrow();
        if let (Some(session), Some(uid)) = (&*session, uid) {
            let change = agent_message::Message::Health(HealthChange {
                uid,
                healthy,
                detail: String::new(),
            });
            drop(session.try_send(AgentMessage {
                message: Some(change),
            }));
        }
    }

    /// How many resources it holds of what it asked for.
    pub(crate) fn holds(&self) -> usize {
        let held = self.held.borrow();
        let of = |url: &str| held.get(url).map_or(0, BTreeMap::len);
        of(type_url::DESTINATION) + of(type_url::ENDPOINTS)
    }
}
