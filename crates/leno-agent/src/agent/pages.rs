//! What the admin port shows.

use std::time::SystemTime;

use super::Agent;
use crate::{
    admin::{Answer, Ask, Page},
    report::Own,
};

impl Agent {
    pub(super) fn on_ask(&mut self, ask: Ask) {
        let (ok, body) = match ask.page {
            Page::Metrics => (true, self.metrics_page()),
            Page::Ready if self.ready.is_ready() => (true, "ready\n".to_owned()),
            Page::Ready => (false, "waiting for the control plane\n".to_owned()),
            Page::Config => (true, serde_json::json!({"version": self.ads.version(), "resources": self.ads.versions()}).to_string()),
            Page::Certs => (true, self.certificates_page()),
            Page::Refusals => (true, self.refusals_page()),
        };
        // Who asked may have gone.
        drop(ask.reply.send(Answer { ok, body }));
    }

    fn metrics_page(&self) -> String {
        self.reporter.prometheus(&Own {
            nacks: self.ads.nacks(),
            resources: self.ads.held(),
            rules_restored: self.rules_restored,
            readers_ended: self.readers_ended.count(),
            lines_forgotten: self.lines.forgotten(),
            programs_forgotten: self.refused.forgotten(),
        })
    }

    /// When the first certificate of a program ends, seconds since 1970.
    pub(super) fn first_end(&self) -> Option<u64> {
        let certificates = self
            .hosted
            .values()
            .filter_map(|of| of.certificate.as_ref());
        certificates.map(|of| unix(of.not_after())).min()
    }

    pub(super) fn certificates_page(&self) -> String {
        let page = self.hosted.values().filter_map(|hosted| {
            let certificate = hosted.certificate.as_ref()?;
            Some(serde_json::json!({
                "uid": hosted.uid.to_string(),
                "workload": hosted.name,
                "identity": certificate.identity().as_str(),
                "serial": certificate.serial(),
                "not_before": unix(certificate.not_before()),
                "not_after": unix(certificate.not_after()),
            }))
        });
        serde_json::Value::Array(page.collect()).to_string()
    }

    pub(super) fn refusals_page(&self) -> String {
        let page = self.reporter.refusals().all().map(|refusal| {
            serde_json::json!({
                "at": refusal.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
                "id": format!("{:016x}", refusal.id),
                "reason": refusal.reason.code(),
                "text": refusal.reason.text(),
                "direction": if refusal.outbound { "outbound" } else { "inbound" },
                "caller": refusal.caller.as_ref().map(ToString::to_string),
                "destination": refusal.destination.map(|of| of.to_string()),
                "service": refusal.service.as_ref().map(ToString::to_string),
                "detail": refusal.detail,
                "rule": refusal.rule,
            })
        });
        serde_json::Value::Array(page.collect()).to_string()
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
