//! What one worker knows: the mesh, the workloads of this host, and the tables of everything else.
//!
//! Nothing here is shared with another thread. Tables change only by updates from the mailbox; who keeps a row over an
//! await holds an `Rc` of it, never a borrow.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use leno_http::Corker;
use leno_ir::{Mesh, OwnWorkload, WorkloadPort};
use leno_runtime::{Scope, Stop};
use leno_telemetry::counters::Counter;
use leno_tls::{Acceptor, ServerIdentities, TlsError, TrustBundle, WorkloadCertificate};
use leno_types::{DnsLabel, Identity, WorkloadUid};

use crate::{
    AppDial, Limits, WorkerConfig,
    app::AppSide,
    callers::Callers,
    clusters::Clusters,
    counters::count,
    destinations::Destinations,
    ending::Ending,
    inbound::{Admission, Strangers},
    outbox::Outbox,
    outsiders::Outsiders,
    overload::Load,
    places::WorkloadPlaces,
    pool::Pool,
    record::Record,
};

/// Everything one worker knows.
pub(crate) struct Shared {
    pub(crate) config: WorkerConfig,
    /// The same as in `config`, as leno-http wants it.
    pub(crate) http: Rc<leno_http::Limits>,
    pub(crate) corker: Corker,
    /// Connections and streams; its stop is the worker's.
    pub(crate) scope: Scope,
    /// Mesh connections, reports and sweeps: they outlive the streams.
    pub(crate) background: Scope,
    pub(crate) outbox: Outbox,
    pub(crate) mesh: RefCell<Option<Rc<Mesh>>>,
    /// Whether questions are answered at present.
    pub(crate) connected: Cell<bool>,
    pub(crate) locals: RefCell<HashMap<WorkloadUid, Rc<Local>>>,
    pub(crate) destinations: Destinations,
    pub(crate) clusters: Clusters,
    pub(crate) acceptor: RefCell<Option<Acceptor>>,
    pub(crate) handshakes: Strangers,
    /// Connections from outside the mesh on which nothing was said yet.
    pub(crate) silent: Strangers,
    pub(crate) record: Record,
    pub(crate) outsiders: Outsiders,
    pub(crate) callers: Callers,
    pub(crate) load: Load,
}

/// A workload of this host. It may be known by its sockets or certificate before it is described.
pub(crate) struct Local {
    pub(crate) uid: WorkloadUid,
    info: RefCell<Option<Rc<Described>>>,
    certificate: RefCell<Option<Rc<Held>>>,
    /// Ends with each certificate: connections that began under it drain.
    epoch: RefCell<Stop>,
    pub(crate) pool: Pool,
    pub(crate) app: AppSide,
    pub(crate) places: WorkloadPlaces,
    admissions: RefCell<Vec<Weak<Admission>>>,
    /// Its listeners and connections drain.
    pub(crate) stop: Stop,
    /// Its own calls end.
    pub(crate) ending: Ending,
}

/// A workload as the control plane describes it, with what is derived from that.
pub(crate) struct Described {
    pub(crate) own: OwnWorkload,
    /// Counts descriptions: what was admitted under an older one is looked at again.
    pub(crate) generation: u64,
    pub(crate) labels: Labels,
    /// Its name, as `x-leno-refused` says it.
    pub(crate) name: Rc<str>,
    /// Its own `x-leno-from` field.
    pub(crate) from: http::HeaderValue,
}

/// A workload's names, as metrics want them.
#[derive(Clone, Debug)]
pub(crate) struct Labels {
    pub(crate) workload: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) service: Arc<str>,
}

/// A workload's certificate.
pub(crate) struct Held {
    pub(crate) certificate: WorkloadCertificate,
    pub(crate) bundle: TrustBundle,
    /// No request begins on it later.
    pub(crate) expires: Instant,
}

impl Held {
    pub(crate) fn generation(&self) -> u64 {
        self.certificate.generation()
    }
}

/// When a moment of the wall clock will be, by the clock that does not jump.
pub(crate) fn instant_of(at: SystemTime) -> Instant {
    let left = at
        .duration_since(SystemTime::now())
        .unwrap_or(Duration::ZERO);
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now)
}

impl Described {
    fn new(own: OwnWorkload, generation: u64) -> Self {
        let service = own.service.as_ref();
        let labels = Labels {
            workload: own.name.as_str().into(),
            namespace: own.namespace.as_str().into(),
            version: own.version.as_str().into(),
            service: service.map_or_else(|| "unknown".into(), |service| service.host().into()),
        };
        let from = crate::metadata::from_field(&own);
        Self {
            name: own.name.as_str().into(),
            own,
            generation,
            labels,
            from,
        }
    }

    /// The port of the program with this number.
    pub(crate) fn port(&self, port: u16) -> Option<&WorkloadPort> {
        self.own.ports.iter().find(|of| of.port == port)
    }

    /// The port that is published as this one.
    pub(crate) fn published(&self, port: u16) -> Option<&WorkloadPort> {
        self.own.ports.iter().find(|of| of.published == Some(port))
    }
}

impl Local {
    fn new(uid: WorkloadUid, stop: Stop, limits: &Limits) -> Self {
        Self {
            uid,
            info: RefCell::new(None),
            certificate: RefCell::new(None),
            epoch: RefCell::new(stop.child()),
            pool: Pool::default(),
            app: AppSide::default(),
            places: WorkloadPlaces::new(limits),
            admissions: RefCell::default(),
            stop,
            ending: Ending::default(),
        }
    }

    /// What it is; `None` until the control plane said so.
    pub(crate) fn info(&self) -> Option<Rc<Described>> {
        self.info.borrow().clone()
    }

    /// Its name, as far as it is known.
    pub(crate) fn name(&self) -> Rc<str> {
        let info = self.info.borrow();
        info.as_ref()
            .map_or_else(|| self.uid.to_string().into(), |info| Rc::clone(&info.name))
    }

    /// Its certificate, unless it is past its end.
    pub(crate) fn certificate(&self, now: Instant) -> Option<Rc<Held>> {
        let held = self.certificate.borrow();
        held.as_ref().filter(|held| now < held.expires).cloned()
    }

    /// Who it is.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let held = self.certificate.borrow();
        held.as_ref()
            .map(|held| held.certificate.identity().clone())
    }

    /// Ends when its certificate is renewed, or with itself.
    pub(crate) fn epoch(&self) -> Stop {
        self.epoch.borrow().clone()
    }

    /// Takes a description; what was admitted and is now denied ends.
    pub(crate) fn describe(&self, own: OwnWorkload) {
        let old = self.info.borrow().as_ref().map_or(0, |old| old.generation);
        let described = Rc::new(Described::new(own, old + 1));
        self.info.replace(Some(Rc::clone(&described)));
        self.admissions.borrow_mut().retain(|admission| {
            let Some(admission) = admission.upgrade() else {
                return false;
            };
            let goes_on = admission.review(&described);
            if !goes_on {
                count(Counter::PolicyEndedStreams);
            }
            goes_on
        });
    }

    /// Remembers what was admitted.
    pub(crate) fn admit(&self, admission: &Rc<Admission>) {
        self.admissions.borrow_mut().push(Rc::downgrade(admission));
        if self.ending.cancel.is_cancelled() {
            admission.ending.throw();
        }
    }

    /// Ends its own calls and what was admitted: it has left, and nobody looks at newer policies for it.
    pub(crate) fn end_streams(&self) {
        self.ending.throw();
        for admission in self.admissions.borrow().iter().filter_map(Weak::upgrade) {
            admission.ending.throw();
        }
    }

    /// Forgets admissions that nobody uses any more.
    pub(crate) fn sweep(&self) {
        self.admissions
            .borrow_mut()
            .retain(|admission| admission.strong_count() > 0);
    }

    /// Peers are told to use no more of this workload's connections.
    pub(crate) fn send_callers_away(&self) {
        self.epoch.replace(self.stop.child()).trigger();
    }

    /// Takes a certificate: everything under the old one drains.
    fn certify(&self, certificate: WorkloadCertificate, bundle: TrustBundle) {
        let held = Rc::new(Held {
            expires: instant_of(certificate.not_after()),
            certificate,
            bundle,
        });
        let generation = held.generation();
        self.certificate.replace(Some(held));
        self.send_callers_away();
        self.pool.rotate(generation);
    }
}

impl Shared {
    /// The workload with this id, known from now on.
    pub(crate) fn local(&self, uid: WorkloadUid) -> Rc<Local> {
        let mut locals = self.locals.borrow_mut();
        let make = || {
            Rc::new(Local::new(
                uid,
                self.scope.stop().child(),
                &self.config.limits,
            ))
        };
        Rc::clone(locals.entry(uid).or_insert_with(make))
    }

    /// The workload with this id, if it is here.
    pub(crate) fn known_local(&self, uid: WorkloadUid) -> Option<Rc<Local>> {
        self.locals.borrow().get(&uid).cloned()
    }

    /// Whether the mesh has services in this namespace, as far as can be told.
    pub(crate) fn has_namespace(&self, namespace: &DnsLabel) -> bool {
        let mesh = self.mesh.borrow();
        mesh.as_ref()
            .is_none_or(|mesh| mesh.namespaces.contains(namespace))
    }

    /// The workload at this address, if there is exactly one.
    pub(crate) fn only_local_at(&self, address: IpAddr) -> Option<WorkloadUid> {
        let locals = self.locals.borrow();
        let mut at = locals.values().filter(|local| {
            local
                .info()
                .is_some_and(|info| info.own.addresses.contains(&address))
        });
        let only = at.next()?;
        at.next().is_none().then_some(only.uid)
    }

    /// The workload of a captured namespace that `destination` is about: the one that serves it, or else the one that
    /// the namespace is, at whichever of its addresses; `None` while nobody said what that is.
    pub(crate) fn captured(&self, destination: SocketAddr) -> Option<Rc<Local>> {
        let locals = self.locals.borrow();
        let serving = locals.values().find(|local| {
            local.info().is_some_and(|info| {
                info.own.addresses.contains(&destination.ip())
                    && info.port(destination.port()).is_some()
            })
        });
        let whole = || {
            let marked = |local: &&Rc<Local>| local.app.dial() == AppDial::Marked;
            locals
                .values()
                .filter(marked)
                .find(|local| local.info().is_some())
        };
        serving.or_else(whole).cloned()
    }

    /// Takes a certificate. The acceptor serves it from now on.
    ///
    /// # Errors
    /// When the certificates cannot be served with.
    pub(crate) fn certify(
        &self,
        uid: WorkloadUid,
        certificate: WorkloadCertificate,
        bundle: TrustBundle,
    ) -> Result<(), TlsError> {
        self.local(uid).certify(certificate, bundle.clone());
        self.rebuild_acceptor(bundle)
    }

    fn rebuild_acceptor(&self, bundle: TrustBundle) -> Result<(), TlsError> {
        let certificates: Vec<WorkloadCertificate> = {
            let locals = self.locals.borrow();
            let held = locals
                .values()
                .filter_map(|local| local.certificate(Instant::now()));
            held.map(|held| held.certificate.clone()).collect()
        };
        let identities = ServerIdentities::new(certificates, bundle, SystemTime::now());
        let acceptor = if identities.is_empty() {
            None
        } else {
            Some(Acceptor::new(&identities)?)
        };
        self.acceptor.replace(acceptor);
        Ok(())
    }

    /// Takes a workload out: nobody reaches it any more, and it drains.
    pub(crate) fn remove(&self, uid: WorkloadUid) -> Option<Rc<Local>> {
        let local = self.locals.borrow_mut().remove(&uid)?;
        let bundle = local
            .certificate(Instant::now())
            .map(|held| held.bundle.clone());
        if let Some(bundle) = bundle
            && let Err(error) = self.rebuild_acceptor(bundle)
        {
            tracing::error!(%error, "the certificates of the remaining workloads cannot be served with");
        }
        Some(local)
    }
}
