//! Metrics: one recorder an instance, every handle resolved once, and the page that Prometheus scrapes.
//!
//! Looking a handle up by its labels costs 270 to 650 ns, using one 20 to 90 (measured, 2 shared cores): so the
//! parts get their handles here, at the start, and no macro of the `metrics` crate is used anywhere. Nothing is
//! installed for the whole process, so that several registries can live in one test.
//!
//! All series with closed labels exist from the start, counters at 0: a rate over them is never "no data".
//! Callers: `app` builds it; every part holds the group of handles that is its own; the `/metrics` route renders
//! the page.

mod door;
mod exemplars;
mod http;
mod open;
mod paced;
mod probe;
mod process;
mod registry;
mod shards;
mod source;
mod watch;

use std::sync::Arc;

use ::metrics::Gauge;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::Semaphore;
use tracing_appender::non_blocking::ErrorCounter;

pub use self::door::DoorMetrics;
pub use self::exemplars::Exemplars;
#[cfg(test)]
pub(crate) use self::http::STATUSES;
pub use self::http::{ActiveRequest, HttpMetrics, RouteMetrics};
pub use self::probe::ProbeMetrics;
use self::process::ProcessMetrics;
pub use self::registry::{
    KeeperMetrics, LogMetrics, RegistryMetrics, ReplayMetrics, ServiceInstances,
};
use self::source::Source;
pub use self::source::{Family, Grid};
pub use self::watch::{WatchMetrics, Watching};
use super::names::{self, ContextResult, RecordResult, SpanResult, label};
/// The handles that the groups hand out, so that other modules need not name the crate.
pub use ::metrics::{Counter, Histogram};

/// What is running, for `rollcall_build_info`.
#[derive(Debug, Clone)]
pub struct BuildInfo {
    /// Version of the crate.
    pub version: String,
    /// Commit it was built from, or `unknown`.
    pub revision: String,
    /// Compiler it was built with, or `unknown`.
    pub rustc: String,
}

impl Default for BuildInfo {
    /// What Cargo knows, and `ROLLCALL_REVISION` and `ROLLCALL_RUSTC` if they were set while compiling.
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: option_env!("ROLLCALL_REVISION").unwrap_or("unknown").to_owned(),
            rustc: option_env!("ROLLCALL_RUSTC").unwrap_or("unknown").to_owned(),
        }
    }
}

/// Settings of the metrics.
#[derive(Debug, Clone)]
pub struct MetricsConfig {
    /// What is running.
    pub build: BuildInfo,
    /// How many services get series of their own in `rollcall_service_instances`; the others share `_other`.
    /// 0 turns the metric off.
    pub service_series_max: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { build: BuildInfo::default(), service_series_max: 200 }
    }
}

/// All handles, by part. Built once, shared behind an [`Arc`].
#[derive(Debug)]
pub struct Metrics {
    /// Requests.
    pub http: HttpMetrics,
    /// Requests that were told to come back, and the limits.
    pub door: DoorMetrics,
    /// The log and its queues.
    pub log: LogMetrics,
    /// The state: instances, lookups, heartbeats, expiries.
    pub registry: RegistryMetrics,
    /// Long polls and streams.
    pub watch: WatchMetrics,
    /// The registry's probes.
    pub probe: ProbeMetrics,
    /// The last replay.
    pub replay: ReplayMetrics,
    /// The background work on the log.
    pub keeper: KeeperMetrics,
    /// `rollcall_trace_context_total`, one a request.
    pub trace_context: Family<ContextResult, Counter>,
    /// `rollcall_spans_total`.
    pub spans: Family<SpanResult, Counter>,
    /// `rollcall_log_records_total`.
    pub records: Family<RecordResult, Counter>,
    /// The last kept request in each bucket of the latencies.
    pub exemplars: Exemplars,
    page: MetricsPage,
}

impl Metrics {
    /// Builds a recorder of its own and resolves all handles.
    pub fn new(config: &MetricsConfig) -> Arc<Self> {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let source = Source::new(recorder);

        let build = &config.build;
        source
            .gauge(
                names::BUILD_INFO,
                [
                    (label::VERSION, build.version.clone()),
                    (label::REVISION, build.revision.clone()),
                    (label::RUSTC, build.rustc.clone()),
                ],
            )
            .set(1.0);

        Arc::new(Self {
            http: HttpMetrics::new(&source),
            door: DoorMetrics::new(&source),
            log: LogMetrics::new(&source),
            registry: RegistryMetrics::new(&source, config.service_series_max),
            watch: WatchMetrics::new(&source),
            probe: ProbeMetrics::new(&source),
            replay: ReplayMetrics::new(&source),
            keeper: KeeperMetrics::new(&source),
            trace_context: Family::busy_counters(&source, names::TRACE_CONTEXT, label::RESULT),
            spans: Family::counters(&source, names::SPANS, label::RESULT),
            records: Family::counters(&source, names::LOG_RECORDS, label::RESULT),
            exemplars: Exemplars::default(),
            page: MetricsPage::new(handle, source),
        })
    }

    /// Counts the log lines that `lines` knows to be lost.
    pub(super) fn count_lines(&self, lines: ErrorCounter) {
        self.page.process.count_lines(lines);
    }

    /// The page in the form of OpenMetrics, with the exemplars; else as [`MetricsPage::render`].
    pub fn open_page(&self) -> String {
        open::of(&self.page.render(), &self.exemplars)
    }

    /// The page for whoever asks over the network, in the form of OpenMetrics if it is to be `open`. It is made on a thread
    /// that may block, and one at a time: however many ask, pages take no more than one core, and no thread that answers
    /// requests. `observe` is called there first, for what is read off rather than counted. None if it panicked.
    pub async fn scrape(
        self: &Arc<Self>,
        open: bool,
        observe: impl FnOnce() + Send + 'static,
    ) -> Option<String> {
        // It is never closed.
        let turn = Arc::clone(&self.page.turn).acquire_owned().await.ok()?;
        let metrics = Arc::clone(self);
        let write = move || {
            observe();
            let page = if open { metrics.open_page() } else { metrics.page.render() };
            // Here, as who asked may have gone while it was made.
            drop(turn);
            page
        };
        tokio::task::spawn_blocking(write).await.ok()
    }

    /// The page that Prometheus scrapes.
    pub fn page(&self) -> &MetricsPage {
        &self.page
    }
}

/// The page of `/metrics`.
#[derive(Debug)]
pub struct MetricsPage {
    handle: PrometheusHandle,
    process: ProcessMetrics,
    source: Source,
    /// Whose turn it is to have it made.
    turn: Arc<Semaphore>,
}

impl MetricsPage {
    /// The media type of [`Metrics::open_page`]'s text.
    pub const OPEN_CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The media type of [`Self::render`]'s text.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    fn new(handle: PrometheusHandle, source: Source) -> Self {
        let process = ProcessMetrics::new(&source);
        Self { handle, process, source, turn: Arc::new(Semaphore::new(1)) }
    }

    /// All series as Prometheus text. Reads the process' own figures from the system, and takes some milliseconds where there
    /// are thousands of series: not to be called where requests are answered ([`Metrics::scrape`]). Called inside a tokio
    /// runtime, it shows that runtime's figures too.
    pub fn render(&self) -> String {
        self.process.sample();
        self.source.settle();
        let mut text = paced::text(|page| self.handle.render_to_write(page));
        self.source.append_to(&mut text);
        self.process.append_to(&mut text);
        text
    }
}

/// Sets a gauge to a count. Beyond 2^53 the last digits are lost, which no count here reaches.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a double; counts here stay below 2^53")]
pub fn set_count(gauge: &Gauge, count: u64) {
    gauge.set(count as f64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::names::{
        Class, ErrorType, Kind, LookupOutcome, METRICS, Method, Mode, Status,
    };

    fn value(page: &str, series: &str) -> Option<f64> {
        let line = page
            .lines()
            .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit_once(' ').map(|(_, value)| value.parse().unwrap())
    }

    #[tokio::test]
    async fn every_metric_of_the_table_is_on_the_page_with_its_help_and_type() {
        let metrics = Metrics::new(&MetricsConfig::default());
        metrics.http.route("/livez").observe(Method::Get, 200, ErrorType::None, 0.001);
        metrics.registry.service_instances.adjust("orders", Status::Healthy, 1);
        let page = metrics.page().render();
        for metric in METRICS {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            assert!(
                page.contains(&format!("# TYPE {} {kind}\n", metric.name)),
                "{} has no {kind}",
                metric.name
            );
            assert!(
                page.contains(&format!("# HELP {} {}\n", metric.name, metric.help)),
                "{}",
                metric.name
            );
        }
        let described = page.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(described, METRICS.len(), "a metric on the page is missing in names.rs");
        assert_eq!(value(&page, r#"rollcall_lookups_total{outcome="degraded"}"#), Some(0.0));
    }

    #[test]
    fn two_registries_in_one_process_do_not_mix() {
        let [one, two] = [0, 1].map(|_| Metrics::new(&MetricsConfig::default()));
        one.registry.lookups.get(LookupOutcome::Hit).increment(3);
        let series = r#"rollcall_lookups_total{outcome="hit"}"#;
        assert_eq!(value(&one.page().render(), series), Some(3.0));
        assert_eq!(value(&two.page().render(), series), Some(0.0));
    }

    #[test]
    fn observations_land_in_their_buckets_and_active_requests_count_down() {
        let metrics = Metrics::new(&MetricsConfig::default());
        let route = metrics.http.route("/v1/services");
        let active = metrics.http.active(Method::Get);
        route.observe(Method::Get, 200, ErrorType::None, 0.00007);
        route.observe(Method::Get, 503, ErrorType::NotReady, 0.2);
        route.observe(Method::Get, 299, ErrorType::None, 0.2);
        metrics.log.append_seconds.get(Class::Change).record(0.0009);
        let page = metrics.page().render();
        let labels = r#"http_request_method="GET",http_route="/v1/services",http_response_status_code="200",error_type="""#;
        let bucket = |le: &str| {
            format!(r#"http_server_request_duration_seconds_bucket{{{labels},le="{le}"}}"#)
        };
        assert_eq!(value(&page, &bucket("0.00005")), Some(0.0), "{page}");
        assert_eq!(value(&page, &bucket("0.0001")), Some(1.0));
        assert!(page.contains(r#"http_response_status_code="503",error_type="not_ready""#));
        assert!(page.contains(r#"http_response_status_code="299",error_type="""#));
        let series = r#"http_server_active_requests{http_request_method="GET"}"#;
        assert_eq!(value(&page, series), Some(1.0));
        drop(active);
        assert_eq!(value(&metrics.page().render(), series), Some(0.0));
    }

    #[test]
    fn a_kept_request_is_the_exemplar_of_its_bucket_and_of_no_other() {
        let metrics = Metrics::new(&MetricsConfig::default());
        let route = metrics.http.route("/v1/services");
        let context = crate::telemetry::propagation::TraceContext::root().sampled();
        for (micros, error, status) in [
            (70, ErrorType::None, 200),
            (80, ErrorType::None, 200),
            (20_000_000, ErrorType::NotReady, 503),
        ] {
            let elapsed = std::time::Duration::from_micros(micros);
            route.observe(Method::Get, status, error, elapsed.as_secs_f64());
            let answered = crate::telemetry::signals::Answered {
                context: &context,
                method: Method::Get,
                status,
                error,
                elapsed,
            };
            let at = crate::domain::Timestamp(1_795_248_000_000_001);
            metrics.exemplars.request("/v1/services", &answered, at);
        }
        let page = metrics.open_page();
        let ids = format!("trace_id=\"{}\",span_id=\"{}\"", context.trace_id, context.span_id);
        let with: Vec<_> = page.lines().filter(|line| line.contains(" # {")).collect();
        let [fast, slow] = with[..] else { panic!("{with:?}") };
        assert!(fast.contains("le=\"0.0001\"} 2 # {"), "{fast}");
        assert!(fast.ends_with(&format!("{{{ids}}} 0.00008 1795248000.000001")), "{fast}");
        assert!(slow.contains(r#"error_type="not_ready",le="+Inf"} 1 # {"#), "{slow}");
        // What another form has for the same is the same.
        assert!(page.contains("\n# TYPE rollcall_lookups counter\n"), "{page}");
        assert!(page.contains("\nrollcall_lookups_total{outcome=\"hit\"} 0\n"));
        assert!(page.ends_with("\n# EOF\n") && !page.contains("\n\n"));
    }

    #[tokio::test]
    async fn pages_are_written_one_at_a_time_and_beside_whoever_answers() {
        let metrics = Metrics::new(&MetricsConfig::default());
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let (go_on, may_go_on) = std::sync::mpsc::sync_channel(1);
        let observe = move || {
            began.send(()).unwrap();
            may_go_on.recv().unwrap();
        };
        let mut first = std::pin::pin!(metrics.scrape(false, observe));
        // The only thread of this runtime goes on here although the page is not written.
        tokio::select! {
            biased;
            _ = &mut first => panic!("it is not to go on"),
            begun = has_begun => begun.unwrap(),
        }
        let (looked, has_looked) = std::sync::mpsc::sync_channel(1);
        let mut second = std::pin::pin!(metrics.scrape(true, move || looked.send(()).unwrap()));
        for _ in 0..100 {
            tokio::select! {
                biased;
                _ = &mut second => panic!("two at a time"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert!(has_looked.try_recv().is_err(), "the second one was begun");
        go_on.send(()).unwrap();
        assert!(second.await.unwrap().ends_with("# EOF\n"));
        assert!(first.await.unwrap().contains("rollcall_build_info"));
        // One that fails gives its turn back.
        assert_eq!(metrics.scrape(false, || panic!("a defect, made for this test")).await, None);
        assert!(metrics.scrape(false, || {}).await.is_some());
    }

    #[test]
    fn services_beyond_the_limit_share_one_series() {
        let metrics =
            Metrics::new(&MetricsConfig { service_series_max: 1, ..MetricsConfig::default() });
        let services = &metrics.registry.service_instances;
        services.adjust("first", Status::Healthy, 2);
        services.adjust("second", Status::Healthy, 3);
        services.adjust("third", Status::Healthy, 4);
        services.adjust("first", Status::Healthy, -1);
        services.adjust("second", Status::Healthy, -1);
        metrics.registry.instances.get(Status::Failed, Mode::Standby).increment(2.0);
        let page = metrics.page().render();
        let series = |service: &str| {
            format!(r#"rollcall_service_instances{{service="{service}",status="healthy"}}"#)
        };
        assert_eq!(value(&page, &series("first")), Some(1.0));
        assert_eq!(value(&page, &series("_other")), Some(6.0));
        assert!(!page.contains("service=\"second\""));
        assert_eq!(
            value(&page, r#"rollcall_instances{status="failed",mode="standby"}"#),
            Some(2.0)
        );
    }

    #[test]
    fn every_service_is_on_the_page_once_however_many_there_are() {
        let metrics = Metrics::new(&MetricsConfig::default());
        for number in 1..=100 {
            let service = format!("service-{number}");
            metrics.registry.service_instances.adjust(&service, Status::Healthy, number);
        }
        let page = metrics.page().render();
        let own = page.lines().filter(|line| line.starts_with("rollcall_service_instances{"));
        let mut found: Vec<&str> = own.filter(|line| line.contains("\"healthy\"")).collect();
        let expected = (1..=100).map(|number| {
            format!(
                r#"rollcall_service_instances{{service="service-{number}",status="healthy"}} {number}"#
            )
        });
        let other = r#"rollcall_service_instances{service="_other",status="healthy"} 0"#.to_owned();
        let mut expected: Vec<String> = expected.chain([other]).collect();
        found.sort_unstable();
        expected.sort();
        assert_eq!(found, expected);
    }
}
