//! The tables that every kind shares: `metadata`, conditions, references to objects.

use super::{Field, Fields, Merge, Shape, every, field, merged, refused, required};
use crate::access_policy::TARGETS;

/// The number of a port.
pub(super) const PORT_NUMBER: Shape = Shape::Number(1, 65_535);

/// `metadata`.
pub(crate) static META: Fields = Fields {
    doc: "What every object has: its name, and what people and the server say of it.",
    list: &[
        required(
            "name",
            Shape::Text,
            "The name: a DNS label, unique in its namespace. It cannot be changed.",
        ),
        field(
            "namespace",
            Shape::Text,
            "The namespace: a DNS label, `default` where none is written.",
        ),
        field(
            "labels",
            Shape::Texts,
            "Names and values by which objects are selected.",
        ),
        field(
            "annotations",
            Shape::Texts,
            "Names and values that tools keep here; nothing is selected by them.",
        ),
        field("uid", Shape::Text, "The server's id of this object."),
        field(
            "resourceVersion",
            Shape::Text,
            "The revision in which it was last changed. A write that names another one is refused with 409.",
        ),
        field(
            "generation",
            Shape::Number(0, u64::MAX),
            "How often its spec was changed; the server counts.",
        ),
        field(
            "creationTimestamp",
            Shape::Time,
            "When it was created; the server sets it.",
        ),
        field(
            "managedFields",
            every(&Shape::Anything),
            "Accepted and not kept: there is no server-side apply yet.",
        ),
        field("selfLink", Shape::Text, "Accepted and not kept."),
        refused(
            "generateName",
            "a document has a name of its own, or every apply would make one more: write `name`; only a create has it generated",
        ),
        refused("finalizers", "finalizers are not supported yet"),
        refused(
            "ownerReferences",
            "nothing is collected with its owner yet: delete it by name",
        ),
        refused("deletionTimestamp", "is set by the server"),
        refused("deletionGracePeriodSeconds", "is set by the server"),
    ],
};

/// `apiVersion`.
pub(super) const API_VERSION: Field = required(
    "apiVersion",
    Shape::Text,
    "The group and version of the kind.",
);
/// `kind`.
pub(super) const KIND: Field = required("kind", Shape::Text, "The kind of the object.");
/// `metadata`.
pub(super) const METADATA: Field = required(
    "metadata",
    Shape::Object(&META),
    "What every object has: its name, and what people and the server say of it.",
);

/// `conditions` of a status.
pub(super) const CONDITIONS: Field = field(
    "conditions",
    merged(&A_CONDITION, usize::MAX, Merge::Keys(&["type"])),
    "What is so of the object, and since when.",
);

static A_CONDITION: Shape = Shape::Object(&CONDITION);

static CONDITION: Fields = Fields {
    doc: "One thing that is so, or not.",
    list: &[
        required(
            "type",
            Shape::Text,
            "Which: Accepted, ResolvedRefs, Programmed, ..",
        ),
        required(
            "status",
            Shape::Word(&["True", "False", "Unknown"]),
            "Whether it is so.",
        ),
        field("reason", Shape::Text, "Why, as one word."),
        field("message", Shape::Text, "Why, for people."),
        field(
            "observedGeneration",
            Shape::Number(0, u64::MAX),
            "The generation of the spec that this is about.",
        ),
        field("lastTransitionTime", Shape::Time, "Since when it is so."),
    ],
};

/// `status` that is conditions alone.
pub(super) const STATUS: Field = field(
    "status",
    Shape::Object(&CONDITIONS_ONLY),
    "What became of it.",
);

static CONDITIONS_ONLY: Fields = Fields {
    doc: "What is so of the object; computed when it is read, it cannot be written.",
    list: &[CONDITIONS],
};

/// An object that another one names.
pub(super) static REFERENCE: Fields = Fields {
    doc: "Another object.",
    list: &[
        field("group", Shape::Text, "Its group."),
        field("kind", Shape::Text, "Its kind."),
        field("name", Shape::Text, "Its name."),
        field("namespace", Shape::Text, "Its namespace."),
        field("uid", Shape::Text, "Its id."),
        field("port", PORT_NUMBER, "The one port of it."),
    ],
};

/// `group` of what a policy is for.
pub(super) const TARGET_GROUP: Field = field(
    "group",
    Shape::Text,
    "\"\" for a Service and a Namespace, leno.dev for the Mesh; it need not be written.",
);
/// Its `kind`.
pub(super) const TARGET_KIND: Field = required("kind", Shape::Word(TARGETS), "What it is.");
/// Its `name`.
pub(super) const TARGET_NAME: Field = field(
    "name",
    Shape::Text,
    "The service's name; the policy's own namespace for a Namespace; none for the Mesh.",
);
