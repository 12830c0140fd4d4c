//! What outlives this process: state for a restart, listeners for a successor.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use leno_dataplane::{AppDial, ListenRole, Update};
use leno_types::WorkloadUid;

use super::Agent;
use crate::{
    certificates::Renewal,
    handover::Inherited,
    host_network::{self, Routes},
    hosted::{self, Hosted},
    local::Connection,
    protocol::Why,
    saved::{self, Kept, SavedWorkload},
};

/// What could not be written for a restart is tried again after so long.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

impl Agent {
    /// Serves on what a predecessor of this agent served.
    pub(super) fn restore(&mut self, kept: Kept) {
        for workload in kept.left {
            tracing::info!(
                workload = workload.name,
                "a workload of this host's former membership is registered anew"
            );
            host_network::forget(&workload.uid);
            self.take_up_way_back(&workload);
        }
        let changes = self.ads.restore(kept.configuration);
        self.routes = Routes::taken_over(saved::load_routes(&self.config.run_dir));
        for workload in kept.workloads {
            self.take_up_way_back(&workload);
            match self.restored(&workload) {
                Ok(hosted) => drop(self.hosted.insert(hosted.uid, hosted)),
                Err(reason) => {
                    tracing::info!(
                        workload = workload.name,
                        reason,
                        "a workload of before cannot be served on; it will be registered anew"
                    );
                    host_network::forget(&workload.uid);
                }
            }
        }
        self.end_way_back();
        // What nobody took is nobody's any more.
        self.inherited = Inherited::default();
        for change in changes {
            self.on_change(change);
        }
        self.tell_version();
    }

    /// A workload that a predecessor hosted, its program expected back.
    fn restored(&mut self, workload: &SavedWorkload) -> Result<Hosted, String> {
        let hosted = read(workload, &self.membership.borrow().trust_domain)?;
        let app = if self.config.sidecar.is_some() {
            AppDial::Marked
        } else {
            AppDial::Handed
        };
        let opened = hosted::opened(
            &workload.start,
            &self.config.addresses,
            workload.ports,
            app,
            &mut self.inherited,
        );
        let mut sockets = opened.map_err(|unfit| unfit.message)?;
        let host = sockets.host.take().map(|prepared| prepared.of(hosted.uid));
        Ok(Hosted {
            sockets: Some(sockets),
            host,
            ..hosted
        })
    }

    /// Writes down for a successor what has changed. What cannot be written is tried again with the next change, or
    /// after a while.
    pub(super) fn save(&mut self) {
        if !self.keeps_state {
            return;
        }
        let run_dir = &self.config.run_dir;
        if std::mem::take(&mut self.dirty_configuration)
            && let Err(error) = saved::save_configuration(run_dir, &self.ads.save())
        {
            tracing::warn!(%error, "the configuration cannot be kept for a restart");
            self.save_again = Some(Instant::now() + SAVE_AGAIN);
        }
        if std::mem::take(&mut self.dirty_workloads) {
            let saved = |hosted: &Hosted| hosted.saved(self.keeps_keys);
            let workloads: Vec<_> = self.hosted.values().filter_map(saved).collect();
            if let Err(error) = saved::save_workloads(run_dir, &workloads) {
                tracing::warn!(%error, "the workloads cannot be kept for a restart");
                self.save_again = Some(Instant::now() + SAVE_AGAIN);
            }
        }
    }

    /// Writes everything anew where it could not be written before.
    pub(super) fn save_late(&mut self, now: Instant) {
        if self.save_again.is_some_and(|at| now >= at) {
            self.save_again = None;
            (self.dirty_configuration, self.dirty_workloads) = (true, true);
        }
        self.save();
    }

    /// Writes down which routes are ours.
    pub(super) fn save_routes(&mut self) {
        if let Err(error) = saved::save_routes(&self.config.run_dir, self.routes.added()) {
            tracing::warn!(%error, "the added routes cannot be written down");
        }
    }

    /// Hands every listener to a successor, and stops.
    pub(super) fn on_takeover(&mut self, connection: Connection) {
        let own = leno_net::process::user();
        let allowed = self
            .callers
            .get(&connection)
            .is_some_and(|caller| caller.user == 0 || caller.user == own);
        if !allowed {
            let text = "only root and the agent's own user may take over from it";
            return self.refuse(connection, Why::Forbidden, text.into());
        }
        tracing::info!("a successor takes over");
        (self.dirty_configuration, self.dirty_workloads) = (true, true);
        self.save();
        self.handed_over.set(true);
        for (message, descriptors) in self.handles.messages() {
            self.send(connection, message, descriptors);
        }
        self.worker.send(Update::Unlisten(ListenRole::Hbone));
        self.stop.trigger();
    }
}

/// Whether programs' keys may be kept in the run directory: only in memory, for they touch no disk (CP3).
pub(super) fn keeps_keys(run_dir: &Path) -> bool {
    match leno_net::memory::is_in_memory(run_dir) {
        Ok(true) => return true,
        Ok(false) => tracing::warn!(
            run_dir = %run_dir.display(),
            "the run directory is on a disk, where no program's key may be: after a restart of this agent its programs wait for the control plane; give a tmpfs (--run-dir)"
        ),
        Err(error) => {
            tracing::warn!(run_dir = %run_dir.display(), %error, "whether the run directory is in memory cannot be told: programs' keys are not kept")
        }
    }
    false
}

/// What was written down of a workload.
fn read(workload: &SavedWorkload, domain: &leno_types::TrustDomain) -> Result<Hosted, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    if workload.key.is_empty() {
        return Err("its key was not kept, as the run directory is on a disk".into());
    }
    let uid: WorkloadUid = workload.uid.parse().map_err(|error| text(&error))?;
    let bundle = leno_tls::TrustBundle::from_pem(domain.clone(), &workload.bundle);
    let bundle = bundle.map_err(|error| text(&error))?;
    let key = leno_tls::PrivateKey::from_pem(&workload.key).map_err(|error| text(&error))?;
    let now = SystemTime::now();
    let certificate =
        leno_tls::WorkloadCertificate::new(Some(uid), &workload.chain, &key, &bundle, 1, now);
    let certificate = certificate.map_err(|error| text(&error))?;
    Ok(Hosted {
        uid,
        identity: workload.identity.parse().map_err(|error| text(&error))?,
        name: workload.name.clone(),
        run_user: workload.run_user,
        start: workload.start.clone(),
        connection: None,
        sockets: None,
        key: Some(key),
        renewal: Renewal::of(&certificate, fastrand::f64()),
        certificate: Some(certificate),
        bundle: Some(bundle),
        own: None,
        generation: 1,
        told: false,
        greeted: false,
        healthy: workload.healthy,
        leaving: false,
        owed: [0; 2],
        host: None,
        foreign: None,
    })
}
