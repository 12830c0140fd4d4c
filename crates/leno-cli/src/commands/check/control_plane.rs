//! What the control plane says of itself: version, clock, certificates, store, compiler, ceilings.

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Check, Finding, ill, told, well};
use crate::{output::text, run::humanize};

/// Clocks further apart than this are worth a word, in seconds.
const APART: i64 = 5;
/// Certificates are backdated by so much, in seconds: beyond it a new one is not valid yet to the other side.
const TOO_FAR_APART: i64 = 300;
/// The intermediate (90 days) renews itself at half its life: less left than this, it did not. In seconds.
const NOT_RENEWED: u64 = 30 * 86_400;
/// A root that ends sooner is to be replaced. In seconds.
const REPLACE_ROOT: u64 = 180 * 86_400;
/// The store's disk is nearly full with less than this, in bytes.
const LITTLE_DISK: u64 = 64 << 20;

/// Every finding of the document.
pub(super) fn findings(vitals: &Value, now: OffsetDateTime) -> Vec<Finding> {
    let mut findings = vec![
        version(text(vitals, "/version"), env!("CARGO_PKG_VERSION")),
        clock(text(vitals, "/now"), now),
    ];
    findings.extend(intermediate(text(vitals, "/intermediate_not_after"), now));
    findings.extend(root(text(vitals, "/root_not_after"), now));
    let number = |name: &str| vitals.get(name).and_then(Value::as_u64);
    findings.extend(number("store_free_bytes").map(store_room));
    findings.push(store_written(number("store_full").unwrap_or(0)));
    let revisions = (number("stored_revision"), number("compiled_revision"));
    findings.push(compiled(revisions.0.unwrap_or(0), revisions.1.unwrap_or(0)));
    findings.push(divergence(number("divergences").unwrap_or(0)));
    findings.push(ceilings(vitals.get("ceilings")));
    findings
}

fn version(there: &str, here: &str) -> Finding {
    if there == here {
        return well(
            Check::ControlPlaneVersion,
            format!("it is of this leno's version ({here})"),
        );
    }
    told(
        Check::ControlPlaneVersion,
        "it is of another version than this leno",
        format!("{there} there, {here} here: what only the newer one knows is not shown"),
    )
}

fn clock(there: &str, here: OffsetDateTime) -> Finding {
    let Ok(there) = OffsetDateTime::parse(there, &Rfc3339) else {
        return told(
            Check::ControlPlaneClock,
            "its clock was not read",
            "it did not say what time it is",
        );
    };
    let ahead = (there - here).whole_seconds();
    let apart = humanize(ahead.unsigned_abs());
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let why = format!("it is {apart} {way} this machine's");
    if ahead.abs() > TOO_FAR_APART {
        return ill(
            Check::ControlPlaneClock,
            "its clock and this machine's are far apart",
            format!("{why}: certificates that it makes are not valid here, or the other way round"),
            "set the wrong one right: timedatectl set-ntp true",
        );
    }
    if ahead.abs() > APART {
        return told(
            Check::ControlPlaneClock,
            "its clock and this machine's are apart",
            why,
        );
    }
    well(
        Check::ControlPlaneClock,
        "its clock and this machine's agree",
    )
}

/// Seconds until then.
fn left(end: &str, now: OffsetDateTime) -> Option<u64> {
    let end = OffsetDateTime::parse(end, &Rfc3339).ok()?;
    Some(u64::try_from((end - now).whole_seconds()).unwrap_or(0))
}

fn intermediate(end: &str, now: OffsetDateTime) -> Option<Finding> {
    let left = left(end, now)?;
    let days = left / 86_400;
    Some(if left < NOT_RENEWED {
        told(
            Check::Intermediate,
            format!("the intermediate certificate ends in {}", humanize(left)),
            "it renews itself at half its life (--intermediate-ttl): if that is longer than this, its log says why it did not",
        )
    } else {
        well(
            Check::Intermediate,
            format!("the intermediate certificate is good for {days} days, and renews itself"),
        )
    })
}

fn root(end: &str, now: OffsetDateTime) -> Option<Finding> {
    let left = left(end, now)?;
    let days = left / 86_400;
    Some(if left < REPLACE_ROOT {
        told(
            Check::Root,
            format!("the root certificate ends in {days} days"),
            "nothing of this mesh is trusted after it: have its successor ready before then",
        )
    } else {
        well(
            Check::Root,
            format!("the root certificate is good for {days} days"),
        )
    })
}

fn store_room(free: u64) -> Finding {
    let room = free >> 20;
    if free < LITTLE_DISK {
        return ill(
            Check::StoreRoom,
            "the store's disk is nearly full",
            format!("{room} MiB are left: when none is, changes are refused (traffic goes on)"),
            "free some on the control plane's machine; it goes on by itself",
        );
    }
    well(
        Check::StoreRoom,
        format!("the store's disk has {room} MiB left"),
    )
}

fn store_written(full: u64) -> Finding {
    if full == 0 {
        return well(
            Check::StoreWritten,
            "the store took everything that was written",
        );
    }
    told(
        Check::StoreWritten,
        "changes were refused for a full disk",
        format!("{full} since it started; who made them was told"),
    )
}

fn compiled(stored: u64, compiled: u64) -> Finding {
    if compiled >= stored {
        return well(
            Check::Compiled,
            format!("everything stored is compiled (revision {stored})"),
        );
    }
    told(
        Check::Compiled,
        "not everything stored is compiled yet",
        format!("revision {compiled} of {stored}: if that lasts, its machine is too busy"),
    )
}

fn divergence(divergences: u64) -> Finding {
    if divergences == 0 {
        return well(
            Check::Divergence,
            "proxies were told what a fresh compilation says",
        );
    }
    ill(
        Check::Divergence,
        "proxies were told something else than a fresh compilation says",
        format!("{divergences} times since it started, mended each time: a fault of Leno"),
        "please report it, with the documents (leno get -A -o yaml) and the control plane's log",
    )
}

fn ceilings(met: Option<&Value>) -> Finding {
    let met: Vec<String> = met
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if met.is_empty() {
        return well(Check::Ceilings, "none of its ceilings was met");
    }
    told(
        Check::Ceilings,
        "ceilings were met since it started",
        format!(
            "{}: who met one was refused, others were served (docs/limits.md)",
            met.join(", ")
        ),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

    /// The ids of what is not well, in order; trouble with a mark.
    fn found(change: (&str, Value)) -> Vec<String> {
        let mut vitals = json!({"version": env!("CARGO_PKG_VERSION"), "now": "2026-11-21T12:00:01Z",
            "since": "2026-11-20T12:00:00Z", "root_not_after": "2036-11-20T12:00:00Z",
            "intermediate_not_after": "2027-02-01T12:00:00Z", "stored_revision": 7, "compiled_revision": 7,
            "store_free_bytes": 1_u64 << 30, "store_full": 0, "divergences": 0, "ceilings": {}});
        vitals[change.0] = change.1;
        let found = findings(&vitals, NOW);
        assert_eq!(found.len(), 9, "each is looked at");
        let shown = found.iter().filter_map(|of| match of.state {
            super::super::State::Well => None,
            super::super::State::Told(_) => Some(of.check.id().to_owned()),
            super::super::State::Ill { .. } => Some(format!("{}!", of.check.id())),
        });
        shown.collect()
    }

    #[test]
    fn each_thing_that_is_wrong_is_found_alone() {
        for (change, expected) in [
            (("version", json!(env!("CARGO_PKG_VERSION"))), None),
            (("version", json!("99.0.0")), Some("control-plane-version")),
            (
                ("now", json!("2026-11-21T12:01:00Z")),
                Some("control-plane-clock"),
            ),
            (
                ("now", json!("2026-11-21T11:00:00Z")),
                Some("control-plane-clock!"),
            ),
            (
                ("intermediate_not_after", json!("2026-11-25T12:00:00Z")),
                Some("control-plane-intermediate"),
            ),
            (
                ("root_not_after", json!("2027-01-01T12:00:00Z")),
                Some("control-plane-root"),
            ),
            (
                ("store_free_bytes", json!(1 << 20)),
                Some("control-plane-store-room!"),
            ),
            (
                ("store_full", json!(2)),
                Some("control-plane-store-written"),
            ),
            (
                ("stored_revision", json!(9)),
                Some("control-plane-compiled"),
            ),
            (("divergences", json!(1)), Some("control-plane-divergence!")),
            (
                ("ceilings", json!({"leno_api_watches_exceeded_total": 3})),
                Some("control-plane-ceilings"),
            ),
        ] {
            let shown = format!("{change:?}");
            assert_eq!(
                found(change),
                expected.into_iter().collect::<Vec<_>>(),
                "{shown}"
            );
        }
    }
}
