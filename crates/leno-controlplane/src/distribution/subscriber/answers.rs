//! What goes into the next answer of one type.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use leno_ir::ResourceName;
use leno_wire::discovery::{self as wire, DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::{
    ABSENCE_HELD, ANSWER_BYTES, ANSWER_RESOURCES, Answer, Asked, EMPTY_HELD, Held, Hold, MAX_NAME,
    MAX_NAMES, OWN_HELD, TypeState, View,
};
use crate::{
    distribution::{Resource, Type, Version},
    told::one_line,
};

/// What a NACK says of the resources of its answer: it writes `NAME: REASON` for each it refuses, and has applied the
/// others. A message that names none of them refuses them all.
pub(super) fn refusals(message: &str, sent: &[(Arc<str>, Version)]) -> BTreeMap<Arc<str>, String> {
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
    let shorten = |text: &str| one_line(text, 512);
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
pub(super) struct Batch {
    resources: BTreeMap<Arc<str>, Resource>,
    removed: BTreeSet<Arc<str>>,
    bytes: usize,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty()
    }

    fn is_full(&self) -> bool {
        self.bytes >= ANSWER_BYTES || self.resources.len() + self.removed.len() >= ANSWER_RESOURCES
    }

    fn add(&mut self, resource: Resource) {
        self.bytes = self.bytes.saturating_add(resource.body.len());
        self.resources.insert(Arc::clone(&resource.name), resource);
    }
}

impl TypeState {
    /// A stream's first word about a type: what the proxy has from before.
    pub(super) fn resume(&mut self, kind: Type, request: &DeltaDiscoveryRequest) {
        self.greet = kind.is_wildcard();
        self.dirty_all = kind.is_wildcard();
        self.orphans = !kind.is_wildcard() && !request.initial_resource_versions.is_empty();
        let brought = request.initial_resource_versions.iter();
        let possible = brought.filter(|(name, _)| name.len() <= MAX_NAME);
        for (name, version) in possible.take(MAX_NAMES) {
            let held = Held::brought(Version::read(version));
            self.held.insert(name.as_str().into(), held);
        }
    }

    /// A name, kept once where it is known already.
    pub(super) fn known_name(&self, name: &str) -> Arc<str> {
        let asked = self.asked.get_key_value(name).map(|(name, _)| name);
        let held = || self.held.get_key_value(name).map(|(name, _)| name);
        let known = asked.or_else(held).cloned();
        known.unwrap_or_else(|| name.into())
    }

    /// What a name that a proxy brings along meant to it, as far as that can be told.
    pub(super) fn meant_before(
        &self,
        kind: Type,
        name: &Arc<str>,
        view: &impl View,
    ) -> Option<Arc<str>> {
        if let Some((name, _)) = self.held.get_key_value(name) {
            return Some(Arc::clone(name));
        }
        if let Some(resource) = view.resolve(kind, name) {
            let held = self.held.get_key_value(&resource.name);
            return held.map(|(name, _)| Arc::clone(name));
        }
        let Ok(ResourceName::Address(address)) = name.parse() else {
            return None;
        };
        let host = ResourceName::Host(address).to_string();
        self.held
            .get_key_value(host.as_str())
            .map(|(name, _)| Arc::clone(name))
    }

    /// What is sent without asking. The mesh itself is never held back: the store keeps who its members are, and whoever
    /// does not know a new one sends in clear to it.
    pub(super) fn collect_all(
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
            if held.is_some_and(|held| held.is(resource.version)) {
                continue;
            }
            if batch.is_full() {
                later = true;
                continue;
            }
            batch.add(resource.clone());
        }
        let there: BTreeSet<&Arc<str>> = all.iter().map(|resource| &resource.name).collect();
        for (name, held) in self.held.iter() {
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

    pub(super) fn collect_asked(
        &mut self,
        kind: Type,
        view: &impl View,
        hold: Hold,
        batch: &mut Batch,
    ) {
        let dirty: Vec<Arc<str>> = self.dirty.keys().cloned().collect();
        for name in dirty {
            if batch.is_full() {
                break;
            }
            let settled = match self.asked.get(&name).cloned() {
                None => true,
                Some(asked) => match view.resolve(kind, &name) {
                    Some(resource) => self.answer(kind, &name, &asked, resource, hold, batch),
                    None => self.answer_absent(&name, &asked, hold, batch),
                },
            };
            if settled {
                self.dirty.remove(&name);
            }
        }
        if self.orphans && self.dirty.is_empty() && !hold.in_grace() {
            self.orphans = false;
            let orphan = |(name, held): &(&Arc<str>, &Held)| held.resumed && !self.is_meant(name);
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
        mut resource: Resource,
        hold: Hold,
        batch: &mut Batch,
    ) -> bool {
        resource.name = self.known_name(&resource.name);
        let held = self.held.get(&resource.name);
        let same = held.is_some_and(|held| held.is(resource.version));
        // What lists endpoints is incomplete while agents are still coming back.
        let lists = kind == Type::Endpoints || resource.name.starts_with("host/");
        if !same && held.is_some_and(|held| held.resumed) && lists && hold.in_grace() {
            return false;
        }
        // Who serves it may be on the way back: a caller that waits a moment is served, not refused.
        let young = (asked.due).is_some_and(|since| hold.now < since.saturating_add(EMPTY_HELD));
        if !same && resource.nobody && young && hold.in_grace() {
            return false;
        }
        // A proxy that came back has the resource and the name it asked by.
        let has = same && asked.resumed && held.is_some_and(|held| held.resumed);
        if !same || (asked.due.is_some() && !has) {
            batch.add(resource.clone());
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
    pub(super) fn set_meaning(
        &mut self,
        name: &Arc<str>,
        old: Option<Arc<str>>,
        new: Option<Arc<str>>,
    ) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            let alias = (old, Arc::clone(name));
            self.aliases.remove(&alias);
            if !self.is_meant(&alias.0) {
                self.held.remove(&alias.0);
            }
        }
        if let Some(new) = new
            && new != *name
        {
            self.aliases.insert((new, Arc::clone(name)), ());
        }
    }

    /// Whether a name that is asked for means this.
    pub(super) fn is_meant(&self, canonical: &Arc<str>) -> bool {
        let asked = self.asked.get(canonical);
        let itself = asked.is_some_and(|asked| asked.canonical.as_ref() == Some(canonical));
        itself || self.aliases(canonical).next().is_some()
    }

    /// The other names by which something is asked for.
    pub(super) fn aliases<'a>(
        &'a self,
        canonical: &'a Arc<str>,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        let from = (Arc::clone(canonical), Arc::default());
        let names = self.aliases.iter_from(&from).map(|(pair, ())| pair);
        names
            .take_while(move |(of, _)| of == canonical)
            .map(|(_, name)| name)
    }

    pub(super) fn send(
        &mut self,
        kind: Type,
        nonce: String,
        batch: Batch,
        revision: u64,
    ) -> DeltaDiscoveryResponse {
        let mut sent = Vec::with_capacity(batch.resources.len());
        let mut resources = Vec::with_capacity(batch.resources.len());
        for (name, resource) in batch.resources {
            sent.push((Arc::clone(&name), resource.version));
            resources.push(wire::Resource {
                name: name.to_string(),
                version: resource.version.to_string(),
                aliases: self.aliases(&name).map(ToString::to_string).collect(),
                resource: Some(prost_types::Any {
                    type_url: kind.url().into(),
                    value: resource.body.to_vec(),
                }),
            });
            let held = Held::sent(resource.version, self.held.get(&name));
            self.held.insert(name, held);
        }
        for name in &batch.removed {
            self.held.remove(name);
        }
        self.inflight.push(Answer {
            nonce: nonce.clone(),
            revision,
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
