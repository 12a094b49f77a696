//! The OpenAPI document: made from the descriptions that the router is built with, so that every path,
//! parameter and method in it is one that is served. Only the schemas of bodies are written here.

mod check;
mod health;
mod limits;
mod overview;
mod past;

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::detector::DETECTORS;
use super::replay;
use super::router::{Resource, resources};
use super::spec::{Answer, BodySpec, Operation, Parameter, Shape};

/// The document as JSON text.
pub(super) fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(build().to_string()));
    DOCUMENT.clone()
}

fn build() -> Value {
    let paths: Map<String, Value> = resources()
        .iter()
        .map(|resource| (resource.path.to_owned(), path_item(resource)))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "rollcall",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A service registry that remembers: every registration, heartbeat, expiry and \
                lookup is an event with a trace id. Long answers to GET come in gzip or zstd to clients that \
                accept it; each form has an etag of its own.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:7655"}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": {"Problem": {
                "description": "It was not done, and why (RFC 9457).",
                "content": {"application/problem+json": {"schema": reference("Problem")}},
            }},
            "headers": {
                "rollcall-log": {"description": "The id of the log.", "schema": {"type": "string", "format": "uuid"}},
                "traceresponse": {
                    "description": "The trace and the span of this request (W3C Trace Context).",
                    "schema": {"type": "string"},
                },
                "rollcall-seq": {
                    "description": "The version of the state that the answer reflects; for a lookup, the service's revision.",
                    "schema": {"type": "integer", "minimum": 0},
                },
            },
        },
    })
}

fn path_item(resource: &Resource) -> Value {
    let mut item: Map<String, Value> = resource
        .operations
        .iter()
        .map(|operation| (operation.method.key().to_owned(), describe(operation)))
        .collect();
    let schema = |name| match name {
        "service" | "instance" => reference("Name"),
        _ => json!({"type": "string"}),
    };
    let names: Vec<Value> = ["service", "instance", "id", "trace_id"]
        .into_iter()
        .filter(|name| resource.path.contains(&format!("{{{name}}}")))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": schema(name)}))
        .collect();
    if !names.is_empty() {
        item.insert("parameters".into(), names.into());
    }
    Value::Object(item)
}

fn describe(operation: &Operation) -> Value {
    let query = operation.query.iter().map(query_parameter);
    let headers = operation.headers.iter().chain(&["rollcall-caller", "traceparent", "tracestate"]).map(
        |name| json!({"name": name, "in": "header", "required": false, "schema": {"type": "string"}}),
    );
    let mut answers: Map<String, Value> = operation
        .answers
        .iter()
        .map(|answer| (answer.status.to_string(), response(answer)))
        .collect();
    answers.insert("default".into(), json!({"$ref": "#/components/responses/Problem"}));
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": query.chain(headers).collect::<Vec<Value>>(),
        "responses": answers,
    });
    if let Some(body) = &operation.body {
        described["requestBody"] = request_body(body);
    }
    described
}

fn query_parameter(parameter: &Parameter) -> Value {
    let mut schema = match parameter.shape {
        Shape::Text(max) => json!({"type": "string", "maxLength": max}),
        Shape::Word(words) => json!({"type": "string", "enum": words}),
        Shape::Count(min, max, default) => {
            json!({"type": "integer", "minimum": min, "maximum": max, "default": default})
        }
    };
    if parameter.repeats {
        schema = json!({"type": "array", "items": schema});
    }
    json!({
        "name": parameter.name, "in": "query", "required": false,
        "description": parameter.about, "schema": schema,
    })
}

fn request_body(body: &BodySpec) -> Value {
    let content: Map<String, Value> = body
        .media
        .iter()
        .map(|media| ((*media).to_owned(), json!({"schema": reference(body.schema)})))
        .collect();
    json!({
        "required": !body.optional,
        "description": format!("At most {} bytes.", body.limit),
        "content": content,
    })
}

fn response(answer: &Answer) -> Value {
    let header = |name: &str| json!({"$ref": format!("#/components/headers/{name}")});
    let mut described = json!({
        "description": answer.about,
        "headers": {
            "rollcall-log": header("rollcall-log"),
            "traceresponse": header("traceresponse"),
            "rollcall-seq": header("rollcall-seq"),
        },
    });
    if let Some(schema) = answer.schema {
        let media = match schema {
            "Text" => "text/plain",
            "Stream" => "text/event-stream",
            "Profile" => "application/octet-stream",
            _ => "application/json",
        };
        described["content"] = json!({media: {"schema": reference(schema)}});
        if schema == "Graph" {
            // The same as a picture.
            for media in ["text/plain", "text/vnd.graphviz"] {
                described["content"][media] = json!({"schema": reference("Text")});
            }
        }
    }
    described
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// An object of which these fields are always there.
fn object(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
}

/// The same, of which all fields are always there.
fn full(properties: Value) -> Value {
    let names: Vec<&str> =
        properties.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
    object(&names, properties.clone())
}

/// An object that may have these fields besides.
fn with_optional(mut schema: Value, properties: Value) -> Value {
    merge(&mut schema["properties"], &properties);
    schema
}

/// The same properties, and where to find the trace.
fn with_trace(mut properties: Value) -> Value {
    for name in ["trace_id", "span_id", "trace_url"] {
        properties[name] = json!({"type": ["string", "null"]});
    }
    properties
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

/// Every schema: those of the present, of health, and of the past.
fn schemas() -> Value {
    let mut all = present();
    all["Check"] = check::schema();
    let past = past::schemas(&all);
    merge(&mut all, &past);
    merge(&mut all, &health::schemas());
    limits::add(&mut all);
    overview::add(&mut all);
    all
}

fn present() -> Value {
    let (text, count, truth) = (
        json!({"type": "string"}),
        json!({"type": "integer", "minimum": 0}),
        json!({"type": "boolean"}),
    );
    let maybe = |kind: &str| json!({"type": [kind, "null"]});
    let word = |words: &[&str]| json!({"type": "string", "enum": words});
    let instant = json!({"type": "string", "format": "date-time"});
    let mode = word(&["active", "standby", "draining"]);
    let status = word(&["healthy", "unstable", "failed"]);
    let port = json!({"type": "integer", "minimum": 1, "maximum": 65535});
    let weight = json!({"type": "integer", "minimum": 0, "maximum": 10000, "default": 100});
    let label = json!({"type": "string", "maxLength": 128});
    let tags = json!({"type": "array", "maxItems": 32, "items": {"type": "string", "minLength": 1, "maxLength": 128}});
    let metadata =
        json!({"type": "object", "maxProperties": 64, "additionalProperties": {"type": "string"}});
    let duration = reference("Duration");

    let instance = json!({
        "namespace": text, "service": text, "instance": text, "incarnation": count, "address": text, "port": port,
        "protocol": text, "version": maybe("string"), "zone": maybe("string"), "weight": weight, "tags": tags,
        "metadata": metadata, "mode": mode, "status": status, "ttl": duration, "registered_at": instant,
        "revision": count,
    });
    let mut with_lease = instance.clone();
    with_lease["lease"] = reference("Lease");
    let beat = json!({
        "incarnation": {"type": "integer", "minimum": 1}, "load": {"type": "number", "minimum": 0},
        "health": word(&["passing", "failing"]), "note": {"type": "string", "maxLength": 256},
    });
    let mut batch_beat =
        json!({"namespace": text, "service": reference("Name"), "instance": reference("Name")});
    merge(&mut batch_beat, &beat);
    let named = json!({"namespace": text, "service": text, "instance": text});
    let mut conflict = named.clone();
    conflict["incarnation"] = count.clone();
    let nullable = |schema: &Value| json!({"anyOf": [schema, {"type": "null"}]});
    let figures = full(json!({"late": count, "gone": count, "living": count}));
    let guard = json!({
        "type": ["object", "null"], "description": "The guard against mass expiry; null if it is switched off.",
        "properties": {"holds": {"type": "boolean"}, "over": list(full(json!({
            "namespace": {"type": ["string", "null"]}, "service": {"type": ["string", "null"]},
            "since": text, "event": text, "limit": duration, "entered_by": figures, "present": figures,
            "held": count,
        })))},
    });
    let fill = full(json!({"waiting": count, "capacity": count}));

    json!({
        "Name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": 128},
        "Duration": {"type": "string", "examples": ["500ms", "15s", "2m", "24h"]},
        "Registration": object(&["address", "port"], json!({
            "address": text, "port": port, "protocol": text, "version": label, "zone": label, "weight": weight,
            "tags": tags, "metadata": metadata, "mode": mode, "ttl": reference("Ttl"),
            "detector": word(DETECTORS), "phi_threshold": reference("PhiThreshold"),
            "check": nullable(&reference("Check")),
        })),
        "Ttl": {
            "description": "1 s to 24 h; a bare number is seconds. \"none\" for an instance that is only probed: it needs a check.",
            "anyOf": [duration, {"type": "number", "minimum": 1, "maximum": 86400}], "default": "15s",
        },
        "ShortRegistration": object(&["service_name", "host", "port"], json!({
            "service_name": reference("Name"), "host": text, "port": port, "id": reference("Name"),
            "metadata": metadata, "ttl": reference("Ttl"),
        })),
        "Patch": {
            "type": "object", "minProperties": 1, "additionalProperties": false,
            "description": "A merge patch: null takes a field back to its default.",
            "properties": {
                "mode": nullable(&mode), "weight": nullable(&weight), "tags": nullable(&tags),
                "metadata": {"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}},
            },
        },
        "Instance": with_optional(full(instance), health::of_some()),
        "InstanceWithLease": with_optional(full(with_lease), health::of_some()),
        "InstanceNowOrThen": {"anyOf": [reference("InstanceWithLease"), reference("Instance")]},
        "Lookup": object(&["namespace", "service", "revision", "instances"], json!({
            "namespace": text, "service": text, "revision": count,
            "degraded": {"type": "boolean", "description": "Only there if nothing healthy is left."},
            "instances": list(json!({"anyOf": [reference("Instance"), reference("InstanceWithLease")]})),
        })),
        "Heartbeat": object(&[], beat),
        "Heartbeats": object(&["instances"], json!({
            "instances": {"type": "array", "maxItems": 1000, "items": object(&["service", "instance"], batch_beat)},
        })),
        "Renewed": full(json!({"status": status, "mode": mode, "ttl": duration, "heartbeat_interval": nullable(&duration)})),
        "RenewedBatch": full(json!({
            "renewed": count, "unknown": list(full(named)), "conflicts": list(full(conflict)),
        })),
        "Services": full(json!({
            "services": list(full(json!({
                "namespace": text, "service": text, "revision": count, "instances": count, "healthy": count,
            }))),
            "next": maybe("string"),
        })),
        "Namespaces": full(json!({
            "namespaces": list(full(json!({"namespace": text, "services": count, "instances": count}))),
        })),
        "Targets": list(full(json!({
            "targets": list(text.clone()), "labels": {"type": "object", "additionalProperties": text},
        }))),
        "Event": with_optional(full(json!({
            "id": text, "seq": count, "at": instant, "kind": text, "namespace": maybe("string"),
            "service": maybe("string"), "instance": maybe("string"), "caller": maybe("string"),
            "trace_id": maybe("string"), "span_id": maybe("string"), "cause": maybe("integer"),
            "data": {"type": ["object", "null"]},
        })), json!({"trace_url": maybe("string"), "last_heartbeat_trace_url": maybe("string")})),
        "Events": object(&["events", "next", "complete"], json!({
            "events": list(reference("Event")), "next": maybe("string"), "complete": truth,
            "missing": list(reference("Missing")),
        })),
        "Place": full(json!({"seq": count, "at": instant})),
        "Replay": object(&["position", "from", "to", "speed", "state"], json!({
            "position": reference("Place"), "from": reference("Place"), "to": reference("Place"), "speed": text,
            "state": word(&["playing", "paused", "ended"]),
            "cause": {"type": "string", "description": "Only there if the log can't be read."},
        })),
        "ReplaySteer": object(&[], json!({
            "state": word(&["playing", "paused"]),
            "speed": {"type": ["string", "number"], "examples": ["10x", "0.5x"]},
            "at": {"type": "string", "description": replay::AT},
        })),
        "Live": full(json!({"live": truth})),
        "Ready": object(&["ready", "log"], json!({"ready": truth, "log": word(&["writable", "failed"]), "cause": text})),
        "Status": full(json!({
            "version": text, "log_id": text, "uptime": duration, "head": count, "traffic_head": count,
            "services": count, "instances": count, "log": {"type": "object"}, "kept": {"type": "object"},
            "queues": full(json!({"changes": fill, "traffic": fill})),
            "replay": {"type": ["object", "null"]}, "guard": guard,
        })),
        "Problem": {
            "type": "object", "required": ["type", "title", "status", "detail", "trace_id"],
            "properties": {
                "type": text, "title": text, "status": count, "detail": text, "trace_id": text,
                "incarnation": count,
                "errors": list(full(json!({"field": text, "message": text}))),
            },
        },
        "Text": text,
        "Profile": {"type": "string", "format": "binary"},
        "Stream": {
            "type": "string",
            "description": "Server-sent events. `id:` is the number of the change (with `traffic=true` a pair, `42,t1093`), \
                `event:` its kind, `data:` an Event. The last one, if the registry ends the stream, is `event: end` \
                with a reason: slow, shutdown or unreadable.",
        },
        "OpenApi": {"type": "object"},
    })
}

fn merge(into: &mut Value, from: &Value) {
    for (name, value) in from.as_object().into_iter().flatten() {
        into[name] = value.clone();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = build();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        for schema in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(
                found.contains(&format!("#/components/schemas/{schema}")),
                "{schema} is not used"
            );
        }
    }

    #[test]
    fn operations_have_names_of_their_own_and_parameters_once() {
        let mut ids = BTreeSet::new();
        for operation in resources().iter().flat_map(|resource| &resource.operations) {
            assert!(ids.insert(operation.id), "{} twice", operation.id);
            let names: BTreeSet<_> =
                operation.query.iter().map(|parameter| parameter.name).collect();
            assert_eq!(names.len(), operation.query.len(), "{}", operation.id);
        }
    }
}
