//! What stays of an agent that is gone.

use leno_wire::{
    agent::{Goodbye, Hello, agent_message},
    mesh as wire,
};
use prost::Message;
use serde_json::{Value, json};

use super::{ControlPlane, MESH, Membership, test};

/// The mesh's own addresses, as an agent is told them that has just come.
async fn own_addresses(control: &ControlPlane, watcher: &Membership) -> Vec<String> {
    let mut watcher = watcher.connect(control).await;
    watcher.ask(MESH, &["*"]).await;
    let answer = watcher.answer().await;
    let any = answer.resources[0].resource.clone().unwrap();
    wire::Mesh::decode(&*any.value).unwrap().addresses
}

#[test]
fn the_address_of_an_agent_that_is_gone_stays_the_meshs_own_over_a_restart_as_well() {
    test("resting", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let watcher = Membership::join(&control, "w", json!({})).await;
        assert_eq!(own_addresses(&control, &watcher).await, ["127.0.0.1"]);
        let host = Membership::of_this_machine(&control).await;
        let hello = Hello {
            addresses: vec!["192.0.2.7".into()],
            ..Hello::default()
        };
        let mut agent = host.connect_with(&control, hello).await;
        agent.register("cart", 8080, "").await;
        let both = ["127.0.0.1", "192.0.2.7"];
        assert_eq!(own_addresses(&control, &watcher).await, both);
        let end = agent_message::Message::Goodbye(Goodbye { handover: false });
        agent.say(end).await;
        let nobody = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty);
        let workloads = "/meshes/default/apis/leno.dev/v1alpha1/workloads";
        control.await_document(workloads, nobody).await;
        assert_eq!(own_addresses(&control, &watcher).await, both);
        control.stop().await;
        let control = ControlPlane::start(directory.path()).await;
        assert_eq!(own_addresses(&control, &watcher).await, both);
        control.stop().await;
    });
}
