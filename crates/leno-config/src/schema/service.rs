//! The tables of a Service.

use super::{
    Fields, Merge, Shape,
    common::{API_VERSION, CONDITIONS, KIND, METADATA, PORT_NUMBER, REFERENCE},
    every, field, list, merged, refused, required,
};
use crate::service::{FAMILIES, FAMILY_POLICIES, MAX_FAMILIES, MAX_PORTS};

/// A Service.
pub(super) static ROOT: Fields = Fields {
    doc: "A name by which programs are called, its ports, and which workloads answer. `leno run --service` needs none: \
          one is derived of what runs, and one that was written always wins.",
    list: &[
        API_VERSION,
        KIND,
        METADATA,
        required("spec", Shape::Object(&SPEC), "What the service is to be."),
        field("status", Shape::Object(&STATUS), "What it is."),
    ],
};

/// `spec`.
pub(crate) static SPEC: Fields = Fields {
    doc: "What the service is to be.",
    list: &[
        field(
            "selector",
            Shape::Texts,
            "Labels that a workload must have, all of them, to answer for the service. Without: those that were \
             registered for it by name.",
        ),
        field(
            "ports",
            merged(
                &Shape::Object(&PORT),
                MAX_PORTS,
                Merge::Keys(&["port", "protocol"]),
            ),
            "Its ports; at least one unless it is headless.",
        ),
        field(
            "type",
            Shape::Word(&["ClusterIP"]),
            "How it is reached: at an address of the mesh. ClusterIP is the only one.",
        ),
        field(
            "clusterIP",
            Shape::Text,
            "The first of clusterIPs, or None for a headless service.",
        ),
        field(
            "clusterIPs",
            list(&Shape::Text, MAX_FAMILIES),
            "Its addresses, one of each family; given by Leno where none are written.",
        ),
        field(
            "ipFamilies",
            list(&Shape::Word(FAMILIES), MAX_FAMILIES),
            "The families of which it has an address; both where nothing is said.",
        ),
        field(
            "ipFamilyPolicy",
            Shape::Word(FAMILY_POLICIES),
            "Whether one family is enough.",
        ),
        field(
            "sessionAffinity",
            Shape::Word(&["None"]),
            "Whether a caller stays with its endpoint. None is the only one.",
        ),
        field(
            "internalTrafficPolicy",
            Shape::Word(&["Cluster"]),
            "Which endpoints are used: every one of the mesh. Cluster is the only one.",
        ),
        refused(
            "externalIPs",
            "addresses outside the mesh are not supported: publish a port with `leno run`",
        ),
        refused(
            "externalName",
            "names outside the mesh are not supported yet",
        ),
        refused(
            "externalTrafficPolicy",
            "there is no load balancer or node port to apply it to",
        ),
        refused("healthCheckNodePort", "there are no node ports"),
        refused("loadBalancerIP", "there is no load balancer"),
        refused("loadBalancerClass", "there is no load balancer"),
        refused(
            "loadBalancerSourceRanges",
            "there is no load balancer: use an AccessPolicy",
        ),
        refused("allocateLoadBalancerNodePorts", "there are no node ports"),
        refused(
            "publishNotReadyAddresses",
            "workloads that are not ready are called only when no other is",
        ),
        refused(
            "sessionAffinityConfig",
            "session affinity is not supported yet",
        ),
        refused(
            "trafficDistribution",
            "preferring near endpoints is not supported yet",
        ),
    ],
};

/// `spec.ports[]`.
pub(crate) static PORT: Fields = Fields {
    doc: "A port of the service.",
    list: &[
        field(
            "name",
            Shape::Text,
            "Its name; required where there is more than one. Up to its first hyphen it says the protocol, where \
             appProtocol does not.",
        ),
        required("port", PORT_NUMBER, "Its number."),
        field(
            "targetPort",
            Shape::NumberOrName,
            "The port of the workloads behind it, by number or by name; the same number where none is written.",
        ),
        field(
            "protocol",
            Shape::Word(&["TCP"]),
            "What carries it. TCP is the only one.",
        ),
        field(
            "appProtocol",
            Shape::Text,
            "What it speaks: http, http2, grpc, tls, tcp; detected where nothing is said.",
        ),
        refused(
            "nodePort",
            "there are no node ports: publish a port with `leno run`",
        ),
    ],
};

static STATUS: Fields = Fields {
    doc: "What the service is; computed when it is read, it cannot be written.",
    list: &[
        CONDITIONS,
        field(
            "loadBalancer",
            Shape::Anything,
            "Always empty: there is no load balancer.",
        ),
        field(
            "addresses",
            every(&Shape::Object(&ADDRESS)),
            "What the service is called besides its own name.",
        ),
        field(
            "hostnameGenerators",
            every(&Shape::Object(&GENERATED)),
            "What each generator of names gave to the service, or why not.",
        ),
    ],
};

static ADDRESS: Fields = Fields {
    doc: "A further name of the service.",
    list: &[
        field("hostname", Shape::Text, "The name."),
        field("origin", Shape::Text, "What gave it."),
        field(
            "hostnameGeneratorRef",
            Shape::Object(&REFERENCE),
            "The generator that gave it.",
        ),
    ],
};

static GENERATED: Fields = Fields {
    doc: "What a generator gave to the service.",
    list: &[
        field(
            "hostnameGeneratorRef",
            Shape::Object(&REFERENCE),
            "The generator.",
        ),
        CONDITIONS,
    ],
};
