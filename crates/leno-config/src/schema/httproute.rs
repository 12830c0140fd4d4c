//! The tables of an HTTPRoute.

use super::{
    Fields, Merge, Shape,
    common::{API_VERSION, CONDITIONS, KIND, METADATA, PORT_NUMBER, REFERENCE},
    every, field, list, merged, refused, required,
};
use crate::httproute::{
    FIELD_TYPES, MAX_BACKENDS, MAX_FIELDS, MAX_HOSTNAMES, MAX_MATCHES, MAX_PARENTS, MAX_RULES,
    MAX_WEIGHT, METHODS, PATH_TYPES,
};

/// An HTTPRoute.
pub(super) static ROOT: Fields = Fields {
    doc: "Rules for the requests of services: which backends answer, in what shares, and how long they may take.",
    list: &[
        API_VERSION,
        KIND,
        METADATA,
        required("spec", Shape::Object(&SPEC), "What the route is to do."),
        field("status", Shape::Object(&STATUS), "What became of it."),
    ],
};

/// `spec`.
pub(crate) static SPEC: Fields = Fields {
    doc: "What the route is to do.",
    list: &[
        required(
            "parentRefs",
            list(&Shape::Object(&PARENT), MAX_PARENTS),
            "The services whose requests it is for.",
        ),
        field(
            "hostnames",
            list(&Shape::Text, MAX_HOSTNAMES),
            "Only the service's own names: its address is what selects the route.",
        ),
        field(
            "rules",
            list(&Shape::Object(&RULE), MAX_RULES),
            "Its rules. Of those that match, the most specific one is followed, as the Gateway API orders them.",
        ),
        refused(
            "useDefaultGateways",
            "there are no gateways yet: name a Service in parentRefs",
        ),
    ],
};

/// `spec.parentRefs[]`.
pub(crate) static PARENT: Fields = Fields {
    doc: "A service whose requests the route is for.",
    list: &[
        field(
            "group",
            Shape::Text,
            "\"\" for a Service. The Gateway API means its own group where none is written, so write it.",
        ),
        field("kind", Shape::Text, "Service."),
        required("name", Shape::Text, "The service's name."),
        field(
            "namespace",
            Shape::Text,
            "Its namespace, which must be the route's own.",
        ),
        field(
            "port",
            PORT_NUMBER,
            "The one port of it; all where none is written.",
        ),
        refused("sectionName", "a Service has no sections: write `port`"),
    ],
};

/// `spec.rules[]`.
pub(crate) static RULE: Fields = Fields {
    doc: "What is done with the requests that match.",
    list: &[
        field(
            "name",
            Shape::Text,
            "Its name, unique in the route; metrics and logs show it.",
        ),
        field(
            "matches",
            list(&Shape::Object(&MATCH), MAX_MATCHES),
            "Which requests: those that fit one of these; all where none is written.",
        ),
        field(
            "backendRefs",
            list(&Shape::Object(&BACKEND), MAX_BACKENDS),
            "Who answers them, in shares by weight; the parent's own endpoints where none is written.",
        ),
        field(
            "timeouts",
            Shape::Object(&TIMEOUTS),
            "How long they may take.",
        ),
        refused("filters", "filters are not supported yet"),
        refused(
            "retry",
            "retries have documented constants and cannot be configured yet",
        ),
        refused(
            "sessionPersistence",
            "session persistence is not supported yet",
        ),
    ],
};

/// `spec.rules[].timeouts`.
pub(crate) static TIMEOUTS: Fields = Fields {
    doc: "How long requests may take, such as 500ms, 5s or 1m30s; 0s is no limit.",
    list: &[
        field(
            "request",
            Shape::Text,
            "For the whole, from the request's first byte to the answer's last, with every further try.",
        ),
        field(
            "backendRequest",
            Shape::Text,
            "For one try; not longer than `request`.",
        ),
    ],
};

/// `spec.rules[].backendRefs[]`.
pub(crate) static BACKEND: Fields = Fields {
    doc: "A service that answers a share of the requests.",
    list: &[
        field("group", Shape::Text, "\"\"."),
        field("kind", Shape::Text, "Service."),
        required("name", Shape::Text, "The service's name."),
        field(
            "namespace",
            Shape::Text,
            "Its namespace; the route's own where none is written.",
        ),
        required("port", PORT_NUMBER, "The port of it."),
        field(
            "weight",
            Shape::Number(0, MAX_WEIGHT),
            "Its share: this weight of the sum of all; 1 where none is written, 0 for none.",
        ),
        refused("filters", "filters are not supported yet"),
    ],
};

/// `spec.rules[].matches[]`.
pub(crate) static MATCH: Fields = Fields {
    doc: "What a request must be; all of it.",
    list: &[
        field("path", Shape::Object(&PATH), "Its path."),
        field("method", Shape::Word(METHODS), "Its method."),
        field(
            "headers",
            merged(&Shape::Object(&NAMED), MAX_FIELDS, Merge::Keys(&["name"])),
            "Header fields it must have.",
        ),
        field(
            "queryParams",
            merged(&Shape::Object(&NAMED), MAX_FIELDS, Merge::Keys(&["name"])),
            "Query parameters it must have.",
        ),
    ],
};

/// `spec.rules[].matches[].path`.
pub(crate) static PATH: Fields = Fields {
    doc: "A path of a request.",
    list: &[
        field(
            "type",
            Shape::Word(PATH_TYPES),
            "Whether it is the whole path, or what the path begins with, element by element.",
        ),
        field("value", Shape::Text, "The path; / where none is written."),
    ],
};

/// A member of `headers` and of `queryParams`.
pub(crate) static NAMED: Fields = Fields {
    doc: "A named value that a request must have.",
    list: &[
        field(
            "type",
            Shape::Word(FIELD_TYPES),
            "How the value is compared. Exact is the only one.",
        ),
        required("name", Shape::Text, "The name."),
        required("value", Shape::Text, "The value."),
    ],
};

static STATUS: Fields = Fields {
    doc: "What became of the route; computed when it is read, it cannot be written.",
    list: &[field(
        "parents",
        every(&Shape::Object(&PARENT_STATUS)),
        "What became of it at each of its parents.",
    )],
};

static PARENT_STATUS: Fields = Fields {
    doc: "What became of the route at one parent.",
    list: &[
        field("parentRef", Shape::Object(&REFERENCE), "The parent."),
        field("controllerName", Shape::Text, "Who says so."),
        CONDITIONS,
    ],
};
