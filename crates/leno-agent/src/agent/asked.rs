//! What people ask of this proxy, through the control plane: why something was refused, how endpoints stand, the log.
//!
//! A question goes to the data plane where only that knows the answer; what it did before it tells before.
//! Invariant: at most [`MAX_QUESTIONS`] wait for the data plane; an answer never takes the room that the session itself
//! needs.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use leno_dataplane::{Look, Seen, Update};
use leno_types::{ServiceName, WorkloadUid};
use leno_wire::agent::{self as wire, AgentMessage, agent_message, ask};
use serde_json::{Value, json};

use super::Agent;
use crate::{
    explain,
    lines::{Told, Wanted},
    link::OUTBOX,
};

/// Questions that wait for the data plane.
const MAX_QUESTIONS: usize = 64;
/// Bytes of documents of one answer; a longer one comes in several.
const MAX_ANSWER: usize = 128 << 10;

/// Questions that the data plane was asked.
pub(super) type Questions = HashMap<u64, Question>;

/// What is done with what the data plane says.
pub(super) enum Question {
    /// The refusal whose id begins so, once all are told.
    Explain {
        id: String,
    },
    /// The same, with its endpoints as they stand.
    Explained {
        id: String,
    },
    Refusals {
        most: usize,
    },
    Endpoints,
    Log(wire::ReadLog),
}

/// Endpoints by service, and how many more each has.
type Standings = Vec<(ServiceName, Vec<Seen>, usize)>;

impl Agent {
    pub(super) fn on_asked(&mut self, asked: wire::Ask) {
        let (question, mut services, mut all) = (asked.question, Vec::new(), false);
        let wanted = match asked.what {
            Some(ask::What::Explain(explain)) => Question::Explain { id: explain.id },
            Some(ask::What::Refusals(list)) => Question::Refusals {
                most: usize::try_from(list.limit).unwrap_or(usize::MAX),
            },
            Some(ask::What::Endpoints(list)) => {
                services = list
                    .services
                    .iter()
                    .filter_map(|name| name.parse().ok())
                    .collect();
                all = list.services.is_empty();
                Question::Endpoints
            }
            Some(ask::What::Log(log)) => Question::Log(log),
            Some(ask::What::Stop(wire::StopAsking {})) => {
                self.questions.remove(&question);
                self.lines.stop(question);
                return self.log_as_wanted();
            }
            // A question of a later version: whoever asks has a deadline.
            None => return,
        };
        self.look(question, wanted, services, all);
    }

    fn look(&mut self, question: u64, wanted: Question, services: Vec<ServiceName>, all: bool) {
        if self.questions.len() >= MAX_QUESTIONS {
            return self.answer(question, Vec::new(), 0, true);
        }
        self.questions.insert(question, wanted);
        self.worker.send(Update::Look(Look {
            question,
            services,
            all,
        }));
    }

    /// The data plane has told all that happened before the question, and how endpoints stand.
    pub(super) fn on_looked(&mut self, question: u64, standings: &Standings) {
        match self.questions.remove(&question) {
            Some(Question::Explain { id }) => self.on_found(question, id),
            Some(Question::Explained { id }) => {
                let documents = self.explained(&id, standings);
                self.answer(question, documents, 0, true);
            }
            Some(Question::Refusals { most }) => {
                let kinds = self
                    .reporter
                    .refusals()
                    .kinds(most, |uid| self.name_of(uid));
                self.answer(question, kinds.iter().map(bytes).collect(), 0, true);
            }
            Some(Question::Endpoints) => {
                let documents = standings.iter().map(standing);
                let documents = documents.map(|document| bytes(&document)).collect();
                self.answer(question, documents, 0, true);
            }
            Some(Question::Log(log)) => self.on_read_log(question, log),
            None => {}
        }
    }

    fn on_found(&mut self, question: u64, id: String) {
        let found = self.reporter.refusals().find(&id);
        let mut services: Vec<ServiceName> = found
            .iter()
            .filter_map(|refusal| Some(refusal.chain.backend.as_ref()?.service.clone()))
            .collect();
        services.sort();
        services.dedup();
        if found.is_empty() {
            return self.answer(question, Vec::new(), 0, true);
        }
        self.look(question, Question::Explained { id }, services, false);
    }

    fn explained(&self, id: &str, standings: &Standings) -> Vec<Vec<u8>> {
        let one = |refusal: &leno_dataplane::RefusalRecord| {
            let mut document = explain::document(refusal, |uid| self.name_of(uid));
            let backend = refusal.chain.backend.as_ref();
            let now =
                backend.and_then(|of| standings.iter().find(|(name, ..)| *name == of.service));
            let hosted = refusal.workload.and_then(|uid| self.hosted.get(&uid));
            let certificate = hosted.and_then(|hosted| hosted.certificate.as_ref());
            document["now"] = json!({
                "endpoints": now.map(standing),
                "ready": hosted.map(|hosted| hosted.healthy),
                "certificate_not_after": certificate.map(|of| unix(of.not_after())),
                "config_version": self.ads.version(),
            });
            bytes(&document)
        };
        let found = self.reporter.refusals().find(id);
        found.into_iter().map(one).collect()
    }

    fn on_read_log(&mut self, question: u64, log: wire::ReadLog) {
        let wanted = Wanted {
            workloads: log.workloads,
            errors: log.errors,
        };
        let most = usize::try_from(log.limit).unwrap_or(usize::MAX);
        let since = Duration::from_secs(log.since_seconds.into());
        let told = self.lines.since(Instant::now(), since, most, &wanted);
        let follows = log.follow && self.lines.follow(question, wanted);
        let complete = self.config.access_log.is_some();
        let head = bytes(&json!({"complete": complete || follows, "kept": complete}));
        let mut documents = vec![head];
        documents.extend(told.lines);
        self.answer(question, documents, told.more, !follows);
        self.log_as_wanted();
    }

    /// Lines are written for all requests where a file, or somebody who follows, wants them.
    fn log_as_wanted(&mut self) {
        let all = self.config.access_log.is_some() || self.lines.wants_all();
        if all != self.logs_all {
            self.logs_all = all;
            self.worker.send(Update::LogAll(all));
        }
    }

    /// Nobody is left to be answered.
    pub(super) fn forget_questions(&mut self) {
        self.questions.clear();
        self.lines.stop_all();
        self.log_as_wanted();
    }

    /// Lines came: they are kept, and told to those who follow.
    pub(super) fn on_lines(&mut self, log: Vec<u8>) {
        for (question, Told { lines, more }) in self.lines.take(Instant::now(), log) {
            self.answer(question, lines, more, false);
        }
    }

    /// Answers in messages of bounded length. What there is no room for is left out, and told as more.
    fn answer(&mut self, question: u64, documents: Vec<Vec<u8>>, more: u64, last: bool) {
        let mut answer = wire::Answer {
            question,
            more,
            ..wire::Answer::default()
        };
        let mut size = 0;
        for document in documents {
            if size > 0 && size + document.len() > MAX_ANSWER {
                let full = std::mem::take(&mut answer.documents);
                self.say_answer(wire::Answer {
                    question,
                    documents: full,
                    ..wire::Answer::default()
                });
                size = 0;
            }
            size += document.len();
            answer.documents.push(document);
        }
        answer.last = last;
        self.say_answer(answer);
    }

    fn say_answer(&mut self, mut answer: wire::Answer) {
        let Some(up) = &self.up else { return };
        // Leases and reports come first: a session that is full of answers would be given up.
        if up.session.capacity() < OUTBOX / 2 {
            answer.more += answer.documents.len() as u64;
            answer.documents.clear();
            if up.session.capacity() < OUTBOX / 4 {
                return;
            }
        }
        let message = AgentMessage {
            message: Some(agent_message::Message::Answer(answer)),
        };
        if up.session.try_send(message).is_err() {
            self.up = None;
        }
    }

    fn name_of(&self, uid: WorkloadUid) -> String {
        match self.hosted.get(&uid) {
            Some(hosted) => hosted.name.clone(),
            None => uid.to_string(),
        }
    }
}

fn standing((service, endpoints, more): &(ServiceName, Vec<Seen>, usize)) -> Value {
    json!({
        "service": service.to_string(),
        "endpoints": endpoints.iter().map(explain::endpoint).collect::<Vec<_>>(),
        "more": more,
    })
}

fn bytes(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
