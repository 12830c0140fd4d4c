//! What the control plane says, and what is said to it.

use leno_dataplane::Update;
use leno_ir::Feature;
use leno_types::{Identity, WorkloadUid};
use leno_wire::{
    agent::{self as wire, AgentMessage, agent_message, control_message},
    discovery::{DeltaDiscoveryRequest, Node},
};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::{Agent, Asked, Up};
use crate::{
    ads::Change,
    certificates::Renewal,
    hosted::Hosted,
    link::{LinkEvent, OUTBOX, Outgoing},
    local::Connection,
    protocol::Why,
    standing::{Lost, Standing},
};

/// What this build understands beyond the first version of the protocol (CP10).
fn features() -> Vec<String> {
    let mut features = Feature::names();
    features.push(leno_wire::ASK.into());
    features
}

impl Agent {
    pub(super) fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { channel, reply } => self.on_up(channel, reply),
            LinkEvent::Session(message) => self.on_session(message),
            LinkEvent::Ads(response) => {
                let (changes, answer) = self.ads.handle(response);
                if let Some(error) = &answer.error_detail {
                    tracing::warn!(
                        error = error.message,
                        "a part of the configuration is refused; what ran before stays"
                    );
                }
                self.dirty_configuration = true;
                let restricts = changes.iter().any(|of| matches!(of, Change::Workload(_)));
                for change in changes {
                    self.on_change(change);
                }
                self.tell_version();
                if restricts {
                    // Who may call, and how: once it is acknowledged, no restart may know less.
                    self.save();
                }
                self.ask(answer);
            }
            LinkEvent::Down { lost } => self.on_down(lost),
        }
    }

    /// Told once, until it is otherwise.
    fn on_down(&mut self, lost: Lost) {
        if self.standing.is_new(&lost) {
            if let Lost::Away(reason) = &lost {
                tracing::warn!(
                    reason,
                    "the control plane is away; what runs goes on with what it knows"
                );
            }
            if let Some((what, hint)) = lost.for_people() {
                tracing::error!("{what}; what runs goes on until its certificates end; {hint}");
            }
        }
        self.standing = Standing::Lost(lost);
        self.up = None;
        self.forget_questions();
        self.worker.send(Update::ControlPlane { connected: false });
        let Some(refusal) = self.standing.refusal() else {
            return;
        };
        // A namespace that is one workload waits on: whoever runs it sees the log, and nobody a prompt.
        let in_vain = |asked: &Asked| asked.connection != Connection::SIDECAR;
        let refused: Vec<Asked> = self
            .asked
            .extract_if(|_, asked| in_vain(asked))
            .map(|(_, asked)| asked)
            .collect();
        for asked in refused {
            self.refuse(asked.connection, Why::NoMember, refusal.clone());
        }
    }

    /// A session stands: only now, for whoever is no member is connected as well until it is told so.
    fn on_welcome(&mut self) {
        match std::mem::replace(&mut self.standing, Standing::Connected) {
            // As loud as what it takes back.
            Standing::Lost(_) => tracing::warn!("connected to the control plane again"),
            Standing::Unheard => tracing::info!("connected to the control plane"),
            Standing::Connected => {}
        }
    }

    pub(super) fn on_up(
        &mut self,
        channel: Channel,
        reply: tokio::sync::oneshot::Sender<Outgoing>,
    ) {
        let ((session, session_out), (ads, ads_out)) =
            (mpsc::channel(OUTBOX), mpsc::channel(OUTBOX));
        self.up = Some(Up {
            session,
            ads,
            channel,
        });
        self.say(agent_message::Message::Hello(wire::Hello {
            host: self.config.host.to_string(),
            addresses: self
                .config
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            features: features(),
            hbone_port: self.hbone_port.into(),
        }));
        self.again.clear();
        let known: Vec<WorkloadUid> = self.hosted.keys().copied().collect();
        known.into_iter().for_each(|uid| self.register_again(uid));
        let asked = self.asked.iter();
        let asked: Vec<_> = asked
            .map(|(request, asked)| asked.registration(*request))
            .collect();
        for register in asked {
            self.say(agent_message::Message::Register(register));
        }
        let node = Node {
            id: self.membership.borrow().agent.to_string(),
            cluster: self.membership.borrow().mesh.to_string(),
            user_agent_name: "leno".into(),
            user_agent_version: env!("CARGO_PKG_VERSION").into(),
            client_features: Feature::names(),
        };
        for request in self.ads.connect(&node) {
            self.ask(request);
        }
        self.worker.send(Update::ControlPlane { connected: true });
        if reply
            .send(Outgoing {
                session: session_out,
                ads: ads_out,
            })
            .is_err()
        {
            self.up = None;
        }
    }

    /// Sends on the session; a connection too slow to take it is given up by dropping it.
    pub(super) fn say(&mut self, message: agent_message::Message) {
        let Some(up) = &self.up else { return };
        if up
            .session
            .try_send(AgentMessage {
                message: Some(message),
            })
            .is_err()
        {
            self.up = None;
        }
    }

    /// Sends on the discovery stream.
    pub(super) fn ask(&mut self, request: DeltaDiscoveryRequest) {
        let Some(up) = &self.up else { return };
        if up.ads.try_send(request).is_err() {
            self.up = None;
        }
    }

    pub(super) fn on_session(&mut self, message: wire::ControlMessage) {
        match message.message {
            Some(control_message::Message::Ping(ping)) => {
                self.say(agent_message::Message::Pong(wire::Pong {
                    sequence: ping.sequence,
                }));
            }
            Some(control_message::Message::Registered(registered)) => {
                self.on_registered(registered)
            }
            Some(control_message::Message::Refused(refused)) => {
                self.again.remove(&refused.request);
                match self.asked.remove(&refused.request) {
                    Some(asked) => {
                        self.refuse(asked.connection, Why::of(&refused.code), refused.message)
                    }
                    None => tracing::error!(
                        code = refused.code,
                        reason = refused.message,
                        "the control plane does not take a workload back"
                    ),
                }
            }
            Some(control_message::Message::Welcome(welcome)) => {
                tracing::debug!(version = welcome.control_plane_version, "welcomed");
                self.on_welcome();
            }
            Some(control_message::Message::Ask(ask)) => self.on_asked(ask),
            // A message of a later version that this one need not understand.
            None => {}
        }
    }

    pub(super) fn on_registered(&mut self, registered: wire::Registered) {
        let Some(asked) = self.asked.remove(&registered.request) else {
            return self.on_registered_again(&registered);
        };
        let (Ok(uid), Ok(identity)) = (
            registered.uid.parse::<WorkloadUid>(),
            registered.identity.parse::<Identity>(),
        ) else {
            return self.refuse(
                asked.connection,
                Why::Invalid,
                "the control plane gave an id that cannot be read".into(),
            );
        };
        // Whose it is by default is the control plane's to say: a token may give an account to a service.
        if asked.connection != Connection::SIDECAR
            && let Err(unfit) = self.may(asked.run_user, |allowed| allowed.may_run_as(&identity))
        {
            self.say(agent_message::Message::Deregister(wire::Deregister {
                uid: uid.to_string(),
            }));
            return self.refuse(asked.connection, unfit.code, unfit.message);
        }
        if let Some(caller) = self.callers.get_mut(&asked.connection) {
            caller.uid = Some(uid);
        }
        let mut sockets = asked.sockets;
        let host = sockets.host.take().map(|prepared| prepared.of(uid));
        let foreign = sockets.foreign.take();
        let hosted = Hosted {
            uid,
            identity,
            name: registered.name,
            run_user: asked.run_user,
            start: asked.start,
            connection: Some(asked.connection),
            sockets: Some(sockets),
            key: None,
            certificate: None,
            bundle: None,
            own: None,
            renewal: Renewal::now(),
            generation: 0,
            told: false,
            greeted: false,
            healthy: asked.healthy,
            leaving: false,
            owed: [0; 2],
            host,
            foreign,
        };
        // What was said of its health while it had no id reached nobody.
        if hosted.healthy {
            self.say(agent_message::Message::Health(wire::HealthChange {
                uid: uid.to_string(),
                healthy: true,
                detail: String::new(),
            }));
        }
        // Its description may have come before this answer, on the other stream.
        let own = self.ads.own_workload(uid);
        self.hosted.insert(uid, Hosted { own, ..hosted });
        self.renew();
    }

    pub(super) fn on_change(&mut self, change: Change) {
        match change {
            Change::Mesh(mesh) => {
                self.worker.send(Update::Mesh(mesh.clone()));
                self.mesh = Some(mesh);
                self.ready.set_ready();
                let waiting: Vec<WorkloadUid> = self.hosted.keys().copied().collect();
                waiting.into_iter().for_each(|uid| self.tell_if_ready(uid));
            }
            Change::Workload(own) => {
                let uid = own.uid;
                let Some(hosted) = self.hosted.get_mut(&uid) else {
                    return;
                };
                for feature in own.not_understood() {
                    tracing::error!(
                        workload = own.name,
                        feature,
                        "this agent is too old for what protects a workload, and lets nobody in: update Leno on this host"
                    );
                }
                hosted.own = Some(own.clone());
                if hosted.told {
                    self.worker.send(Update::Workload(Box::new(own)));
                }
                self.tell_if_ready(uid);
            }
            // A workload lives as long as its program, whatever the control plane has forgotten.
            Change::WorkloadGone(uid) => {
                if self.hosted.contains_key(&uid) {
                    tracing::warn!(%uid, "the control plane does not know a workload that runs here; it is registered again");
                    self.register_again(uid);
                }
            }
            Change::Destination {
                name,
                aliases,
                answer,
            } => {
                self.worker.send(Update::Destination {
                    name,
                    aliases,
                    answer,
                });
            }
            Change::Endpoints { service, answer } => {
                self.worker.send(Update::Endpoints { service, answer })
            }
        }
    }

    /// The lines of the log say by which configuration they came to be.
    pub(super) fn tell_version(&self) {
        let version = self.ads.version().into();
        self.worker.send(Update::ConfigVersion(version));
    }

    pub(super) fn register_again(&mut self, uid: WorkloadUid) {
        self.next_request += 1;
        let request = self.next_request;
        let hosted = self.hosted.get(&uid);
        if let Some(register) = hosted.map(|hosted| hosted.registration(request)) {
            self.again.insert(request, uid);
            self.say(agent_message::Message::Register(register));
        }
    }

    /// A workload is called by one id everywhere: callers ask for it by that, and the data plane serves it by that. If
    /// the control plane knows the old one no more, the program comes anew, and is served under what it gets then.
    fn on_registered_again(&mut self, registered: &wire::Registered) {
        let Some(old) = self.again.remove(&registered.request) else {
            return self.on_registered_late(registered);
        };
        if registered.uid == old.to_string() {
            return;
        }
        tracing::warn!(old = %old, new = registered.uid, "the control plane gave a running workload another id; its program is taken in anew");
        self.say(agent_message::Message::Deregister(wire::Deregister {
            uid: registered.uid.clone(),
        }));
        let connection = self.hosted.get(&old).and_then(|hosted| hosted.connection);
        self.forget(old);
        match connection {
            // Its listeners are this process's own: the next one has them anew.
            Some(Connection::SIDECAR) => self.stop.trigger(),
            Some(connection) => drop(self.callers.remove(&connection)),
            None => {}
        }
    }

    /// The program has gone, or was told that it waited in vain: nobody would ever end what was made for it. One that
    /// came again under the same id has its own request on the way.
    fn on_registered_late(&mut self, registered: &wire::Registered) {
        let uid = &registered.uid;
        let is_hosted = self.hosted.keys().any(|hosted| hosted.to_string() == *uid);
        let mut asked = self.asked.values();
        if is_hosted || asked.any(|asked| asked.start.uid.as_ref() == Some(uid)) {
            return;
        }
        tracing::info!(uid, "a program has gone while it was registered");
        self.say(agent_message::Message::Deregister(wire::Deregister {
            uid: uid.clone(),
        }));
    }
}
