//! Programs: taken in, watched, forgotten.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Instant, SystemTime},
};

use leno_dataplane::{AppDial, ListenRole, Update};
use leno_net::{
    cgroup,
    fdpass::Peer,
    socket::{self, Expected},
};
use leno_types::WorkloadUid;
use leno_wire::agent::{self as wire, agent_message};
use tokio::sync::mpsc;

use super::{Agent, Asked, Caller};
use crate::{
    handover::Handle,
    host_network::{self, HostCapture},
    hosted::{self, Owner, Unfit},
    local::{self, Connection, LocalEvent},
    protocol::{self, FromAgent, Network, Start, ToAgent, Why},
    run_user::Allowed,
    standing::Standing,
};

/// Sockets made at once in the network of another user's program.
const MOST_SOCKETS: usize = 256;

impl Agent {
    pub(super) fn on_local(&mut self, event: LocalEvent) {
        match event {
            LocalEvent::Opened {
                connection,
                peer,
                out,
            } => self.on_opened(connection, &peer, out),
            LocalEvent::Message {
                connection,
                message,
                descriptors,
            } => match message {
                ToAgent::Start(start) => {
                    if let Err(unfit) = self.on_start(connection, *start, descriptors) {
                        self.refuse(connection, unfit.code, unfit.message);
                    }
                }
                ToAgent::Sockets { v6 } => {
                    self.on_sockets(connection, v6, descriptors);
                }
                ToAgent::Health { healthy, detail } => self.on_health(connection, healthy, detail),
                ToAgent::Leaving => self.on_leaving(connection),
                ToAgent::Takeover => self.on_takeover(connection),
                ToAgent::Exited { code } => {
                    tracing::info!(code, "a program ended");
                    self.on_gone(connection);
                }
            },
            LocalEvent::Closed { connection } => {
                self.on_gone(connection);
                self.callers.remove(&connection);
            }
        }
    }

    /// Sockets of a program's own network, to dial it with.
    fn on_sockets(&mut self, connection: Connection, v6: bool, sockets: Vec<OwnedFd>) {
        let Some(caller) = self.callers.get(&connection) else {
            return;
        };
        // Those of another user are not used: the agent makes its own.
        let trusted = self.owner(caller.user) == Owner::Trusted;
        let Some(uid) = caller.uid.filter(|_| trusted) else {
            return;
        };
        let fit = |socket: &OwnedFd| {
            let checked = socket::check(socket, Expected::Unconnected { v6 });
            checked
                .inspect_err(|error| tracing::warn!(%uid, %error, "a socket is not used"))
                .is_ok()
        };
        let sockets: Vec<OwnedFd> = sockets.into_iter().filter(fit).collect();
        self.worker.send(Update::AppSockets { uid, v6, sockets });
    }

    /// Whose the descriptors of a user's program are.
    fn owner(&self, user: u32) -> Owner {
        if user == 0 || user == leno_net::process::user() {
            Owner::Trusted
        } else {
            Owner::Foreign(user)
        }
    }

    pub(super) fn on_opened(
        &mut self,
        connection: Connection,
        peer: &Peer,
        out: mpsc::Sender<local::Outgoing>,
    ) {
        let allowed = self.allowed(peer.uid).is_some();
        self.callers.insert(
            connection,
            Caller {
                out,
                user: peer.uid,
                pid: peer.pid,
                uid: None,
            },
        );
        if !allowed {
            // Whoever only looks whether an agent answers is not worth a warning.
            tracing::info!(user = peer.uid, "a user who may run no programs here");
            let (code, message) = (Why::Forbidden, nothing(peer.uid));
            self.tell(connection, FromAgent::Refused { code, message });
            self.callers.remove(&connection);
            return;
        }
        let host = protocol::Host {
            name: self.config.host.to_string(),
            mesh: self.membership.borrow().mesh.to_string(),
            addresses: self.config.addresses.clone(),
            connected: matches!(self.standing, Standing::Connected),
            trouble: self.standing.trouble(),
            good_until: self.first_end(),
        };
        self.tell(connection, FromAgent::Host(host));
    }

    pub(super) fn on_start(
        &mut self,
        connection: Connection,
        start: Start,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Unfit> {
        let Some(caller) = self.callers.get(&connection) else {
            return Ok(());
        };
        let run_user = caller.user;
        if caller.uid.is_some()
            || self
                .asked
                .values()
                .any(|asked| asked.connection == connection)
        {
            return Err(Unfit::new(
                Why::Conflict,
                "one connection starts one program",
            ));
        }
        hosted::check(&start)?;
        self.may(run_user, |allowed| {
            allowed.may_ask(&start.service, &start.service_account)
        })?;
        if let Network::Host { cgroup } = &start.network {
            host_network::check(cgroup, run_user)?;
            self.routes.ensure();
            self.save_routes();
        }
        if let Some(uid) = self.returning(&start, run_user)? {
            return self.on_return(connection, uid, &start, descriptors);
        }
        if connection != Connection::SIDECAR
            && let Some(refusal) = self.standing.refusal()
        {
            return Err(Unfit::new(Why::NoMember, refusal));
        }
        let sockets = hosted::sockets(
            &start,
            descriptors,
            &self.config.addresses,
            app_dial(connection),
            self.owner(run_user),
            &mut self.inherited,
        )?;
        self.next_request += 1;
        let request = self.next_request;
        let asked = Asked {
            connection,
            run_user,
            healthy: start.ports.is_empty(),
            start,
            sockets,
            since: Instant::now(),
        };
        let register = asked.registration(request);
        self.asked.insert(request, asked);
        self.say(agent_message::Message::Register(register));
        Ok(())
    }

    /// The workload that a program says it was before the agent's restart, if it may be that one.
    pub(super) fn returning(
        &self,
        start: &Start,
        run_user: u32,
    ) -> Result<Option<WorkloadUid>, Unfit> {
        let uid = start.uid.as_deref().and_then(|uid| uid.parse().ok());
        let hosted = uid.and_then(|uid| self.hosted.get(&uid));
        let same = hosted.filter(|hosted| {
            hosted.connection.is_none()
                && hosted.run_user == run_user
                && hosted.start.service == start.service
                && hosted.start.network == start.network
        });
        let Some(hosted) = same else {
            return Ok(None);
        };
        // What this agent allows may be less than what its predecessor did.
        self.may(run_user, |allowed| allowed.may_run_as(&hosted.identity))?;
        Ok(Some(hosted.uid))
    }

    fn allowed(&self, user: u32) -> Option<Allowed> {
        Allowed::of(user, leno_net::process::user(), &self.config.run_users)
    }

    /// Whether a user may do something here.
    pub(super) fn may(
        &self,
        user: u32,
        what: impl FnOnce(&Allowed) -> Result<(), String>,
    ) -> Result<(), Unfit> {
        let allowed = self.allowed(user);
        let outcome = allowed.as_ref().map_or_else(|| Err(nothing(user)), what);
        outcome.map_err(|message| Unfit::new(Why::Forbidden, message))
    }

    pub(super) fn on_return(
        &mut self,
        connection: Connection,
        uid: WorkloadUid,
        start: &Start,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Unfit> {
        let owner = self.callers.get(&connection).map(|caller| caller.user);
        let owner = owner.map_or(Owner::Trusted, |user| self.owner(user));
        let Some(hosted) = self.hosted.get_mut(&uid) else {
            return Ok(());
        };
        let (brought, foreign) = hosted::brought(start, descriptors, app_dial(connection), owner)?;
        hosted.foreign = foreign;
        hosted.start.preserve_source = start.preserve_source;
        hosted.connection = Some(connection);
        hosted.greeted = false;
        let owed = std::mem::take(&mut hosted.owed);
        match (&mut hosted.sockets, &start.network) {
            // The host's own listeners stand since the restart.
            (_, Network::Host { .. }) => {}
            (Some(waiting), Network::Own) => waiting.capture = brought,
            (None, Network::Own) => self.worker.send(Update::Capture {
                uid,
                sockets: brought,
            }),
        }
        if let Some(caller) = self.callers.get_mut(&connection) {
            caller.uid = Some(uid);
        }
        self.tell_if_ready(uid);
        for (v6, count) in [(false, owed[0]), (true, owed[1])] {
            if count > 0 {
                self.need_sockets(uid, v6, count);
            }
        }
        Ok(())
    }

    /// Hands a workload that has all it needs to the data plane, and lets its program start.
    pub(super) fn tell_if_ready(&mut self, uid: WorkloadUid) {
        if let Err(unfit) = self.introduce(uid) {
            let connection = self.hosted.get(&uid).and_then(|hosted| hosted.connection);
            if let Some(connection) = connection {
                self.refuse(connection, unfit.code, unfit.message);
                if let Some(caller) = self.callers.get_mut(&connection) {
                    caller.uid = None;
                }
            }
            return self.forget(uid);
        }
        self.greet(uid);
    }

    /// Tells the data plane of a workload, once it has its certificate and its description.
    fn introduce(&mut self, uid: WorkloadUid) -> Result<(), Unfit> {
        if let Some(start) = self.hosted.get(&uid).map(|hosted| hosted.start.clone()) {
            self.prepare_way_back(&start)?;
        }
        let Some(hosted) = self.hosted.get_mut(&uid).filter(|_| self.mesh.is_some()) else {
            return Ok(());
        };
        let (Some(certificate), Some(bundle), Some(own)) =
            (&hosted.certificate, &hosted.bundle, &hosted.own)
        else {
            return Ok(());
        };
        let Some(sockets) = hosted.sockets.take() else {
            return Ok(());
        };
        hosted.told = true;
        let mut kept = host_network::descriptors(&sockets.capture);
        kept.retain(|_| hosted.host.is_some());
        let published = sockets.published.iter();
        kept.extend(published.map(|(_, listener)| (Handle::Published, listener.as_fd())));
        for (handle, descriptor) in kept {
            if let Err(error) = self.handles.keep_for(Some(uid), handle, &descriptor) {
                tracing::warn!(%error, "a listener cannot be handed to a successor");
            }
        }
        self.worker.send(Update::Workload(Box::new(own.clone())));
        // How the program is dialled, before anybody can call it.
        self.worker.send(Update::Capture {
            uid,
            sockets: sockets.capture,
        });
        self.worker.send(Update::Certificate {
            uid,
            certificate: certificate.clone(),
            bundle: bundle.clone(),
        });
        for (port, listener) in sockets.published {
            self.worker.send(Update::Listen {
                role: ListenRole::Published { uid, port },
                listener,
            });
        }
        if hosted.host.is_some() {
            // What is written down first is found again, and removed, after a crash.
            self.dirty_workloads = true;
            self.save();
            self.install_rules(uid)?;
        }
        Ok(())
    }

    fn install_rules(&mut self, uid: WorkloadUid) -> Result<(), Unfit> {
        let hosted = self.hosted.get_mut(&uid);
        let Some(capture) = hosted.and_then(|hosted| hosted.host.as_mut()) else {
            return Ok(());
        };
        capture.install().map_err(Unfit::from)
    }

    /// Tells a program that it may run.
    fn greet(&mut self, uid: WorkloadUid) {
        let Some(hosted) = self.hosted.get_mut(&uid) else {
            return;
        };
        let Some(connection) = hosted.connection.filter(|_| hosted.told && !hosted.greeted) else {
            return;
        };
        hosted.greeted = true;
        let left = hosted
            .certificate_left(SystemTime::now())
            .unwrap_or_default();
        let started = protocol::Started {
            uid: uid.to_string(),
            identity: hosted.identity.to_string(),
            certificate_seconds: left.as_secs(),
        };
        tracing::info!(workload = hosted.name, identity = %hosted.identity, "a workload is in the mesh");
        if let Some(caller) = self.callers.get(&connection) {
            self.refused.forget(caller.pid);
        }
        self.tell(connection, FromAgent::Started(started));
    }

    /// The data plane needs sockets of a program's network; one that is on its way back is asked when it is here.
    pub(super) fn need_sockets(&mut self, uid: WorkloadUid, v6: bool, count: usize) {
        let Some(hosted) = self.hosted.get_mut(&uid) else {
            return;
        };
        if let Some(network) = &hosted.foreign {
            let (count, transparent) = (count.min(MOST_SOCKETS), hosted.start.preserve_source);
            match network.streams(v6, transparent, count) {
                Ok(sockets) => self.worker.send(Update::AppSockets { uid, v6, sockets }),
                Err(error) => {
                    tracing::warn!(workload = hosted.name, %error, "a program cannot be dialled");
                }
            }
            return;
        }
        match hosted.connection {
            Some(connection) => self.tell(connection, FromAgent::NeedSockets { v6, count }),
            None => hosted.owed[usize::from(v6)] = count,
        }
    }

    /// A program is to end: nobody should begin to call it.
    fn on_leaving(&mut self, connection: Connection) {
        let uid = self.callers.get(&connection).and_then(|caller| caller.uid);
        let Some(hosted) = uid.and_then(|uid| self.hosted.get_mut(&uid)) else {
            return self.tell(connection, FromAgent::Idle);
        };
        hosted.leaving = true;
        let uid = hosted.uid;
        self.say(agent_message::Message::Health(wire::HealthChange {
            uid: uid.to_string(),
            healthy: false,
            detail: "it is about to end".into(),
        }));
        self.worker.send(Update::WorkloadLeaving(uid));
    }

    /// Looks whether the capture rules are still there, and removes what is left of programs that ended.
    pub(super) fn watch_rules(&mut self) {
        let of_programs = self.hosted.values().filter_map(|hosted| {
            let rules = hosted.host.as_ref().and_then(HostCapture::installed)?;
            Some((hosted.name.as_str(), rules))
        });
        let of_namespace = self
            .namespace_rules
            .iter()
            .map(|rules| ("this namespace", rules));
        for (of, rules) in of_namespace.chain(of_programs) {
            match rules.restore() {
                Ok(true) => {
                    self.rules_restored += 1;
                    tracing::warn!(
                        of,
                        "somebody removed capture rules; they are restored. What was begun within the last second went past the mesh"
                    );
                }
                Ok(false) => {}
                Err(error) => tracing::error!(of, %error, "capture rules cannot be restored"),
            }
        }
        self.watch_way_back();
        self.emptying.retain(|path| cgroup::remove(path).is_err());
    }

    pub(super) fn on_health(&mut self, connection: Connection, healthy: bool, detail: String) {
        let Some(uid) = self.callers.get(&connection).and_then(|caller| caller.uid) else {
            if let Some(asked) = self
                .asked
                .values_mut()
                .find(|asked| asked.connection == connection)
            {
                asked.healthy = healthy;
            }
            return;
        };
        let Some(hosted) = self.hosted.get_mut(&uid) else {
            return;
        };
        let changed = std::mem::replace(&mut hosted.healthy, healthy) != healthy;
        if changed && !hosted.leaving {
            self.dirty_workloads = true;
            tracing::info!(
                workload = hosted.name,
                healthy,
                detail,
                "a workload's health changed"
            );
            self.say(agent_message::Message::Health(wire::HealthChange {
                uid: uid.to_string(),
                healthy,
                detail,
            }));
        }
    }

    /// A program is gone: so is its workload.
    pub(super) fn on_gone(&mut self, connection: Connection) {
        // What a successor has is not gone.
        if self.handed_over.get() {
            return;
        }
        self.asked.retain(|_, asked| asked.connection != connection);
        let Some(uid) = self
            .callers
            .get_mut(&connection)
            .and_then(|caller| caller.uid.take())
        else {
            return;
        };
        self.forget(uid);
    }

    pub(super) fn forget(&mut self, uid: WorkloadUid) {
        self.handles.release(uid);
        if let Some(hosted) = self.hosted.remove(&uid) {
            tracing::info!(workload = hosted.name, "a workload left the mesh");
            if let Some(capture) = hosted.host {
                self.emptying.extend(capture.release());
            }
        }
        self.end_way_back();
        if !self.routes.added().is_empty()
            && self.hosted.values().all(|hosted| hosted.host.is_none())
        {
            self.routes.remove();
            self.save_routes();
        }
        self.dirty_workloads = true;
        self.worker.send(Update::WorkloadGone(uid));
        self.say(agent_message::Message::Deregister(wire::Deregister {
            uid: uid.to_string(),
        }));
        self.save();
    }

    pub(super) fn refuse(&mut self, connection: Connection, code: Why, message: String) {
        let pid = self.callers.get(&connection).map_or(0, |caller| caller.pid);
        if self.refused.is_new(pid, &message) {
            tracing::warn!(pid, ?code, message, "a program was not taken in");
        } else {
            tracing::debug!(pid, ?code, message, "a program was not taken in again");
        }
        self.tell(connection, FromAgent::Refused { code, message });
    }

    pub(super) fn tell(&mut self, connection: Connection, message: FromAgent) {
        self.send(connection, message, Vec::new());
    }

    pub(super) fn send(
        &mut self,
        connection: Connection,
        message: FromAgent,
        descriptors: Vec<OwnedFd>,
    ) {
        let Some(caller) = self.callers.get(&connection) else {
            return;
        };
        // A program that does not read is none: its connection ends, and with it the workload.
        if caller.out.try_send((message, descriptors)).is_err() {
            self.on_gone(connection);
            self.callers.remove(&connection);
        }
    }
}

fn nothing(user: u32) -> String {
    format!("user {user} may not run programs here: start the agent with --allow-user {user}")
}

/// How a program is dialled: it handed its sockets over, or shares the proxy's namespace.
fn app_dial(connection: Connection) -> AppDial {
    if connection == Connection::SIDECAR {
        AppDial::Marked
    } else {
        AppDial::Handed
    }
}
