//! The interface as an OpenRPC document, and as a page for people; both are the table.

use serde_json::{Map, Value, json};

use super::{
    schema::{Schema, reference},
    table::{METHODS, Method, Param},
};

/// What `rpc.discover` answers.
#[must_use]
pub(crate) fn document() -> Value {
    let methods: Vec<Value> = METHODS.iter().map(method).collect();
    let schemas = Schema::ALL
        .iter()
        .map(|schema| (schema.name(), schema.definition()));
    let schemas: Map<String, Value> = schemas.collect();
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "Counterpoint composer",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0 OR MIT" },
        },
        "methods": methods,
        "components": { "schemas": schemas },
    })
}

fn method(method: &Method) -> Value {
    let params: Vec<Value> = method.params.iter().map(param).collect();
    json!({
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "by-position",
        "params": params,
        "result": { "name": "result", "schema": reference(method.result) },
    })
}

fn param(param: &Param) -> Value {
    json!({
        "name": param.name,
        "required": param.is_required,
        "schema": reference(param.schema),
    })
}
