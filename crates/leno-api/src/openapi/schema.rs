//! From a table of fields to a schema of OpenAPI.

use leno_config::{Field, Fields, Kind, List, Merge, Shape};
use serde_json::{Map, Value, json};

use super::Dialect;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// The definitions of these kinds, of their lists, and of what they refer to.
pub(super) fn definitions(kinds: &[Kind], dialect: Dialect) -> Map<String, Value> {
    let mut all = Map::new();
    for kind in kinds.iter().copied() {
        let root = leno_config::schema(kind);
        if let Some(meta) = root.get("metadata")
            && let Shape::Object(fields) = meta.shape
        {
            let writer = Writer {
                dialect,
                strategic: true,
            };
            all.insert(OBJECT_META.into(), writer.object(fields));
        }
        let writer = Writer {
            dialect,
            strategic: kind == Kind::Service,
        };
        let mut value = writer.object(root);
        value["properties"]["metadata"] = writer.reference(OBJECT_META);
        value["x-kubernetes-group-version-kind"] = json!([type_of(kind, kind.kind())]);
        let name = name(kind);
        all.insert(format!("{name}List"), writer.list_of(kind, &name));
        all.insert(name, value);
    }
    let number_or_name = match dialect {
        Dialect::V2 => json!({"type": "string", "format": "int-or-string"}),
        Dialect::V3 => json!({
            "format": "int-or-string",
            "oneOf": [{"type": "integer"}, {"type": "string"}],
        }),
    };
    all.insert(INT_OR_STRING.into(), number_or_name);
    all.insert(
        LIST_META.into(),
        json!({
            "type": "object",
            "description": "What a list has besides its items.",
            "properties": {
                "continue": {"type": "string", "description": "Where the next page begins; there is none where it is empty."},
                "remainingItemCount": {"type": "integer", "format": "int64", "description": "How many items are in later pages."},
                "resourceVersion": {"type": "string", "description": "The revision of which the list is; a watch goes on from it."},
                "selfLink": {"type": "string", "description": "Never set."},
            },
        }),
    );
    all
}

/// A kind as OpenAPI documents of Kubernetes name it.
pub(super) fn type_of(kind: Kind, name: &str) -> Value {
    json!({"group": kind.group(), "kind": name, "version": kind.version()})
}

/// `io.k8s.api.core.v1.Service`, `dev.leno.v1alpha1.AccessPolicy`.
fn name(kind: Kind) -> String {
    let group = match kind.group() {
        "" => "io.k8s.api.core".into(),
        "discovery.k8s.io" => "io.k8s.api.discovery".into(),
        group => group.rsplit('.').collect::<Vec<_>>().join("."),
    };
    format!("{group}.{}.{}", kind.version(), kind.kind())
}

#[derive(Clone, Copy)]
struct Writer {
    dialect: Dialect,
    /// Whether the objects are changed by strategic merge patches.
    strategic: bool,
}

impl Writer {
    fn reference(self, name: &str) -> Value {
        match self.dialect {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({
                "allOf": [{"$ref": format!("#/components/schemas/{name}")}],
            }),
        }
    }

    fn list_of(self, kind: Kind, name: &str) -> Value {
        let list = format!("{}List", kind.kind());
        json!({
            "type": "object",
            "description": format!("A list of {}.", kind.plural()),
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": self.reference(LIST_META),
                "items": {"type": "array", "items": self.reference(name)},
            },
            "x-kubernetes-group-version-kind": [type_of(kind, &list)],
        })
    }

    fn object(self, fields: &Fields) -> Value {
        let properties: Map<String, Value> = fields
            .list
            .iter()
            .map(|field| (field.name.to_owned(), self.field(field)))
            .collect();
        // The type of a whole object is known by its path; clients leave it out of what they validate.
        let names = fields.list.iter().filter(|field| field.required);
        let names = names.map(|field| field.name);
        let required: Vec<&str> = names
            .filter(|name| !matches!(*name, "apiVersion" | "kind" | "metadata"))
            .collect();
        let mut value = json!({
            "type": "object",
            "description": fields.doc,
            "properties": properties,
        });
        if !required.is_empty() && !self.of_metadata(fields) {
            value["required"] = required.into();
        }
        value
    }

    /// A name may still be generated, or stand in the path: `metadata` requires nothing of its own.
    fn of_metadata(self, fields: &Fields) -> bool {
        fields.get("resourceVersion").is_some()
    }

    fn field(self, field: &Field) -> Value {
        let mut value = self.shape(field.shape);
        let doc = if field.refused {
            format!("Not supported: {}.", field.doc.trim_end_matches('.'))
        } else {
            field.doc.to_owned()
        };
        value["description"] = doc.into();
        value
    }

    fn shape(self, shape: Shape) -> Value {
        match shape {
            Shape::Text => json!({"type": "string"}),
            Shape::Time => json!({"type": "string", "format": "date-time"}),
            Shape::Word(words) => json!({"type": "string", "enum": words}),
            Shape::Number(low, u64::MAX) => {
                json!({"type": "integer", "format": "int64", "minimum": low})
            }
            Shape::Number(low, high) => {
                json!({"type": "integer", "format": "int32", "minimum": low, "maximum": high})
            }
            Shape::Flag => json!({"type": "boolean"}),
            Shape::NumberOrName => self.reference(INT_OR_STRING),
            Shape::Texts => {
                json!({"type": "object", "additionalProperties": {"type": "string"}})
            }
            Shape::Map(fields) => {
                json!({"type": "object", "additionalProperties": self.object(fields)})
            }
            Shape::Object(fields) => self.object(fields),
            Shape::List(list) => self.list(list),
            Shape::Anything => json!({}),
        }
    }

    fn list(self, list: List) -> Value {
        let mut value = json!({"type": "array", "items": self.shape(*list.item)});
        if list.max < usize::MAX {
            value["maxItems"] = list.max.into();
        }
        let (kind, key) = match list.merge {
            Merge::Atomic => ("atomic", None),
            Merge::Set => ("set", None),
            Merge::Keys(keys) => {
                value["x-kubernetes-list-map-keys"] = json!(keys);
                ("map", keys.first())
            }
        };
        value["x-kubernetes-list-type"] = kind.into();
        if let (Some(key), true) = (key, self.strategic) {
            value["x-kubernetes-patch-merge-key"] = (*key).into();
            value["x-kubernetes-patch-strategy"] = "merge".into();
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_ports_merge_by_their_number() {
        for dialect in [Dialect::V2, Dialect::V3] {
            let all = definitions(&[Kind::Service, Kind::HttpRoute], dialect);
            let spec = &all["io.k8s.api.core.v1.Service"]["properties"]["spec"];
            let ports = &spec["properties"]["ports"];
            assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
            assert_eq!(
                ports["x-kubernetes-list-map-keys"],
                json!(["port", "protocol"])
            );
            let route = &all["io.k8s.networking.gateway.v1.HTTPRoute"];
            assert!(
                !route.to_string().contains("patch-merge-key"),
                "other kinds are changed by plain merge patches"
            );
        }
    }

    #[test]
    fn what_cannot_be_honoured_says_why() {
        let all = definitions(&[Kind::Service], Dialect::V3);
        let spec = &all["io.k8s.api.core.v1.Service"]["properties"]["spec"];
        assert_eq!(
            spec["properties"]["healthCheckNodePort"],
            json!({"description": "Not supported: there are no node ports."})
        );
    }
}
