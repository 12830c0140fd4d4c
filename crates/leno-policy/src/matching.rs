//! Which route a request takes, and which of its backends.
//!
//! Routes arrive ordered by the compiler (Gateway API precedence), so matching is: the first that fits.

use leno_ir::{Backend, HeaderMatch, PathMatch, Route, RouteMatch, ValueMatch};

/// The header fields of a request.
pub trait Headers {
    /// The value of the field with this lower-case name; of several, the first.
    fn get(&self, lower_name: &str) -> Option<&[u8]>;
}

/// What of a request the evaluator looks at.
pub struct RequestView<'a> {
    /// The method, as sent (methods are case-sensitive, RFC 9110 9.1).
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Header fields.
    pub headers: &'a dyn Headers,
}

/// The first route for this service port that the request matches.
#[must_use]
pub fn route<'r>(routes: &'r [Route], port: u16, request: &RequestView<'_>) -> Option<&'r Route> {
    let (path, query) = request.path.split_once('?').unwrap_or((request.path, ""));
    routes.iter().find(|route| {
        (route.ports.is_empty() || route.ports.contains(&port))
            && (route.matches.is_empty()
                || route
                    .matches
                    .iter()
                    .any(|of| matches(of, request, path, query)))
    })
}

/// The backend a request goes to: `random`, uniform over all of `u32`, falls into the backends' shares by weight.
/// `None` when no backend has any weight.
#[must_use]
pub fn backend(route: &Route, random: u32) -> Option<&Backend> {
    if let [only] = route.backends.as_slice() {
        return (only.weight > 0).then_some(only);
    }
    let total: u64 = route
        .backends
        .iter()
        .map(|backend| u64::from(backend.weight))
        .sum();
    // Multiply and shift: uniform over 0..total without a division's bias towards low shares.
    let mut point = u64::try_from((u128::from(random) * u128::from(total)) >> 32).ok()?;
    route.backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let inside = point < weight;
        point = point.saturating_sub(weight);
        inside
    })
}

fn matches(of: &RouteMatch, request: &RequestView<'_>, path: &str, query: &str) -> bool {
    of.method
        .as_deref()
        .is_none_or(|method| method == request.method)
        && of.path.as_ref().is_none_or(|of| path_matches(of, path))
        && of
            .headers
            .iter()
            .all(|of| header_matches(of, request.headers))
        && of.query.iter().all(|of| query_matches(of, query))
}

fn path_matches(of: &PathMatch, path: &str) -> bool {
    match of {
        PathMatch::Exact(exact) => path == exact,
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

fn header_matches(of: &HeaderMatch, headers: &dyn Headers) -> bool {
    let ValueMatch::Exact(expected) = &of.value;
    headers
        .get(&of.name)
        .is_some_and(|value| value == expected.as_bytes())
}

/// Gateway API: of several parameters with the name, the first counts.
fn query_matches(of: &HeaderMatch, query: &str) -> bool {
    let ValueMatch::Exact(expected) = &of.value;
    let first = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| *name == of.name);
    first.is_some_and(|(_, value)| value == expected)
}

#[cfg(test)]
mod tests;
