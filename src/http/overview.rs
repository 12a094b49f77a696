//! What people look at: how many instances stand how in every service, and when each of a service was last heard.
//!
//! Neither is an event. A lookup is logged because somebody may call what it hands out; these hand out no address, so
//! that nobody can, and a page that is open all day leaves no trace among those who asked for a service. Whoever wants
//! addresses too asks for a lookup, or with `at=` for what was answered at a version. Called by the registry's own page.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::faults::Faults;
use super::names::Path;
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::scope::Scope;
use super::spec::{ANY_NAMESPACE, Method, NAMESPACE, Operation, Parameter, Shape, answer};
use super::{Shared, past, wire};
use crate::domain::registry::Service;
use crate::domain::{Instance, Mode, ServiceKey, Status};
use crate::history::Archive;
use crate::projection::ServiceView;

/// `GET /v1/overview`
pub(super) const OVERVIEW: Operation = Operation {
    method: Method::Get,
    id: "overview",
    summary: "How many instances stand how, in every service: for people, without addresses, and so no event.",
    query: &[
        ANY_NAMESPACE,
        Parameter::new(
            "limit",
            "Most services, the first ones by name; `left_out` says how many there are beyond.",
            Shape::Count(1, 100_000, 10_000),
        ),
        past::at("As it was then."),
    ],
    headers: &[],
    body: None,
    answers: &[answer(200, "All of them, in the order of their names.", "Overview")],
};

/// `GET /v1/services/{service}/leases`
pub(super) const LEASES: Operation = Operation {
    method: Method::Get,
    id: "leases",
    summary: "When each instance of a service was last heard: for people, without addresses, and so no event.",
    query: &[NAMESPACE],
    headers: &[],
    body: None,
    answers: &[answer(200, "The leases, in the order of the instances' ids.", "Leases")],
};

#[derive(Serialize)]
struct Overview<'a> {
    services: Vec<ServiceText<'a>>,
    left_out: usize,
}

#[derive(Serialize)]
struct ServiceText<'a> {
    namespace: &'a str,
    service: &'a str,
    revision: u64,
    instances: usize,
    #[serde(flatten)]
    counts: Counts,
}

/// Instances by status; and, across that, those that are not `active`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    healthy: u64,
    unstable: u64,
    failed: u64,
    standby: u64,
    draining: u64,
}

impl Counts {
    fn of<'a>(instances: impl Iterator<Item = &'a Instance>) -> Self {
        let mut counts = Self::default();
        for instance in instances {
            match instance.status {
                Status::Healthy => counts.healthy += 1,
                Status::Unstable => counts.unstable += 1,
                Status::Failed => counts.failed += 1,
            }
            match instance.mode {
                Mode::Active => {}
                Mode::Standby => counts.standby += 1,
                Mode::Draining => counts.draining += 1,
            }
        }
        counts
    }
}

pub(super) async fn overview(
    State(api): State<Shared>,
    scope: Scope,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &OVERVIEW, &mut faults);
    let namespace = query.namespace(&mut faults);
    let limit = usize::try_from(query.count("limit")).unwrap_or(usize::MAX);
    let at = past::moment(&api, &query, &mut faults);
    faults.check()?;
    drop(query);
    // Every instance is looked at, of which there may be a million: on a thread that may be long, and few at once.
    let asking = std::sync::Arc::clone(&api);
    let count = move |archive: &dyn Archive| match at {
        None => {
            let (head, views) = asking.projection.views(namespace.as_ref());
            Ok((head, text(views.iter().map(|view| row(view)), limit)))
        }
        Some(at) => {
            let version = archive.version(at)?.seq;
            let registry = archive.state(version)?;
            let wanted =
                |key: &ServiceKey| namespace.as_ref().is_none_or(|one| key.namespace == *one);
            let services = registry.services().filter(|(key, _)| wanted(key));
            let rows = services.map(|(key, service)| row_of_the_past(key, service));
            Ok((version, text(rows, limit)))
        }
    };
    let (version, body) = api.ask(count).await?;
    scope.reflects(version);
    Ok(json_response(StatusCode::OK, body, version))
}

/// The first `limit` of these services as JSON.
fn text<'a>(mut rows: impl Iterator<Item = ServiceText<'a>>, limit: usize) -> bytes::Bytes {
    let services = rows.by_ref().take(limit).collect();
    wire::json(&Overview { services, left_out: rows.count() })
}

fn row(view: &ServiceView) -> ServiceText<'_> {
    ServiceText {
        namespace: view.key.namespace.as_str(),
        service: view.key.service.as_str(),
        revision: view.revision.0,
        instances: view.entries.len(),
        counts: Counts::of(view.entries.iter().map(|entry| &**entry.instance)),
    }
}

fn row_of_the_past<'a>(key: &'a ServiceKey, service: &'a Service) -> ServiceText<'a> {
    ServiceText {
        namespace: key.namespace.as_str(),
        service: key.service.as_str(),
        revision: service.revision.0,
        instances: service.instances.len(),
        counts: Counts::of(service.instances.values().map(|instance| &**instance)),
    }
}

pub(super) async fn leases(
    State(api): State<Shared>,
    scope: Scope,
    path: Path,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &LEASES, &mut faults);
    let key = path.service(&query, &mut faults);
    faults.check()?;
    let key = key.ok_or(Problem::Internal)?;
    scope.about(&key.service, None);
    let ServiceKey { namespace, service } = &key;
    let view = api.projection.service(namespace.as_str(), service.as_str());
    let view = view.ok_or(Problem::UnknownService)?;
    Ok(json_response(StatusCode::OK, wire::leases(&view, &*api.clock), view.revision))
}
