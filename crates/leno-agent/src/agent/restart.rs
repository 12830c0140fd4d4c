//! What outlives this process: state for a restart, listeners for a successor.

use std::time::SystemTime;

use leno_dataplane::{ListenRole, Update};
use leno_types::WorkloadUid;

use super::Agent;
use crate::{certificates::Renewal, hosted::Hosted, local::Connection, saved};

impl Agent {
    pub(super) fn restore(&mut self) {
        let changes = self
            .ads
            .restore(saved::load_configuration(&self.config.run_dir));
        let domain = self.membership.borrow().trust_domain.clone();
        for workload in saved::load_workloads(&self.config.run_dir) {
            match restored(&workload, &domain) {
                Some(hosted) => drop(self.hosted.insert(hosted.uid, hosted)),
                None => tracing::info!(
                    workload = workload.name,
                    "what was left of a workload cannot be used; it will be registered anew"
                ),
            }
        }
        for change in changes {
            self.on_change(change);
        }
    }

    pub(super) fn save(&mut self) {
        let run_dir = &self.config.run_dir;
        if std::mem::take(&mut self.dirty_configuration)
            && let Err(error) = saved::save_configuration(run_dir, &self.ads.save())
        {
            tracing::warn!(%error, "the configuration cannot be kept for a restart");
        }
        if std::mem::take(&mut self.dirty_workloads) {
            let workloads: Vec<_> = self.hosted.values().filter_map(Hosted::saved).collect();
            if let Err(error) = saved::save_workloads(run_dir, &workloads) {
                tracing::warn!(%error, "the workloads cannot be kept for a restart");
            }
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
            return self.refuse(connection, "forbidden".into(), text.into());
        }
        tracing::info!("a successor takes over");
        (self.dirty_configuration, self.dirty_workloads) = (true, true);
        self.save();
        self.handed_over = true;
        for (message, descriptors) in self.handles.messages() {
            self.send(connection, message, descriptors);
        }
        self.worker.send(Update::Unlisten(ListenRole::Hbone));
        self.stop.trigger();
    }
}

/// A workload that a predecessor hosted, its program expected back.
fn restored(workload: &saved::SavedWorkload, domain: &leno_types::TrustDomain) -> Option<Hosted> {
    let uid: WorkloadUid = workload.uid.parse().ok()?;
    let bundle = leno_tls::TrustBundle::from_pem(domain.clone(), &workload.bundle).ok()?;
    let key = leno_tls::PrivateKey::from_pem(&workload.key).ok()?;
    let now = SystemTime::now();
    let certificate =
        leno_tls::WorkloadCertificate::new(Some(uid), &workload.chain, &key, &bundle, 1, now)
            .ok()?;
    Some(Hosted {
        uid,
        identity: workload.identity.parse().ok()?,
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
        healthy: true,
    })
}
