//! Schemas of maps and names whose bounds an attribute cannot express.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Label pairs: at most 16, with the lengths Kubernetes allows.
pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 63 },
    })
}

/// A DNS label: what names of objects and destinations are.
pub(super) fn dns_label(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" })
}

/// A DNS subdomain: the name of a class, a storage class or a secret.
pub(super) fn dns_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$" })
}

/// The signals a destination may ask for: those the agents take in, each once.
pub(super) fn signals(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 3,
        "items": { "type": "string", "enum": ["Logs", "Metrics", "Traces"] },
        "x-kubernetes-list-type": "set",
    })
}

/// The reason of a condition: bounded text in the schema, so that an operator ahead of its CRD can still write its status.
pub(super) fn condition_reason(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Z][A-Za-z]*$" })
}
