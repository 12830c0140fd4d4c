//! The connection to the control plane: dialled, used until it ends, dialled again.
//!
//! Owns when to try again. What is said on it, and what its end means, is the agent's to decide.

use std::{cell::Cell, time::Duration};

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

use crate::{dial, standing::Lost};

/// Messages that wait to be sent on one stream; more means the connection is too slow to be of use.
pub(crate) const OUTBOX: usize = 4_096;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Who is another control plane may be anybody for a moment, such as a load balancer's default.
const LAST_ANOTHER: Duration = Duration::from_secs(10);
/// Where this host is no member, it is tried in case that people mend it there.
const FIRST_REVOKED: Duration = Duration::from_secs(2);
const LAST_REVOKED: Duration = Duration::from_secs(60);

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
        lost: Lost,
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
    let mut pace = Pace::default();
    loop {
        let welcomed = Cell::new(false);
        let lost = match connect(target()).await {
            Ok(channel) => converse(channel, &events, &welcomed).await,
            Err(lost) => lost,
        };
        let wait = pace.next(&lost, welcomed.get());
        if events.send(LinkEvent::Down { lost }).await.is_err() {
            return;
        }
        // Jitter over the whole wait, so that a thousand agents do not come back in one instant.
        tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

/// How long to wait before the next try: longer each time, until there was a session.
#[derive(Default)]
struct Pace(Duration);

impl Pace {
    fn next(&mut self, lost: &Lost, welcomed: bool) -> Duration {
        let (first, last) = match lost {
            Lost::Away(_) => (FIRST_RETRY, LAST_RETRY),
            Lost::Another(_) => (FIRST_RETRY, LAST_ANOTHER),
            Lost::Revoked(_) => (FIRST_REVOKED, LAST_REVOKED),
        };
        let wait = if welcomed {
            first
        } else {
            self.0.clamp(first, last)
        };
        self.0 = wait * 2;
        wait
    }
}

async fn connect(target: Option<Target>) -> Result<Channel, Lost> {
    let unusable = || Lost::Away("the agent's certificate cannot be used".into());
    let target = target.ok_or_else(unusable)?;
    dial::dial_any(&target.addresses, &target.connector)
        .await
        .map_err(|error| Lost::of_dial(&error))
}

fn stops() -> Lost {
    Lost::Away("the agent stops".into())
}

/// Runs both streams until one of them ends; says why.
async fn converse(
    channel: Channel,
    events: &mpsc::Sender<LinkEvent>,
    welcomed: &Cell<bool>,
) -> Lost {
    let (reply, outgoing) = oneshot::channel();
    if events
        .send(LinkEvent::Up {
            channel: channel.clone(),
            reply,
        })
        .await
        .is_err()
    {
        return stops();
    }
    let Ok(Outgoing { session, ads }) = outgoing.await else {
        return stops();
    };
    tokio::select! {
        lost = session_stream(channel.clone(), session, events, welcomed) => lost,
        lost = ads_stream(channel, ads, events) => lost,
    }
}

async fn session_stream(
    channel: Channel,
    outgoing: mpsc::Receiver<AgentMessage>,
    events: &mpsc::Sender<LinkEvent>,
    welcomed: &Cell<bool>,
) -> Lost {
    let mut incoming = match AgentClient::new(channel)
        .session(ReceiverStream::new(outgoing))
        .await
    {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Lost::of_status("the session", &status),
    };
    loop {
        match incoming.next().await {
            Some(Ok(message)) => {
                welcomed.set(true);
                if events.send(LinkEvent::Session(message)).await.is_err() {
                    return stops();
                }
            }
            Some(Err(status)) => return Lost::of_status("the session", &status),
            None => return Lost::Away("the control plane ended the session".into()),
        }
    }
}

async fn ads_stream(
    channel: Channel,
    outgoing: mpsc::Receiver<DeltaDiscoveryRequest>,
    events: &mpsc::Sender<LinkEvent>,
) -> Lost {
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let mut incoming = match client
        .delta_aggregated_resources(ReceiverStream::new(outgoing))
        .await
    {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Lost::of_status("discovery", &status),
    };
    loop {
        match incoming.next().await {
            Some(Ok(message)) => {
                if events.send(LinkEvent::Ads(message)).await.is_err() {
                    return stops();
                }
            }
            Some(Err(status)) => return Lost::of_status("discovery", &status),
            None => return Lost::Away("the control plane ended discovery".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn who_is_no_member_tries_seldom_and_who_was_welcome_at_once() {
        let away = Lost::Away(String::new());
        let revoked = Lost::of_status("the session", &Status::permission_denied(""));
        let another = Lost::Another(String::new());
        let mut pace = Pace::default();
        assert_eq!(pace.next(&away, false), FIRST_RETRY);
        assert_eq!(pace.next(&away, false), FIRST_RETRY * 2);
        assert_eq!(pace.next(&revoked, false), FIRST_REVOKED);
        assert_eq!(pace.next(&revoked, false), FIRST_REVOKED * 2);
        let waits = (0..10).map(|_| pace.next(&revoked, false));
        assert_eq!(waits.max(), Some(LAST_REVOKED));
        assert_eq!(pace.next(&another, false), LAST_ANOTHER);
        assert_eq!(pace.next(&away, false), LAST_RETRY);
        assert_eq!(pace.next(&away, true), FIRST_RETRY);
    }
}
