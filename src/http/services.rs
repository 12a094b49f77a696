//! Which services and namespaces there are. A read over all of them is one lookup event without a service.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::cursor::List;
use super::faults::Faults;
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::scope::Scope;
use super::spec::{Method, NAMESPACE, Operation, Parameter, Shape, answer};
use super::{About, Api, Shared, lookup, past, wire};
use crate::domain::limits::NAME_CHARS_MAX;
use crate::domain::selection::canonical;
use crate::domain::traffic::Detail;
use crate::domain::{Namespace, Seq, ServiceKey, ServiceName};
use crate::projection::Summary;
use crate::telemetry::names::LookupOutcome;

/// `GET /v1/services`
pub(super) const SERVICES: Operation = Operation {
    method: Method::Get,
    id: "services",
    summary: "The services of a namespace in pages, in the order of their names.",
    query: &[
        NAMESPACE,
        Parameter::new("prefix", "Those whose name begins so.", Shape::Text(NAME_CHARS_MAX)),
        Parameter::new("limit", "Most services in a page.", Shape::Count(1, 1_000, 100)),
        Parameter::new("cursor", "`next` of the page before.", Shape::Text(1_000)),
        past::at(
            "As it was then. All pages are of the version that the first one was of; `at` stays in the query.",
        ),
    ],
    headers: &[],
    body: None,
    answers: &[answer(200, "A page.", "Services")],
};

/// `GET /v1/namespaces`
pub(super) const NAMESPACES: Operation = Operation {
    method: Method::Get,
    id: "namespaces",
    summary: "Every namespace that has or had a service.",
    query: &[],
    headers: &[],
    body: None,
    answers: &[answer(200, "All of them, in the order of their names.", "Namespaces")],
};

#[derive(Serialize)]
struct Services<'a> {
    services: Vec<ServiceRow<'a>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct ServiceRow<'a> {
    namespace: &'a str,
    service: &'a str,
    revision: u64,
    instances: usize,
    healthy: u32,
}

pub(super) async fn services(
    State(api): State<Shared>,
    scope: Scope,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &SERVICES, &mut faults);
    let namespace = query.namespace(&mut faults).unwrap_or_default();
    let at = past::moment(&api, &query, &mut faults);
    faults.check()?;
    let page = Page {
        prefix: query.get("prefix").unwrap_or(""),
        limit: usize::try_from(query.count("limit")).unwrap_or(usize::MAX),
        cursor: query.get("cursor"),
    };
    if let Some(at) = at {
        return past::services(&api, &scope, at, namespace, &page).await;
    }
    let prefix = page.prefix;
    let place = page.cursor.map(|cursor| api.cursors.read(List::Services, cursor)).transpose()?;
    let after = place.map(|place| after(&place, &namespace)).transpose()?;
    let (head, rows, more) =
        api.projection.list(Some(&namespace), prefix, after.as_ref(), page.limit);
    let next = rows
        .last()
        .filter(|_| more)
        .map(|last| api.cursors.write(List::Services, last.key.service.as_str()));
    let returned = rows.len();
    let body = text(&rows, next);
    let filter = match prefix {
        "" => String::new(),
        prefix => canonical([("prefix", prefix)].into_iter()),
    };
    let about = About { namespace: Some(namespace), ..About::default() };
    finish(&api, &scope, about, head, filter, returned, body).await
}

/// Which part of a list of services is asked for.
pub(super) struct Page<'a> {
    pub(super) prefix: &'a str,
    pub(super) limit: usize,
    pub(super) cursor: Option<&'a str>,
}

/// A page of services as JSON.
pub(super) fn text(rows: &[Summary], next: Option<String>) -> bytes::Bytes {
    let services = rows
        .iter()
        .map(|row| ServiceRow {
            namespace: row.key.namespace.as_str(),
            service: row.key.service.as_str(),
            revision: row.revision.0,
            instances: row.instances,
            healthy: row.healthy,
        })
        .collect();
    wire::json(&Services { services, next })
}

/// The service that the place in a cursor names.
pub(super) fn after(place: &str, namespace: &Namespace) -> Result<ServiceKey, Problem> {
    let service = ServiceName::new(place)
        .map_err(|_| Problem::InvalidCursor { detail: "it was not given out by this list" })?;
    Ok(ServiceKey { namespace: namespace.clone(), service })
}

#[derive(Serialize)]
struct Namespaces<'a> {
    namespaces: Vec<NamespaceRow<'a>>,
}

#[derive(Serialize)]
struct NamespaceRow<'a> {
    namespace: &'a str,
    services: usize,
    instances: usize,
}

pub(super) async fn namespaces(
    State(api): State<Shared>,
    scope: Scope,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    Query::read(request.uri().query(), &NAMESPACES, &mut faults);
    faults.check()?;
    let (head, rows) = api.projection.namespaces();
    let namespaces: Vec<NamespaceRow<'_>> = rows
        .iter()
        .map(|(namespace, services, instances)| NamespaceRow {
            namespace: namespace.as_str(),
            services: *services,
            instances: *instances,
        })
        .collect();
    let returned = namespaces.len();
    let body = wire::json(&Namespaces { namespaces });
    finish(&api, &scope, About::default(), head, String::new(), returned, body).await
}

/// Records a read over many services and answers it.
pub(super) async fn finish(
    api: &Api,
    scope: &Scope,
    about: About,
    head: Seq,
    filter: String,
    returned: usize,
    body: bytes::Bytes,
) -> Result<Response, Problem> {
    let detail = Detail::Lookup {
        filter: filter.into(),
        revision: Seq::ZERO,
        returned: u32::try_from(returned).unwrap_or(u32::MAX),
        status: StatusCode::OK.as_u16(),
        held: None,
        baggage: None,
    };
    let outcome = if returned == 0 { LookupOutcome::Empty } else { LookupOutcome::Hit };
    lookup::record(api, scope, about, head, detail, outcome).await?;
    Ok(json_response(StatusCode::OK, body, head))
}
