//! What names and addresses mean, asked for on first use (CP7, CP8).
//!
//! Owns every answer about a destination. Invariant: an entry that is mapped is subscribed, and an entry that is not
//! mapped any more says so (`gone`), so that who kept it looks again. Absence is an answer and is kept like one.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    time::Instant,
};

use leno_ir::{Destination, Host, ResourceName, Service};
use leno_telemetry::counters::{Counter, Limit};
use leno_types::{Refusal, ServiceName};
use tokio::{sync::Notify, time::timeout_at};

use crate::{
    Event,
    clusters::{Cluster, Learned},
    counters::{count, limit},
    state::Shared,
};

/// What is known of a destination.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Nothing yet.
    Pending,
    /// There is nothing.
    Absent,
    /// A service.
    Service(Rc<ServiceView>),
    /// The workloads at one address.
    Host(Rc<HostView>),
    /// The service that has a name by a template.
    Hostname(ServiceName),
}

/// A service, with its own endpoints once they were looked up.
pub(crate) struct ServiceView {
    /// It.
    pub(crate) service: Service,
    /// Its own endpoints, so that a request without routes looks nothing up.
    pub(crate) own: RefCell<Option<Rc<Cluster>>>,
}

/// A host, with what was learned of its ports.
pub(crate) struct HostView {
    /// It.
    pub(crate) host: Host,
    /// What its undeclared ports speak.
    pub(crate) learned: Rc<Learned>,
}

/// One destination.
pub(crate) struct Entry {
    answer: RefCell<Answer>,
    /// Names it is mapped under.
    names: RefCell<Vec<ResourceName>>,
    /// Names of those that were asked for.
    asked: RefCell<Vec<ResourceName>>,
    used: Cell<Instant>,
    gone: Cell<bool>,
    changed: Notify,
}

impl Entry {
    fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self {
            answer: RefCell::new(Answer::Pending),
            names: RefCell::default(),
            asked: RefCell::default(),
            used: Cell::new(now),
            gone: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// The answer as it stands.
    pub(crate) fn answer(&self) -> Answer {
        self.answer.borrow().clone()
    }

    /// Whether it must be looked up anew.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Notes that it is in use.
    pub(crate) fn touch(&self, now: Instant) {
        self.used.set(now);
    }

    fn is_pending(&self) -> bool {
        matches!(*self.answer.borrow(), Answer::Pending)
    }
}

/// Every destination this worker knows or waits for.
#[derive(Default)]
pub(crate) struct Destinations {
    by_name: RefCell<HashMap<ResourceName, Rc<Entry>>>,
    pending: Cell<usize>,
}

impl Destinations {
    /// How many names are mapped.
    pub(crate) fn len(&self) -> usize {
        self.by_name.borrow().len()
    }

    /// What is known of an address, without asking.
    pub(crate) fn peek(&self, address: IpAddr) -> Option<Answer> {
        let map = self.by_name.borrow();
        map.get(&ResourceName::Address(address))
            .map(|entry| entry.answer())
    }

    /// What `name` means; asks for it on first use and waits until the deadline of a discovery.
    ///
    /// # Errors
    /// [`Refusal::DiscoveryTimeout`]: no answer, and none to be had.
    pub(crate) async fn find(
        &self,
        shared: &Shared,
        name: &ResourceName,
    ) -> Result<Rc<Entry>, Refusal> {
        let now = Instant::now();
        if let Some(entry) = self.known(shared, name, now) {
            return Ok(entry);
        }
        Box::pin(self.wait(shared, name, now)).await
    }

    /// The entry, if it was answered. One that came unasked (the agent kept it over a restart, or it crossed our
    /// unsubscription) is subscribed with its first use.
    pub(crate) fn known(
        &self,
        shared: &Shared,
        name: &ResourceName,
        now: Instant,
    ) -> Option<Rc<Entry>> {
        let map = self.by_name.borrow();
        let entry = map.get(name).filter(|entry| !entry.is_pending())?;
        entry.touch(now);
        let mut asked = entry.asked.borrow_mut();
        if asked.is_empty() {
            asked.push(name.clone());
            count(Counter::Discoveries);
            shared.outbox.push(Event::Subscribe(name.clone()));
        }
        Some(Rc::clone(entry))
    }

    async fn wait(
        &self,
        shared: &Shared,
        name: &ResourceName,
        now: Instant,
    ) -> Result<Rc<Entry>, Refusal> {
        let deadline = now + shared.config.limits.discovery_timeout;
        loop {
            if !shared.connected.get() {
                return Err(Refusal::DiscoveryTimeout);
            }
            let mapped = self.by_name.borrow().get(name).cloned();
            let entry = match mapped {
                Some(entry) => entry,
                None => self
                    .ask(shared, name, now)
                    .ok_or(Refusal::DiscoveryTimeout)?,
            };
            // One thread: nothing can change between the look and the wait.
            let changed = entry.changed.notified();
            if timeout_at(deadline.into(), changed).await.is_err() {
                count(Counter::DiscoveryTimeouts);
                return Err(Refusal::DiscoveryTimeout);
            }
            if let Some(entry) = self.known(shared, name, Instant::now()) {
                return Ok(entry);
            }
        }
    }

    /// A new entry, subscribed; `None` at a ceiling.
    fn ask(&self, shared: &Shared, name: &ResourceName, now: Instant) -> Option<Rc<Entry>> {
        let limits = &shared.config.limits;
        if self.pending.get() >= limits.discoveries || shared.outbox.is_congested(limits.events * 4)
        {
            limit(Limit::Discoveries);
            return None;
        }
        if self.len() >= limits.destinations {
            self.evict(shared);
        }
        let entry = Entry::new(now);
        entry.names.borrow_mut().push(name.clone());
        entry.asked.borrow_mut().push(name.clone());
        self.by_name
            .borrow_mut()
            .insert(name.clone(), Rc::clone(&entry));
        self.pending.set(self.pending.get() + 1);
        count(Counter::Discoveries);
        shared.outbox.push(Event::Subscribe(name.clone()));
        Some(entry)
    }

    /// Makes room: the least recently used goes.
    fn evict(&self, shared: &Shared) {
        let oldest = {
            let map = self.by_name.borrow();
            map.values()
                .min_by_key(|entry| entry.used.get())
                .map(Rc::clone)
        };
        if let Some(oldest) = oldest {
            limit(Limit::Destinations);
            self.forget(shared, &oldest);
        }
    }

    fn forget(&self, shared: &Shared, entry: &Rc<Entry>) {
        self.unmap(entry);
        for name in entry.asked.take() {
            shared.outbox.push(Event::Unsubscribe(name));
        }
    }

    /// Takes an entry out of the map and tells who holds it.
    fn unmap(&self, entry: &Rc<Entry>) {
        let mut map = self.by_name.borrow_mut();
        for name in entry.names.take() {
            if map
                .get(&name)
                .is_some_and(|mapped| Rc::ptr_eq(mapped, entry))
            {
                map.remove(&name);
            }
        }
        if entry.is_pending() {
            self.pending.set(self.pending.get().saturating_sub(1));
        }
        entry.gone.set(true);
        entry.changed.notify_waiters();
    }

    /// Takes an answer: every name it is known by means the same from now on.
    pub(crate) fn answer(
        &self,
        name: ResourceName,
        aliases: Vec<ResourceName>,
        answer: Option<Destination>,
    ) {
        let now = Instant::now();
        let mut names = names_of(name, aliases, answer.as_ref());
        let known: Vec<Rc<Entry>> = {
            let map = self.by_name.borrow();
            names
                .iter()
                .filter_map(|name| map.get(name).cloned())
                .collect()
        };
        let entry = known.first().cloned().unwrap_or_else(|| {
            // Nobody asked here: another worker did, or the agent tells what it kept over a restart.
            self.pending.set(self.pending.get() + 1);
            Entry::new(now)
        });
        for other in known.iter().filter(|other| !Rc::ptr_eq(other, &entry)) {
            entry
                .asked
                .borrow_mut()
                .append(&mut other.asked.borrow_mut());
            names.extend(other.asked.borrow().iter().cloned());
            if !other.gone.get() {
                self.unmap(other);
            }
        }
        if entry.is_pending() {
            self.pending.set(self.pending.get().saturating_sub(1));
        }
        names.extend(entry.asked.borrow().iter().cloned());
        names.sort_unstable();
        names.dedup();
        {
            let mut map = self.by_name.borrow_mut();
            for old in entry.names.take() {
                map.remove(&old);
            }
            for name in &names {
                map.insert(name.clone(), Rc::clone(&entry));
            }
        }
        entry.names.replace(names);
        let learned = match &*entry.answer.borrow() {
            Answer::Host(host) => Some(Rc::clone(&host.learned)),
            _ => None,
        };
        entry.answer.replace(match answer {
            None => Answer::Absent,
            Some(Destination::Service(service)) => Answer::Service(Rc::new(ServiceView {
                service,
                own: RefCell::new(None),
            })),
            Some(Destination::Host(host)) => Answer::Host(Rc::new(HostView {
                host,
                learned: learned.unwrap_or_default(),
            })),
            Some(Destination::Hostname(of)) => Answer::Hostname(of.service),
        });
        entry.changed.notify_waiters();
    }

    /// Unsubscribes what was not used for long.
    pub(crate) fn sweep(&self, shared: &Shared, now: Instant) {
        let idle = shared.config.limits.destination_idle;
        let old: Vec<Rc<Entry>> = {
            let map = self.by_name.borrow();
            map.values()
                .filter(|entry| now.saturating_duration_since(entry.used.get()) >= idle)
                .cloned()
                .collect()
        };
        for entry in old.iter().filter(|entry| !entry.gone.get()) {
            self.forget(shared, entry);
        }
    }

    /// Wakes who waits for an answer that will not come.
    pub(crate) fn wake_pending(&self) {
        let map = self.by_name.borrow();
        for entry in map.values().filter(|entry| entry.is_pending()) {
            entry.changed.notify_waiters();
        }
    }
}

/// Every name of an answer: as given, canonical, and by address.
fn names_of(
    name: ResourceName,
    aliases: Vec<ResourceName>,
    answer: Option<&Destination>,
) -> Vec<ResourceName> {
    let mut names = aliases;
    names.push(name);
    match answer {
        Some(Destination::Service(service)) => {
            names.push(ResourceName::Service(service.name.clone()));
            names.extend(service.vips.iter().copied().map(ResourceName::Address));
        }
        Some(Destination::Host(host)) => {
            names.push(ResourceName::Host(host.address));
            names.push(ResourceName::Address(host.address));
        }
        Some(Destination::Hostname(of)) => {
            names.push(ResourceName::Hostname(of.name.clone()));
        }
        None => {}
    }
    names.sort_unstable();
    names.dedup();
    names
}
