//! What the control plane adds to a kind that people write: the statuses of stored objects, and objects that nobody
//! wrote (services of what runs). None of it is in the store, so none of it has a revision there.
//!
//! Kept for each collection that somebody reads, as it was last seen, and when each part of it changed: in an order of
//! its own, and at which head of the store. A watch tells such a change after the store's own up to there, and one that
//! resumes is told again what changed at or after its revision. So nothing is lost; what is told twice is the same.
//! Invariant: of what is there the last change is always known, of what is gone the last [`Overlays::max_gone`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use leno_config::Kind;
use leno_store::Store;
use leno_types::DnsLabel;
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use crate::{
    Derived,
    changes::Scope,
    object::{self, Body, Item},
    status::ApiError,
};

/// Overlays that are kept: one for each kind and mesh. Above this all are forgotten and watchers list again.
const MAX_OVERLAYS: usize = 2_048;
/// How long changes are gathered before they are looked at: a proxy that acknowledges is many of them.
const GATHERED: Duration = Duration::from_millis(200);

type Name = (Arc<str>, Arc<str>);

/// One change that the store does not know of.
#[derive(Clone, Debug)]
pub(crate) struct OverlayChange {
    order: u64,
    /// The store's head when it was seen.
    at: u64,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) what: What,
}

/// What has changed.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// The status of a stored object.
    Status,
    /// An object that nobody wrote is there.
    Added(Body),
    /// It has changed.
    Modified(Body),
    /// It is gone.
    Deleted(Body),
}

/// All overlays that somebody reads.
pub(crate) struct Overlays {
    derived: Arc<dyn Derived>,
    store: Arc<dyn Store>,
    /// The store's head when this began: of before nothing is known.
    began: u64,
    max_gone: usize,
    map: Mutex<HashMap<(DnsLabel, Kind), Arc<Overlay>>>,
}

struct Overlay {
    mesh: DnsLabel,
    /// [`Derived::begins`] of the mesh: of a later one of the same name it is no overlay.
    begins: u64,
    kind: Kind,
    derived: Arc<dyn Derived>,
    store: Arc<dyn Store>,
    max_gone: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// [`Derived::changes`] when it was last brought up to date.
    version: Option<u64>,
    /// The order of the last change.
    head: u64,
    statuses: BTreeMap<Name, (Value, OverlayChange)>,
    unwritten: BTreeMap<Name, (Arc<Value>, OverlayChange)>,
    gone: VecDeque<OverlayChange>,
    /// What was gone before this head of the store is not known.
    unknown: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Overlays {
    pub(crate) fn new(derived: Arc<dyn Derived>, store: Arc<dyn Store>, max_gone: usize) -> Self {
        Self {
            began: store.revision(),
            derived,
            store,
            max_gone,
            map: Mutex::default(),
        }
    }

    fn overlay(&self, mesh: &DnsLabel, kind: Kind) -> Arc<Overlay> {
        let mut map = locked(&self.map);
        let begins = self.derived.begins(mesh);
        map.retain(|(of, _), overlay| of != mesh || overlay.begins == begins);
        let mut unknown = self.began.max(begins);
        if map.len() >= MAX_OVERLAYS && !map.contains_key(&(mesh.clone(), kind)) {
            tracing::warn!(limit = MAX_OVERLAYS, "what watches were told is forgotten");
            map.clear();
            unknown = self.store.revision();
        }
        let new = || {
            Arc::new(Overlay {
                mesh: mesh.clone(),
                begins,
                kind,
                derived: Arc::clone(&self.derived),
                store: Arc::clone(&self.store),
                max_gone: self.max_gone,
                state: Mutex::new(State {
                    // Of other kinds nothing is ever gone that the store does not know of.
                    unknown: if kind == Kind::Service { unknown } else { 0 },
                    ..State::default()
                }),
            })
        };
        Arc::clone(map.entry((mesh.clone(), kind)).or_insert_with(new))
    }

    /// The objects of a scope that nobody wrote.
    pub(crate) fn unwritten(&self, scope: &Scope) -> Vec<Item> {
        let overlay = self.overlay(&scope.mesh, scope.kind);
        let state = overlay.refreshed();
        let item = |(name, (value, _)): (&Name, &(Arc<Value>, OverlayChange))| Item {
            namespace: Arc::clone(&name.0),
            name: Arc::clone(&name.1),
            body: Body::Derived(Arc::clone(value)),
        };
        if let (Some(namespace), Some(name)) = (&scope.namespace, &scope.name) {
            let name = (namespace.as_str().into(), name.as_str().into());
            return state
                .unwritten
                .get_key_value(&name)
                .map(item)
                .into_iter()
                .collect();
        }
        let inside = |name: &Name| scope.contains(&name.0, &name.1);
        let objects = state.unwritten.iter().filter(|(name, _)| inside(name));
        objects.map(item).collect()
    }

    /// Changes of a scope: those since revision `from` of the store, or with `None` those from now on.
    pub(crate) fn watch(&self, scope: Scope, from: Option<u64>) -> Result<OverlayWatch, ApiError> {
        let changes = self.derived.changes(&scope.mesh);
        let overlay = self.overlay(&scope.mesh, scope.kind);
        let mut watch = OverlayWatch {
            overlay: Arc::clone(&overlay),
            changes,
            scope,
            seen: 0,
            pending: VecDeque::new(),
            due: None,
        };
        let state = overlay.refreshed();
        match from {
            None => watch.seen = state.head,
            Some(from) if from < state.unknown => {
                let oldest = state.unknown;
                return Err(ApiError::expired(format!(
                    "too old resource version: {from} (oldest: {oldest}): list again"
                )));
            }
            Some(from) => watch.gather(&state, |change| change.at >= from),
        }
        drop(state);
        Ok(watch)
    }
}

impl Overlay {
    /// The state, brought up to date.
    fn refreshed(&self) -> MutexGuard<'_, State> {
        // Before the rest: what changes meanwhile is seen as a change the next time.
        let version = *self.derived.changes(&self.mesh).borrow();
        let mut state = locked(&self.state);
        if state.version == Some(version) {
            return state;
        }
        let at = self.store.revision();
        let name_of = |value: &Value| -> Name {
            let text = |field| object::meta_text(value, field).into();
            (text("namespace"), text("name"))
        };
        let unwritten = self.derived.list(&self.mesh, self.kind, None);
        let unwritten = unwritten.into_iter().map(|value| (name_of(&value), value));
        state.update_unwritten(unwritten.collect(), at);
        let statuses = self.derived.statuses(&self.mesh, self.kind);
        let statuses = statuses
            .into_iter()
            .map(|(namespace, name, status)| ((namespace.into(), name.into()), status));
        state.update_statuses(statuses.collect(), at);
        while state.gone.len() > self.max_gone {
            if let Some(gone) = state.gone.pop_front() {
                state.unknown = gone.at;
            }
        }
        state.version = Some(version);
        state
    }
}

impl State {
    fn change(&mut self, name: &Name, what: What, at: u64) -> OverlayChange {
        self.head += 1;
        OverlayChange {
            order: self.head,
            at,
            namespace: Arc::clone(&name.0),
            name: Arc::clone(&name.1),
            what,
        }
    }

    fn update_statuses(&mut self, next: BTreeMap<Name, Value>, at: u64) {
        self.statuses.retain(|name, _| next.contains_key(name));
        for (name, status) in next {
            if self
                .statuses
                .get(&name)
                .is_none_or(|(old, _)| *old != status)
            {
                let change = self.change(&name, What::Status, at);
                self.statuses.insert(name, (status, change));
            }
        }
    }

    fn update_unwritten(&mut self, next: BTreeMap<Name, Value>, at: u64) {
        let is_gone = |name: &&Name| !next.contains_key(*name);
        let gone: Vec<Name> = self.unwritten.keys().filter(is_gone).cloned().collect();
        for name in gone {
            if let Some((old, _)) = self.unwritten.remove(&name) {
                let change = self.change(&name, What::Deleted(Body::Derived(old)), at);
                self.gone.push_back(change);
            }
        }
        for (name, mut value) in next {
            let old = self.unwritten.get(&name).map(|(old, _)| Arc::clone(old));
            if let Some(old) = &old
                && let Ok(revision) = object::meta_text(old, "resourceVersion").parse()
            {
                object::set_revision(&mut value, revision);
                if **old == value {
                    continue;
                }
            }
            object::set_revision(&mut value, at);
            let value = Arc::new(value);
            let body = Body::Derived(Arc::clone(&value));
            let what = match old {
                Some(_) => What::Modified(body),
                None => What::Added(body),
            };
            let change = self.change(&name, what, at);
            self.unwritten.insert(name, (value, change));
        }
    }

    fn all(&self) -> impl Iterator<Item = &OverlayChange> {
        let statuses = self.statuses.values().map(|(_, change)| change);
        let unwritten = self.unwritten.values().map(|(_, change)| change);
        statuses.chain(unwritten).chain(&self.gone)
    }
}

/// Changes of one overlay, from a position in its log.
pub(crate) struct OverlayWatch {
    overlay: Arc<Overlay>,
    changes: watch::Receiver<u64>,
    scope: Scope,
    /// The order of the last change that was gathered.
    seen: u64,
    /// What is to be told.
    pending: VecDeque<OverlayChange>,
    /// When what has changed is looked at.
    due: Option<Instant>,
}

impl OverlayWatch {
    fn gather(&mut self, state: &State, wanted: impl Fn(&OverlayChange) -> bool) {
        let scope = &self.scope;
        let inside = |change: &&OverlayChange| scope.contains(&change.namespace, &change.name);
        let changes = state.all().filter(|change| wanted(change)).filter(inside);
        let mut changes: Vec<OverlayChange> = changes.cloned().collect();
        changes.sort_by_key(|change| change.order);
        self.pending.extend(changes);
        self.seen = state.head;
    }

    /// Ready once it may be worth to look again. May be dropped while waiting.
    pub(crate) async fn changed(&mut self) -> Result<(), ApiError> {
        if self.due.is_none() {
            let ended = |_| ApiError::expired("what this watch tells of has ended: list again");
            self.changes.changed().await.map_err(ended)?;
        }
        let due = *self.due.get_or_insert_with(|| Instant::now() + GATHERED);
        tokio::time::sleep_until(due).await;
        self.due = None;
        self.look();
        Ok(())
    }

    /// Gathers what has changed since the last look.
    fn look(&mut self) {
        let overlay = Arc::clone(&self.overlay);
        let state = overlay.refreshed();
        let seen = self.seen;
        self.gather(&state, |change| change.order > seen);
    }

    /// The next change that may be told once the store's changes up to `head` were.
    pub(crate) fn next(&mut self, head: u64) -> Option<OverlayChange> {
        self.pending.pop_front_if(|change| change.at <= head)
    }
}
