//! The schema of a check, as it is registered and as it is answered. Its bounds are the domain's. Called by [`super`].

use serde_json::{Value, json};

use super::{object, reference};
use crate::domain::Millis;
use crate::domain::check::CheckKind;
use crate::domain::limits::{
    CHECK_COUNT_MAX, CHECK_FAILURES_DEFAULT, CHECK_INTERVAL_DEFAULT, CHECK_INTERVAL_MAX,
    CHECK_INTERVAL_MIN, CHECK_PASSES_DEFAULT, CHECK_TEXT_CHARS_MAX, CHECK_TIMEOUT_DEFAULT,
};

/// How the registry is to find out by itself whether an instance lives.
pub(super) fn schema() -> Value {
    let text = json!({"type": "string", "maxLength": CHECK_TEXT_CHARS_MAX});
    let count = |default: u32| json!({"type": "integer", "minimum": 1, "maximum": CHECK_COUNT_MAX, "default": default});
    let duration = |least: Millis, default: Millis| {
        json!({
            "anyOf": [reference("Duration"), {"type": "number"}], "default": default.to_string(),
            "description": format!("{least} to {CHECK_INTERVAL_MAX}; a bare number is seconds."),
        })
    };
    let of = |mut schema: Value, description: &str| {
        schema["description"] = json!(description);
        schema
    };
    object(
        &["kind"],
        json!({
            "kind": {"type": "string", "enum": CheckKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>()},
            "port": {"type": "integer", "minimum": 1, "maximum": 65535, "description": "The port to probe; the instance's own without it."},
            "path": of(text.clone(), "http only: path and query of the page; any status but 2xx fails, redirects are not followed. Default /health."),
            "method": {"type": "string", "enum": ["GET", "HEAD"], "default": "GET", "description": "http only."},
            "expect": of(text.clone(), "http and GET only: what the first 64 KiB of the body must hold somewhere."),
            "service": of(text, "grpc only: the name that grpc.health.v1.Health/Check is asked for; empty is the server."),
            "tls": {"type": "boolean", "description": "http and grpc only: whether the probe speaks TLS. Default: the protocol is https or grpcs."},
            "interval": duration(CHECK_INTERVAL_MIN, CHECK_INTERVAL_DEFAULT),
            "timeout": duration(CHECK_INTERVAL_MIN, CHECK_TIMEOUT_DEFAULT),
            "initial_delay": duration(Millis::ZERO, Millis::ZERO),
            "failures": of(count(CHECK_FAILURES_DEFAULT), "So many failed probes in a row make it failed; with 1, one immediate second probe confirms."),
            "passes": of(count(CHECK_PASSES_DEFAULT), "So many passed ones in a row make it healthy again."),
            "deregister_after": {
                "anyOf": [reference("Duration"), {"type": ["number", "null"]}], "default": null,
                "description": "How long it may be failed by its check before it is taken out; null is for ever.",
            },
        }),
    )
}
