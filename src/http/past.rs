//! `at=`: what a lookup, an instance or the list of services was answered then, to the byte.
//!
//! A moment becomes a version, the version a state, and the state is answered by the functions that answer the
//! present: only where the state comes from differs. Such a read is no event and counts as no lookup: the past does
//! not grow by being looked at. Called by the handlers of the present when they find `at` in the query.
//!
//! An instant is settled once the group that was being written then is in the log, some milliseconds later: before that, a
//! change that carries the same time may still come. A version is settled at once; who wants to be sure asks with `@`.
//!
//! The pages of a list are of one version. An age such as `-5m` moves between two pages, so the cursor carries the
//! version of the first one:
//!
//! ```text
//!   orders         behind this service, of the present list
//!   orders@1234    behind this service, of the list at version 1234
//! ```

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::cursor::List;
use super::faults::Faults;
use super::lookup::{Found, Shown, found};
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::scope::Scope;
use super::services::{self, Page};
use super::spec::{Parameter, Shape};
use super::{Api, instants, wire};
use crate::domain::registry::Service;
use crate::domain::selection::Filter;
use crate::domain::{InstanceKey, Namespace, Registry, Seq, ServiceKey, Status};
use crate::history::Moment;
use crate::projection::{ServiceView, Summary};

/// What asks for the present only: leases and loads are not remembered, and nobody waits for the past.
const OF_THE_PRESENT: &[&str] = &["include", "order", "after", "wait"];

/// `at` among the parameters of an operation.
pub(super) const fn at(about: &'static str) -> Parameter {
    Parameter::new("at", about, Shape::Text(instants::CHARS_MAX))
}

/// The moment that a query asks for; none is the present.
pub(super) fn moment(api: &Api, query: &Query<'_>, faults: &mut Faults) -> Option<Moment> {
    let at = query.get("at")?;
    for name in OF_THE_PRESENT.iter().filter(|name| query.get(name).is_some()) {
        faults.invalid(*name, "can't be given together with at: it asks for the present");
    }
    instants::read("at", at, api.present(), faults)
}

/// The version that the state had at a moment, and a service then.
async fn service(
    api: &Api,
    scope: &Scope,
    at: Moment,
    key: &ServiceKey,
) -> Result<Service, Problem> {
    let wanted = key.clone();
    let (version, service) = api
        .ask(move |archive| {
            let version = archive.version(at)?;
            Ok((version, archive.service(&wanted, version.seq)?))
        })
        .await?;
    // A refusal for what the state was is of a version too.
    scope.reflects(version.seq);
    service.ok_or(Problem::UnknownService)
}

/// A lookup as it was answered then.
pub(super) async fn lookup(
    api: &Api,
    scope: &Scope,
    at: Moment,
    key: ServiceKey,
    filter: &Filter,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let service = service(api, scope, at, &key).await?;
    let view = ServiceView::of_the_past(key, &service);
    let found = found(api, &view, filter, &filter.canonical(), Shown::default(), headers);
    Ok(found.answer(view.revision))
}

/// An instance as it was then, without its lease.
pub(super) async fn instance(
    api: &Api,
    scope: &Scope,
    at: Moment,
    key: InstanceKey,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let service = service(api, scope, at, &key.service).await?;
    let instance = service.instances.get(&key.instance).ok_or(Problem::UnknownInstance)?;
    let etag = api.tags.tag(instance.revision, "");
    Ok(Found::instance(wire::instance(instance), etag, headers).answer(service.revision))
}

/// A page of the services that there were then.
pub(super) async fn services(
    api: &Api,
    scope: &Scope,
    at: Moment,
    namespace: Namespace,
    page: &Page<'_>,
) -> Result<Response, Problem> {
    let place = page.cursor.map(|cursor| place(api, at, cursor, &namespace)).transpose()?;
    let (at, after) = match place {
        Some((version, after)) => (Moment::Version(version), Some(after)),
        None => (at, None),
    };
    let prefix = page.prefix.to_owned();
    let limit = page.limit;
    let (version, rows, more) = api
        .ask(move |archive| {
            let version = archive.version(at)?;
            let registry = archive.state(version.seq)?;
            let (rows, more) = list(&registry, &namespace, &prefix, after.as_ref(), limit);
            Ok((version.seq, rows, more))
        })
        .await?;
    scope.reflects(version);
    let next = rows
        .last()
        .filter(|_| more)
        .map(|last| api.cursors.write(List::Services, &format!("{}@{version}", last.key.service)));
    Ok(json_response(StatusCode::OK, services::text(&rows, next), version))
}

/// The version in a cursor, and the service that it stands behind.
fn place(
    api: &Api,
    at: Moment,
    cursor: &str,
    namespace: &Namespace,
) -> Result<(Seq, ServiceKey), Problem> {
    let refuse = |detail| Problem::InvalidCursor { detail };
    let place = api.cursors.read(List::Services, cursor)?;
    let (service, version) = place
        .split_once('@')
        .ok_or(refuse("it is of the present list; begin again without a cursor"))?;
    let version = version.parse().map(Seq);
    let version = version.map_err(|_| refuse("it was not given out by this list"))?;
    if matches!(at, Moment::Version(asked) if asked != version) {
        return Err(refuse("it is of another version than at; begin again without a cursor"));
    }
    Ok((version, services::after(service, namespace)?))
}

/// Up to `limit` services of a namespace as they stood in `registry`, after `after`, and whether there are more: the
/// past's [`crate::projection::Projection::list`].
fn list(
    registry: &Registry,
    namespace: &Namespace,
    prefix: &str,
    after: Option<&ServiceKey>,
    limit: usize,
) -> (Vec<Summary>, bool) {
    let mut wanted = registry
        .services()
        .filter(|(key, _)| key.namespace == *namespace && key.service.as_str().starts_with(prefix))
        .filter(|(key, _)| after.is_none_or(|after| *key > after));
    let rows = wanted.by_ref().take(limit).map(|(key, service)| Summary {
        key: key.clone(),
        revision: service.revision,
        instances: service.instances.len(),
        healthy: healthy(service),
    });
    let rows = rows.collect();
    (rows, wanted.next().is_some())
}

fn healthy(service: &Service) -> u32 {
    let healthy = service.instances.values().filter(|i| i.status == Status::Healthy);
    u32::try_from(healthy.count()).unwrap_or(u32::MAX)
}
