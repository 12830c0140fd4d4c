//! The refusals of this proxy, remembered for people; and the documents that say what explains one.
//!
//! Names in documents are stable: the CLI, the console and scripts read them.
//! Invariant: at most [`MAX_REFUSALS`] are remembered, in shares; how many were forgotten is counted.

use std::time::{Duration, SystemTime};

use leno_dataplane::{Chain, Out, RefusalRecord, Remembered, Seen};
use leno_ir::{Health, Provenance};
use leno_types::{ServiceName, WorkloadUid};
use serde_json::{Value, json};

/// Refusals kept for people; the oldest of whoever has most of them makes room.
const MAX_REFUSALS: usize = 512;
/// Kinds of refusals of one list.
const MAX_KINDS: usize = 64;
/// Refusals of one answer: an id that was cut short may mean several.
const MAX_FOUND: usize = 8;

/// The latest refusals.
pub(crate) struct Refusals {
    kept: Remembered,
    forgotten: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            kept: Remembered::new(MAX_REFUSALS),
            forgotten: 0,
        }
    }
}

impl Refusals {
    /// Takes new ones in.
    pub(crate) fn take(&mut self, new: Vec<RefusalRecord>) {
        for refusal in new {
            self.forgotten += u64::from(self.kept.take(refusal).is_some());
        }
    }

    /// How many had to make room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// All of them, the newest last.
    pub(crate) fn all(&self) -> impl Iterator<Item = &RefusalRecord> {
        self.kept.all()
    }

    /// Those whose id begins so, the newest first.
    pub(crate) fn find(&self, id: &str) -> Vec<&RefusalRecord> {
        let found = self.kept.all().rev();
        let found = found.filter(|of| format!("{:016x}", of.id).starts_with(id));
        found.take(MAX_FOUND).collect()
    }

    /// One document for each kind: who was refused what, why, how often, and which was the last.
    pub(crate) fn kinds(&self, most: usize, named: impl Fn(WorkloadUid) -> String) -> Vec<Value> {
        struct Group<'a> {
            last: &'a RefusalRecord,
            caller: String,
            program: Option<String>,
            to: String,
            count: u64,
        }
        let mut groups: Vec<Group<'_>> = Vec::new();
        // What the other side refused is told by that side.
        for refusal in self.kept.all().rev().filter(|refusal| !refusal.by_peer) {
            let caller = account_of(refusal).unwrap_or_else(|| caller_of(refusal, &named));
            let program = program_of(refusal, &named);
            let to = to_of(refusal, &named);
            let known = groups.iter().position(|group| {
                let last = group.last;
                group.caller == caller
                    && group.program == program
                    && group.to == to
                    && last.reason == refusal.reason
                    && last.outbound == refusal.outbound
                    && last.rule == refusal.rule
            });
            match known {
                Some(at) => groups[at].count += 1,
                None if groups.len() < most.min(MAX_KINDS) => groups.push(Group {
                    last: refusal,
                    caller,
                    program,
                    to,
                    count: 1,
                }),
                None => {}
            }
        }
        let document = |group: &Group<'_>| {
            json!({
                "caller": group.caller,
                "program": group.program,
                "to": group.to,
                "reason": group.last.reason.code(),
                "text": group.last.reason.text(),
                "detail": group.last.detail,
                "direction": direction(group.last),
                "rule": group.last.chain.rule.as_ref().map(provenance),
                "count": group.count,
                "id": format!("{:016x}", group.last.id),
                "at_ms": millis(group.last.at),
            })
        };
        groups.iter().map(document).collect()
    }
}

/// The program of this host that called: several may have one account.
fn program_of(refusal: &RefusalRecord, named: impl Fn(WorkloadUid) -> String) -> Option<String> {
    let uid = refusal.workload.filter(|_| refusal.outbound)?;
    // Who has ended has no name any more.
    Some(named(uid)).filter(|name| *name != uid.to_string())
}

/// Who called: a workload of this host, or whom the caller proved to be, or where it came from.
fn caller_of(refusal: &RefusalRecord, named: impl Fn(WorkloadUid) -> String) -> String {
    if let (true, Some(uid)) = (refusal.outbound, refusal.workload) {
        let name = named(uid);
        // Who has ended has no name any more, but an account.
        if refusal.caller.is_none() || name != uid.to_string() {
            return name;
        }
    }
    account_of(refusal).unwrap_or_else(|| match refusal.from {
        Some(from) => from.ip().to_string(),
        None => "unknown".into(),
    })
}

/// Whom the caller proved to be: what either side knows of it, and what policies name.
fn account_of(refusal: &RefusalRecord) -> Option<String> {
    let identity = refusal.caller.as_ref()?;
    let account = identity.service_account().unwrap_or("-");
    Some(format!("{}/{account}", identity.namespace().unwrap_or("-")))
}

/// What was asked for: the service and its port, or the workload of this host, otherwise the address.
fn to_of(refusal: &RefusalRecord, named: impl Fn(WorkloadUid) -> String) -> String {
    let own = refusal.workload.filter(|_| !refusal.outbound);
    match (&refusal.chain.called, &refusal.service, own) {
        (Some((service, port)), ..) => format!("{service}:{port}"),
        (None, Some(service), _) => service.to_string(),
        (None, None, Some(uid)) => named(uid),
        (None, None, None) => match refusal.destination {
            Some(address) => address.to_string(),
            None => "unknown".into(),
        },
    }
}

fn direction(refusal: &RefusalRecord) -> &'static str {
    if refusal.outbound {
        "outbound"
    } else {
        "inbound"
    }
}

/// Everything about one refusal.
pub(crate) fn document(refusal: &RefusalRecord, named: impl Fn(WorkloadUid) -> String) -> Value {
    let Chain {
        rule,
        allowing,
        called,
        backend,
        endpoints,
        more,
        request_timeout,
        try_timeout,
        elapsed,
    } = &*refusal.chain;
    let service = |of: &(ServiceName, u16)| json!({"service": of.0.to_string(), "port": of.1});
    json!({
        "id": format!("{:016x}", refusal.id),
        "at_ms": millis(refusal.at),
        "reason": refusal.reason.code(),
        "text": refusal.reason.text(),
        "status": refusal.reason.status(),
        "direction": direction(refusal),
        "refused_by": if refusal.by_peer { "the other side" } else { "this side" },
        "detail": refusal.detail,
        "workload": refusal.workload.map(|uid| json!({"uid": uid.to_string(), "name": named(uid)})),
        "caller": {
            "name": caller_of(refusal, &named),
            "identity": refusal.caller.as_ref().map(ToString::to_string),
            "address": refusal.from.map(|from| from.to_string()),
        },
        "to": to_of(refusal, &named),
        "destination": refusal.destination.map(|of| of.to_string()),
        "called": called.as_ref().map(service),
        "rule": rule.as_ref().map(provenance),
        "allowing": allowing.iter().map(provenance).collect::<Vec<_>>(),
        "backend": backend.as_ref().map(|of| json!({
            "service": of.service.to_string(), "port": of.port, "weight": of.weight, "of": of.of, "field": of.field,
        })),
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "more_endpoints": more,
        "request_timeout_ms": request_timeout.map(ms),
        "try_timeout_ms": try_timeout.map(ms),
        "elapsed_ms": elapsed.map(ms),
        "config_version": &*refusal.config_version,
    })
}

/// An endpoint as one proxy sees it.
pub(crate) fn endpoint(seen: &Seen) -> Value {
    let Seen {
        uid,
        name,
        namespace,
        identity,
        address,
        health,
        pending,
        failures,
        fault,
        ejected,
        unreachable,
        tried,
    } = seen;
    let out = |of: &Out| {
        let fault = of.fault.map(|fault| fault.to_string());
        json!({"since_ms": ms(of.since), "left_ms": ms(of.left), "failures": of.failures, "fault": fault})
    };
    json!({
        "uid": uid.to_string(),
        "name": name,
        "namespace": namespace,
        "identity": identity.as_str(),
        "address": address.map(|address| address.to_string()),
        "health": match health {
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
            Health::Unknown => "unknown",
        },
        "pending": pending,
        "failures": failures,
        "fault": fault,
        "ejected": ejected.as_ref().map(out),
        "unreachable": unreachable.as_ref().map(out),
        "tried": tried,
    })
}

/// A rule, with the place it was written at.
fn provenance(of: &Provenance) -> Value {
    let Provenance {
        kind,
        namespace,
        name,
        uid,
        generation,
        field_path,
        source,
    } = of;
    json!({"kind": kind, "namespace": namespace, "name": name, "uid": uid, "generation": generation,
        "field": field_path, "source": source})
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, ms)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use leno_types::Refusal;

    use super::*;

    fn refusal(id: u64, reason: Refusal) -> RefusalRecord {
        RefusalRecord {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(id),
            id,
            reason,
            workload: None,
            outbound: false,
            caller: Some("spiffe://d/ns/shop/sa/web".parse().unwrap()),
            destination: Some("10.0.0.5:8080".parse().unwrap()),
            service: None,
            detail: String::new(),
            rule: String::new(),
            from: None,
            by_peer: false,
            config_version: "7".into(),
            chain: Box::default(),
        }
    }

    #[test]
    fn the_newest_are_kept_and_what_is_forgotten_is_counted() {
        let mut refusals = Refusals::default();
        let many = MAX_REFUSALS as u64 + 3;
        refusals.take((0..many).map(|id| refusal(id, Refusal::Denied)).collect());
        assert_eq!(refusals.all().count(), MAX_REFUSALS);
        assert_eq!(refusals.forgotten(), 3);
        assert!(refusals.find("0000000000000002").is_empty());
        assert_eq!(refusals.find("0000000000000003").len(), 1);
        assert_eq!(
            refusals.find("00000000").len(),
            MAX_FOUND,
            "cut short, it means several"
        );
    }

    #[test]
    fn both_ends_have_names_where_there_are_any() {
        let uid = WorkloadUid::from_bytes([7; 16]);
        let name = |of: WorkloadUid| {
            if of == uid {
                "cart-1".to_owned()
            } else {
                of.to_string()
            }
        };
        let mut of = refusal(1, Refusal::Denied);
        assert_eq!(to_of(&of, name), "10.0.0.5:8080");
        of.workload = Some(uid);
        assert_eq!(to_of(&of, name), "cart-1", "a workload of this host");
        of.outbound = true;
        assert_eq!(caller_of(&of, name), "cart-1");
        let ended = |of: WorkloadUid| of.to_string();
        assert_eq!(caller_of(&of, ended), "shop/web");
    }

    #[test]
    fn what_is_alike_is_one_line_of_the_list_with_its_last_id() {
        let mut refusals = Refusals::default();
        let reasons = [Refusal::Denied, Refusal::Overflow, Refusal::Denied];
        let all = reasons.into_iter().zip(1..);
        refusals.take(all.map(|(reason, id)| refusal(id, reason)).collect());
        let kinds = refusals.kinds(10, |uid| uid.to_string());
        assert_eq!(kinds.len(), 2);
        assert_eq!(kinds[0]["reason"], "RBAC");
        assert_eq!(kinds[0]["count"], 2);
        assert_eq!(kinds[0]["id"], "0000000000000003");
        assert_eq!(kinds[0]["caller"], "shop/web");
        assert_eq!(kinds[0]["program"], Value::Null);
        assert_eq!(refusals.kinds(1, |uid| uid.to_string()).len(), 1);
    }

    #[test]
    fn two_programs_of_one_account_are_two_lines_where_their_host_knows_them() {
        let mut refusals = Refusals::default();
        let by = |id: u64, program: u8| {
            let mut refusal = refusal(id, Refusal::Denied);
            refusal.outbound = true;
            refusal.workload = Some(WorkloadUid::from_bytes([program; 16]));
            refusal
        };
        refusals.take(vec![by(1, 1), by(2, 2), by(3, 1)]);
        let name = |uid: WorkloadUid| match uid == WorkloadUid::from_bytes([1; 16]) {
            true => "front-1".to_owned(),
            false => "batch-1".to_owned(),
        };
        let kinds = refusals.kinds(10, name);
        let told: Vec<_> = kinds
            .iter()
            .map(|of| (&of["program"], &of["count"]))
            .collect();
        let (front, batch) = (json!("front-1"), json!("batch-1"));
        assert_eq!(told, [(&front, &json!(2)), (&batch, &json!(1))]);
    }
}
