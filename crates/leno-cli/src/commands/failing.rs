//! Calls that failed in the last minute, in words, for `leno status` and `leno check`.
//!
//! Owns what counts as trouble: calls that a policy denies are what somebody wrote, and are told, not blamed.

use std::{collections::BTreeSet, net::SocketAddr};

use leno_controlplane::documents::{Edge, EdgeList};
use leno_types::{Refusal, deployed_name};
use serde_json::Value;

use super::explain::{REFUSALS, cause};
use crate::{
    client::Client,
    exit::CommandError,
    output::{items, text},
    top::ask,
    view,
};

/// From this share of failures on a service is said to fail; below it only that some calls did.
const SHARE: f64 = 0.05;
/// Lines of one kind; who has more to look at than this begins with these.
const SHOWN: usize = 20;
/// Of so many the last refusal is explained: each asks the proxies.
const EXPLAINED: usize = 3;

/// An edge on which calls failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failing {
    /// Who calls whom.
    pub(super) edge: String,
    /// How many failed, and why.
    pub(super) what: String,
    /// Whether it is more than a policy's denial or a few calls.
    pub(super) trouble: bool,
    /// Who calls.
    source: String,
    /// Whom it calls.
    destination: String,
    /// The codes of what the mesh refused.
    codes: Vec<String>,
    /// The last of the refusals, and its cause, where a proxy remembers it.
    pub(super) last: Option<Last>,
}

#[cfg(test)]
impl Failing {
    /// One of which nothing more is known.
    pub(super) fn plain(edge: &str, what: &str, trouble: bool) -> Self {
        Self {
            edge: edge.into(),
            what: what.into(),
            trouble,
            source: String::new(),
            destination: String::new(),
            codes: Vec::new(),
            last: None,
        }
    }
}

/// The last refusal of an edge.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Last {
    /// Under which `leno explain` says all of it.
    pub(super) id: String,
    /// Rule, place, endpoint and what happened, in a line.
    pub(super) cause: String,
}

/// Those of the last minute, the worst first.
pub(super) async fn failing(client: &Client) -> Result<Vec<Failing>, CommandError> {
    let path = "/leno/v1/telemetry/edges?window=60s";
    let list: EdgeList = ask(client, path).await?;
    let mut failing = of(&list.edges);
    let explained = failing
        .iter_mut()
        .filter(|of| of.trouble && !of.codes.is_empty());
    let explained: Vec<&mut Failing> = explained.take(EXPLAINED).collect();
    if explained.is_empty() {
        return Ok(failing);
    }
    // What no proxy remembers stays unexplained: that calls fail is told all the same.
    if let Ok(list) = client.get(REFUSALS).await {
        let mut told = BTreeSet::new();
        for one in explained {
            let last = last(client, &list, one).await;
            // One refusal explains one edge: which of two versions it was is not in the list.
            one.last = last.filter(|last| told.insert(last.id.clone()));
        }
    }
    Ok(failing)
}

/// The last refusal of these calls, explained.
async fn last(client: &Client, list: &Value, of: &Failing) -> Option<Last> {
    // The list has the newest first, and of equals the last is taken for the greatest.
    let listed: Vec<&Value> = items(list, "/refusals").collect();
    let nearest = listed
        .into_iter()
        .rev()
        .max_by_key(|refusal| likeness(refusal, of))?;
    if likeness(nearest, of) == 0 {
        return None;
    }
    let id = text(nearest, "/id");
    let answer = client.get(&format!("{REFUSALS}/{id}")).await.ok()?;
    Some(Last {
        id: id.to_owned(),
        cause: cause(answer.pointer("/refusals/0")?)?,
    })
}

/// How surely a refusal is one of these calls; 0 where it may as well be another's. A caller is a program to its own
/// proxy, and to the other an account, which may be called otherwise: then whom it called must do. Where an
/// address was called that is no service's, who called it must.
fn likeness(refusal: &Value, of: &Failing) -> u8 {
    let reason = text(refusal, "/reason");
    if !of.codes.iter().any(|code| code == reason) {
        return 0;
    }
    let caller = text(refusal, "/caller");
    let account = caller.rsplit('/').next().unwrap_or(caller);
    let program = deployed_name(text(refusal, "/program"));
    let calls = program == of.source || account == of.source;
    let called = text(refusal, "/to");
    let is_address = called.parse::<SocketAddr>().is_ok();
    let called = called.rsplit('/').next().unwrap_or(called);
    let service = called.split(':').next().unwrap_or(called);
    let version = of.destination.strip_prefix(service);
    let is_called = version.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    match (calls, is_called) {
        (true, true) => 2,
        (false, true) => 1,
        (true, false) => u8::from(is_address),
        (false, false) => 0,
    }
}

fn of(edges: &[Edge]) -> Vec<Failing> {
    let mut found: Vec<&Edge> = edges.iter().filter(|edge| edge.failures > 0).collect();
    found.sort_by_key(|edge| std::cmp::Reverse((trouble(edge), edge.failures)));
    found.truncate(SHOWN);
    let words = |edge: &&Edge| Failing {
        edge: format!("{} → {}", edge.source, edge.destination),
        what: format!(
            "{} of {} calls in the last minute failed: {}",
            edge.failures,
            edge.requests,
            view::reason(edge)
        ),
        trouble: trouble(edge),
        source: edge.source.clone(),
        destination: edge.destination.clone(),
        codes: {
            let codes = edge.refusals.keys().cloned();
            codes
                .filter(|code| code != Refusal::Denied.code())
                .collect()
        },
        last: None,
    };
    found.iter().map(words).collect()
}

#[expect(clippy::cast_precision_loss, reason = "compared with a share")]
fn trouble(edge: &Edge) -> bool {
    let denied = edge.refusals.get(Refusal::Denied.code()).copied();
    let failed = edge.failures.saturating_sub(denied.unwrap_or(0));
    failed as f64 >= SHARE * edge.requests.max(1) as f64 && failed > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(failures: u64, refusals: &[(&str, u64)]) -> Edge {
        let of = |(code, count): &(&str, u64)| ((*code).to_owned(), *count);
        Edge {
            source: "front".into(),
            destination: "cart".into(),
            protocol: "http/1.1".into(),
            requests: 200,
            failures,
            refusals: refusals.iter().map(of).collect(),
            ..Edge::default()
        }
    }

    #[test]
    fn a_denial_or_a_few_failures_are_told_and_more_is_trouble() {
        let edges = [
            edge(0, &[]),
            edge(200, &[("RBAC", 200)]),
            edge(9, &[]),
            edge(20, &[("UF", 20)]),
        ];
        let found = of(&edges);
        let lines: Vec<(bool, &str)> = found
            .iter()
            .map(|of| (of.trouble, of.what.as_str()))
            .collect();
        let expected = [
            (
                true,
                "20 of 200 calls in the last minute failed: 503 UF 10%",
            ),
            (
                false,
                "200 of 200 calls in the last minute failed: 403 RBAC 100%",
            ),
            (false, "9 of 200 calls in the last minute failed: 5xx 4%"),
        ];
        assert_eq!(lines, expected);
        assert_eq!(found[0].edge, "front → cart");
    }

    #[test]
    fn a_refusal_is_the_edges_by_reason_and_by_whom_it_called() {
        let found = of(&[edge(200, &[("UF", 200)])]);
        let like = |caller: &str, program: Option<&str>, reason: &str, to: &str| {
            let refusal = serde_json::json!({
                "caller": caller, "program": program, "reason": reason, "to": to,
            });
            likeness(&refusal, &found[0])
        };
        let front = Some("front-1a2b");
        assert_eq!(like("default/default", front, "UF", "shop/cart:80"), 2);
        assert_eq!(like("default/front", None, "UF", "shop/cart:80"), 2);
        assert_eq!(like("shop/web", None, "UF", "shop/cart:80"), 1);
        assert_eq!(like("default/default", front, "UF", "10.0.0.9:80"), 1);
        let other = like("default/default", front, "UF", "shop/stock:80");
        assert_eq!(other, 0, "another edge's");
        assert_eq!(like("default/default", front, "UH", "shop/cart:80"), 0);
        assert_eq!(like("default/other", None, "UF", "10.0.0.9:80"), 0);
    }

    #[test]
    fn a_mesh_in_which_everything_fails_is_told_in_few_lines() {
        assert_eq!(of(&vec![edge(7, &[]); 500]).len(), SHOWN);
    }
}
