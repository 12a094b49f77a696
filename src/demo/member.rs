//! One member of the fleet: a listener of its own, a lease, work to do and a page of metrics.
//!
//! All of it lives in one set of tasks, so that dropping the member is its sudden death. It must share nothing with other
//! members but what two processes of one team share: the code, and the registry. Called by [`super::fleet`].

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cli::Error;
use crate::client::{self, Client, Lease, Registration, Renewed};
use crate::domain::Millis;
use crate::telemetry::propagation::TraceContext;
use crate::telemetry::spans::{KeyValue, SpanKind};

use super::call::{Caller, Failure};
use super::fleet::{Service, Setup};
use super::metrics::Page;
use super::spans::{Spans, traceparent};
use super::story::{Happening, Telling};

/// How long to wait before another try when the registry does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// A member that has its port and has not begun.
pub(super) struct Bound {
    listener: TcpListener,
    registration: Registration,
    worker: Arc<Worker>,
    id: String,
}

/// What a request to a member needs.
struct Worker {
    service: &'static Service,
    caller: Caller,
    page: Page,
}

impl Bound {
    /// Takes a free port.
    pub(super) async fn bind(
        setup: &Setup<'_>,
        service: &'static Service,
        id: &str,
    ) -> Result<Self, Error> {
        let listen = |error| Error::failed(format!("listen on {}", setup.args.bind), error);
        let listener = TcpListener::bind((setup.args.bind, 0)).await.map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        let metadata = [("team", "shop"), ("metrics_path", "/metrics")];
        let registration = Registration {
            address: setup.args.advertise.clone().unwrap_or_else(|| setup.args.bind.to_string()),
            port,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            tags: vec!["demo".to_owned()],
            metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ttl: Some(Millis::from(setup.args.ttl).to_string()),
            ..Registration::default()
        };
        let worker =
            Worker { service, caller: setup.caller(service.name, id)?, page: Page::default() };
        Ok(Self { listener, registration, worker: Arc::new(worker), id: id.to_owned() })
    }

    /// Registers, and begins only then.
    pub(super) async fn register_and_run(self) -> Result<Member, client::Error> {
        let keeper = self.keeper();
        let lease = keeper.take().await?;
        Ok(self.begin(keeper, Some(lease)))
    }

    /// Begins, and registers as soon as the registry lets it.
    pub(super) fn run(self) -> Member {
        let keeper = self.keeper();
        self.begin(keeper, None)
    }

    fn keeper(&self) -> Keeper {
        let caller = &self.worker.caller;
        Keeper {
            service: self.worker.service.name,
            id: self.id.clone(),
            registration: self.registration.clone(),
            client: caller.client.clone(),
            spans: caller.spans.clone(),
            telling: caller.telling.clone(),
        }
    }

    fn begin(self, keeper: Keeper, lease: Option<Lease>) -> Member {
        let (address, port) = (&self.registration.address, self.registration.port);
        let mut member = Member {
            authority: client::authority(address, port),
            client: keeper.client.clone(),
            service: keeper.service,
            id: self.id,
            tasks: JoinSet::new(),
        };
        let routes = Router::new()
            .route("/", get(work))
            .route("/health", get(async || "ok\n"))
            .route("/metrics", get(metrics))
            .with_state(self.worker);
        member.tasks.spawn(accept(self.listener, routes));
        member.tasks.spawn(keeper.keep(lease));
        member
    }
}

/// A member at work. Dropping it is its sudden death.
pub(super) struct Member {
    authority: String,
    client: Client,
    service: &'static str,
    id: String,
    tasks: JoinSet<()>,
}

impl Member {
    /// Where it is called.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Says goodbye to the registry, then ends. A registry that does not answer is not waited for.
    pub(super) async fn stop(mut self) {
        // Of its tasks only the keeper ever ends by itself: when the id belongs to another process, whose it stays.
        let taken_over = self.tasks.try_join_next().is_some();
        // Ended before the goodbye, or a heartbeat on its way could register it once more.
        self.tasks.shutdown().await;
        if !taken_over {
            let reason = Some("the demo has ended");
            drop(self.client.deregister(self.service, &self.id, reason).await);
        }
    }
}

/// Serves until it is dropped, and then drops every connection with it.
async fn accept(listener: TcpListener, routes: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let service = TowerToHyperService::new(routes.clone());
                    let serving = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // How a connection ends is its caller's business.
                    connections.spawn(async move { drop(serving.await) });
                }
                // Out of descriptors, most likely: others will close theirs.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn metrics(State(worker): State<Arc<Worker>>) -> ([(&'static str, &'static str); 1], String) {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], worker.page.render())
}

/// Serves a request: a moment of work of its own, then a call to each peer in turn.
async fn work(State(worker): State<Arc<Worker>>, headers: HeaderMap) -> (StatusCode, String) {
    let spans = &worker.caller.spans;
    let values = headers.get_all("traceparent").iter().map(|value| value.as_bytes());
    let (context, began) = (TraceContext::from_headers(values), spans.begin());
    sleep(Duration::from_micros(fastrand::u64(300..2_000))).await;
    let mut failed = None;
    for peer in worker.service.peers {
        if let Err(failure) = worker.caller.call(&context, peer).await {
            failed = Some((*peer, failure));
            break;
        }
    }
    let status = if failed.is_none() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    let attributes = vec![
        KeyValue::new("http.request.method", "GET"),
        KeyValue::new("http.route", "/"),
        KeyValue::new("url.path", "/"),
        KeyValue::new("url.scheme", "http"),
        KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
    ];
    let failure = failed.map(|(_, failure)| failure.as_str());
    let elapsed = spans.end(began, context, SpanKind::Server, "GET /", failure, attributes);
    worker.page.served(failed.is_none(), elapsed);
    worker.caller.totals.served(worker.service.name, elapsed);
    (status, answer(&worker.caller.name, failed))
}

fn answer(name: &str, failed: Option<(&str, Failure)>) -> String {
    match failed {
        None => format!("{name} at your service\n"),
        Some((peer, failure)) => format!("{name} could not call {peer}: {}\n", failure.as_str()),
    }
}

/// Keeps a member registered.
struct Keeper {
    service: &'static str,
    id: String,
    registration: Registration,
    client: Client,
    spans: Spans,
    telling: Telling,
}

impl Keeper {
    /// Registers, in a trace of its own.
    async fn take(&self) -> Result<Lease, client::Error> {
        let (context, began) = (self.spans.root(), self.spans.begin());
        let client = self.client.clone().traced(traceparent(&context));
        let lease = Lease::take(&client, self.service, &self.id, self.registration.clone()).await;
        let failure = lease.as_ref().err().map(|_| Failure::Registry.as_str());
        self.spans.end(began, context, SpanKind::Client, "register", failure, Vec::new());
        lease
    }

    /// Sends a heartbeat, in a trace of its own: an expiry leads to the last one.
    async fn renew(&self, lease: &mut Lease) -> Result<Renewed, client::Error> {
        let (context, began) = (self.spans.root(), self.spans.begin());
        let client = self.client.clone().traced(traceparent(&context));
        let renewed = lease.renew(&client).await;
        let failure = renewed.as_ref().err().map(|_| Failure::Registry.as_str());
        self.spans.end(began, context, SpanKind::Client, "heartbeat", failure, Vec::new());
        renewed
    }

    /// Registers if need be and sends heartbeats, until it is dropped or another process takes the id over.
    async fn keep(self, mut lease: Option<Lease>) {
        let mut silent = false;
        loop {
            let beat = match &mut lease {
                Some(lease) => self.renew(lease).await,
                None => self.take().await.map(|taken| {
                    lease = Some(taken);
                    Renewed::Again
                }),
            };
            if silent && beat.is_ok() {
                silent = false;
                self.telling.tell(Happening::Heard { instance: self.id.clone() });
            }
            match (beat, &lease) {
                (Ok(Renewed::Again), Some(lease)) => {
                    let (instance, authority) = (self.id.clone(), lease.instance().authority());
                    let incarnation = lease.instance().incarnation;
                    self.telling.tell(Happening::Registered { instance, authority, incarnation });
                }
                (Err(error), _) if error.status() == Some(409) => {
                    return self.telling.tell(Happening::TakenOver { instance: self.id });
                }
                (Err(error), _) if !silent => {
                    silent = true;
                    let why = error.to_string();
                    self.telling.tell(Happening::Silent { instance: self.id.clone(), why });
                }
                _ => {}
            }
            let pause = lease.as_ref().filter(|_| !silent).map_or(RETRY, Lease::interval);
            sleep(pause).await;
        }
    }
}
