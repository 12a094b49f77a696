//! Heartbeats, one or up to a thousand. Most renew a lease with one atomic operation and leave their event in
//! the traffic buffer; one that changes the status, or that meets the registrar's mark on the lease, becomes
//! a command and is answered when its effect can be read.
//!
//! ```text
//!   lease open, health as it was ─▶ renew ─────────────────▶ record ─▶ 200
//!   lease marked, or health flips ─▶ registrar ─▶ accepted ─▶ record ─▶ 200
//!                                             ├▶ rejected ─▶ 404, 409
//!                                             └▶ log failed ─▶ renew all the same ─▶ 200, status as it was
//! ```

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::faults::Faults;
use super::fields::{Fields, type_of};
use super::names::Path;
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::scope::Scope;
use super::spec::{BodySpec, JSON, Method, NAMESPACE, Operation, answer};
use super::{About, Api, Shared, body, renewed, wire};
use crate::domain::command::Heartbeat;
use crate::domain::instance::Health;
use crate::domain::limits::{HEARTBEATS_PER_BATCH_MAX, NOTE_CHARS_MAX};
use crate::domain::traffic::Detail;
use crate::domain::{
    Command, Instance, InstanceId, InstanceKey, Millis, Namespace, Seq, ServiceKey, ServiceName,
};
use crate::lease::Lease;
use crate::lease::word::Mark;
use crate::projection::Entry;
use crate::registrar::Refused;

/// The route of single heartbeats.
pub(super) const PATH: &str = "/v1/services/{service}/instances/{instance}/heartbeat";

/// `PUT /v1/services/{service}/instances/{instance}/heartbeat`
pub(super) const HEARTBEAT: Operation = Operation {
    method: Method::Put,
    id: "heartbeat",
    summary: "Renews the lease of an instance.",
    query: &[NAMESPACE],
    headers: &[],
    body: Some(BodySpec { schema: "Heartbeat", optional: true, limit: 64 * 1024, media: JSON }),
    answers: &[answer(200, "The lease is renewed.", "Renewed")],
};

/// `POST /v1/heartbeats`
pub(super) const HEARTBEATS: Operation = Operation {
    method: Method::Post,
    id: "heartbeats",
    summary: "Renews the leases of up to 1,000 instances.",
    query: &[NAMESPACE],
    headers: &[],
    body: Some(BodySpec { schema: "Heartbeats", optional: false, limit: 1024 * 1024, media: JSON }),
    answers: &[answer(200, "Those that live are renewed; the others are named.", "RenewedBatch")],
};

/// One heartbeat.
struct Beat {
    key: InstanceKey,
    incarnation: Option<Seq>,
    load: Option<f64>,
    health: Option<Health>,
    note: Option<Box<str>>,
}

/// A heartbeat that may be answered without asking anybody, for [`super::express`].
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Plain {
    pub(super) incarnation: Option<Seq>,
    pub(super) load: Option<f64>,
    pub(super) health: Option<Health>,
}

impl Plain {
    /// Its event, if `living` is whom it means and believes what it says.
    pub(super) fn event(&self, head: Seq, living: &Instance) -> Option<(About, Seq, Detail)> {
        let Self { incarnation, load, health } = *self;
        let means = incarnation.is_none_or(|given| given == living.incarnation);
        let flips = health.is_some_and(|health| health.contradicts(living.signals));
        (means && !flips).then(|| {
            let seen = head.max(living.revision);
            let detail = Detail::Heartbeat {
                incarnation: living.incarnation,
                load,
                health,
                note: None,
                baggage: None,
            };
            (about(living), seen, detail)
        })
    }
}

/// The instance's own names and not those of the request: what waits for the log is then no second copy of them.
fn about(living: &Instance) -> About {
    let key = &living.key;
    About {
        namespace: Some(key.service.namespace.clone()),
        service: Some(key.service.service.clone()),
        instance: Some(key.instance.clone()),
    }
}

pub(super) async fn heartbeat(
    State(api): State<Shared>,
    scope: Scope,
    path: Path,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &HEARTBEAT, &mut faults);
    let key = path.instance(&query, &mut faults);
    let spec = HEARTBEAT.body.as_ref().ok_or(Problem::Internal)?;
    let object = body::read_object(request, spec, api.config.request_timeout).await?;
    let mut fields = Fields::new(object.unwrap_or_default(), "", &mut faults);
    let beat = read_beat(&mut fields, key);
    fields.finish();
    faults.check()?;
    let beat = beat.ok_or(Problem::Internal)?;
    scope.about(&beat.key.service.service, Some(&beat.key.instance));
    let (instance, seen) = renew(&api, &scope, beat).await?;
    Ok(json_response(StatusCode::OK, renewed::text(&instance), seen))
}

/// What a beat says, given whom it is for.
fn read_beat(fields: &mut Fields<'_>, key: Option<InstanceKey>) -> Option<Beat> {
    let incarnation = fields.integer("incarnation", 1, u64::MAX).map(Seq);
    let load = read_load(fields);
    let health = fields.word("health", Health::ALL, Health::parse, Health::as_str);
    let note = fields.text("note", NOTE_CHARS_MAX);
    Some(Beat { key: key?, incarnation, load, health, note })
}

/// How loaded it says it is: any measure that grows, such as requests in progress or a share of its capacity.
fn read_load(fields: &mut Fields<'_>) -> Option<f64> {
    let load = fields.number("load")?;
    if load < 0.0 {
        fields.invalid("load", format!("must be 0 or more, was {load}"));
        return None;
    }
    Some(load)
}

/// Renews one lease and records that; the instance as it is then, and the version that says so.
async fn renew(api: &Api, scope: &Scope, beat: Beat) -> Result<(Arc<Instance>, Seq), Problem> {
    let head = api.projection.head();
    scope.reflects(head);
    let entry = api.living(&beat.key)?;
    let living = &entry.instance;
    if let Some(given) = beat.incarnation
        && given != living.incarnation
    {
        return Err(Problem::OtherIncarnation { current: living.incarnation, given });
    }
    let seen = head.max(living.revision);
    // Also where the registrar has to be asked: a slow log must not cost the living their lease.
    let renewed = entry.lease.renew(api.clock.monotonic(), api.clock.wall());
    if !flips(&beat, living)
        && let Ok(gap) = renewed
    {
        observe_gap(api, gap, &entry.lease);
        record(api, scope, beat, seen, living, &entry.lease).await?;
        return Ok((Arc::clone(living), seen));
    }
    // Boxed, as few go this way: the future of every heartbeat would be as large otherwise.
    Box::pin(renew_through_registrar(api, scope, beat, &entry, seen)).await
}

/// Whether what the instance says of itself changes what the registry believes.
fn flips(beat: &Beat, living: &Instance) -> bool {
    beat.health.is_some_and(|health| health.contradicts(living.signals))
}

async fn renew_through_registrar(
    api: &Api,
    scope: &Scope,
    beat: Beat,
    entry: &Entry,
    seen: Seq,
) -> Result<(Arc<Instance>, Seq), Problem> {
    let command =
        Heartbeat { key: beat.key.clone(), incarnation: beat.incarnation, health: beat.health };
    match api.submit(scope, Command::Heartbeat(command)).await {
        Ok(applied) => {
            let instance = applied.instance.ok_or(Problem::UnknownInstance)?;
            let lease = applied.lease.as_ref().unwrap_or(&entry.lease);
            record(api, scope, beat, applied.head, &instance, lease).await?;
            Ok((instance, applied.head))
        }
        Err(Refused::Failed { cause }) => {
            // The log failed under this very beat; the registrar answers those that follow in the same way.
            // The status can't change while the log can't be written, but the living must not lose their
            // lease over it. A closed one is being taken back: the next beat finds it open.
            let failed = || Problem::LogFailed { cause: cause.to_string() };
            let (now, wall) = (api.clock.monotonic(), api.clock.wall());
            entry.lease.word().renew_unless_closed(now.0).map_err(|_| failed())?;
            entry.lease.saw_heartbeat(wall);
            let living = &entry.instance;
            if flips(&beat, living) {
                // Renewed, but what it says of itself was not taken: it has to say it again.
                return Err(failed());
            }
            record(api, scope, beat, seen, living, &entry.lease).await?;
            Ok((Arc::clone(living), seen))
        }
        Err(other) => Err(other.into()),
    }
}

/// Measures how long it was silent, as a share of its ttl.
#[expect(clippy::cast_precision_loss, reason = "a ttl is at most a day, 86,400,000 ms")]
pub(super) fn observe_gap(api: &Api, gap: Option<Millis>, lease: &Lease) {
    if let (Some(gap), Some(ttl)) = (gap, lease.ttl()) {
        let ratio = gap.millis() as f64 / ttl.millis().max(1) as f64;
        api.metrics.registry.heartbeat_gap_ratio.record(ratio);
    }
}

async fn record(
    api: &Api,
    scope: &Scope,
    beat: Beat,
    seen: Seq,
    living: &Instance,
    lease: &Arc<Lease>,
) -> Result<(), Problem> {
    let Beat { load, health, note, .. } = beat;
    if let Some(load) = load {
        lease.says_load(load);
    }
    let detail =
        Detail::Heartbeat { incarnation: living.incarnation, load, health, note, baggage: None };
    api.record(scope, about(living), seen, detail, Some(Arc::clone(lease))).await
}

/// The answer to a batch.
#[derive(Default, Serialize)]
struct RenewedBatch {
    renewed: usize,
    unknown: Vec<Name>,
    conflicts: Vec<Conflict>,
}

/// An instance that was named in a batch.
#[derive(Serialize)]
struct Name {
    namespace: String,
    service: String,
    instance: String,
}

impl Name {
    fn of(key: &InstanceKey) -> Self {
        Self {
            namespace: key.service.namespace.to_string(),
            service: key.service.service.to_string(),
            instance: key.instance.to_string(),
        }
    }
}

/// One that lives another life than was said.
#[derive(Serialize)]
struct Conflict {
    #[serde(flatten)]
    name: Name,
    incarnation: u64,
}

pub(super) async fn heartbeats(
    State(api): State<Shared>,
    scope: Scope,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &HEARTBEATS, &mut faults);
    let namespace = query.namespace(&mut faults).unwrap_or_default();
    let spec = HEARTBEATS.body.as_ref().ok_or(Problem::Internal)?;
    let object = body::read_object(request, spec, api.config.request_timeout).await?;
    let beats = read_batch(object.unwrap_or_default(), &namespace, &mut faults);
    faults.check()?;

    let mut batch = RenewedBatch::default();
    let mut seen = api.projection.head();
    // Those that have to wait for the log wait together: their commands fall into one group commit.
    let mut waiting = JoinSet::new();
    for beat in beats {
        if !waits_for_log(&api, &beat) {
            let name = Name::of(&beat.key);
            batch.note(name, renew(&api, &scope, beat).await, &mut seen)?;
            continue;
        }
        let (api, scope) = (Arc::clone(&api), scope.clone());
        waiting.spawn(async move {
            let name = Name::of(&beat.key);
            let outcome = renew(&api, &scope, beat).await;
            (name, outcome)
        });
    }
    while let Some(joined) = waiting.join_next().await {
        let (name, outcome) = joined.map_err(|_| Problem::Internal)?;
        batch.note(name, outcome, &mut seen)?;
    }
    Ok(json_response(StatusCode::OK, wire::json(&batch), seen))
}

/// Whether a beat will have to become a command, as far as one can see beforehand.
fn waits_for_log(api: &Api, beat: &Beat) -> bool {
    api.living(&beat.key).is_ok_and(|entry| {
        flips(beat, &entry.instance) || entry.lease.word().read().mark() != Mark::Open
    })
}

impl RenewedBatch {
    /// Puts the outcome of one beat where it belongs. What is no answer about that one instance, such as a
    /// slow log, is the answer to the whole batch: it may be sent again.
    fn note(
        &mut self,
        name: Name,
        outcome: Result<(Arc<Instance>, Seq), Problem>,
        seen: &mut Seq,
    ) -> Result<(), Problem> {
        match outcome {
            Ok((_, version)) => {
                self.renewed += 1;
                *seen = version.max(*seen);
            }
            Err(Problem::UnknownService | Problem::UnknownInstance) => self.unknown.push(name),
            Err(Problem::OtherIncarnation { current, .. }) => {
                self.conflicts.push(Conflict { name, incarnation: current.0 });
            }
            Err(problem) => return Err(problem),
        }
        Ok(())
    }
}

fn read_batch(object: Map<String, Value>, namespace: &Namespace, faults: &mut Faults) -> Vec<Beat> {
    let mut fields = Fields::new(object, "", faults);
    let items = match fields.take("instances") {
        Some(Value::Array(items)) if items.len() <= HEARTBEATS_PER_BATCH_MAX => items,
        Some(Value::Array(items)) => {
            let was = items.len();
            fields.invalid(
                "instances",
                format!("must be at most {HEARTBEATS_PER_BATCH_MAX}, was {was}"),
            );
            Vec::new()
        }
        Some(other) => {
            fields.invalid("instances", format!("must be a list, was {}", type_of(&other)));
            Vec::new()
        }
        None => {
            fields.invalid("instances", "is required");
            Vec::new()
        }
    };
    fields.finish();
    let mut beats = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let Value::Object(item) = item else {
            faults.invalid(format!("instances[{index}]"), "must be an object");
            continue;
        };
        let mut fields = Fields::new(item, format!("instances[{index}]."), faults);
        let key = read_key(&mut fields, namespace);
        beats.extend(read_beat(&mut fields, key));
        fields.finish();
    }
    beats
}

fn read_key(fields: &mut Fields<'_>, default: &Namespace) -> Option<InstanceKey> {
    let namespace = fields.checked("namespace", Namespace::new).unwrap_or_else(|| default.clone());
    let service = fields.required("service", ServiceName::new);
    let instance = fields.required("instance", InstanceId::new);
    Some(InstanceKey { service: ServiceKey { namespace, service: service? }, instance: instance? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Rejection;

    #[test]
    fn every_bad_item_of_a_batch_is_named_by_its_place() {
        let Value::Object(object) = serde_json::json!({"instances": [
            {"service": "orders", "instance": "orders-1"},
            {"service": "or/ders", "load": "high"},
            7,
            {"service": "orders", "instance": "orders-2", "health": "meh", "lode": 1},
        ]}) else {
            panic!("not an object")
        };
        let mut faults = Faults::default();
        let beats = read_batch(object, &Namespace::default(), &mut faults);
        assert_eq!(beats[0].key.to_string(), "default/orders/orders-1");
        let Err(Problem::InvalidRequest { errors }) = faults.check() else { panic!("not refused") };
        let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "instances[1].service",
                "instances[1].instance",
                "instances[1].load",
                "instances[2]",
                "instances[3].health",
                "instances[3].lode",
            ]
        );
    }

    #[test]
    fn a_rejection_of_a_beat_has_its_place_in_the_batch() {
        let mut batch = RenewedBatch::default();
        let name = || Name { namespace: "a".into(), service: "b".into(), instance: "c".into() };
        let mut seen = Seq(1);
        for rejection in [
            Rejection::UnknownInstance,
            Rejection::OtherIncarnation { current: Seq(9), given: Seq(2) },
        ] {
            batch.note(name(), Err(rejection.into()), &mut seen).unwrap();
        }
        assert_eq!(batch.note(name(), Err(Problem::LogSlow), &mut seen), Err(Problem::LogSlow));
        assert_eq!(
            serde_json::to_string(&batch).unwrap(),
            r#"{"renewed":0,"unknown":[{"namespace":"a","service":"b","instance":"c"}],"conflicts":[{"namespace":"a","service":"b","instance":"c","incarnation":9}]}"#
        );
    }
}
