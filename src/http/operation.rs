//! For those who run the registry: is it alive, is it ready, what does it measure, how does it stand.
//! None of these is an event.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use super::accept;
use super::faults::Faults;
use super::kept::{Kept, kept};
use super::limits::{self, Limits};
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::spec::{Method, Operation, answer};
use super::{Api, Shared, openapi, wire};
use crate::domain::event::{GuardInputs, Recovered};
use crate::history::{EventId, LogFigures};
use crate::lease::guard::Holding;
use crate::registrar::LogCondition;
use crate::registrar::observe;
use crate::rfc3339;
use crate::telemetry::metrics::MetricsPage;

const fn read(
    id: &'static str,
    summary: &'static str,
    answers: &'static [super::spec::Answer],
) -> Operation {
    Operation { method: Method::Get, id, summary, query: &[], headers: &[], body: None, answers }
}

/// `GET /livez`
pub(super) const LIVE: Operation =
    read("live", "Whether the process answers.", &[answer(200, "It does.", "Live")]);
/// `GET /readyz`
pub(super) const READY: Operation = read(
    "ready",
    "Whether replay is done; and whether the log can be written, which lookups do not need.",
    &[answer(200, "It is.", "Ready")],
);
/// `GET /metrics`
pub(super) const METRICS: Operation = read(
    "metrics",
    "Metrics as Prometheus reads them; with exemplars for whoever accepts OpenMetrics.",
    &[answer(200, "The page.", "Text")],
);
/// `GET /openapi.json`
pub(super) const OPENAPI: Operation =
    read("openapi", "This document.", &[answer(200, "The document.", "OpenApi")]);
/// `GET /v1/status`
pub(super) const STATUS: Operation =
    read("status", "How the registry stands.", &[answer(200, "Its figures.", "Status")]);

fn refuse_query(request: &Request, operation: &Operation) -> Result<(), Problem> {
    let mut faults = Faults::default();
    Query::read(request.uri().query(), operation, &mut faults);
    faults.check()
}

pub(super) async fn live(request: Request) -> Result<Response, Problem> {
    refuse_query(&request, &LIVE)?;
    Ok(typed("application/json", r#"{"live":true}"#))
}

#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    log: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

pub(super) async fn ready(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    refuse_query(&request, &READY)?;
    if !api.readiness.is_ready() {
        return Err(Problem::NotReady { phase: api.readiness.phase().to_string() });
    }
    let condition = api.registrar.log_condition();
    let (log, cause) = match &condition {
        LogCondition::Writable => ("writable", None),
        LogCondition::Failed { cause, .. } => ("failed", Some(&**cause)),
    };
    let body = wire::json(&Ready { ready: true, log, cause });
    Ok(json_response(StatusCode::OK, body, api.projection.head()))
}

pub(super) async fn metrics(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    refuse_query(&request, &METRICS)?;
    let open = accept::prefers(request.headers(), "application/openmetrics-text", "text/plain");
    let of = Arc::clone(&api);
    // What is read off rather than counted is read now, so that a scrape shows this moment.
    let observe = move || {
        observe::gauges(&of.metrics, &of.projection, &of.registrar);
        limits::gauges(&of);
    };
    let page = api.metrics.scrape(open, observe).await.ok_or(Problem::Internal)?;
    let form = if open { MetricsPage::OPEN_CONTENT_TYPE } else { MetricsPage::CONTENT_TYPE };
    Ok(typed(form, page))
}

pub(super) async fn openapi(request: Request) -> Result<Response, Problem> {
    refuse_query(&request, &OPENAPI)?;
    Ok(typed("application/json", openapi::document()))
}

fn typed(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    /// `serve`, or `replay` where the past is shown; where a replay stands is at /v1/replay.
    mode: &'static str,
    log_id: String,
    uptime: String,
    head: u64,
    traffic_head: u64,
    services: usize,
    instances: i64,
    log: Log,
    kept: Kept,
    queues: Queues,
    limits: Limits,
    replay: Option<Replay>,
    /// None if it is switched off.
    guard: Option<Guard>,
    /// Where a trace can be seen, with `{trace_id}` and `{span_id}` to be replaced; none if spans are not exported.
    trace_url: Option<String>,
}

#[derive(Serialize)]
struct Guard {
    holds: bool,
    /// The registry first, then services; one without a service is over the whole registry.
    over: Vec<GuardOver>,
}

#[derive(Serialize)]
struct GuardOver {
    namespace: Option<String>,
    service: Option<String>,
    since: String,
    event: String,
    limit: String,
    entered_by: GuardFigures,
    present: GuardFigures,
    held: u64,
}

#[derive(Serialize)]
struct GuardFigures {
    late: u64,
    gone: u64,
    living: u64,
}

#[derive(Serialize)]
struct Log {
    condition: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    changes_bytes: u64,
    traffic_bytes: u64,
    wal_bytes: u64,
    snapshots_bytes: u64,
    free_bytes: u64,
}

#[derive(Serialize)]
struct Queues {
    changes: Fill,
    traffic: Fill,
}

#[derive(Serialize)]
struct Fill {
    waiting: usize,
    capacity: usize,
}

#[derive(Serialize)]
struct Replay {
    changes: u64,
    traffic: u64,
    instances: u64,
    services: u64,
    took_ms: u64,
    clean: bool,
    traffic_missing_from: Option<String>,
}

pub(super) async fn status(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    refuse_query(&request, &STATUS)?;
    let asked = api.ask_at_once(|archive| Ok((archive.figures()?, archive.extent()?)));
    let (figures, extent) = asked.await?;
    let head = api.projection.head();
    let body = wire::json(&Status {
        version: env!("CARGO_PKG_VERSION"),
        mode: if api.replay.is_some() { "replay" } else { "serve" },
        log_id: api.log_id.to_string(),
        uptime: api.clock.monotonic().since(api.started_at).to_string(),
        head: head.0,
        traffic_head: figures.traffic_head,
        services: api.projection.service_count(),
        instances: api.projection.population().total(),
        log: log_of(&api, &figures),
        kept: kept(&api.config.policy, &figures, &extent),
        queues: Queues {
            changes: fill(api.registrar.inbox_fill()),
            traffic: fill(api.registrar.buffer_fill()),
        },
        limits: limits::of(&api),
        replay: api.readiness.figures().as_ref().map(replay_of),
        guard: api.registrar.guards().as_deref().map(guard_of),
        trace_url: api.config.trace_url.clone(),
    });
    Ok(json_response(StatusCode::OK, body, head))
}

fn guard_of(holding: &[Holding]) -> Guard {
    let figures = |inputs: GuardInputs| {
        let GuardInputs { late, gone, living } = inputs;
        GuardFigures { late, gone, living }
    };
    let over = |guard: &Holding| GuardOver {
        namespace: guard.over.as_ref().map(|service| service.namespace.to_string()),
        service: guard.over.as_ref().map(|service| service.service.to_string()),
        since: rfc3339::format(guard.since),
        event: EventId::Change(guard.entered.0).to_string(),
        limit: guard.limit.to_string(),
        entered_by: figures(guard.inputs),
        present: figures(guard.present),
        held: guard.held,
    };
    Guard { holds: !holding.is_empty(), over: holding.iter().map(over).collect() }
}

fn fill((waiting, capacity): (usize, usize)) -> Fill {
    Fill { waiting, capacity }
}

fn log_of(api: &Api, figures: &LogFigures) -> Log {
    let (condition, failed_since, cause) = match api.registrar.log_condition() {
        LogCondition::Writable => ("writable", None, None),
        LogCondition::Failed { since, cause } => {
            ("failed", Some(rfc3339::format(since)), Some(cause.to_string()))
        }
    };
    Log {
        condition,
        failed_since,
        cause,
        changes_bytes: figures.changes_bytes,
        traffic_bytes: figures.traffic_bytes,
        wal_bytes: figures.wal_bytes,
        snapshots_bytes: figures.snapshots_bytes,
        free_bytes: figures.free_bytes,
    }
}

fn replay_of(recovered: &Recovered) -> Replay {
    Replay {
        changes: recovered.changes,
        traffic: recovered.traffic,
        instances: recovered.instances,
        services: recovered.services,
        took_ms: recovered.took.millis(),
        clean: recovered.clean,
        traffic_missing_from: recovered.traffic_missing_from.map(rfc3339::format),
    }
}
