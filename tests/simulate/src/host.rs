//! A host: its agent's side of discovery is the real one, its session says what the real one says.
//!
//! Looks at everything it is sent: whether it may see it, and whether it goes back.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use leno_agent::simulation::{Discovery, Wanted};
use leno_controlplane::{simulation::Who, uids::UidMint};
use leno_types::{MeshName, WorkloadUid};
use leno_wire::{
    agent::{self as wire, AgentMessage, ControlMessage, agent_message, control_message},
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node},
    type_url,
};
use tokio::sync::mpsc;

use crate::{sim::Sim, visible, wire::Quality};

/// Messages that wait to be sent.
pub(crate) const OUTBOX: usize = 4_096;

/// A program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) service: &'static str,
    pub(crate) version: &'static str,
    pub(crate) port: u32,
    pub(crate) healthy: bool,
    pub(crate) uid: Option<WorkloadUid>,
}

/// How the connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Both sides know.
    Clean,
    /// The control plane does not know.
    Silent,
}

/// What is sent on a connection.
struct Up {
    session: mpsc::Sender<AgentMessage>,
    ads: mpsc::Sender<DeltaDiscoveryRequest>,
}

/// What an agent remembers.
#[derive(Default)]
struct State {
    up: Option<Up>,
    discovery: Discovery,
    programs: BTreeMap<u64, Program>,
    /// Registrations that are not answered, and for which program.
    asked: BTreeMap<u64, u64>,
    requests: u64,
    wants: BTreeSet<(Wanted, String)>,
    /// What was asked for on this connection, though perhaps no longer.
    asked_for: BTreeSet<(Wanted, String)>,
    /// Since when it is connected.
    since: Duration,
    revision: u64,
    acked: BTreeMap<(String, String), BTreeSet<String>>,
}

/// A host.
pub(crate) struct Host {
    pub(crate) mesh: MeshName,
    pub(crate) who: Who,
    sim: Sim,
    mint: Rc<UidMint>,
    state: RefCell<State>,
    pub(crate) powered: Cell<bool>,
    /// Nothing reaches the control plane, nor comes from there.
    pub(crate) apart: Cell<bool>,
    pub(crate) quality: Cell<Quality>,
    /// Of resources that arrive so many percent cannot be read.
    pub(crate) garbled: Cell<u64>,
    pub(crate) cut: tokio::sync::watch::Sender<Option<Cut>>,
    next: Cell<u64>,
}

impl Host {
    pub(crate) fn new(sim: &Sim, mesh: &MeshName, who: Who, mint: &Rc<UidMint>) -> Self {
        Self {
            mesh: mesh.clone(),
            who,
            sim: sim.clone(),
            mint: Rc::clone(mint),
            state: RefCell::default(),
            powered: Cell::new(true),
            apart: Cell::new(false),
            quality: Cell::new(Quality::Good),
            garbled: Cell::new(0),
            cut: tokio::sync::watch::Sender::new(None),
            next: Cell::new(0),
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.mesh, self.who.agent)
    }

    /// A connection stands: who is here, what runs here, what is wanted.
    pub(crate) fn on_up(
        &self,
        session: mpsc::Sender<AgentMessage>,
        ads: mpsc::Sender<DeltaDiscoveryRequest>,
    ) {
        self.sim.event("up", &self.name());
        let state = &mut *self.state.borrow_mut();
        state.up = Some(Up { session, ads });
        state.asked.clear();
        state.asked_for = state.wants.clone();
        state.since = self.sim.now();
        state.say(agent_message::Message::Hello(wire::Hello {
            host: self.who.agent.to_string(),
            addresses: vec![self.who.source.to_string()],
            version: "1".into(),
            features: Vec::new(),
            hbone_port: 15_008,
        }));
        let programs: Vec<u64> = state.programs.keys().copied().collect();
        for program in programs {
            state.register(program);
        }
        let node = Node {
            id: self.who.agent.to_string(),
            cluster: self.mesh.to_string(),
            ..Node::default()
        };
        for request in state.discovery.connect(&node) {
            state.ask(request);
        }
    }

    pub(crate) fn on_down(&self, why: &str) {
        self.sim.event("down", &format!("{} {why}", self.name()));
        self.state.borrow_mut().up = None;
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state.borrow().up.is_some()
    }

    pub(crate) fn on_session(&self, message: ControlMessage) {
        let state = &mut *self.state.borrow_mut();
        match message.message {
            Some(control_message::Message::Ping(ping)) => {
                let sequence = ping.sequence;
                state.say(agent_message::Message::Pong(wire::Pong { sequence }));
            }
            Some(control_message::Message::Registered(registered)) => {
                self.registered(state, &registered);
            }
            Some(control_message::Message::Refused(refused)) => {
                let name = self.name();
                self.sim
                    .event("refused", &format!("{name} {}", refused.message));
                let program = state.asked.remove(&refused.request);
                // One that was taken in before runs on.
                state
                    .programs
                    .retain(|id, of| Some(*id) != program || of.uid.is_some());
            }
            // Nobody asks agents anything here.
            Some(control_message::Message::Ask(_) | control_message::Message::Welcome(_))
            | None => {}
        }
    }

    fn registered(&self, state: &mut State, registered: &wire::Registered) {
        let Ok(uid) = registered.uid.parse::<WorkloadUid>() else {
            return self.sim.wrong("an id that cannot be read");
        };
        if !self.mint.is_of(uid, &self.who.agent) {
            self.sim
                .wrong(format!("{} got {uid}, another's", self.name()));
        }
        let program = state.asked.remove(&registered.request);
        let runs = program.and_then(|program| state.programs.get_mut(&program));
        let name = self.name();
        self.sim.event("registered", &format!("{name} {uid}"));
        match runs {
            Some(program) => {
                program.uid = Some(uid);
                let healthy = program.healthy;
                state.health(uid, healthy);
            }
            // It has gone meanwhile.
            None => state.deregister(uid),
        }
    }

    /// A response of discovery: looked at, taken in, answered.
    pub(crate) fn on_ads(&self, mut response: DeltaDiscoveryResponse) {
        let state = &mut *self.state.borrow_mut();
        let name = self.name();
        let revision: u64 = response.system_version_info.parse().unwrap_or(0);
        if revision < state.revision {
            let before = state.revision;
            self.sim
                .wrong(format!("{name} is told revision {revision} after {before}"));
        }
        state.revision = revision;
        self.sim.count("seen", response.resources.len() as u64);
        for resource in &response.resources {
            let seen = visible::check(&self.who, &self.mint, &response.type_url, resource);
            let seen =
                seen.and_then(|()| visible::asked(&state.asked_for, &response.type_url, resource));
            if let Err(seen) = seen {
                self.sim.wrong(format!("{name} must not see {seen}"));
            }
        }
        let garbled = self.garbled.get();
        for resource in &mut response.resources {
            if let Some(content) = &mut resource.resource
                && self.sim.dice(|dice| dice.percent(garbled))
            {
                content.value.insert(0, 0xff);
            }
        }
        let kind = response.type_url.clone();
        let sent: Vec<(String, String)> = response
            .resources
            .iter()
            .map(|resource| (resource.name.clone(), resource.version.clone()))
            .collect();
        let removed = response.removed_resources.join(" ");
        let (gone, answer) = state.discovery.handle(response);
        let refused = answer
            .error_detail
            .as_ref()
            .map(|status| status.message.clone());
        let mut line = format!("{name} r{revision} -{removed}");
        for (resource, version) in sent {
            // What it holds is what it said yes to.
            let held = state.discovery.version(&kind, &resource);
            if held.as_deref() == Some(version.as_str()) {
                let acked = state.acked.entry((kind.clone(), resource.clone()));
                acked.or_default().insert(version.clone());
            }
            let shown = if kind == type_url::MESH { "" } else { &version };
            line.push_str(&format!(" {resource}@{}", shown.get(..6).unwrap_or("")));
        }
        if let Some(refused) = refused {
            line.push_str(&format!(" NACK {refused}"));
        }
        self.sim.event("ads", &line);
        state.ask(answer);
        for uid in gone {
            let runs =
                |(id, program): (&u64, &Program)| (program.uid?.to_string() == uid).then_some(*id);
            if let Some(program) = state.programs.iter().find_map(runs) {
                self.sim.event("again", &format!("{name} {uid}"));
                state.register(program);
            }
        }
    }

    /// A program begins.
    pub(crate) fn begin(&self, program: Program) {
        let id = self.next.get();
        self.next.set(id + 1);
        let (service, version, port) = (program.service, program.version, program.port);
        let name = self.name();
        self.sim.event(
            "program",
            &format!("{name} begins {service} {version} {port}"),
        );
        let state = &mut *self.state.borrow_mut();
        state.programs.insert(id, program);
        state.register(id);
    }

    /// One of its programs ends, or its health changes.
    pub(crate) fn change_one(&self, ends: bool) {
        let state = &mut *self.state.borrow_mut();
        let ids: Vec<u64> = state.programs.keys().copied().collect();
        let Some(id) = self.sim.dice(|dice| dice.one(&ids).copied()) else {
            return;
        };
        let name = self.name();
        if ends {
            let program = state.programs.remove(&id);
            self.sim.event("program", &format!("{name} ends {id}"));
            if let Some(uid) = program.and_then(|program| program.uid) {
                state.deregister(uid);
            }
        } else if let Some(program) = state.programs.get_mut(&id) {
            program.healthy = !program.healthy;
            let (uid, healthy) = (program.uid, program.healthy);
            self.sim.event("health", &format!("{name} {id} {healthy}"));
            if let Some(uid) = uid {
                state.health(uid, healthy);
            }
        }
    }

    /// Wants something, or no longer.
    pub(crate) fn want(&self, wanted: Wanted, name: &str, wants: bool) {
        let state = &mut *self.state.borrow_mut();
        let key = (wanted, name.to_owned());
        let request = match wants {
            true => {
                state.wants.insert(key.clone());
                state.asked_for.insert(key);
                state.discovery.subscribe(wanted, name)
            }
            false => {
                state.wants.remove(&key);
                state.discovery.unsubscribe(wanted, name)
            }
        };
        let host = self.name();
        self.sim
            .event("want", &format!("{host} {wanted:?} {name} {wants}"));
        if let Some(request) = request {
            state.ask(request);
        }
    }

    /// The agent says that it ends.
    pub(crate) fn goodbye(&self, handover: bool) {
        let state = &mut *self.state.borrow_mut();
        state.say(agent_message::Message::Goodbye(wire::Goodbye { handover }));
    }

    /// The agent is another process now, with what the last one wrote down.
    pub(crate) fn restart(&self) {
        let state = &mut *self.state.borrow_mut();
        self.sim
            .event("agent", &format!("{} restarts", self.name()));
        state.up = None;
        state.discovery = state.discovery.restarted();
    }

    /// The machine loses its power: programs, subscriptions and what was held are gone.
    pub(crate) fn lose_power(&self) {
        self.sim
            .event("power", &format!("{} loses it", self.name()));
        self.powered.set(false);
        let state = &mut *self.state.borrow_mut();
        // What it saw and said is remembered by those who look.
        *state = State {
            revision: state.revision,
            acked: std::mem::take(&mut state.acked),
            ..State::default()
        };
    }

    /// The ids of what runs here; `None`: of some it is not known.
    pub(crate) fn runs(&self) -> Option<BTreeSet<WorkloadUid>> {
        let state = self.state.borrow();
        state.programs.values().map(|program| program.uid).collect()
    }

    /// The ids of what runs here, as far as they are known.
    pub(crate) fn known(&self) -> Vec<WorkloadUid> {
        let state = self.state.borrow();
        state
            .programs
            .values()
            .filter_map(|program| program.uid)
            .collect()
    }

    pub(crate) fn wants(&self) -> BTreeSet<(Wanted, String)> {
        self.state.borrow().wants.clone()
    }

    pub(crate) fn programs(&self) -> usize {
        self.state.borrow().programs.len()
    }

    pub(crate) fn held(&self) -> BTreeMap<(String, String), leno_wire::discovery::Resource> {
        self.state.borrow().discovery.held()
    }

    /// The endpoints that it holds, if it has been connected, and could read all it was sent; and since when.
    pub(crate) fn endpoints(&self) -> Option<(Duration, BTreeSet<WorkloadUid>)> {
        let state = self.state.borrow();
        state.up.as_ref().filter(|_| self.garbled.get() == 0)?;
        let held = state.discovery.held().into_iter();
        let endpoints = held
            .filter(|((kind, _), _)| kind == type_url::ENDPOINTS)
            .flat_map(|(_, resource)| visible::endpoints(&resource));
        Some((state.since, endpoints.collect()))
    }

    /// Whether it has ever said that it runs this.
    pub(crate) fn has_acked(&self, kind: &str, name: &str, version: &str) -> bool {
        let state = self.state.borrow();
        let acked = state.acked.get(&(kind.to_owned(), name.to_owned()));
        acked.is_some_and(|versions| versions.contains(version))
    }
}

impl State {
    /// A connection too slow to take it is given up, as the agent does.
    fn say(&mut self, message: agent_message::Message) {
        let Some(up) = &self.up else { return };
        let message = AgentMessage {
            message: Some(message),
        };
        if up.session.try_send(message).is_err() {
            self.up = None;
        }
    }

    fn ask(&mut self, request: DeltaDiscoveryRequest) {
        let Some(up) = &self.up else { return };
        if up.ads.try_send(request).is_err() {
            self.up = None;
        }
    }

    fn register(&mut self, program: u64) {
        if self.up.is_none() {
            return;
        }
        let Some(of) = self.programs.get(&program) else {
            return;
        };
        let request = self.requests;
        self.requests += 1;
        let register = wire::Register {
            request,
            uid: of.uid.map(|uid| uid.to_string()).unwrap_or_default(),
            namespace: "shop".into(),
            service: of.service.into(),
            service_account: String::new(),
            version: of.version.into(),
            ports: vec![wire::Port {
                service_port: 80,
                workload_port: of.port,
                app_protocol: "http".into(),
                published: 0,
            }],
            name: of.service.into(),
            ready: of.healthy,
        };
        self.asked.insert(request, program);
        self.say(agent_message::Message::Register(register));
    }

    fn deregister(&mut self, uid: WorkloadUid) {
        let uid = uid.to_string();
        self.say(agent_message::Message::Deregister(wire::Deregister { uid }));
    }

    fn health(&mut self, uid: WorkloadUid, healthy: bool) {
        self.say(agent_message::Message::Health(wire::HealthChange {
            uid: uid.to_string(),
            healthy,
            detail: String::new(),
        }));
    }
}
