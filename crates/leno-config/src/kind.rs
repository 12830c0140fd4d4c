//! The kinds of resources there are, and every name by which people and clients call them.

use std::fmt;

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// core/v1 `Service`: a name, its ports and which workloads answer.
    Service,
    /// discovery.k8s.io/v1 `EndpointSlice`: who answers for a service now; derived, never written.
    EndpointSlice,
    /// gateway.networking.k8s.io/v1 `HTTPRoute`, attached to a Service.
    HttpRoute,
    /// leno.dev/v1alpha1 `AccessPolicy`: who may call.
    AccessPolicy,
    /// leno.dev/v1alpha1 `AuthenticationPolicy`: which ports take mutual TLS alone.
    AuthenticationPolicy,
    /// leno.dev/v1alpha1 `HostnameGenerator`: further names for services.
    HostnameGenerator,
    /// leno.dev/v1alpha1 `Workload`: one running program; derived from its registration, never written.
    Workload,
}

impl Kind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: &'static [Self] = &[
        Self::Service,
        Self::EndpointSlice,
        Self::HttpRoute,
        Self::AccessPolicy,
        Self::AuthenticationPolicy,
        Self::HostnameGenerator,
        Self::Workload,
    ];

    /// The API group; empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Service => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::HttpRoute => "gateway.networking.k8s.io",
            Self::AccessPolicy
            | Self::AuthenticationPolicy
            | Self::HostnameGenerator
            | Self::Workload => "leno.dev",
        }
    }

    /// The version within the group.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Service | Self::EndpointSlice | Self::HttpRoute => "v1",
            Self::AccessPolicy
            | Self::AuthenticationPolicy
            | Self::HostnameGenerator
            | Self::Workload => "v1alpha1",
        }
    }

    /// What documents say in `apiVersion`.
    #[must_use]
    pub fn api_version(self) -> String {
        match self.group() {
            "" => self.version().into(),
            group => format!("{group}/{}", self.version()),
        }
    }

    /// What documents say in `kind`.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::HttpRoute => "HTTPRoute",
            Self::AccessPolicy => "AccessPolicy",
            Self::AuthenticationPolicy => "AuthenticationPolicy",
            Self::HostnameGenerator => "HostnameGenerator",
            Self::Workload => "Workload",
        }
    }

    /// The name in paths.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::HttpRoute => "httproutes",
            Self::AccessPolicy => "accesspolicies",
            Self::AuthenticationPolicy => "authenticationpolicies",
            Self::HostnameGenerator => "hostnamegenerators",
            Self::Workload => "workloads",
        }
    }

    /// The name of one, as in `httproute/cart`.
    #[must_use]
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::EndpointSlice => "endpointslice",
            Self::HttpRoute => "httproute",
            Self::AccessPolicy => "accesspolicy",
            Self::AuthenticationPolicy => "authenticationpolicy",
            Self::HostnameGenerator => "hostnamegenerator",
            Self::Workload => "workload",
        }
    }

    /// Short names for people who type.
    #[must_use]
    pub const fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["svc"],
            Self::EndpointSlice => &["eps"],
            Self::HttpRoute => &[],
            Self::AccessPolicy => &["ap"],
            Self::AuthenticationPolicy => &["authn"],
            Self::HostnameGenerator => &["hg"],
            Self::Workload => &["wl"],
        }
    }

    /// Words that mean several kinds, as in `kubectl get all`.
    #[must_use]
    pub const fn categories(self) -> &'static [&'static str] {
        match self {
            Self::EndpointSlice => &[],
            Self::Service
            | Self::HttpRoute
            | Self::AccessPolicy
            | Self::AuthenticationPolicy
            | Self::HostnameGenerator
            | Self::Workload => &["all"],
        }
    }

    /// Whether objects of it say who may do what: with a part of them left out they could allow more.
    #[must_use]
    pub const fn guards(self) -> bool {
        match self {
            Self::AccessPolicy | Self::AuthenticationPolicy => true,
            Self::Service
            | Self::EndpointSlice
            | Self::HttpRoute
            | Self::HostnameGenerator
            | Self::Workload => false,
        }
    }

    /// Whether objects of it live in a namespace.
    #[must_use]
    pub const fn namespaced(self) -> bool {
        match self {
            Self::Service
            | Self::EndpointSlice
            | Self::HttpRoute
            | Self::AccessPolicy
            | Self::AuthenticationPolicy
            | Self::HostnameGenerator
            | Self::Workload => true,
        }
    }

    /// Whether the control plane makes objects of it, so that nobody writes them.
    #[must_use]
    pub const fn derived(self) -> bool {
        match self {
            Self::EndpointSlice | Self::Workload => true,
            Self::Service
            | Self::HttpRoute
            | Self::AccessPolicy
            | Self::AuthenticationPolicy
            | Self::HostnameGenerator => false,
        }
    }

    /// The kind at a path of the API.
    #[must_use]
    pub fn from_plural(group: &str, plural: &str) -> Option<Self> {
        let found = |kind: &Self| kind.group() == group && kind.plural() == plural;
        Self::ALL.iter().copied().find(found)
    }

    /// The kind a document names.
    #[must_use]
    pub fn from_type(api_version: &str, kind: &str) -> Option<Self> {
        let found = |of: &Self| of.kind() == kind && of.api_version() == api_version;
        Self::ALL.iter().copied().find(found)
    }

    /// The kind that a word a person typed means: `svc`, `services`, `HTTPRoute`,
    /// `httproutes.gateway.networking.k8s.io`, in any case.
    #[must_use]
    pub fn from_name(word: &str) -> Option<Self> {
        let lower = word.to_ascii_lowercase();
        let (name, group) = match lower.split_once('.') {
            Some((name, group)) => (name, Some(group)),
            None => (lower.as_str(), None),
        };
        let named = |kind: &Self| {
            [kind.plural(), kind.singular()].contains(&name) || kind.short_names().contains(&name)
        };
        // kubectl also types `plural.version.group`.
        let grouped = |kind: &Self| match group {
            None => true,
            Some(group) => {
                group == kind.group()
                    || (kind.group().is_empty() && group == kind.version())
                    || group
                        .strip_prefix(kind.version())
                        .and_then(|rest| rest.strip_prefix('.'))
                        == Some(kind.group())
            }
        };
        Self::ALL
            .iter()
            .copied()
            .find(|kind| named(kind) && grouped(kind))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_kind_finds_it() {
        for kind in Kind::ALL.iter().copied() {
            assert_eq!(Kind::from_plural(kind.group(), kind.plural()), Some(kind));
            assert_eq!(
                Kind::from_type(&kind.api_version(), kind.kind()),
                Some(kind)
            );
            let full = format!("{}.{}.{}", kind.plural(), kind.version(), kind.group());
            let words = [
                kind.plural(),
                kind.singular(),
                kind.kind(),
                full.trim_end_matches('.'),
            ];
            for word in words.iter().chain(kind.short_names()) {
                assert_eq!(Kind::from_name(word), Some(kind), "{word}");
            }
        }
        assert_eq!(
            Kind::from_name("httproutes.gateway.networking.k8s.io"),
            Some(Kind::HttpRoute)
        );
        for word in [
            "",
            "pod",
            "services.leno.dev",
            "httproutes.v1alpha1.leno.dev",
        ] {
            assert_eq!(Kind::from_name(word), None, "{word}");
        }
        assert_eq!(Kind::from_type("v1beta1", "Service"), None);
    }
}
