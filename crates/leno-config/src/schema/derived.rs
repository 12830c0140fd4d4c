//! The tables of what the control plane makes from what runs: EndpointSlice and Workload. Nobody writes them.

use super::{
    Fields, List, Merge, Shape,
    common::{API_VERSION, KIND, METADATA, REFERENCE},
    field, required,
};

const TEXTS: Shape = Shape::List(&List {
    item: Shape::Text,
    max: usize::MAX,
    merge: Merge::Atomic,
});
const PORT: Shape = Shape::Number(1, 65_535);

/// An EndpointSlice.
pub(super) static ENDPOINT_SLICE: Fields = Fields {
    doc: "Who answers for a service now: a set of its endpoints of one family with the same ports. Derived from what \
          runs, it cannot be written.",
    list: &[
        API_VERSION,
        KIND,
        METADATA,
        required(
            "addressType",
            Shape::Word(&["IPv4", "IPv6"]),
            "The family of the addresses.",
        ),
        field(
            "ports",
            Shape::List(&List {
                item: Shape::Object(&SLICE_PORT),
                max: usize::MAX,
                merge: Merge::Atomic,
            }),
            "The ports that every one of the endpoints has.",
        ),
        required(
            "endpoints",
            Shape::List(&List {
                item: Shape::Object(&ENDPOINT),
                max: usize::MAX,
                merge: Merge::Atomic,
            }),
            "The endpoints.",
        ),
    ],
};

static SLICE_PORT: Fields = Fields {
    doc: "A port of the endpoints.",
    list: &[
        field("name", Shape::Text, "The name of the service's port."),
        field("port", PORT, "The workload's port."),
        field("protocol", Shape::Word(&["TCP"]), "What carries it."),
        field("appProtocol", Shape::Text, "What it speaks."),
    ],
};

static ENDPOINT: Fields = Fields {
    doc: "One workload that answers.",
    list: &[
        required("addresses", TEXTS, "Its addresses."),
        field(
            "conditions",
            Shape::Object(&ENDPOINT_CONDITIONS),
            "Whether it can be called.",
        ),
        field("targetRef", Shape::Object(&REFERENCE), "The workload."),
    ],
};

static ENDPOINT_CONDITIONS: Fields = Fields {
    doc: "Whether an endpoint can be called.",
    list: &[
        field("ready", Shape::Flag, "It is called."),
        field("serving", Shape::Flag, "It answers."),
        field("terminating", Shape::Flag, "It is about to end."),
    ],
};

/// A Workload.
pub(super) static WORKLOAD: Fields = Fields {
    doc: "One running program, as its host registered it. Derived from what runs, it cannot be written.",
    list: &[
        API_VERSION,
        KIND,
        METADATA,
        required("spec", Shape::Object(&WORKLOAD_SPEC), "What it is."),
        field("status", Shape::Object(&WORKLOAD_STATUS), "How it is."),
    ],
};

static WORKLOAD_SPEC: Fields = Fields {
    doc: "What the program is.",
    list: &[
        field(
            "serviceAccount",
            Shape::Text,
            "The account it runs as, of which its identity is made.",
        ),
        field(
            "service",
            Shape::Text,
            "The service it was registered for by name.",
        ),
        field("version", Shape::Text, "Its version."),
        field("host", Shape::Text, "The host it runs on."),
        field("addresses", TEXTS, "The addresses of that host."),
        field(
            "hbonePort",
            PORT,
            "Where the host's proxy takes mutual TLS.",
        ),
        field(
            "ports",
            Shape::List(&List {
                item: Shape::Object(&WORKLOAD_PORT),
                max: usize::MAX,
                merge: Merge::Atomic,
            }),
            "Its ports.",
        ),
    ],
};

static WORKLOAD_PORT: Fields = Fields {
    doc: "A port of the program.",
    list: &[
        field("servicePort", PORT, "The port of its service."),
        field("port", PORT, "Its own port behind that."),
        field("appProtocol", Shape::Text, "What it speaks."),
        field(
            "published",
            PORT,
            "The port at which it is also reached from outside of the mesh, in clear.",
        ),
    ],
};

static WORKLOAD_STATUS: Fields = Fields {
    doc: "How the program is.",
    list: &[
        field("identity", Shape::Text, "Its SPIFFE ID."),
        field("health", Shape::Text, "Whether it is healthy."),
        field(
            "connected",
            Shape::Flag,
            "Whether its host's agent speaks with the control plane now.",
        ),
        field("detail", Shape::Text, "What its host says of it."),
    ],
};
