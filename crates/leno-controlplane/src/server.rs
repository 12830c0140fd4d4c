//! A control plane's life: open, listen, serve, end.
//!
//! Invariant: nothing is answered before everything is open, so a control plane that cannot run says why and leaves
//! nothing behind.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::Router;
use leno_api::Api;
use leno_runtime::{Guests, Scope, Stop, Tasks};
use leno_store::{Options, SqliteStore, Store};
use leno_tls::{TrustBundle, WorkloadCertificate, control::ControlAcceptor};
use leno_types::{HostPort, MeshName, TrustDomain};
use leno_wire::{
    agent::agent_server::AgentServer,
    discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};

use crate::{
    Config, StartError,
    authority::{Authority, server_names},
    config::SHORTEST_WORKLOAD_TTL,
    core::{self, Clock, Core, Machine},
    derived::DerivedMeshes,
    documents::Ready,
    grpc::{self, AgentService},
    http::{self, Context},
    listener::{self, STRANGERS, Serving},
    mesh::{Mesh, Settings},
    metrics::{self, MeteredStore, Meters},
};

/// Connections, streams and sessions at once.
const MAX_TASKS: usize = 200_000;
/// Largest request of a host that has no certificate yet: a token, a key and a name.
const REDEEM_BYTES: usize = 16 * 1024;
/// How long open requests may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// A control plane whose ports are open and whose state is read, and which does not answer yet.
pub struct Bound {
    config: Config,
    store: Arc<MeteredStore>,
    mesh: Mesh,
    clock: Clock,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    admin: UnixListener,
    metrics: Option<TcpListener>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound")
            .field("addresses", &self.addresses)
            .field("mesh", self.mesh.name())
            .finish_non_exhaustive()
    }
}

/// That a control plane's ports are free; nothing is listened on afterwards. For those who ask before they make what
/// would be in vain.
///
/// # Errors
/// Which is not, and what to do.
pub fn can_listen(config: &Config) -> Result<(), StartError> {
    let held = config.listen.iter().chain(&config.metrics);
    held.map(|address| listener::bind(*address))
        .collect::<Result<Vec<_>, _>>()
        .map(drop)
}

impl Bound {
    /// Opens the store, the CA, and every port.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let domain = check(&config)?;
        if let Err(error) = leno_net::process::allow_open_files() {
            tracing::warn!(%error, "the limit on open files stays as it is");
        }
        let data_dir = |source| StartError::DataDir {
            path: config.data_dir.clone(),
            source,
        };
        let store = config.data_dir.join("store.db");
        if !store.exists() {
            // What cannot begin leaves nothing behind.
            can_listen(&config)?;
        }
        private_dir(&config.data_dir).map_err(data_dir)?;
        // Before the ports, which are worth nothing without it: another control plane's lock is the clearer message.
        let store = SqliteStore::open(&store, Options::default())?;
        let listeners: Vec<TcpListener> = config
            .listen
            .iter()
            .map(|address| listener::bind(*address))
            .collect::<Result<_, _>>()?;
        let addresses: Vec<SocketAddr> = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect();
        let metrics = config.metrics.map(listener::bind).transpose()?;
        let admin = listener::bind_admin(&config.admin_socket)?;
        let clock = Clock::new(Arc::new(Machine));
        let mesh = open_mesh(&config, &domain, &addresses, &clock)?;
        Ok(Self {
            config,
            store: Arc::new(MeteredStore::new(store)),
            mesh,
            clock,
            listeners,
            addresses,
            admin,
            metrics,
        })
    }

    /// Where the TLS port listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// Where metrics are read.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }

    /// Answers until `stop`.
    ///
    /// # Errors
    /// A part without which nothing works ended.
    pub async fn serve(self, stop: Stop) -> Result<(), StartError> {
        let ready = self.ready();
        let ready_file = self.config.ready_file.clone();
        let outcome = self.run(ready, stop).await;
        if let Some(path) = ready_file
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(%error, ?path, "the ready file was gone already");
        }
        outcome
    }

    fn ready(&self) -> Ready {
        Ready {
            pid: std::process::id(),
            listen: self.addresses.clone(),
            metrics: self.metrics_address(),
            admin_socket: self.config.admin_socket.clone(),
        }
    }

    async fn run(self, ready: Ready, stop: Stop) -> Result<(), StartError> {
        let Self {
            config,
            store,
            mesh,
            clock,
            listeners,
            admin,
            metrics,
            ..
        } = self;
        let store_dyn: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        // Streams end when the state's task does; only then connections are asked to.
        let scope = Scope::new(stop.child(), Some(MAX_TASKS));
        let (shared, changes) = (Arc::clone(&mesh.shared), mesh.shared.changes());
        let acceptor =
            acceptor_of(&mesh.certificate.borrow(), mesh.authority.bundle()).map_err(|error| {
                StartError::Authority {
                    mesh: mesh.name().to_string(),
                    reason: error.to_string(),
                }
            })?;
        let acceptor = watch::Sender::new(acceptor);
        let certificates = mesh.certificate.subscribe();
        let bundle = mesh.authority.bundle().clone();
        let names = vec![(mesh.domain().clone(), mesh.name().clone())];
        let meshes = BTreeMap::from([(mesh.name().clone(), mesh)]);
        let (core, jobs) = Core::new(meshes, Arc::clone(&store_dyn), clock, scope.clone());
        let derived = DerivedMeshes::new([shared], changes, core.handle.clone());
        let api = Api::new(
            Arc::clone(&store_dyn),
            Arc::new(derived) as Arc<dyn leno_api::Derived>,
        );
        let (strangers_ended, readers_ended) = (Arc::default(), Arc::default());
        let strangers = Guests::new(STRANGERS, Arc::clone(&strangers_ended));
        let meters = Meters {
            handle: core.handle.clone(),
            store: Arc::clone(&store),
            api: Arc::clone(&api.counters),
            strangers_ended,
            readers_ended: Arc::clone(&readers_ended),
        };
        let context = Context {
            handle: core.handle.clone(),
            store: store_dyn,
            counting: Arc::default(),
            meters: meters.clone(),
            backing_up: Arc::default(),
            data_dir: config.data_dir.clone(),
        };
        let meters = metrics::router(meters);
        let serving = Serving {
            router: routes(&core, context, api, &names),
            scope: scope.clone(),
            acceptor: acceptor.subscribe(),
            meshes: names,
            strangers,
        };
        let mut tasks = Tasks::new(stop.clone());
        tasks.spawn_critical("state", core::run(core, jobs, stop.clone()));
        tasks.spawn_critical(
            "own-certificate",
            follow_certificate(certificates, bundle, acceptor, stop.clone()),
        );
        for listener in listeners {
            tasks.spawn_critical(
                "tls-port",
                listener::serve_tls(listener, serving.clone(), stop.clone()),
            );
        }
        tasks.spawn_critical(
            "admin-socket",
            listener::serve_admin(admin, config.admin_socket.clone(), serving, stop.clone()),
        );
        if let Some(listener) = metrics {
            let scope = scope.clone();
            tasks.spawn(
                "metrics-port",
                listener::serve_metrics(listener, meters, scope, readers_ended, stop.clone()),
            );
        }
        if let Some(path) = &config.ready_file {
            write_ready(path, &ready).map_err(|source| StartError::ReadyFile {
                path: path.clone(),
                source,
            })?;
        }
        tracing::info!(listen = ?ready.listen, admin = ?ready.admin_socket, "the control plane is ready");
        let outcome = tasks.run(GRACE).await;
        scope.drain(GRACE).await;
        outcome.map_err(StartError::from)
    }
}

fn routes(core: &Core, context: Context, api: Api, names: &[(TrustDomain, MeshName)]) -> Router {
    let service = AgentService {
        handle: core.handle.clone(),
        meshes: names.iter().map(|(_, mesh)| mesh.clone()).collect(),
    };
    let redeem = AgentServer::new(service.clone()).max_decoding_message_size(REDEEM_BYTES);
    Router::new()
        .route_service(
            "/leno.agent.v1.Agent/{*call}",
            AgentServer::new(service.clone()),
        )
        .route_service(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/{*call}",
            AggregatedDiscoveryServiceServer::new(service),
        )
        .route_layer(axum::middleware::from_fn(grpc::authenticate))
        .route_service("/leno.agent.v1.Agent/Redeem", redeem)
        .merge(http::router(context))
        // Its catch-all and our paths under `/meshes/{mesh}` cannot be in one router.
        .fallback_service(api.router())
}

/// What is wrong with the settings; the trust domain they mean.
fn check(config: &Config) -> Result<TrustDomain, StartError> {
    let wrong = |setting, reason: String| Err(StartError::Setting { setting, reason });
    if config.listen.is_empty() {
        return wrong("listen", "there is no address to listen on".into());
    }
    if config.workload_ttl < SHORTEST_WORKLOAD_TTL {
        return wrong(
            "workload-ttl",
            "a workload's certificate lasts 10s or longer".into(),
        );
    }
    if config.intermediate_ttl < config.workload_ttl.saturating_mul(2) {
        return wrong(
            "intermediate-ttl",
            "the intermediate must last twice as long as a workload's certificate".into(),
        );
    }
    match &config.trust_domain {
        Some(domain) => Ok(domain.clone()),
        None => Ok(format!("{}.leno", config.mesh)
            .parse()
            .expect("a label and a suffix are a trust domain")),
    }
}

fn private_dir(path: &PathBuf) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

fn open_mesh(
    config: &Config,
    domain: &TrustDomain,
    addresses: &[SocketAddr],
    clock: &Clock,
) -> Result<Mesh, StartError> {
    let directory = config.data_dir.join("meshes").join(config.mesh.as_str());
    let ttls = (config.workload_ttl, config.intermediate_ttl);
    let now = SystemTime::now();
    let mut authority = Authority::open(&directory, &config.mesh, domain, ttls, now)?;
    let advertise = if config.advertise.is_empty() {
        found(addresses)
    } else {
        config.advertise.clone()
    };
    let names = server_names(
        domain,
        advertise.iter().map(|place| place.host().to_owned()),
    );
    let error = |reason: String| StartError::Authority {
        mesh: config.mesh.to_string(),
        reason,
    };
    authority.renew(now).map_err(|e| error(e.to_string()))?;
    let certificate = authority
        .own_certificate(&names, 1, now)
        .map_err(|e| error(e.to_string()))?;
    let settings = Settings {
        name: config.mesh.clone(),
        prefixes: config.prefixes.clone(),
        advertise,
    };
    let changes = watch::Sender::new(0);
    let now = clock.uptime();
    Ok(Mesh::new(settings, authority, certificate, changes, now))
}

/// Where others reach what listens here. For "every address" it is the one that leads out of this machine: asking the
/// kernel for the route sends nothing (the addresses are for documentation, RFC 5737 and RFC 3849).
fn found(addresses: &[SocketAddr]) -> Vec<HostPort> {
    let mut places = Vec::new();
    for address in addresses {
        let (any, outside): (SocketAddr, SocketAddr) = match address {
            SocketAddr::V4(_) => (
                (Ipv4Addr::UNSPECIFIED, 0).into(),
                (Ipv4Addr::new(192, 0, 2, 1), 9).into(),
            ),
            SocketAddr::V6(_) => (
                (Ipv6Addr::UNSPECIFIED, 0).into(),
                (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
            ),
        };
        if !address.ip().is_unspecified() {
            places.push(HostPort::from(*address));
            continue;
        }
        let own = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(outside)?;
            socket.local_addr()
        });
        if let Ok(own) = own {
            places.push(HostPort::from(SocketAddr::new(own.ip(), address.port())));
        }
    }
    if places.is_empty()
        && let Some(address) = addresses.first()
    {
        places.push(HostPort::from(SocketAddr::new(
            Ipv4Addr::LOCALHOST.into(),
            address.port(),
        )));
    }
    places.dedup();
    places
}

fn acceptor_of(
    certificate: &WorkloadCertificate,
    bundle: &TrustBundle,
) -> Result<ControlAcceptor, leno_tls::TlsError> {
    ControlAcceptor::new(&[(certificate.clone(), bundle.clone())])
}

/// Puts each new certificate of the control plane to use.
async fn follow_certificate(
    mut certificates: watch::Receiver<WorkloadCertificate>,
    bundle: TrustBundle,
    acceptor: watch::Sender<ControlAcceptor>,
    stop: Stop,
) {
    while let Some(Ok(())) = stop.run_until_stopped(certificates.changed()).await {
        let certificate = certificates.borrow_and_update().clone();
        match acceptor_of(&certificate, &bundle) {
            Ok(new) => {
                acceptor.send_replace(new);
            }
            Err(error) => {
                tracing::error!(%error, "the control plane's new certificate cannot be used")
            }
        }
    }
}

fn write_ready(path: &PathBuf, ready: &Ready) -> io::Result<()> {
    // Renamed into place: who sees it sees all of it.
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(ready)?)?;
    fs::rename(new, path)
}
