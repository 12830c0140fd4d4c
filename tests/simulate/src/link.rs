//! A host's connection to the control plane: made, cut, made again. Its two streams are carried each by itself.

use std::{rc::Rc, time::Duration};

use leno_runtime::Scope;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{
    host::{Cut, Host, OUTBOX},
    sim::Sim,
    site::{Life, Site},
    wire::carry,
};

/// First and longest wait before a new try.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// After so long a control plane learns of a connection that was cut without its knowledge.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Why a connection ended.
enum Ended {
    Dead,
    Cut(Cut),
    Told(Status),
    Over,
}

/// Keeps a host connected for as long as the world lasts.
pub(crate) async fn run(host: Rc<Host>, site: Rc<Site>, scope: Scope, sim: Sim) {
    let mut wait = RETRY.0;
    loop {
        let life = site
            .life()
            .filter(|_| host.powered.get() && !host.apart.get());
        if let Some(life) = life {
            let (welcomed, ended) = converse(&host, &life, &scope, &sim).await;
            if welcomed {
                wait = RETRY.0;
            }
            let why = match ended {
                Ended::Dead => "the control plane is gone".into(),
                Ended::Cut(cut) => format!("{cut:?}"),
                Ended::Told(status) => {
                    if status.code() == Code::PermissionDenied {
                        wait = RETRY.1;
                    }
                    format!("{:?} {}", status.code(), status.message())
                }
                Ended::Over => "a stream ended".into(),
            };
            host.on_down(&why);
        }
        let jitter = sim.dice(|dice| dice.below(1_000));
        let share = 0.5 + f64::from(u32::try_from(jitter).unwrap_or(0)) / 2_000.0;
        tokio::time::sleep(wait.mul_f64(share)).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

async fn converse(host: &Rc<Host>, life: &Rc<Life>, scope: &Scope, sim: &Sim) -> (bool, Ended) {
    let (session, session_out) = mpsc::channel(OUTBOX);
    let (ads, ads_out) = mpsc::channel(OUTBOX);
    let (to_session, session_in) = mpsc::channel(OUTBOX);
    let (to_ads, ads_in) = mpsc::channel(OUTBOX);
    host.cut.send_replace(None);
    host.on_up(session, ads);
    let quality = || host.quality.get();
    let mut welcomed = false;
    let mut cut = host.cut.subscribe();
    let is_cut = async {
        let cut = cut.wait_for(Option::is_some).await;
        cut.ok().and_then(|cut| *cut).unwrap_or(Cut::Clean)
    };
    let (to_session_kept, to_ads_kept) = (to_session.clone(), to_ads.clone());
    let streams = async {
        let up_session = carry(
            ReceiverStream::new(session_out),
            sim.clone(),
            quality,
            |message| to_session.try_send(Ok(message)).is_ok(),
        );
        let up_ads = carry(
            ReceiverStream::new(ads_out),
            sim.clone(),
            quality,
            |message| to_ads.try_send(Ok(message)).is_ok(),
        );
        let down_session = async {
            let inbound = ReceiverStream::new(session_in);
            let said = match life.plane.session(host.who.clone(), inbound).await {
                Ok(said) => said,
                Err(status) => return Ended::Told(status),
            };
            let mut end = Ended::Over;
            let taken = |message| match message {
                Ok(message) => {
                    welcomed = true;
                    host.on_session(message);
                    host.is_up()
                }
                Err(status) => {
                    end = Ended::Told(status);
                    false
                }
            };
            carry(said, sim.clone(), quality, taken).await;
            end
        };
        let down_ads = async {
            let inbound = ReceiverStream::new(ads_in);
            let sent = match life.plane.discovery(host.who.clone(), inbound).await {
                Ok(sent) => sent,
                Err(status) => return Ended::Told(status),
            };
            let mut end = Ended::Over;
            let taken = |response| match response {
                Ok(response) => {
                    host.on_ads(response);
                    host.is_up()
                }
                Err(status) => {
                    end = Ended::Told(status);
                    false
                }
            };
            carry(sent, sim.clone(), quality, taken).await;
            end
        };
        tokio::select! {
            biased;
            ended = down_session => ended,
            ended = down_ads => ended,
            () = up_session => Ended::Over,
            () = up_ads => Ended::Over,
        }
    };
    let ended = tokio::select! {
        biased;
        () = life.dead.cancelled() => Ended::Dead,
        cut = is_cut => Ended::Cut(cut),
        ended = streams => ended,
    };
    if matches!(ended, Ended::Cut(Cut::Silent)) {
        // The control plane hears nothing, and does not know why.
        let dead = life.dead.clone();
        let kept = async move {
            let both = async {
                to_session_kept.closed().await;
                to_ads_kept.closed().await;
            };
            let over = tokio::time::timeout(KEEPALIVE, both);
            let _closed_or_over = dead.run_until_stopped(over).await;
        };
        if scope.spawn("silence", kept).is_err() {
            sim.wrong("too many connections");
        }
    }
    (welcomed, ended)
}

/// Ends when `life` does; of use where something of it is awaited.
pub(crate) async fn while_alive<T>(life: &Life, work: impl Future<Output = T>) -> Option<T> {
    life.dead.run_until_stopped(work).await
}
