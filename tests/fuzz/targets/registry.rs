//! A whole registry for the targets of the HTTP layer: the router that production serves, the registrar, and a SQLite
//! log with a little past in it. Made anew after some thousand inputs, so that what they leave behind stays small.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use rollcall::clock::{Clock, SystemClock};
use rollcall::history::{Archive, Policy};
use rollcall::http::{AdmissionConfig, Api, Parts};
use rollcall::log::Log as _;
use rollcall::log::sqlite::{SqliteArchive, SqliteLog, Synchronous};
use rollcall::projection::Projection;
use rollcall::registrar::{self, Phase, Running, Telemetry};
use rollcall::telemetry::metrics::{Metrics, MetricsConfig};
use rollcall::telemetry::spans::Tracer;
use rollcall::watch::Hub;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// Inputs after which a new registry is made.
const INPUTS_MAX: u32 = 2_000;

/// Far beyond what any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The instance that the targets are about. It is registered, and has a past.
pub(crate) const INSTANCE: &str = "/v1/services/orders/instances/orders-1";

/// What makes that past: method, path and body.
const PAST: [(&str, &str, &str); 9] = [
    (
        "PUT",
        INSTANCE,
        r#"{"address":"10.0.0.7","port":8080,"version":"1.4.2","zone":"eu-1a","tags":["canary"],"metadata":{"env":"prod"},"ttl":"24h"}"#,
    ),
    (
        "PUT",
        "/v1/services/orders/instances/orders-2",
        r#"{"address":"10.0.0.8","port":8080,"mode":"standby","ttl":"24h"}"#,
    ),
    ("PUT", "/v1/services/orders/instances/orders-1/heartbeat", r#"{"load":0.5,"note":"warm"}"#),
    ("GET", "/v1/services/orders/instances?tag=canary", ""),
    ("PATCH", INSTANCE, r#"{"weight":50}"#),
    ("PATCH", INSTANCE, r#"{"mode":"draining"}"#),
    ("PATCH", INSTANCE, r#"{"mode":"active"}"#),
    ("GET", "/v1/services/orders/instances", ""),
    ("DELETE", "/v1/services/orders/instances/orders-2?reason=scale-in", ""),
];

/// A registry in this process, without a socket.
pub(crate) struct Registry {
    runtime: Runtime,
    pub(crate) api: Arc<Api>,
    router: Router,
    pub(crate) log_id: uuid::Uuid,
    running: Option<Running>,
    inputs: u32,
    _data: TempDir,
}

/// An answer, as far as it was read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Registry {
    /// Runs `attempt` on the registry that there is, or on a new one.
    pub(crate) fn with(attempt: impl AsyncFnOnce(&Self)) {
        static SHARED: Mutex<Option<Registry>> = Mutex::new(None);
        // A target that panicked has failed; the others of this process need not.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.as_ref().is_none_or(|registry| registry.inputs >= INPUTS_MAX) {
            // One after the other: the old one's thread ends before the new one's begins.
            drop(shared.take());
            *shared = Some(Self::start());
        }
        let registry = shared.as_mut().expect("it was just put there");
        registry.inputs += 1;
        registry.runtime.block_on(attempt(registry));
    }

    fn start() -> Self {
        static CLOCK: OnceLock<Arc<SystemClock>> = OnceLock::new();
        let clock = Arc::clone(CLOCK.get_or_init(|| SystemClock::start().unwrap()));
        let clock: Arc<dyn Clock> = clock;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let data = TempDir::new().unwrap();
        let log = SqliteLog::open(data.path(), Synchronous::Normal, "fuzz").unwrap();
        let history: Arc<dyn Archive> = Arc::new(SqliteArchive::open(log.path()).unwrap());
        let log_id = uuid::Uuid::parse_str(log.id()).unwrap();
        let metrics = Metrics::new(&MetricsConfig::default());
        let projection = Arc::new(Projection::default());
        let hub = Hub::new(Arc::clone(&projection));
        let telemetry = Telemetry { metrics: Arc::clone(&metrics), tracer: Tracer::off() };
        // Nothing is probed: the registrar alone opens no connection, whatever addresses the inputs name.
        let running = registrar::start(
            Box::new(log),
            Arc::clone(&projection),
            Arc::clone(&hub),
            Arc::clone(&clock),
            telemetry,
            &registrar::Config {
                traffic_flush: Duration::from_millis(5),
                // How long a change may wait for the disk would depend on what else the machine does, too.
                write_timeout: Duration::from_secs(3_600),
                ..Default::default()
            },
        )
        .unwrap();
        assert_eq!(runtime.block_on(running.readiness.settled()), Phase::Ready);
        let parts = Parts {
            projection,
            registrar: running.handle.clone(),
            clock,
            metrics,
            tracer: Tracer::off(),
            log_id,
            config: rollcall::http::Config {
                header_timeout: Duration::from_millis(500),
                request_timeout: Duration::from_millis(500),
                shutdown_timeout: Duration::from_millis(5),
                // What is refused for overload would depend on what else the machine does.
                admission: AdmissionConfig { queue_time: None, ..AdmissionConfig::default() },
                trace_url: Some("http://traces/{trace_id}?at={span_id}".to_owned()),
                policy: Policy::default(),
                ..Default::default()
            },
            readiness: running.readiness.clone(),
            history,
            hub,
            replay: None,
        };
        let api = Api::new(parts);
        let router = rollcall::http::router(Arc::clone(&api));
        let running = Some(running);
        let registry = Self { runtime, api, router, log_id, running, inputs: 0, _data: data };
        for (method, path, body) in PAST {
            let request = Request::builder().method(method).uri(path).body(Body::from(body));
            let answer = registry.runtime.block_on(registry.answer(request.unwrap()));
            assert!((200..300).contains(&answer.status), "{path}: {answer:?}");
        }
        registry
    }

    /// Sends a request and reads the whole answer, which must come and be one of the contract's.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Answer {
        let shown = format!("{} {}", request.method(), request.uri());
        let response = tokio::time::timeout(PATIENCE, self.begin(request)).await;
        let (parts, body) = response.unwrap_or_else(|_| panic!("{shown}: no answer")).into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await;
        let body = body.unwrap_or_else(|_| panic!("{shown}: no end")).unwrap().to_bytes();
        let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body };
        answer.is_of_the_contract(&shown);
        answer
    }

    /// Sends a request; the head of its answer.
    pub(crate) async fn begin(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().unwrap();
        }
    }
}

impl Answer {
    /// Every answer has one of the contract's statuses, and every error is a problem document that says why.
    fn is_of_the_contract(&self, shown: &str) {
        let Self { status, headers, body } = self;
        let media = headers.get("content-type").map_or("", |media| media.to_str().unwrap());
        match status {
            200 | 201 | 204 | 304 => {}
            400 | 404 | 405 | 406 | 409 | 410 | 412 | 413 | 415 | 422 | 429 => {
                assert_eq!(media, "application/problem+json", "{shown}: {status}");
            }
            other => panic!("{shown}: {other} {}", String::from_utf8_lossy(body)),
        }
        assert!(headers.contains_key("traceresponse"), "{shown}: no trace in {headers:?}");
        if media.ends_with("json") && !body.is_empty() {
            let json: serde_json::Value = serde_json::from_slice(body)
                .unwrap_or_else(|error| panic!("{shown}: {error} in {body:?}"));
            if media == "application/problem+json" {
                assert_eq!(json["status"], *status, "{shown}: {json}");
                assert!(json["detail"].is_string(), "{shown}: {json}");
            }
        }
    }
}
