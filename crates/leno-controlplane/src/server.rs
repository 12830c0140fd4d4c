//! A control plane's life: open, listen, serve, end.
//!
//! Invariant: nothing is answered before everything is open, so a control plane that cannot run says why and leaves
//! nothing behind.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::Router;
use leno_api::Api;
use leno_runtime::{Guests, Scope, Stop, Tasks};
use leno_store::{Options, SqliteStore, Store};
use leno_types::{HostPort, MeshName};
use leno_wire::{
    agent::agent_server::AgentServer,
    discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};
use tokio::net::{TcpListener, UnixListener};

use crate::{
    Config, StartError,
    audit::{AUDIT, AuditLog},
    config::SHORTEST_WORKLOAD_TTL,
    core::{self, Clock, Core, Machine},
    derived::DerivedMeshes,
    documents::Ready,
    grpc::{self, AgentService},
    http::{self, Context, Meshes},
    listener::{self, STRANGERS, Serving},
    mesh::Mesh,
    metrics::{self, MeteredStore, Meters},
    tenants::{Founder, MeshRecord, Plan},
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
    meshes: BTreeMap<MeshName, Mesh>,
    founder: Founder,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    admin: UnixListener,
    metrics: Option<TcpListener>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound")
            .field("addresses", &self.addresses)
            .field("meshes", &self.meshes.keys())
            .finish_non_exhaustive()
    }
}

/// That a control plane's ports are free; nothing is listened on afterwards. For those who ask before they make what
/// would be in vain.
///
/// # Errors
/// Which is not, and what to do.
pub fn can_listen(config: &Config) -> Result<(), StartError> {
    let listen = config.listen.iter().map(|of| (of, listener::LISTEN));
    let metrics = config.metrics.iter().map(|of| (of, listener::METRICS));
    let held = listen.chain(metrics);
    held.map(|(address, option)| listener::bind(*address, option))
        .collect::<Result<Vec<_>, _>>()
        .map(drop)
}

impl Bound {
    /// Opens the store, the CA, and every port.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        check(&config)?;
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
        store_is_not_lost(&config.data_dir, &store)?;
        private_dir(&config.data_dir).map_err(data_dir)?;
        // Before the ports, which are worth nothing without it: another control plane's lock is the clearer message.
        let options = Options {
            max_changes: usize::try_from(config.watch_history).unwrap_or(usize::MAX),
            ..Options::default()
        };
        let store = SqliteStore::open(&store, options)?;
        authority_is_not_lost(&config, &store)?;
        let listeners: Vec<TcpListener> = config
            .listen
            .iter()
            .map(|address| listener::bind(*address, listener::LISTEN))
            .collect::<Result<_, _>>()?;
        let addresses: Vec<SocketAddr> = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect();
        let metrics = config
            .metrics
            .map(|address| listener::bind(address, listener::METRICS))
            .transpose()?;
        let admin = listener::bind_admin(&config.admin_socket)?;
        let store = Arc::new(MeteredStore::new(store));
        let founder = founder(&config, &addresses);
        let meshes = open_meshes(&config, &founder, &*store).await?;
        Ok(Self {
            config,
            store,
            meshes,
            founder,
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
            meshes,
            founder,
            listeners,
            admin,
            metrics,
            ..
        } = self;
        let store_dyn: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        // Streams end when the state's task does; only then connections are asked to.
        let scope = Scope::new(stop.child(), Some(MAX_TASKS));
        let own = config.mesh.clone();
        let made = Core::new(
            own.clone(),
            meshes,
            Arc::clone(&store_dyn),
            founder.clock.clone(),
            scope.clone(),
        );
        let (core, jobs) = made.map_err(|error| StartError::Authority {
            mesh: own.to_string(),
            reason: error.to_string(),
        })?;
        let directory = core.directory.clone();
        let audit = Arc::new(AuditLog::new(config.data_dir.join(AUDIT)));
        core.meshes.keys().for_each(|mesh| audit.open(mesh));
        let derived = DerivedMeshes::new(directory.clone(), core.handle.clone());
        let mut api = Api::new(
            Arc::clone(&store_dyn),
            Arc::new(derived) as Arc<dyn leno_api::Derived>,
        );
        api.audit = Arc::clone(&audit) as Arc<dyn leno_api::Audit>;
        let (strangers_ended, readers_ended) = (Arc::default(), Arc::default());
        let stalled: Arc<AtomicU64> = Arc::default();
        let strangers = Guests::new(STRANGERS, Arc::clone(&strangers_ended));
        let meters = Meters {
            handle: core.handle.clone(),
            store: Arc::clone(&store),
            api: Arc::clone(&api.counters),
            audit: Arc::clone(&audit),
            strangers_ended,
            stalled: Arc::clone(&stalled),
            readers_ended: Arc::clone(&readers_ended),
        };
        let context = Context {
            handle: core.handle.clone(),
            directory: directory.clone(),
            store: Arc::clone(&store_dyn),
            counting: Arc::default(),
            meters: meters.clone(),
            backing_up: Arc::default(),
            data_dir: config.data_dir.clone(),
            audit: Arc::clone(&audit),
            meshes: Meshes::new(&core, store_dyn, Arc::clone(&audit), founder),
        };
        let meters = metrics::router(meters);
        let serving = Rc::new(Serving {
            router: routes(&core, context, api),
            scope: scope.clone(),
            acceptor: core.acceptor(),
            meshes: directory,
            strangers,
            stalled,
        });
        let mut tasks = Tasks::new(stop.clone());
        tasks.spawn("audit-log", audit.keep_writing(stop.clone()));
        tasks.spawn_critical("state", core::run(core, jobs, stop.clone()));
        for listener in listeners {
            tasks.spawn_critical(
                "tls-port",
                listener::serve_tls(listener, Rc::clone(&serving), stop.clone()),
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

fn routes(core: &Core, context: Context, api: Api) -> Router {
    let service = AgentService {
        handle: core.handle.clone(),
        own: core.own.clone(),
        audit: Arc::clone(&api.audit),
        redeeming_again: Arc::new(tokio::sync::Semaphore::new(1)),
    };
    let answers = api.answers();
    let held = axum::middleware::from_fn_with_state(Arc::clone(&answers), leno_api::hold);
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
        .route_layer(axum::middleware::map_response(grpc::written))
        .route_layer(axum::middleware::from_fn(grpc::authenticate))
        .route_service("/leno.agent.v1.Agent/Redeem", redeem)
        .merge(http::router(context).layer(held))
        // Its catch-all and our paths under `/meshes/{mesh}` cannot be in one router.
        .fallback_service(api.router(answers))
}

/// What is wrong with the settings.
fn check(config: &Config) -> Result<(), StartError> {
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
    Ok(())
}

/// A store comes before any mesh: one that is empty beside meshes' keys was lost, and a new one in its place would be a
/// mesh of the same name that knows nobody.
fn store_is_not_lost(data_dir: &Path, store: &Path) -> Result<(), StartError> {
    if fs::metadata(store).is_ok_and(|of| of.len() > 0) {
        return Ok(());
    }
    let mut meshes = fs::read_dir(data_dir.join("meshes")).into_iter().flatten();
    match meshes.any(|mesh| mesh.is_ok_and(|mesh| mesh.path().join("root.key").exists())) {
        true => Err(StartError::StoreLost {
            path: data_dir.into(),
        }),
        false => Ok(()),
    }
}

/// A mesh's keys come before anything is stored of it: new ones in the place of those that were lost would be trusted by
/// nobody.
fn authority_is_not_lost(config: &Config, store: &SqliteStore) -> Result<(), StartError> {
    let root = config.data_dir.join("meshes").join(config.mesh.as_str());
    if root.join("root.key").exists() || !store.meshes()?.contains(&config.mesh) {
        return Ok(());
    }
    Err(StartError::Authority {
        mesh: config.mesh.to_string(),
        reason: format!(
            "its keys in {} are gone, and members trust them alone: leno restore takes a backup",
            root.display()
        ),
    })
}

fn private_dir(path: &PathBuf) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

fn founder(config: &Config, addresses: &[SocketAddr]) -> Founder {
    Founder {
        root: config.data_dir.join("meshes"),
        ttls: (config.workload_ttl, config.intermediate_ttl),
        advertise: if config.advertise.is_empty() {
            found(addresses)
        } else {
            config.advertise.clone()
        },
        clock: Clock::new(Arc::new(Machine)),
    }
}

/// The control plane's own mesh, and all that were made at run time.
async fn open_meshes(
    config: &Config,
    founder: &Founder,
    store: &dyn Store,
) -> Result<BTreeMap<MeshName, Mesh>, StartError> {
    let others = founder.reopen(store, &config.mesh).await?;
    let recorded = MeshRecord::read(store, &config.mesh)?;
    let begins = recorded.as_ref().map_or(0, |(_, entry)| entry.created);
    let recorded = recorded.and_then(|(record, _)| record.trust_domain.parse().ok());
    let default = || {
        let domain = format!("{}.leno", config.mesh).parse();
        domain.expect("a label and a suffix are a trust domain")
    };
    let plan = Plan {
        name: config.mesh.clone(),
        domain: config
            .trust_domain
            .clone()
            .or(recorded)
            .unwrap_or_else(default),
        prefixes: config.prefixes.clone(),
        begins,
    };
    if let Some(other) = others.iter().find(|mesh| *mesh.domain() == plan.domain) {
        let reason = format!(
            "its trust domain {} is that of mesh {}: give another with --trust-domain",
            plan.domain,
            other.name()
        );
        let mesh = plan.name.to_string();
        return Err(StartError::Authority { mesh, reason });
    }
    let own = founder.open(&plan)?;
    let all = others.into_iter().chain([own]);
    Ok(all.map(|mesh| (mesh.name().clone(), mesh)).collect())
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

fn write_ready(path: &PathBuf, ready: &Ready) -> io::Result<()> {
    // Renamed into place: who sees it sees all of it.
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(ready)?)?;
    fs::rename(new, path)
}
