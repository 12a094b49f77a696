//! What happened between two readings of the metrics page: rates, and the latencies of each route. Pure; called by
//! [`super`].

use std::collections::BTreeMap;

use serde::Serialize;

const LATENCY: &str = "http_server_request_duration_seconds";

/// A page of metrics that was read: the value of each series, by its line's text.
#[derive(Debug, Default)]
pub(super) struct Reading(BTreeMap<String, f64>);

impl Reading {
    /// Reads Prometheus text; lines that are none of it are left out.
    pub(super) fn of(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(pairs.collect())
    }

    /// The series of a metric: labels and value.
    fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.iter().filter_map(move |(series, value)| {
            let labels = series.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then_some((labels, *value))
        })
    }

    /// The sum of the series that have this label with this value; of all, without one.
    pub(super) fn sum(&self, name: &str, wanted: Option<(&str, &str)>) -> f64 {
        let has =
            |labels: &str| wanted.is_none_or(|(key, value)| label(labels, key) == Some(value));
        self.series(name).filter(|(labels, _)| has(labels)).map(|(_, value)| value).sum()
    }
}

/// The value of a label; no value that is asked for here has a quote in it.
fn label<'a>(labels: &'a str, key: &str) -> Option<&'a str> {
    let begin = labels.match_indices(key).find_map(|(at, _)| {
        let opens = labels[..at].ends_with(['{', ',']);
        labels[at + key.len()..].strip_prefix("=\"").filter(|_| opens)
    })?;
    begin.split_once('"').map(|(value, _)| value)
}

/// What a route did.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Route {
    /// Method and template.
    pub(super) route: String,
    /// Requests a second.
    pub(super) rate: f64,
    /// Of them those that were answered with 5xx or not at all, 0 to 1.
    pub(super) failed: f64,
    /// Seconds.
    pub(super) p50: f64,
    /// Seconds.
    pub(super) p99: f64,
}

/// Observations by upper bound, as the page counts them.
#[derive(Default)]
struct Seen {
    buckets: Vec<(f64, f64)>,
    all: f64,
    failed: f64,
}

/// The routes that were asked for between two readings so many seconds apart, the busiest first.
pub(super) fn routes(before: &Reading, after: &Reading, seconds: f64) -> Vec<Route> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let bucket = format!("{LATENCY}_bucket");
    for (series, value) in &after.0 {
        let Some(labels) = series.strip_prefix(&bucket) else { continue };
        let more = value - before.0.get(series).copied().unwrap_or(0.0);
        let [method, route, status, bound] =
            ["http_request_method", "http_route", "http_response_status_code", "le"]
                .map(|key| label(labels, key).unwrap_or(""));
        let one = seen.entry(format!("{method} {route}")).or_default();
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap_or(0.0) };
        match one.buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
            Some((_, count)) => *count += more,
            None => one.buckets.push((bound, more)),
        }
        if bound.is_infinite() {
            one.all += more;
            one.failed += if status.starts_with('5') || status == "499" { more } else { 0.0 };
        }
    }
    let mut routes: Vec<Route> = seen
        .into_iter()
        .filter(|(_, seen)| seen.all > 0.0)
        .map(|(route, mut seen)| {
            seen.buckets.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            let [p50, p99] = [0.5, 0.99].map(|share| quantile(&seen.buckets, share));
            Route { route, rate: seen.all / seconds, failed: seen.failed / seen.all, p50, p99 }
        })
        .collect();
    routes.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    routes
}

/// As Prometheus estimates it (`histogram_quantile`): linear within the bucket that it falls into; of the last one, which
/// has no end, the beginning.
fn quantile(buckets: &[(f64, f64)], share: f64) -> f64 {
    let all = buckets.last().map_or(0.0, |(_, count)| *count);
    let rank = all * share;
    let (mut from, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank && *count > below {
            let part = (rank - below) / (count - below);
            return if bound.is_finite() { from + (bound - from) * part } else { from };
        }
        (from, below) = (*bound, *count);
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fast: u32, slow: u32, failed: u32) -> String {
        let series = |status: u32, bound: &str, count: u32| {
            format!(
                "{LATENCY}_bucket{{http_request_method=\"GET\",http_route=\"/v1/x\",http_response_status_code=\"{status}\",\
                 error_type=\"\",le=\"{bound}\"}} {count}\n"
            )
        };
        let lines = [
            series(200, "0.001", fast),
            series(200, "0.01", fast + slow),
            series(200, "+Inf", fast + slow),
            series(503, "0.001", 0),
            series(503, "0.01", 0),
            series(503, "+Inf", failed),
        ];
        format!("# TYPE {LATENCY} histogram\n{}rollcall_services 3\n", lines.concat())
    }

    #[test]
    fn rates_and_latencies_are_of_the_time_between() {
        let [before, after] = [page(100, 7, 2), page(190, 15, 4)].map(|page| Reading::of(&page));
        let routes = routes(&before, &after, 2.0);
        let [route] = &routes[..] else { panic!("{routes:?}") };
        assert_eq!((route.route.as_str(), route.rate), ("GET /v1/x", 50.0));
        assert!((route.failed - 0.02).abs() < 1e-9);
        // 90 of 100 below a millisecond: the median is 50/90 of it; the 99th is beyond the last bound that ends.
        assert!((route.p50 - 0.001 * 50.0 / 90.0).abs() < 1e-9, "{}", route.p50);
        assert!((route.p99 - 0.01).abs() < 1e-9, "{}", route.p99);
        assert_eq!(after.sum("rollcall_services", None), 3.0);
    }

    #[test]
    fn a_label_is_found_by_its_whole_name() {
        let labels = r#"{http_route="/a",route="/b",le="1"}"#;
        assert_eq!(label(labels, "route"), Some("/b"));
        assert_eq!((label(labels, "le"), label(labels, "e")), (Some("1"), None));
    }

    #[test]
    fn a_page_that_is_none_shows_nothing() {
        let none = Reading::of("<html>\nno page of metrics\n");
        assert_eq!(routes(&none, &none, 1.0), []);
        assert_eq!(none.sum("rollcall_services", None), 0.0);
    }
}
