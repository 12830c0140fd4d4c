//! What agents call: redemption, certificates, the session, discovery. Thin: who calls, then the task that owns the
//! state.
//!
//! Refuses every call without a client certificate but Redeem. Invariant: an agent is who its certificate says, and
//! of the mesh whose trust domain that is.

mod streams;

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use axum::middleware::Next;
use leno_api::{Access, Audit, AuditLine, AuditObject, Intent};
use leno_store::StoreError;
use leno_tls::{
    Peer,
    ca::{CaError, Csr},
};
use leno_types::{DnsLabel, Identity, MeshName};
use leno_wire::{
    agent::{
        AgentMessage, CertificateResponse, ControlMessage, RedeemRequest, RedeemResponse,
        RenewRequest, SignWorkloadRequest, agent_server::Agent,
    },
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_server::AggregatedDiscoveryService,
    },
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    challenge,
    core::{Ending, Handle},
    mesh::{Joining, Redeemed, SignError},
    tokens::AgentRecord,
};
use streams::Silence;
pub(crate) use streams::written;

/// Tries for a name or a token that another redemption takes at the same moment.
const ATTEMPTS: u32 = 8;

/// Who is at the other end of a connection; the listener gives one to every request.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// Who it proved to be.
    pub(crate) peer: Option<Arc<Peer>>,
    /// Where it comes from; `None`: the admin socket.
    pub(crate) source: Option<IpAddr>,
    /// Told when the connection ends, for reasons of the certificate.
    pub(crate) local: bool,
}

/// What agents call. Clones are the same.
#[derive(Clone)]
pub(crate) struct AgentService {
    pub(crate) handle: Handle,
    /// The mesh of tokens whose host does not say which.
    pub(crate) own: MeshName,
    pub(crate) audit: Arc<dyn Audit>,
    /// Of redemptions that were in each other's way one goes on at a time: of many hosts with one token, which start
    /// together, each would otherwise spend its tries on the others.
    pub(crate) redeeming_again: Arc<Semaphore>,
}

/// An agent that has proven who it is.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) agent: DnsLabel,
    /// When its certificate was issued.
    pub(crate) issued: SystemTime,
    pub(crate) source: IpAddr,
}

/// Who calls, before anything of its message is read: whoever is no agent gets no further.
pub(crate) async fn authenticate(
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    match caller(request.extensions()) {
        Ok(_) => next.run(request).await,
        Err(status) => status.into_http(),
    }
}

fn caller(extensions: &http::Extensions) -> Result<Caller, Status> {
    let connection = extensions.get::<Connection>();
    let connection = connection.ok_or_else(|| Status::internal("the connection is unknown"))?;
    let none = || {
        Status::unauthenticated(
            "this call needs an agent's certificate: join the mesh first (leno join)",
        )
    };
    let peer = connection.peer.as_ref().ok_or_else(none)?;
    let name = peer
        .identity
        .agent_name()
        .ok_or_else(|| Status::permission_denied(format!("{} is no agent", peer.identity)))?;
    Ok(Caller {
        identity: peer.identity.clone(),
        agent: name.parse().map_err(|_| none())?,
        issued: peer.issued,
        source: connection.source.ok_or_else(none)?,
    })
}

impl From<Ending> for Status {
    fn from(ending: Ending) -> Self {
        Self::unavailable(ending.to_string())
    }
}

impl From<SignError> for Status {
    fn from(error: SignError) -> Self {
        let text = error.to_string();
        match error {
            SignError::Token(_)
            | SignError::NoMesh(_)
            | SignError::NotHosted { .. }
            | SignError::UnknownAgent(_)
            | SignError::Outdated(_) => Self::permission_denied(text),
            SignError::Ca(
                CaError::CsrTooLarge(_)
                | CaError::CsrMalformed(_)
                | CaError::CsrKey
                | CaError::CsrProof,
            ) => Self::invalid_argument(text),
            SignError::Ca(_) => Self::internal(text),
            SignError::Store(StoreError::Full) => Self::resource_exhausted(text),
            SignError::Store(_) => Self::unavailable(text),
        }
    }
}

fn read_csr(der: &[u8]) -> Result<Csr, Status> {
    Csr::from_der(der).map_err(|error| SignError::Ca(error).into())
}

impl AgentService {
    /// Runs a job on the mesh of a caller.
    async fn on_mesh<R: Send + 'static>(
        &self,
        identity: Identity,
        job: impl FnOnce(&mut crate::mesh::Mesh, crate::core::Clock) -> R + Send + 'static,
    ) -> Result<R, Status> {
        let outcome = self.handle.call(move |core| {
            let clock = core.clock.clone();
            core.mesh_of(&identity).map(|mesh| job(mesh, clock))
        });
        outcome.await?.ok_or_else(no_mesh)
    }

    /// The mesh that a token is said to be for; hosts of before there were several do not say.
    fn mesh_named(&self, name: &str) -> Result<MeshName, Status> {
        if name.is_empty() {
            return Ok(self.own.clone());
        }
        let parsed = name.parse();
        parsed.map_err(|error| Status::invalid_argument(format!("the token's mesh: {error}")))
    }

    /// The audit line of a host that joins.
    fn joins(
        &self,
        mesh: &MeshName,
        request: &RedeemRequest,
        source: IpAddr,
        agent: &AgentRecord,
    ) -> Intent {
        let who = format!("token {}", request.token_id);
        let who = leno_api::Caller::everywhere(who, Access::None).calling_from(source.to_string());
        let object = AuditObject {
            kind: "Agent".into(),
            namespace: String::new(),
            name: agent.name.clone(),
        };
        let line = AuditLine {
            after: serde_json::to_value(&agent.scope).ok(),
            ..AuditLine::new(&who, mesh, "joined", object)
        };
        Intent::unasked(&self.audit, line)
    }

    async fn try_redeem(
        &self,
        mesh: &MeshName,
        request: &RedeemRequest,
        source: IpAddr,
        was: Option<&Peer>,
    ) -> Result<RedeemResponse, SignError> {
        let mut last = StoreError::Closed;
        let mut alone = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 && alone.is_none() {
                let permit = self.redeeming_again.acquire().await;
                alone = Some(permit.map_err(|_| StoreError::Closed)?);
            }
            let joining = Joining {
                token: request.token_id.clone(),
                secret: request.token_secret.clone(),
                csr: Csr::from_der(&request.csr)?,
                host: request.host.chars().take(253).collect(),
                source,
                was: was.cloned(),
                attempt,
            };
            let name = mesh.clone();
            let prepared = self.handle.call(move |core| {
                let (store, now) = (std::sync::Arc::clone(&core.store), core.clock.wall());
                let mesh = core.meshes.get_mut(&name)?;
                let redeemed = mesh.redeem(&*store, &joining, now);
                Some((redeemed, store))
            });
            let prepared = prepared.await.map_err(|_| StoreError::Closed)?;
            let (redeemed, store) = prepared.ok_or_else(|| SignError::NoMesh(mesh.clone()))?;
            let (answer, writes, agent) = match redeemed? {
                Redeemed::Repeat(answer) => return Ok(answer),
                Redeemed::Make {
                    answer,
                    writes,
                    agent,
                } => (answer, writes, agent),
            };
            // Answered only once it is on disk: a token is spent for good, and an agent known after a restart.
            let intent = self.joins(mesh, request, source, &agent);
            match store.commit(writes).await {
                Ok(revision) => {
                    // The agent is the last of what is written.
                    intent.stored(revision);
                    let name = mesh.clone();
                    let noted = self.handle.call(move |core| {
                        if let Some(mesh) = core.meshes.get_mut(&name) {
                            mesh.note_agent(*agent, revision);
                        }
                    });
                    noted.await.map_err(|_| StoreError::Closed)?;
                    return Ok(*answer);
                }
                Err(
                    error @ (StoreError::Conflict { .. }
                    | StoreError::Exists { .. }
                    | StoreError::NotFound { .. }),
                ) => {
                    intent.forget();
                    last = error;
                }
                Err(error) => {
                    intent.forget();
                    return Err(error.into());
                }
            }
        }
        Err(last.into())
    }
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn redeem(
        &self,
        request: Request<RedeemRequest>,
    ) -> Result<Response<RedeemResponse>, Status> {
        let connection = request.extensions().get::<Connection>();
        let was = connection.and_then(|connection| connection.peer.clone());
        let source = connection.and_then(|connection| connection.source);
        let source =
            source.ok_or_else(|| Status::permission_denied("a token is redeemed over TLS only"))?;
        let mut request = request.into_inner();
        // Whoever has no token yet writes into the log with it.
        request.token_id = request.token_id.chars().take(64).collect();
        read_csr(&request.csr)?;
        let mesh = self.mesh_named(&request.mesh)?;
        let outcome = match self
            .try_redeem(&mesh, &request, source, was.as_deref())
            .await
        {
            Ok(answer) => {
                tracing::info!(mesh = answer.mesh, agent = answer.agent, %source, token = request.token_id, "a host joined");
                Ok(Response::new(answer))
            }
            Err(error) => Err(Status::from(error)),
        };
        if let Err(status) = &outcome {
            tracing::warn!(%mesh, %source, token = request.token_id, reason = status.message(), "a join token was refused");
        }
        outcome
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let caller = caller(request.extensions())?;
        let csr = read_csr(&request.into_inner().csr)?;
        let agent = caller.agent;
        let answer = self.on_mesh(caller.identity, move |mesh, clock| {
            let renewed = mesh.renew_agent(&agent, caller.issued, &csr, clock.wall())?;
            let chain = renewed.chain_pem;
            let trust_bundle = mesh.authority.bundle().to_pem();
            Ok::<_, SignError>(CertificateResponse {
                chain,
                trust_bundle,
            })
        });
        Ok(Response::new(answer.await??))
    }

    async fn sign_workload(
        &self,
        request: Request<SignWorkloadRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let caller = caller(request.extensions())?;
        let SignWorkloadRequest { uid, csr } = request.into_inner();
        let csr = read_csr(&csr)?;
        let Caller {
            identity,
            agent,
            issued,
            source,
        } = caller;
        let signed = self.handle.call(move |core| {
            let (clock, handle) = (core.clock.clone(), core.handle.clone());
            let scope = core.scope.clone();
            let mesh = core.mesh_of(&identity)?;
            if let Err(error) = mesh.scope_of(&agent, issued) {
                return Some(Err(error));
            }
            mesh.prove(&agent, source);
            let signed = mesh.sign_workload(&agent, &uid, &csr, clock.wall());
            Some(signed.map(|(chain, uid)| {
                challenge::begin(mesh, &agent, uid, &handle, &scope);
                CertificateResponse {
                    chain: chain.chain_pem,
                    trust_bundle: mesh.authority.bundle().to_pem(),
                }
            }))
        });
        let signed = signed.await?;
        let signed = signed.ok_or_else(no_mesh)?;
        Ok(Response::new(signed?))
    }

    type SessionStream = Silence<ControlMessage>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = caller(request.extensions())?;
        let said = self.open_session(caller, request.into_inner()).await?;
        Ok(streams::answer(said))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for AgentService {
    type DeltaAggregatedResourcesStream = Silence<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = caller(request.extensions())?;
        let said = self.open_discovery(caller, request.into_inner()).await?;
        Ok(streams::answer(said))
    }
}

fn no_mesh() -> Status {
    Status::permission_denied("this control plane does not serve that mesh")
}
