//! Writes at random, alone, and so knows what there is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use leno_e2e::{SOON, api};
use leno_testkit::until_ok;
use serde_json::{Value, json};

use crate::history::{History, Step};

/// A kind that informers watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Watched {
    Services,
    HttpRoutes,
}

impl Watched {
    pub(crate) const ALL: [Self; 2] = [Self::Services, Self::HttpRoutes];

    fn path(self) -> (&'static str, &'static str) {
        match self {
            Self::Services => ("/api/v1", "services"),
            Self::HttpRoutes => ("/apis/gateway.networking.k8s.io/v1", "httproutes"),
        }
    }

    /// Where all of it is listed.
    pub(crate) fn everywhere(self) -> String {
        let (group, plural) = self.path();
        format!("{group}/{plural}")
    }

    fn collection(self, namespace: &str) -> String {
        let (group, plural) = self.path();
        format!("{group}/namespaces/{namespace}/{plural}")
    }

    fn document(self, (namespace, name): (&str, &str), number: u64, dark: bool) -> Value {
        let metadata = json!({
            "name": name,
            "namespace": namespace,
            "labels": {"shade": if dark { "dark" } else { "light" }},
            "annotations": {"number": number.to_string()},
        });
        match self {
            // Headless: an address that was given back rests for an hour, and there are only so many.
            Self::Services => json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {"clusterIP": "None", "selector": {"app": "x"}, "ports": [{"port": 80}]},
            }),
            Self::HttpRoutes => json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": metadata,
                "spec": {
                    "parentRefs": [{"group": "", "kind": "Service", "name": "nobody", "port": 80}],
                    "rules": [{"backendRefs": [{"name": "nobody", "port": 80}]}],
                },
            }),
        }
    }
}

/// What the control plane's log of changes holds.
pub(crate) const HISTORY: u64 = 300;
/// Objects of each kind and namespace.
const NAMES: u64 = 12;
const NAMESPACES: [&str; 2] = ["default", "other"];

/// A generator that any seed repeats.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What was written, and the one who writes.
pub(crate) struct Writer {
    socket: PathBuf,
    random: Random,
    number: u64,
    histories: Arc<Mutex<BTreeMap<Watched, History>>>,
}

/// A writer at work in its thread.
pub(crate) struct Writing {
    over: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: thread::JoinHandle<Writer>,
}

impl Writing {
    /// How many changes it has made since it began to write.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    /// The writer, once it has stopped.
    pub(crate) fn stop(self) -> Writer {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("the writer")
    }
}

impl Writer {
    pub(crate) fn new(socket: PathBuf, seed: u64) -> Self {
        Self {
            socket,
            random: Random(seed),
            number: 0,
            histories: Arc::default(),
        }
    }

    /// How many changes were made.
    pub(crate) fn changes(&self) -> usize {
        let histories = self.histories();
        let of = |history: &History| history.values().map(Vec::len).sum::<usize>();
        histories.values().map(of).sum()
    }

    pub(crate) fn histories(&self) -> MutexGuard<'_, BTreeMap<Watched, History>> {
        self.histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes in a thread until it is stopped, with a pause after each change.
    pub(crate) fn start(mut self, pause: Duration) -> Writing {
        let over = Arc::<AtomicBool>::default();
        let made = Arc::<AtomicU64>::default();
        let (ours, counts) = (Arc::clone(&over), Arc::clone(&made));
        let thread = thread::spawn(move || {
            while !ours.load(Ordering::SeqCst) {
                self.change();
                counts.fetch_add(1, Ordering::SeqCst);
                thread::sleep(pause); // the pace of a busy mesh, not a wait for anything
            }
            self
        });
        Writing { over, made, thread }
    }

    /// One change of one object.
    fn change(&mut self) {
        let kind = Watched::ALL[usize::from(self.random.below(2) == 1)];
        let namespace = NAMESPACES[usize::from(self.random.below(2) == 1)];
        let name = format!("object-{}", self.random.below(NAMES));
        let key = format!("{namespace}/{name}");
        let last = self
            .histories()
            .get(&kind)
            .and_then(|history| history.get(&key)?.last().copied());
        let there = match last {
            Some(Step::Put { version, .. }) => Some(version),
            Some(Step::Gone) | None => None,
        };
        self.number += 1;
        let dark = self.random.below(2) == 1;
        let collection = kind.collection(namespace);
        let path = format!("{collection}/{name}");
        let mut document = kind.document((namespace, &name), self.number, dark);
        let way = self.random.below(5);
        let step = match there {
            None => self.put("POST", &collection, &path, &document, dark),
            Some(_) if way == 0 => self.delete(&path),
            Some(version) if way < 3 => {
                document["metadata"]["resourceVersion"] = version.to_string().into();
                self.put("PUT", &path, &path, &document, dark)
            }
            Some(_) => {
                let metadata = &document["metadata"];
                let patch = json!({"metadata": {
                    "labels": metadata["labels"],
                    "annotations": metadata["annotations"],
                }});
                self.put("PATCH", &path, &path, &patch, dark)
            }
        };
        if let Some(step) = step {
            let mut histories = self.histories();
            let history = histories.entry(kind).or_default();
            history.entry(key).or_default().push(step);
        }
    }

    /// Creates or changes; what came of it is found out, if need be from a control plane that has started anew.
    fn put(&self, method: &str, to: &str, path: &str, body: &Value, dark: bool) -> Option<Step> {
        let media = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let target = format!("/meshes/default{to}");
        let content = [("content-type", media)];
        let text = body.to_string();
        let answer = api::request(&self.socket, method, &target, &content, text.as_bytes());
        let object = match answer.and_then(|reply| Ok((reply.status, reply.json()?))) {
            Ok((200 | 201, object)) => object,
            Ok((status, refused)) if status < 500 => panic!("{method} {to}: {refused}"),
            Ok(_) | Err(_) => self.read(path).filter(|object| {
                object["metadata"]["annotations"]["number"].as_str()
                    == Some(self.number.to_string().as_str())
            })?,
        };
        let version = object["metadata"]["resourceVersion"].as_str()?;
        Some(Step::Put {
            version: version.parse().expect("a revision"),
            dark,
        })
    }

    fn delete(&self, path: &str) -> Option<Step> {
        match api::call(&self.socket, "DELETE", path, &Value::Null) {
            Ok((200, _)) => Some(Step::Gone),
            Ok((status, refused)) if status < 500 => panic!("DELETE {path}: {refused}"),
            Ok(_) | Err(_) => self.read(path).is_none().then_some(Step::Gone),
        }
    }

    /// An object as it is, from a control plane that answers.
    fn read(&self, path: &str) -> Option<Value> {
        until_ok("an answer to a reader", SOON * 3, || {
            match api::call(&self.socket, "GET", path, &Value::Null) {
                Ok((200, object)) => Ok(Some(object)),
                Ok((404, _)) => Ok(None),
                Ok((status, body)) => Err(format!("{status}: {body}")),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// What a list says there is: versions by name.
    pub(crate) fn listed(&self, kind: Watched) -> BTreeMap<String, u64> {
        let list = self.read(&kind.everywhere()).expect("a list");
        let items = list["items"].as_array().expect("items");
        let entry = |item: &Value| {
            let meta = &item["metadata"];
            let text = |name: &str| meta[name].as_str().expect("a text").to_owned();
            let key = format!("{}/{}", text("namespace"), text("name"));
            (key, text("resourceVersion").parse().expect("a revision"))
        };
        items.iter().map(entry).collect()
    }
}

/// Moves the store's log of changes past everything that is in it, with documents of a kind nobody here watches; each
/// round is told apart by a number of its own.
pub(crate) fn fill_the_log(socket: &Path, round: u64) {
    let items: Vec<Value> = (0..HISTORY).map(|item| filler(item, round)).collect();
    let body = json!({"items": items});
    let applied = until_ok("the log is filled", SOON * 3, || {
        match api::call(socket, "POST", "/leno/v1/apply", &body) {
            Ok((status, _)) if status >= 500 => Err(status.to_string()),
            Ok(answer) => Ok(answer),
            Err(error) => Err(error.to_string()),
        }
    });
    assert_eq!(applied.0, 200, "{}", applied.1);
}

fn filler(item: u64, number: u64) -> Value {
    json!({
        "apiVersion": "leno.dev/v1alpha1",
        "kind": "AccessPolicy",
        "metadata": {
            "name": format!("filler-{item}"),
            "namespace": "default",
            "annotations": {"number": number.to_string()},
        },
        "spec": {
            "targetRefs": [{"kind": "Service", "name": "nobody"}],
            "action": "Allow",
            "rules": [{"from": [{"serviceAccounts": ["default/nobody"]}]}],
        },
    })
}
