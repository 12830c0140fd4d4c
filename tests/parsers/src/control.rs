//! What agents and people say to a control plane.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use leno_controlplane::{
    distribution::{Hold, Resource, Subscriber, Type, View},
    documents::TokenRequest,
    registry::{AgentScope, Effects, Opening, Registry, SessionId},
    telemetry::{Names, Telemetry},
    tokens::TokenRecord,
    uids::UidMint,
};
use leno_types::DnsLabel;
use leno_wire::{
    agent::{AgentMessage, Hello, Report, agent_message},
    discovery::DeltaDiscoveryRequest,
};
use prost::Message;

/// Bytes that follow each other, each message after its length, as many as can be read.
fn messages<M: Message + Default>(mut data: &[u8]) -> impl Iterator<Item = M> {
    std::iter::from_fn(move || {
        let more = !data.is_empty();
        more.then(|| M::decode_length_delimited(&mut data).ok())
            .flatten()
    })
}

/// An agent's session: what it is taken in for never exceeds what it said.
pub(crate) fn session(data: &[u8]) -> bool {
    let (Ok(mesh), Ok(agent)) = ("fuzz".parse(), "host-a".parse()) else {
        return false;
    };
    let mint = UidMint::new(mesh, &[7; 32]);
    let mut world = World {
        registry: Registry::new(mint, Duration::ZERO),
        telemetry: Telemetry::default(),
        agent,
        now: Duration::from_secs(20),
    };
    let (mut registrations, mut edges, mut most) = (0, 0, 0);
    for (session, message) in (1..).zip(messages::<AgentMessage>(data)) {
        registrations += usize::from(matches!(
            message.message,
            Some(agent_message::Message::Register(_))
        ));
        if let Some(agent_message::Message::Report(report)) = &message.message {
            edges += report.edges.len();
        }
        world.hear(session, message);
        most = most.max(world.registry.len());
        world.now += Duration::from_millis(1_500);
        world.registry.tick(world.now, &mut Effects::default());
    }
    assert!(world.registry.len() <= registrations && world.telemetry.len() <= edges);
    let (_, shown) = world.telemetry.totals(world.now);
    assert!(shown.len() <= edges);
    most > 0
}

struct World {
    registry: Registry,
    telemetry: Telemetry,
    agent: DnsLabel,
    now: Duration,
}

impl World {
    fn hear(&mut self, newest: SessionId, message: AgentMessage) {
        let mut fx = Effects::default();
        let session = self.registry.agent(&self.agent);
        let session = session.and_then(|agent| agent.session).unwrap_or_default();
        self.registry.heard(session, self.now);
        match message.message {
            Some(agent_message::Message::Hello(hello)) => self.open(newest, &hello, &mut fx),
            Some(agent_message::Message::Register(asked)) => {
                let random = newest.to_be_bytes();
                let answer = self.registry.register(session, &asked, random, 0, &mut fx);
                if let Err(refused) = answer {
                    assert!(!refused.code().is_empty() && !refused.to_string().is_empty());
                }
            }
            Some(agent_message::Message::Deregister(gone)) => {
                if let Ok(uid) = gone.uid.parse() {
                    self.registry.deregister(session, uid, &mut fx);
                }
            }
            Some(agent_message::Message::Health(health)) => {
                if let Ok(uid) = health.uid.parse() {
                    let (healthy, detail) = (health.healthy, &health.detail);
                    self.registry.health(session, uid, healthy, detail, &mut fx);
                }
            }
            Some(agent_message::Message::Report(Report { edges, .. })) => {
                self.telemetry.record(&edges, &Nobody, self.now);
            }
            Some(agent_message::Message::Goodbye(goodbye)) => {
                self.registry
                    .goodbye(session, goodbye.handover, self.now, &mut fx);
            }
            // An answer is for whoever asked, and nothing here does.
            Some(agent_message::Message::Answer(_) | agent_message::Message::Pong(_)) | None => {}
        }
    }

    fn open(&mut self, session: SessionId, hello: &Hello, fx: &mut Effects) {
        let Ok(namespace) = "default".parse() else {
            return;
        };
        let opening = Opening {
            session,
            agent: &self.agent,
            scope: AgentScope::any(namespace),
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            hello,
            wall: SystemTime::UNIX_EPOCH,
        };
        if let Err(refused) = self.registry.open(opening, self.now, fx) {
            assert!(!refused.to_string().is_empty());
        }
    }
}

struct Nobody;

impl Names for Nobody {
    fn display(&self, _: &str) -> Option<String> {
        None
    }
}

impl View for Nobody {
    fn resolve(&self, _: Type, _: &str) -> Option<Resource> {
        None
    }

    fn all(&self, _: Type) -> Vec<Resource> {
        Vec::new()
    }
}

/// A stream of delta ADS: it is answered until nothing is due, and what is kept never exceeds what was asked for.
pub(crate) fn subscriptions(data: &[u8]) -> bool {
    let mut now = Duration::from_secs(20);
    let mut subscriber = Subscriber::new(now);
    let mut names = 0;
    for request in messages::<DeltaDiscoveryRequest>(data) {
        names += request.resource_names_subscribe.len();
        if let Err(error) = subscriber.request(&request, &Nobody, now) {
            assert!(!error.to_string().is_empty());
            return false;
        }
        now += Duration::from_secs(1);
        let hold = Hold {
            revision: 1,
            now,
            grace: None,
        };
        let answers = std::iter::from_fn(|| subscriber.next(&Nobody, hold));
        // One for each type, as nothing exists: an endless answer would be one too many.
        assert!(answers.take(100).count() < 100);
    }
    assert!(subscriber.asked().count() <= names);
    subscriber.asked().next().is_some()
}

/// Refused with the field and a reason, or a record that can be read back.
pub(crate) fn token_request(data: &[u8]) -> bool {
    let Ok(request) = serde_json::from_slice::<TokenRequest>(data) else {
        return false;
    };
    let made = TokenRecord::new(&request, "0001".into(), &[7; 32], 1_000);
    match &made {
        Ok(record) => assert!(AgentScope::from_document(&record.scope).is_ok()),
        Err(error) => assert!(!error.field.is_empty() && !error.reason.is_empty()),
    }
    made.is_ok()
}
