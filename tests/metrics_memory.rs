//! Metrics take no memory for what they record: five million records that nobody asks for leave the process as large as
//! it was. Alone in its binary, because what is measured is the process.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Key, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::PrometheusBuilder;
use rollcall::telemetry::metrics::{Metrics, MetricsConfig};
use rollcall::telemetry::names::{Class, ErrorType, Method, Transport};
use rollcall::telemetry::propagation::TraceContext;
use rollcall::telemetry::signals::{self, Answered};

/// Records in all.
const RECORDS: u64 = 5_000_000;

/// What a thread records for one request, at most.
const EACH: u64 = 5;

/// Threads that record at the same time, as those of a server do.
const THREADS: u64 = 4;

/// What the process may grow by, in bytes.
const GROWTH_MAX: u64 = 32 * 1024 * 1024;

/// The most that was ever resident of this process, in bytes; none where the system does not say.
fn resident_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// A thread's share of the requests, each counted where a server counts it; their durations differ.
fn record(metrics: &Metrics) {
    let context = TraceContext::root();
    let route = metrics.http.route("/v1/services/{service}/instances");
    for number in 0..RECORDS / EACH / THREADS {
        let elapsed = Duration::from_nanos(1 + number * 7_919 % 2_000_000_000);
        let answered = Answered {
            context: &context,
            method: Method::Get,
            status: 200,
            error: ErrorType::None,
            elapsed,
        };
        signals::answered(&route, &answered, false);
        let seconds = elapsed.as_secs_f64();
        metrics.log.append_seconds.get(Class::Change).record(seconds);
        metrics.log.batch_events.record((number % 4_096) as f64);
        metrics.registry.heartbeat_gap_ratio.record(seconds);
        signals::watcher_told(&metrics.watch, Transport::Sse, elapsed);
    }
}

#[test]
fn five_million_records_without_a_scrape_take_no_memory() {
    let Some(_) = resident_peak() else { return };
    let metrics = Metrics::new(&MetricsConfig::default());
    // Every handle is made and every page has had its first look before.
    let warm = metrics.page().render().len();
    let before = resident_peak().unwrap();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let metrics = Arc::clone(&metrics);
            std::thread::spawn(move || record(&metrics))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let grown = resident_peak().unwrap() - before;
    assert!(grown < GROWTH_MAX, "{grown} bytes for {RECORDS} records");

    // All of them are on the page.
    let page = metrics.page().render();
    assert!(page.len() < 2 * warm, "the page is no longer for it: {} and {warm}", page.len());
    let counted: f64 = [
        "http_server_request_duration_seconds_count",
        "rollcall_event_append_duration_seconds_count",
        "rollcall_commit_batch_events_count",
        "rollcall_heartbeat_gap_ratio_count",
        "rollcall_notify_duration_seconds_count",
    ]
    .iter()
    .flat_map(|name| page.lines().filter(move |line| line.starts_with(name)))
    .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
    .sum();
    assert_eq!(counted, RECORDS as f64);

    // And it would have been seen: a recorder that keeps its samples for the next scrape does grow.
    let before = resident_peak().unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let metadata = Metadata::new(module_path!(), Level::INFO, None);
    let histogram = recorder.register_histogram(&Key::from_static_name("kept_samples"), &metadata);
    for number in 0..RECORDS {
        histogram.record(number as f64);
    }
    let grown = resident_peak().unwrap() - before;
    assert!(grown > GROWTH_MAX, "only {grown} bytes: the measure would not see what it looks for");
}
