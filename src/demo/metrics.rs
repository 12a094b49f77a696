//! The page of metrics that each member serves, in Prometheus' text form.
//!
//! Written by hand, because it is also an example of how little a service needs: two counters and a histogram. Names
//! begin with `demo_`, so that they never mix with the registry's. Used by [`super::member`].

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the histogram's buckets, in seconds as text, and in microseconds.
const BUCKETS: [(&str, u64); 8] = [
    ("0.001", 1_000),
    ("0.0025", 2_500),
    ("0.005", 5_000),
    ("0.01", 10_000),
    ("0.025", 25_000),
    ("0.1", 100_000),
    ("0.5", 500_000),
    ("2.5", 2_500_000),
];

/// What one member counts about the requests that it served.
#[derive(Debug, Default)]
pub(super) struct Page {
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// One for each bucket, not cumulative, and one for what is above the last bound.
    durations: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Page {
    /// Counts a request.
    pub(super) fn served(&self, succeeded: bool, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|bound| micros <= bound.1).unwrap_or(BUCKETS.len());
        if succeeded { &self.succeeded } else { &self.failed }.fetch_add(1, Relaxed);
        self.durations[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    /// The text. Who reads it sees a moment: requests that end meanwhile may be in one line and not yet in another.
    ///
    /// Service and instance are no labels here: who scrapes knows whom, and adds them.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        let (requests, duration) = ("demo_requests_total", "demo_request_duration_seconds");
        let [succeeded, failed] = [&self.succeeded, &self.failed].map(|count| count.load(Relaxed));
        let mut line = |args: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = text.write_fmt(args);
            text.push('\n');
        };
        line(format_args!("# HELP {requests} Requests served, by outcome."));
        line(format_args!("# TYPE {requests} counter"));
        line(format_args!("{requests}{{outcome=\"ok\"}} {succeeded}"));
        line(format_args!("{requests}{{outcome=\"failed\"}} {failed}"));
        line(format_args!("# HELP {duration} How long requests took."));
        line(format_args!("# TYPE {duration} histogram"));
        let mut count = 0;
        let bounds = BUCKETS.iter().map(|bound| bound.0).chain(["+Inf"]);
        for (bound, bucket) in bounds.zip(&self.durations) {
            count += bucket.load(Relaxed);
            line(format_args!("{duration}_bucket{{le=\"{bound}\"}} {count}"));
        }
        let seconds = Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64();
        line(format_args!("{duration}_sum {seconds}"));
        line(format_args!("{duration}_count {count}"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_the_last_one_is_the_count() {
        let page = Page::default();
        page.served(true, Duration::from_micros(1_000));
        page.served(true, Duration::from_millis(7));
        page.served(false, Duration::from_secs(9));
        let text = page.render();
        for line in [
            "demo_requests_total{outcome=\"ok\"} 2",
            "demo_requests_total{outcome=\"failed\"} 1",
            "_bucket{le=\"0.001\"} 1",
            "_bucket{le=\"0.005\"} 1",
            "_bucket{le=\"0.01\"} 2",
            "_bucket{le=\"+Inf\"} 3",
            "_sum 9.008",
            "_count 3",
        ] {
            assert!(text.contains(line), "missing: {line}\nin:\n{text}");
        }
    }
}
