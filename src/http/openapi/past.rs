//! The schemas of what the past is answered with. Called by [`super`].

use serde_json::{Value, json};

use super::{full, list, object, reference, with_trace};

/// The schemas, beside those of the `present`, which they refer to.
pub(super) fn schemas(present: &Value) -> Value {
    let (text, count, truth) = (
        json!({"type": "string"}),
        json!({"type": "integer", "minimum": 0}),
        json!({"type": "boolean"}),
    );
    let maybe = |kind: &str| json!({"type": [kind, "null"]});
    let word = |words: &[&str]| json!({"type": "string", "enum": words});
    let instant = json!({"type": "string", "format": "date-time"});
    let duration = reference("Duration");
    let nullable = |schema: &Value| json!({"anyOf": [schema, {"type": "null"}]});
    let version = full(json!({"seq": count, "at": instant}));
    let mut came = present["Instance"]["properties"].clone();
    came["event"] = nullable(&reference("Event"));

    json!({
        "Impact": object(
            &["instance", "departure", "last_sign_of_life", "callers", "streams", "long_polls", "lookups",
              "confirmations", "complete"],
            json!({
                "instance": reference("Instance"), "departure": reference("Event"),
                "last_sign_of_life": full(with_trace(json!({
                    "at": instant, "kind": word(&["heartbeat", "registered"]), "id": text,
                }))),
                "callers": list(object(
                    &["caller", "lookups", "confirmations", "first", "last", "held_until", "traces"],
                    json!({
                        "caller": text, "lookups": count, "confirmations": count, "first": instant, "last": instant,
                        "held_until": maybe("string"), "approximate": truth,
                        "traces": list(full(with_trace(json!({
                            "id": text, "at": instant, "revision": count, "status": count,
                        })))),
                    }),
                )),
                "streams": list(full(with_trace(json!({
                    "caller": text, "filter": text, "opened": maybe("string"), "told_at": maybe("string"),
                    "closed": maybe("string"),
                })))),
                "long_polls": list(full(with_trace(json!({
                    "caller": text, "revision": count, "told_at": instant,
                })))),
                "lookups": count, "confirmations": count, "complete": truth, "missing": list(reference("Missing")),
            }),
        ),
        "Graph": object(&["since", "until", "nodes", "edges", "complete"], json!({
            "since": instant, "until": instant,
            "nodes": list(full(json!({
                "id": text, "kind": word(&["service", "caller", "unknown"]), "namespace": maybe("string"),
                "name": text, "instances": count,
            }))),
            "edges": list(full(json!({
                "caller": text, "service": text, "namespace": maybe("string"), "from": text, "to": text,
                "lookups": count, "rate": {"type": "number"}, "failed": {"type": "number", "minimum": 0, "maximum": 1},
                "last": instant,
            }))),
            "others": count, "complete": truth, "missing": list(reference("Missing")),
        })),
        "Trace": object(&["trace_id", "trace_url", "events", "next", "complete"], json!({
            "trace_id": text, "trace_url": maybe("string"), "events": list(reference("Event")),
            "next": maybe("string"), "complete": truth, "missing": list(reference("Missing")),
        })),
        "Missing": object(&["from", "until", "reason"], json!({
            "from": instant, "until": instant, "events": text,
            "reason": word(&["retention", "not_imported", "log_gap", "crash", "damaged"]),
        })),
        "Diff": full(json!({
            "from": version, "to": version,
            "came": list(full(came)),
            "left": list(full(json!({"instance": reference("Instance"), "event": nullable(&reference("Event"))}))),
            "changed": list(full(json!({
                "namespace": text, "service": text, "instance": text, "events": list(text.clone()),
                "fields": {
                    "description": "By name, the value before and after; metadata key by key, as metadata.env; null is absent.",
                    "type": "object",
                    "additionalProperties": {"type": "array", "minItems": 2, "maxItems": 2, "items": {}},
                },
            }))),
            "passed": {"type": "integer", "minimum": 0, "description": "Lives that began and ended in between."},
            "reverted": {
                "type": "integer", "minimum": 0,
                "description": "Instances that were changed in between and are again as they were.",
            },
            "truncated": {"type": "boolean", "description": "Whether a list ends at `limit`; see `left_out`."},
            "left_out": full(json!({"came": count, "left": count, "changed": count})),
        })),
        "InstanceHistory": object(
            &["namespace", "service", "instance", "lives", "left_out", "flap_score", "gaps_exact_since", "complete"],
            json!({
                "namespace": text, "service": text, "instance": text,
                "lives": list(full(json!({
                    "incarnation": count, "from": instant, "until": maybe("string"),
                    "ended_by": nullable(&reference("Event")), "transitions": list(reference("Event")),
                    "widest_gaps": list(object(&["at", "gap_ms"], json!({
                        "at": {
                            "type": "string", "format": "date-time",
                            "description": "When it ended: with a sign of life, or with the life.",
                        },
                        "gap_ms": count,
                        "ended_by": {
                            "type": "string", "const": "expired",
                            "description": "Only where the life ended with this gap.",
                        },
                    }))),
                }))),
                "left_out": full(json!({"lives": count, "transitions": count})),
                "flap_score": {
                    "type": "number", "minimum": 0, "maximum": 1,
                    "description": "The figure of merit of RFC 2439 over its customary limit: 1 for a return, 0.5 for a \
                        recovery, halved every 15 minutes, over 2.",
                },
                "gaps_exact_since": {
                    "type": ["string", "null"],
                    "description": "Of the gaps that began before this instant only the widest of each hour is known; \
                        null if all are exact.",
                },
                "complete": truth, "missing": list(reference("Missing")),
            }),
        ),
        "Why": object(
            &["event", "summary", "trace_url", "instance", "life", "arithmetic", "last_heartbeat", "registration", "complete"],
            json!({
                "event": nullable(&reference("Event")),
                "summary": {"type": "string", "description": "A sentence to be read aloud."},
                "trace_url": maybe("string"),
                "instance": reference("Instance"),
                "life": full(json!({"incarnation": count, "from": instant, "until": maybe("string")})),
                "arithmetic": nullable(&full(json!({
                    "ttl": duration, "gap_ms": count, "allowed_ms": count, "late_ms": count, "grace_ms": count,
                    "missed": count,
                }))),
                "last_heartbeat": nullable(&full(json!({
                    "at": instant, "id": text, "trace_id": maybe("string"), "span_id": maybe("string"),
                    "trace_url": maybe("string"),
                }))),
                "registration": nullable(&full(json!({
                    "event": reference("Event"), "trace_url": maybe("string"),
                }))),
                "guard": {
                    "description": "For one that is unstable: the event by which the guard that holds was entered; for one that \
                        expired: the end of the guard that had held it.",
                    "anyOf": [reference("Event"), {"type": "null"}],
                },
                "complete": truth, "missing": list(reference("Missing")),
            }),
        ),
    })
}
