//! Counting a request that was answered: one that went well, and one that was refused because too much is asked. A registry
//! that sheds does the second for most of its requests, so that it must not cost more than the first.

use std::hint::black_box;

use criterion::Criterion;
use rollcall::telemetry::metrics::{Metrics, MetricsConfig};
use rollcall::telemetry::names::{ErrorType, Method};

/// About as many routes as the API has. Each has been answered in a few ways, as in a registry that has run for some days.
const ROUTES: [&str; 30] = [
    "/00", "/01", "/02", "/03", "/04", "/05", "/06", "/07", "/08", "/09", "/10", "/11", "/12",
    "/13", "/14", "/15", "/16", "/17", "/18", "/19", "/20", "/21", "/22", "/23", "/24", "/25",
    "/26", "/27", "/28", "/29",
];

const WAYS: [(u16, ErrorType); 5] = [
    (200, ErrorType::None),
    (404, ErrorType::None),
    (499, ErrorType::Cancelled),
    (503, ErrorType::NotReady),
    (503, ErrorType::Overloaded),
];

pub(crate) fn bench(criterion: &mut Criterion) {
    let metrics = Metrics::new(&MetricsConfig::default());
    let routes = ROUTES.map(|route| metrics.http.route(route));
    for (status, error) in WAYS {
        routes.iter().for_each(|route| route.observe(Method::Get, status, error, 0.000_07));
    }
    let route = &routes[ROUTES.len() / 2];
    let mut group = criterion.benchmark_group("answered");
    for (name, status, error) in
        [("well", 200, ErrorType::None), ("refused", 503, ErrorType::Overloaded)]
    {
        group.bench_function(name, |bencher| {
            bencher
                .iter(|| route.observe(Method::Get, black_box(status), black_box(error), 0.000_07));
        });
    }
    group.finish();
}
