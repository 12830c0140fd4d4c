//! One world: a control plane of two meshes on its machine, hosts with programs, people who write; and what befalls them.

use std::{
    cell::RefCell,
    net::Ipv4Addr,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::Duration,
};

use leno_agent::simulation::Wanted;
use leno_controlplane::{
    registry::AgentScope,
    simulation::{Who, domain_of, member},
    uids::UidMint,
};
use leno_runtime::{Scope, Stop};
use leno_store::Store;
use leno_types::MeshName;
use tokio::{task::LocalSet, time::Instant};

use crate::{
    authorities::{self, Ground},
    check::{self, Ghosts},
    disk::State,
    documents,
    host::{Cut, Host, Program},
    link, panics,
    people::People,
    sim::{Outcome, Sim, wall},
    site::Site,
    tenant::Tenant,
    wire::Quality,
};

/// Hosts of a mesh.
const HOSTS: u8 = 4;
/// Most programs of a host.
const PROGRAMS: usize = 4;
/// Steps between two rests.
const STRETCH: u64 = 40;
/// How long a world that is left alone may take to come to rest.
const REST: Duration = Duration::from_secs(60);
/// Writes that may be under way.
const TASKS: usize = 1_000;

/// Lives one world through. A panic of anything in it is what is wrong with it.
///
/// # Panics
/// When the runtime cannot be made.
#[must_use]
pub fn run(ground: &Ground, seed: u64, steps: u64) -> Outcome {
    panics::forget();
    let lived = catch_unwind(AssertUnwindSafe(|| live(ground, seed, steps)));
    let mut outcome = lived.unwrap_or_else(|_| Outcome::of_panic(seed, steps));
    if let Some(panic) = panics::last() {
        outcome.wrong = Some(format!("a panic: {panic}"));
    }
    outcome
}

fn live(ground: &Ground, seed: u64, steps: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without a driver can be made");
    let local = LocalSet::new();
    let outcome = local.block_on(&runtime, async {
        let sim = Sim::new(seed);
        match World::new(&sim, ground).await {
            Ok(world) => world.live(steps).await,
            Err(error) => sim.wrong(format!("the world cannot begin: {error}")),
        }
        sim.outcome(seed, steps)
    });
    drop(local);
    outcome
}

struct World {
    sim: Sim,
    scope: Scope,
    site: Rc<Site>,
    meshes: Vec<MeshName>,
    hosts: Vec<Rc<Host>>,
    people: Rc<People>,
    tenant: Rc<Tenant>,
    ghosts: RefCell<Ghosts>,
}

impl World {
    async fn new(sim: &Sim, ground: &Ground) -> Result<Self, Box<dyn std::error::Error>> {
        let start = Instant::now();
        let meshes: Vec<MeshName> = authorities::meshes().collect();
        let scope = Scope::new(Stop::new(), Some(TASKS));
        let site = Rc::new(Site::new(sim, &scope, ground.disk()?, &meshes));
        let store = site.before_the_first()?;
        let mut hosts = Vec::new();
        for mesh in &meshes {
            let mint = Rc::new(UidMint::new(mesh.clone(), &authorities::UID_KEY));
            for number in 0..HOSTS {
                let agent = format!("host-{number}").parse()?;
                let issued = wall(start) + Duration::from_secs(1);
                let scope = AgentScope {
                    any: false,
                    namespace: "shop".parse()?,
                    account: None,
                    services: documents::services(mesh)
                        .iter()
                        .filter_map(|name| name.parse().ok())
                        .collect(),
                    cidr: None,
                };
                let write = member(mesh, &agent, &scope, wall(start));
                store.commit(vec![write]).await?;
                let who = Who {
                    domain: domain_of(mesh),
                    agent,
                    issued,
                    source: Ipv4Addr::new(10, 0, 0, number + 1).into(),
                };
                hosts.push(Rc::new(Host::new(sim, mesh, who, &mint)));
            }
        }
        drop(store);
        let people = Rc::new(People::new(sim, &site));
        site.start().await;
        let tenant = Rc::new(Tenant::new(sim, &site, &people)?);
        for host in &hosts {
            let running = link::run(
                Rc::clone(host),
                Rc::clone(&site),
                scope.clone(),
                sim.clone(),
            );
            scope.spawn("link", running)?;
        }
        Ok(Self {
            sim: sim.clone(),
            scope,
            site,
            meshes,
            hosts,
            people,
            tenant,
            ghosts: RefCell::default(),
        })
    }

    async fn live(&self, steps: u64) {
        for step in 1..=steps {
            self.step().await;
            if step % STRETCH == 0 || step == steps {
                self.rest().await;
            }
            self.look_around().await;
            if self.sim.is_wrong() {
                break;
            }
        }
        self.site.end(true).await;
        self.scope.drain(Duration::ZERO).await;
    }

    /// Something happens, and time passes.
    async fn step(&self) {
        match self.sim.dice(|dice| dice.below(100)) {
            0..22 => self.write(),
            22..26 => self.found(),
            26..62 => self.programs(),
            62..74 => self.subscriptions(),
            74..86 => self.network(),
            86..92 => self.agents(),
            92..96 => self.disk(),
            _ => self.control_plane().await,
        }
        let passes = self.sim.dice(|dice| match dice.below(10) {
            0..5 => dice.ms(20),
            5..9 => dice.ms(1_000),
            _ => dice.ms(9_000),
        });
        self.pass(passes).await;
    }

    /// Time passes; a machine that is lost meanwhile comes back.
    async fn pass(&self, time: Duration) {
        let until = Instant::now() + time;
        while tokio::time::timeout_at(until, self.site.weather.lost.notified())
            .await
            .is_ok()
        {
            self.site.end(true).await;
            self.site.start().await;
        }
    }

    fn write(&self) {
        let tenant = self.tenant.can_be_written();
        let mesh = self.sim.dice(|dice| {
            let any = dice.one(&self.meshes).cloned();
            any.filter(|_| !(tenant && dice.percent(30)))
        });
        let mesh = mesh.unwrap_or_else(|| self.tenant.name.clone());
        let people = Rc::clone(&self.people);
        if self.scope.spawn("write", people.write(mesh)).is_err() {
            self.sim.wrong("too many writes");
        }
    }

    /// A mesh is made or removed.
    fn found(&self) {
        if let Some(founding) = Rc::clone(&self.tenant).change()
            && self.scope.spawn("found", founding).is_err()
        {
            self.sim.wrong("too many writes");
        }
    }

    fn host(&self) -> &Rc<Host> {
        let index = self.sim.dice(|dice| dice.below(self.hosts.len() as u64));
        let index = usize::try_from(index).unwrap_or(0);
        &self.hosts[index]
    }

    fn programs(&self) {
        let host = self.host();
        if !host.powered.get() {
            return;
        }
        match self.sim.dice(|dice| dice.below(10)) {
            0..5 if host.programs() < PROGRAMS => {
                let services = documents::services(&host.mesh);
                let program = self.sim.dice(|dice| Program {
                    service: dice.one(&services).copied().unwrap_or_default(),
                    version: dice.one(&["", "v1", "v2"]).copied().unwrap_or_default(),
                    port: u32::try_from(8_080 + dice.below(2)).unwrap_or(8_080),
                    healthy: dice.percent(80),
                    uid: None,
                });
                host.begin(program);
            }
            0..7 => host.change_one(true),
            _ => host.change_one(false),
        }
    }

    fn subscriptions(&self) {
        let host = self.host();
        let service = self.sim.dice(documents::any_service);
        let wants = self.sim.dice(|dice| dice.percent(75));
        let (wanted, name) = match self.sim.dice(|dice| dice.below(8)) {
            0..3 => (Wanted::Destination, format!("svc/shop/{service}")),
            3 => (Wanted::Destination, format!("svc/shop/{service}-v1")),
            4 => (Wanted::Destination, format!("name/{service}.mesh.example")),
            5 => {
                let last = self.sim.dice(|dice| 1 + dice.below(5));
                (Wanted::Destination, format!("ip/10.0.0.{last}"))
            }
            _ => (Wanted::Endpoints, format!("svc/shop/{service}")),
        };
        if host.powered.get() {
            host.want(wanted, &name, wants);
        }
    }

    fn network(&self) {
        let host = self.host();
        let cut = |silent| if silent { Cut::Silent } else { Cut::Clean };
        let (what, silent, slow) = self
            .sim
            .dice(|dice| (dice.below(10), dice.percent(60), 5 + dice.below(1_500)));
        let name = host.name();
        match what {
            0..4 => {
                self.sim.event("cut", &name);
                host.cut.send_replace(Some(cut(silent)));
                // What is said now is lost: that the program has ended is known by its not being named again.
                if self.sim.dice(|dice| dice.percent(40)) {
                    host.change_one(true);
                }
            }
            4..6 => {
                let apart = !host.apart.get();
                self.sim.event("apart", &format!("{name} {apart}"));
                host.apart.set(apart);
                if apart {
                    host.cut.send_replace(Some(cut(silent)));
                }
            }
            6..9 => {
                let quality = match host.quality.get() {
                    Quality::Good => Quality::Slow(slow),
                    Quality::Slow(_) => Quality::Good,
                };
                self.sim.event("quality", &format!("{name} {quality:?}"));
                host.quality.set(quality);
            }
            _ => {
                let garbled = if host.garbled.get() == 0 { 20 } else { 0 };
                self.sim.event("garbled", &format!("{name} {garbled}%"));
                host.garbled.set(garbled);
                if garbled == 0 {
                    // What it could not read is sent again only on a new stream.
                    host.cut.send_replace(Some(Cut::Clean));
                }
            }
        }
    }

    fn agents(&self) {
        let host = self.host();
        if !host.powered.get() {
            self.sim.event("power", &format!("{} is back", host.name()));
            return host.powered.set(true);
        }
        match self.sim.dice(|dice| dice.below(8)) {
            0 => {
                host.lose_power();
                host.cut.send_replace(Some(Cut::Silent));
            }
            // The power of the place: all of one mesh at once.
            2 => {
                let place = self.hosts.iter().filter(|of| of.mesh == host.mesh);
                for host in place.filter(|host| host.powered.get()) {
                    host.lose_power();
                    host.cut.send_replace(Some(Cut::Silent));
                }
            }
            1 | 3 => {
                host.goodbye(true);
                host.restart();
                host.cut.send_replace(Some(Cut::Clean));
            }
            _ => {
                host.restart();
                host.cut.send_replace(Some(Cut::Clean));
            }
        }
    }

    fn disk(&self) {
        let state = self.sim.dice(|dice| match dice.below(8) {
            0 => State::Full,
            1 => State::Broken,
            2 => State::Flaky,
            3 => State::Slow(2_000),
            4 => State::Fatal { after: false },
            5 => State::Fatal { after: true },
            _ => State::Well,
        });
        self.sim.event("disk", &format!("{state:?}"));
        self.site.weather.set(state);
    }

    async fn control_plane(&self) {
        let (at_once, away) = self.sim.dice(|dice| (dice.percent(70), dice.below(3)));
        self.site.end(at_once).await;
        if away == 0 {
            let time = self.sim.dice(|dice| dice.ms(20_000));
            tokio::time::sleep(time).await;
        }
        self.site.start().await;
    }

    /// Nothing more befalls the world: it comes to rest, and is as it should be.
    async fn rest(&self) {
        self.sim.event("rest", "");
        self.site.weather.set(State::Well);
        for host in &self.hosts {
            host.apart.set(false);
            host.quality.set(Quality::Good);
            if host.garbled.replace(0) > 0 {
                // What it could not read is sent again only on a new stream.
                host.cut.send_replace(Some(Cut::Clean));
            }
        }
        self.pass(REST).await;
        if !self.people.is_idle() {
            self.sim.wrong("somebody waits for an answer in vain");
        }
        for mesh in &self.meshes {
            let hosts: Vec<&Rc<Host>> = self.of(mesh);
            match check::look(&self.site, mesh, true).await {
                Some(look) => check::at_rest(&self.sim, &look, &hosts),
                None => self.sim.wrong("there is no control plane"),
            }
        }
        let mut meshes = self.meshes.clone();
        if self.tenant.check().await {
            let name = self.tenant.name.clone();
            match check::look(&self.site, &name, true).await {
                Some(look) => check::at_rest(&self.sim, &look, &[]),
                None => self
                    .sim
                    .wrong(format!("mesh {name} is told of, and not served")),
            }
            meshes.push(name);
        }
        self.people.check(&meshes).await;
        self.sim.event("rested", "");
    }

    fn of(&self, mesh: &MeshName) -> Vec<&Rc<Host>> {
        self.hosts
            .iter()
            .filter(|host| host.mesh == *mesh)
            .collect()
    }

    async fn look_around(&self) {
        for mesh in self.meshes.iter().chain([&self.tenant.name]) {
            if let Some(look) = check::look(&self.site, mesh, false).await {
                let hosts = self.of(mesh);
                check::at_any_moment(&self.sim, &look, &hosts);
                let mut ghosts = self.ghosts.borrow_mut();
                ghosts.look(&self.sim, mesh, &look, &hosts);
            }
        }
    }
}
