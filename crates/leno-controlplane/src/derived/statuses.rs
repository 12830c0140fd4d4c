//! The status of every object that people write, and since when each of its conditions is as it is.
//!
//! Owns which statuses a change concerns: those of the objects named as stale, and of those that asked about a service
//! that is different now. The others are not looked at.
//! Invariant: a status is what [`status_of`] would say of the mesh at its last publication.

use std::collections::{BTreeMap, BTreeSet};

use leno_compile::{Condition, Question};
use leno_config::{Kind, ParentRef};
use leno_types::ServiceName;
use serde_json::{Value, json};

use super::{
    CONTROLLER, NOT_ACCEPTED, ObjectKey, hostnames,
    programmed::{condition_programmed, programmed},
};
use crate::mesh::Mesh;

/// Objects whose status may be different.
#[derive(Debug, Default)]
pub(crate) struct StaleStatuses {
    pub(crate) objects: BTreeSet<ObjectKey>,
    /// All of a kind.
    pub(crate) kinds: BTreeSet<Kind>,
    /// Of whoever asked this.
    pub(crate) questions: BTreeSet<Question>,
}

/// Parent and type of a condition.
type ConditionKey = (Option<ParentRef>, &'static str);
/// Since when each condition of an object is as it is.
type Transitions = BTreeMap<ConditionKey, (bool, String)>;

/// All statuses.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    shown: BTreeMap<ObjectKey, Value>,
    transitions: BTreeMap<ObjectKey, Transitions>,
    asked: BTreeMap<ObjectKey, BTreeSet<Question>>,
    askers: BTreeMap<Question, BTreeSet<ObjectKey>>,
}

impl Statuses {
    /// The status of an object.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Value> {
        self.shown.get(key)
    }

    /// All of a kind.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Value)> {
        self.shown.iter().filter(move |(key, _)| key.0 == kind)
    }

    /// Looks at what is stale.
    pub(super) fn update(&mut self, mesh: &Mesh, stale: StaleStatuses, now: &str) {
        let mut keys = stale.objects;
        if !stale.kinds.is_empty() {
            let of_kinds = mesh
                .objects
                .keys()
                .filter(|key| stale.kinds.contains(&key.0));
            keys.extend(of_kinds.cloned());
        }
        for question in &stale.questions {
            keys.extend(self.askers.get(question).into_iter().flatten().cloned());
        }
        for key in keys {
            if !mesh.objects.contains_key(&key) {
                self.shown.remove(&key);
                self.transitions.remove(&key);
                self.note_asked(&key, BTreeSet::new());
                continue;
            }
            let mut transitions = self.transitions.remove(&key).unwrap_or_default();
            let (status, asked) = status_of(mesh, &key, &mut transitions, now);
            self.note_asked(&key, asked);
            self.transitions.insert(key.clone(), transitions);
            self.shown.insert(key, status);
        }
    }

    fn note_asked(&mut self, key: &ObjectKey, asked: BTreeSet<Question>) {
        for question in self.asked.remove(key).unwrap_or_default() {
            if let Some(askers) = self.askers.get_mut(&question) {
                askers.remove(key);
                if askers.is_empty() {
                    self.askers.remove(&question);
                }
            }
        }
        for question in &asked {
            let askers = self.askers.entry(question.clone()).or_default();
            askers.insert(key.clone());
        }
        if !asked.is_empty() {
            self.asked.insert(key.clone(), asked);
        }
    }

    /// Objects of which another status is shown than looking at all of them afresh gives.
    pub(super) fn different(&self, mesh: &Mesh) -> Vec<String> {
        let mut different = Vec::new();
        for key in mesh.objects.keys().chain(self.shown.keys()) {
            let mut transitions = self.transitions.get(key).cloned().unwrap_or_default();
            let there = mesh.objects.contains_key(key);
            let fresh = there.then(|| status_of(mesh, key, &mut transitions, "").0);
            if self.shown.get(key) != fresh.as_ref() {
                let shown = self.shown.get(key);
                different.push(format!("{key:?}: {shown:?}, and not {fresh:?}"));
            }
        }
        different
    }
}

/// What is to be said of an object, and what it asked to say it. Conditions that are no more are forgotten.
fn status_of(
    mesh: &Mesh,
    key: &ObjectKey,
    transitions: &mut Transitions,
    now: &str,
) -> (Value, BTreeSet<Question>) {
    let (kind, namespace, name) = key;
    let (mut conditions, asked) = mesh.compiler.conditions_asking(*kind, namespace, name);
    let object = mesh.objects.get(key);
    let generation = object.map_or(0, |object| object.meta().generation);
    let accepted: BTreeMap<Option<ParentRef>, bool> = conditions
        .iter()
        .filter(|condition| condition.r#type == "Accepted")
        .map(|condition| (condition.parent.clone(), condition.status))
        .collect();
    let accepted = if accepted.is_empty() {
        BTreeMap::from([(None, true)])
    } else {
        accepted
    };
    let programmed = programmed(mesh, *kind, namespace, name);
    conditions.extend(accepted.into_iter().map(|(parent, accepted)| {
        let of = if accepted {
            programmed.clone()
        } else {
            condition_programmed(false, NOT_ACCEPTED, "it is not accepted".into())
        };
        Condition {
            parent,
            observed_generation: generation,
            ..of
        }
    }));
    let by_parent = written(conditions, transitions, now);
    (shaped(mesh, key, by_parent), asked)
}

/// The conditions by parent, with the time since when they are so.
fn written(
    conditions: Vec<Condition>,
    transitions: &mut Transitions,
    now: &str,
) -> BTreeMap<Option<ParentRef>, Vec<Value>> {
    let mut before = std::mem::take(transitions);
    let mut by_parent: BTreeMap<Option<ParentRef>, Vec<Value>> = BTreeMap::new();
    for condition in conditions {
        let at = (condition.parent.clone(), condition.r#type);
        let since = before.remove(&at);
        let since = since.filter(|(status, _)| *status == condition.status);
        let since = since.unwrap_or_else(|| (condition.status, now.into()));
        let conditions = by_parent.entry(condition.parent.clone()).or_default();
        conditions.push(json!({
            "type": condition.r#type,
            "status": if condition.status { "True" } else { "False" },
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": condition.observed_generation,
            "lastTransitionTime": since.1,
        }));
        transitions.insert(at, since);
    }
    by_parent
}

/// The status in the shape that its kind has.
fn shaped(
    mesh: &Mesh,
    (kind, namespace, name): &ObjectKey,
    by_parent: BTreeMap<Option<ParentRef>, Vec<Value>>,
) -> Value {
    let all = |of: BTreeMap<_, Vec<Value>>| -> Vec<Value> { of.into_values().flatten().collect() };
    match kind {
        Kind::HttpRoute => {
            let parents: Vec<Value> = by_parent
                .into_iter()
                .map(|(parent, conditions)| {
                    json!({
                        "parentRef": parent.map_or_else(|| json!({}), parent_value),
                        "controllerName": CONTROLLER,
                        "conditions": conditions,
                    })
                })
                .collect();
            json!({"parents": parents})
        }
        Kind::Service => json!({"loadBalancer": {}, "conditions": all(by_parent)}),
        Kind::HostnameGenerator => {
            let mut status = json!({"conditions": all(by_parent)});
            let generator = ServiceName::new(namespace.clone(), name.clone());
            hostnames::of_generator(&mut status, &mesh.compiler.generator_names(&generator));
            status
        }
        Kind::AccessPolicy | Kind::AuthenticationPolicy | Kind::EndpointSlice | Kind::Workload => {
            json!({"conditions": all(by_parent)})
        }
    }
}

fn parent_value(parent: ParentRef) -> Value {
    let mut value = json!({
        "group": "",
        "kind": "Service",
        "namespace": parent.service.namespace.as_str(),
        "name": parent.service.name.as_str(),
    });
    if let (Some(object), Some(port)) = (value.as_object_mut(), parent.port) {
        object.insert("port".into(), port.into());
    }
    value
}
