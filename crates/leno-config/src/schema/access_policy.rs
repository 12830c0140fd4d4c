//! The tables of an AccessPolicy.

use super::{
    Fields, List, Merge, Shape,
    common::{API_VERSION, CONDITIONS_ONLY, KIND, METADATA},
    field, refused, required,
};
use crate::access_policy::{ACTIONS, MAX_MEMBERS, MAX_RULES, MAX_SOURCES, MAX_TARGETS, TARGETS};

/// An AccessPolicy.
pub(super) static ROOT: Fields = Fields {
    doc: "Who may call, by identity. Deny beats allow. A workload that no Allow policy targets may be called by \
          everybody; once one does, only what some Allow rule matches may call it.",
    list: &[
        API_VERSION,
        KIND,
        METADATA,
        required("spec", Shape::Object(&SPEC), "What the policy is to do."),
        field(
            "status",
            Shape::Object(&CONDITIONS_ONLY),
            "What became of it.",
        ),
    ],
};

/// `spec`.
pub(crate) static SPEC: Fields = Fields {
    doc: "What the policy is to do.",
    list: &[
        required(
            "targetRefs",
            Shape::List(&List {
                item: Shape::Object(&TARGET),
                max: MAX_TARGETS,
                merge: Merge::Atomic,
            }),
            "What it protects.",
        ),
        required(
            "action",
            Shape::Word(ACTIONS),
            "What its rules do to the callers they match.",
        ),
        field(
            "rules",
            Shape::List(&List {
                item: Shape::Object(&RULE),
                max: MAX_RULES,
                merge: Merge::Atomic,
            }),
            "Whom it means, in any of these. An Allow policy with none denies everybody; an empty rule ({}) matches \
             everybody, callers without identity included.",
        ),
    ],
};

/// `spec.targetRefs[]`.
pub(crate) static TARGET: Fields = Fields {
    doc: "What the policy protects: a Service, its own Namespace, or the Mesh.",
    list: &[
        field(
            "group",
            Shape::Text,
            "\"\" for a Service and a Namespace, leno.dev for the Mesh; it need not be written.",
        ),
        required("kind", Shape::Word(TARGETS), "What it is."),
        field(
            "name",
            Shape::Text,
            "The service's name; the policy's own namespace for a Namespace; none for the Mesh.",
        ),
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
            Shape::List(&List {
                item: Shape::Object(&SOURCE),
                max: MAX_SOURCES,
                merge: Merge::Atomic,
            }),
            "The callers; every one where none is written.",
        ),
        field(
            "to",
            Shape::List(&List {
                item: Shape::Object(&TO),
                max: MAX_SOURCES,
                merge: Merge::Atomic,
            }),
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
            Shape::List(&List {
                item: Shape::Text,
                max: MAX_MEMBERS,
                merge: Merge::Atomic,
            }),
            "SPIFFE IDs, exact or ending with *; * alone is any caller that has an identity.",
        ),
        field(
            "serviceAccounts",
            Shape::List(&List {
                item: Shape::Text,
                max: MAX_MEMBERS,
                merge: Merge::Atomic,
            }),
            "Service accounts of this mesh, as namespace/name.",
        ),
        field(
            "namespaces",
            Shape::List(&List {
                item: Shape::Text,
                max: MAX_MEMBERS,
                merge: Merge::Atomic,
            }),
            "The namespaces whose programs are meant.",
        ),
    ],
};

/// `spec.rules[].to[]`.
pub(crate) static TO: Fields = Fields {
    doc: "Where callers call.",
    list: &[required(
        "ports",
        Shape::List(&List {
            item: Shape::Number(1, 65_535),
            max: MAX_MEMBERS,
            merge: Merge::Atomic,
        }),
        "Ports of the workload, not of the service.",
    )],
};
