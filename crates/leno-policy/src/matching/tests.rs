#![allow(clippy::unwrap_used, reason = "a test may panic")]
use proptest::prelude::*;

use super::*;

struct Map(Vec<(&'static str, &'static str)>);

impl Headers for Map {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.as_bytes())
    }
}

fn plain(path: Option<PathMatch>) -> Route {
    Route {
        provenance: leno_ir::Provenance::default(),
        matches: vec![RouteMatch {
            path,
            ..RouteMatch::default()
        }],
        backends: Vec::new(),
        request_timeout: None,
        backend_request_timeout: None,
        ports: Vec::new(),
    }
}

fn hit(route_: &Route, path: &str) -> bool {
    let headers = Map(vec![("x-user", "7")]);
    route(
        std::slice::from_ref(route_),
        80,
        &RequestView {
            method: "GET",
            path,
            headers: &headers,
        },
    )
    .is_some()
}

#[test]
fn a_prefix_matches_whole_segments_only() {
    let route = plain(Some(PathMatch::Prefix("/items".into())));
    for path in ["/items", "/items/", "/items/7", "/items?x=1"] {
        assert!(hit(&route, path), "{path}");
    }
    for path in ["/itemsx", "/item", "/", "/x/items"] {
        assert!(!hit(&route, path), "{path}");
    }
    assert!(hit(
        &plain(Some(PathMatch::Prefix("/".into()))),
        "/anything"
    ));
}

#[test]
fn every_part_of_a_match_must_hold_and_any_match_of_a_route_suffices() {
    let mut route = plain(Some(PathMatch::Exact("/a".into())));
    route.matches[0].headers.push(HeaderMatch {
        name: "x-user".into(),
        value: ValueMatch::Exact("7".into()),
    });
    route.matches[0].query.push(HeaderMatch {
        name: "q".into(),
        value: ValueMatch::Exact("1".into()),
    });
    assert!(hit(&route, "/a?q=1&q=2"));
    assert!(!hit(&route, "/a?q=2&q=1"));
    assert!(!hit(&route, "/a"));
    route.matches[0].method = Some("POST".into());
    assert!(!hit(&route, "/a?q=1"));
    route.matches.push(RouteMatch::default());
    assert!(hit(&route, "/other"));
    route.ports = vec![81];
    assert!(!hit(&route, "/other"));
}

fn backend_of(name: &str, weight: u32) -> Backend {
    Backend {
        service: format!("shop/{name}").parse().unwrap(),
        port: 80,
        weight,
        invalid: None,
        field_path: String::new(),
    }
}

proptest! {
    #[test]
    fn shares_follow_weights_exactly_over_the_whole_range(weights in proptest::collection::vec(0u32..1_000_000, 1..6)) {
        let mut route = plain(None);
        route.backends = weights.iter().enumerate().map(|(i, w)| backend_of(&format!("b{i}"), *w)).collect();
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let steps = 10_000u64;
        let mut seen = vec![0u64; weights.len()];
        for step in 0..steps {
            let random = u32::try_from((step << 32) / steps).unwrap();
            match backend(&route, random) {
                Some(found) => {
                    let index = route.backends.iter().position(|b| std::ptr::eq(b, found)).unwrap();
                    prop_assert!(weights[index] > 0, "a backend without weight is never chosen");
                    seen[index] += 1;
                }
                None => prop_assert_eq!(total, 0),
            }
        }
        for (weight, count) in weights.iter().zip(seen) {
            let expected = (u64::from(*weight) * steps).checked_div(total).unwrap_or(0);
            prop_assert!(count.abs_diff(expected) <= 2, "{count} for {weight} of {total}");
        }
    }

    #[test]
    fn no_path_panics_and_matching_is_repeatable(path in ".{0,64}", prefix in "(/[a-z%]{0,4}){0,3}") {
        let route = plain(Some(PathMatch::Prefix(prefix)));
        prop_assert_eq!(hit(&route, &path), hit(&route, &path));
    }
}
