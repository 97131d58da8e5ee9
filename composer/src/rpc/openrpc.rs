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

#[cfg(test)]
mod tests {
    use super::{super::table::Answered, *};

    /// The same for people.
    fn page() -> String {
        let mut page = include_str!("api.md").to_owned();
        for method in METHODS {
            let who = match method.answered {
                Answered::ByClient => "the execution client",
                Answered::Atomic(_) | Answered::Here(_) | Answered::Subscribed(_) => "the composer",
            };
            let param = |param: &Param| {
                let optional = if param.is_required { "" } else { "?" };
                format!("{}{optional}: {}", param.name, param.schema.name())
            };
            let params: Vec<String> = method.params.iter().map(param).collect();
            page += &format!(
                "\n### `{}`\n{}. Answered by {who}.\n\n`[{}]` → `{}`\n",
                method.name,
                method.summary,
                params.join(", "),
                method.result.name(),
            );
        }
        page += "\n## Kinds of values\n";
        for schema in Schema::ALL {
            page += &format!("- **{}**: `{}`\n", schema.name(), schema.definition());
        }
        page
    }

    #[test]
    fn the_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/composer-api.md");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/composer-api.md is stale: run with UPDATE_GENERATED=1"
        );
    }

    #[test]
    fn the_document_refers_to_what_it_defines() {
        let document = document();
        let text = document["methods"].to_string() + &document["components"].to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(
                document["components"]["schemas"][name].is_object(),
                "{name}"
            );
        }
        let names = document["methods"].as_array().unwrap().iter();
        assert!(
            names
                .map(|method| method["name"].as_str().unwrap())
                .eq(METHODS.iter().map(|method| method.name))
        );
    }
}
