//! What stays of an agent that is gone.

use std::{net::SocketAddr, time::UNIX_EPOCH};

use leno_controlplane::Config;
use leno_store::{Expect, Key, Options, SqliteStore, Store, Write};
use leno_wire::{
    agent::{Goodbye, Hello, agent_message},
    mesh as wire,
};
use prost::Message;
use serde_json::{Value, json};

use super::{ControlPlane, MESH, Membership, test};

/// The mesh's own addresses, as an agent is told them that has just come: as soon as they are so.
async fn own_addresses(
    control: &ControlPlane,
    watcher: &Membership,
    so: impl Fn(&[String]) -> bool,
) -> Vec<String> {
    let mut watcher = watcher.connect(control).await;
    watcher.ask(MESH, &["*"]).await;
    loop {
        let answer = watcher.answer().await;
        for resource in answer.resources {
            let any = resource.resource.unwrap();
            let addresses = wire::Mesh::decode(&*any.value).unwrap().addresses;
            if so(&addresses) {
                return addresses;
            }
        }
    }
}

#[test]
fn the_address_of_an_agent_that_is_gone_stays_the_meshs_own_over_a_restart_as_well() {
    test("resting", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let watcher = Membership::join(&control, "w", json!({})).await;
        own_addresses(&control, &watcher, |of| of == ["127.0.0.1"]).await;
        let host = Membership::of_this_machine(&control).await;
        let hello = Hello {
            addresses: vec!["192.0.2.7".into()],
            ..Hello::default()
        };
        let mut agent = host.connect_with(&control, hello).await;
        agent.register("cart", 8080, "").await;
        let both = ["127.0.0.1", "192.0.2.7"];
        own_addresses(&control, &watcher, |of| of == both).await;
        let end = agent_message::Message::Goodbye(Goodbye { handover: false });
        agent.say(end).await;
        let nobody = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty);
        let workloads = "/meshes/default/apis/leno.dev/v1alpha1/workloads";
        control.await_document(workloads, nobody).await;
        own_addresses(&control, &watcher, |of| of == both).await;
        control.stop().await;
        let control = ControlPlane::start(directory.path()).await;
        own_addresses(&control, &watcher, |of| of == both).await;
        control.stop().await;
    });
}

#[test]
fn of_members_beyond_the_ceiling_who_is_there_is_listed_first_and_the_others_are_counted() {
    const LISTED: usize = 1_024;
    const AWAY: u16 = 1_100;
    test("many", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let here = Membership::join(&control, "here", json!({})).await;
        drop(here.connect(&control).await);
        control.stop().await;
        // Hosts outside of every network that were there once, as if each had joined.
        {
            let file = directory.path().join("data/store.db");
            let store = SqliteStore::open(&file, Options::default()).unwrap();
            let key = |name: &str| Key::new("default".parse().unwrap(), "leno/agents", "", name);
            let own = store.get(&key("here")).unwrap().unwrap();
            let record: Value = serde_json::from_slice(&own.value).unwrap();
            let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
            let away = (0..AWAY).map(|number| {
                let (name, mut record) = (format!("away-{number}"), record.clone());
                let [third, fourth] = number.to_be_bytes();
                record["name"] = json!(name);
                // Heard of later than who is there.
                record["renewed"] = json!(now + u64::from(number));
                record["places"] = json!({"now": [format!("198.18.{third}.{fourth}")]});
                Write::put(key(&name), record.to_string().into_bytes(), Expect::Absent)
            });
            store.commit(away.collect()).await.unwrap();
        }
        let port = SocketAddr::from(([127, 0, 0, 1], 0));
        let change = |config: &mut Config| config.metrics = Some(port);
        let control = ControlPlane::start_with(directory.path(), change).await;
        let own = "127.0.0.1".to_owned();
        let listed = own_addresses(&control, &here, |of| of.contains(&own)).await;
        assert_eq!(listed.len(), LISTED);
        let last = (AWAY - 1).to_be_bytes();
        let last = format!("198.18.{}.{}", last[0], last[1]);
        assert!(listed.contains(&last), "who was heard of last");
        assert!(!listed.contains(&"198.18.0.0".to_owned()), "and not before");
        let metrics = control.scrape().await;
        let over = metrics.lines().find_map(|line| {
            let name = "leno_controlplane_members_exceeded_total{mesh=\"default\"} ";
            line.strip_prefix(name)?.parse::<usize>().ok()
        });
        // Each time that the mesh is made: at least once, of all that are not listed.
        assert!(over.unwrap() > usize::from(AWAY) - LISTED, "{over:?}");
        control.stop().await;
    });
}
