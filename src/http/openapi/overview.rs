//! The schema of what people look at, and what the status says for them. Called by [`super`].

use serde_json::{Value, json};

use super::{full, list};

/// Adds to `schemas`.
pub(super) fn add(schemas: &mut Value) {
    let (text, count) = (json!({"type": "string"}), json!({"type": "integer", "minimum": 0}));
    schemas["Overview"] = full(json!({
        "services": list(full(json!({
            "namespace": text, "service": text, "revision": count, "instances": count, "healthy": count,
            "unstable": count, "failed": count, "standby": count, "draining": count,
        }))),
        "left_out": count,
    }));
    schemas["Status"]["properties"]["trace_url"] = json!({
        "type": ["string", "null"],
        "description": "Where a trace can be seen, with {trace_id} and {span_id} in it; null if spans are not exported.",
    });
    schemas["Status"]["properties"]["mode"] = json!({
        "enum": ["serve", "replay"],
        "description": "`replay` where the past is shown: /v1/replay says as of when.",
    });
    if let Some(required) = schemas["Status"]["required"].as_array_mut() {
        required.extend(["trace_url".into(), "mode".into()]);
    }
}
