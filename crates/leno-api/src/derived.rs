//! Derived collections with versions: what makes an EndpointSlice listable and watchable as a stored object is.
//!
//! Each collection that somebody reads is kept as it was last derived, with a bounded log of its changes, brought up
//! to date when it is read. Its revisions begin at the clock, so that one from before a restart is not taken for one
//! of now.
//! Invariant: revisions in a log are contiguous and end at the collection's head.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use leno_config::Kind;
use leno_types::DnsLabel;
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    Derived,
    changes::{ObjectChange, Scope, Step},
    object::{self, Body, Item},
    status::ApiError,
};

/// Collections that are kept. There are two kinds for each mesh; above this all are forgotten and watchers list again.
const MAX_COLLECTIONS: usize = 2_048;

type Name = (Arc<str>, Arc<str>);

/// All collections that somebody reads.
pub(crate) struct Collections {
    derived: Arc<dyn Derived>,
    max_changes: usize,
    map: Mutex<HashMap<(DnsLabel, Kind), Arc<Collection>>>,
}

struct Collection {
    mesh: DnsLabel,
    /// [`Derived::begins`] of the mesh: of a later one of the same name it is no collection.
    begins: u64,
    kind: Kind,
    derived: Arc<dyn Derived>,
    max_changes: usize,
    state: Mutex<State>,
}

struct State {
    /// [`Derived::changes`] when it was last brought up to date.
    version: Option<u64>,
    objects: BTreeMap<Name, Arc<Value>>,
    log: VecDeque<ObjectChange>,
    /// The revision before the first in the log.
    oldest: u64,
}

impl State {
    fn head(&self) -> u64 {
        self.oldest + self.log.len() as u64
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collections {
    pub(crate) fn new(derived: Arc<dyn Derived>, max_changes: usize) -> Self {
        Self {
            derived,
            max_changes,
            map: Mutex::default(),
        }
    }

    fn collection(&self, mesh: &DnsLabel, kind: Kind, now: SystemTime) -> Arc<Collection> {
        let mut map = locked(&self.map);
        if map.len() >= MAX_COLLECTIONS && !map.contains_key(&(mesh.clone(), kind)) {
            tracing::warn!(limit = MAX_COLLECTIONS, "derived collections are forgotten");
            map.clear();
        }
        let begins = self.derived.begins(mesh);
        map.retain(|(of, _), collection| of != mesh || collection.begins == begins);
        let start = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(1, |since| u64::try_from(since.as_micros()).unwrap_or(1));
        let new = || {
            Arc::new(Collection {
                mesh: mesh.clone(),
                begins,
                kind,
                derived: Arc::clone(&self.derived),
                max_changes: self.max_changes,
                state: Mutex::new(State {
                    version: None,
                    objects: BTreeMap::new(),
                    log: VecDeque::new(),
                    oldest: start,
                }),
            })
        };
        Arc::clone(map.entry((mesh.clone(), kind)).or_insert_with(new))
    }

    /// The objects of a scope, ordered, with their revision.
    pub(crate) fn list(&self, scope: &Scope, now: SystemTime) -> (Vec<Item>, u64) {
        let collection = self.collection(&scope.mesh, scope.kind, now);
        let state = collection.refreshed();
        let items = state
            .objects
            .iter()
            .filter(|((namespace, name), _)| scope.contains(namespace, name))
            .map(|((namespace, name), value)| Item {
                namespace: Arc::clone(namespace),
                name: Arc::clone(name),
                body: Body::Derived(Arc::clone(value)),
            })
            .collect();
        (items, state.head())
    }

    /// Changes of a scope after revision `from`.
    pub(crate) fn watch(
        &self,
        scope: Scope,
        from: u64,
        now: SystemTime,
    ) -> Result<DerivedWatch, ApiError> {
        let changes = self.derived.changes(&scope.mesh);
        let collection = self.collection(&scope.mesh, scope.kind, now);
        {
            let state = collection.refreshed();
            if from < state.oldest || from > state.head() {
                return Err(too_old(from, state.oldest));
            }
        }
        Ok(DerivedWatch {
            collection,
            changes,
            scope,
            seen: from,
        })
    }
}

fn too_old(from: u64, oldest: u64) -> ApiError {
    ApiError::expired(format!(
        "too old resource version: {from} (oldest: {oldest}): list again"
    ))
}

impl Collection {
    /// The state, brought up to date.
    fn refreshed(&self) -> MutexGuard<'_, State> {
        // Before the list: what changes while it is made is seen as a change the next time.
        let version = *self.derived.changes(&self.mesh).borrow();
        let mut state = locked(&self.state);
        if state.version == Some(version) {
            return state;
        }
        let mut next = BTreeMap::new();
        for value in self.derived.list(&self.mesh, self.kind, None) {
            let name = (
                object::meta_text(&value, "namespace").into(),
                object::meta_text(&value, "name").into(),
            );
            next.insert(name, value);
        }
        let first = state.version.is_none();
        state.update(next);
        if first {
            // What was there when it was first read is the state at the start, not a change.
            let head = state.head();
            state.log.clear();
            state.oldest = head;
        }
        while state.log.len() > self.max_changes {
            state.log.pop_front();
            state.oldest += 1;
        }
        state.version = Some(version);
        state
    }
}

impl State {
    /// Takes `next` as the state, and logs what differs.
    fn update(&mut self, next: BTreeMap<Name, Value>) {
        let gone: Vec<Name> = self
            .objects
            .keys()
            .filter(|name| !next.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            let old = self.objects.remove(&name);
            self.record(name, old, None);
        }
        for (name, mut value) in next {
            let old = self.objects.get(&name).cloned();
            if let Some(old) = &old
                && let Ok(revision) = object::meta_text(old, "resourceVersion").parse()
            {
                object::set_revision(&mut value, revision);
                if **old == value {
                    continue;
                }
            }
            object::set_revision(&mut value, self.head() + 1);
            let value = Arc::new(value);
            self.objects.insert(name.clone(), Arc::clone(&value));
            self.record(name, old, Some(value));
        }
    }

    fn record(&mut self, name: Name, old: Option<Arc<Value>>, new: Option<Arc<Value>>) {
        self.log.push_back(ObjectChange {
            revision: self.head() + 1,
            namespace: name.0,
            name: name.1,
            old: old.map(Body::Derived),
            new: new.map(Body::Derived),
        });
    }
}

/// Changes of one derived collection, from a position in its log.
pub(crate) struct DerivedWatch {
    collection: Arc<Collection>,
    changes: watch::Receiver<u64>,
    scope: Scope,
    seen: u64,
}

impl DerivedWatch {
    /// The next change; waits for it. May be dropped while waiting.
    pub(crate) async fn next(&mut self) -> Result<Step, ApiError> {
        loop {
            self.changes.borrow_and_update();
            if let Some(step) = self.try_next()? {
                return Ok(step);
            }
            let ended = |_| ApiError::expired("what this watch tells of has ended: list again");
            self.changes.changed().await.map_err(ended)?;
        }
    }

    fn try_next(&mut self) -> Result<Option<Step>, ApiError> {
        let state = self.collection.refreshed();
        let index = self
            .seen
            .checked_sub(state.oldest)
            .ok_or_else(|| too_old(self.seen, state.oldest))?;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(change) = state.log.get(index) else {
            return Ok(None);
        };
        let change = change.clone();
        drop(state);
        self.seen = change.revision;
        let ours = self.scope.contains(&change.namespace, &change.name);
        Ok(Some(Step {
            revision: change.revision,
            change: ours.then_some(change),
        }))
    }

    pub(crate) const fn revision(&self) -> u64 {
        self.seen
    }
}
