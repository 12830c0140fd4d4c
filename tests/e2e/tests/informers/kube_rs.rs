//! The same with kube-rs: its watchers and reflectors, in a thread of their own.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, mpsc::Sender},
    thread,
};

use futures_util::{StreamExt, future::join_all};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        WatchStreamExt,
        reflector::{Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::history::Line;

/// Tells what caches hold, for each that is sent.
pub(crate) type Commands = UnboundedReceiver<()>;
/// What it keeps.
pub(crate) const NAMES: [&str; 5] = [
    "kube-rs/services",
    "kube-rs/services,streamed",
    "kube-rs/services,shade=dark",
    "kube-rs/httproutes",
    "kube-rs/httproutes,streamed",
];
type Tell = Box<dyn Fn() -> Line>;
type Keeping = futures_util::future::LocalBoxFuture<'static, ()>;

/// Keeps caches until the commands end.
pub(crate) fn start(kubeconfig: String, report: Sender<Line>, commands: Commands) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(keep(&kubeconfig, &report, commands));
    });
}

/// A client made from a context as it is.
pub(crate) async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.expect("a context")).expect("a client")
}

pub(crate) fn http_routes() -> ApiResource {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    ApiResource::from_gvk_with_plural(&kind, "httproutes")
}

async fn keep(kubeconfig: &str, report: &Sender<Line>, mut commands: Commands) {
    let client = client(kubeconfig).await;
    let services = || Api::<Service>::all(client.clone());
    let routes = || Api::<DynamicObject>::all_with(client.clone(), &http_routes());
    let listing = watcher::Config::default;
    let streaming = || watcher::Config::default().streaming_lists();
    let dark = || watcher::Config::default().labels("shade=dark");
    let [plain, streamed, shaded, dynamic, dynamic_streamed] = NAMES;
    let (tells, keeping): (Vec<Tell>, Vec<Keeping>) = [
        informer(plain, services(), (), listing(), report),
        informer(streamed, services(), (), streaming(), report),
        informer(shaded, services(), (), dark(), report),
        informer(dynamic, routes(), http_routes(), listing(), report),
        informer(
            dynamic_streamed,
            routes(),
            http_routes(),
            streaming(),
            report,
        ),
    ]
    .into_iter()
    .unzip();
    let telling = async {
        while commands.recv().await.is_some() {
            for tell in &tells {
                drop(report.send(tell()));
            }
        }
    };
    tokio::select! {
        _ = join_all(keeping) => {}
        () = telling => {}
    }
}

fn informer<K>(
    name: &'static str,
    api: Api<K>,
    kind: K::DynamicType,
    config: watcher::Config,
    report: &Sender<Line>,
) -> (Tell, Keeping)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Eq + std::hash::Hash + Send + Sync + Unpin,
{
    let writer = Writer::new(kind);
    let store: Store<K> = writer.as_reader();
    let report = report.clone();
    let events = watcher(api, config).default_backoff().reflect(writer);
    let keeping = async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let mut line = match &event {
                Ok(Event::Init) => line("begin", None::<&K>),
                Ok(Event::InitApply(object)) => line("item", Some(object)),
                Ok(Event::InitDone) => line("listed", None::<&K>),
                Ok(Event::Apply(object)) => line("put", Some(object)),
                Ok(Event::Delete(object)) => line("deleted", Some(object)),
                Err(error) => Line {
                    text: error_text(error),
                    ..line("error", None::<&K>)
                },
            };
            line.informer = name.into();
            if report.send(line).is_err() {
                return;
            }
        }
    };
    let tell = move || {
        let item = |object: Arc<K>| (key(&*object), object.resource_version().unwrap_or_default());
        Line {
            informer: name.into(),
            op: "cache".into(),
            items: store
                .state()
                .into_iter()
                .map(item)
                .collect::<BTreeMap<_, _>>(),
            ..Line::default()
        }
    };
    (Box::new(tell), Box::pin(keeping))
}

fn key(object: &impl ResourceExt) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("{namespace}/{}", object.name_any())
}

fn line(op: &str, object: Option<&impl ResourceExt>) -> Line {
    Line {
        op: op.into(),
        key: object.map(key).unwrap_or_default(),
        version: object
            .and_then(ResourceExt::resource_version)
            .unwrap_or_default(),
        ..Line::default()
    }
}

fn error_text(error: &watcher::Error) -> String {
    match error {
        watcher::Error::WatchError(status) => format!("{}: {}", status.reason, status.message),
        other => other.to_string(),
    }
}
