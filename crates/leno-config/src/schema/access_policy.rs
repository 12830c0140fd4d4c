//! The tables of an AccessPolicy.

use super::{
    Fields, Shape,
    common::{
        API_VERSION, KIND, METADATA, PORT_NUMBER, STATUS, TARGET_GROUP, TARGET_KIND, TARGET_NAME,
    },
    field, list, refused, required,
};
use crate::access_policy::{ACTIONS, MAX_MEMBERS, MAX_RULES, MAX_SOURCES, MAX_TARGETS};

/// An AccessPolicy.
pub(super) static ROOT: Fields = Fields {
    doc: "Who may call, by identity. Deny beats allow. A workload that no Allow policy targets may be called by \
          everybody; once one does, only what some Allow rule matches may call it.",
    list: &[
        API_VERSION,
        KIND,
        METADATA,
        required("spec", Shape::Object(&SPEC), "What the policy is to do."),
        STATUS,
    ],
};

/// `spec`.
pub(crate) static SPEC: Fields = Fields {
    doc: "What the policy is to do.",
    list: &[
        required(
            "targetRefs",
            list(&Shape::Object(&TARGET), MAX_TARGETS),
            "What it protects.",
        ),
        required(
            "action",
            Shape::Word(ACTIONS),
            "What its rules do to the callers they match.",
        ),
        field(
            "rules",
            list(&Shape::Object(&RULE), MAX_RULES),
            "Whom it means, in any of these. An Allow policy with none denies everybody; an empty rule ({}) matches \
             everybody, callers without identity included.",
        ),
    ],
};

/// `spec.targetRefs[]`.
pub(crate) static TARGET: Fields = Fields {
    doc: "What the policy protects: a Service, its own Namespace, or the Mesh.",
    list: &[
        TARGET_GROUP,
        TARGET_KIND,
        TARGET_NAME,
        refused(
            "namespace",
            "a policy protects its own namespace: put it into that one",
        ),
        refused("sectionName", "write `to: [{ports: [..]}]` in the rules"),
    ],
};

/// `spec.rules[]`.
pub(crate) static RULE: Fields = Fields {
    doc: "Whom the policy means, and where they call; both must match where both are written.",
    list: &[
        field(
            "from",
            list(&Shape::Object(&SOURCE), MAX_SOURCES),
            "The callers; every one where none is written.",
        ),
        field(
            "to",
            list(&Shape::Object(&TO), MAX_SOURCES),
            "Where they call; every port where none is written.",
        ),
    ],
};

/// `spec.rules[].from[]`.
pub(crate) static SOURCE: Fields = Fields {
    doc: "Callers. principals and namespaces must both match where both are written; serviceAccounts stand alone.",
    list: &[
        field(
            "principals",
            list(&Shape::Text, MAX_MEMBERS),
            "SPIFFE IDs, exact or ending with *; * alone is any caller that has an identity.",
        ),
        field(
            "serviceAccounts",
            list(&Shape::Text, MAX_MEMBERS),
            "Service accounts of this mesh, as namespace/name.",
        ),
        field(
            "namespaces",
            list(&Shape::Text, MAX_MEMBERS),
            "The namespaces whose programs are meant.",
        ),
    ],
};

/// `spec.rules[].to[]`.
pub(crate) static TO: Fields = Fields {
    doc: "Where callers call.",
    list: &[required(
        "ports",
        list(&PORT_NUMBER, MAX_MEMBERS),
        "Ports of the workload, not of the service.",
    )],
};
