//! Calls that failed in the last minute, in words, for `leno status` and `leno check`.
//!
//! Owns what counts as trouble: calls that a policy denies are what somebody wrote, and are told, not blamed.

use leno_controlplane::documents::{Edge, EdgeList};
use leno_types::Refusal;

use crate::{client::Client, exit::CommandError, top::ask, view};

/// From this share of failures on a service is said to fail; below it only that some calls did.
const SHARE: f64 = 0.05;
/// Lines of one kind; who has more to look at than this begins with these.
const SHOWN: usize = 20;

/// An edge on which calls failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failing {
    /// Who calls whom.
    pub(super) edge: String,
    /// How many failed, and why.
    pub(super) what: String,
    /// Whether it is more than a policy's denial or a few calls.
    pub(super) trouble: bool,
}

/// Those of the last minute, the worst first.
pub(super) async fn failing(client: &Client) -> Result<Vec<Failing>, CommandError> {
    let path = "/leno/v1/telemetry/edges?window=60s";
    let list: EdgeList = ask(client, path).await?;
    Ok(of(&list.edges))
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
    fn a_mesh_in_which_everything_fails_is_told_in_few_lines() {
        assert_eq!(of(&vec![edge(7, &[]); 500]).len(), SHOWN);
    }
}
