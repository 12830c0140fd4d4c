//! All streams of one mesh, and which of them a change concerns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use leno_ir::Feature;
use leno_types::DnsLabel;
use leno_wire::discovery::DeltaDiscoveryRequest;

use super::{Held, ProtocolError, State, Subscriber, Tally, Type, Version, View, few::Few};

/// One stream.
pub type StreamId = u64;

/// How many proxies run a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// Proxies that subscribe to it.
    pub proxies: BTreeSet<DnsLabel>,
    /// Those of them that do not run its newest version yet.
    pub behind: BTreeSet<DnsLabel>,
    /// Those that refused it, with the reason.
    pub refused: BTreeMap<DnsLabel, String>,
    /// Those that deny instead of what it says, for they do not know these features.
    pub denying: BTreeMap<DnsLabel, BTreeSet<Feature>>,
}

/// All streams of one mesh.
#[derive(Debug, Default)]
pub struct Hub {
    streams: BTreeMap<StreamId, (DnsLabel, Subscriber)>,
    by_agent: BTreeMap<DnsLabel, StreamId>,
    interest: BTreeMap<(Type, Arc<str>), Few<StreamId, ()>>,
    /// Streams that were sent something that they have not answered yet.
    behind: BTreeSet<StreamId>,
    /// Of the streams that ended.
    ended: Tally,
}

impl Hub {
    /// A stream opens; an older one of the same agent is to be ended.
    pub fn open(&mut self, stream: StreamId, agent: &DnsLabel, now: Duration) -> Option<StreamId> {
        let older = self.by_agent.insert(agent.clone(), stream);
        if let Some(older) = older {
            self.close(older);
        }
        self.streams
            .insert(stream, (agent.clone(), Subscriber::new(now)));
        older
    }

    /// A stream ended.
    pub fn close(&mut self, stream: StreamId) {
        let Some((agent, subscriber)) = self.streams.remove(&stream) else {
            return;
        };
        if self.by_agent.get(&agent) == Some(&stream) {
            self.by_agent.remove(&agent);
        }
        self.behind.remove(&stream);
        self.ended = self.ended.and(subscriber.tally);
        for (kind, name) in subscriber.asked() {
            self.lose_interest(stream, (kind, Arc::clone(name)));
        }
    }

    fn lose_interest(&mut self, stream: StreamId, key: (Type, Arc<str>)) {
        if let Some(streams) = self.interest.get_mut(&key) {
            streams.remove(&stream);
            if streams.is_empty() {
                self.interest.remove(&key);
            }
        }
    }

    /// A stream says something.
    ///
    /// # Errors
    /// When it must end.
    pub fn request(
        &mut self,
        stream: StreamId,
        request: &DeltaDiscoveryRequest,
        view: &impl View,
        now: Duration,
    ) -> Result<(), ProtocolError> {
        let Some((_, subscriber)) = self.streams.get_mut(&stream) else {
            return Ok(());
        };
        let interest = subscriber.request(request, view, now)?;
        if !subscriber.is_behind() {
            self.behind.remove(&stream);
        }
        for key in interest.removed {
            self.lose_interest(stream, key);
        }
        for key in interest.added {
            self.interest.entry(key).or_default().insert(stream, ());
        }
        Ok(())
    }

    /// The names in the answer that a request acknowledges or refuses.
    #[must_use]
    pub fn answered(&self, stream: StreamId, request: &DeltaDiscoveryRequest) -> Vec<Arc<str>> {
        let subscriber = self.streams.get(&stream);
        let answered = subscriber.and_then(|(_, subscriber)| subscriber.answered(request));
        answered.into_iter().flatten().cloned().collect()
    }

    /// What is asked for under these names has changed; returns the streams to look at.
    pub fn changed(&mut self, kind: Type, names: &[Arc<str>]) -> BTreeSet<StreamId> {
        let mut touched = BTreeSet::new();
        for name in names {
            let Some(streams) = self.interest.get(&(kind, Arc::clone(name))) else {
                continue;
            };
            for stream in streams.keys() {
                if let Some((_, subscriber)) = self.streams.get_mut(stream) {
                    subscriber.touch(kind, name);
                    touched.insert(*stream);
                }
            }
        }
        touched
    }

    /// What is sent without asking has changed, for one agent or for all; returns the streams to look at.
    pub fn changed_wildcard(&mut self, kind: Type, agent: Option<&DnsLabel>) -> BTreeSet<StreamId> {
        let touched: BTreeSet<StreamId> = match agent {
            Some(agent) => self.by_agent.get(agent).copied().into_iter().collect(),
            None => self.streams.keys().copied().collect(),
        };
        for id in &touched {
            if let Some((_, subscriber)) = self.streams.get_mut(id) {
                subscriber.touch(kind, "");
            }
        }
        touched
    }

    /// A stream was sent something.
    pub fn sent(&mut self, stream: StreamId) {
        self.behind.insert(stream);
    }

    /// Whether any stream was sent something that it has not answered yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// A stream and its agent.
    pub fn stream(&mut self, stream: StreamId) -> Option<(&DnsLabel, &mut Subscriber)> {
        let (agent, subscriber) = self.streams.get_mut(&stream)?;
        Some((agent, subscriber))
    }

    /// The stream of an agent.
    #[must_use]
    pub fn of_agent(&self, agent: &DnsLabel) -> Option<&Subscriber> {
        let (_, subscriber) = self.streams.get(self.by_agent.get(agent)?)?;
        Some(subscriber)
    }

    /// What is counted of all streams since the start.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let open = self.streams.values().map(|(_, of)| of.tally);
        open.fold(self.ended, Tally::and)
    }

    /// The names of a type that begin so and that some stream asks for.
    pub fn asked_below<'a>(
        &'a self,
        kind: Type,
        beginning: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        let from = (kind, Arc::from(beginning));
        let names = self
            .interest
            .range(from..)
            .map(|((of, name), _)| (of, &**name));
        names
            .take_while(move |(of, name)| **of == kind && name.starts_with(beginning))
            .map(|(_, name)| name)
    }

    /// All streams.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, &DnsLabel, &Subscriber)> {
        self.streams
            .iter()
            .map(|(id, (agent, subscriber))| (*id, agent, subscriber))
    }

    /// Which proxies run a resource; `names` are those by which it may be asked for, `version` is its newest, `owner`
    /// the only agent that gets it without asking.
    pub fn programmed(
        &self,
        kind: Type,
        names: &[Arc<str>],
        version: Option<Version>,
        owner: Option<&DnsLabel>,
        programmed: &mut Programmed,
    ) {
        let owner = owner.and_then(|agent| self.by_agent.get(agent));
        for name in names {
            let asking = self
                .interest
                .get(&(kind, Arc::clone(name)))
                .into_iter()
                .flat_map(Few::keys);
            for stream in asking.chain(owner) {
                if let Some((agent, subscriber)) = self.streams.get(stream) {
                    programmed.note(agent, subscriber.held_as(kind, name), version);
                }
            }
        }
    }
}

impl Programmed {
    fn note(&mut self, agent: &DnsLabel, held: Option<&Held>, version: Option<Version>) {
        self.proxies.insert(agent.clone());
        let newest = match (held, version) {
            (Some(held), Some(version)) => Some(held).filter(|held| held.is(version)),
            (None, None) => return,
            _ => None,
        };
        match newest.map(Held::state) {
            Some(State::Acked) => {}
            Some(State::Nacked(reason)) => {
                self.refused.insert(agent.clone(), reason.to_owned());
            }
            Some(State::Pending) | None => {
                self.behind.insert(agent.clone());
            }
        }
    }
}
