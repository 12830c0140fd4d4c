//! A mesh that people make and remove while everything else goes on.
//!
//! Invariants looked at: a mesh that was acknowledged is there and whole, one whose removal was acknowledged is gone
//! with all that was in it, and of what was refused or never answered there is all or nothing.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
};

use http::{Method, StatusCode};
use leno_types::{MeshName, NameError};
use serde_json::{Value, json};

use crate::{
    people::{Answer, People, ask},
    sim::Sim,
    site::Site,
};

/// What there is of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Is {
    Absent,
    Serving,
    /// Not served any more, and not gone yet: it goes at the next start, or when somebody removes it again.
    Removing,
}

/// The mesh.
pub(crate) struct Tenant {
    pub(crate) name: MeshName,
    sim: Sim,
    site: Rc<Site>,
    people: Rc<People>,
    /// What it may be, as far as people know.
    may_be: RefCell<BTreeSet<Is>>,
    busy: Cell<bool>,
}

impl Tenant {
    pub(crate) fn new(sim: &Sim, site: &Rc<Site>, people: &Rc<People>) -> Result<Self, NameError> {
        Ok(Self {
            name: "green".parse()?,
            sim: sim.clone(),
            site: Rc::clone(site),
            people: Rc::clone(people),
            may_be: RefCell::new([Is::Absent].into()),
            busy: Cell::new(false),
        })
    }

    fn can_be(&self, what: Is) -> bool {
        self.may_be.borrow().contains(&what)
    }

    fn is(&self, what: Is) {
        self.may_be.replace([what].into());
    }

    /// Whether it is there for sure, and nobody removes it.
    pub(crate) fn can_be_written(&self) -> bool {
        !self.busy.get() && *self.may_be.borrow() == [Is::Serving].into()
    }

    /// It is made, or removed; nothing, while somebody writes in it.
    pub(crate) fn change(self: Rc<Self>) -> Option<impl Future<Output = ()>> {
        let life = self.site.life()?;
        if self.busy.get() || self.people.is_writing(&self.name) {
            return None;
        }
        self.busy.set(true);
        let removes = self.can_be(Is::Serving) || self.can_be(Is::Removing);
        let (purges, other) = self.sim.dice(|dice| (dice.percent(80), dice.percent(20)));
        // Where it may be there or gone, a new one of its name could not be told from it.
        let unsure = self.can_be(Is::Serving) && self.may_be.borrow().len() > 1;
        let removes = unsure || removes != other;
        Some(async move {
            let one = format!("/meshes/{}", self.name);
            let answer = if removes {
                self.sim.event("found", &format!("remove, purge {purges}"));
                ask(
                    &life,
                    Method::DELETE,
                    &format!("{one}?purge={purges}"),
                    None,
                )
                .await
            } else {
                self.sim.event("found", "make");
                let body = json!({"name": self.name.as_str()});
                ask(&life, Method::POST, "/meshes", Some(body)).await
            };
            self.busy.set(false);
            match removes {
                true => self.removed(answer, purges),
                false => self.made(answer),
            }
        })
    }

    fn made(&self, answer: Answer) {
        let told = self.told(answer);
        match told {
            Some(StatusCode::CREATED) => {
                self.sim.count("founded", 1);
                if !self.can_be(Is::Absent) {
                    self.sim.wrong("a mesh is made that was there");
                }
                self.is(Is::Serving);
                self.people.forget(&self.name);
            }
            Some(StatusCode::CONFLICT) if *self.may_be.borrow() == [Is::Absent].into() => {
                self.sim
                    .wrong("a mesh that is gone is in the way of a new one");
            }
            Some(StatusCode::CONFLICT | StatusCode::INSUFFICIENT_STORAGE) => {}
            // It began to end: the mesh may be there when it begins again.
            Some(StatusCode::SERVICE_UNAVAILABLE) | None => {
                if self.can_be(Is::Absent) {
                    self.may_be.borrow_mut().insert(Is::Serving);
                }
            }
            Some(status) => self.sim.wrong(format!("a mesh cannot be made: {status}")),
        }
    }

    fn removed(&self, answer: Answer, purges: bool) {
        let told = self.told(answer);
        match told {
            Some(StatusCode::OK) => {
                self.sim.count("dissolved", 1);
                if *self.may_be.borrow() == [Is::Absent].into() {
                    self.sim.wrong("a mesh is removed that was gone");
                }
                // Where a purge was begun before, this one ends it.
                let whole = *self.may_be.borrow() == [Is::Serving].into();
                if whole && !purges && self.people.has_written(&self.name) {
                    self.sim
                        .wrong("a mesh is removed with what was in it, unasked");
                }
                self.is(Is::Absent);
                self.people.forget(&self.name);
            }
            Some(StatusCode::NOT_FOUND) => {
                if !self.can_be(Is::Absent) {
                    self.sim.wrong("a mesh that was acknowledged is not there");
                }
                self.is(Is::Absent);
                self.people.forget(&self.name);
            }
            Some(StatusCode::CONFLICT) if !purges => {}
            Some(StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE) | None => {
                if *self.may_be.borrow() != [Is::Absent].into() {
                    let mut may_be = self.may_be.borrow_mut();
                    may_be.extend([Is::Removing, Is::Absent]);
                }
            }
            Some(status) => self
                .sim
                .wrong(format!("a mesh cannot be removed: {status}")),
        }
    }

    /// The code of an answer; `None`: nobody answered.
    fn told(&self, answer: Answer) -> Option<StatusCode> {
        let Answer::Said(status, value) = answer else {
            self.sim.event("founding", "unknown");
            return None;
        };
        let why = value["message"].as_str().unwrap_or_default();
        self.sim.event("founding", &format!("{status} {why}"));
        Some(status)
    }

    /// Looks whether it is what it may be; whether it is served.
    pub(crate) async fn check(&self) -> bool {
        let Some(life) = self.site.life() else {
            return false;
        };
        if self.busy.get() {
            self.sim.wrong("somebody waits for a mesh in vain");
        }
        let path = format!("/meshes/{}", self.name);
        let is = match ask(&life, Method::GET, &path, None).await {
            Answer::Said(StatusCode::NOT_FOUND, _) => Is::Absent,
            Answer::Said(StatusCode::OK, info) => match info["state"].as_str() {
                Some("serving") => Is::Serving,
                Some("removing") => Is::Removing,
                _ => return self.wrong(&info),
            },
            Answer::Said(_, value) => return self.wrong(&value),
            Answer::Unknown => return self.wrong(&Value::Null),
        };
        let may_be = self.may_be.borrow().clone();
        if !may_be.contains(&is) {
            self.sim.wrong(format!(
                "mesh {} is {is:?}, and is to be {may_be:?}",
                self.name
            ));
        }
        self.is(is);
        if is == Is::Removing {
            self.may_be.borrow_mut().insert(Is::Absent);
        }
        if is != Is::Serving {
            self.people.forget(&self.name);
            self.nothing_is_left(&life).await;
        }
        is == Is::Serving
    }

    fn wrong(&self, what: &Value) -> bool {
        self.sim
            .wrong(format!("mesh {} cannot be told of: {what}", self.name));
        false
    }

    /// What is not served shows nothing.
    async fn nothing_is_left(&self, life: &crate::site::Life) {
        let path = format!("/meshes/{}/api/v1/namespaces/shop/services", self.name);
        match ask(life, Method::GET, &path, None).await {
            Answer::Said(StatusCode::NOT_FOUND, _) => {}
            Answer::Said(status, _) => self.sim.wrong(format!("{path} is {status}")),
            Answer::Unknown => self.sim.wrong(format!("{path} is not answered")),
        }
    }
}
