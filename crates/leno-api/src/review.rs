//! What the caller may do, as `kubectl auth can-i` and k9s ask: `SelfSubjectAccessReview` and
//! `SelfSubjectRulesReview`; and who it is, as `kubectl auth whoami` asks: `SelfSubjectReview`. Nothing is stored; the
//! answer is what the server itself would decide.
//!
//! Refuses reviews of other people: only the caller's own rights are told.

mod proto;

use axum::{body::Body, response::Response};
use http::StatusCode;
use leno_config::Kind;
use serde_json::{Value, json};

use crate::{
    Access,
    discovery::{READ, WRITE},
    duplicates,
    handler::Call,
    media,
    status::{ApiError, json_response},
    target::Review,
    write::json_only,
};

/// Bytes of a review at most.
const MAX_BYTES: usize = 16 << 10;

/// Answers a review.
pub(crate) async fn review(
    call: &Call<'_>,
    review: Review,
    body: Body,
) -> Result<Response, ApiError> {
    let media = media::content_type(call.headers())?;
    let bytes = call.read_body(body, MAX_BYTES).await?;
    let mut value = if media == media::PROTOBUF {
        proto::review(review, &bytes)
            .ok_or_else(|| ApiError::bad_request("the review is no protobuf of its kind"))?
    } else {
        json_only(&media)?;
        duplicates::parse(&bytes)
            .map_err(|error| ApiError::bad_request(format!("the review is no JSON: {error}")))?
    };
    let (kind, version) = match review {
        Review::Access => ("SelfSubjectAccessReview", "authorization.k8s.io/v1"),
        Review::Rules => ("SelfSubjectRulesReview", "authorization.k8s.io/v1"),
        Review::Who => ("SelfSubjectReview", "authentication.k8s.io/v1"),
    };
    let access = call.caller.access(call.mesh);
    let status = match review {
        Review::Access => decision(access, value.get("spec").unwrap_or(&Value::Null))?,
        Review::Rules => rules(access),
        Review::Who => who(call, access),
    };
    let object = value
        .as_object_mut()
        .ok_or_else(|| ApiError::bad_request(format!("the body is no {kind}")))?;
    if review == Review::Who {
        object.shift_remove("spec");
    }
    object.insert("kind".into(), kind.into());
    object.insert("apiVersion".into(), version.into());
    object.entry("metadata").or_insert_with(|| json!({}));
    object.insert("status".into(), status);
    Ok(json_response(StatusCode::CREATED, &value))
}

/// Who the certificate, or the socket, says that it is; the role stands among what else is known.
fn who(call: &Call<'_>, access: Access) -> Value {
    let role = match access {
        Access::Admin => "admin",
        Access::Viewer => "viewer",
        Access::None => "none",
    };
    let extra = json!({"leno.dev/mesh": [call.mesh.as_str()], "leno.dev/role": [role]});
    let groups = ["system:authenticated"];
    json!({"userInfo": {"username": call.caller.name, "groups": groups, "extra": extra}})
}

fn decision(access: Access, spec: &Value) -> Result<Value, ApiError> {
    let (allowed, reason) = match (
        spec.get("resourceAttributes"),
        spec.get("nonResourceAttributes"),
    ) {
        (Some(of), None) => of_resource(access, of),
        (None, Some(of)) => {
            let reads = matches!(text(of, "verb"), "get" | "head");
            (
                reads && access != Access::None,
                "paths are read by everybody with a role in the mesh",
            )
        }
        _ => {
            return Err(ApiError::bad_request(
                "spec has either resourceAttributes or nonResourceAttributes",
            ));
        }
    };
    Ok(json!({"allowed": allowed, "reason": reason}))
}

fn text<'v>(of: &'v Value, name: &str) -> &'v str {
    of.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn of_resource(access: Access, of: &Value) -> (bool, &'static str) {
    let (group, resource, verb) = (text(of, "group"), text(of, "resource"), text(of, "verb"));
    let kinds: Vec<Kind> = match (group, resource) {
        (_, "*") => Kind::ALL.to_vec(),
        (group, plural) => Kind::from_plural(group, plural).into_iter().collect(),
    };
    if kinds.is_empty() {
        return (false, "there is no such kind here");
    }
    match text(of, "subresource") {
        "" => {}
        "status" if READ.contains(&verb) => {}
        "status" => return (false, "a status is computed when it is read"),
        _ => return (false, "there is no such subresource here"),
    }
    let answered = |kind: &Kind| {
        let verbs = if kind.derived() { READ } else { WRITE };
        verb == "*" && !kind.derived() || verbs.contains(&verb)
    };
    if !kinds.iter().all(answered) {
        return (false, "no object of this kind can be asked for that");
    }
    match access {
        Access::Admin => (true, "the role is admin"),
        Access::Viewer if READ.contains(&verb) => (true, "the role is viewer"),
        Access::Viewer => (false, "the role is viewer, which only reads"),
        Access::None => (false, "there is no role in this mesh"),
    }
}

/// Everything that a role may.
fn rules(access: Access) -> Value {
    let of = |kind: &Kind| {
        let verbs = match access {
            Access::Admin if !kind.derived() => WRITE,
            Access::Admin | Access::Viewer => READ,
            Access::None => return None,
        };
        Some(json!({"apiGroups": [kind.group()], "resources": [kind.plural()], "verbs": verbs}))
    };
    let objects: Vec<Value> = Kind::ALL.iter().filter_map(of).collect();
    let paths = match access {
        Access::None => json!([]),
        Access::Admin | Access::Viewer => json!([{"verbs": ["get"], "nonResourceURLs": ["*"]}]),
    };
    json!({"resourceRules": objects, "nonResourceRules": paths, "incomplete": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(access: Access, group: &str, resource: &str, verb: &str) -> bool {
        let of = json!({"group": group, "resource": resource, "verb": verb});
        of_resource(access, &of).0
    }

    #[test]
    fn a_review_says_what_the_server_would_decide() {
        let gateway = "gateway.networking.k8s.io";
        assert!(may(Access::Admin, gateway, "httproutes", "patch"));
        assert!(may(Access::Viewer, gateway, "httproutes", "watch"));
        assert!(!may(Access::Viewer, gateway, "httproutes", "patch"));
        assert!(!may(Access::None, "", "services", "get"));
        assert!(!may(Access::Admin, "", "pods", "list"), "there are none");
        assert!(!may(Access::Admin, "leno.dev", "workloads", "create"));
        assert!(!may(Access::Admin, "", "services", "deletecollection"));
        assert!(may(Access::Viewer, "*", "*", "list"));
        assert!(
            !may(Access::Admin, "*", "*", "*"),
            "workloads are not written"
        );
    }
}
