//! What a path asks for. Pure: a path in, a target or nothing out.

use leno_config::Kind;
use leno_types::DnsLabel;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/version`, outside any mesh.
    Version,
    /// Something of a mesh.
    Mesh(DnsLabel, InMesh),
}

/// Something of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InMesh {
    /// Nothing further.
    Root,
    /// `version`
    Version,
    /// `healthz`, `livez`, `readyz`
    Health,
    /// `apis/authorization.k8s.io/v1/..`
    Review(Review),
    /// `api`
    CoreVersions,
    /// `apis`
    Groups,
    /// `apis/GROUP`
    Group(&'static str),
    /// `api/v1`, `apis/GROUP/VERSION`
    Resources(&'static str, &'static str),
    /// `openapi/v2`
    OpenApiV2,
    /// `openapi/v3`
    OpenApiIndex,
    /// `openapi/v3/api/v1`, `openapi/v3/apis/GROUP/VERSION`
    OpenApiV3(&'static str, &'static str),
    /// `leno/v1/apply`
    Apply,
    /// A collection, or one object of it.
    Objects(Objects),
}

/// What the caller may do, or who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    /// `selfsubjectaccessreviews`: whether it may do this.
    Access,
    /// `selfsubjectrulesreviews`: everything that it may.
    Rules,
    /// `selfsubjectreviews`: who it is.
    Who,
}

/// A collection, or one object of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) kind: Kind,
    /// `None`: of all namespaces.
    pub(crate) namespace: Option<String>,
    /// `None`: the collection.
    pub(crate) name: Option<String>,
    /// `.../NAME/status`
    pub(crate) status: bool,
}

/// The group of [`Review`]. It is not listed: nobody makes objects of it, and clients that ask know where.
const REVIEWS: &str = "authorization.k8s.io";
/// That of [`Review::Who`].
const AUTHENTICATION: &str = "authentication.k8s.io";

impl Target {
    /// Reads a path; `None` when there is nothing there.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        if path == "/version" {
            return Some(Self::Version);
        }
        let path = path.strip_prefix("/meshes/")?.trim_end_matches('/');
        let mut parts = path.split('/');
        let mesh = parts.next()?.parse().ok()?;
        let rest: Vec<&str> = parts.collect();
        Some(Self::Mesh(mesh, in_mesh(&rest)?))
    }
}

fn in_mesh(parts: &[&str]) -> Option<InMesh> {
    Some(match parts {
        [] => InMesh::Root,
        ["version"] => InMesh::Version,
        ["healthz" | "livez" | "readyz"] => InMesh::Health,
        ["apis", REVIEWS, "v1", "selfsubjectaccessreviews"] => InMesh::Review(Review::Access),
        ["apis", REVIEWS, "v1", "selfsubjectrulesreviews"] => InMesh::Review(Review::Rules),
        ["apis", AUTHENTICATION, "v1", "selfsubjectreviews"] => InMesh::Review(Review::Who),
        ["api"] => InMesh::CoreVersions,
        ["apis"] => InMesh::Groups,
        ["apis", group] => InMesh::Group(group_version(group, None)?.0),
        ["leno", "v1", "apply"] => InMesh::Apply,
        ["openapi", "v2"] => InMesh::OpenApiV2,
        ["openapi", "v3"] => InMesh::OpenApiIndex,
        ["openapi", "v3", "api", "v1"] => InMesh::OpenApiV3("", "v1"),
        ["openapi", "v3", "apis", group, version] => {
            let (group, version) = group_version(group, Some(version))?;
            InMesh::OpenApiV3(group, version)
        }
        ["api", "v1"] => InMesh::Resources("", "v1"),
        ["apis", group, version] => {
            let (group, version) = group_version(group, Some(version))?;
            InMesh::Resources(group, version)
        }
        ["api", "v1", rest @ ..] => objects("", "v1", rest)?,
        ["apis", group, version, rest @ ..] if !group.is_empty() => objects(group, version, rest)?,
        _ => return None,
    })
}

/// The group, other than core, that has a kind in this version.
fn group_version(group: &str, version: Option<&str>) -> Option<(&'static str, &'static str)> {
    Kind::ALL
        .iter()
        .map(|kind| (kind.group(), kind.version()))
        .find(|(g, v)| !g.is_empty() && *g == group && version.is_none_or(|version| *v == version))
}

fn objects(group: &str, version: &str, parts: &[&str]) -> Option<InMesh> {
    let find = |plural: &str| {
        Kind::ALL.iter().copied().find(|kind| {
            kind.group() == group && kind.version() == version && kind.plural() == plural
        })
    };
    let (namespace, plural, rest) = match parts {
        ["namespaces", namespace, plural, rest @ ..] if namespace.parse::<DnsLabel>().is_ok() => {
            (Some(*namespace), *plural, rest)
        }
        [plural, rest @ ..] => (None, *plural, rest),
        [] => return None,
    };
    let kind = find(plural)?;
    let (name, status) = match rest {
        [] => (None, false),
        [name] => (Some(*name), false),
        [name, "status"] => (Some(*name), true),
        _ => return None,
    };
    if name.is_some_and(str::is_empty) {
        return None;
    }
    // An object of a namespaced kind has a namespace in its path, another has none.
    let namespace = match (kind.namespaced(), namespace) {
        (true, None) if name.is_some() => return None,
        (true, namespace) => namespace.map(Into::into),
        (false, None) => Some(String::new()),
        (false, Some(_)) => return None,
    };
    Some(InMesh::Objects(Objects {
        kind,
        namespace,
        name: name.map(Into::into),
        status,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_what_they_mean_in_a_cluster() {
        let objects = |path: &str| match Target::parse(&format!("/meshes/default{path}")) {
            Some(Target::Mesh(_, InMesh::Objects(objects))) => Some(objects),
            _ => None,
        };
        let of = |kind, namespace: Option<&str>, name: Option<&str>, status| Objects {
            kind,
            namespace: namespace.map(Into::into),
            name: name.map(Into::into),
            status,
        };
        assert_eq!(
            objects("/api/v1/services"),
            Some(of(Kind::Service, None, None, false))
        );
        assert_eq!(
            objects("/api/v1/namespaces/shop/services/"),
            Some(of(Kind::Service, Some("shop"), None, false))
        );
        assert_eq!(
            objects("/apis/leno.dev/v1alpha1/namespaces/shop/accesspolicies/a/status"),
            Some(of(Kind::AccessPolicy, Some("shop"), Some("a"), true))
        );
        for nothing in [
            "/api/v1/services/cart", // in which namespace?
            "/api/v1/namespaces/shop/services//status",
            "/api/v1/namespaces/shop/services/cart/scale",
            "/api/v1/namespaces//services",
            "/api/v1/namespaces/../services",
            "/api/v1/namespaces/..%2f..%2fbeta/services",
            "/api/v1/namespaces/Shop/services",
            "/api/v1/httproutes",
            "/apis/gateway.networking.k8s.io/v1beta1/httproutes",
            "/apis//v1/services",
        ] {
            assert_eq!(objects(nothing), None, "{nothing}");
        }
        assert_eq!(Target::parse("/version"), Some(Target::Version));
        for nothing in ["", "/", "/meshes", "/meshes/", "/meshes/UPPER/api", "/api"] {
            assert_eq!(Target::parse(nothing), None, "{nothing}");
        }
    }
}
