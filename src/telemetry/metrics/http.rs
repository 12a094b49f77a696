//! Metrics of requests: duration by method, route, status and error; requests being answered.
//!
//! A route is registered once, when the router is built; an observation is then two indexes and one push.
//! A raw path must never get here: routes are `'static` templates. Callers: the HTTP layers.

use std::sync::{Arc, OnceLock};

use ::metrics::{Gauge, Histogram, SharedString};

use super::source::{Family, Source};
use crate::telemetry::names::{self, ErrorType, LabelValue, Method, label};

/// Statuses whose handles are kept at hand; another one works too, at the price of a look-up.
const STATUSES: [u16; 22] = [
    200, 201, 204, 304, 400, 404, 405, 406, 408, 409, 410, 412, 413, 414, 415, 422, 429, 431, 499,
    500, 503, 504,
];

/// Handles of the HTTP server.
#[derive(Debug)]
pub struct HttpMetrics {
    source: Source,
    active: Family<Method, Gauge>,
}

impl HttpMetrics {
    pub(super) fn new(source: &Source) -> Self {
        let active = Family::gauges(source, names::HTTP_ACTIVE_REQUESTS, label::METHOD);
        Self { source: source.clone(), active }
    }

    /// The metrics of one route, given as its template or [`names::ROUTE_UNMATCHED`]. To be kept by the route.
    pub fn route(&self, route: &'static str) -> RouteMetrics {
        RouteMetrics(Arc::new(Route {
            source: self.source.clone(),
            route,
            handles: Family::new(|_| std::array::from_fn(|_| OnceLock::new())),
        }))
    }

    /// Counts a request as being answered until the guard is dropped, however it ends.
    pub fn active(&self, method: Method) -> ActiveRequest {
        let gauge = self.active.get(method).clone();
        gauge.increment(1.0);
        ActiveRequest(gauge)
    }
}

/// A request being answered; counts down on drop.
#[derive(Debug)]
#[must_use = "the request counts as answered when this is dropped"]
pub struct ActiveRequest(Gauge);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Metrics of one route, cheap to clone.
#[derive(Debug, Clone)]
pub struct RouteMetrics(Arc<Route>);

#[derive(Debug)]
struct Route {
    source: Source,
    route: &'static str,
    handles: Family<Method, [OnceLock<Histogram>; STATUSES.len()]>,
}

impl RouteMetrics {
    /// Records one answered request. `seconds` is its duration.
    pub fn observe(&self, method: Method, status: u16, error: ErrorType, seconds: f64) {
        // Failures are rare and of many kinds: they look their handle up.
        let known = STATUSES.binary_search(&status).ok().filter(|_| error == ErrorType::None);
        match known {
            Some(place) => self.0.handles.get(method)[place]
                .get_or_init(|| self.histogram(method, status, error))
                .record(seconds),
            None => self.histogram(method, status, error).record(seconds),
        }
    }

    /// Puts the series of an expected answer on the page before the first one is given.
    pub fn expect(&self, method: Method, status: u16) {
        drop(self.histogram(method, status, ErrorType::None));
    }

    /// The template.
    pub fn route(&self) -> &'static str {
        self.0.route
    }

    fn histogram(&self, method: Method, status: u16, error: ErrorType) -> Histogram {
        let text = SharedString::const_str;
        self.0.source.histogram(
            names::HTTP_REQUEST_DURATION,
            [
                (label::METHOD, text(method.text())),
                (label::ROUTE, text(self.0.route)),
                (label::STATUS_CODE, SharedString::from_owned(status.to_string())),
                (label::ERROR_TYPE, text(error.text())),
            ],
        )
    }
}
