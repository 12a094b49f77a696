//! What surrounds every request: ids and time at its start; headers, metrics, line and span at its end.
//!
//! The trace id and the span id are made before anything else, because the event of the request carries them
//! whether or not a span is kept; the span itself is made at the end, and only if it is worth it. A handler
//! reports what it found out through its [`Scope`]. Nothing here knows what a request means.

mod remainder;
mod span;

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, StatusCode};
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use tower::{Layer, Service};

use super::admission::Classes;
use super::caller::{self, Peer};
use super::encoding::Accepted;
use super::problem::Problem;
use super::{Api, Shared, accept, wire};
use crate::clock::Monotonic;
use crate::domain::{Baggage, Change, InstanceId, Seq, ServiceName, Timestamp, TraceRef};
use crate::registrar::{Applied, Timings};
use crate::telemetry::baggage::{self, BaggageKeys};
use crate::telemetry::metrics::{ActiveRequest, RouteMetrics};
use crate::telemetry::names::{ErrorType, Method, RequestClass, WatchOutcome};
use crate::telemetry::propagation::TraceContext;
use crate::telemetry::signals::{self, Answered};
use remainder::Remainder;
pub(super) use span::{Kept, Seed};

/// The trace that the request is part of. A constant, as a name that is given as a text is read anew each time.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What else the request brings along.
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// The log's id, in every answer.
const LOG: HeaderName = HeaderName::from_static("rollcall-log");
/// The trace that the request was part of, in every answer.
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");
/// Longest path and query together, in bytes: names, filters and cursors at their longest fit twice.
const URI_BYTES_MAX: usize = 16 * 1024;
/// The status that is counted for a request whose client went away, after nginx's.
const CLIENT_CLOSED: u16 = 499;

/// What a request finds out about itself.
#[derive(Debug, Default)]
struct Facts {
    service: Option<ServiceName>,
    instance: Option<InstanceId>,
    change: Option<(Arc<Change>, Timings)>,
    waited_for_log: bool,
    reflects: Option<Seq>,
    watch: Option<Watch>,
    /// The place among the requests in progress that is to be given back.
    admitted: Option<RequestClass>,
}

/// What became of a request that waits for changes.
#[derive(Debug, Clone, Copy)]
enum Watch {
    /// A long poll: how it ended, and how long it had nothing to do.
    LongPoll(WatchOutcome, Duration),
    /// A stream: it is counted at its end.
    Stream,
}

#[derive(Debug)]
struct Inner {
    context: TraceContext,
    caller: Arc<str>,
    baggage: Option<Arc<Baggage>>,
    facts: Mutex<Facts>,
}

/// The request as its handler sees it: who asks, in which trace; and where it reports what it did.
#[derive(Debug, Clone)]
pub(super) struct Scope(Arc<Inner>);

impl Scope {
    /// Who asks.
    pub(super) fn caller(&self) -> &Arc<str> {
        &self.0.caller
    }

    /// What the request brought along for its events.
    pub(super) fn baggage(&self) -> Option<&Arc<Baggage>> {
        self.0.baggage.as_ref()
    }

    /// The ids that the event of this request carries.
    pub(super) fn trace(&self) -> TraceRef {
        let context = &self.0.context;
        TraceRef { trace_id: context.trace_id.to_bytes(), span_id: context.span_id.to_bytes() }
    }

    /// Says whom the request is about.
    pub(super) fn about(&self, service: &ServiceName, instance: Option<&InstanceId>) {
        let mut facts = self.0.facts.lock();
        facts.service = Some(service.clone());
        facts.instance = instance.cloned();
    }

    /// Says that the request waits for the log, so that another measure of slowness is for it.
    pub(super) fn waits_for_log(&self) {
        self.0.facts.lock().waited_for_log = true;
    }

    /// Says that the request is a long poll that begins to wait: a client that goes away now is no failure.
    pub(super) fn waits(&self) {
        self.0.facts.lock().watch = Some(Watch::LongPoll(WatchOutcome::Left, Duration::MAX));
    }

    /// Its place among the requests in progress, which whoever takes it gives back.
    pub(super) fn take_place(&self) -> Option<RequestClass> {
        self.0.facts.lock().admitted.take()
    }

    /// Says that it waits no more, why, and how long it had nothing to do.
    pub(super) fn waited(&self, outcome: WatchOutcome, idle: Duration) {
        self.0.facts.lock().watch = Some(Watch::LongPoll(outcome, idle));
    }

    /// Says that the answer is a stream, which says itself how it ended.
    pub(super) fn streams(&self) {
        self.0.facts.lock().watch = Some(Watch::Stream);
    }

    /// Says which version of the state a refusal reflects.
    pub(super) fn reflects(&self, version: Seq) {
        self.0.facts.lock().reflects = Some(version);
    }

    /// Says what the request changed.
    pub(super) fn changed(&self, applied: &Applied) {
        if let Some(change) = &applied.change {
            self.0.facts.lock().change = Some((Arc::clone(change), applied.timings));
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Scope {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Every route is built with the layer of this file; one without it is a fault of the router.
        parts.extensions.get::<Self>().cloned().ok_or(Problem::Internal)
    }
}

/// A route as its scope needs to know it.
#[derive(Debug)]
pub(super) struct Route {
    /// Its metrics, which know its template.
    pub(super) metrics: RouteMetrics,
    /// The media type of its answers; none for those that are not bargained for.
    pub(super) produces: Option<&'static str>,
    /// Whether it waits for replay.
    pub(super) needs_state: bool,
    /// Whether it changes how the past is shown, and not what is registered.
    pub(super) steers: bool,
    /// What of it goes before what.
    pub(super) classes: Classes,
}

/// Puts a scope around the requests of one route.
#[derive(Debug, Clone)]
pub(super) struct ScopeLayer {
    /// The API.
    pub(super) api: Shared,
    /// The route.
    pub(super) route: Arc<Route>,
}

impl<S> Layer<S> for ScopeLayer {
    type Service = Scoped<S>;

    fn layer(&self, inner: S) -> Scoped<S> {
        Scoped { inner, layer: self.clone() }
    }
}

/// A service within scopes.
#[derive(Debug, Clone)]
pub(super) struct Scoped<S> {
    inner: S,
    layer: ScopeLayer,
}

impl<S> Service<Request> for Scoped<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let exchange = Exchange::begin(&self.layer, &mut request);
        let remainder = Remainder::share(&mut request);
        let accepted = exchange.accepted(&request);
        let outcome = match exchange.admit().and_then(|()| refuse(&self.layer, &request)) {
            Err(problem) => Err(problem),
            Ok(()) => {
                request.extensions_mut().insert(exchange.scope.clone());
                Ok(self.inner.call(request))
            }
        };
        Box::pin(async move {
            let mut response = match outcome {
                Ok(future) => {
                    caught(future).await.unwrap_or_else(|| Problem::Internal.into_response())
                }
                Err(problem) => problem.into_response(),
            };
            if let Some(remainder) = remainder {
                remainder.drain(&mut response).await;
            }
            if let Some(accepted) = accepted {
                let encoder = &exchange.layer.api.encoder;
                if encoder.concerns_answer(&response) {
                    // Boxed, as few answers are so long.
                    response = Box::pin(encoder.encode(accepted, response)).await;
                }
            }
            Ok(exchange.end(response))
        })
    }
}

/// What no handler has to see: a registry that is not ready, an answer that nobody would take.
fn refuse(layer: &ScopeLayer, request: &Request) -> Result<(), Problem> {
    let route = &*layer.route;
    let uri = request.uri();
    let length = uri.path().len() + uri.query().map_or(0, str::len);
    if length > URI_BYTES_MAX {
        return Err(Problem::UriTooLong { limit: URI_BYTES_MAX });
    }
    if let Some(produces) = route.produces
        && !accept::allows(request.headers(), produces)
    {
        return Err(Problem::NotAcceptable { produces });
    }
    if route.needs_state && !layer.api.readiness.is_ready() {
        return Err(Problem::NotReady { phase: layer.api.readiness.phase().to_string() });
    }
    // Here and not in each handler: a heartbeat is a change too, and it knows no registrar that could refuse it.
    let reads =
        matches!(*request.method(), HttpMethod::GET | HttpMethod::HEAD | HttpMethod::OPTIONS);
    if !reads && !route.steers && layer.api.registrar.is_read_only() {
        return Err(Problem::ReadOnly);
    }
    Ok(())
}

/// Runs a handler; none if it panicked. The panic itself has been reported by then, by the hook of the process.
async fn caught<F: Future<Output = Result<Response, Infallible>>>(handler: F) -> Option<Response> {
    let mut handler = pin!(handler);
    let poll = |context: &mut Context<'_>| {
        // A handler that panicked is never polled again, and what it shares is behind locks or atomics.
        match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Ok(response))) => Poll::Ready(Some(response)),
            Ok(Poll::Ready(Err(never))) => match never {},
            Err(_) => Poll::Ready(None),
        }
    };
    std::future::poll_fn(poll).await
}

/// A request from its first byte to its answer. Dropped before its end, it counts as cancelled.
struct Exchange {
    layer: ScopeLayer,
    scope: Scope,
    method: Method,
    /// None for a request that is let in whatever happens.
    class: Option<RequestClass>,
    started: Monotonic,
    started_wall: Timestamp,
    seed: Option<Box<Seed>>,
    ended: bool,
    /// Counts down when the exchange is dropped, however it ends.
    _active: ActiveRequest,
}

impl Exchange {
    fn begin(layer: &ScopeLayer, request: &mut Request) -> Self {
        let api = &layer.api;
        let headers = request.headers();
        let context = context_of(headers);
        api.metrics.trace_context.get(context.result).increment(1);
        let method = method_of(request.method());
        let peer = request.extensions().get::<Arc<Peer>>();
        let caller = caller::of(headers, peer.map(|peer| &**peer));
        let baggage = baggage_of(headers, &api.config.baggage_keys);
        let seed = api.tracer.is_on().then(|| Box::new(Seed::of(request, peer.cloned(), &context)));
        Self {
            layer: layer.clone(),
            scope: Scope(Arc::new(Inner { context, caller, baggage, facts: Mutex::default() })),
            method,
            class: layer.route.classes.class(request.method(), request.uri().query()),
            started: api.clock.monotonic(),
            started_wall: api.clock.wall(),
            seed,
            ended: false,
            _active: api.metrics.http.active(method),
        }
    }

    /// Lets the request in, or says why not.
    fn admit(&self) -> Result<(), Problem> {
        let Some(class) = self.class else { return Ok(()) };
        let inner = &*self.scope.0;
        self.layer.api.admission.enter(class, &inner.caller, || self.started)?;
        inner.facts.lock().admitted = Some(class);
        Ok(())
    }

    /// Which codings its answer may come in; none for what is no read.
    fn accepted(&self, request: &Request) -> Option<Accepted> {
        let reads = matches!(self.method, Method::Get | Method::Head);
        reads.then(|| Accepted::of(request.headers()))
    }

    fn end(mut self, mut response: Response) -> Response {
        self.ended = true;
        let inner = &*self.scope.0;
        let problem = response.status().as_u16() >= 400;
        let problem = problem.then(|| problem_of(&mut response));
        if let Some(problem) = &problem {
            let trace_id = inner.context.trace_id.to_hex();
            problem.write(&mut response, std::str::from_utf8(&trace_id).unwrap_or_default());
            if let Some(version) = inner.facts.lock().reflects {
                response.headers_mut().insert(wire::SEQ, wire::seq_header(version));
            }
            if let (Some(class), Some(reason)) = (self.class, problem.refused()) {
                signals::request_refused(&self.layer.api.metrics.door, class, reason);
            }
        }
        put_ids(&mut response, &self.layer.api, &inner.context);
        let error = problem.map_or(ErrorType::None, |problem| problem.error_type());
        self.account(response.status().as_u16(), error);
        response
    }

    /// Metrics, line and span of a request that ended so.
    fn account(&self, status: u16, error: ErrorType) {
        let api = &*self.layer.api;
        let now = api.clock.monotonic();
        let elapsed = Duration::from_micros(now.micros_since(self.started));
        let context = &self.scope.0.context;
        let watch = self.scope.0.facts.lock().watch;
        // Who waits may leave.
        let left = watch.is_some() && error == ErrorType::Cancelled;
        let error = if left { ErrorType::None } else { error };
        let answered = Answered { context, method: self.method, status, error, elapsed };
        let (route, log) = (&self.layer.route.metrics, api.config.log_requests);
        match watch {
            None => signals::answered(route, &answered, log),
            Some(Watch::Stream) => signals::stream_began(route, &answered, log),
            Some(Watch::LongPoll(outcome, _)) => {
                let failed = error != ErrorType::None;
                let outcome = if failed { WatchOutcome::Error } else { outcome };
                signals::long_poll_ended(&api.metrics.watch, outcome, route, &answered, log);
            }
        }
        if let Some(seed) = &self.seed {
            self.keep(seed, &answered, Duration::from_micros(now.0));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.ended {
            self.account(CLIENT_CLOSED, ErrorType::Cancelled);
        }
        if let Some(class) = self.scope.take_place() {
            self.layer.api.admission.leave(class);
        }
    }
}

/// The ids of a request with these headers.
pub(super) fn context_of(headers: &HeaderMap) -> TraceContext {
    let traceparent = headers.get_all(TRACEPARENT).iter().map(HeaderValue::as_bytes);
    TraceContext::from_headers(traceparent)
}

/// What a request with these headers brought along under these keys. Without keys the headers are not even looked for.
pub(super) fn baggage_of(headers: &HeaderMap, keys: &BaggageKeys) -> Option<Arc<Baggage>> {
    if keys.is_empty() {
        return None;
    }
    baggage::of(headers.get_all(BAGGAGE).iter().map(HeaderValue::as_bytes), keys)
}

/// Puts what every answer says into this one: of which log it is, and in which trace it was given.
pub(super) fn put_ids(response: &mut Response, api: &Api, context: &TraceContext) {
    let headers = response.headers_mut();
    headers.insert(LOG, api.log_header.clone());
    if let Ok(value) = HeaderValue::from_bytes(&context.traceresponse()) {
        headers.insert(TRACERESPONSE, value);
    }
}

/// The problem that a response carries, or the one that stands for what the router answered on its own.
fn problem_of(response: &mut Response) -> Problem {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return problem;
    }
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => Problem::MethodNotAllowed,
        StatusCode::NOT_FOUND => Problem::UnknownPath,
        status if status.is_client_error() => {
            Problem::Malformed { detail: "the request can't be read".into() }
        }
        _ => Problem::Internal,
    }
}

fn method_of(method: &HttpMethod) -> Method {
    match *method {
        HttpMethod::GET => Method::Get,
        HttpMethod::HEAD => Method::Head,
        HttpMethod::POST => Method::Post,
        HttpMethod::PUT => Method::Put,
        HttpMethod::PATCH => Method::Patch,
        HttpMethod::DELETE => Method::Delete,
        HttpMethod::OPTIONS => Method::Options,
        HttpMethod::TRACE => Method::Trace,
        HttpMethod::CONNECT => Method::Connect,
        _ => Method::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_is_told_from_one_that_answers() {
        let answered = caught(async { Ok(Response::default()) }).await;
        assert_eq!(answered.map(|response| response.status()), Some(StatusCode::OK));
        let panicked = caught(async {
            tokio::task::yield_now().await;
            panic!("a defect, made for this test");
        });
        assert!(panicked.await.is_none());
    }
}
