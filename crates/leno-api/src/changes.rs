//! One way to read both sorts of collections, stored and derived: a state, and the changes after it.

use std::{collections::BTreeMap, sync::Arc};

use leno_config::Kind;
use leno_store::{Change, Entry, Store, Watch};
use leno_types::DnsLabel;

use crate::{
    derived::DerivedWatch,
    handler::Server,
    object::{Body, Item},
    overlay::{OverlayChange, OverlayWatch, What},
    status::ApiError,
    store_key, store_resource,
};

/// Which objects of a kind.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) mesh: DnsLabel,
    pub(crate) kind: Kind,
    /// `None`: of all namespaces.
    pub(crate) namespace: Option<String>,
    /// `None`: all.
    pub(crate) name: Option<String>,
}

impl Scope {
    /// Whether the object of this name is one of them.
    pub(crate) fn contains(&self, namespace: &str, name: &str) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|ours| ours == namespace)
            && self.name.as_deref().is_none_or(|ours| ours == name)
    }
}

/// A change of one object.
#[derive(Clone, Debug)]
pub(crate) struct ObjectChange {
    pub(crate) revision: u64,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// What was there before.
    pub(crate) old: Option<Body>,
    /// What is there now.
    pub(crate) new: Option<Body>,
}

/// One step of a history: a revision, and the change if it is in scope.
pub(crate) struct Step {
    pub(crate) revision: u64,
    pub(crate) change: Option<ObjectChange>,
}

/// The changes of a scope.
pub(crate) enum Source {
    Stored(Box<StoredChanges>),
    Derived(Box<DerivedWatch>),
}

/// The changes of what people write, with what the control plane adds to it.
pub(crate) struct StoredChanges {
    store: Arc<dyn Store>,
    watch: Watch,
    overlay: Option<OverlayWatch>,
    scope: Scope,
    resource: String,
}

/// From when on a watch wants what is not in the store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// It is not wanted.
    Nothing,
    /// From now on.
    Now,
    /// Also what changed since the revision at which the watch begins.
    Since,
}

impl Source {
    /// Changes after `from`.
    pub(crate) fn open(
        server: &Server,
        scope: Scope,
        from: u64,
        beside: Beside,
    ) -> Result<Self, ApiError> {
        if scope.kind.derived() {
            let now = server.api.environment.now();
            let watch = server.collections.watch(scope, from, now)?;
            return Ok(Self::Derived(Box::new(watch)));
        }
        let begins = server.api.derived.begins(&scope.mesh);
        if from < begins {
            // The history has it, of a mesh that was removed: nobody of this one may read it.
            return Err(ApiError::expired(format!(
                "too old resource version: {from} (the mesh began at {begins}): list again"
            )));
        }
        let watch = server
            .api
            .store
            .watch(from)
            .map_err(|error| ApiError::store(&error))?;
        let overlays = &server.overlays;
        let overlay = match beside {
            Beside::Nothing => None,
            Beside::Now => Some(overlays.watch(scope.clone(), None)?),
            Beside::Since => Some(overlays.watch(scope.clone(), Some(from))?),
        };
        Ok(Self::Stored(Box::new(StoredChanges {
            store: Arc::clone(&server.api.store),
            watch,
            overlay,
            resource: store_resource(scope.kind),
            scope,
        })))
    }

    /// The next step; waits for it. May be dropped while waiting.
    pub(crate) async fn next(&mut self) -> Result<Step, ApiError> {
        match self {
            Self::Stored(stored) => stored.next().await,
            Self::Derived(watch) => watch.next().await,
        }
    }

    /// The revision up to which everything was told.
    pub(crate) const fn revision(&self) -> u64 {
        match self {
            Self::Stored(stored) => stored.watch.revision(),
            Self::Derived(watch) => watch.revision(),
        }
    }
}

impl StoredChanges {
    async fn next(&mut self) -> Result<Step, ApiError> {
        loop {
            let head = self.watch.revision();
            while let Some(change) = self.overlay.as_mut().and_then(|overlay| overlay.next(head)) {
                if let Some(change) = self.added(change, head)? {
                    return Ok(Step {
                        revision: head,
                        change: Some(change),
                    });
                }
            }
            let looked = async {
                match &mut self.overlay {
                    Some(overlay) => overlay.changed().await,
                    None => std::future::pending().await,
                }
            };
            let (change, previous) = tokio::select! {
                // What the store knows comes first, so that what is added to it is never told before it.
                biased;
                next = self.watch.next_with_previous() => {
                    next.map_err(|error| ApiError::store(&error))?
                }
                looked = looked => {
                    looked?;
                    continue;
                }
            };
            let key = change.key();
            let ours = key.mesh == self.scope.mesh
                && *key.resource == *self.resource
                && self.scope.contains(&key.namespace, &key.name);
            return Ok(Step {
                revision: change.revision(),
                change: ours.then(|| stored_change(change, previous)),
            });
        }
    }

    /// What a change beside the store is to a watcher. An object that nobody wrote is not told of while there is one
    /// of that name which somebody did: its own changes are.
    fn added(&self, change: OverlayChange, head: u64) -> Result<Option<ObjectChange>, ApiError> {
        let OverlayChange {
            namespace,
            name,
            what,
            ..
        } = change;
        let Scope { mesh, kind, .. } = &self.scope;
        let written = self
            .store
            .get(&store_key(mesh, *kind, &namespace, &name))
            .map_err(|error| ApiError::store(&error))?
            .map(Body::Stored);
        let (old, new) = match (what, written) {
            (What::Status, None) => return Ok(None),
            // Changed since: the store's own change tells of it, in its turn. Told now, it would let a client that is
            // cut off here resume beyond what it was not told of yet.
            (What::Status, Some(Body::Stored(entry))) if entry.revision > head => return Ok(None),
            (What::Status, Some(body)) => (Some(body.clone()), Some(body)),
            (_, Some(_)) => return Ok(None),
            (What::Added(body), None) => (None, Some(body)),
            (What::Modified(body), None) => (Some(body.clone()), Some(body)),
            (What::Deleted(body), None) => (Some(body), None),
        };
        Ok(Some(ObjectChange {
            revision: head,
            namespace,
            name,
            old,
            new,
        }))
    }
}

fn stored_change(change: Change, previous: Option<Entry>) -> ObjectChange {
    let key = change.key();
    ObjectChange {
        revision: change.revision(),
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(&key.name),
        old: previous.map(Body::Stored),
        new: match change {
            Change::Put(entry) => Some(Body::Stored(entry)),
            Change::Delete { .. } => None,
        },
    }
}

/// The objects of a scope now, ordered by namespace and name, and the revision they are of.
pub(crate) fn current(server: &Server, scope: &Scope) -> Result<(Vec<Item>, u64), ApiError> {
    if scope.kind.derived() {
        return Ok(server.collections.list(scope, server.api.environment.now()));
    }
    let (entries, revision) = server
        .api
        .store
        .list(
            &scope.mesh,
            &store_resource(scope.kind),
            scope.namespace.as_deref(),
        )
        .map_err(|error| ApiError::store(&error))?;
    let items = entries
        .into_iter()
        .filter(|entry| scope.contains(&entry.key.namespace, &entry.key.name))
        .map(|entry| Item {
            namespace: Arc::clone(&entry.key.namespace),
            name: Arc::clone(&entry.key.name),
            body: Body::Stored(entry),
        })
        .collect();
    Ok((items, revision))
}

/// The objects of a scope as they were at `revision`: those of now, with the changes since taken back. So the pages
/// of a list are of one moment, and an exact list is exact.
pub(crate) async fn at(
    server: &Server,
    scope: &Scope,
    revision: u64,
) -> Result<Vec<Item>, ApiError> {
    let (items, head) = current(server, scope)?;
    if revision == head {
        return Ok(items);
    }
    let mut source = Source::open(server, scope.clone(), revision, Beside::Nothing)?;
    let mut state: BTreeMap<_, _> = items
        .into_iter()
        .map(|item| ((item.namespace, item.name), item.body))
        .collect();
    let mut undone = BTreeMap::new();
    while source.revision() < head {
        // The list read what is on disk; the log learns of it a moment later, so this may wait that long.
        let step = source.next().await?;
        if let Some(change) = step.change
            && step.revision <= head
        {
            undone
                .entry((change.namespace, change.name))
                .or_insert(change.old); // the first change after `revision` knows what was there
        }
    }
    for (name, old) in undone {
        match old {
            Some(body) => state.insert(name, body),
            None => state.remove(&name),
        };
    }
    let item = |((namespace, name), body)| Item {
        namespace,
        name,
        body,
    };
    Ok(state.into_iter().map(item).collect())
}
