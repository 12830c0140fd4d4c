//! One delta ADS stream: what it asked for, what it was sent, what it acknowledged.
//!
//! Invariants: a name that is asked for is answered, by the resource or by its absence; a resource is sent only in a
//! version that the other side does not have; at most [`WINDOW`] answers of a type are unacknowledged.

mod answers;
mod held;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use leno_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::{Resource, Type, Version, few::Few};
use answers::{Batch, refusals};
pub use held::{Held, State};

/// Unacknowledged answers of one type.
pub(super) const WINDOW: usize = 8;
/// Names of one type that one stream may ask for.
pub(super) const MAX_NAMES: usize = 16_384;
/// Bytes of one such name: more than any that exists.
pub(super) const MAX_NAME: usize = 512;
/// Bytes of the resources of one answer, about.
const ANSWER_BYTES: usize = 512 << 10;
/// Resources of one answer.
const ANSWER_RESOURCES: usize = 512;
/// How long absence is not believed after the control plane's start.
const ABSENCE_HELD: Duration = Duration::from_secs(1);
/// How long after the control plane's start it is not believed that nobody serves a service: shorter than the proxy of
/// a caller waits (CP7), so that its refusal then says why.
const EMPTY_HELD: Duration = Duration::from_millis(1_500);
/// How long after its opening a stream's own workloads are not taken from it: its agent names them again.
const OWN_HELD: Duration = Duration::from_secs(15);

/// What one proxy may see.
pub trait View {
    /// A resource by any name it may be asked for.
    fn resolve(&self, kind: Type, asked: &str) -> Option<Resource>;
    /// All of a type that is sent without asking by name.
    fn all(&self, kind: Type) -> Vec<Resource>;
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

#[derive(Debug)]
struct Answer {
    nonce: String,
    /// The revision of the store that it was made from.
    revision: u64,
    sent: Vec<(Arc<str>, Version)>,
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
    asked: Few<Arc<str>, Asked>,
    /// Canonical name with each other name that means it. Most names mean themselves.
    aliases: Few<(Arc<str>, Arc<str>), ()>,
    dirty: Few<Arc<str>, ()>,
    /// Brought along, and perhaps meant by no name that is asked for.
    orphans: bool,
    /// For wildcard types: look at all again.
    dirty_all: bool,
    held: Few<Arc<str>, Held>,
    /// At most [`WINDOW`], the oldest first.
    inflight: Vec<Answer>,
}

/// One delta ADS stream.
#[derive(Debug)]
pub struct Subscriber {
    opened: Duration,
    sequence: u64,
    types: Few<Type, TypeState>,
    /// The newest revision of which an answer was acknowledged whole.
    acked: Option<u64>,
    /// What is counted of it.
    pub tally: Tally,
}

/// What is counted of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Names refused because of `MAX_NAMES` or `MAX_NAME`.
    pub over_limit: u64,
    /// Resources refused by the proxy.
    pub nacks: u64,
    /// Acknowledgements of what was never sent, or was acknowledged before.
    pub strange_nonces: u64,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            over_limit: self.over_limit.saturating_add(other.over_limit),
            nacks: self.nacks.saturating_add(other.nacks),
            strange_nonces: self.strange_nonces.saturating_add(other.strange_nonces),
        }
    }
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
            types: Few::default(),
            acked: None,
            tally: Tally::default(),
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
        let state = self.types.get_or_default(kind);
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
            let full = state.asked.len() >= MAX_NAMES && !state.asked.contains_key(name.as_str());
            if full || name.len() > MAX_NAME {
                self.tally.over_limit = self.tally.over_limit.saturating_add(1);
                continue;
            }
            let name = state.known_name(name);
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
            let asked = Asked {
                // What the proxy has already is compared, not sent for the asking.
                due: (!resumed || canonical.is_none()).then_some(now),
                canonical: canonical.clone(),
                resumed,
            };
            state.asked.insert(Arc::clone(&name), asked);
            state.set_meaning(&name, before, canonical);
            state.dirty.insert(name, ());
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
                state.dirty.insert(name, ());
            }
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
            let meant = move |name: &Arc<str>| kind.is_wildcard() || state.is_meant(name);
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
                && state.held.values().all(|held| held.state() == State::Acked)
        })
    }

    /// Whether the proxy has been sent something that it has not answered yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.types.values().any(|state| !state.inflight.is_empty())
    }

    /// How many resources it has not acknowledged, or was not even sent yet.
    #[must_use]
    pub fn due(&self) -> usize {
        let of = |state: &TypeState| {
            let pending = |held: &&Held| held.state() == State::Pending;
            let sent = state.held.values().filter(pending).count();
            sent + state.dirty.len() + usize::from(state.dirty_all)
        };
        self.types.values().map(of).sum()
    }

    /// The newest revision of which an answer was acknowledged whole; none before the first.
    #[must_use]
    pub fn acked(&self) -> Option<u64> {
        self.acked
    }

    /// The names in the answer that a request acknowledges or refuses.
    #[must_use]
    pub fn answered(
        &self,
        request: &DeltaDiscoveryRequest,
    ) -> Option<impl Iterator<Item = &Arc<str>>> {
        let state = self.types.get(&Type::from_url(&request.type_url)?)?;
        let mut all = state.inflight.iter();
        let answer = all.find(|answer| answer.nonce == request.response_nonce)?;
        Some(answer.sent.iter().map(|(name, _)| name))
    }

    fn acknowledge(&mut self, kind: Type, request: &DeltaDiscoveryRequest) {
        if request.response_nonce.is_empty() {
            return;
        }
        let taken = self.types.get_mut(&kind).and_then(|state| {
            let mut all = state.inflight.iter();
            let at = all.position(|answer| answer.nonce == request.response_nonce)?;
            let answer = state.inflight.remove(at);
            if state.inflight.is_empty() {
                state.inflight = Vec::new();
            }
            Some((state, answer))
        });
        let Some((state, answer)) = taken else {
            self.tally.strange_nonces = self.tally.strange_nonces.saturating_add(1);
            return;
        };
        if request.error_detail.is_none() {
            self.acked = self.acked.max(Some(answer.revision));
        }
        let detail = request.error_detail.as_ref();
        let mut refused = detail.map_or_else(BTreeMap::new, |status| {
            refusals(&status.message, &answer.sent)
        });
        for (name, version) in answer.sent {
            let held = state.held.get_mut(&name);
            let Some(held) = held.filter(|held| held.is(version)) else {
                continue;
            };
            match refused.remove(&name) {
                None => held.acknowledge(),
                Some(reason) => {
                    held.refuse(reason.into());
                    self.tally.nacks = self.tally.nacks.saturating_add(1);
                }
            }
        }
    }
}
