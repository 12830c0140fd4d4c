//! The tables of what the control plane makes from what runs: EndpointSlice and Workload. Nobody writes them.

use super::{
    Fields, Shape,
    common::{API_VERSION, KIND, METADATA, PORT_NUMBER, REFERENCE},
    every, field, required,
};

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
            every(&Shape::Object(&SLICE_PORT)),
            "The ports that every one of the endpoints has.",
        ),
        required(
            "endpoints",
            every(&Shape::Object(&ENDPOINT)),
            "The endpoints.",
        ),
    ],
};

static SLICE_PORT: Fields = Fields {
    doc: "A port of the endpoints.",
    list: &[
        field("name", Shape::Text, "The name of the service's port."),
        field("port", PORT_NUMBER, "The workload's port."),
        field("protocol", Shape::Word(&["TCP"]), "What carries it."),
        field("appProtocol", Shape::Text, "What it speaks."),
    ],
};

static ENDPOINT: Fields = Fields {
    doc: "One workload that answers.",
    list: &[
        required("addresses", every(&Shape::Text), "Its addresses."),
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
        field(
            "addresses",
            every(&Shape::Text),
            "The addresses of that host.",
        ),
        field(
            "hbonePort",
            PORT_NUMBER,
            "Where the host's proxy takes mutual TLS.",
        ),
        field("ports", every(&Shape::Object(&WORKLOAD_PORT)), "Its ports."),
    ],
};

static WORKLOAD_PORT: Fields = Fields {
    doc: "A port of the program.",
    list: &[
        field("servicePort", PORT_NUMBER, "The port of its service."),
        field("port", PORT_NUMBER, "Its own port behind that."),
        field("appProtocol", Shape::Text, "What it speaks."),
        field(
            "published",
            PORT_NUMBER,
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
