//! The tables of an AuthenticationPolicy.

use super::{
    Fields, List, Merge, Shape,
    common::{API_VERSION, CONDITIONS_ONLY, KIND, METADATA},
    field, refused, required,
};
use crate::{
    access_policy::{MAX_TARGETS, TARGETS},
    authentication_policy::MODES,
};

/// An AuthenticationPolicy.
pub(super) static ROOT: Fields = Fields {
    doc: "Which ports take mutual TLS alone. Members speak mutual TLS to each other whatever it says; it decides about \
          callers from outside the mesh. The narrower scope decides: port, then workload, namespace, mesh; of equals the \
          oldest.",
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
        field(
            "targetRefs",
            Shape::List(&List {
                item: Shape::Object(&TARGET),
                max: MAX_TARGETS,
                merge: Merge::Atomic,
            }),
            "What it is for; this or `selector` must be there.",
        ),
        field(
            "selector",
            Shape::Object(&SELECTOR),
            "The workloads of its namespace that it is for.",
        ),
        field(
            "mtls",
            Shape::Object(&MTLS),
            "For every port without a mode of its own; required unless `portLevelMtls` is there.",
        ),
        field(
            "portLevelMtls",
            Shape::Map(&MTLS),
            "By port at which the program listens, in quotes; only where the policy is for Services or labels.",
        ),
    ],
};

/// `spec.targetRefs[]`.
pub(crate) static TARGET: Fields = Fields {
    doc: "What the policy is for: a Service, its own Namespace, or the Mesh.",
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
            "a policy is for its own namespace: put it into that one",
        ),
        refused(
            "sectionName",
            "write `portLevelMtls`, by the program's ports",
        ),
    ],
};

/// `spec.selector`.
pub(crate) static SELECTOR: Fields = Fields {
    doc: "Workloads, by labels.",
    list: &[
        required(
            "matchLabels",
            Shape::Texts,
            "Labels that a workload must have, all of them: app, version, and its own.",
        ),
        refused("matchExpressions", "only matchLabels are supported"),
    ],
};

/// `spec.mtls`, and each of `spec.portLevelMtls`.
pub(crate) static MTLS: Fields = Fields {
    doc: "What is done with plaintext.",
    list: &[required(
        "mode",
        Shape::Word(MODES),
        "STRICT refuses it. PERMISSIVE lets it in where the port is published. UNSET leaves it to the wider scope.",
    )],
};
