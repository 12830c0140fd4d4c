//! Certificates: asked for in time, taken when they come.

use std::time::{Instant, SystemTime};

use leno_dataplane::Update;
use leno_types::WorkloadUid;

use super::{Agent, Input};
use crate::certificates::{self, Issued, Renewal};

impl Agent {
    /// Asks for every certificate that is due.
    pub(super) fn renew(&mut self) {
        let Some(channel) = self.up.as_ref().map(|up| up.channel.clone()) else {
            return;
        };
        let (now, tick) = (SystemTime::now(), Instant::now());
        let domain = self.membership.borrow().trust_domain.clone();
        for hosted in self.hosted.values_mut() {
            if hosted.renewal.take(now, tick) {
                hosted.generation += 1;
                let work = certificates::sign_workload(
                    channel.clone(),
                    hosted.uid,
                    hosted.generation,
                    domain.clone(),
                );
                let (uid, inputs) = (hosted.uid, self.inputs.clone());
                // Without a ceiling a task is never refused; without the loop nobody needs the certificate.
                let spawned = self.scope.spawn("certificate", async move {
                    drop(
                        inputs
                            .send(Input::Workload {
                                uid,
                                issued: work.await,
                            })
                            .await,
                    );
                });
                debug_assert!(spawned.is_ok(), "a scope without a ceiling refuses nothing");
            }
        }
        if self.agent_renewal.take(now, tick) {
            let (work, inputs) = (
                certificates::renew_agent(channel, domain),
                self.inputs.clone(),
            );
            let spawned = self.scope.spawn("agent certificate", async move {
                drop(inputs.send(Input::Agent(work.await)).await);
            });
            debug_assert!(spawned.is_ok(), "a scope without a ceiling refuses nothing");
        }
    }

    pub(super) fn on_input(&mut self, input: Input) {
        match input {
            Input::Workload {
                uid,
                issued: Ok(issued),
            } => self.on_issued(uid, issued),
            Input::Workload {
                uid,
                issued: Err(reason),
            } => {
                if let Some(hosted) = self.hosted.get_mut(&uid) {
                    tracing::warn!(
                        workload = hosted.name,
                        reason,
                        "no certificate came; it is asked for again"
                    );
                    hosted.renewal.failed(Instant::now());
                }
            }
            Input::Agent(Ok(issued)) => {
                self.agent_renewal = Renewal::of_agent(&issued.certificate, fastrand::f64());
                let mut membership = self.membership.borrow_mut();
                (membership.key, membership.certificate, membership.bundle) =
                    (issued.key, issued.certificate, issued.bundle);
                if let Err(error) = membership.save(&self.config.data_dir) {
                    tracing::error!(%error, "the agent's new certificate cannot be kept");
                }
            }
            Input::Agent(Err(reason)) => {
                tracing::warn!(
                    reason,
                    "the agent's certificate was not renewed; it is asked for again"
                );
                self.agent_renewal.failed(Instant::now());
            }
        }
    }

    pub(super) fn on_issued(&mut self, uid: WorkloadUid, issued: Issued) {
        let Some(hosted) = self.hosted.get_mut(&uid) else {
            return;
        };
        if issued.certificate.identity() != &hosted.identity {
            tracing::error!(workload = hosted.name, got = %issued.certificate.identity(), "the certificate is for somebody else; it is not used");
            return hosted.renewal.failed(Instant::now());
        }
        hosted.renewal = Renewal::of(&issued.certificate, fastrand::f64());
        hosted.key = Some(issued.key);
        hosted.certificate = Some(issued.certificate.clone());
        hosted.bundle = Some(issued.bundle.clone());
        self.dirty_workloads = true;
        if hosted.told {
            self.worker.send(Update::Certificate {
                uid,
                certificate: issued.certificate,
                bundle: issued.bundle,
            });
        } else {
            self.tell_if_ready(uid);
        }
    }
}
