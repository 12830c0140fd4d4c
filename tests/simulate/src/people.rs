//! People who write: objects one by one and in batches, through the real API. They remember what was acknowledged.
//!
//! Invariant looked at: what was acknowledged is there, what was refused is not, a batch is there whole or not at all,
//! and revisions go forward.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use leno_api::{Access, Caller};
use leno_config::Kind;
use leno_types::MeshName;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    documents,
    link::while_alive,
    sim::Sim,
    site::{Life, Site},
};

/// An object: mesh, kind, name. All are of one namespace.
pub(crate) type Object = (MeshName, Kind, &'static str);

/// What is known of an object: the mark of what was written last, or that there is none.
type Mark = Option<u64>;

/// A write of which nobody knows whether it happened: either all of it did, or nothing.
struct Doubt(BTreeMap<Object, (Mark, Mark)>);

/// What they remember.
#[derive(Default)]
struct Memory {
    written: BTreeMap<Object, Mark>,
    /// Being written now.
    busy: BTreeSet<Object>,
    doubts: Vec<Doubt>,
    marks: u64,
}

/// People.
pub(crate) struct People {
    sim: Sim,
    site: Rc<Site>,
    memory: RefCell<Memory>,
    /// The highest revision that was acknowledged.
    revision: Cell<u64>,
}

/// What a request came to.
pub(crate) enum Answer {
    Said(StatusCode, Value),
    /// The control plane was gone before it answered.
    Unknown,
}

/// Largest answer.
const MAX_ANSWER: usize = 16 << 20;

/// Asks the API.
pub(crate) async fn ask(life: &Life, method: Method, path: &str, body: Option<Value>) -> Answer {
    let (body, media) = match body {
        Some(body) => (Body::from(body.to_string()), "application/json"),
        None => (Body::empty(), ""),
    };
    let mut request = Request::builder().method(method).uri(path);
    if !media.is_empty() {
        request = request.header("content-type", media);
    }
    let Ok(mut request) = request.body(body) else {
        return Answer::Unknown;
    };
    let caller = Caller::everywhere("people", Access::Admin);
    request.extensions_mut().insert(caller);
    let router = life.plane.router();
    let answered = async {
        let answer = router.oneshot(request).await.ok()?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER);
        let body = body.collect().await.ok()?.to_bytes();
        let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Some(Answer::Said(status, value))
    };
    let answer = while_alive(life, answered).await.flatten();
    answer.unwrap_or(Answer::Unknown)
}

impl People {
    pub(crate) fn new(sim: &Sim, site: &Rc<Site>) -> Self {
        Self {
            sim: sim.clone(),
            site: Rc::clone(site),
            memory: RefCell::default(),
            revision: Cell::new(0),
        }
    }

    /// Whether nobody waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.memory.borrow().busy.is_empty()
    }

    /// Whether somebody writes in this mesh.
    pub(crate) fn is_writing(&self, mesh: &MeshName) -> bool {
        self.memory.borrow().busy.iter().any(|of| of.0 == *mesh)
    }

    /// Whether something was acknowledged that is in this mesh.
    pub(crate) fn has_written(&self, mesh: &MeshName) -> bool {
        let memory = self.memory.borrow();
        let mut written = memory.written.iter();
        written.any(|(of, mark)| of.0 == *mesh && mark.is_some())
    }

    /// A mesh is gone, and with it what was written in it.
    pub(crate) fn forget(&self, mesh: &MeshName) {
        let memory = &mut *self.memory.borrow_mut();
        memory.written.retain(|of, _| of.0 != *mesh);
        memory
            .doubts
            .retain(|of| of.0.keys().all(|of| of.0 != *mesh));
    }

    /// Takes objects that nobody writes and nobody doubts.
    fn take(&self, wanted: Vec<Object>) -> Vec<Object> {
        let memory = &mut *self.memory.borrow_mut();
        let doubted = |object: &Object| memory.doubts.iter().any(|of| of.0.contains_key(object));
        let free = wanted
            .into_iter()
            .filter(|object| !memory.busy.contains(object) && !doubted(object));
        let free: BTreeSet<Object> = free.collect();
        memory.busy.extend(free.iter().cloned());
        free.into_iter().collect()
    }

    /// Somebody writes something, if there is a control plane.
    pub(crate) async fn write(self: Rc<Self>, mesh: MeshName) {
        let Some(life) = self.site.life() else {
            return;
        };
        let (batch, deletes) = self.sim.dice(|dice| (dice.percent(30), dice.percent(30)));
        let count = if batch { 3 } else { 1 };
        let wanted = (0..count).map(|_| self.sim.dice(|dice| documents::any(dice, &mesh)));
        let objects = self.take(wanted.collect());
        if objects.is_empty() {
            return;
        }
        let mut intent = BTreeMap::new();
        let mut values = Vec::new();
        for object in &objects {
            let (before, mark) = {
                let memory = &mut *self.memory.borrow_mut();
                memory.marks += 1;
                let before = memory.written.get(object).copied().flatten();
                (before, memory.marks)
            };
            let after = (batch || !deletes).then_some(mark);
            intent.insert(object.clone(), (before, after));
            values.push(self.sim.dice(|dice| documents::value(dice, object, mark)));
        }
        let told: Vec<String> = intent.iter().map(shown).collect();
        self.sim.event("write", &told.join(", "));
        let floor = self.revision.get();
        let answer = match (batch, objects.first(), values.pop()) {
            (true, _, Some(last)) => {
                values.push(last);
                let path = format!("/meshes/{mesh}/leno/v1/apply");
                ask(&life, Method::POST, &path, Some(json!({"items": values}))).await
            }
            (false, Some(object), Some(value)) => self.one(&life, object, &intent, value).await,
            _ => return,
        };
        self.settle(intent, answer, floor, batch);
    }

    /// One object: made, replaced or deleted.
    async fn one(
        &self,
        life: &Life,
        object: &Object,
        intent: &BTreeMap<Object, (Mark, Mark)>,
        value: Value,
    ) -> Answer {
        let (all, one) = (
            documents::path(object, false),
            documents::path(object, true),
        );
        match intent.get(object) {
            Some((_, None)) => ask(life, Method::DELETE, &one, None).await,
            Some((None, Some(_))) => ask(life, Method::POST, &all, Some(value)).await,
            _ => ask(life, Method::PUT, &one, Some(value)).await,
        }
    }

    /// Takes note of an answer.
    fn settle(
        &self,
        intent: BTreeMap<Object, (Mark, Mark)>,
        answer: Answer,
        floor: u64,
        batch: bool,
    ) {
        let memory = &mut *self.memory.borrow_mut();
        memory.busy.retain(|object| !intent.contains_key(object));
        let told: Vec<String> = intent.iter().map(shown).collect();
        let told = told.join(", ");
        match answer {
            Answer::Unknown => {
                self.sim.event("unknown", &told);
                memory.doubts.push(Doubt(intent));
            }
            Answer::Said(status, value) if status.is_success() => {
                self.sim.event("acked", &told);
                let revision = value
                    .pointer("/metadata/resourceVersion")
                    .and_then(Value::as_str)
                    .and_then(|text| text.parse::<u64>().ok())
                    .filter(|_| !batch);
                if let Some(revision) = revision {
                    // It was acknowledged after `floor` was, and so has a later revision; the answer to a deletion has
                    // that of the object.
                    let deletes = intent.values().any(|(_, after)| after.is_none());
                    if revision <= floor && !deletes {
                        self.sim.wrong(format!(
                            "revision {revision} was given after {floor}: {told}"
                        ));
                    }
                    self.revision.set(self.revision.get().max(revision));
                }
                let written = intent
                    .into_iter()
                    .map(|(object, (_, after))| (object, after));
                memory.written.extend(written);
            }
            Answer::Said(status, value) => {
                let why = value["message"].as_str().unwrap_or_default();
                self.sim
                    .event("refused", &format!("{told}: {status} {why}"));
                let is_expected = matches!(status.as_u16(), 409 | 429 | 500 | 503 | 507)
                    || (status == StatusCode::NOT_FOUND
                        && intent.values().any(|(before, _)| before.is_none()));
                if !is_expected {
                    self.sim
                        .wrong(format!("a good write is refused: {told}: {status} {why}"));
                }
            }
        }
    }

    /// Reads everything, and compares it with what is remembered. What was in doubt is settled by it.
    pub(crate) async fn check(&self, meshes: &[MeshName]) {
        let Some(life) = self.site.life() else {
            return;
        };
        let mut there: BTreeMap<Object, u64> = BTreeMap::new();
        for mesh in meshes {
            for kind in documents::KINDS {
                let path = documents::path(&(mesh.clone(), kind, ""), false);
                let Answer::Said(StatusCode::OK, list) = ask(&life, Method::GET, &path, None).await
                else {
                    return self.sim.wrong(format!("{path} cannot be read"));
                };
                for item in list["items"].as_array().into_iter().flatten() {
                    self.note(mesh, kind, item, &mut there);
                }
            }
        }
        let memory = &mut *self.memory.borrow_mut();
        for Doubt(intent) in std::mem::take(&mut memory.doubts) {
            let is = |pick: fn(&(Mark, Mark)) -> Mark| {
                let all = &intent;
                all.iter()
                    .all(|(object, marks)| there.get(object).copied() == pick(marks))
            };
            let (before, after) = (is(|marks| marks.0), is(|marks| marks.1));
            if !before && !after {
                let told: Vec<String> = intent.iter().map(shown).collect();
                self.sim
                    .wrong(format!("a batch is half there: {}", told.join(", ")));
            }
            let settled = intent
                .into_iter()
                .map(|(object, marks)| (object, if after { marks.1 } else { marks.0 }));
            memory.written.extend(settled);
        }
        let remembered = memory.written.iter();
        let remembered: BTreeMap<Object, u64> = remembered
            .filter_map(|(object, mark)| Some((object.clone(), (*mark)?)))
            .collect();
        self.sim.count("remembered", remembered.len() as u64);
        for (object, mark) in &remembered {
            match there.get(object) {
                Some(found) if found == mark => {}
                found => self.sim.wrong(format!(
                    "{} was acknowledged as {mark} and is {found:?}",
                    named(object)
                )),
            }
        }
        for (object, mark) in there {
            if !remembered.contains_key(&object) {
                self.sim.wrong(format!(
                    "{} is there as {mark}, and was never acknowledged, or deleted",
                    named(&object)
                ));
            }
        }
    }

    fn note(&self, mesh: &MeshName, kind: Kind, item: &Value, there: &mut BTreeMap<Object, u64>) {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        let mark = item.pointer("/metadata/annotations/mark");
        let mark = mark
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok());
        // What nobody wrote is derived, and has no mark.
        let (Some(mark), Some(name)) = (mark, documents::known(kind, name)) else {
            return;
        };
        there.insert((mesh.clone(), kind, name), mark);
    }
}

fn named(object: &Object) -> String {
    format!("{}/{}/{}", object.0, object.1, object.2)
}

fn shown((object, (before, after)): (&Object, &(Mark, Mark))) -> String {
    format!("{} {before:?}->{after:?}", named(object))
}
