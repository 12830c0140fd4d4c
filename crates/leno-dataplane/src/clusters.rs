//! The endpoints of services, their load and health as this worker sees them, and what their ports speak.
//!
//! Owns one balancer and one retry budget for each service in use. Never dials.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use leno_balance::{Balancer, EndpointState, Outcome, Pick, RetryBudget};
use leno_ir::{Endpoint, Endpoints, Health};
use leno_telemetry::counters::{Counter, Limit};
use leno_types::{Refusal, ServiceName, WorkloadUid};
use tokio::{sync::Notify, time::timeout_at};

use crate::{
    Event,
    counters::{count, limit},
    state::Shared,
};

/// What a port without a declared protocol turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP of either version: the client speaks first.
    Http,
    /// A protocol in which the server speaks first. Others are not learned: where the client speaks first it can be
    /// asked each time at no cost, and one odd connection must not decide for everybody.
    ServerFirst,
}

/// What was learned of the ports of one service or host (decision 14).
#[derive(Default)]
pub(crate) struct Learned(RefCell<Vec<(u16, Spoken)>>);

impl Learned {
    pub(crate) fn get(&self, port: u16) -> Option<Spoken> {
        let known = self.0.borrow();
        known
            .iter()
            .find(|(of, _)| *of == port)
            .map(|(_, spoken)| *spoken)
    }

    /// The server spoke first, and said this. A goodbye (408 to a client that was silent for long) is no greeting.
    pub(crate) fn server_said(&self, port: u16, said: &[u8]) {
        if !said.is_empty() && !said.starts_with(b"HTTP/") {
            self.set(port, Spoken::ServerFirst);
        }
    }

    pub(crate) fn set(&self, port: u16, spoken: Spoken) {
        /// So many ports of one service are remembered.
        const CEILING: usize = 64;
        let mut known = self.0.borrow_mut();
        known.retain(|(of, _)| *of != port);
        if known.len() < CEILING {
            known.push((port, spoken));
        }
    }

    fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Absent,
    Known,
}

/// One service's endpoints.
pub(crate) struct Cluster {
    /// The service.
    pub(crate) service: ServiceName,
    /// What its undeclared ports speak.
    pub(crate) learned: Rc<Learned>,
    balancer: RefCell<Balancer>,
    budget: RefCell<RetryBudget>,
    state: Cell<State>,
    used: Cell<Instant>,
    gone: Cell<bool>,
    subscribed: Cell<bool>,
    changed: Notify,
}

impl Cluster {
    fn new(service: ServiceName, now: Instant, subscribed: bool) -> Rc<Self> {
        Rc::new(Self {
            service,
            learned: Rc::default(),
            balancer: RefCell::new(Balancer::new()),
            budget: RefCell::new(RetryBudget::new()),
            state: Cell::new(State::Pending),
            used: Cell::new(now),
            gone: Cell::new(false),
            subscribed: Cell::new(subscribed),
            changed: Notify::new(),
        })
    }

    /// Whether it must be looked up anew.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Whether the service exists.
    pub(crate) fn exists(&self) -> bool {
        self.state.get() == State::Known
    }

    /// Notes that it is in use.
    pub(crate) fn touch(&self, now: Instant) {
        self.used.set(now);
    }

    /// How many endpoints there are.
    pub(crate) fn len(&self) -> usize {
        self.balancer.borrow().len()
    }

    /// Where those are that are fit to be called, each address once, in no order.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let balancer = self.balancer.borrow();
        let fit = balancer
            .endpoints()
            .filter(|endpoint| endpoint.health != Health::Unhealthy);
        let mut addresses: Vec<IpAddr> = fit
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        fastrand::shuffle(&mut addresses);
        addresses
    }

    /// How its endpoints stand.
    pub(crate) fn states(&self, now: Instant) -> Vec<EndpointState> {
        self.balancer.borrow().states(now)
    }

    /// Chooses an endpoint that serves this port of the service.
    pub(crate) fn pick(&self, port: u16, now: Instant, avoid: &[WorkloadUid]) -> Option<Pick> {
        let usable = |endpoint: &Endpoint| endpoint.port_of_service(port).is_some();
        let mut random = || fastrand::u64(..);
        self.balancer
            .borrow_mut()
            .pick(now, &mut random, &usable, avoid)
    }

    /// A request begins with this endpoint.
    pub(crate) fn started(&self, uid: WorkloadUid) {
        self.balancer.borrow_mut().started(uid);
    }

    /// That request ended.
    pub(crate) fn finished(
        &self,
        uid: WorkloadUid,
        now: Instant,
        outcome: Outcome,
        latency: Option<Duration>,
    ) {
        let ejected = self
            .balancer
            .borrow_mut()
            .finished(uid, now, outcome, latency);
        if let Some(ejection) = ejected {
            count(Counter::Ejections);
            tracing::info!(service = %self.service, endpoint = %ejection.uid, hold = ?ejection.hold,
                failures = ejection.failures, "endpoint ejected");
        }
    }

    /// Counts a request, for the budget of retries.
    pub(crate) fn request(&self, now: Instant) {
        self.budget.borrow_mut().request(now);
    }

    /// Takes a retry out of the budget.
    pub(crate) fn try_retry(&self, now: Instant) -> bool {
        self.budget.borrow_mut().try_retry(now)
    }

    /// A retry has ended.
    pub(crate) fn retry_finished(&self) {
        self.budget.borrow_mut().retry_finished();
    }

    fn answer(&self, answer: Option<&Endpoints>) {
        match answer {
            None => {
                self.state.set(State::Absent);
                self.balancer.borrow_mut().update(&[]);
                self.learned.clear();
            }
            Some(answer) => {
                self.state.set(State::Known);
                let mut balancer = self.balancer.borrow_mut();
                let same = balancer.len() == answer.endpoints.len()
                    && answer
                        .endpoints
                        .iter()
                        .all(|endpoint| balancer.endpoint(endpoint.uid).is_some());
                balancer.update(&answer.endpoints);
                if !same {
                    self.learned.clear();
                }
            }
        }
        self.changed.notify_waiters();
    }
}

/// Every service whose endpoints this worker knows or waits for.
#[derive(Default)]
pub(crate) struct Clusters {
    by_service: RefCell<HashMap<ServiceName, Rc<Cluster>>>,
}

impl Clusters {
    /// The endpoints of `service`; asks for them on first use and waits until the deadline of a discovery.
    ///
    /// # Errors
    /// [`Refusal::DiscoveryTimeout`] without an answer, [`Refusal::ServiceGone`] when there is no such service.
    pub(crate) async fn find(
        &self,
        shared: &Shared,
        service: &ServiceName,
        now: Instant,
    ) -> Result<Rc<Cluster>, Refusal> {
        let deadline = now + shared.config.limits.discovery_timeout;
        loop {
            if let Some(cluster) = self.known(shared, service, now) {
                return if cluster.exists() {
                    Ok(cluster)
                } else {
                    Err(Refusal::ServiceGone)
                };
            }
            if !shared.connected.get() {
                return Err(Refusal::DiscoveryTimeout);
            }
            let pending = self.by_service.borrow().get(service).cloned();
            let cluster = pending
                .or_else(|| self.ask(shared, service, now))
                .ok_or(Refusal::DiscoveryTimeout)?;
            // One thread: nothing can change between the look and the wait.
            let changed = cluster.changed.notified();
            if Box::pin(timeout_at(deadline.into(), changed))
                .await
                .is_err()
            {
                count(Counter::DiscoveryTimeouts);
                return Err(Refusal::DiscoveryTimeout);
            }
        }
    }

    /// What is known of `service` without waiting, which is a use of it.
    pub(crate) fn known(
        &self,
        shared: &Shared,
        service: &ServiceName,
        now: Instant,
    ) -> Option<Rc<Cluster>> {
        let cluster = self.by_service.borrow().get(service).cloned()?;
        if cluster.state.get() == State::Pending {
            return None;
        }
        cluster.touch(now);
        Self::subscribe(shared, &cluster);
        Some(cluster)
    }

    /// The endpoints of `service` as they stand, which is no use of it.
    pub(crate) fn look(&self, service: &ServiceName) -> Option<Rc<Cluster>> {
        self.by_service.borrow().get(service).cloned()
    }

    /// Every service that is known, in order.
    pub(crate) fn names(&self) -> Vec<ServiceName> {
        let mut names: Vec<ServiceName> = self.by_service.borrow().keys().cloned().collect();
        names.sort();
        names
    }

    /// Asks for endpoints ahead of their use (a DNS query does that).
    pub(crate) fn prefetch(&self, shared: &Shared, service: &ServiceName) {
        if !self.by_service.borrow().contains_key(service) && shared.connected.get() {
            drop(self.ask(shared, service, Instant::now()));
        }
    }

    fn ask(&self, shared: &Shared, service: &ServiceName, now: Instant) -> Option<Rc<Cluster>> {
        let limits = &shared.config.limits;
        if shared.outbox.is_congested(limits.events * 4) {
            limit(Limit::Discoveries);
            return None;
        }
        if self.by_service.borrow().len() >= limits.destinations {
            let oldest = {
                let map = self.by_service.borrow();
                map.values()
                    .min_by_key(|cluster| cluster.used.get())
                    .map(Rc::clone)
            };
            if let Some(oldest) = oldest {
                limit(Limit::Destinations);
                self.forget(shared, &oldest);
            }
        }
        let cluster = Cluster::new(service.clone(), now, true);
        self.by_service
            .borrow_mut()
            .insert(service.clone(), Rc::clone(&cluster));
        count(Counter::Discoveries);
        shared
            .outbox
            .push(Event::SubscribeEndpoints(service.clone()));
        Some(cluster)
    }

    /// What came unasked (the agent kept it over a restart, or it crossed our unsubscription) is subscribed with its
    /// first use.
    fn subscribe(shared: &Shared, cluster: &Cluster) {
        if !cluster.subscribed.replace(true) {
            count(Counter::Discoveries);
            let service = cluster.service.clone();
            shared.outbox.push(Event::SubscribeEndpoints(service));
        }
    }

    fn forget(&self, shared: &Shared, cluster: &Cluster) {
        self.by_service.borrow_mut().remove(&cluster.service);
        cluster.gone.set(true);
        cluster.changed.notify_waiters();
        if cluster.subscribed.get() {
            let service = cluster.service.clone();
            shared.outbox.push(Event::UnsubscribeEndpoints(service));
        }
    }

    /// Takes an answer.
    pub(crate) fn answer(&self, service: &ServiceName, answer: Option<&Endpoints>) {
        let cluster = {
            let mut map = self.by_service.borrow_mut();
            // Nobody asked here: the agent tells what it kept over a restart.
            let make = || Cluster::new(service.clone(), Instant::now(), false);
            Rc::clone(map.entry(service.clone()).or_insert_with(make))
        };
        cluster.answer(answer);
    }

    /// Unsubscribes what was not used for long.
    pub(crate) fn sweep(&self, shared: &Shared, now: Instant) {
        let idle = shared.config.limits.destination_idle;
        let old: Vec<Rc<Cluster>> = {
            let map = self.by_service.borrow();
            map.values()
                .filter(|cluster| now.saturating_duration_since(cluster.used.get()) >= idle)
                .cloned()
                .collect()
        };
        for cluster in old {
            self.forget(shared, &cluster);
        }
    }

    /// Wakes who waits for an answer that will not come.
    pub(crate) fn wake_pending(&self) {
        for cluster in self.by_service.borrow().values() {
            if cluster.state.get() == State::Pending {
                cluster.changed.notify_waiters();
            }
        }
    }
}
