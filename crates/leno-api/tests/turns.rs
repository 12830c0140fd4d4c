//! Who asks for much is served in turns with who asks for little. Counted by answers and by pieces, never by time: a
//! machine that is slow is slow for all of them. What waits for the disk is not counted.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test owns its tasks by a JoinSet"
)]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use common::{JSON, SERVICES, Server, service};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use leno_api::{Access, Audit, AuditLine, Begun, Caller, Counters, Limits, Unready};
use leno_store::{Expect, Key, Options, Store, Write};
use leno_types::DnsLabel;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt;

/// Objects of the mesh that is listed.
const MANY: usize = 1_024;
/// Lists that are asked for at once.
const LISTS: usize = 48;
const ALL: &str = "/api/v1/services";
const OTHER: &str = "/meshes/other/api/v1/namespaces/shop/services";

/// A server with many services in the mesh `default`, and one in `other`.
async fn server() -> Arc<Server> {
    let server = Arc::new(Server::start().await);
    let write = |mesh: &str, name: String| {
        let mut object = service(&name, 80);
        object["metadata"]["uid"] = name.as_str().into();
        let key = Key::new(mesh.parse().unwrap(), "services", "shop", name);
        Write::put(key, object.to_string().into_bytes(), Expect::Absent)
    };
    let many = (0..MANY).map(|number| write("default", format!("s{number:05}")));
    let writes = many.chain([write("other", "cart".into())]).collect();
    server.store.commit(writes).await.unwrap();
    server
}

/// Asks so often for what is at `path`; how many whole answers there are so far.
fn ask(
    server: &Arc<Server>,
    asking: &mut JoinSet<()>,
    times: usize,
    path: &'static str,
    caller: &'static str,
) -> Arc<AtomicUsize> {
    let answered = Arc::<AtomicUsize>::default();
    for _ in 0..times {
        let (server, answered) = (Arc::clone(server), Arc::clone(&answered));
        asking.spawn(async move {
            let headers = [("x-test-caller", caller)];
            let response = server.send(Method::GET, path, &headers, "").await;
            assert_eq!(response.status(), StatusCode::OK);
            response.into_body().collect().await.unwrap();
            answered.fetch_add(1, Ordering::Relaxed);
        });
    }
    answered
}

/// Waits until so many requests are there, and long work has begun.
async fn begun(server: &Server, requests: usize) {
    let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    while of(&server.counters.requests) < requests as u64 || of(&server.counters.turns) < 4 {
        tokio::task::yield_now().await;
    }
}

async fn all(mut asking: JoinSet<()>) {
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
}

fn count(of: &AtomicUsize) -> usize {
    of.load(Ordering::Relaxed)
}

#[tokio::test]
async fn short_requests_of_others_do_not_wait_for_long_lists() {
    let server = server().await;
    let mut asking = JoinSet::new();
    let lists = ask(&server, &mut asking, LISTS, ALL, "viewer");
    begun(&server, LISTS).await;
    for _ in 0..8 {
        let answer = server.get(&format!("{OTHER}/cart")).await;
        assert_eq!(answer.body["metadata"]["name"], "cart");
        let answer = server.get(OTHER).await;
        assert_eq!(answer.body["items"].as_array().unwrap().len(), 1);
    }
    let read = count(&lists);
    assert!(
        read <= LISTS / 3,
        "{read} lists were answered before 16 reads"
    );
    // How many lists are answered meanwhile is the disk's affair, which a write waits for: that it is there at all is not.
    let answer = server.post(OTHER, &service("new", 80)).await;
    assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.body);
    all(asking).await;
    assert_eq!(count(&lists), LISTS);
}

#[tokio::test]
async fn meshes_and_callers_have_as_many_turns_as_each_other() {
    let server = server().await;
    // As large a list, of another caller of the mesh, and the same work in another mesh.
    let items: Vec<Value> = (0..MANY).map(|of| service(&format!("b{of}"), 80)).collect();
    let batch = json!({"items": items, "dryRun": true}).to_string();
    let mut asking = JoinSet::new();
    let lists = ask(&server, &mut asking, LISTS, ALL, "viewer");
    begun(&server, LISTS).await;
    let other = ask(&server, &mut asking, 1, ALL, "carol");
    while count(&other) == 0 {
        tokio::task::yield_now().await;
    }
    let listed = count(&lists);
    assert!(
        listed <= LISTS / 4,
        "{listed} lists of one before one of another"
    );
    // A batch of these takes some six times the turns of a list.
    let path = "/meshes/other/leno/v1/apply";
    let answer = server.call(Method::POST, path, &JSON, batch).await;
    assert_eq!(answer.code, StatusCode::OK, "{}", answer.body);
    let planned = count(&lists) - listed;
    assert!(planned <= LISTS / 2, "{planned} lists before a plan");
    all(asking).await;
}

#[tokio::test]
async fn a_list_is_of_one_revision_whatever_is_written_while_it_is_made() {
    let server = server().await;
    let mut asking = JoinSet::new();
    drop(ask(&server, &mut asking, LISTS, ALL, "viewer"));
    begun(&server, LISTS).await;
    let listing = {
        let server = Arc::clone(&server);
        let list = async move { server.get(ALL).await };
        let mut listing = JoinSet::new();
        listing.spawn(list);
        listing
    };
    begun(&server, LISTS + 1).await;
    let before = server.store.revision();
    let mut written = 0;
    while !asking.is_empty() && written < 40 {
        let path = format!(
            "/api/v1/namespaces/shop/services/s{:05}",
            MANY - 1 - written
        );
        assert_eq!(server.delete(&path).await.code, StatusCode::OK);
        written += 1;
        while asking.try_join_next().is_some() {}
    }
    assert!(written > 0 && server.store.revision() == before + written as u64);
    let list = listing.join_all().await.remove(0).body;
    let revision: u64 = common::version(&list).parse().unwrap();
    let gone = usize::try_from(revision.saturating_sub(before)).unwrap();
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), MANY - gone, "as they were at {revision}");
    asking.abort_all();
}

#[tokio::test]
async fn who_leaves_while_it_waits_gives_its_turn_on() {
    let server = server().await;
    let mut asking = JoinSet::new();
    drop(ask(&server, &mut asking, LISTS, ALL, "viewer"));
    begun(&server, LISTS).await;
    asking.shutdown().await;
    let answer = server.get(ALL).await;
    assert_eq!(answer.body["items"].as_array().unwrap().len(), MANY);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_turn_is_not_the_time_that_a_body_takes_to_arrive() {
    let server = Server::start().await;
    let ask = |method, path, body: String| {
        let alice = Caller::everywhere("alice", Access::Admin);
        let request = http::Request::builder()
            .method(method)
            .uri(format!("/meshes/default{path}"))
            .header("content-type", "application/json")
            .extension(alice)
            .body(axum::body::Body::from(body))
            .unwrap();
        server.router.clone().oneshot(request)
    };
    // Whoever is not asked to go on keeps its turn.
    let mut list = Box::pin(ask(Method::GET, ALL, String::new()));
    std::future::poll_fn(|context| {
        assert!(list.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    let items: Vec<Value> = (0..400).map(|of| service(&format!("b{of}"), 80)).collect();
    let batch = json!({"items": items, "dryRun": true}).to_string();
    assert!(batch.len() > 64 << 10, "{}", batch.len());
    let mut asking = JoinSet::new();
    asking.spawn(ask(Method::POST, "/leno/v1/apply", batch));
    tokio::time::sleep(2 * Limits::default().body_time).await;
    let waits = asking.try_join_next().is_none();
    assert_eq!(list.await.unwrap().status(), StatusCode::OK);
    let answer = asking.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!((answer.status(), waits), (StatusCode::OK, true));
    let late = &server.counters.bodies_exceeded;
    assert_eq!(late.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_watch_takes_no_turns_for_what_changes_elsewhere() {
    let server = Server::start().await;
    let mut watches = Vec::new();
    for _ in 0..4 {
        let path = format!("{SERVICES}?watch=1&resourceVersion=1");
        watches.push(server.watch(&path).await);
    }
    let before = server.counters.turns.load(Ordering::Relaxed);
    let write = |number: usize| {
        let name = format!("s{number}");
        let key = Key::new("other".parse().unwrap(), "services", "shop", name);
        Write::put(key, b"{}".to_vec(), Expect::Absent)
    };
    server
        .store
        .commit((0..512).map(write).collect())
        .await
        .unwrap();
    server.post(SERVICES, &service("cart", 80)).await;
    for watch in &mut watches {
        assert_eq!(watch.short().await, "ADDED cart");
    }
    let turns = server.counters.turns.load(Ordering::Relaxed) - before;
    assert!(turns < 8, "{turns} turns for 4 events");
}

#[tokio::test]
async fn a_large_object_of_a_batch_has_a_turn_for_each_thing_done_with_it() {
    let server = Server::start().await;
    let large = |number: usize| {
        let mut object = service(&format!("s{number}"), 80);
        object["metadata"]["annotations"] = json!({"note": "x".repeat(80_000)});
        object
    };
    let items: Vec<Value> = (0..8).map(large).collect();
    let batch = json!({"items": items, "dryRun": true}).to_string();
    let answer = server
        .call(Method::POST, "/leno/v1/apply", &JSON, batch)
        .await;
    assert_eq!(answer.code, StatusCode::OK, "{}", answer.body);
    let turns = server.counters.turns.load(Ordering::Relaxed);
    assert!(
        turns >= 16,
        "{turns} turns to admit and to plan {}",
        items.len()
    );
}

/// After how many turns each line was kept.
struct Kept(Arc<Counters>, Arc<Mutex<Vec<u64>>>);

impl Audit for Kept {
    fn ready(&self, _: &DnsLabel, _: usize) -> Result<Begun, Unready> {
        Ok(None)
    }

    fn note(&self, _: AuditLine) {}

    fn account(&self, _: AuditLine) {
        let turns = self.0.turns.load(Ordering::Relaxed);
        self.1.lock().unwrap().push(turns);
    }
}

#[tokio::test]
async fn the_lines_of_a_batch_are_kept_before_anybody_else_has_a_turn() {
    let kept = Arc::<Mutex<Vec<u64>>>::default();
    let server = Server::made(Options::default(), |api| {
        api.audit = Arc::new(Kept(Arc::clone(&api.counters), Arc::clone(&kept)));
    })
    .await;
    let items: Vec<Value> = (0..100).map(|of| service(&format!("b{of}"), 80)).collect();
    let answer = server
        .post("/leno/v1/apply", &json!({"items": items}))
        .await;
    assert_eq!(answer.code, StatusCode::OK, "{}", answer.body);
    let mut kept = kept.lock().unwrap().clone();
    assert_eq!(kept.len(), 100);
    kept.dedup();
    assert_eq!(kept.len(), 1, "{kept:?}");
}
