//! What `leno check` says of objects that people wrote: whether the mesh took them, and what they refer to is there.

use leno_config::Kind;
use serde_json::Value;

use super::{Check, Finding, ill, well};
use crate::{
    client::Client,
    commands::path_of,
    output::{items, text},
};

const KINDS: [Kind; 5] = [
    Kind::Service,
    Kind::HttpRoute,
    Kind::AccessPolicy,
    Kind::AuthenticationPolicy,
    Kind::HostnameGenerator,
];

/// Every object of which a condition does not hold.
pub(super) async fn objects(client: &Client, findings: &mut Vec<Finding>) {
    let (mut looked_at, mut troubled) = (0_usize, false);
    for kind in KINDS {
        let list = match client.get(&path_of(kind, None, None)).await {
            Ok(list) => list,
            Err(error) => {
                let why = crate::exit::CommandError::from(error).what;
                let what = format!("{} cannot be read", kind.plural());
                findings.push(ill(
                    Check::ObjectsReadable,
                    what,
                    why,
                    "leno get shows them",
                ));
                return;
            }
        };
        for object in items(&list, "/items") {
            looked_at += 1;
            for (condition, message) in failing(object) {
                troubled = true;
                let name = format!(
                    "{} {}/{}",
                    kind.singular(),
                    text(object, "/metadata/namespace"),
                    text(object, "/metadata/name")
                );
                let what = missing(condition, &name);
                findings.push(ill(check(condition), what, message, hint(condition)));
            }
        }
    }
    if looked_at > 0 && !troubled {
        let what = "every object is accepted, and what it refers to is there";
        findings.push(well(Check::ObjectsResolved, what));
    }
}

/// The conditions that do not hold, each message once: every parent of a route has the same to say of its backends.
fn failing(object: &Value) -> Vec<(&str, &str)> {
    let own = items(object, "/status/conditions");
    let parents = items(object, "/status/parents").flat_map(|parent| items(parent, "/conditions"));
    let mut found: Vec<(&str, &str)> = own
        .chain(parents)
        .filter(|condition| text(condition, "/status") == "False")
        // What is not accepted is not programmed either, and says so once.
        .filter(|condition| text(condition, "/reason") != "Invalid")
        .map(|condition| (text(condition, "/type"), text(condition, "/message")))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Whether the mesh took an object and found all that it refers to.
pub(super) fn resolved(object: &Value) -> bool {
    failing(object).is_empty()
}

fn missing(condition: &str, name: &str) -> String {
    match condition {
        "Accepted" => format!("{name} is not accepted"),
        "ResolvedRefs" => format!("what {name} refers to is not there"),
        "Effective" => format!("{name} is not in force everywhere"),
        "Generated" => format!("not every service that {name} means has its name"),
        _ => format!("not every proxy that it concerns runs {name}"),
    }
}

fn check(condition: &str) -> Check {
    match condition {
        "Accepted" => Check::ObjectsAccepted,
        "ResolvedRefs" => Check::ObjectsResolved,
        "Generated" => Check::ObjectsGenerated,
        _ => Check::ObjectsProgrammed,
    }
}

fn hint(condition: &str) -> &'static str {
    match condition {
        "Effective" => {
            "delete it or the older one: of two for the same workloads the oldest decides"
        }
        "Accepted" | "ResolvedRefs" => {
            "mend the reference, or start what it names; leno get services -A shows what there is"
        }
        "Generated" => "leno get services -A -o wide shows which names there are",
        _ => "leno proxy status shows which proxies are away or refuse it",
    }
}
