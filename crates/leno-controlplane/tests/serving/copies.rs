//! Copies of a host's disk, which show its certificate and are not it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use leno_tls::PrivateKey;
use leno_wire::{
    agent::{AgentMessage, Goodbye, Hello, RenewRequest, agent_client::AgentClient, agent_message},
    discovery::{
        DeltaDiscoveryRequest,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{ControlPlane, Membership, cart, test};

/// Certificates say whole seconds: until the one in which this is called is over.
async fn next_second() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let left = Duration::from_nanos(1_000_000_000 - u64::from(since.subsec_nanos()));
    tokio::time::sleep(left).await;
}

/// Opens a session, and says no more than Hello.
async fn try_session(host: &Membership, control: &ControlPlane) -> Result<(), Status> {
    let hello = AgentMessage {
        message: Some(agent_message::Message::Hello(Hello::default())),
    };
    let mut client = AgentClient::new(host.channel(control).await);
    client.session(tokio_stream::once(hello)).await.map(drop)
}

async fn try_discovery(host: &Membership, control: &ControlPlane) -> Result<(), Status> {
    let nothing = tokio_stream::empty::<DeltaDiscoveryRequest>();
    let channel = host.channel(control).await;
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    client.delta_aggregated_resources(nothing).await.map(drop)
}

async fn try_renew(host: &Membership, control: &ControlPlane) -> Result<(), Status> {
    let csr = PrivateKey::generate().csr().unwrap();
    let mut client = AgentClient::new(host.channel(control).await);
    client.renew(RenewRequest { csr }).await.map(drop)
}

#[test]
fn a_copy_of_a_host_gets_nothing_of_what_the_host_may_do_since_it_joined_again() {
    test("copy", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let copy = Membership::join(&control, "b", cart()).await;
        let mut agent = copy.connect(&control).await;
        agent.register("cart", 8080, "").await;
        let end = agent_message::Message::Goodbye(Goodbye { handover: false });
        agent.say(end).await;
        let nobody = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty);
        let workloads = "/meshes/default/apis/leno.dev/v1alpha1/workloads";
        control.await_document(workloads, nobody).await;
        drop(agent);
        next_second().await;
        let pay = json!({"namespace": "default", "service": "pay"});
        let host = copy.join_again(&control, pay.clone()).await;
        assert_eq!(host.name, copy.name);
        for refused in [
            try_session(&copy, &control).await,
            try_discovery(&copy, &control).await,
            try_renew(&copy, &control).await,
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
            assert!(refused.message().contains("joined again"), "{refused:?}");
        }
        // With a token of its own it is another host, and the one it was copied from goes on.
        let other = copy.join_again(&control, pay).await;
        assert_ne!(other.name, host.name);
        try_renew(&host, &control).await.unwrap();
        let mut agent = host.connect(&control).await;
        let registered = agent.register("pay", 8080, "").await;
        let key = PrivateKey::generate();
        agent.sign(&registered.uid, &key).await.unwrap();
        control.stop().await;
    });
}
