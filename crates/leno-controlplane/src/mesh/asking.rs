//! Questions of people to proxies, over the sessions: why something was refused, how endpoints stand, the log.
//!
//! Owns who still has to answer what. What an agent says is a document of its own word: it is passed on with the host's
//! name, and nothing follows from it.
//! Invariant: at most [`MAX_QUESTIONS`] are open, each to at most [`MAX_ASKED`] proxies, and answers that were not given
//! on yet take at most [`ROOM`] in memory; what there is no room for is left out, counted, and told as more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use leno_types::DnsLabel;
use leno_wire::agent::{self as wire, ask, control_message};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Mesh, agents::SESSION_QUEUE};
use crate::{
    registry::SessionId,
    times::{rfc3339, rfc3339_millis},
};

/// Questions open at once.
const MAX_QUESTIONS: usize = 64;
/// Proxies that one question goes to.
const MAX_ASKED: usize = 8_192;
/// Answers that wait to be read.
const ANSWERS: usize = 512;
/// Bytes of one document.
const MAX_DOCUMENT: usize = 64 << 10;
/// Bytes of all answers of a mesh that are held, as they are in memory.
const ROOM: usize = 64 << 20;
/// A document that was read takes so many times its length.
const READ: usize = 4;
/// The least that one takes.
const LEAST: usize = 512;

/// Questions that are open.
pub(super) struct Askings {
    next: u64,
    open: BTreeMap<u64, Asking>,
    room: Arc<Semaphore>,
}

impl Default for Askings {
    fn default() -> Self {
        Self {
            next: 0,
            open: BTreeMap::new(),
            room: Arc::new(Semaphore::new(ROOM)),
        }
    }
}

struct Asking {
    sender: mpsc::Sender<Heard>,
    waiting: BTreeMap<SessionId, DnsLabel>,
}

/// What a proxy says.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) host: DnsLabel,
    pub(crate) documents: Vec<Value>,
    /// So many more there were.
    pub(crate) more: u64,
    /// Given back when the documents are.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// A question that was asked.
pub(crate) struct Asked {
    pub(crate) question: u64,
    /// Ends when everybody has answered.
    pub(crate) answers: mpsc::Receiver<Heard>,
    /// How many were asked.
    pub(crate) asked: usize,
    /// Who cannot be: of an earlier version, or too many.
    pub(crate) unasked: Vec<DnsLabel>,
}

/// Too much is asked at once.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{MAX_QUESTIONS} questions to proxies are open: try again in a moment")]
pub(crate) struct TooMany;

impl Mesh {
    /// Asks the proxies of these hosts, each with what it is asked.
    pub(crate) fn ask(&mut self, hosts: Vec<(DnsLabel, ask::What)>) -> Result<Asked, TooMany> {
        self.sweep_askings();
        if self.askings.open.len() >= MAX_QUESTIONS {
            return Err(TooMany);
        }
        self.askings.next += 1;
        let question = self.askings.next;
        let (sender, answers) = mpsc::channel(ANSWERS);
        let (mut waiting, mut unasked) = (BTreeMap::new(), Vec::new());
        for (host, what) in hosts {
            match self.can_be_asked(&host) {
                Some(session) if waiting.len() < MAX_ASKED => {
                    let message = wire::Ask {
                        question,
                        what: Some(what),
                    };
                    self.say(session, control_message::Message::Ask(message));
                    waiting.insert(session, host);
                }
                _ => unasked.push(host),
            }
        }
        let asked = waiting.len();
        if asked > 0 {
            self.askings
                .open
                .insert(question, Asking { sender, waiting });
        }
        Ok(Asked {
            question,
            answers,
            asked,
            unasked,
        })
    }

    /// The session of an agent that understands questions and has room for one: its lease comes first.
    fn can_be_asked(&self, host: &DnsLabel) -> Option<SessionId> {
        let agent = self.registry.agent(host)?;
        let session = agent.session?;
        let room = self.sessions.get(&session)?.sender.capacity() >= SESSION_QUEUE / 2;
        let understands = agent
            .features
            .iter()
            .any(|feature| feature == leno_wire::ASK);
        (understands && room).then_some(session)
    }

    /// An agent answers.
    pub(super) fn answered(&mut self, session: SessionId, answer: wire::Answer) {
        let Some(asking) = self.askings.open.get_mut(&answer.question) else {
            return;
        };
        let Some(host) = asking.waiting.get(&session).cloned() else {
            return;
        };
        let (documents, room) = read(&self.askings.room, &answer.documents);
        let left_out = (answer.documents.len() - documents.len()) as u64;
        let more = answer.more.saturating_add(left_out);
        if !documents.is_empty() || more > 0 {
            let count = documents.len() as u64;
            let heard = Heard {
                host,
                documents,
                more,
                room,
            };
            // Who reads too slowly misses it; a line of a log is not worth a wait.
            let missed = asking.sender.try_send(heard).is_err();
            let dropped = left_out + if missed { count } else { 0 };
            let counter = &mut self.counters.answers_dropped;
            *counter = counter.saturating_add(dropped);
        }
        if answer.last {
            asking.waiting.remove(&session);
            if asking.waiting.is_empty() {
                self.askings.open.remove(&answer.question);
            }
        }
    }

    /// Nobody wants to know any more; gives who has not answered.
    pub(crate) fn end_asking(&mut self, question: u64) -> Vec<DnsLabel> {
        let Some(asking) = self.askings.open.remove(&question) else {
            return Vec::new();
        };
        for session in asking.waiting.keys() {
            let message = wire::Ask {
                question,
                what: Some(ask::What::Stop(wire::StopAsking {})),
            };
            self.say(*session, control_message::Message::Ask(message));
        }
        asking.waiting.into_values().collect()
    }

    /// A session is over: nothing more is answered on it.
    pub(super) fn answers_no_more(&mut self, session: SessionId) {
        self.askings.open.retain(|_, asking| {
            asking.waiting.remove(&session);
            !asking.waiting.is_empty()
        });
    }

    /// Ends what nobody reads.
    pub(super) fn sweep_askings(&mut self) {
        let open = self.askings.open.iter();
        let unread: Vec<u64> = open
            .filter(|(_, asking)| asking.sender.is_closed())
            .map(|(question, _)| *question)
            .collect();
        for question in unread {
            self.end_asking(question);
        }
    }

    /// Hosts that serve, or are, what people call so; with the workloads that are meant. All of a host: none are named.
    pub(crate) fn hosts_of(&self, name: &str, namespace: &str) -> Vec<(DnsLabel, Vec<String>)> {
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (Some(namespace).filter(|of| !of.is_empty()), name),
        };
        let mut found = Vec::new();
        for (host, agent) in self.registry.agents() {
            let meant = agent.workloads.values().filter(|workload| {
                let service = workload.service.as_ref().map(DnsLabel::as_str);
                let version = workload.version.as_ref();
                let versioned = service.zip(version).map(|(of, v)| format!("{of}-{v}"));
                namespace.is_none_or(|of| workload.namespace.as_str() == of)
                    && (*workload.name == *name
                        || service == Some(name)
                        || versioned.as_deref() == Some(name))
            });
            let meant: BTreeSet<String> = meant
                .map(|workload| format!("{}/{}", workload.namespace, workload.name))
                .collect();
            if host.as_str() == name {
                found.push((host.clone(), Vec::new()));
            } else if !meant.is_empty() {
                found.push((host.clone(), meant.into_iter().collect()));
            }
        }
        found
    }

    /// What the control plane itself knows, beside what a proxy says of a refusal.
    pub(crate) fn add_what_is_known(&self, host: &DnsLabel, side: &mut Value) {
        if let Some(at) = side.get("at_ms").and_then(Value::as_u64) {
            side["at"] = rfc3339_millis(at).into();
        }
        side["host"] = host.as_str().into();
        let until = side
            .pointer("/now/certificate_not_after")
            .and_then(Value::as_u64);
        if let Some(until) = until {
            side["now"]["certificate_not_after"] = rfc3339(until).into();
        }
        for list in ["/endpoints", "/now/endpoints/endpoints"] {
            let Some(endpoints) = side.pointer_mut(list).and_then(Value::as_array_mut) else {
                continue;
            };
            for endpoint in endpoints {
                self.add_registered(endpoint);
            }
        }
    }

    /// The side that was called knows its program's name; people, and the caller's side, that of its service.
    pub(crate) fn name_service(&self, refusal: &mut Value) {
        let of = |name: &str| refusal.get(name).and_then(Value::as_str);
        let host = of("host").and_then(|host| host.parse().ok());
        let agent = host.and_then(|host: DnsLabel| self.registry.agent(&host));
        let (Some(agent), Some("inbound")) = (agent, of("direction")) else {
            return;
        };
        let mut workloads = agent.workloads.values();
        let called = workloads.find(|workload| of("to") == Some(&*workload.name));
        let service = called.and_then(|workload| {
            let service = workload.service.as_ref()?;
            Some(format!("{}/{service}", workload.namespace))
        });
        if let Some(service) = service {
            refusal["to"] = service.into();
        }
    }

    fn add_registered(&self, endpoint: &mut Value) {
        // An agent may say anything.
        if !endpoint.is_object() {
            return;
        }
        let uid = endpoint
            .get("uid")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let known = uid
            .parse()
            .ok()
            .and_then(|uid| self.registry.workload(&uid));
        let Some((host, agent, workload)) = known else {
            endpoint["registered"] = Value::Null;
            return;
        };
        let certificates = self.states.get(host).map(|state| &state.certificates);
        let mut certificates = certificates.into_iter().flatten();
        let certificate = certificates.find(|certificate| certificate.uid == uid);
        endpoint["registered"] = json!({
            "host": host.as_str(),
            "connected": agent.session.is_some(),
            "ready": workload.healthy,
            "check": workload.detail,
            "certificate_not_after": certificate.map(|of| rfc3339(of.not_after)),
        });
    }
}

/// Reads the documents that are some, as long as there is room for them.
fn read(
    room: &Arc<Semaphore>,
    documents: &[Vec<u8>],
) -> (Vec<Value>, Option<OwnedSemaphorePermit>) {
    let (mut taken, mut held) = (Vec::new(), None::<OwnedSemaphorePermit>);
    for document in documents.iter().filter(|of| of.len() <= MAX_DOCUMENT) {
        let cost = u32::try_from(document.len() * READ + LEAST).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(room).try_acquire_many_owned(cost) else {
            break;
        };
        let value = serde_json::from_slice::<Value>(document);
        if let Some(value) = value.ok().filter(Value::is_object) {
            taken.push(value);
            match &mut held {
                Some(held) => held.merge(permit),
                None => held = Some(permit),
            }
        }
    }
    (taken, held)
}
