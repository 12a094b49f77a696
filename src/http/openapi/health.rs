//! The schemas of leases and of what speaks for and against an instance. Merged into the document by [`super`].

use serde_json::{Value, json};

use super::{full, reference, with_optional};

/// Fields of an instance that only some have.
pub(super) fn of_some() -> Value {
    json!({
        "check": reference("Check"),
        "drain_until": {
            "type": "string", "format": "date-time", "description": "Only there if the drain has an end.",
        },
        "detector": {"const": "phi", "description": "Only there if it is not the fixed one."},
        "phi_threshold": reference("PhiThreshold"),
    })
}

/// The schemas of this file.
pub(super) fn schemas() -> Value {
    let (count, truth) = (json!({"type": "integer", "minimum": 0}), json!({"type": "boolean"}));
    let lease = full(json!({
        "last_heartbeat_at": {"type": ["string", "null"]}, "age_ms": count, "missed": count,
        "expires_in_ms": {
            "type": ["integer", "null"], "minimum": 0, "description": "Null if it never expires.",
        },
    }));
    let sometimes = json!({
        "load": {"type": "number", "minimum": 0, "description": "What it said last; only there if it said one."},
        "phi": {
            "type": "number", "minimum": 0,
            "description": "Of the silence so far; only there if the detector is phi and knows enough gaps.",
        },
        "mean_gap_ms": count,
        "signals": reference("Signals"),
    });
    let mut named = lease.clone();
    named["properties"]["instance"] = json!({"type": "string"});
    if let Some(required) = named["required"].as_array_mut() {
        required.push("instance".into());
    }
    json!({
        "Leases": full(json!({
            "namespace": {"type": "string"}, "service": {"type": "string"}, "revision": count,
            "leases": {"type": "array", "items": with_optional(named, sometimes.clone())},
        })),
        "Lease": with_optional(lease, sometimes),
        "PhiThreshold": {
            "type": "number", "minimum": 1, "maximum": 16, "default": 8,
            "description": "φ at which a silence counts as a missing heartbeat; only with the detector phi.",
        },
        "Signals": full(json!({
            "late": truth, "reported_failing": truth, "flapping": truth,
            "probe": {
                "enum": ["pending", "passing", "suspect", "failing", null],
                "description": "Null without a check.",
            },
        })),
    })
}
