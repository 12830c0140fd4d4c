//! All streams of one mesh, and which of them a change concerns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use leno_types::DnsLabel;
use leno_wire::discovery::DeltaDiscoveryRequest;

use super::{ProtocolError, State, Subscriber, Type, View};

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
}

/// All streams of one mesh.
#[derive(Debug, Default)]
pub struct Hub {
    streams: BTreeMap<StreamId, (DnsLabel, Subscriber)>,
    interest: BTreeMap<(Type, Arc<str>), BTreeSet<StreamId>>,
}

impl Hub {
    /// A stream opens; an older one of the same agent is to be ended.
    pub fn open(&mut self, stream: StreamId, agent: &DnsLabel, now: Duration) -> Vec<StreamId> {
        let older = self.streams.iter().filter(|(_, (of, _))| of == agent);
        let older: Vec<StreamId> = older.map(|(id, _)| *id).collect();
        for id in &older {
            self.close(*id);
        }
        self.streams.insert(stream, (agent.clone(), Subscriber::new(now)));
        older
    }

    /// A stream ended.
    pub fn close(&mut self, stream: StreamId) {
        if self.streams.remove(&stream).is_some() {
            self.interest.retain(|_, streams| {
                streams.remove(&stream);
                !streams.is_empty()
            });
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
        for key in interest.removed {
            if let Some(streams) = self.interest.get_mut(&key) {
                streams.remove(&stream);
                if streams.is_empty() {
                    self.interest.remove(&key);
                }
            }
        }
        for key in interest.added {
            self.interest.entry(key).or_default().insert(stream);
        }
        Ok(())
    }

    /// What is asked for under these names has changed; returns the streams to look at.
    pub fn changed(&mut self, kind: Type, names: &[Arc<str>]) -> BTreeSet<StreamId> {
        let mut touched = BTreeSet::new();
        for name in names {
            let Some(streams) = self.interest.get(&(kind, Arc::clone(name))) else {
                continue;
            };
            for stream in streams {
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
        let mut touched = BTreeSet::new();
        for (id, (of, subscriber)) in &mut self.streams {
            if agent.is_none_or(|agent| agent == of) {
                subscriber.touch(kind, "");
                touched.insert(*id);
            }
        }
        touched
    }

    /// A stream and its agent.
    pub fn stream(&mut self, stream: StreamId) -> Option<(&DnsLabel, &mut Subscriber)> {
        let (agent, subscriber) = self.streams.get_mut(&stream)?;
        Some((agent, subscriber))
    }

    /// The stream of an agent.
    #[must_use]
    pub fn of_agent(&self, agent: &DnsLabel) -> Option<&Subscriber> {
        let mut streams = self.streams.values();
        streams.find(|(of, _)| of == agent).map(|(_, subscriber)| subscriber)
    }

    /// All streams.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, &DnsLabel, &Subscriber)> {
        self.streams.iter().map(|(id, (agent, subscriber))| (*id, agent, subscriber))
    }

    /// Which proxies run a resource; `names` are those by which it may be asked for, `version` is its newest.
    pub fn programmed(
        &self,
        kind: Type,
        names: &[Arc<str>],
        version: Option<&str>,
        programmed: &mut Programmed,
    ) {
        let mut seen = BTreeSet::new();
        for name in names {
            let by_name = self.interest.get(&(kind, Arc::clone(name)));
            let wildcard = kind.is_wildcard().then(|| self.streams.keys());
            let streams = by_name.into_iter().flatten().chain(wildcard.into_iter().flatten());
            for stream in streams {
                let Some((agent, subscriber)) = self.streams.get(stream) else {
                    continue;
                };
                if !seen.insert((*stream, Arc::clone(name))) {
                    continue;
                }
                let held = subscriber.held_as(kind, name);
                if kind.is_wildcard() && held.is_none() {
                    continue;
                }
                programmed.proxies.insert(agent.clone());
                let newest = match (held, version) {
                    (Some(held), Some(version)) => Some(held).filter(|held| &*held.version == version),
                    (None, None) => continue,
                    _ => None,
                };
                match newest.map(|held| &held.state) {
                    Some(State::Acked) => {}
                    Some(State::Nacked(reason)) => {
                        programmed.refused.insert(agent.clone(), reason.clone());
                    }
                    Some(State::Pending) | None => {
                        programmed.behind.insert(agent.clone());
                    }
                }
            }
        }
    }
}
