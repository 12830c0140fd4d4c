//! The tables of a HostnameGenerator.

use super::{
    Fields, Merge, Shape,
    common::{API_VERSION, CONDITIONS, KIND, METADATA},
    field, merged, refused, required,
};
use crate::hostname_generator::MAX_NAMESPACES;

/// A HostnameGenerator.
pub(super) static ROOT: Fields = Fields {
    doc: "Further names for services, made from a template. Such a name is the service's own in every way.",
    list: &[
        API_VERSION,
        KIND,
        METADATA,
        required(
            "spec",
            Shape::Object(&SPEC),
            "Which names, for which services.",
        ),
        field("status", Shape::Object(&STATUS), "What became of it."),
    ],
};

/// `spec`.
pub(crate) static SPEC: Fields = Fields {
    doc: "Which names, for which services.",
    list: &[
        required("selector", Shape::Object(&SELECTOR), "What gets a name."),
        required(
            "template",
            Shape::Text,
            "What the names are like: text, {{ .Name }}, {{ .DisplayName }}, {{ .Namespace }}, {{ .Mesh }} and \
             {{ label \"KEY\" }}; it ends in a domain that is written out.",
        ),
        refused(
            "extension",
            "there are no extensions: a template is all there is",
        ),
    ],
};

const ALL_ARE: &str = "in Leno all are a Service: write `service`";

/// `spec.selector`.
pub(crate) static SELECTOR: Fields = Fields {
    doc: "What gets a name.",
    list: &[
        required(
            "service",
            Shape::Object(&SERVICE),
            "The services that get a name; {} for every one.",
        ),
        refused("meshService", ALL_ARE),
        refused("meshMultiZoneService", ALL_ARE),
        refused(
            "meshExternalService",
            "what is outside the mesh has the names it has there",
        ),
    ],
};

/// `spec.selector.service`.
pub(crate) static SERVICE: Fields = Fields {
    doc: "Which services.",
    list: &[
        field(
            "matchLabels",
            Shape::Texts,
            "Labels that the service must have, all of them.",
        ),
        field(
            "namespaces",
            merged(&Shape::Text, MAX_NAMESPACES, Merge::Set),
            "The namespaces of the services; every one where none is written.",
        ),
        refused("matchExpressions", "only matchLabels are supported"),
    ],
};

static STATUS: Fields = Fields {
    doc: "What became of the generator; computed when it is read, it cannot be written.",
    list: &[
        CONDITIONS,
        field(
            "services",
            Shape::Number(0, u64::MAX),
            "How many services it selects.",
        ),
        field(
            "names",
            Shape::Number(0, u64::MAX),
            "How many of them have their name by it.",
        ),
    ],
};
