//! A control plane in this process, and the smallest agent that can speak to it.

use std::{net::SocketAddr, path::Path, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use leno_controlplane::{Bound, Config};
use leno_runtime::Stop;
use leno_tls::{Alpn, PrivateKey, TrustBundle, WorkloadCertificate, control::ControlConnector};
use leno_types::JoinToken;
use leno_wire::{
    agent::{
        AgentMessage, CertificateResponse, ControlMessage, Deregister, Hello, Pong, Port,
        RedeemRequest, RedeemResponse, Register, Registered, SignWorkloadRequest,
        agent_client::AgentClient, agent_message, control_message,
    },
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status as AdsStatus,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    type_url,
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// Nothing in these tests takes so long unless it never comes.
pub const LONG: Duration = Duration::from_secs(10);

/// A control plane in this process.
pub struct ControlPlane {
    pub address: SocketAddr,
    pub metrics: Option<SocketAddr>,
    pub directory: std::path::PathBuf,
    stop: Stop,
    running: JoinHandle<()>,
}

impl ControlPlane {
    pub async fn start(directory: &Path) -> Self {
        Self::start_with(directory, |_| ()).await
    }

    pub async fn start_with(directory: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(directory.join("data"));
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.metrics = None;
        change(&mut config);
        let bound = Bound::bind(config).await.unwrap();
        let (address, metrics) = (bound.addresses()[0], bound.metrics_address());
        let stop = Stop::new();
        let ending = stop.clone();
        let running = start(async move { bound.serve(ending).await.unwrap() });
        Self {
            address,
            metrics,
            directory: directory.into(),
            stop,
            running,
        }
    }

    pub async fn stop(self) {
        self.stop.trigger();
        timeout(LONG, self.running).await.unwrap().unwrap();
    }

    /// What the metrics port says; the control plane was started with one.
    pub async fn scrape(&self) -> String {
        let socket = TcpStream::connect(self.metrics.unwrap()).await.unwrap();
        let (code, text) = request(socket, "GET", "/metrics", None).await;
        assert_eq!(code, 200);
        text.as_str().unwrap().to_owned()
    }

    /// A request over the admin socket.
    pub async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let socket = UnixStream::connect(self.directory.join("data/admin.sock"))
            .await
            .unwrap();
        request(socket, method, path, body).await
    }

    pub async fn token(&self, request: Value) -> JoinToken {
        let (code, answer) = self
            .admin("POST", "/meshes/default/leno/v1/tokens", Some(request))
            .await;
        assert_eq!(code, 201, "{answer}");
        answer["token"].as_str().unwrap().parse().unwrap()
    }

    /// Applies one object.
    pub async fn apply(&self, path: &str, object: Value) {
        let path = format!("/meshes/default{path}");
        let (code, answer) = self.admin("POST", &path, Some(object)).await;
        assert_eq!(code, 201, "{answer}");
    }

    /// Waits until a document fulfils a condition.
    pub async fn await_document(&self, path: &str, what: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let (_, answer) = self.admin("GET", path, None).await;
                if what(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(LONG, wait).await {
            Ok(answer) => answer,
            Err(_) => panic!("{path} stays {:#}", self.admin("GET", path, None).await.1),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test waits for its end, or ends it"
)]
pub fn start<T: 'static>(work: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    tokio::task::spawn_local(work)
}

/// One HTTP/1.1 request on a connection.
pub async fn request<IO>(io: IO, method: &str, path: &str, body: Option<Value>) -> (u16, Value)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .unwrap();
    let driving = start(connection);
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "leno")
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    drop(sender);
    driving.abort();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (
        code,
        serde_json::from_slice(&bytes).unwrap_or(Value::String(text)),
    )
}

pub async fn channel(address: SocketAddr, connector: ControlConnector) -> Channel {
    let service = tower::service_fn(move |_: http::Uri| {
        let connector = connector.clone();
        async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let connected = connector
                .connect(socket)
                .await
                .map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(connected.stream))
        }
    });
    Endpoint::from_static("http://control-plane")
        .connect_with_connector(service)
        .await
        .unwrap()
}

/// Spends a token.
pub async fn redeem(
    control: &ControlPlane,
    token: &JoinToken,
    key: &PrivateKey,
    host: &str,
) -> Result<RedeemResponse, Status> {
    redeem_over(stranger(control, token).await, token, key, host).await
}

async fn redeem_by(
    control: &ControlPlane,
    token: &JoinToken,
    key: &PrivateKey,
    host: &str,
    connector: ControlConnector,
) -> Result<RedeemResponse, Status> {
    let client = AgentClient::new(channel(control.address, connector).await);
    redeem_over(client, token, key, host).await
}

/// A connection by which a token can be redeemed, and nothing said on it yet.
pub async fn stranger(control: &ControlPlane, token: &JoinToken) -> AgentClient<Channel> {
    let connector = ControlConnector::pinned(&token.pins, &[Alpn::H2]).unwrap();
    let connector = connector.with_server_name(&token.server_name());
    AgentClient::new(channel(control.address, connector).await)
}

pub async fn redeem_over(
    mut client: AgentClient<Channel>,
    token: &JoinToken,
    key: &PrivateKey,
    host: &str,
) -> Result<RedeemResponse, Status> {
    let request = RedeemRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.to_vec(),
        csr: key.csr().unwrap(),
        host: host.into(),
        mesh: token.mesh.to_string(),
        ..RedeemRequest::default()
    };
    Ok(client.redeem(request).await?.into_inner())
}

/// What a host has once it has joined.
#[derive(Clone)]
pub struct Membership {
    pub name: String,
    pub certificate: WorkloadCertificate,
    pub bundle: TrustBundle,
}

impl Membership {
    pub async fn join(control: &ControlPlane, host: &str, scope: Value) -> Self {
        let token = control.token(scope).await;
        let key = PrivateKey::generate();
        let answer = redeem(control, &token, &key, host).await.unwrap();
        Self::of(&answer, &key)
    }

    /// Spends another token as the host that this one is.
    pub async fn join_again(&self, control: &ControlPlane, scope: Value) -> Self {
        let token = control.token(scope).await;
        let key = PrivateKey::generate();
        let connector =
            ControlConnector::pinned_as(&token.pins, &self.certificate, &[Alpn::H2]).unwrap();
        let answer = redeem_by(control, &token, &key, &self.name, connector).await;
        Self::of(&answer.unwrap(), &key)
    }

    /// The control plane's own machine.
    pub async fn of_this_machine(control: &ControlPlane) -> Self {
        let csr = |csr| json!({"host": "here", "csr": csr, "addresses": ["127.0.0.1"]});
        Self::local(control, "local-agent", csr).await
    }

    /// Somebody with a person's certificate.
    pub async fn person(control: &ControlPlane, name: &str) -> Self {
        Self::local(
            control,
            "local-user",
            |csr| json!({"name": name, "csr": csr, "role": "admin"}),
        )
        .await
    }

    /// What the admin socket gives without a token.
    async fn local(control: &ControlPlane, what: &str, ask: impl Fn(String) -> Value) -> Self {
        let key = PrivateKey::generate();
        let csr = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            key.csr().unwrap(),
        );
        let path = format!("/meshes/default/leno/v1/{what}");
        let (code, answer) = control.admin("POST", &path, Some(ask(csr))).await;
        assert_eq!(code, 201, "{answer}");
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        let answer = RedeemResponse {
            trust_domain: text("trust_domain"),
            trust_bundle: text("trust_bundle"),
            chain: text("chain"),
            agent: text("agent"),
            ..Default::default()
        };
        Self::of(&answer, &key)
    }

    pub fn of(answer: &RedeemResponse, key: &PrivateKey) -> Self {
        let bundle =
            TrustBundle::from_pem(answer.trust_domain.parse().unwrap(), &answer.trust_bundle)
                .unwrap();
        let now = std::time::SystemTime::now();
        let certificate =
            WorkloadCertificate::new(None, &answer.chain, key, &bundle, 0, now).unwrap();
        Self {
            name: answer.agent.clone(),
            certificate,
            bundle,
        }
    }

    pub async fn connect(&self, control: &ControlPlane) -> Agent {
        let hello = Hello {
            addresses: vec!["127.0.0.1".into()],
            ..Hello::default()
        };
        self.connect_with(control, hello).await
    }

    pub async fn connect_with(&self, control: &ControlPlane, hello: Hello) -> Agent {
        Agent::connect(self.channel(control).await, hello).await
    }

    /// How a session would be refused.
    pub async fn refused(&self, control: &ControlPlane) -> Status {
        let outbox = tokio_stream::empty::<AgentMessage>();
        let mut client = AgentClient::new(self.channel(control).await);
        client.session(outbox).await.unwrap_err()
    }

    pub async fn channel(&self, control: &ControlPlane) -> Channel {
        let connector =
            ControlConnector::trusted(&self.bundle, Some(&self.certificate), &[Alpn::H2]).unwrap();
        channel(control.address, connector).await
    }

    /// A request to the API as this host.
    pub async fn get(&self, control: &ControlPlane, path: &str) -> (u16, Value) {
        self.request(control, "GET", path, None).await
    }

    pub async fn request(
        &self,
        control: &ControlPlane,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let connector =
            ControlConnector::trusted(&self.bundle, Some(&self.certificate), &[Alpn::Http11])
                .unwrap();
        let socket = TcpStream::connect(control.address).await.unwrap();
        let connected = connector.connect(socket).await.unwrap();
        request(connected.stream, method, path, body).await
    }
}

/// A connected agent. Its PINGs are answered while it waits for something.
pub struct Agent {
    channel: Channel,
    session: mpsc::Sender<AgentMessage>,
    heard: Streaming<ControlMessage>,
    ads: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
    pub requests: u64,
}

impl Agent {
    pub async fn connect(channel: Channel, hello: Hello) -> Self {
        let (session, outbox) = mpsc::channel(64);
        session
            .send(AgentMessage {
                message: Some(agent_message::Message::Hello(hello)),
            })
            .await
            .unwrap();
        let heard = AgentClient::new(channel.clone())
            .session(ReceiverStream::new(outbox))
            .await
            .unwrap();
        let (ads, outbox) = mpsc::channel(64);
        let answers = AggregatedDiscoveryServiceClient::new(channel.clone())
            .delta_aggregated_resources(ReceiverStream::new(outbox))
            .await
            .unwrap();
        let mut agent = Self {
            channel,
            session,
            heard: heard.into_inner(),
            ads,
            answers: answers.into_inner(),
            requests: 0,
        };
        let welcome = agent.hear().await;
        assert!(
            matches!(welcome, control_message::Message::Welcome(_)),
            "{welcome:?}"
        );
        agent
    }

    pub async fn say(&self, message: agent_message::Message) {
        self.session
            .send(AgentMessage {
                message: Some(message),
            })
            .await
            .unwrap();
    }

    /// The next thing said on the session that is no PING; those are answered.
    pub async fn hear(&mut self) -> control_message::Message {
        loop {
            let message = timeout(LONG, self.heard.message())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            match message.message.unwrap() {
                control_message::Message::Ping(ping) => {
                    self.say(agent_message::Message::Pong(Pong {
                        sequence: ping.sequence,
                    }))
                    .await;
                }
                other => return other,
            }
        }
    }

    /// How the session ends.
    pub async fn ended(&mut self) -> Option<Status> {
        loop {
            match timeout(LONG, self.heard.message()).await.unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }

    /// How the discovery stream ends.
    pub async fn discovery_ended(&mut self) -> Status {
        loop {
            match timeout(LONG, self.answers.message()).await.unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a reason"),
                Err(status) => return status,
            }
        }
    }

    pub async fn try_register(
        &mut self,
        service: &str,
        port: u32,
        uid: &str,
    ) -> control_message::Message {
        self.ask_to_register(service, port, uid, true).await
    }

    async fn ask_to_register(
        &mut self,
        service: &str,
        port: u32,
        uid: &str,
        ready: bool,
    ) -> control_message::Message {
        self.requests += 1;
        let ports = Port {
            service_port: 80,
            workload_port: port,
            app_protocol: "http".into(),
            published: 0,
        };
        self.say(agent_message::Message::Register(Register {
            request: self.requests,
            service: service.into(),
            uid: uid.into(),
            ports: vec![ports],
            ready,
            ..Register::default()
        }))
        .await;
        self.hear().await
    }

    /// Names many programs without waiting for an answer in between, as an agent does that comes back; the uids that
    /// were given.
    pub async fn register_at_once(&mut self, service: &str, uids: &[String]) -> Vec<String> {
        let session = self.session.clone();
        let (service, all) = (service.to_owned(), uids.to_vec());
        let said = async {
            for (number, uid) in all.into_iter().enumerate() {
                let ports = Port {
                    service_port: 80,
                    workload_port: 1_024 + u32::try_from(number).unwrap(),
                    app_protocol: "http".into(),
                    published: 0,
                };
                let register = Register {
                    request: 1_000_000 + number as u64,
                    service: service.clone(),
                    uid,
                    ports: vec![ports],
                    ready: true,
                    ..Register::default()
                };
                let message = Some(agent_message::Message::Register(register));
                session.send(AgentMessage { message }).await.unwrap();
            }
        };
        let heard = async {
            let mut given = Vec::new();
            while given.len() < uids.len() {
                match self.hear().await {
                    control_message::Message::Registered(registered) => given.push(registered.uid),
                    other => panic!("{other:?}"),
                }
            }
            given
        };
        tokio::join!(said, heard).1
    }

    /// Registers a program whose checks have not passed yet.
    pub async fn register_unready(&mut self, service: &str, port: u32) -> Registered {
        match self.ask_to_register(service, port, "", false).await {
            control_message::Message::Registered(registered) => registered,
            other => panic!("{other:?}"),
        }
    }

    pub async fn deregister(&mut self, uid: &str) {
        self.say(agent_message::Message::Deregister(Deregister {
            uid: uid.into(),
        }))
        .await;
    }

    pub async fn register(&mut self, service: &str, port: u32, uid: &str) -> Registered {
        match self.try_register(service, port, uid).await {
            control_message::Message::Registered(registered) => registered,
            other => panic!("{other:?}"),
        }
    }

    pub async fn sign(&self, uid: &str, key: &PrivateKey) -> Result<CertificateResponse, Status> {
        let request = SignWorkloadRequest {
            uid: uid.into(),
            csr: key.csr().unwrap(),
        };
        Ok(AgentClient::new(self.channel.clone())
            .sign_workload(request)
            .await?
            .into_inner())
    }

    pub async fn ask(&self, url: &str, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            type_url: url.into(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub async fn send(&self, request: DeltaDiscoveryRequest) {
        self.ads.send(request).await.unwrap();
    }

    /// The next answer, acknowledged.
    pub async fn answer(&mut self) -> DeltaDiscoveryResponse {
        let answer = self.answer_unacknowledged().await;
        self.send(DeltaDiscoveryRequest {
            type_url: answer.type_url.clone(),
            response_nonce: answer.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
        answer
    }

    pub async fn answer_unacknowledged(&mut self) -> DeltaDiscoveryResponse {
        timeout(LONG, self.answers.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }

    /// Whether nothing is sent for a while. (A claim about absence can only be tried for a time.)
    pub async fn is_silent(&mut self) -> bool {
        timeout(Duration::from_millis(700), self.answers.message())
            .await
            .is_err()
    }

    pub async fn refuse(&self, answer: &DeltaDiscoveryResponse, message: &str) {
        self.send(DeltaDiscoveryRequest {
            type_url: answer.type_url.clone(),
            response_nonce: answer.nonce.clone(),
            error_detail: Some(AdsStatus {
                code: Code::InvalidArgument as i32,
                message: message.into(),
                details: Vec::new(),
            }),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }
}

/// What a discovery stream ends with on which another message is sent, of about so many bytes: its first field is a
/// number, or a text that is no node.
pub async fn garbage(channel: Channel, bytes: usize) -> Status {
    let message = RedeemRequest {
        token_id: "\u{7f}".repeat(bytes),
        ..RedeemRequest::default()
    };
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    // The stream stays open: it is the control plane that ends it.
    let outbox = tokio_stream::StreamExt::chain(
        tokio_stream::iter([message]),
        tokio_stream::pending::<RedeemRequest>(),
    );
    let codec = tonic_prost::ProstCodec::<RedeemRequest, DeltaDiscoveryResponse>::default();
    let request = tonic::Request::new(outbox);
    let answer = client.streaming(request, path.parse().unwrap(), codec);
    match timeout(LONG, answer).await.unwrap() {
        Err(status) => status,
        Ok(answer) => {
            let mut answers = answer.into_inner();
            timeout(LONG, answers.message()).await.unwrap().unwrap_err()
        }
    }
}

/// Names and versions of what an answer brings.
pub fn versions(answer: &DeltaDiscoveryResponse) -> Vec<(String, String)> {
    answer
        .resources
        .iter()
        .map(|resource| (resource.name.clone(), resource.version.clone()))
        .collect()
}

pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

pub use type_url::{DESTINATION, ENDPOINTS, MESH, OWN_WORKLOAD};
