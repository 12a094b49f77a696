//! Metrics of requests: duration by method, route, status and error; requests being answered.
//!
//! A route is registered once, when the router is built; an observation is then a few indexes and a few additions, for a
//! request that was refused or failed as for one that went well: refusing must be the cheapest thing that a server
//! with too much to do can do. A raw path must never get here: routes are `'static` templates. Callers: the HTTP layers.

use std::sync::{Arc, OnceLock};

use ::metrics::{Gauge, Histogram, SharedString};

use super::source::{Family, Grid, Source};
use crate::telemetry::names::{self, ErrorType, LabelValue, Method, label};

/// Statuses whose handles are kept at hand, which are all that the registry answers with; another one works too, at the
/// price of a look-up among all series.
pub(crate) const STATUSES: [u16; 24] = [
    200, 201, 204, 304, 307, 400, 403, 404, 405, 406, 408, 409, 410, 412, 413, 414, 415, 422, 429,
    431, 499, 500, 503, 504,
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
            handles: Grid::new(|_, _| OnceLock::new()),
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
    /// Made when the first request of a method ends in this way: most methods and most errors never come to a route.
    handles: Grid<Method, ErrorType, OnceLock<Box<ByStatus>>>,
}

type ByStatus = [OnceLock<Histogram>; STATUSES.len()];

impl RouteMetrics {
    /// Records one answered request. `seconds` is its duration.
    pub fn observe(&self, method: Method, status: u16, error: ErrorType, seconds: f64) {
        match STATUSES.binary_search(&status) {
            Ok(place) => {
                let by_status = self.0.handles.get(method, error).get_or_init(Box::default);
                by_status[place]
                    .get_or_init(|| self.histogram(method, status, error))
                    .record(seconds);
            }
            Err(_) => self.histogram(method, status, error).record(seconds),
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::telemetry::metrics::{Metrics, MetricsConfig};

    /// Every way in which a request of one method can end, also with a status that no handle is kept for.
    fn ends() -> impl Iterator<Item = (u16, ErrorType)> {
        let statuses = STATUSES.into_iter().chain([299, 505]);
        statuses.flat_map(|status| ErrorType::ALL.iter().map(move |error| (status, *error)))
    }

    #[test]
    fn each_way_to_end_has_one_series_and_counts_in_it() {
        let metrics = Metrics::new(&MetricsConfig::default());
        let [one, other] = ["/one", "/other"].map(|route| metrics.http.route(route));
        // The same route registered twice is one series still: the short way of lookups has handles of its own.
        let again = metrics.http.route("/one");
        let mut expected = BTreeSet::new();
        for (status, error) in ends() {
            for (route, method, times) in
                [(&one, Method::Get, 3), (&again, Method::Get, 2), (&other, Method::Put, 1)]
            {
                (0..times).for_each(|_| route.observe(method, status, error, 0.2));
            }
            for (method, route, count) in [("GET", "/one", 5), ("PUT", "/other", 1)] {
                expected.insert(format!(
                    "http_server_request_duration_seconds_count{{http_request_method=\"{method}\",http_route=\"{route}\",\
                     http_response_status_code=\"{status}\",error_type=\"{}\"}} {count}",
                    error.as_str()
                ));
            }
        }
        let page = metrics.page().render();
        let counts = page
            .lines()
            .filter(|line| line.starts_with("http_server_request_duration_seconds_count"));
        assert_eq!(counts.map(str::to_owned).collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn a_failure_that_was_seen_before_needs_no_look_at_the_other_series() {
        let metrics = Metrics::new(&MetricsConfig::default());
        let route = metrics.http.route("/one");
        let failed = || {
            for (status, error) in ends().filter(|(status, _)| STATUSES.contains(status)) {
                route.observe(Method::Get, status, error, 0.2);
            }
        };
        failed();
        let (done, is_done) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let others_look = metrics.http.source.hold();
            scope.spawn(|| {
                failed();
                done.send(())
            });
            let seen = is_done.recv_timeout(Duration::from_secs(10));
            drop(others_look);
            assert!(seen.is_ok(), "it waits for whoever looks at all series");
        });
    }
}
