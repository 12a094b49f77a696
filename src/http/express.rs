//! The shortest way to the answer that is asked for most: who of a known service may be called now.
//!
//! ```text
//!   connection ─▶ express ───────────────────────▶ answer
//!                    └ anything unusual ─▶ router ─▶ scope ─▶ lookup ─▶ answer
//! ```
//!
//! Such a lookup waits for nothing, so that it needs no future; and its path can be told at a glance, so that it needs no
//! router. What scope and lookup do for it is done here in one go, by their own parts: the same ids, event, metrics, span,
//! headers and bytes. (It is never seen among the requests in progress: between its beginning and its end nobody looks.) Whatever is not known by heart (a query, a name that has to be decoded, a body, a limit that is
//! reached, a log that is full or slow, a coding that this answer was not asked for in before) goes the long way, and
//! nothing has been counted or recorded for it here.
//!
//! It saves what routing, boxing and sharing cost a request, about a third of the registry's own part of a lookup. Called
//! by the server, before the router.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method as HttpMethod, Request};
use axum::response::Response;
use hyper::body::Body;

use super::caller::{self, Peer};
use super::scope::{self, Kept, Seed};
use super::{Shared, accept, lookup};
use crate::domain::{Namespace, Timestamp, TraceRef};
use crate::projection::ServiceView;
use crate::registrar::QueuedTraffic;
use crate::telemetry::keep::Outcome;
use crate::telemetry::metrics::RouteMetrics;
use crate::telemetry::names::{ErrorType, Method, RequestClass};
use crate::telemetry::propagation::TraceContext;
use crate::telemetry::signals::{self, Answered};

/// Answers plain lookups.
#[derive(Debug)]
pub(super) struct Express {
    api: Shared,
    route: RouteMetrics,
}

impl Express {
    /// The short way through this API.
    pub(super) fn new(api: Shared) -> Self {
        let route = api.metrics.http.route(lookup::PATH);
        Self { api, route }
    }

    /// The answer to `request`, if it is a lookup that can be answered at once; else nothing has happened.
    pub(super) fn answer<B: Body>(
        &self,
        request: &Request<B>,
        peer: &Arc<Peer>,
    ) -> Option<Response> {
        let service = service_of(request)?;
        let api = &*self.api;
        let open = api.readiness.is_ready()
            && api.admission.is_open(RequestClass::Lookup)
            && accept::allows(request.headers(), "application/json");
        if !open {
            return None;
        }
        // The head before the view, so that the event never claims to have seen less than it did.
        let head = api.projection.head();
        let (context, started) = (context_of(request), api.clock.monotonic());
        api.projection.with_service(Namespace::DEFAULT, service, |cell| {
            let view = cell.guard();
            let found = lookup::default_answer(api, &view, request.headers());
            if !found.is_ready() {
                return None;
            }
            let event = found.event(&view, head, (String::new(), None));
            let caller = caller::of(request.headers(), Some(peer));
            let ids = (context.trace_id.to_bytes(), context.span_id.to_bytes());
            let trace = TraceRef { trace_id: ids.0, span_id: ids.1 };
            let traffic = api.traffic(caller, trace, event);
            let at = traffic.at;
            api.registrar.try_record(QueuedTraffic { traffic, lease: None }).ok()?;
            api.admission.passed(RequestClass::Lookup);
            api.metrics.trace_context.get(context.result).increment(1);
            api.metrics.registry.lookups.get(found.outcome()).increment(1);
            let status = found.status().as_u16();
            let mut response = found.answer(view.revision);
            scope::put_ids(&mut response, api, &context);
            let now = api.clock.monotonic();
            let answered = Answered {
                context: &context,
                method: Method::Get,
                status,
                error: ErrorType::None,
                elapsed: Duration::from_micros(now.micros_since(started)),
            };
            signals::answered(&self.route, &answered, api.config.log_requests);
            if api.tracer.is_on() {
                let now = Duration::from_micros(now.0);
                self.keep(request, peer, &answered, (at, now), &view);
            }
            Some(response)
        })?
    }

    /// Decides about the span, and makes it.
    fn keep<B>(
        &self,
        request: &Request<B>,
        peer: &Arc<Peer>,
        answered: &Answered<'_>,
        (started, now): (Timestamp, Duration),
        view: &ServiceView,
    ) {
        let api = &*self.api;
        let outcome = Outcome {
            failed: false,
            changed: false,
            elapsed: answered.elapsed,
            slow_after: api.config.slow_read,
            now,
        };
        let Some(reason) = api.tracer.keep(answered.context, &outcome) else { return };
        let kept = Kept {
            route: self.route.route(),
            started,
            answered,
            service: Some(&view.key.service),
            instance: None,
            change: None,
            reason,
        };
        let seed = Seed::of(request, Some(Arc::clone(peer)), answered.context);
        api.tracer.emit(kept.record(&seed));
        kept.exemplify(&api.metrics.exemplars);
    }
}

/// The service that a plain lookup asks for; none if this is another request. A name that is not plain is left to those
/// who decode and check it: no service has one.
fn service_of<B: Body>(request: &Request<B>) -> Option<&str> {
    let uri = request.uri();
    if *request.method() != HttpMethod::GET
        || uri.query().is_some()
        || !request.body().is_end_stream()
    {
        return None;
    }
    let service = uri.path().strip_prefix("/v1/services/")?.strip_suffix("/instances")?;
    (!service.contains('/')).then_some(service)
}

fn context_of<B>(request: &Request<B>) -> TraceContext {
    let traceparent = request.headers().get_all("traceparent").iter();
    TraceContext::from_headers(traceparent.map(axum::http::HeaderValue::as_bytes))
}
