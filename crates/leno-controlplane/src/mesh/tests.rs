//! What a mesh does from message to message, with the pace of compiling in the test's hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use leno_runtime::Stop;
use leno_types::DnsLabel;
use leno_wire::{
    agent::{self as wire, agent_message::Message},
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};
use tokio::sync::mpsc;

use super::{ADS_QUEUE, Mesh, SESSION_QUEUE, Said};
use crate::{
    core::{Clock, Machine},
    distribution::Type,
    registry::{AgentScope, Opening},
    tenants::{Founder, Plan},
};

/// A mesh with one agent, whose proxy asks for its own workloads.
struct Host {
    mesh: Mesh,
    clock: Clock,
    sent: mpsc::Receiver<Said<DeltaDiscoveryResponse>>,
    _said: mpsc::Receiver<Said<wire::ControlMessage>>,
}

const SESSION: u64 = 1;
const STREAM: u64 = 2;

impl Host {
    fn new(root: &std::path::Path) -> Self {
        let clock = Clock::new(Arc::new(Machine));
        let day = Duration::from_secs(86_400);
        let founder = Founder {
            root: root.into(),
            ttls: (day, 7 * day),
            advertise: Vec::new(),
            clock: clock.clone(),
        };
        let plan = Plan {
            name: "default".parse().unwrap(),
            domain: "default.leno".parse().unwrap(),
            prefixes: Vec::new(),
            begins: 0,
        };
        let mut mesh = founder.open(&plan).unwrap();
        let agent: DnsLabel = "a".parse().unwrap();
        let opening = Opening {
            session: SESSION,
            agent: &agent,
            scope: AgentScope::any("shop".parse().unwrap()),
            source: "10.0.0.1".parse().unwrap(),
            hello: &wire::Hello::default(),
            wall: SystemTime::UNIX_EPOCH,
        };
        let (sender, said) = mpsc::channel(SESSION_QUEUE);
        let now = clock.uptime();
        let opened = mesh.open_session(opening, sender, Stop::default(), now);
        opened.unwrap();
        let (sender, sent) = mpsc::channel(ADS_QUEUE);
        mesh.open_ads(STREAM, &agent, sender, Stop::default(), now);
        let mut host = Self {
            mesh,
            clock,
            sent,
            _said: said,
        };
        host.ask("");
        host
    }

    fn ask(&mut self, nonce: &str) {
        let request = DeltaDiscoveryRequest {
            type_url: Type::OwnWorkload.url().into(),
            response_nonce: nonce.into(),
            ..DeltaDiscoveryRequest::default()
        };
        let now = self.clock.uptime();
        self.mesh.ads_request(STREAM, &request, now);
    }

    fn hear(&mut self, message: Message) -> Option<String> {
        let message = wire::AgentMessage {
            message: Some(message),
        };
        let heard = self.mesh.hear(SESSION, message, &self.clock, [7; 8]);
        heard.map(|(_, uid)| uid.to_string())
    }

    fn register(&mut self, uid: &str) -> String {
        let register = wire::Register {
            uid: uid.into(),
            service: "cart".into(),
            ..wire::Register::default()
        };
        self.hear(Message::Register(register)).unwrap()
    }

    /// What the proxy is told, and acknowledges: workloads that it has, and that it has no longer.
    fn told(&mut self) -> (Vec<String>, Vec<String>) {
        self.mesh.push(self.clock.uptime());
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        while let Ok(said) = self.sent.try_recv() {
            let said = said.unwrap();
            there.extend(said.resources.into_iter().map(|resource| resource.name));
            gone.extend(said.removed_resources);
            self.ask(&said.nonce);
        }
        (there, gone)
    }
}

#[test]
fn a_workload_that_went_and_came_back_before_anything_was_compiled_is_told_again() {
    let root = tempfile::tempdir().unwrap();
    let mut host = Host::new(root.path());
    let uid = host.register("");
    host.mesh.apply_pending();
    assert_eq!(host.told(), (vec![uid.clone()], Vec::new()));

    let deregister = wire::Deregister { uid: uid.clone() };
    host.hear(Message::Deregister(deregister));
    assert_eq!(host.told(), (Vec::new(), vec![uid.clone()]));
    assert_eq!(host.register(&uid), uid);
    host.mesh.apply_pending();
    assert_eq!(host.told(), (vec![uid], Vec::new()));
}
