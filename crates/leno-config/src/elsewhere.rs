//! What other meshes, and Kubernetes, call their kinds, and what is Leno's for each.
//!
//! Owns the words only: docs/from-istio-and-linkerd.md has the reasons.

/// What to do in Leno for what a document of `kind` does elsewhere; `None` for a kind nobody has.
#[must_use]
pub fn instead_of(kind: &str) -> Option<&'static str> {
    // `kubectl get` types kinds in lower case, as plurals and with their group.
    let lower = kind.to_ascii_lowercase();
    let word = lower.split('.').next().unwrap_or_default();
    ELSEWHERE
        .iter()
        .find(|(kinds, _)| kinds.iter().any(|known| is_of(word, known)))
        .map(|(_, instead)| *instead)
}

/// Whether a word is this kind, or its plural.
fn is_of(word: &str, kind: &str) -> bool {
    let plural = |stem: &str, end: &str| word.strip_prefix(stem).is_some_and(|rest| rest == end);
    word == kind
        || plural(kind, "s")
        || plural(kind, "es")
        || kind
            .strip_suffix('y')
            .is_some_and(|stem| plural(stem, "ies"))
}

const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["meshservice", "meshmultizoneservice"],
        "in Leno it is a Service, which is derived from what runs: leno run --service",
    ),
    (
        &["virtualservice", "trafficsplit", "meshhttproute"],
        "in Leno it is an HTTPRoute attached to a Service: leno split writes one",
    ),
    (
        &["destinationrule"],
        "in Leno a version is a Service of its own (leno run --version), and balancing and ejection are always on",
    ),
    (
        &[
            "authorizationpolicy",
            "meshtlsauthentication",
            "networkauthentication",
            "serverauthorization",
            "networkpolicy",
            "meshtrafficpermission",
        ],
        "in Leno it is an AccessPolicy: leno allow and leno deny write one",
    ),
    (
        &["peerauthentication", "meshtls"],
        "in Leno it is an AuthenticationPolicy: leno mtls strict writes one",
    ),
    (
        &["server"],
        "Leno needs none: between members it is always mutual TLS, and an AuthenticationPolicy says which ports take no other",
    ),
    (
        &["requestauthentication"],
        "Leno leaves the tokens of users to programs",
    ),
    (
        &["serviceprofile"],
        "in Leno routes and their timeouts are an HTTPRoute; retries follow a budget of their own",
    ),
    (
        &["grpcroute", "tcproute", "tlsroute"],
        "Leno routes with HTTPRoute; gRPC is matched there by its path, /PACKAGE.SERVICE/METHOD",
    ),
    (
        &[
            "serviceentry",
            "externalworkload",
            "workloadentry",
            "workloadgroup",
            "meshexternalservice",
        ],
        "in Leno a program is a member by leno run, on a host by leno join; what is outside the mesh is reached as it is",
    ),
    (
        &["gateway", "gatewayclass", "ingress", "ingressclass"],
        "Leno has no ingress gateway: leno run --publish gives a program a port for callers from outside",
    ),
    (
        &[
            "sidecar",
            "envoyfilter",
            "proxyconfig",
            "telemetry",
            "wasmplugin",
        ],
        "Leno has no such settings: proxies learn what their programs call, and count everything",
    ),
    (
        &["referencegrant"],
        "Leno's routes lead to services of their own namespace only",
    ),
    (
        &[
            "deployment",
            "pod",
            "statefulset",
            "daemonset",
            "replicaset",
            "job",
            "cronjob",
        ],
        "Leno runs no containers: leno run starts a program as a member",
    ),
    (
        &["namespace", "serviceaccount"],
        "Leno has them without an object: they are there when something names them",
    ),
    (
        &["endpoint"],
        "in Leno they are EndpointSlices, which are derived: leno get endpointslices",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn kinds_of_other_meshes_name_lenos() {
        for (kind, word) in [
            ("VirtualService", "HTTPRoute"),
            ("virtualservices.networking.istio.io", "HTTPRoute"),
            ("DestinationRule", "--version"),
            ("AuthorizationPolicy", "AccessPolicy"),
            ("authorizationpolicies", "AccessPolicy"),
            ("PeerAuthentication", "AuthenticationPolicy"),
            ("ServiceProfile", "HTTPRoute"),
            ("Ingress", "--publish"),
            ("MeshService", "leno run --service"),
            ("meshtrafficpermissions.kuma.io", "AccessPolicy"),
            ("ingresses", "--publish"),
            ("Deployment", "leno run"),
        ] {
            let instead = instead_of(kind).unwrap_or_default();
            assert!(instead.contains(word), "{kind}: {instead}");
        }
        assert_eq!(instead_of(""), None);
        assert_eq!(instead_of("Sceptre"), None);
    }

    #[test]
    fn no_kind_of_ours_is_anothers() {
        for kind in Kind::ALL {
            for word in [kind.kind(), kind.plural(), kind.singular()] {
                assert_eq!(instead_of(word), None, "{word}");
            }
        }
    }
}
