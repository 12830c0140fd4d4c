//! The phases of the measurement, in order, and what each found.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use leno_runtime::{Scope, Stop};
use leno_types::JoinToken;
use serde_json::json;

use crate::{
    Failure, Size,
    host::{Heard, Host},
    plane::{Memory, Plane, cpu_of},
};

/// Hosts that join at the same time.
const AT_ONCE: usize = 32;
/// Hosts of one token, which serve the same.
pub(crate) const HOSTS_OF_A_TOKEN: usize = 10;
/// Tasks of all hosts.
const TASKS: usize = 100_000;
/// What a host calls.
const CALLS: usize = 3;
/// Nothing is told for so long: all is done.
const QUIET: Duration = Duration::from_millis(1_500);
/// Nothing takes so long.
const LONG: Duration = Duration::from_secs(600);
/// Writes of which the convergence is measured.
const WRITES: usize = 200;
/// Writes by which compiling is measured at each size.
const COMPILED: usize = 60;
/// How long endpoints change.
const CHURN: Duration = Duration::from_secs(20);
/// Endpoint changes in a second.
const CHURN_RATE: u32 = 100;

/// Times, from the least.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn quantile(&self, of: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        // A share of a few hundred.
        let share = (of * f64::from(u32::try_from(last).unwrap_or(0))).round();
        let index = (0..=last).find(|index| f64::from(u32::try_from(*index).unwrap_or(0)) >= share);
        let time = index.and_then(|index| sorted.get(index));
        time.map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }
}

/// Cost of one change at a size.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    /// Microseconds in the compiler for one written route.
    pub(crate) compiler_us: f64,
    /// CPU of the whole process for it.
    pub(crate) process_ms: f64,
    pub(crate) times: Times,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) join_seconds: f64,
    pub(crate) memory: Memory,
    pub(crate) memory_after: Memory,
    pub(crate) quiet: Times,
    pub(crate) churned: Times,
    pub(crate) foreign_messages: usize,
    pub(crate) foreign_bytes: usize,
    pub(crate) newcomer_bytes: usize,
    pub(crate) newcomer_ms: f64,
    pub(crate) idle_cores: f64,
    pub(crate) churn_cores: f64,
    /// Of this process, which shares the machine.
    pub(crate) churn_load_cores: f64,
    pub(crate) churn_rate: f64,
    pub(crate) restart_listens: f64,
    pub(crate) restart_half: f64,
    pub(crate) restart_all: f64,
    pub(crate) restart_registered: f64,
    pub(crate) restart_resources: u64,
    pub(crate) compiled: Vec<Compiled>,
}

/// All hosts and their control plane.
struct Load {
    size: Size,
    plane: Plane,
    scope: Scope,
    hosts: RefCell<Vec<Rc<Host>>>,
    heard: Rc<Heard>,
    writes: RefCell<u64>,
}

/// Runs all phases.
pub(crate) async fn run(leno: &Path, directory: &Path, size: Size) -> Result<Found, Failure> {
    let scope = Scope::new(Stop::new(), Some(TASKS));
    let plane = Plane::start(leno, directory).await?;
    let mut load = Load {
        size,
        plane,
        scope,
        hosts: RefCell::default(),
        heard: Rc::default(),
        writes: RefCell::default(),
    };
    let mut found = Found::default();
    for part in [100, 10, 1] {
        let began = Instant::now();
        load.grow(size.proxies / part).await?;
        found.join_seconds += began.elapsed().as_secs_f64();
        let compiled = load
            .compiled(size.services / part, size.endpoints / part)
            .await?;
        found.compiled.push(compiled);
    }
    found.memory = load.plane.memory()?;
    load.idle(&mut found).await?;
    load.converge(&mut found).await?;
    load.newcomer(&mut found).await?;
    load.churn(&mut found).await?;
    load.restart(&mut found).await?;
    found.memory_after = load.plane.memory()?;
    load.scope.drain(Duration::ZERO).await;
    Ok(found)
}

impl Load {
    fn say(&self, what: &str) {
        eprintln!("control-load: {what}");
    }

    /// The services that a host's workloads serve: hosts of one token serve the same.
    fn services_of(&self, index: usize) -> Vec<String> {
        let each = self.size.endpoints / self.size.proxies;
        let first = index / HOSTS_OF_A_TOKEN * each;
        let name = |number| format!("s{}", (first + number) % self.size.services);
        (0..each).map(name).collect()
    }

    /// What a host calls, of what there is when so many hosts have joined.
    fn calls_of(&self, index: usize, hosts: usize) -> Vec<String> {
        let there = (hosts * self.size.services / self.size.proxies).max(1);
        let name = |number: usize| format!("svc/load/s{}", (index * CALLS + number) * 7 % there);
        let names: BTreeSet<String> = (0..CALLS).map(name).collect();
        names.into_iter().collect()
    }

    async fn token(&self, index: usize) -> Result<JoinToken, Failure> {
        let request = json!({
            "namespace": "load", "services": self.services_of(index), "uses": HOSTS_OF_A_TOKEN, "ttl": "24h",
        });
        let path = "/meshes/default/leno/v1/tokens";
        let answer = self
            .plane
            .ask(&self.scope, "POST", path, Some(request))
            .await?;
        let token = answer["token"].as_str().and_then(|text| text.parse().ok());
        token.ok_or_else(|| Failure::Plane("a token that cannot be read".into()))
    }

    /// More hosts join, up to `count`, and all that follows is done.
    async fn grow(&self, count: usize) -> Result<(), Failure> {
        let there = self.hosts.borrow().len();
        let mut tokens = BTreeMap::new();
        for index in (there..count).step_by(HOSTS_OF_A_TOKEN) {
            tokens.insert(index / HOSTS_OF_A_TOKEN, self.token(index).await?);
        }
        let to = self.plane.address;
        let joins = (there..count).filter_map(|index| {
            let token = tokens.get(&(index / HOSTS_OF_A_TOKEN))?;
            let (services, calls) = (self.services_of(index), self.calls_of(index, count));
            Some(Host::join(index, to, token, services, calls, &self.heard))
        });
        let mut joins = stream::iter(joins).buffer_unordered(AT_ONCE);
        while let Some(host) = joins.next().await {
            let host = Rc::new(host?);
            self.scope.spawn("host", Rc::clone(&host).run(to))?;
            self.hosts.borrow_mut().push(host);
            let joined = self.hosts.borrow().len();
            if joined.is_multiple_of(500) {
                self.say(&format!("{joined} of {count} hosts have joined"));
            }
        }
        self.settled(count).await?;
        self.say(&format!(
            "{count} hosts are connected, and hold what they asked for"
        ));
        Ok(())
    }

    /// Waits until so many hosts are connected, all workloads registered, and nothing more is told.
    async fn settled(&self, hosts: usize) -> Result<(), Failure> {
        let began = Instant::now();
        let workloads = hosts * (self.size.endpoints / self.size.proxies);
        loop {
            let before = self.heard.acks.borrow().len();
            tokio::time::sleep(QUIET).await;
            let is_quiet = self.heard.acks.borrow().len() == before;
            let connected = self.heard.connected.get();
            let registered = self.heard.registered.get();
            let hold = |host: &Rc<Host>| host.holds() == 2 * host.calls.len();
            let holding = self.hosts.borrow().iter().filter(|host| hold(host)).count();
            if is_quiet && connected == hosts && registered >= workloads && holding == hosts {
                return Ok(());
            }
            if began.elapsed() > LONG {
                return Err(Failure::Plane(format!(
                    "after {LONG:?} {connected} of {hosts} hosts are connected, {registered} of {workloads} workloads \
                     registered, {holding} hosts hold what they asked for"
                )));
            }
        }
    }

    /// Writes a route of a service that somebody calls, and waits for all of those: how long it took from the
    /// acknowledgement of the write, and how many messages and bytes others got.
    async fn write(&self) -> Result<(Duration, usize, usize), Failure> {
        let number = self.writes.replace_with(|number| *number + 1);
        let hosts = self.hosts.borrow().len();
        let host = fastrand::usize(..hosts);
        let name = self
            .hosts
            .borrow()
            .get(host)
            .and_then(|host| host.calls.first().cloned());
        let name = name.unwrap_or_default();
        let service = name.trim_start_matches("svc/load/").to_owned();
        let concerned: BTreeSet<usize> = {
            let hosts = self.hosts.borrow();
            let calls = hosts.iter().filter(|host| host.calls.contains(&name));
            calls.map(|host| host.index).collect()
        };
        self.heard.acks.borrow_mut().clear();
        let route = json!({"items": [{
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"namespace": "load", "name": format!("route-{service}")},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": service}],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": format!("/{number}")}}],
                    "backendRefs": [{"name": service, "port": 80}],
                }],
            },
        }]});
        let path = "/meshes/default/leno/v1/apply";
        self.plane
            .ask(&self.scope, "POST", path, Some(route))
            .await?;
        let acknowledged = Instant::now();
        let mut waiting = concerned.clone();
        let (mut last, mut looked, mut messages, mut bytes) = (acknowledged, 0, 0, 0);
        while !waiting.is_empty() {
            for ack in self.heard.acks.borrow().iter().skip(looked) {
                looked += 1;
                if !concerned.contains(&ack.host) {
                    messages += 1;
                    bytes += ack.bytes;
                } else if ack.names.contains(&name) && waiting.remove(&ack.host) {
                    last = last.max(ack.at);
                }
            }
            if acknowledged.elapsed() > LONG {
                return Err(Failure::Plane(format!(
                    "{name} does not come to {waiting:?}"
                )));
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        Ok((last - acknowledged, messages, bytes))
    }

    /// What a change costs with so many services.
    async fn compiled(&self, services: usize, endpoints: usize) -> Result<Compiled, Failure> {
        // What comes first warms up.
        for _ in 0..5 {
            self.write().await?;
        }
        let nanos = "leno_compile_seconds_sum";
        let before = self.plane.metric(nanos, &self.scope).await?;
        let cpu = self.plane.cpu()?;
        let mut times = Times::default();
        for _ in 0..COMPILED {
            times.0.push(self.write().await?.0);
        }
        let writes = f64::from(u32::try_from(COMPILED).unwrap_or(1));
        let spent = self.plane.metric(nanos, &self.scope).await? - before;
        let compiled = Compiled {
            services,
            endpoints,
            compiler_us: spent * 1e6 / writes,
            process_ms: (self.plane.cpu()? - cpu) * 1e3 / writes,
            times,
        };
        self.say(&format!(
            "{services} services, {endpoints} endpoints: {:.0} us in the compiler for a change, {:.1} ms of CPU in all",
            compiled.compiler_us, compiled.process_ms
        ));
        Ok(compiled)
    }

    async fn idle(&self, found: &mut Found) -> Result<(), Failure> {
        let (cpu, began) = (self.plane.cpu()?, Instant::now());
        tokio::time::sleep(Duration::from_secs(10)).await;
        found.idle_cores = (self.plane.cpu()? - cpu) / began.elapsed().as_secs_f64();
        Ok(())
    }

    async fn converge(&self, found: &mut Found) -> Result<(), Failure> {
        for _ in 0..WRITES {
            let (time, messages, bytes) = self.write().await?;
            found.quiet.0.push(time);
            found.foreign_messages += messages;
            found.foreign_bytes += bytes;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (p50, p99) = (found.quiet.quantile(0.5), found.quiet.quantile(0.99));
        self.say(&format!(
            "a write is at its proxies after {p50:.1} ms (p50), {p99:.1} ms (p99)"
        ));
        Ok(())
    }

    /// A host joins that serves nothing and calls three services.
    async fn newcomer(&self, found: &mut Found) -> Result<(), Failure> {
        let index = self.size.proxies;
        let request = json!({"namespace": "load", "services": [], "uses": 1});
        let path = "/meshes/default/leno/v1/tokens";
        let answer = self
            .plane
            .ask(&self.scope, "POST", path, Some(request))
            .await?;
        let token: Option<JoinToken> = answer["token"].as_str().and_then(|text| text.parse().ok());
        let token = token.ok_or_else(|| Failure::Plane("a token that cannot be read".into()))?;
        let calls = self.calls_of(index + 1, self.size.proxies);
        let to = self.plane.address;
        let host = Host::join(index, to, &token, Vec::new(), calls, &self.heard).await?;
        self.heard.acks.borrow_mut().clear();
        let host = Rc::new(host);
        let began = Instant::now();
        self.scope.spawn("host", Rc::clone(&host).run(to))?;
        while host.holds() < 2 * host.calls.len() {
            if began.elapsed() > LONG {
                return Err(Failure::Plane("a newcomer is not served".into()));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        found.newcomer_ms = began.elapsed().as_secs_f64() * 1e3;
        tokio::time::sleep(QUIET).await;
        let acks = self.heard.acks.borrow();
        let own = acks.iter().filter(|ack| ack.host == index);
        found.newcomer_bytes = own.map(|ack| ack.bytes).sum();
        self.say(&format!(
            "a newcomer is sent {} bytes",
            found.newcomer_bytes
        ));
        drop(acks);
        self.hosts.borrow_mut().push(host);
        Ok(())
    }

    /// Health changes all the time, and somebody writes meanwhile.
    async fn churn(&self, found: &mut Found) -> Result<(), Failure> {
        let hosts: Vec<Rc<Host>> = self.hosts.borrow().clone();
        let each = (self.size.endpoints / self.size.proxies) as u64;
        let changed = Rc::new(std::cell::Cell::new(0_u32));
        let counted = Rc::clone(&changed);
        let stop = self.scope.stop().child();
        let until = stop.clone();
        self.scope.spawn("churn", async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1) / CHURN_RATE);
            let mut sick = BTreeMap::new();
            while until.run_until_stopped(tick.tick()).await.is_some() {
                let Some(host) = hosts.get(fastrand::usize(..hosts.len())) else {
                    return;
                };
                let number = fastrand::u64(..each.max(1));
                let healthy = sick.remove(&(host.index, number)).is_some();
                if !healthy {
                    sick.insert((host.index, number), ());
                }
                host.health(number, healthy);
                counted.set(counted.get() + 1);
            }
        })?;
        let (cpu, own, began) = (self.plane.cpu()?, cpu_of("self")?, Instant::now());
        while began.elapsed() < CHURN {
            found.churned.0.push(self.write().await?.0);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        found.churn_cores = (self.plane.cpu()? - cpu) / seconds;
        found.churn_load_cores = (cpu_of("self")? - own) / seconds;
        found.churn_rate = f64::from(changed.get()) / seconds;
        stop.trigger();
        let p99 = found.churned.quantile(0.99);
        self.say(&format!(
            "{:.0} endpoint changes a second take {:.2} cores; a write meanwhile {p99:.1} ms (p99)",
            found.churn_rate, found.churn_cores
        ));
        Ok(())
    }

    /// The control plane is killed and started again: everybody comes back.
    async fn restart(&mut self, found: &mut Found) -> Result<(), Failure> {
        let hosts = self.hosts.borrow().len();
        let workloads = self.size.endpoints;
        self.heard.registered.set(0);
        self.heard.resources.set(0);
        let began = Instant::now();
        self.plane.restart().await?;
        found.restart_listens = began.elapsed().as_secs_f64();
        // Not each has noticed yet that it was cut off.
        let mut fell = false;
        loop {
            let seconds = began.elapsed().as_secs_f64();
            let connected = self.heard.connected.get();
            fell |= connected * 2 < hosts;
            if fell && connected * 2 >= hosts && found.restart_half == 0.0 {
                found.restart_half = seconds;
            }
            if fell && connected == hosts && found.restart_all == 0.0 {
                found.restart_all = seconds;
                self.say(&format!("all {hosts} are back after {seconds:.1} s"));
            }
            if self.heard.registered.get() >= workloads && found.restart_all > 0.0 {
                found.restart_registered = seconds;
                break;
            }
            if began.elapsed() > LONG {
                return Err(Failure::Plane(format!("{connected} of {hosts} came back")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        found.restart_resources = self.heard.resources.get();
        Ok(())
    }
}
