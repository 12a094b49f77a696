//! A registry for one test, and what tests ask of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rollcall::app::{self, App, Parts};
use rollcall::clock::{Clock, ManualClock, SystemClock};
use rollcall::config::Settings;
use rollcall::domain::{Millis, Timestamp};
use rollcall::history::{Archive, NoArchive};
use rollcall::log::Log;
use rollcall::log::memory::MemoryLog;
use rollcall::log::sqlite::{SqliteArchive, SqliteLog};
use rollcall::log::upkeep::Upkeep;
use rollcall::probe::{Resolve, SystemResolver};
use rollcall::registrar::Phase;
use rollcall::telemetry::config::TelemetryConfig;
use rollcall::telemetry::metrics::Metrics;
use rollcall::telemetry::spans::Tracer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::lines;

/// 2026-11-21T08:00:00Z, where every manual clock begins.
pub(crate) const START: Timestamp = Timestamp(1_795_248_000_000_000);

/// How long a condition may take to come true. Far beyond what it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a test wants to be different.
#[derive(Default)]
pub(crate) struct Options {
    /// The directory of the log; a new one if there is none.
    pub(crate) data: Option<PathBuf>,
    /// Leases run on the system's clock.
    pub(crate) system_clock: bool,
    /// A log in memory instead of SQLite.
    pub(crate) memory: Option<MemoryLog>,
    /// Spans go to this address.
    pub(crate) otlp: Option<String>,
    /// What names mean to the probes.
    pub(crate) resolver: Option<Arc<dyn Resolve>>,
    /// Edits of the settings.
    pub(crate) settings: Option<fn(&mut Settings)>,
    /// Parts of the WARN and ERROR lines that the test provokes.
    pub(crate) lines: &'static [&'static str],
}

/// A running registry.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) clock: Option<Arc<ManualClock>>,
    pub(crate) http: reqwest::Client,
    /// What is counted; it can be read after the end, too.
    pub(crate) metrics: Arc<Metrics>,
    /// The directory of the log.
    pub(crate) data: PathBuf,
    lines: &'static [&'static str],
    _own: Option<TempDir>,
    shutdown: CancellationToken,
    running: JoinSet<Result<(), app::Error>>,
}

impl Server {
    /// Starts a registry and waits until it is ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// Starts a registry that differs in `options`.
    pub(crate) async fn start_with(options: Options) -> Self {
        lines::expect(options.lines);
        let own = options.data.is_none().then(|| TempDir::new().unwrap());
        let data = options.data.unwrap_or_else(|| own.as_ref().unwrap().path().to_owned());
        // What is refused for overload depends on what else the machine does: only tests of that turn it on.
        let mut settings =
            Settings { data: data.clone(), shed_queue_time: None, ..Settings::default() };
        if let Some(edit) = options.settings {
            edit(&mut settings);
        }
        let (manual, clock): (_, Arc<dyn Clock>) = if options.system_clock {
            (None, SystemClock::start().unwrap())
        } else {
            let clock = ManualClock::new(START);
            (Some(Arc::clone(&clock)), clock)
        };
        let metrics = app::metrics(&settings);
        let variable = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => options.otlp.clone(),
            // Milliseconds; the standard's five seconds would only make the tests slow.
            "OTEL_BSP_SCHEDULE_DELAY" => Some("20".to_owned()),
            _ => None,
        };
        let tracing: TelemetryConfig = app::tracing_config(&settings, variable).unwrap();
        let tracer = Tracer::start(&tracing, &metrics).unwrap();
        let (log, history, upkeep): (Box<dyn Log>, Arc<dyn Archive>, _) = match options.memory {
            Some(memory) => (Box::new(memory), Arc::new(NoArchive), None),
            None => {
                let log = SqliteLog::open(&data, settings.synchronous, "test").unwrap();
                let history = SqliteArchive::open(log.path()).unwrap();
                let upkeep: Box<dyn Upkeep> = Box::new(log.upkeep().unwrap());
                (Box::new(log), Arc::new(history), Some(upkeep))
            }
        };
        let listener = app::listen(([127, 0, 0, 1], 0).into()).unwrap();
        let metrics_of_parts = Arc::clone(&metrics);
        let resolver = options.resolver.unwrap_or_else(|| Arc::new(SystemResolver));
        let parts = Parts {
            listener,
            clock,
            log,
            history,
            upkeep,
            resolver,
            tracer,
            metrics: metrics_of_parts,
        };
        let app = App::build(&settings, parts).unwrap();
        let (url, readiness) = (app.url(), app.readiness().clone());
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(app.run(shutdown.clone()));
        assert_eq!(readiness.settled().await, Phase::Ready);
        let http = reqwest::Client::new();
        let lines = options.lines;
        Self { url, clock: manual, http, metrics, data, lines, _own: own, shutdown, running }
    }

    /// Stops the registry in order; fails if it warned of something that the test did not declare.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        for ended in self.running.join_all().await {
            ended.unwrap();
        }
        lines::check(self.lines);
    }

    /// The page of metrics.
    pub(crate) async fn page(&self) -> Page {
        Page(self.send("GET", "/metrics", &[], None).await.text)
    }

    /// Sends bytes on a connection of their own and reads one answer, or what there is until the end.
    pub(crate) async fn raw(&self, request: &[u8]) -> Raw {
        let mut connection = self.connect().await;
        // A server that has seen enough closes; what it answered is read all the same.
        let _ = connection.write_all(request).await;
        Raw::read(&mut connection).await
    }

    /// A connection without a client on it.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.url.trim_start_matches("http://")).await.unwrap()
    }

    /// Lets time pass in steps, as it does: the registrar sees each of them.
    pub(crate) fn advance(&self, millis: u64) {
        self.clock.as_ref().unwrap().advance(Millis::from_millis(millis));
    }

    /// Sends a request and gives status and JSON (null without a body).
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let answer = self.send(method, path, &[], body).await;
        (answer.status, answer.json)
    }

    /// Sends a request with headers and gives the whole answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        // A stream has no end to wait for.
        let is_stream =
            headers.get("content-type").is_some_and(|media| media == "text/event-stream");
        let text = if is_stream { String::new() } else { response.text().await.unwrap() };
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, headers, text, json }
    }

    /// Registers `service/instance` with this ttl; gives its JSON.
    pub(crate) async fn register(&self, service: &str, instance: &str, ttl: &str) -> Value {
        let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": ttl});
        let path = format!("/v1/services/{service}/instances/{instance}");
        let (status, json) = self.call("PUT", &path, Some(body)).await;
        assert!(status.is_success(), "{status} {json}");
        json
    }

    /// Beats for `service/instance`.
    pub(crate) async fn beat(&self, service: &str, instance: &str) -> (StatusCode, Value) {
        let path = format!("/v1/services/{service}/instances/{instance}/heartbeat");
        self.call("PUT", &path, None).await
    }

    /// The ids that a lookup of `service` hands out.
    pub(crate) async fn offered(&self, service: &str) -> Vec<String> {
        let (_, json) = self.call("GET", &format!("/v1/services/{service}/instances"), None).await;
        let instances = json["instances"].as_array().cloned().unwrap_or_default();
        instances.iter().map(|i| i["instance"].as_str().unwrap().to_owned()).collect()
    }

    /// The status of an instance; none if it is not registered.
    pub(crate) async fn status_of(&self, service: &str, instance: &str) -> Option<String> {
        let path = format!("/v1/services/{service}/instances/{instance}");
        let (status, json) = self.call("GET", &path, None).await;
        status.is_success().then(|| json["status"].as_str().unwrap().to_owned())
    }

    /// Rows of a query on the log's file, each value as JSON.
    pub(crate) fn sql(&self, query: &str) -> Vec<Vec<Value>> {
        sql(&self.data, query)
    }
}

/// Rows of a query on the log in `data`, read as anybody with SQLite would.
pub(crate) fn sql(data: &Path, query: &str) -> Vec<Vec<Value>> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection =
        rusqlite::Connection::open_with_flags(data.join("rollcall.db"), flags).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    let mut statement = connection.prepare(query).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..columns)
            .map(|column| {
                Ok(match row.get_ref(column)? {
                    rusqlite::types::ValueRef::Null => Value::Null,
                    rusqlite::types::ValueRef::Integer(number) => json!(number),
                    rusqlite::types::ValueRef::Real(number) => json!(number),
                    rusqlite::types::ValueRef::Text(text)
                    | rusqlite::types::ValueRef::Blob(text) => json!(String::from_utf8_lossy(text)),
                })
            })
            .collect()
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Answer {
    /// A header as text; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An answer as it came over the socket; empty if the connection ended without one.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    pub(crate) head: String,
    pub(crate) json: Value,
}

impl Raw {
    /// Reads one answer, and no byte more than it has.
    pub(crate) async fn read(connection: &mut (impl AsyncRead + Unpin)) -> Self {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match tokio::time::timeout(PATIENCE, connection.read(&mut byte)).await.unwrap() {
                Ok(1) => head.push(byte[0]),
                Ok(_) | Err(_) => break,
            }
        }
        let mut answer = Self { head: String::from_utf8(head).unwrap(), json: Value::Null };
        let length = answer.header("content-length").parse().unwrap_or(0);
        let mut body = vec![0; length];
        if connection.read_exact(&mut body).await.is_ok() {
            answer.json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        }
        answer
    }

    /// The status; 0 if there was no answer.
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap())
    }

    /// A header; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// A page of metrics.
#[derive(Debug)]
pub(crate) struct Page(pub(crate) String);

impl Page {
    /// Every series with its value.
    pub(crate) fn series(&self) -> impl Iterator<Item = (&str, f64)> {
        let lines = self.0.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(s, v)| (s, v.parse().unwrap()))
    }

    /// The sum of all series of this name whose labels hold all of `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of = |series: &str| {
            let (known, rest) = series.split_once('{').unwrap_or((series, ""));
            known == name && labels.iter().all(|label| rest.contains(label))
        };
        self.series().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
    }
}

/// Asks until `ask` gives what `holds` of; panics with the last answer when it takes too long.
pub(crate) async fn eventually<T: std::fmt::Debug, F: Future<Output = T>>(
    what: &str,
    mut ask: impl FnMut() -> F,
    holds: impl Fn(&T) -> bool,
) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let seen = ask().await;
        if holds(&seen) {
            return seen;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: still {seen:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
