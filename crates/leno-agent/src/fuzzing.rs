//! What the fuzz targets call (tests/parsers): readers of what others send that are nobody else's to call.
//! Each takes any bytes, says whether anything could be read out of them, and panics where that is not what must hold of it.

use leno_wire::discovery::DeltaDiscoveryResponse;
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    ads::AdsClient,
    protocol::{FromAgent, ToAgent},
};

/// A message between `leno run` and the agent, either way: refused, or written back the same.
pub fn message(data: &[u8]) -> bool {
    let read = round::<ToAgent>(data) | round::<FromAgent>(data);
    if let Ok(ToAgent::Start(start)) = serde_json::from_slice(data) {
        for port in &start.ports {
            drop(port.protocol());
        }
    }
    read
}

fn round<T: Serialize + DeserializeOwned>(data: &[u8]) -> bool {
    let Ok(read) = serde_json::from_slice::<T>(data) else {
        return false;
    };
    let written = serde_json::to_vec(&read).expect("a message is JSON");
    let again = serde_json::from_slice::<T>(&written).expect("what was written is read");
    assert_eq!(
        serde_json::to_vec(&again).expect("a message is JSON"),
        written
    );
    true
}

/// What a control plane sends in discovery, each message after its length: refused by name, or held; and what is held
/// survives a restart.
pub fn discovery(mut data: &[u8]) -> bool {
    let mut client = AdsClient::default();
    let mut resources = 0;
    while let Some(Ok(response)) =
        (!data.is_empty()).then(|| DeltaDiscoveryResponse::decode_length_delimited(&mut data))
    {
        resources += response.resources.len();
        let refused = client.nacks();
        let (_changes, answer) = client.handle(response);
        assert_eq!(client.nacks() > refused, answer.error_detail.is_some());
        if let Some(detail) = answer.error_detail {
            assert!(detail.message.len() <= 2_000);
        }
    }
    assert!(client.held() <= resources);
    let mut restored = AdsClient::default();
    restored.restore(client.save());
    assert_eq!(restored.versions(), client.versions());
    client.held() > 0
}
