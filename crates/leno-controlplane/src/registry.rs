//! Who is in a mesh: agents by the life of their session, and the workloads they registered.
//!
//! Owns leases (section 3 of the control plane's design): a goodbye ends one at once, six seconds without an answer
//! to a PING end it, a handover keeps it; where more than 30 % would vanish at once they stay, as unknown, counted.
//! Refuses registrations outside of an agent's scope (CP5). Never reads a clock, a socket or a random generator:
//! uptime and random bytes are arguments, and what is to be done comes back as [`Effects`].
//! Invariant: a workload is here exactly while its agent holds a lease, and an agent has at most one session.

mod leases;
mod opening;
mod registration;
mod scope;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime},
};

use leno_compile::{Place, Program, RegisteredPort};
use leno_types::{DnsLabel, WorkloadUid};
use leno_wire::agent as wire;

use crate::{told::one_line, uids::UidMint};
pub use opening::Opening;
pub use registration::Refused;
use registration::Registration;
pub use scope::{AgentScope, OutOfScope};

/// How often a session is asked for a sign of life.
pub const PING_EVERY: Duration = Duration::from_secs(2);
/// How long it may stay silent.
pub const SILENCE: Duration = Duration::from_secs(6);
/// How long a lease is kept for an agent's successor.
pub const HANDOVER: Duration = Duration::from_secs(30);
/// How long after a reconnect an agent may take to name its workloads again.
pub const CONFIRM: Duration = Duration::from_secs(10);
/// What of that any one connection has at least, however often they break.
pub const CONFIRM_LEAST: Duration = Duration::from_secs(1);
/// How long an unknown workload stays.
pub const UNKNOWN_KEPT: Duration = Duration::from_secs(3600);
/// What counts as at once.
const AT_ONCE: Duration = Duration::from_secs(10);
/// A silence that is on its way to end a lease.
const SUSPICIOUS: Duration = Duration::from_secs(3);
/// Longer between two ticks, and it was this process that stood still.
const STALLED: Duration = Duration::from_secs(3);
/// Most agents of a mesh.
pub const MAX_AGENTS: usize = 20_000;
/// Most workloads of one agent.
pub const MAX_WORKLOADS: usize = 512;
/// Most addresses of one agent.
pub const MAX_ADDRESSES: usize = 16;

/// One stream of an agent.
pub type SessionId = u64;

/// What follows from an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Sessions to ask for a sign of life, each with its number.
    pub ping: Vec<(SessionId, u64)>,
    /// Sessions to end, each with the reason.
    pub end: Vec<(SessionId, &'static str)>,
    /// Workloads that came, changed or went, each as it was before, or is if it came.
    pub changed: BTreeMap<WorkloadUid, Arc<Program>>,
    /// Whether members or their addresses changed.
    pub members: bool,
}

/// What is counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Leases that ended by silence.
    pub expired: u64,
    /// Leases that would have, and stay as unknown.
    pub kept_unknown: u64,
    /// Sessions that a newer one of the same agent replaced.
    pub replaced: u64,
    /// Registrations refused.
    pub refused: u64,
    /// Addresses claimed and not proven.
    pub unproven: u64,
    /// Leases that ended because the host came back as another agent.
    pub superseded: u64,
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What it is.
    pub program: Arc<Program>,
    /// Since when it is here, seconds since 1970.
    pub since: u64,
    /// Whether its checks pass.
    pub healthy: bool,
    /// Whether they ever did: before that nobody is told of it as an endpoint.
    pub ready: bool,
    /// What its check says.
    pub detail: Box<str>,
    /// Until when its agent has to name it again; `None` once it did.
    name_by: Option<Duration>,
}

impl Deref for Workload {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    Live,
    /// A successor is expected.
    HandedOver {
        until: Duration,
    },
    Unknown {
        until: Duration,
    },
}

/// A host's agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// What it may host.
    pub scope: AgentScope,
    /// Its stream, if it is connected.
    pub session: Option<SessionId>,
    /// Where others reach it.
    pub place: Arc<Place>,
    /// Its version of Leno.
    pub version: String,
    /// What it understands.
    pub features: Vec<String>,
    /// Since when it is connected.
    pub since: SystemTime,
    /// Its workloads.
    pub workloads: BTreeMap<WorkloadUid, Arc<Workload>>,
    /// What its machine is called, by its own word.
    host: String,
    source: IpAddr,
    claimed: Vec<IpAddr>,
    proven: Vec<IpAddr>,
    /// When it was heard last.
    pub heard: Duration,
    pinged: Duration,
    sequence: u64,
    lease: Lease,
    /// When the first of its workloads has to be named again, at the earliest.
    confirm_by: Option<Duration>,
}

impl Agent {
    /// Whether it is silent and kept all the same.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self.lease, Lease::Unknown { .. })
    }

    /// Its programs, by id.
    fn programs(&self) -> impl Iterator<Item = (WorkloadUid, Arc<Program>)> {
        let workloads = self.workloads.iter();
        workloads.map(|(uid, workload)| (*uid, Arc::clone(&workload.program)))
    }

    /// What it may truly be reached at: what it claims as far as proven, or where its stream comes from.
    fn effective(&self) -> Vec<IpAddr> {
        let known = |address: &&IpAddr| self.scope.any || self.proven.contains(address);
        let claimed: Vec<IpAddr> = self
            .claimed
            .iter()
            .filter(known)
            .copied()
            .filter(|address| self.scope.allows_address(*address))
            .collect();
        if claimed.is_empty() {
            vec![self.source]
        } else {
            claimed
        }
    }

    /// When its lease ends unless it is heard of.
    fn ends(&self) -> Duration {
        match self.lease {
            Lease::Live => self.heard.saturating_add(SILENCE),
            Lease::HandedOver { until } | Lease::Unknown { until } => until,
        }
    }
}

/// An agent that holds no lease any more: what is told of it until it comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// When it was heard last.
    pub heard: Duration,
    /// Its version of Leno then.
    pub version: String,
    /// What it was reached at.
    pub addresses: Vec<IpAddr>,
}

/// Who is in a mesh.
#[derive(Debug)]
pub struct Registry {
    mint: UidMint,
    /// On the heap: of a map that is filled in order half is empty.
    agents: BTreeMap<DnsLabel, Box<Agent>>,
    sessions: BTreeMap<SessionId, DnsLabel>,
    programs: BTreeMap<WorkloadUid, Arc<Program>>,
    /// At most [`MAX_AGENTS`]; of one for which there is no room less is told.
    gone: BTreeMap<DnsLabel, Gone>,
    /// When, and how many workloads went with each lease that ended lately.
    lately: VecDeque<(Duration, usize)>,
    last_tick: Duration,
    counters: Counters,
}

impl Registry {
    /// Nobody yet, at `now`.
    #[must_use]
    pub fn new(mint: UidMint, now: Duration) -> Self {
        Self {
            mint,
            agents: BTreeMap::new(),
            sessions: BTreeMap::new(),
            programs: BTreeMap::new(),
            gone: BTreeMap::new(),
            lately: VecDeque::new(),
            last_tick: now,
            counters: Counters::default(),
        }
    }

    /// What is counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// All agents that hold a lease, by name.
    pub fn agents(&self) -> impl Iterator<Item = (&DnsLabel, &Agent)> {
        self.agents.iter().map(|(name, agent)| (name, &**agent))
    }

    /// An agent that holds a lease.
    #[must_use]
    pub fn agent(&self, name: &DnsLabel) -> Option<&Agent> {
        self.agents.get(name).map(|agent| &**agent)
    }

    /// An agent whose lease ended since the start.
    #[must_use]
    pub fn gone(&self, name: &DnsLabel) -> Option<&Gone> {
        self.gone.get(name)
    }

    /// An agent is no member any more.
    pub fn forget(&mut self, name: &DnsLabel) {
        self.gone.remove(name);
    }

    /// A workload and its agent.
    #[must_use]
    pub fn workload(&self, uid: &WorkloadUid) -> Option<(&DnsLabel, &Agent, &Arc<Workload>)> {
        let program = self.programs.get(uid)?;
        let (name, agent) = self.agents.get_key_value(&program.agent)?;
        Some((name, agent, agent.workloads.get(uid)?))
    }

    /// The programs of all workloads.
    #[must_use]
    pub fn programs(&self) -> &BTreeMap<WorkloadUid, Arc<Program>> {
        &self.programs
    }

    /// How many workloads there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.programs.len()
    }

    /// Whether there is no workload.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    /// Takes a workload in, at `now`, seconds since 1970.
    ///
    /// # Errors
    /// Why not.
    pub fn register(
        &mut self,
        session: SessionId,
        message: &wire::Register,
        random: [u8; 8],
        now: u64,
        fx: &mut Effects,
    ) -> Result<Arc<Program>, Refused> {
        match self.try_register(session, message, random, now) {
            Ok((program, was)) => {
                fx.changed.insert(program.uid, was);
                Ok(program)
            }
            Err(refused) => {
                self.counters.refused = self.counters.refused.saturating_add(1);
                Err(refused)
            }
        }
    }

    fn try_register(
        &mut self,
        session: SessionId,
        message: &wire::Register,
        random: [u8; 8],
        now: u64,
    ) -> Result<(Arc<Program>, Arc<Program>), Refused> {
        let name = self.sessions.get(&session).cloned();
        let name = name.ok_or_else(|| Refused::Limit("the session is over".into()))?;
        let agent = self.agents.get_mut(&name);
        let agent = agent.ok_or_else(|| Refused::Limit("the session is over".into()))?;
        let wish = Registration::parse(message, &agent.scope)?;
        let uid = match wish.uid.filter(|uid| self.mint.is_of(*uid, &name)) {
            Some(uid) => uid,
            None => {
                let mut random = u64::from_be_bytes(random);
                loop {
                    let uid = self.mint.mint(&name, random.to_be_bytes());
                    if !self.programs.contains_key(&uid) {
                        break uid;
                    }
                    random = random.wrapping_add(1);
                }
            }
        };
        let others = agent.workloads.values().filter(|other| other.uid != uid);
        for other in others {
            // What was not named again since a reconnect is on its way out, and gives way.
            let clash = other.ports.iter().find(|theirs| {
                other.name_by.is_none()
                    && wish.ports.iter().any(|ours| needs_the_same(ours, theirs))
            });
            if let Some(port) = clash {
                return Err(Refused::Conflict(format!(
                    "port {} of this host is {}'s",
                    port.published.unwrap_or(port.workload_port),
                    other.name
                )));
            }
        }
        if agent.workloads.len() >= MAX_WORKLOADS && !agent.workloads.contains_key(&uid) {
            return Err(Refused::Limit(format!(
                "one agent hosts at most {MAX_WORKLOADS} workloads"
            )));
        }
        let known = agent.workloads.get(&uid);
        // Who was ready once stays an endpoint while its checks fail: a successor or a reconnect changes nothing in that.
        let was_ready = known.is_some_and(|known| known.ready);
        let since = known.map_or(now, |known| known.since);
        let was = known.map(|known| Arc::clone(&known.program));
        let ready = wish.ready;
        let program = wish.program(uid, name);
        let program = match &was {
            Some(same) if **same == program => Arc::clone(same),
            _ => Arc::new(program),
        };
        let workload = Workload {
            program: Arc::clone(&program),
            since,
            healthy: ready,
            ready: ready || was_ready,
            detail: Box::default(),
            name_by: None,
        };
        agent.workloads.insert(uid, Arc::new(workload));
        self.programs.insert(uid, Arc::clone(&program));
        let was = was.unwrap_or_else(|| Arc::clone(&program));
        Ok((program, was))
    }

    /// Takes a workload out.
    pub fn deregister(&mut self, session: SessionId, uid: WorkloadUid, fx: &mut Effects) {
        let Some(agent) = self.by_session(session) else {
            return;
        };
        if let Some(workload) = agent.workloads.remove(&uid) {
            self.programs.remove(&uid);
            fx.changed.insert(uid, Arc::clone(&workload.program));
        }
    }

    /// Notes whether a workload's checks pass.
    pub fn health(
        &mut self,
        session: SessionId,
        uid: WorkloadUid,
        healthy: bool,
        detail: &str,
        fx: &mut Effects,
    ) {
        let agent = self.by_session(session);
        if let Some(workload) = agent.and_then(|agent| agent.workloads.get_mut(&uid)) {
            let workload = Arc::make_mut(workload);
            if workload.healthy != healthy {
                fx.changed.insert(uid, Arc::clone(&workload.program));
            }
            workload.healthy = healthy;
            workload.ready |= healthy;
            workload.detail = one_line(detail, 256).into();
        }
    }

    /// Notes a sign of life: any message, above all a PONG.
    pub fn heard(&mut self, session: SessionId, now: Duration) {
        if let Some(agent) = self.by_session(session) {
            agent.heard = now;
        }
    }

    /// The agent says that it ends, or that a successor takes over.
    pub fn goodbye(&mut self, session: SessionId, handover: bool, now: Duration, fx: &mut Effects) {
        let Some(name) = self.sessions.get(&session).cloned() else {
            return;
        };
        if !handover {
            self.remove(&name, fx);
            return;
        }
        if let Some(agent) = self.agents.get_mut(&name) {
            let until = now.saturating_add(HANDOVER);
            agent.lease = Lease::HandedOver { until };
            agent.session = None;
        }
        self.sessions.remove(&session);
    }

    /// A stream ended; without a goodbye its agent has what is left of six seconds to return.
    pub fn closed(&mut self, session: SessionId) {
        if let Some(name) = self.sessions.remove(&session)
            && let Some(agent) = self.agents.get_mut(&name)
            && agent.session == Some(session)
        {
            agent.session = None;
        }
    }

    /// Ends a lease and all that hangs on it.
    pub fn remove(&mut self, name: &DnsLabel, fx: &mut Effects) {
        let Some(agent) = self.agents.remove(name) else {
            return;
        };
        if let Some(session) = agent.session {
            self.sessions.remove(&session);
        }
        for uid in agent.workloads.keys() {
            self.programs.remove(uid);
        }
        fx.changed.extend(agent.programs());
        fx.members = true;
        if self.gone.len() < MAX_AGENTS {
            let gone = Gone {
                heard: agent.heard,
                version: agent.version,
                addresses: agent.place.addresses.clone(),
            };
            self.gone.insert(name.clone(), gone);
        }
    }

    fn by_session(&mut self, session: SessionId) -> Option<&mut Agent> {
        let agent = self.agents.get_mut(self.sessions.get(&session)?)?;
        Some(agent)
    }
}

/// Two programs cannot be published on one port of their host. Where they listen is in a network namespace of each.
fn needs_the_same(one: &RegisteredPort, other: &RegisteredPort) -> bool {
    one.published.is_some() && one.published == other.published
}
