//! The connection to the control plane: dialled, used until it ends, dialled again.
//!
//! Owns when to try again. What is said on it, and what its end means, is the agent's to decide.

use std::time::Duration;

use leno_tls::control::ControlConnector;
use leno_types::HostPort;
use leno_wire::{
    agent::{AgentMessage, ControlMessage, agent_client::AgentClient},
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::Channel;

use crate::dial;

/// Messages that wait to be sent on one stream; more means the connection is too slow to be of use.
pub(crate) const OUTBOX: usize = 4_096;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// What the agent hears of the connection.
pub(crate) enum LinkEvent {
    /// It stands; the agent answers with what to send.
    Up {
        channel: Channel,
        reply: oneshot::Sender<Outgoing>,
    },
    Session(ControlMessage),
    Ads(DeltaDiscoveryResponse),
    /// It ended, or did not come about.
    Down {
        reason: String,
    },
}

/// What the agent sends.
pub(crate) struct Outgoing {
    pub(crate) session: mpsc::Receiver<AgentMessage>,
    pub(crate) ads: mpsc::Receiver<DeltaDiscoveryRequest>,
}

/// How to connect now: asked anew for each try, since certificates and bundles change.
pub(crate) struct Target {
    pub(crate) addresses: Vec<HostPort>,
    pub(crate) connector: ControlConnector,
}

/// Keeps a connection up for as long as somebody listens to `events`.
pub(crate) async fn run(
    mut target: impl FnMut() -> Option<Target>,
    events: mpsc::Sender<LinkEvent>,
) {
    let mut wait = FIRST_RETRY;
    loop {
        let reason = match connect(target()).await {
            Ok(channel) => {
                wait = FIRST_RETRY;
                converse(channel, &events).await
            }
            Err(reason) => reason,
        };
        if events.send(LinkEvent::Down { reason }).await.is_err() {
            return;
        }
        // Jitter over the whole wait, so that a thousand agents do not come back in one instant.
        tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
}

async fn connect(target: Option<Target>) -> Result<Channel, String> {
    let target = target.ok_or("the agent's certificate cannot be used")?;
    dial::dial_any(&target.addresses, &target.connector)
        .await
        .map_err(|error| error.to_string())
}

/// Runs both streams until one of them ends; says why.
async fn converse(channel: Channel, events: &mpsc::Sender<LinkEvent>) -> String {
    let (reply, outgoing) = oneshot::channel();
    if events
        .send(LinkEvent::Up {
            channel: channel.clone(),
            reply,
        })
        .await
        .is_err()
    {
        return "the agent stops".into();
    }
    let Ok(Outgoing { session, ads }) = outgoing.await else {
        return "the agent stops".into();
    };
    tokio::select! {
        reason = session_stream(channel.clone(), session, events) => reason,
        reason = ads_stream(channel, ads, events) => reason,
    }
}

async fn session_stream(
    channel: Channel,
    outgoing: mpsc::Receiver<AgentMessage>,
    events: &mpsc::Sender<LinkEvent>,
) -> String {
    let mut incoming = match AgentClient::new(channel)
        .session(ReceiverStream::new(outgoing))
        .await
    {
        Ok(answer) => answer.into_inner(),
        Err(status) => return refusal("the session", &status),
    };
    loop {
        match incoming.next().await {
            Some(Ok(message)) => {
                if events.send(LinkEvent::Session(message)).await.is_err() {
                    return "the agent stops".into();
                }
            }
            Some(Err(status)) => return refusal("the session", &status),
            None => return "the control plane ended the session".into(),
        }
    }
}

async fn ads_stream(
    channel: Channel,
    outgoing: mpsc::Receiver<DeltaDiscoveryRequest>,
    events: &mpsc::Sender<LinkEvent>,
) -> String {
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let mut incoming = match client
        .delta_aggregated_resources(ReceiverStream::new(outgoing))
        .await
    {
        Ok(answer) => answer.into_inner(),
        Err(status) => return refusal("discovery", &status),
    };
    loop {
        match incoming.next().await {
            Some(Ok(message)) => {
                if events.send(LinkEvent::Ads(message)).await.is_err() {
                    return "the agent stops".into();
                }
            }
            Some(Err(status)) => return refusal("discovery", &status),
            None => return "the control plane ended discovery".into(),
        }
    }
}

fn refusal(what: &str, status: &tonic::Status) -> String {
    format!("{what} ended: {:?}: {}", status.code(), status.message())
}
