//! The Kubernetes-shaped HTTP API over a store (CP1): discovery, get, list, watch, create, update, patch, delete,
//! status, tables; and the batch that `leno apply` sends.
//!
//! Owns the shape of requests and answers, and the system's part of `metadata`. Parsing and defaulting of objects is
//! leno-config's, what follows from them the control plane's ([`Derived`]), who is calling the listener's
//! ([`Caller`]). Refuses, as a `Status` object that says why, whatever it would answer only by half.
//!
//! Invariants: every stored object has passed [`leno_config::admit`]; one `resourceVersion` is one revision of the
//! store; nothing here outlives a request but the watches, which are counted and bounded.

mod answers;
mod apply;
mod audit;
mod changes;
mod columns;
mod derived;
mod discovery;
mod duplicates;
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod lists;
mod media;
mod object;
mod openapi;
mod overlay;
mod patch;
mod plan;
mod query;
mod read;
mod review;
mod selector;
mod shares;
mod status;
mod strategic;
mod target;
mod turns;
mod warnings;
mod watch;
mod watchers;
mod write;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

pub use answers::{Answers, hold};
pub use audit::{Audit, AuditLine, AuditObject, AuditOutcome, Begun, Intent, Unaudited, Unready};

use axum::routing::any;
use futures_util::future::BoxFuture;
use leno_config::{Finding, Kind, Resource};
use leno_store::{Key, Store};
use leno_types::DnsLabel;
use serde_json::Value;

pub use shares::Share;

/// What the control plane knows beside the stored objects.
pub trait Derived: Send + Sync {
    /// Ready once what was acknowledged before this call shows in what is derived: who reads sees what came of it.
    fn settled<'a>(&'a self, mesh: &'a DnsLabel) -> BoxFuture<'a, ()> {
        let _ = mesh;
        Box::pin(std::future::ready(()))
    }

    /// All objects of a derived kind, whole, with `metadata.name` and `.namespace`; `metadata.resourceVersion` is
    /// the API's to set.
    fn list(&self, mesh: &DnsLabel, kind: Kind, namespace: Option<&str>) -> Vec<Value>;

    /// The status of a stored object, computed when it is read (CP12).
    fn status(&self, mesh: &DnsLabel, kind: Kind, namespace: &str, name: &str) -> Option<Value>;

    /// The statuses of all stored objects of a kind, as [`Derived::status`] tells each: namespace, name, status. By
    /// these watches learn what changed.
    fn statuses(&self, mesh: &DnsLabel, kind: Kind) -> Vec<(String, String, Value)> {
        let _ = (mesh, kind);
        Vec::new()
    }

    /// The write by which an object that nobody stored is forgotten, or why it is not; `None`: there is no such
    /// object.
    fn delete(
        &self,
        mesh: &DnsLabel,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Option<Result<leno_store::Write, String>> {
        let _ = (mesh, kind, namespace, name);
        None
    }

    /// The last word on a write: may refuse it, or add to the object what only the control plane can give (the
    /// addresses of a Service). Also called for writes that then do not happen (a dry run, a conflict): what it gives
    /// is taken only once the object is in the store. `now` is the wall clock.
    ///
    /// # Errors
    /// What is wrong, field by field.
    fn admit_write(
        &self,
        mesh: &DnsLabel,
        kind: Kind,
        object: &mut Value,
        old: Option<&Value>,
        now: SystemTime,
    ) -> Result<(), Vec<Finding>>;

    /// What is to be said of objects that are, or would be, written together, for each of them: references that lead
    /// nowhere. They are written all the same.
    fn warnings(&self, mesh: &DnsLabel, together: &[&Resource]) -> Vec<Vec<Finding>> {
        let _ = mesh;
        vec![Vec::new(); together.len()]
    }

    /// Whom these writes would cut off, of those who called of late: a sentence each. They are made all the same.
    fn cut_off<'a>(
        &'a self,
        mesh: &'a DnsLabel,
        proposed: Vec<Proposed>,
    ) -> BoxFuture<'a, Vec<String>> {
        let _ = (mesh, proposed);
        Box::pin(std::future::ready(Vec::new()))
    }

    /// A number that grows whenever a derived object of this mesh may have changed. What another mesh does is nothing to
    /// look at.
    fn changes(&self, mesh: &DnsLabel) -> tokio::sync::watch::Receiver<u64>;

    /// The revision of the store at which this mesh began. What the history has of before is another's, which had the
    /// same name.
    fn begins(&self, mesh: &DnsLabel) -> u64 {
        let _ = mesh;
        0
    }

    /// Whether there is such a mesh.
    fn has_mesh(&self, mesh: &DnsLabel) -> bool {
        let _ = mesh;
        true
    }
}

/// An object as it would stand.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: DnsLabel,
    /// Its name.
    pub name: DnsLabel,
    /// What it would say; `None`: it would be deleted.
    pub resource: Option<Arc<Resource>>,
}

/// What a caller may do in a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Admin,
    /// Read.
    Viewer,
    /// Nothing.
    None,
}

/// Who sends a request. The listener that authenticated it inserts this as a request extension; a request without
/// one is answered 401.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The name, for the audit line.
    pub name: String,
    /// Where the request comes from, for the audit line.
    pub from: String,
    /// What it may do in a mesh that `meshes` does not name.
    pub elsewhere: Access,
    /// What it may do in these meshes.
    pub meshes: BTreeMap<DnsLabel, Access>,
}

impl Caller {
    /// One with the same access to every mesh, as the owner of the admin socket.
    #[must_use]
    pub fn everywhere(name: impl Into<String>, access: Access) -> Self {
        Self {
            name: name.into(),
            from: String::new(),
            elsewhere: access,
            meshes: BTreeMap::new(),
        }
    }

    /// One with access to one mesh only.
    #[must_use]
    pub fn of_mesh(name: impl Into<String>, mesh: DnsLabel, access: Access) -> Self {
        Self {
            name: name.into(),
            from: String::new(),
            elsewhere: Access::None,
            meshes: BTreeMap::from([(mesh, access)]),
        }
    }

    /// The same from somewhere: an address, or `admin socket`.
    #[must_use]
    pub fn calling_from(self, from: impl Into<String>) -> Self {
        Self {
            from: from.into(),
            ..self
        }
    }

    /// Whether it may do in `mesh` what needs `least`.
    ///
    /// # Errors
    /// Why not, and who mends it how: the end of a sentence that says what it may not.
    pub fn may(&self, mesh: &DnsLabel, least: Access) -> Result<(), String> {
        let why = match (self.access(mesh), least) {
            (Access::Admin, _) | (Access::Viewer, Access::Viewer) | (_, Access::None) => {
                return Ok(());
            }
            (Access::Viewer, Access::Admin) => {
                "its role there is viewer, which only reads, and this needs admin"
            }
            (Access::None, _) => "it has no role there",
        };
        let role = match least {
            Access::Admin => "admin",
            Access::Viewer | Access::None => "viewer",
        };
        // A person's name is a label; others have no role to be given.
        let name = self.name.rsplit_once("/user/").map(|(_, name)| name);
        let how = name.map_or(String::new(), |name| {
            format!(
                "; on the control plane's machine an admin gives it: leno user create {name} --role {role} --mesh {mesh}"
            )
        });
        Err(format!("in mesh {mesh}: {why}{how}"))
    }

    /// What it may do in `mesh`.
    #[must_use]
    pub fn access(&self, mesh: &DnsLabel) -> Access {
        self.meshes.get(mesh).copied().unwrap_or(self.elsewhere)
    }
}

/// Time and randomness, so that a simulation can give its own.
pub trait Environment: Send + Sync {
    /// The wall clock.
    fn now(&self) -> SystemTime;
    /// 128 random bits, for ids.
    fn random(&self) -> u128;
}

/// The machine's clock and a generator seeded by the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> u128 {
        fastrand::u128(..)
    }
}

/// The ceilings of the API. What reaches one is refused with a `Status` that names it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one object in a request, as Kubernetes has it.
    pub object_bytes: usize,
    /// Bytes of one batch.
    pub batch_bytes: usize,
    /// Objects of one batch.
    pub batch_objects: usize,
    /// Watches at once.
    pub watches: Share,
    /// Other requests at once.
    pub requests: Share,
    /// Bytes of all bodies that are being read and worked on.
    pub bodies: Share,
    /// Bytes of all answers about what is read that are not taken yet, with 4 KiB for each; those that are being made
    /// with what they are made of.
    pub answers: Share,
    /// How long a body may take to arrive.
    pub body_time: Duration,
    /// How long a watch lasts that does not say; the client then resumes it.
    pub watch_time: Duration,
    /// How often a quiet watch that allows bookmarks gets one.
    pub bookmark_interval: Duration,
    /// Changes of a derived collection that are kept for its watchers.
    pub derived_changes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            object_bytes: 1_536 << 10,
            batch_bytes: 16 << 20,
            batch_objects: 4_096,
            watches: Share {
                all: 1_024,
                mesh: 768,
                caller: 256,
            },
            requests: Share {
                all: 512,
                mesh: 384,
                caller: 128,
            },
            bodies: Share {
                all: 96 << 20,
                mesh: 64 << 20,
                caller: 32 << 20,
            },
            answers: Share {
                all: 256 << 20,
                mesh: 192 << 20,
                caller: 96 << 20,
            },
            body_time: Duration::from_secs(30),
            watch_time: Duration::from_secs(30 * 60),
            bookmark_interval: Duration::from_secs(60),
            derived_changes: 4_096,
        }
    }
}

/// What the API counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests, watches included.
    pub requests: AtomicU64,
    /// Watches open now.
    pub watches: AtomicU64,
    /// Watches refused because of [`Limits::watches`].
    pub watches_exceeded: AtomicU64,
    /// Watches ended because nobody read them, while others wanted their places.
    pub watches_stalled: AtomicU64,
    /// Answers broken off because nobody took them, while others wanted their room.
    pub answers_stalled: AtomicU64,
    /// Requests refused because of [`Limits::requests`], [`Limits::bodies`] or [`Limits::answers`].
    pub requests_exceeded: AtomicU64,
    /// Bodies refused because of their size or because they took too long.
    pub bodies_exceeded: AtomicU64,
    /// Objects created, changed or deleted.
    pub changes: AtomicU64,
    /// Pieces of long work: lists, batches, watches that begin or catch up.
    pub turns: AtomicU64,
}

/// The API, to be mounted with [`Api::router`].
#[derive(Clone)]
pub struct Api {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// What follows from them.
    pub derived: Arc<dyn Derived>,
    /// Clock and randomness.
    pub environment: Arc<dyn Environment>,
    /// The ceilings.
    pub limits: Limits,
    /// What is counted; keep a clone to read it.
    pub counters: Arc<Counters>,
    /// Where changes are written down.
    pub audit: Arc<dyn Audit>,
}

impl Api {
    /// The API over `store`, with the machine's clock and default limits.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, derived: Arc<dyn Derived>) -> Self {
        Self {
            store,
            derived,
            environment: Arc::new(SystemEnvironment),
            limits: Limits::default(),
            counters: Arc::default(),
            audit: Arc::new(Unaudited),
        }
    }

    /// What its answers go through, and those of routes beside it ([`hold`]).
    #[must_use]
    pub fn answers(&self) -> Arc<Answers> {
        Answers::new(&self.limits, Arc::clone(&self.counters))
    }

    /// Answers `/version` and everything under `/meshes/`. Merge it with routes of your own: those that are more
    /// specific win, also under `/meshes/{mesh}/leno/v1/`; what those answer goes through the same `answers` by [`hold`].
    pub fn router(self, answers: Arc<Answers>) -> axum::Router {
        let server = Arc::new(handler::Server::new(self, answers));
        axum::Router::new()
            .route("/version", any(handler::handle))
            .route("/meshes/{*path}", any(handler::handle))
            .with_state(server)
    }
}

/// The collection of the store that holds objects of `kind`: `services`, `httproutes.gateway.networking.k8s.io`.
/// A value there is the object as JSON, defaulted, without `status` and `metadata.resourceVersion`.
#[must_use]
pub fn store_resource(kind: Kind) -> String {
    match kind.group() {
        "" => kind.plural().into(),
        group => format!("{}.{group}", kind.plural()),
    }
}

/// Where the store holds an object.
#[must_use]
pub fn store_key(mesh: &DnsLabel, kind: Kind, namespace: &str, name: &str) -> Key {
    Key::new(mesh.clone(), store_resource(kind), namespace, name)
}
