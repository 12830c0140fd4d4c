//! A control plane of a later version, in the place of the one that an agent knows: it has its authority, and says what
//! the other could not have said.

use std::{
    io,
    net::TcpListener,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use leno_tls::{
    PrivateKey, TrustBundle, WorkloadCertificate,
    ca::{Csr, Intermediate, RootAuthority, Usage},
    control::ControlAcceptor,
};
use leno_types::Identity;
use leno_wire::{
    agent::{
        AgentMessage, CertificateResponse, ControlMessage, RedeemRequest, RedeemResponse, Register,
        Registered, RenewRequest, SignWorkloadRequest, Welcome,
        agent_message::Message,
        agent_server::{Agent, AgentServer},
        control_message,
    },
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{mpsc, oneshot},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::server::Connected};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One that serves until it is dropped.
pub(crate) struct Later {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Later {
    /// Serves with the authority in `authority` (a mesh's directory of a control plane that has stopped); every agent
    /// is told `says`.
    pub(crate) fn start(
        listener: TcpListener,
        authority: &Path,
        says: Vec<DeltaDiscoveryResponse>,
    ) -> Self {
        let acceptor = acceptor(authority);
        listener.set_nonblocking(true).expect("a socket's flag");
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(serve(listener, acceptor, Told(says), ended));
        });
        Self {
            end: Some(end),
            thread: Some(thread),
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        // Who has ended already hears nothing.
        let _told = self.end.take().map(|end| end.send(()));
        if let Some(thread) = self.thread.take() {
            // What it died of is in the log already.
            drop(thread.join());
        }
    }
}

/// With a certificate as that authority's control plane has one.
fn acceptor(authority: &Path) -> ControlAcceptor {
    let read = |name: &str| std::fs::read_to_string(authority.join(name)).expect("an authority");
    let root = RootAuthority::from_pem(&read("root.pem"), &read("root.key")).expect("a root");
    let intermediate = Intermediate::from_pem(&read("intermediate.pem"), &read("intermediate.key"))
        .expect("an intermediate");
    let bundle =
        TrustBundle::from_pem(root.domain().clone(), &root.cert_pem()).expect("a trust bundle");
    let (key, now) = (PrivateKey::generate(), SystemTime::now());
    let csr = Csr::from_der(&key.csr().expect("a request")).expect("a request");
    let identity = Identity::control_plane(root.domain());
    let names = [root.domain().to_string()];
    let life = Duration::from_secs(3600);
    let chain = intermediate
        .sign(&csr, &identity, &names, Usage::Workload, now, life)
        .expect("a certificate");
    let certificate =
        WorkloadCertificate::new(None, &chain.chain_pem, &key, &bundle, 1, now).expect("a chain");
    ControlAcceptor::new(&[(certificate, bundle)]).expect("an acceptor")
}

async fn serve(
    listener: TcpListener,
    acceptor: ControlAcceptor,
    told: Told,
    ended: oneshot::Receiver<()>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let (accepted, incoming) = mpsc::channel(16);
    let accepting = async move {
        while let Ok((socket, _)) = listener.accept().await {
            // Who does not finish its handshake is no agent.
            if let Ok(connection) = acceptor.accept(socket).await {
                drop(
                    accepted
                        .send(Ok::<_, io::Error>(Tls(connection.stream)))
                        .await,
                );
            }
        }
    };
    let serving = tonic::transport::Server::builder()
        .add_service(AgentServer::new(told.clone()))
        .add_service(AggregatedDiscoveryServiceServer::new(told))
        .serve_with_incoming(ReceiverStream::new(incoming));
    tokio::select! {
        served = serving => panic!("the later control plane ended: {served:?}"),
        () = accepting => panic!("the later control plane accepts no more"),
        _ = ended => {}
    }
}

/// A connection, as tonic wants it.
struct Tls<IO>(IO);

impl<IO> Connected for Tls<IO> {
    type ConnectInfo = ();
    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl<IO: AsyncRead + Unpin> AsyncRead for Tls<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Tls<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What every agent is told.
#[derive(Clone)]
struct Told(Vec<DeltaDiscoveryResponse>);

fn none<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no certificates are given here"))
}

#[tonic::async_trait]
impl Agent for Told {
    async fn redeem(&self, _: Request<RedeemRequest>) -> Result<Response<RedeemResponse>, Status> {
        none()
    }

    async fn renew(
        &self,
        _: Request<RenewRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        none()
    }

    async fn sign_workload(
        &self,
        _: Request<SignWorkloadRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        none()
    }

    type SessionStream = Answers<ControlMessage>;

    /// Takes every workload back as what it was.
    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let said = request.into_inner();
        let answers = said.filter_map(|message| {
            let answer = match message.ok()?.message? {
                Message::Hello(_) => control_message::Message::Welcome(Welcome {
                    mesh: "default".into(),
                    control_plane_version: "0.2.0".into(),
                    features: vec!["access/v9".into()],
                }),
                Message::Register(Register { request, uid, .. }) => {
                    control_message::Message::Registered(Registered {
                        request,
                        uid,
                        ..Registered::default()
                    })
                }
                _ => return None,
            };
            Some(Ok(ControlMessage {
                message: Some(answer),
            }))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Told {
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        // What the agent says is read, so that it is not held up, and nothing follows from it.
        let heard = request
            .into_inner()
            .filter_map(|_| None::<Result<DeltaDiscoveryResponse, Status>>);
        let says = tokio_stream::iter(self.0.clone().into_iter().map(Ok));
        Ok(Response::new(Box::pin(says.chain(heard))))
    }
}
