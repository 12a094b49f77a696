//! Prometheus' HTTP service discovery: every registered instance as a target, whatever its status, because
//! monitoring wants to see the failing ones most.
//!
//! Source: Prometheus, "Writing HTTP service discovery" (format) and "Configuration" (label names).

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use super::faults::Faults;
use super::problem::Problem;
use super::query::Query;
use super::scope::Scope;
use super::services::finish;
use super::spec::{ANY_NAMESPACE, Method, Operation, Parameter, Shape, answer};
use super::{About, Shared, wire};
use crate::domain::Instance;
use crate::domain::limits::{NAME_CHARS_MAX, TAG_CHARS_MAX, TAGS_MAX};
use crate::domain::selection::{SD_PROMETHEUS, canonical};

/// `GET /v1/sd/prometheus`
pub(super) const PROMETHEUS: Operation = Operation {
    method: Method::Get,
    id: "prometheusTargets",
    summary: "All instances as targets of Prometheus' HTTP service discovery.",
    query: &[
        ANY_NAMESPACE,
        Parameter::new("service", "Those of this service.", Shape::Text(NAME_CHARS_MAX)),
        Parameter::new(
            "tag",
            "Those that have this tag; all of them, if it repeats.",
            Shape::Text(TAG_CHARS_MAX),
        )
        .repeated(),
    ],
    headers: &[],
    body: None,
    answers: &[answer(200, "The targets.", "Targets")],
};

#[derive(Serialize)]
struct TargetGroup {
    targets: [String; 1],
    labels: Map<String, Value>,
}

pub(super) async fn prometheus(
    State(api): State<Shared>,
    scope: Scope,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &PROMETHEUS, &mut faults);
    let namespace = query.namespace(&mut faults);
    let service = query.service(&mut faults);
    let mut tags: Vec<&str> =
        query.pairs().filter(|(name, _)| *name == "tag").map(|(_, tag)| tag).collect();
    if tags.len() > TAGS_MAX {
        faults.invalid("tag", format!("may come at most {TAGS_MAX} times"));
    }
    faults.check()?;

    let (head, views) = api.projection.views(namespace.as_ref());
    let groups: Vec<TargetGroup> = views
        .iter()
        .filter(|view| service.as_ref().is_none_or(|service| view.key.service == *service))
        .flat_map(|view| view.entries.iter())
        .map(|entry| &**entry.instance)
        .filter(|instance| tags.iter().all(|tag| instance.labels.tags().any(|own| own == *tag)))
        .map(group)
        .collect();

    tags.sort_unstable();
    let named = service.as_ref().map(|service| ("service", service.as_str()));
    let asked = named.into_iter().chain(tags.into_iter().map(|tag| ("tag", tag)));
    let asked = canonical(asked);
    let filter = match asked.as_str() {
        "" => SD_PROMETHEUS.to_owned(),
        asked => format!("{SD_PROMETHEUS}&{asked}"),
    };
    let body = wire::json(&groups);
    let about = About { namespace, service, instance: None };
    finish(&api, &scope, about, head, filter, groups.len(), body).await
}

fn group(instance: &Instance) -> TargetGroup {
    let (address, port) = (&instance.endpoint.address, instance.endpoint.port);
    let target = match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    };
    let mut labels = Map::new();
    let mut label = |name: &str, value: &str| {
        labels.insert(format!("__meta_rollcall_{name}"), value.into());
    };
    label("namespace", instance.key.service.namespace.as_str());
    label("service", instance.key.service.service.as_str());
    label("instance", instance.key.instance.as_str());
    label("zone", instance.labels.zone().unwrap_or(""));
    label("version", instance.labels.version().unwrap_or(""));
    label("protocol", &instance.endpoint.protocol);
    label("mode", instance.mode.as_str());
    label("status", instance.status.as_str());
    // Separators on both ends too, so that a rule can match ",canary," and nothing longer.
    let tags: String = instance.labels.tags().map(|tag| format!(",{tag}")).collect();
    label("tags", &if tags.is_empty() { tags } else { tags + "," });
    for (key, value) in instance.labels.metadata() {
        label(&format!("metadata_{}", label_name(key)), value);
    }
    TargetGroup { targets: [target], labels }
}

/// A metadata key with everything replaced that a label's name may not hold.
fn label_name(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::instance::{Endpoint, Metadata};
    use crate::domain::{
        Detector, InstanceId, InstanceKey, Labels, Millis, Mode, Namespace, Seq, ServiceKey,
        ServiceName, Signals, Status, Timestamp,
    };

    #[test]
    fn an_instance_becomes_a_target_with_its_labels() {
        let service = ServiceName::new("orders").unwrap();
        let key = InstanceKey {
            service: ServiceKey { namespace: Namespace::default(), service },
            instance: InstanceId::new("orders-1").unwrap(),
        };
        let instance = Instance {
            key,
            incarnation: Seq(1),
            endpoint: Endpoint { address: "fe80::1".into(), port: 8080, protocol: "http".into() },
            labels: Labels::new(
                Some("1.4.2"),
                None,
                &["canary", "eu"],
                &Metadata::from_iter([("team.name-ü".into(), "a".into())]),
            ),
            weight: 100,
            mode: Mode::Active,
            drain_until: None,
            signals: Signals::implied_by(Status::Failed),
            detector: Detector::Fixed,
            check: None,
            status: Status::Failed,
            ttl: Some(Millis::from_millis(15_000)),
            registered_at: Timestamp(0),
            revision: Seq(1),
        };
        assert_eq!(
            serde_json::to_string(&group(&instance)).unwrap(),
            r#"{"targets":["[fe80::1]:8080"],"labels":{"__meta_rollcall_namespace":"default","__meta_rollcall_service":"orders","__meta_rollcall_instance":"orders-1","__meta_rollcall_zone":"","__meta_rollcall_version":"1.4.2","__meta_rollcall_protocol":"http","__meta_rollcall_mode":"active","__meta_rollcall_status":"failed","__meta_rollcall_tags":",canary,eu,","__meta_rollcall_metadata_team_name__":"a"}}"#
        );
    }
}
