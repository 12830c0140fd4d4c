//! One delta ADS stream: what it asked for, what it was sent, what it acknowledged.
//!
//! Invariants: a name that is asked for is answered, by the resource or by its absence; a resource is sent only in a
//! version that the other side does not have; at most [`WINDOW`] answers of a type are unacknowledged.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use leno_ir::ResourceName;
use leno_wire::discovery::{self as wire, DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::{Resource, Type};

/// Unacknowledged answers of one type.
pub(super) const WINDOW: usize = 8;
/// Names of one type that one stream may ask for.
pub(super) const MAX_NAMES: usize = 16_384;
/// Bytes of the resources of one answer, about.
const ANSWER_BYTES: usize = 512 << 10;
/// Resources of one answer.
const ANSWER_RESOURCES: usize = 512;
/// How long absence is not believed after the control plane's start.
const ABSENCE_HELD: Duration = Duration::from_secs(1);
/// How long after its opening a stream's own workloads are not taken from it: its agent names them again.
const OWN_HELD: Duration = Duration::from_secs(15);

/// What one proxy may see.
pub trait View {
    /// A resource by any name it may be asked for.
    fn resolve(&self, kind: Type, asked: &str) -> Option<Arc<Resource>>;
    /// All of a type that is sent without asking by name.
    fn all(&self, kind: Type) -> Vec<Arc<Resource>>;
}

/// The time, and how far the control plane is from knowing all.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// The revision of the store that all of it is made from.
    pub revision: u64,
    /// Uptime.
    pub now: Duration,
    /// Until then agents are still coming back after a restart, and what is missing may only be late.
    pub grace: Option<Duration>,
}

impl Hold {
    fn in_grace(self) -> bool {
        self.grace.is_some_and(|until| self.now < until)
    }
}

/// Why a stream is ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A type that does not exist.
    #[error("there is no resource type \"{0}\"")]
    Type(String),
    /// All of a type that is asked for by name.
    #[error("{0} is asked for by name, not by wildcard")]
    Wildcard(&'static str),
}

/// How far a resource is at a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Sent, no answer yet.
    Pending,
    /// It runs.
    Acked,
    /// Refused; the version before it runs on.
    Nacked(String),
}

/// A resource at a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The version sent last.
    pub version: Arc<str>,
    /// What the proxy says of it.
    pub state: State,
    /// The version that runs; empty when none does.
    pub running: Arc<str>,
    /// Came with the stream's beginning: the proxy has it from before.
    resumed: bool,
}

#[derive(Debug)]
struct Answer {
    nonce: String,
    sent: Vec<(Arc<str>, Arc<str>)>,
}

#[derive(Clone, Debug, Default)]
struct Asked {
    /// What it meant when it was last answered.
    canonical: Option<Arc<str>>,
    /// Since when an answer is due, even if it is that nothing has changed.
    due: Option<Duration>,
    resumed: bool,
}

#[derive(Debug, Default)]
struct TypeState {
    started: bool,
    /// A first answer is due even if it is empty: the other side then knows that it is up to date.
    greet: bool,
    asked: BTreeMap<Arc<str>, Asked>,
    /// Canonical name to the names that mean it; no set is empty.
    meanings: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    dirty: BTreeSet<Arc<str>>,
    /// Brought along, and perhaps meant by no name that is asked for.
    orphans: bool,
    /// For wildcard types: look at all again.
    dirty_all: bool,
    held: BTreeMap<Arc<str>, Held>,
    inflight: VecDeque<Answer>,
}

/// One delta ADS stream.
#[derive(Debug)]
pub struct Subscriber {
    opened: Duration,
    sequence: u64,
    types: BTreeMap<Type, TypeState>,
    /// Names refused because of [`MAX_NAMES`].
    pub over_limit: u64,
    /// Resources refused by the proxy.
    pub nacks: u64,
}

/// Names that a stream begins or ceases to ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Begins.
    pub added: Vec<(Type, Arc<str>)>,
    /// Ceases.
    pub removed: Vec<(Type, Arc<str>)>,
}

impl Subscriber {
    /// A stream that opens now.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            opened: now,
            sequence: 0,
            types: BTreeMap::new(),
            over_limit: 0,
            nacks: 0,
        }
    }

    /// Takes in what the proxy says: names it wants, names it no longer wants, an ACK or a NACK.
    ///
    /// # Errors
    /// When the stream must end.
    pub fn request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        view: &impl View,
        now: Duration,
    ) -> Result<Interest, ProtocolError> {
        let kind = Type::from_url(&request.type_url)
            .ok_or_else(|| ProtocolError::Type(request.type_url.chars().take(128).collect()))?;
        let mut interest = Interest::default();
        self.acknowledge(kind, request);
        let state = self.types.entry(kind).or_default();
        let first = !std::mem::replace(&mut state.started, true);
        if first {
            state.resume(kind, request);
        }
        for name in &request.resource_names_unsubscribe {
            if let Some((name, asked)) = state.asked.remove_entry(name.as_str()) {
                state.set_meaning(&name, asked.canonical, None);
                state.dirty.remove(&name);
                interest.removed.push((kind, name));
            }
        }
        for name in &request.resource_names_subscribe {
            if kind.is_wildcard() {
                continue;
            }
            if name == "*" {
                return Err(ProtocolError::Wildcard(kind.name()));
            }
            if state.asked.len() >= MAX_NAMES && !state.asked.contains_key(name.as_str()) {
                self.over_limit = self.over_limit.saturating_add(1);
                continue;
            }
            let name: Arc<str> = name.as_str().into();
            let resumed = first && !request.initial_resource_versions.is_empty();
            let canonical = resumed
                .then(|| state.meant_before(kind, &name, view))
                .flatten();
            let before = state.asked.get(&name).map(|asked| asked.canonical.clone());
            if before.is_none() {
                interest.added.push((kind, Arc::clone(&name)));
            }
            let before = before.flatten();
            // Asked for again: what it meant is told again.
            let canonical = canonical.or_else(|| before.clone());
            state.set_meaning(&name, before, canonical.clone());
            let asked = Asked {
                // What the proxy has already is compared, not sent for the asking.
                due: (!resumed || canonical.is_none()).then_some(now),
                canonical,
                resumed,
            };
            state.asked.insert(Arc::clone(&name), asked);
            state.dirty.insert(name);
        }
        Ok(interest)
    }

    /// What is asked for under `name` may have changed.
    pub fn touch(&mut self, kind: Type, name: &str) {
        if let Some(state) = self.types.get_mut(&kind) {
            if kind.is_wildcard() {
                state.dirty_all |= state.started;
            } else if let Some((name, _)) = state.asked.get_key_value(name) {
                let name = Arc::clone(name);
                state.dirty.insert(name);
            }
        }
    }

    /// All of it may have changed.
    pub fn touch_all(&mut self) {
        for (kind, state) in &mut self.types {
            state.dirty_all |= kind.is_wildcard() && state.started;
            state.dirty.extend(state.asked.keys().cloned());
        }
    }

    /// The next answer to send, if one is due and the window is open.
    pub fn next(&mut self, view: &impl View, hold: Hold) -> Option<DeltaDiscoveryResponse> {
        for kind in Type::ALL {
            let Some(state) = self.types.get_mut(&kind) else {
                continue;
            };
            if state.inflight.len() >= WINDOW {
                continue;
            }
            let mut batch = Batch::default();
            if kind.is_wildcard() {
                state.collect_all(kind, view, hold, self.opened, &mut batch);
            } else {
                state.collect_asked(kind, view, hold, &mut batch);
            }
            let greet = std::mem::take(&mut state.greet);
            if batch.is_empty() && !greet {
                continue;
            }
            self.sequence = self.sequence.wrapping_add(1);
            let nonce = format!("{:x}", self.sequence);
            return Some(state.send(kind, nonce, batch, hold.revision));
        }
        None
    }

    /// When to look again although nothing happened: something is held back until then.
    #[must_use]
    pub fn wake_at(&self, hold: Hold) -> Option<Duration> {
        let waiting = self.types.iter().any(|(kind, state)| {
            !state.dirty.is_empty() || state.orphans || (kind.is_wildcard() && state.dirty_all)
        });
        waiting.then(|| hold.now.saturating_add(Duration::from_millis(250)))
    }

    /// What the proxy has of a type: canonical name, state, and the names it was asked for by.
    pub fn held(&self, kind: Type) -> impl Iterator<Item = (&Arc<str>, &Held, Vec<&Arc<str>>)> {
        let state = self.types.get(&kind);
        state.into_iter().flat_map(move |state| {
            // What a proxy brought along and asks for no more is not told of.
            let meant =
                move |name: &Arc<str>| kind.is_wildcard() || state.meanings.contains_key(name);
            let held = state.held.iter().filter(move |(name, _)| meant(name));
            held.map(move |(name, held)| (name, held, state.aliases(name).collect()))
        })
    }

    /// Every name it asks for.
    pub fn asked(&self) -> impl Iterator<Item = (Type, &Arc<str>)> {
        let types = self.types.iter();
        types.flat_map(|(kind, state)| state.asked.keys().map(|name| (*kind, name)))
    }

    /// Names of a type that were answered by absence.
    pub fn absent(&self, kind: Type) -> impl Iterator<Item = &Arc<str>> {
        let state = self.types.get(&kind);
        state.into_iter().flat_map(|state| {
            let absent =
                |(_, asked): &(&Arc<str>, &Asked)| asked.canonical.is_none() && asked.due.is_none();
            state.asked.iter().filter(absent).map(|(name, _)| name)
        })
    }

    /// What the proxy has under the name it asked by.
    #[must_use]
    pub fn held_as(&self, kind: Type, asked: &str) -> Option<&Held> {
        let state = self.types.get(&kind)?;
        if kind.is_wildcard() {
            return state.held.get(asked);
        }
        state.held.get(state.asked.get(asked)?.canonical.as_ref()?)
    }

    /// Whether everything sent is acknowledged and nothing is due.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        self.types.values().all(|state| {
            state.dirty.is_empty()
                && !state.dirty_all
                && state.held.values().all(|held| held.state == State::Acked)
        })
    }

    /// Whether the proxy has been sent something that it has not answered yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.types.values().any(|state| !state.inflight.is_empty())
    }

    fn acknowledge(&mut self, kind: Type, request: &DeltaDiscoveryRequest) {
        if request.response_nonce.is_empty() {
            return;
        }
        let Some(state) = self.types.get_mut(&kind) else {
            return;
        };
        let at = state
            .inflight
            .iter()
            .position(|answer| answer.nonce == request.response_nonce);
        let Some(answer) = at.and_then(|at| state.inflight.remove(at)) else {
            return;
        };
        let detail = request.error_detail.as_ref();
        let mut refused = detail.map_or_else(BTreeMap::new, |status| {
            refusals(&status.message, &answer.sent)
        });
        for (name, version) in answer.sent {
            let Some(held) = state
                .held
                .get_mut(&name)
                .filter(|held| held.version == version)
            else {
                continue;
            };
            match refused.remove(&name) {
                None => {
                    held.state = State::Acked;
                    held.running = version;
                }
                Some(reason) => {
                    held.state = State::Nacked(reason);
                    self.nacks = self.nacks.saturating_add(1);
                }
            }
        }
    }
}

/// What a NACK says of the resources of its answer: it writes `NAME: REASON` for each it refuses, and has applied the
/// others. A message that names none of them refuses them all.
fn refusals(message: &str, sent: &[(Arc<str>, Arc<str>)]) -> BTreeMap<Arc<str>, String> {
    let begins = |name: &str| {
        let marker = format!("{name}: ");
        let mut found = message.match_indices(&marker).map(|(at, _)| at);
        found.find(|at| {
            let before = message.get(..*at).unwrap_or_default();
            before.is_empty() || before.ends_with("; ") || before.ends_with('\n')
        })
    };
    let mut starts: Vec<(usize, &Arc<str>)> = sent
        .iter()
        .filter_map(|(name, _)| Some((begins(name)?, name)))
        .collect();
    starts.sort_unstable();
    let shorten = |text: &str| text.chars().take(512).collect::<String>();
    if starts.is_empty() {
        return sent
            .iter()
            .map(|(name, _)| (Arc::clone(name), shorten(message)))
            .collect();
    }
    let ends = starts
        .iter()
        .skip(1)
        .map(|(at, _)| *at)
        .chain([message.len()]);
    let reason = |((at, name), end): (&(usize, &Arc<str>), usize)| {
        let text = message
            .get(at.saturating_add(name.len() + 2)..end)
            .unwrap_or_default();
        (
            Arc::clone(name),
            shorten(text.trim_end().trim_end_matches(';')),
        )
    };
    starts.iter().zip(ends).map(reason).collect()
}

#[derive(Debug, Default)]
struct Batch {
    resources: BTreeMap<Arc<str>, Arc<Resource>>,
    removed: BTreeSet<Arc<str>>,
    bytes: usize,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty()
    }

    fn is_full(&self) -> bool {
        self.bytes >= ANSWER_BYTES || self.resources.len() + self.removed.len() >= ANSWER_RESOURCES
    }

    fn add(&mut self, resource: Arc<Resource>) {
        self.bytes = self.bytes.saturating_add(resource.body.len());
        self.resources.insert(Arc::clone(&resource.name), resource);
    }
}

impl TypeState {
    /// A stream's first word about a type: what the proxy has from before.
    fn resume(&mut self, kind: Type, request: &DeltaDiscoveryRequest) {
        self.greet = kind.is_wildcard();
        self.dirty_all = kind.is_wildcard();
        self.orphans = !kind.is_wildcard() && !request.initial_resource_versions.is_empty();
        for (name, version) in request.initial_resource_versions.iter().take(MAX_NAMES) {
            let version: Arc<str> = version.as_str().into();
            let held = Held {
                running: Arc::clone(&version),
                version,
                state: State::Acked,
                resumed: true,
            };
            self.held.insert(name.as_str().into(), held);
        }
    }

    /// What a name that a proxy brings along meant to it, as far as that can be told.
    fn meant_before(&self, kind: Type, name: &Arc<str>, view: &impl View) -> Option<Arc<str>> {
        if self.held.contains_key(name) {
            return Some(Arc::clone(name));
        }
        if let Some(resource) = view.resolve(kind, name) {
            return self
                .held
                .contains_key(&resource.name)
                .then(|| Arc::clone(&resource.name));
        }
        let Ok(ResourceName::Address(address)) = name.parse() else {
            return None;
        };
        let host = ResourceName::Host(address).to_string();
        self.held
            .get_key_value(host.as_str())
            .map(|(name, _)| Arc::clone(name))
    }

    fn collect_all(
        &mut self,
        kind: Type,
        view: &impl View,
        hold: Hold,
        opened: Duration,
        batch: &mut Batch,
    ) {
        if !self.dirty_all {
            return;
        }
        let all = view.all(kind);
        let mut later = false;
        for resource in &all {
            let held = self.held.get(&resource.name);
            let hold_back =
                kind == Type::Mesh && held.is_some_and(|held| held.resumed) && hold.in_grace();
            if held.is_some_and(|held| held.version == resource.version) {
                continue;
            }
            if hold_back || batch.is_full() {
                later = true;
                continue;
            }
            batch.add(Arc::clone(resource));
        }
        let there: BTreeSet<&Arc<str>> = all.iter().map(|resource| &resource.name).collect();
        for (name, held) in &self.held {
            if there.contains(name) {
                continue;
            }
            if held.resumed && (hold.in_grace() || hold.now < opened.saturating_add(OWN_HELD)) {
                later = true;
            } else {
                batch.removed.insert(Arc::clone(name));
            }
        }
        self.dirty_all = later;
    }

    fn collect_asked(&mut self, kind: Type, view: &impl View, hold: Hold, batch: &mut Batch) {
        let dirty = std::mem::take(&mut self.dirty);
        for name in dirty {
            if batch.is_full() {
                self.dirty.insert(name);
                continue;
            }
            let Some(asked) = self.asked.get(&name).cloned() else {
                continue;
            };
            let settled = match view.resolve(kind, &name) {
                Some(resource) => self.answer(kind, &name, &asked, resource, hold, batch),
                None => self.answer_absent(&name, &asked, hold, batch),
            };
            if !settled {
                self.dirty.insert(name);
            }
        }
        if self.orphans && self.dirty.is_empty() && !hold.in_grace() {
            self.orphans = false;
            let orphan = |(name, held): &(&Arc<str>, &Held)| {
                held.resumed && !self.meanings.contains_key(*name)
            };
            let orphans = self
                .held
                .iter()
                .filter(orphan)
                .map(|(name, _)| Arc::clone(name));
            batch.removed.extend(orphans);
        }
    }

    /// Answers a name by a resource; `false`: not yet.
    fn answer(
        &mut self,
        kind: Type,
        name: &Arc<str>,
        asked: &Asked,
        resource: Arc<Resource>,
        hold: Hold,
        batch: &mut Batch,
    ) -> bool {
        let held = self.held.get(&resource.name);
        let same = held.is_some_and(|held| held.version == resource.version);
        // What lists endpoints is incomplete while agents are still coming back.
        let lists = kind == Type::Endpoints || resource.name.starts_with("host/");
        if !same && held.is_some_and(|held| held.resumed) && lists && hold.in_grace() {
            return false;
        }
        // A proxy that came back has the resource and the name it asked by.
        let has = same && asked.resumed && held.is_some_and(|held| held.resumed);
        if !same || (asked.due.is_some() && !has) {
            batch.add(Arc::clone(&resource));
        }
        if let Some(entry) = self.asked.get_mut(name) {
            entry.due = None;
            entry.canonical = Some(Arc::clone(&resource.name));
        }
        self.set_meaning(
            name,
            asked.canonical.clone(),
            Some(Arc::clone(&resource.name)),
        );
        true
    }

    /// Answers a name by absence; `false`: not yet.
    fn answer_absent(
        &mut self,
        name: &Arc<str>,
        asked: &Asked,
        hold: Hold,
        batch: &mut Batch,
    ) -> bool {
        let young = asked
            .due
            .is_some_and(|since| hold.now < since.saturating_add(ABSENCE_HELD));
        if hold.in_grace() && (asked.resumed || young) {
            return false;
        }
        if asked.due.is_none() && asked.canonical.is_none() {
            return true; // known to be absent
        }
        batch.removed.insert(Arc::clone(name));
        if let Some(entry) = self.asked.get_mut(name) {
            entry.due = None;
            entry.canonical = None;
        }
        if let Some(canonical) = &asked.canonical {
            self.set_meaning(name, Some(Arc::clone(canonical)), None);
            if !self.held.contains_key(canonical) {
                batch.removed.insert(Arc::clone(canonical));
            }
        }
        true
    }

    /// A name means something else now. Nothing is held of a resource that no name means any more.
    fn set_meaning(&mut self, name: &Arc<str>, old: Option<Arc<str>>, new: Option<Arc<str>>) {
        if old == new {
            return;
        }
        if let Some(old) = old
            && let Some(names) = self.meanings.get_mut(&old)
        {
            names.remove(name);
            if names.is_empty() {
                self.meanings.remove(&old);
                self.held.remove(&old);
            }
        }
        if let Some(new) = new {
            self.meanings
                .entry(new)
                .or_default()
                .insert(Arc::clone(name));
        }
    }

    fn aliases<'a>(&'a self, canonical: &'a Arc<str>) -> impl Iterator<Item = &'a Arc<str>> {
        let names = self.meanings.get(canonical).into_iter().flatten();
        names.filter(move |name| *name != canonical)
    }

    fn send(
        &mut self,
        kind: Type,
        nonce: String,
        batch: Batch,
        revision: u64,
    ) -> DeltaDiscoveryResponse {
        let mut sent = Vec::with_capacity(batch.resources.len());
        let mut resources = Vec::with_capacity(batch.resources.len());
        for (name, resource) in batch.resources {
            sent.push((Arc::clone(&name), Arc::clone(&resource.version)));
            resources.push(wire::Resource {
                name: name.to_string(),
                version: resource.version.to_string(),
                aliases: self.aliases(&name).map(ToString::to_string).collect(),
                resource: Some(prost_types::Any {
                    type_url: kind.url().into(),
                    value: resource.body.to_vec(),
                }),
            });
            let running = self.held.get(&name).map(|held| Arc::clone(&held.running));
            let held = Held {
                version: Arc::clone(&resource.version),
                state: State::Pending,
                running: running.unwrap_or_default(),
                resumed: false,
            };
            self.held.insert(name, held);
        }
        for name in &batch.removed {
            self.held.remove(name);
        }
        self.inflight.push_back(Answer {
            nonce: nonce.clone(),
            sent,
        });
        DeltaDiscoveryResponse {
            system_version_info: revision.to_string(),
            resources,
            type_url: kind.url().into(),
            nonce,
            removed_resources: batch.removed.iter().map(ToString::to_string).collect(),
        }
    }
}
