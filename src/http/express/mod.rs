//! The shortest way to the two answers that are asked for most: who of a known service may be called now, and that a
//! lease is renewed.
//!
//! ```text
//!   connection ─▶ express ─▶ lookup ──────────────────────────────────▶ answer
//!                    │    └▶ heartbeat ─▶ its body, if it is here ────▶ answer
//!                    └ anything unusual ─▶ router ─▶ scope ─▶ handler ─▶ answer
//! ```
//!
//! Such a request waits for nothing, so that it needs no future of its own; and its path can be told at a glance, so that
//! it needs no router. What scope and handler do for it is done here in one go, by their own parts: the same ids, event,
//! metrics, span, headers and bytes. (It is never seen among the requests in progress: between its beginning and its end
//! nobody looks.) Whatever is not known by heart (a query, a name that has to be decoded, a body that is not here yet or
//! long, a limit that is reached, a lease with the registrar's mark, a log that is full or slow, a coding that this answer
//! was not asked for in before) goes the long way, and nothing has been counted or recorded for it here.
//!
//! It saves what routing, boxing and sharing cost a request. Called by the server, before the router.

mod heartbeat;
mod lookup;
mod unread;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method as HttpMethod, Request};
use axum::response::Response;
use hyper::body::Body;

use super::caller::Peer;
use super::scope::{self, Kept, Seed};
use super::{About, Shared, accept};
use crate::clock::Monotonic;
use crate::domain::traffic::{Detail, Traffic};
use crate::domain::{InstanceId, Seq, ServiceName, Timestamp, TraceRef};
use crate::telemetry::keep::{Ending, Outcome, Pace};
use crate::telemetry::metrics::RouteMetrics;
use crate::telemetry::names::{ErrorType, Method, RequestClass};
use crate::telemetry::propagation::TraceContext;
use crate::telemetry::signals::{self, Answered};
pub(super) use heartbeat::Beat;
pub(super) use unread::Unread;

/// Answers plain lookups and heartbeats.
#[derive(Debug)]
pub(super) struct Express {
    api: Shared,
    lookups: RouteMetrics,
    heartbeats: RouteMetrics,
}

/// What can be said of a request by its head.
#[derive(Debug)]
pub(super) enum Found {
    /// It is answered.
    Answered(Response),
    /// It is a heartbeat that can be answered once its body is read, if that is here.
    Beat(Beat),
    /// It is anything else; nothing has happened.
    Unusual,
}

/// A request since its first byte.
#[derive(Debug, Clone, Copy)]
struct Begun {
    context: TraceContext,
    started: Monotonic,
}

/// What is known of a request once it is answered.
struct Done<'a, B> {
    request: &'a Request<B>,
    peer: &'a Arc<Peer>,
    begun: &'a Begun,
    /// When its event happened.
    at: Timestamp,
    method: Method,
    route: &'a RouteMetrics,
    service: &'a ServiceName,
    instance: Option<&'a InstanceId>,
}

impl Express {
    /// The short way through this API.
    pub(super) fn new(api: Shared) -> Self {
        let lookups = api.metrics.http.route(super::lookup::PATH);
        let heartbeats = api.metrics.http.route(super::heartbeat::PATH);
        Self { api, lookups, heartbeats }
    }

    /// The answer to `request`, if it can be given at once.
    pub(super) fn answer<B: Body>(&self, request: &Request<B>, peer: &Arc<Peer>) -> Found {
        let path = match request.uri().query() {
            None => request.uri().path().strip_prefix("/v1/services/"),
            Some(_) => None,
        };
        let Some(path) = path else { return Found::Unusual };
        match *request.method() {
            HttpMethod::GET => self.lookup(request, path, peer),
            HttpMethod::PUT => self.heartbeat(request, path, peer),
            _ => None,
        }
        .unwrap_or(Found::Unusual)
    }

    /// Whether a request of this class is let in without a closer look.
    fn is_open<B>(&self, request: &Request<B>, class: RequestClass) -> bool {
        let api = &*self.api;
        api.readiness.is_ready()
            && api.admission.is_open(class)
            && accept::allows(request.headers(), "application/json")
    }

    fn begin<B>(&self, request: &Request<B>) -> Begun {
        let context = scope::context_of(request.headers());
        Begun { context, started: self.api.clock.monotonic() }
    }

    /// The event of a request: about whom, which version it saw, and what it was.
    fn event<B>(
        &self,
        request: &Request<B>,
        peer: &Arc<Peer>,
        begun: &Begun,
        what: (About, Seq, Detail),
    ) -> Traffic {
        let TraceContext { trace_id, span_id, .. } = begun.context;
        let trace = TraceRef { trace_id: trace_id.to_bytes(), span_id: span_id.to_bytes() };
        let (about, seen, detail) = what;
        let brought = scope::baggage_of(request.headers(), &self.api.config.baggage_keys);
        let what = (about, seen, detail.with_baggage(brought));
        self.api.traffic(super::caller::of(request.headers(), Some(peer)), trace, what)
    }

    /// What the end of every request is: headers, metrics, line and span.
    fn end<B>(&self, done: &Done<'_, B>, class: RequestClass, mut response: Response) -> Response {
        let api = &*self.api;
        let Begun { context, started } = done.begun;
        api.admission.passed(class);
        api.metrics.trace_context.get(context.result).increment(1);
        scope::put_ids(&mut response, api, context);
        let now = api.clock.monotonic();
        let answered = Answered {
            context,
            method: done.method,
            status: response.status().as_u16(),
            error: ErrorType::None,
            elapsed: Duration::from_micros(now.micros_since(*started)),
        };
        signals::answered(done.route, &answered, api.config.log_requests);
        if api.tracer.is_on() {
            self.keep(done, &answered, Duration::from_micros(now.0));
        }
        response
    }

    /// Decides about the span, and makes it.
    fn keep<B>(&self, done: &Done<'_, B>, answered: &Answered<'_>, now: Duration) {
        let api = &*self.api;
        let outcome = Outcome {
            ending: Ending::Well,
            changed: false,
            elapsed: answered.elapsed,
            pace: Pace::Read,
            now,
        };
        let Some(reason) = api.tracer.keep(answered.context, &outcome) else { return };
        let kept = Kept {
            route: done.route.route(),
            started: done.at,
            answered,
            service: Some(done.service),
            instance: done.instance,
            change: None,
            reason,
        };
        let seed = Seed::of(done.request, Some(Arc::clone(done.peer)), answered.context);
        api.tracer.emit(kept.record(&seed));
        kept.exemplify(&api.metrics.exemplars);
    }
}
