//! The tables of an AuthenticationPolicy.

use super::{
    Fields, Shape,
    common::{API_VERSION, KIND, METADATA, STATUS, TARGET_GROUP, TARGET_KIND, TARGET_NAME},
    field, list, refused, required,
};
use crate::{access_policy::MAX_TARGETS, authentication_policy::MODES};

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
        STATUS,
    ],
};

/// `spec`.
pub(crate) static SPEC: Fields = Fields {
    doc: "What the policy is to do.",
    list: &[
        field(
            "targetRefs",
            list(&Shape::Object(&TARGET), MAX_TARGETS),
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
        TARGET_GROUP,
        TARGET_KIND,
        TARGET_NAME,
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
