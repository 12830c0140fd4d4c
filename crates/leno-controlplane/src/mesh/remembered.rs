//! Services that outlive their last workload: the name goes on, and who calls it is told that nobody answers.
//!
//! Owns what is remembered of each derived service, in the store as well: a control plane that has just started knows
//! the names before their agents are back. Forgets one a day after its last workload went, at a person's word
//! (`leno delete service`), or the one empty for longest when too many are, versions first. An applied service needs no
//! remembering.
//! Invariant: what somebody serves is never forgotten, and at most [`MAX_EMPTY`] are kept that nobody serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use leno_compile::{EffectiveService, Input, Origin, Remembered};
use leno_ir::ServicePort;
use leno_store::{Entry, Expect, Key as StoreKey, Write};
use leno_types::{AppProtocol, MeshName, ServiceName};
use serde::{Deserialize, Serialize};

use super::{Mesh, sources::service_of};
use crate::times::rfc3339;

/// The collection of remembered services in the store.
pub(crate) const SERVICES: &str = "leno/services";
/// How long a service that nobody serves keeps its name.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Most services that are kept while nobody serves them.
pub(crate) const MAX_EMPTY: usize = 4_096;
/// How often is looked for those whose time is over.
const LOOK: Duration = Duration::from_secs(10);

/// A remembered service in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    ports: Vec<PortRecord>,
    own: bool,
    /// Since when it is there, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Since when nobody serves it, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    empty: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PortRecord {
    port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
}

/// One of them.
#[derive(Debug)]
struct Kept {
    what: Arc<Remembered>,
    empty: Option<u64>,
}

/// Derived services, served or not.
#[derive(Debug, Default)]
pub(super) struct RememberedServices {
    services: BTreeMap<ServiceName, Kept>,
    /// Those that nobody serves: whether somebody named them, since when. Versions so come first.
    empty: BTreeMap<(bool, u64), BTreeSet<ServiceName>>,
    empty_count: usize,
    looked: Duration,
    /// Forgotten because too many were empty, since the start.
    over_limit: u64,
}

impl RememberedServices {
    /// Whether it is time to look for those whose time is over.
    pub(super) fn is_due(&mut self, now: Duration) -> bool {
        let due = now >= self.looked.saturating_add(LOOK);
        if due {
            self.looked = now;
        }
        due
    }

    /// Keeps one, or another in its place; `None`: none.
    fn set(&mut self, name: &ServiceName, kept: Option<Kept>) {
        let place = |kept: &Kept| Some((kept.what.own, kept.empty?));
        let after = kept.as_ref().and_then(place);
        let before = match kept {
            Some(kept) => self.services.insert(name.clone(), kept),
            None => self.services.remove(name),
        };
        if let Some(before) = before.as_ref().and_then(place) {
            self.empty_count -= 1;
            if let Some(names) = self.empty.get_mut(&before) {
                names.remove(name);
                if names.is_empty() {
                    self.empty.remove(&before);
                }
            }
        }
        if let Some(after) = after {
            self.empty_count += 1;
            self.empty.entry(after).or_default().insert(name.clone());
        }
    }

    /// Notes of services how they are; tells which are to be written, and which are to be forgotten.
    fn note<'s>(
        &mut self,
        services: impl Iterator<Item = &'s EffectiveService>,
        now: u64,
        settled: bool,
    ) -> Noted {
        let mut noted = Noted::default();
        for service in services {
            let name = &service.name;
            match service.origin {
                Origin::Applied => {
                    if self.services.contains_key(name) {
                        noted.forgotten.insert(name.clone());
                    }
                }
                Origin::Registered | Origin::Version => {
                    let known = self.services.get(name);
                    let since = known.and_then(|kept| kept.what.since.clone());
                    let what = Remembered {
                        ports: service.ports.clone(),
                        own: service.origin == Origin::Registered,
                        since: since.or_else(|| Some(rfc3339(now))),
                    };
                    if known.is_some_and(|kept| *kept.what == what && kept.empty.is_none()) {
                        continue;
                    }
                    let what = Arc::new(what);
                    self.set(name, Some(Kept { what, empty: None }));
                    noted.written.insert(name.clone());
                }
                Origin::Remembered => {
                    // While agents are still coming back, nobody knows who serves it.
                    if let Some(kept) = self.services.get(name)
                        && kept.empty.is_none()
                        && settled
                    {
                        let what = Arc::clone(&kept.what);
                        let empty = Some(now);
                        self.set(name, Some(Kept { what, empty }));
                        noted.written.insert(name.clone());
                    }
                }
            }
        }
        self.end(now, &mut noted);
        for name in &noted.forgotten {
            self.set(name, None);
            noted.written.remove(name);
        }
        noted
    }

    /// Those whose time is over, and the oldest of too many.
    fn end(&mut self, now: u64, noted: &mut Noted) {
        // Versions go first: who may serve one service makes as many of them as it likes.
        let over = self.empty_count.saturating_sub(MAX_EMPTY);
        self.over_limit = self.over_limit.saturating_add(over as u64);
        let too_many = self.empty.values().flatten().take(over);
        noted.forgotten.extend(too_many.cloned());
        if let Some(last) = now.checked_sub(REMEMBERED.as_secs()) {
            for own in [false, true] {
                let ended = self.empty.range((own, 0)..=(own, last));
                let ended = ended.flat_map(|(_, names)| names);
                noted.forgotten.extend(ended.cloned());
            }
        }
    }

    /// All of them, as the compiler is told.
    pub(super) fn all(&self) -> impl Iterator<Item = (&ServiceName, &Arc<Remembered>)> {
        let services = self.services.iter();
        services.map(|(name, kept)| (name, &kept.what))
    }

    fn record(&self, name: &ServiceName) -> Option<Record> {
        let kept = self.services.get(name)?;
        let port = |port: &ServicePort| PortRecord {
            port: port.port,
            protocol: port.protocol.map(|protocol| protocol.as_str().to_owned()),
            name: port.name.clone(),
        };
        Some(Record {
            ports: kept.what.ports.iter().map(port).collect(),
            own: kept.what.own,
            since: kept.what.since.clone(),
            empty: kept.empty,
        })
    }
}

/// What follows from a look at the services.
#[derive(Debug, Default)]
struct Noted {
    written: BTreeSet<ServiceName>,
    forgotten: BTreeSet<ServiceName>,
}

impl Mesh {
    /// Takes in what the store kept of a service.
    pub(super) fn put_remembered(&mut self, entry: &Entry) {
        let Some(name) = service_of(&entry.key) else {
            return;
        };
        let Some(record) = serde_json::from_slice::<Record>(&entry.value).ok() else {
            tracing::error!(key = %entry.key, "a remembered service cannot be read");
            return;
        };
        // What is known is newer than its own way through the store.
        if self.remembered.services.contains_key(&name) {
            return;
        }
        let port = |port: PortRecord| ServicePort {
            port: port.port,
            protocol: port
                .protocol
                .and_then(|text| text.parse::<AppProtocol>().ok()),
            name: port.name,
        };
        let ports = record.ports.into_iter().filter(|port| port.port != 0);
        let what = Arc::new(Remembered {
            ports: ports.map(port).collect(),
            own: record.own,
            since: record.since,
        });
        let empty = record.empty;
        self.pending
            .push(Input::Remembered(name.clone(), Some(Arc::clone(&what))));
        self.remembered.set(&name, Some(Kept { what, empty }));
        self.revisited.insert(name);
    }

    /// Its record in the store is gone: a person said so, or this mesh itself. What is served meanwhile stays.
    pub(super) fn delete_remembered(&mut self, key: &StoreKey) {
        let Some(name) = service_of(key) else {
            return;
        };
        // One that is served is noted anew, and so written again.
        if self.remembered.services.contains_key(&name) {
            self.remembered.set(&name, None);
            self.revisited.insert(name.clone());
            self.pending.push(Input::Remembered(name, None));
        }
    }

    /// How many were forgotten because too many were empty.
    pub(crate) fn services_forgotten(&self) -> u64 {
        self.remembered.over_limit
    }

    /// Whether it is time to look for those whose time is over, and there may be any.
    pub(super) fn is_upkeep_due(&mut self, now: Duration) -> bool {
        self.remembered.is_due(now) && (self.remembered.empty_count > 0 || self.vips().may_expire())
    }

    /// Remembers which of these services there are, and forgets those whose time is over.
    pub(super) fn remember_services(
        &mut self,
        names: &BTreeSet<ServiceName>,
        now: u64,
        writes: &mut Vec<Write>,
    ) {
        for name in names {
            self.shared
                .note_derived(name, self.compiler.effective(name));
        }
        let services = names
            .iter()
            .filter_map(|name| self.compiler.effective(name));
        let services = services.map(|service| &**service);
        let noted = self.remembered.note(services, now, self.grace.is_none());
        for name in noted.written {
            let Some(record) = self.remembered.record(&name) else {
                continue;
            };
            let value = serde_json::to_vec(&record).expect("texts and numbers are JSON");
            let key = remembered_key(&self.settings.name, &name);
            writes.push(Write::put(key, value, Expect::Any));
            let kept = self.remembered.services.get(&name);
            let what = kept.map(|kept| Arc::clone(&kept.what));
            self.pending.push(Input::Remembered(name, what));
        }
        for name in &noted.forgotten {
            let key = remembered_key(&self.settings.name, name);
            writes.push(Write::delete(key, Expect::Any));
            self.pending.push(Input::Remembered(name.clone(), None));
        }
        let is_gone = |name: &&ServiceName| self.compiler.effective(name).is_none();
        let mut gone: BTreeSet<ServiceName> = names.iter().filter(is_gone).cloned().collect();
        gone.extend(noted.forgotten);
        self.end_versions(&gone);
    }
}

/// Where the store keeps a remembered service.
pub(crate) fn remembered_key(mesh: &MeshName, name: &ServiceName) -> StoreKey {
    let (namespace, service) = (name.namespace.as_str(), name.name.as_str());
    StoreKey::new(mesh.clone(), SERVICES, namespace, service)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const DAY: u64 = 24 * 3600;

    fn service(name: &str, origin: Origin) -> EffectiveService {
        EffectiveService {
            name: name.parse().unwrap(),
            ports: Vec::new(),
            origin,
            headless: false,
        }
    }

    fn forgotten(noted: &Noted) -> Vec<String> {
        noted.forgotten.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_service_is_forgotten_a_day_after_its_last_workload() {
        let mut kept = RememberedServices::default();
        let (served, empty) = (
            service("shop/cart", Origin::Registered),
            service("shop/cart", Origin::Remembered),
        );
        kept.note([&served].into_iter(), 0, true);
        kept.note([&empty].into_iter(), 100, false);
        assert!(kept.is_empty_since("shop/cart").is_none(), "not settled");
        kept.note([&empty].into_iter(), 200, true);
        kept.note([&empty].into_iter(), 300, true);
        assert_eq!(kept.is_empty_since("shop/cart"), Some(200));
        kept.note([&served].into_iter(), 400, true);
        assert_eq!(kept.is_empty_since("shop/cart"), None);
        let noted = kept.note([&empty].into_iter(), 500, true);
        assert!(noted.forgotten.is_empty() && noted.written.len() == 1);
        let noted = kept.note([&empty].into_iter(), 499 + DAY, true);
        assert!(noted.forgotten.is_empty());
        let noted = kept.note([&empty].into_iter(), 500 + DAY, true);
        assert_eq!(forgotten(&noted), ["shop/cart"]);
    }

    #[test]
    fn an_applied_service_needs_no_remembering() {
        let mut kept = RememberedServices::default();
        kept.note(
            [&service("shop/cart", Origin::Version)].into_iter(),
            0,
            true,
        );
        let noted = kept.note(
            [&service("shop/cart", Origin::Applied)].into_iter(),
            1,
            true,
        );
        assert_eq!(forgotten(&noted), ["shop/cart"]);
        assert!(kept.services.is_empty());
    }

    #[test]
    fn of_too_many_the_one_empty_for_longest_goes() {
        let mut kept = RememberedServices::default();
        let names: Vec<String> = (0..=MAX_EMPTY).map(|n| format!("shop/s{n}")).collect();
        let all = |origin| names.iter().map(move |name| service(name, origin));
        kept.note(all(Origin::Registered).collect::<Vec<_>>().iter(), 0, true);
        kept.note(
            [&service("shop/s7", Origin::Remembered)].into_iter(),
            1,
            true,
        );
        let noted = kept.note(all(Origin::Remembered).collect::<Vec<_>>().iter(), 2, true);
        assert_eq!(forgotten(&noted), ["shop/s7"]);
        assert_eq!((kept.over_limit, kept.services.len()), (1, MAX_EMPTY));
    }

    #[test]
    fn of_too_many_versions_go_before_services_that_somebody_named() {
        let mut kept = RememberedServices::default();
        kept.note(
            [&service("shop/cart", Origin::Registered)].into_iter(),
            0,
            true,
        );
        kept.note(
            [&service("shop/cart", Origin::Remembered)].into_iter(),
            1,
            true,
        );
        let names: Vec<String> = (0..MAX_EMPTY).map(|n| format!("shop/pay-v{n}")).collect();
        let all = |origin| names.iter().map(move |name| service(name, origin));
        kept.note(all(Origin::Version).collect::<Vec<_>>().iter(), 2, true);
        let noted = kept.note(all(Origin::Remembered).collect::<Vec<_>>().iter(), 3, true);
        assert_eq!(forgotten(&noted), ["shop/pay-v0"]);
        assert_eq!(kept.is_empty_since("shop/cart"), Some(1));
    }

    impl RememberedServices {
        fn is_empty_since(&self, name: &str) -> Option<u64> {
            self.services[&name.parse::<ServiceName>().unwrap()].empty
        }
    }
}
