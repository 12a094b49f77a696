//! What the limits add to the schemas: their place in the status, and what a refusal names. Called by [`super`].

use serde_json::{Value, json};

use super::{full, merge, reference};

/// Adds to `schemas`.
pub(super) fn add(schemas: &mut Value) {
    let count = json!({"type": "integer", "minimum": 0});
    let maybe = json!({"type": ["integer", "null"], "minimum": 0});
    let number = json!({"type": "number", "minimum": 0});
    let fill = full(json!({"used": count, "limit": count}));
    let mut shedding = full(json!({
        "queue_time_ms": number, "waits_ms": number,
        "refused": full(json!({"heartbeat": number, "change": number, "lookup": number, "other": number})),
    }));
    shedding["type"] = json!(["object", "null"]);
    schemas["Limits"] = full(json!({
        "connections": fill, "requests": fill, "watchers": fill, "past_reads": fill, "watchers_per_caller": maybe,
        "caller_rate": maybe, "caller_burst": maybe, "instances_per_namespace": maybe, "instances_per_service": maybe,
        "shedding": shedding,
    }));
    schemas["Status"]["properties"]["limits"] = reference("Limits");
    if let Some(required) = schemas["Status"]["required"].as_array_mut() {
        required.push("limits".into());
    }
    merge(
        &mut schemas["Problem"]["properties"],
        &json!({
            "limit": {"type": "integer", "description": "The limit that was met, where one was."},
            "present": {"type": "integer", "description": "How much there is already."},
        }),
    );
}
