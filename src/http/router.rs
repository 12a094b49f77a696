//! Which path leads where. Each path is written once, with its operations beside their handlers; the OpenAPI
//! document is made from the same list. Called by `app`, and by tests that want no socket.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodRouter, any, get};

use super::admission::Classes;
use super::problem::Problem;
use super::scope::{Route, ScopeLayer};
use super::spec::Operation;
use super::{
    Api, Shared, diff, events, graph, heartbeat, impact, life, lookup, operation, overview,
    profile, registration, replay, sd, services, ui, watch,
};
use crate::telemetry::names;

/// One path with all its methods.
pub(super) struct Resource {
    /// Its template, as the router and OpenAPI write it.
    pub(super) path: &'static str,
    /// What can be done with it.
    pub(super) operations: Vec<&'static Operation>,
    methods: MethodRouter<Shared>,
    produces: Option<&'static str>,
    steers: bool,
}

impl Resource {
    fn at(path: &'static str) -> Self {
        let produces = Some("application/json");
        let (operations, methods) = (Vec::new(), MethodRouter::new());
        Self { path, operations, methods, produces, steers: false }
    }

    /// An operation and who does it.
    fn on<H, T>(mut self, operation: &'static Operation, handler: H) -> Self
    where
        H: Handler<T, Shared>,
        T: 'static,
    {
        self.operations.push(operation);
        self.methods = self.methods.on(operation.method.filter(), handler);
        self
    }

    /// Answers in one form, whatever is asked for: scrapers ask for forms that come with a later version.
    fn not_bargaining(mut self) -> Self {
        self.produces = None;
        self
    }

    /// Answers in this form.
    fn producing(mut self, media: &'static str) -> Self {
        self.produces = Some(media);
        self
    }

    /// Changes how the past is shown and not the past: allowed where nothing else may be changed.
    fn steering(mut self) -> Self {
        self.steers = true;
        self
    }

    /// Whether it has to do with the state, which is not there before replay is done.
    fn needs_state(&self) -> bool {
        self.path.starts_with("/v1/")
    }
}

/// Every path of the API.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource::at(lookup::PATH).on(&lookup::LOOKUP, lookup::lookup),
        Resource::at("/v1/services/{service}/instances/{instance}")
            .on(&lookup::READ_INSTANCE, lookup::instance)
            .on(&registration::REGISTER, registration::register)
            .on(&registration::UPDATE, registration::update)
            .on(&registration::DEREGISTER, registration::deregister),
        Resource::at(heartbeat::PATH).on(&heartbeat::HEARTBEAT, heartbeat::heartbeat),
        Resource::at("/v1/services/{service}/instances/{instance}/history")
            .on(&life::HISTORY, life::history),
        Resource::at("/v1/services/{service}/instances/{instance}/why").on(&life::WHY, life::why),
        Resource::at("/v1/services/{service}/leases").on(&overview::LEASES, overview::leases),
        Resource::at("/v1/heartbeats").on(&heartbeat::HEARTBEATS, heartbeat::heartbeats),
        Resource::at("/v1/register")
            .on(&registration::REGISTER_SHORT, registration::register_short),
        Resource::at("/v1/services").on(&services::SERVICES, services::services),
        Resource::at("/v1/overview").on(&overview::OVERVIEW, overview::overview),
        Resource::at("/v1/namespaces").on(&services::NAMESPACES, services::namespaces),
        Resource::at("/v1/sd/prometheus").on(&sd::PROMETHEUS, sd::prometheus),
        Resource::at("/v1/events").on(&events::EVENTS, events::events),
        Resource::at("/v1/events/{id}").on(&events::EVENT, events::event),
        Resource::at("/v1/traces/{trace_id}").on(&events::TRACE, events::trace),
        Resource::at("/v1/diff").on(&diff::DIFF, diff::diff),
        Resource::at("/v1/impact").on(&impact::IMPACT, impact::impact),
        Resource::at("/v1/graph").on(&graph::GRAPH, graph::graph).not_bargaining(),
        Resource::at("/v1/watch").on(&watch::WATCH, watch::watch).producing("text/event-stream"),
        Resource::at("/v1/replay")
            .on(&replay::POSITION, replay::position)
            .on(&replay::STEER, replay::steer)
            .steering(),
        Resource::at("/v1/status").on(&operation::STATUS, operation::status),
        Resource::at("/livez").on(&operation::LIVE, operation::live),
        Resource::at("/readyz").on(&operation::READY, operation::ready),
        Resource::at("/metrics").on(&operation::METRICS, operation::metrics).not_bargaining(),
        Resource::at(profile::PATH).on(&profile::PROFILE, profile::profile).not_bargaining(),
        Resource::at("/openapi.json").on(&operation::OPENAPI, operation::openapi),
    ]
}

/// The paths of the page for people, which are no part of the API: nothing that programs may rely on is there.
fn pages() -> Vec<(&'static str, MethodRouter<Shared>)> {
    vec![
        ("/", get(ui::front)),
        ("/ui", get(ui::page)),
        ("/ui/", get(ui::front)),
        ("/ui/{file}", get(ui::file)),
    ]
}

/// The router over this API. Every path of it, and every path that is not there, answers within a scope.
pub fn router(api: Arc<Api>) -> Router {
    let scope = |template, produces, needs_state, steers| ScopeLayer {
        api: Arc::clone(&api),
        route: Arc::new(Route {
            metrics: api.metrics.http.route(template),
            produces,
            needs_state,
            steers,
            classes: Classes::of(template),
        }),
    };
    let mut router = Router::new();
    for resource in resources() {
        let layer =
            scope(resource.path, resource.produces, resource.needs_state(), resource.steers);
        router = router.route(resource.path, resource.methods.layer(layer));
    }
    for (path, methods) in pages() {
        // A page that says why it has nothing to show is better than none while replay is running.
        router = router.route(path, methods.layer(scope(path, None, false, false)));
    }
    let nothing = any(async || Problem::UnknownPath);
    let layer = scope(names::ROUTE_UNMATCHED, None, false, false);
    router.fallback_service(nothing.layer(layer).with_state(())).with_state(api)
}
