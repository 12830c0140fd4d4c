//! Agents: redemption, sessions, certificates.

use std::{net::IpAddr, time::Duration};

use leno_runtime::Stop;
use leno_store::{Expect, Key as StoreKey, Store, StoreError, Write};
use leno_tls::{
    Peer,
    ca::{CaError, Csr, IssuedChain},
};
use leno_types::{DnsLabel, Identity, MeshName, WorkloadUid};
use leno_wire::agent::{self as wire, agent_message, control_message};
use std::time::SystemTime;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Mesh, Outgoing, Said, names::WorkloadNames};
use crate::{
    authority::random,
    core::Clock,
    records::Record,
    registry::{AgentScope, Effects, Opening, Refused, SessionId},
    times::unix,
    tokens::{AgentRecord, Decision, RedeemError, Redemption, TokenRecord, agent_name},
    told::one_line,
};

/// Messages that may wait to be sent on one session: more than an agent can have workloads.
pub(crate) const SESSION_QUEUE: usize = 1_024;

/// How often agents that are gone for good are looked for.
const LOOK_AT_AGENTS: Duration = Duration::from_secs(3600);

/// What came of a redemption.
pub(crate) enum Redeemed {
    /// The answer that was given before.
    Repeat(wire::RedeemResponse),
    /// The answer, once these are written.
    Make {
        answer: Box<wire::RedeemResponse>,
        writes: Vec<Write>,
        agent: Box<AgentRecord>,
    },
}

/// Why nothing is signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// The token.
    #[error(transparent)]
    Token(#[from] RedeemError),
    /// There is no such mesh here.
    #[error(
        "this control plane has no mesh {0}: the token was made elsewhere, or its mesh is gone"
    )]
    NoMesh(MeshName),
    /// The authority or the request.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agent does not host it.
    #[error("{agent} hosts no workload {uid}: a certificate is given for what is registered only")]
    NotHosted { agent: DnsLabel, uid: String },
    /// The agent is not of this mesh, or no longer.
    #[error("{0} is no agent of this mesh, or no longer")]
    UnknownAgent(DnsLabel),
    /// The certificate is of an earlier joining than the last: what that may do is no longer allowed, and what this may
    /// do was never given to it.
    #[error(
        "{0} has joined again since this certificate was issued: a copy of it counts no more; join with a new token"
    )]
    Outdated(DnsLabel),
}

/// What a host says of itself when it joins.
pub(crate) struct Joining {
    pub(crate) token: String,
    pub(crate) secret: Vec<u8>,
    pub(crate) csr: Csr,
    pub(crate) host: String,
    pub(crate) source: IpAddr,
    /// Who it has proven to have been until now.
    pub(crate) was: Option<Peer>,
    /// How often a name was taken meanwhile.
    pub(crate) attempt: u32,
}

impl Mesh {
    /// Decides about a token, and prepares what is to be written for it.
    pub(crate) fn redeem(
        &mut self,
        store: &dyn Store,
        joining: &Joining,
        now: SystemTime,
    ) -> Result<Redeemed, SignError> {
        let unknown = || RedeemError::Unknown(joining.token.chars().take(64).collect());
        let key = TokenRecord::key(&self.settings.name, &joining.token);
        let entry = store.get(&key)?.ok_or_else(unknown)?;
        let mut record = TokenRecord::read(&entry).ok_or_else(unknown)?;
        let key_id = joining.csr.key_id();
        let decision = record.decide(&joining.secret, &key_id, joining.source, unix(now))?;
        let scope = match decision {
            Decision::Repeat(made) => {
                return Ok(Redeemed::Repeat(self.redeem_answer(
                    &made.agent,
                    made.chain,
                    now,
                )));
            }
            Decision::Make(scope) => scope,
        };
        let (name, known) = match self.joins_again(store, joining)? {
            Some((name, revision)) => (name, Expect::Revision(revision)),
            None => {
                let name = self.free_name(store, &joining.host, joining.attempt)?;
                (name, Expect::Absent)
            }
        };
        let chain = self
            .authority
            .sign_agent(&joining.csr, &name, now)?
            .chain_pem;
        record.forget_answers(unix(now));
        record.redemptions.push(Redemption {
            key: key_id,
            agent: name.to_string(),
            at: unix(now),
            chain: chain.clone(),
        });
        let mut agent = AgentRecord::new(&name, &scope, record.id.clone(), unix(now));
        if let Some(was) = self.known_agents.get(&name) {
            agent.places = was.places.clone();
        }
        let writes = vec![
            record.write(key, Expect::Revision(entry.revision)),
            self.agent_write(&agent, known),
        ];
        Ok(Redeemed::Make {
            answer: Box::new(self.redeem_answer(name.as_str(), chain, now)),
            writes,
            agent: Box::new(agent),
        })
    }

    /// Prepares an agent for the control plane's own machine, which needs no token.
    pub(crate) fn local_agent(
        &mut self,
        store: &dyn Store,
        host: &str,
        csr: &Csr,
        attempt: u32,
        now: SystemTime,
    ) -> Result<(AgentRecord, wire::RedeemResponse, Vec<Write>), SignError> {
        let name = self.free_name(store, host, attempt)?;
        let chain = self.authority.sign_agent(csr, &name, now)?.chain_pem;
        let namespace = "default".parse().expect("a legal name");
        let scope = AgentScope::any(namespace);
        let agent = AgentRecord::new(&name, &scope, String::new(), unix(now));
        let answer = self.redeem_answer(name.as_str(), chain, now);
        let writes = vec![self.agent_write(&agent, Expect::Absent)];
        Ok((agent, answer, writes))
    }

    /// Takes an agent in that has just been written, at `revision`.
    pub(crate) fn note_agent(&mut self, mut agent: AgentRecord, revision: u64) {
        agent.revision = Some(revision);
        let Ok(name) = agent.name.parse::<DnsLabel>() else {
            return;
        };
        self.counters.redeemed = self.counters.redeemed.saturating_add(1);
        // Whoever holds a stream of that name has shown a certificate that counts no more.
        self.end_ads_of(&name, &Status::aborted("this agent has joined again"));
        // What came from the store meanwhile may be newer: that it is revoked.
        let known = self.known_agents.get(&name);
        if known.is_none_or(|known| known.is_before(revision)) {
            self.known_agents.insert(name, agent);
        }
        self.mesh_due = true;
    }

    /// A new certificate for an agent that has one.
    pub(crate) fn renew_agent(
        &mut self,
        agent: &DnsLabel,
        issued: SystemTime,
        csr: &Csr,
        now: SystemTime,
    ) -> Result<IssuedChain, SignError> {
        self.scope_of(agent, issued)?;
        let chain = self.authority.sign_agent(csr, agent, now)?;
        let known = self.known_agents.get_mut(agent);
        if known.is_some_and(|record| record.renew(unix(now))) {
            self.noted.insert(agent.clone());
        }
        Ok(chain)
    }

    /// What is to be written of agents, each by itself: renewals, where they are, and that those are gone whose
    /// certificates ended and who hold no lease. Whoever changed a record meanwhile has the last word.
    pub(crate) fn upkeep_of_agents(&mut self, now: Duration, wall: SystemTime) -> Vec<Write> {
        let mut writes = Vec::new();
        for name in std::mem::take(&mut self.noted) {
            if let Some(record) = self.known_agents.get(&name)
                && let Some(revision) = record.revision
            {
                writes.push(self.agent_write(record, Expect::Revision(revision)));
            }
        }
        if now < self.agents_looked_at.saturating_add(LOOK_AT_AGENTS) {
            return writes;
        }
        self.agents_looked_at = now;
        // Addresses that have rested are anybody's again.
        self.mesh_due = true;
        let over = self.known_agents.iter().filter(|(name, record)| {
            record.is_over(unix(wall)) && self.registry.agent(name).is_none()
        });
        writes.extend(over.filter_map(|(name, record)| {
            let expect = Expect::Revision(record.revision?);
            Some(Write::delete(self.agent_key(name.as_str()), expect))
        }));
        writes
    }

    /// A certificate for a workload of `agent`, which has shown that it is one ([`Mesh::scope_of`]).
    pub(crate) fn sign_workload(
        &mut self,
        agent: &DnsLabel,
        uid: &str,
        csr: &Csr,
        now: SystemTime,
    ) -> Result<(IssuedChain, WorkloadUid), SignError> {
        let hosted = uid.parse::<WorkloadUid>().ok().and_then(|uid| {
            let (host, _, workload) = self.registry.workload(&uid)?;
            (host == agent).then(|| (uid, workload.identity(self.domain())))
        });
        let Some((uid, identity)) = hosted else {
            self.counters.csr_refused = self.counters.csr_refused.saturating_add(1);
            return Err(SignError::NotHosted {
                agent: agent.clone(),
                uid: uid.chars().take(64).collect(),
            });
        };
        Ok((self.authority.sign_workload(csr, &identity, uid, now)?, uid))
    }

    /// What an agent may host that shows a certificate issued then.
    pub(crate) fn scope_of(
        &self,
        agent: &DnsLabel,
        issued: SystemTime,
    ) -> Result<AgentScope, SignError> {
        let record = self
            .known_agents
            .get(agent)
            .filter(|record| !record.revoked);
        if record.is_some_and(|record| record.outdates(unix(issued))) {
            return Err(SignError::Outdated(agent.clone()));
        }
        let scope = record.map(|record| record.scope.clone());
        scope.ok_or_else(|| SignError::UnknownAgent(agent.clone()))
    }

    /// A session opens.
    pub(crate) fn open_session(
        &mut self,
        opening: Opening<'_>,
        sender: mpsc::Sender<Said<wire::ControlMessage>>,
        stop: Stop,
        now: Duration,
    ) -> Result<(), Refused> {
        let (session, agent) = (opening.session, opening.agent.clone());
        let mut fx = Effects::default();
        self.registry.open(opening, now, &mut fx)?;
        self.proxy_stale(&agent);
        self.stale.agents.insert(agent.clone());
        tracing::info!(%agent, mesh = %self.settings.name, "an agent is connected");
        self.sessions.insert(
            session,
            Outgoing {
                agent,
                sender,
                stop,
            },
        );
        self.prove_again(session, now, &mut fx);
        self.note_stopped(session, None);
        self.follow(fx);
        let welcome = wire::Welcome {
            mesh: self.settings.name.to_string(),
            control_plane_version: env!("CARGO_PKG_VERSION").into(),
            features: leno_ir::Feature::names(),
        };
        self.say(session, control_message::Message::Welcome(welcome));
        Ok(())
    }

    /// An agent says something on its session; `random` is for the id of a workload. Returns the workload that it has thereby registered, as which it can now
    /// be challenged.
    pub(crate) fn hear(
        &mut self,
        session: SessionId,
        message: wire::AgentMessage,
        clock: &Clock,
        random: [u8; 8],
    ) -> Option<(DnsLabel, WorkloadUid)> {
        use agent_message::Message;
        let now = clock.uptime();
        self.registry.heard(session, now);
        let mut fx = Effects::default();
        let mut registered = None;
        match message.message {
            // The first was taken in by opening; a second changes nothing. A PONG was heard.
            None | Some(Message::Hello(_) | Message::Pong(_)) => {}
            Some(Message::Register(register)) => {
                let now = unix(clock.wall());
                registered = self.register(session, &register, random, now, &mut fx);
            }
            Some(Message::Deregister(message)) => {
                if let Ok(uid) = message.uid.parse() {
                    self.registry.deregister(session, uid, &mut fx);
                }
            }
            Some(Message::Health(health)) => {
                if let Ok(uid) = health.uid.parse() {
                    // What its check says may be new where its health is not.
                    self.stale.workloads.insert(uid);
                    self.publish_due = true;
                    self.registry
                        .health(session, uid, health.healthy, &health.detail, &mut fx);
                }
            }
            Some(Message::Report(report)) => self.report(session, report, now),
            Some(Message::Answer(answer)) => self.answered(session, answer),
            Some(Message::Goodbye(goodbye)) => {
                if !goodbye.handover {
                    self.note_stopped(session, Some(unix(clock.wall())));
                }
                let agent = self.sessions.get(&session).map(|of| of.agent.clone());
                self.stale.agents.extend(agent);
                self.registry
                    .goodbye(session, goodbye.handover, now, &mut fx);
            }
        }
        self.follow(fx);
        let agent = self.sessions.get(&session)?.agent.clone();
        registered.map(|uid| (agent, uid))
    }

    fn register(
        &mut self,
        session: SessionId,
        register: &wire::Register,
        random: [u8; 8],
        now: u64,
        fx: &mut Effects,
    ) -> Option<WorkloadUid> {
        let mut uid = None;
        let answer = match self.registry.register(session, register, random, now, fx) {
            Ok(program) => {
                uid = Some(program.uid);
                control_message::Message::Registered(wire::Registered {
                    request: register.request,
                    uid: program.uid.to_string(),
                    identity: program.identity(self.domain()).to_string(),
                    name: program.name.to_string(),
                })
            }
            Err(refused) => control_message::Message::Refused(wire::Refused {
                request: register.request,
                code: refused.code().into(),
                message: refused.to_string(),
            }),
        };
        self.say(session, answer);
        uid
    }

    fn report(&mut self, session: SessionId, report: wire::Report, now: Duration) {
        let Some(outgoing) = self.sessions.get(&session) else {
            return;
        };
        let names = WorkloadNames {
            registry: &self.registry,
            former: &self.former,
            domain: self.authority.domain(),
        };
        let told = report.edges.len();
        let mut edges = report.edges;
        edges.retain(|edge| names.may_report(&outgoing.agent, edge));
        let foreign = told.saturating_sub(edges.len());
        if foreign > 0 {
            self.counters.foreign_edges =
                self.counters.foreign_edges.saturating_add(foreign as u64);
            tracing::debug!(agent = %outgoing.agent, foreign, "an agent reports traffic of workloads that it does not host");
        }
        self.telemetry.record(&edges, &names, now);
        let its = |uid: &WorkloadUid| {
            let hosted = self.registry.workload(uid);
            hosted.is_some_and(|(agent, ..)| *agent == outgoing.agent)
        };
        let outsiders = &mut self.telemetry.outsiders;
        let (dropped, malformed) = outsiders.record(&report.outsiders, its, now);
        self.telemetry.dropped = self.telemetry.dropped.saturating_add(dropped);
        self.telemetry.malformed = self.telemetry.malformed.saturating_add(malformed);
        if let Some(mut state) = report.proxy {
            state
                .certificates
                .truncate(crate::registry::MAX_WORKLOADS + 1);
            shorten(&mut state);
            self.states.insert(outgoing.agent.clone(), state);
        }
    }

    /// A session's stream ended.
    pub(crate) fn close_session(&mut self, session: SessionId) {
        if let Some(outgoing) = self.sessions.remove(&session) {
            tracing::info!(agent = %outgoing.agent, mesh = %self.settings.name, "an agent's session ended");
            self.stale.agents.insert(outgoing.agent);
            self.publish_due = true;
        }
        self.answers_no_more(session);
        self.registry.closed(session);
    }

    pub(super) fn ping(&mut self, session: SessionId, sequence: u64) {
        self.say(
            session,
            control_message::Message::Ping(wire::Ping { sequence }),
        );
    }

    pub(super) fn end_session(&mut self, session: SessionId, reason: &'static str) {
        self.end_with(session, Status::aborted(reason));
    }

    fn end_with(&mut self, session: SessionId, status: Status) {
        if let Some(outgoing) = self.sessions.remove(&session) {
            tracing::info!(agent = %outgoing.agent, reason = status.message(), "an agent's session is ended");
            self.stale.agents.insert(outgoing.agent.clone());
            outgoing.end(status);
        }
        self.answers_no_more(session);
    }

    /// Ends everything of an agent that is no longer welcome.
    pub(super) fn end_agent(&mut self, agent: &DnsLabel, reason: &'static str) {
        let mut fx = Effects::default();
        // Either stream says that it need not come back.
        let status = Status::permission_denied(reason);
        if let Some(session) = self.registry.agent(agent).and_then(|agent| agent.session) {
            self.end_with(session, status.clone());
        }
        self.registry.remove(agent, &mut fx);
        self.follow(fx);
        self.end_ads_of(agent, &status);
    }

    pub(super) fn say(&mut self, session: SessionId, message: control_message::Message) {
        let Some(outgoing) = self.sessions.get(&session) else {
            return;
        };
        let message = wire::ControlMessage {
            message: Some(message),
        };
        let said = Box::new(Ok(message));
        if let Err(mpsc::error::TrySendError::Full(_)) = outgoing.sender.try_send(said) {
            self.end_session(session, "this agent does not read what it is told");
        }
    }

    /// Addresses an agent claims and could prove now by answering at them as `uid`. Each is tried once at a time.
    pub(crate) fn take_challenges(
        &mut self,
        agent: &DnsLabel,
        uid: WorkloadUid,
    ) -> Option<(Vec<IpAddr>, Identity, u16)> {
        let (_, host, workload) = self.registry.workload(&uid)?;
        let identity = workload.identity(self.domain());
        let port = host.place.hbone_port;
        let mut open = self.registry.unproven(agent);
        open.retain(|address| self.challenged.insert((agent.clone(), *address)));
        (!open.is_empty()).then_some((open, identity, port))
    }

    /// A challenge is over.
    pub(crate) fn challenged(&mut self, agent: &DnsLabel, address: IpAddr, answered: bool) {
        self.challenged.remove(&(agent.clone(), address));
        if answered {
            self.prove(agent, address);
        } else {
            tracing::warn!(%agent, %address, "an agent claims an address at which it does not answer; it is not used");
        }
    }

    /// An agent has called from an address.
    pub(crate) fn prove(&mut self, agent: &DnsLabel, address: IpAddr) {
        let mut fx = Effects::default();
        self.registry.prove(agent, address, &mut fx);
        self.follow(fx);
    }

    fn redeem_answer(&self, agent: &str, chain: String, now: SystemTime) -> wire::RedeemResponse {
        wire::RedeemResponse {
            mesh: self.settings.name.to_string(),
            trust_domain: self.domain().to_string(),
            agent: agent.into(),
            chain,
            trust_bundle: self.authority.bundle().to_pem(),
            clock: unix(now),
        }
    }

    /// The agent that a host was until now, by its certificate, and still is: one program must not become two because
    /// its host joined again. Not one that is revoked; nor one that is connected or has joined again since, for then this
    /// is a copy of its disk.
    fn joins_again(
        &self,
        store: &dyn Store,
        joining: &Joining,
    ) -> Result<Option<(DnsLabel, u64)>, StoreError> {
        let ours = |peer: &&Peer| peer.identity.domain_str() == self.domain().as_str();
        let Some(was) = joining.was.as_ref().filter(ours) else {
            return Ok(None);
        };
        let name = was.identity.agent_name().map(str::parse::<DnsLabel>);
        let Some(Ok(name)) = name else {
            return Ok(None);
        };
        let agent = self.registry.agent(&name);
        if agent.is_some_and(|agent| agent.session.is_some()) {
            return Ok(None);
        }
        let entry = store.get(&self.agent_key(name.as_str()))?;
        let known = entry.filter(|entry| {
            AgentRecord::read(entry)
                .is_some_and(|record| !record.revoked && !record.outdates(unix(was.issued)))
        });
        Ok(known.map(|entry| (name, entry.revision)))
    }

    fn free_name(
        &self,
        store: &dyn Store,
        host: &str,
        attempt: u32,
    ) -> Result<DnsLabel, StoreError> {
        let mut attempt = attempt;
        loop {
            let name = agent_name(host, attempt, u64::from_be_bytes(random()));
            // An agent's name is its identity, and a scope hangs on it: it is never given twice.
            if store.get(&self.agent_key(name.as_str()))?.is_none() {
                return Ok(name);
            }
            attempt += 1;
        }
    }

    fn agent_key(&self, name: &str) -> StoreKey {
        AgentRecord::key(&self.settings.name, name)
    }

    fn agent_write(&self, agent: &AgentRecord, known: Expect) -> Write {
        agent.write(self.agent_key(&agent.name), known)
    }
}

/// An agent's texts are kept as long as its state is: cut to what they can be.
fn shorten(state: &mut wire::ProxyState) {
    /// No serial, id or identity has more characters.
    const LONGEST: usize = 512;
    let texts = state.certificates.iter_mut().flat_map(|certificate| {
        [
            &mut certificate.uid,
            &mut certificate.identity,
            &mut certificate.serial,
        ]
    });
    for text in texts.chain([&mut state.config_version]) {
        *text = one_line(text, LONGEST);
    }
}
