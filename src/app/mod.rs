//! The only place that wires the parts together.
//!
//! [`App::build`] takes what a test wants to choose (listener, clock, log) and the settings; [`App::run`]
//! serves until it is told to stop, then stops the parts in order. Production does the same with the system's
//! clock, the SQLite log and the signals of the operating system: [`serve`]. What production runs is what the
//! tests run.
//!
//! ```text
//!   start:  log (lock, migrate) ─▶ registrar's thread (replay) ─▶ http (503 until ready) ─▶ ready
//!   stop:   http (no new connections, requests finish) ─▶ probes (given up) ─▶ keeper (ends after its slice) ─▶ registrar (everything that waits into the log,
//!           checkpoint, lock released) ─▶ spans flushed; each step bounded and logged
//! ```

mod descriptors;
mod replay;

use std::fmt::Debug;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::config::Settings;
use crate::domain::{Millis, Quotas};
use crate::history::{Archive, Policy};
use crate::lease::guard;
use crate::log::Log;
use crate::log::sqlite::{OpenError, SqliteArchive, SqliteLog};
use crate::log::upkeep::Upkeep;
use crate::probe::{Resolve, RootsError, SystemResolver};
use crate::projection::Projection;
use crate::registrar::{self, Phase, Readiness, RecoverError, Running, Telemetry};
use crate::telemetry::config::{ConfigError, TelemetryConfig};
use crate::telemetry::keep::{Cap, RootRatio, SlowAfter};
use crate::telemetry::metrics::{Metrics, MetricsConfig, set_count};
use crate::telemetry::names::{DbCollection, DbOperation, LogPart};
use crate::telemetry::signals;
use crate::telemetry::spans::{SHUTDOWN_LIMIT, StartError, Tracer};
use crate::watch::Hub;
use crate::{http, keeper, probe};

pub use replay::{Replay, ReplayError, ReplayParts};

/// How often the progress of a replay is told.
const UPKEEP: Duration = Duration::from_secs(1);

/// How often the sizes of the log are read, in turns of the upkeep.
const SIZES_EVERY: u32 = 10;

/// Why the registry could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log's history can't be brought up.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The address can't be listened on.
    #[error("can't listen on {address}: choose another one with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The settings of tracing are refused.
    #[error(transparent)]
    Telemetry(#[from] ConfigError),
    /// The authorities that probes are to trust can't be read.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The exporter of spans refuses its settings.
    #[error(transparent)]
    Exporter(#[from] StartError),
    /// The operating system refused something else.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The registrar's thread panicked.
    #[error(
        "the registrar has ended unexpectedly: this is a defect, please report what the log lines say"
    )]
    Registrar,
}

/// What the one who builds a registry chooses.
#[derive(Debug)]
pub struct Parts {
    /// Where requests come from.
    pub listener: TcpListener,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where events go.
    pub log: Box<dyn Log>,
    /// Where the past is read from.
    pub history: Arc<dyn Archive>,
    /// The background work on the log; none for a log that needs none.
    pub upkeep: Option<Box<dyn Upkeep>>,
    /// What the names of instances that are probed mean.
    pub resolver: Arc<dyn Resolve>,
    /// Where spans go.
    pub tracer: Tracer,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
}

/// A registry that is built and bound, and replays.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    listener: TcpListener,
    api: Arc<http::Api>,
    registrar: Running,
    keeper: Option<keeper::Running>,
    prober: probe::Service,
    history: Arc<dyn Archive>,
    hub: Arc<Hub>,
    watch_write_timeout: Duration,
    telemetry: Telemetry,
    http_config: http::Config,
}

impl App {
    /// Wires the parts. Replay begins at once, on the registrar's thread.
    ///
    /// # Errors
    /// If the listener has no address or the operating system gives no thread.
    pub fn build(settings: &Settings, parts: Parts) -> Result<Self, Error> {
        let Parts { listener, clock, log, history, upkeep, resolver, tracer, metrics } = parts;
        let address = listener
            .local_addr()
            .map_err(|source| Error::System { what: "the listener has no address", source })?;
        let log_id = uuid::Uuid::parse_str(log.id()).unwrap_or_default();
        let projection = Arc::new(Projection::default());
        let hub = Hub::new(Arc::clone(&projection));
        let telemetry = Telemetry { metrics: Arc::clone(&metrics), tracer: tracer.clone() };
        let registrar = registrar::start(
            log,
            Arc::clone(&projection),
            Arc::clone(&hub),
            Arc::clone(&clock),
            telemetry.clone(),
            &registrar_config(settings),
        )
        .map_err(|source| Error::System { what: "can't start the registrar's thread", source })?;
        let keeper = upkeep.map(|upkeep| {
            let parts = keeper::Parts {
                upkeep,
                projection: Arc::clone(&projection),
                registrar: registrar.handle.clone(),
                readiness: registrar.readiness.clone(),
                clock: Arc::clone(&clock),
                metrics: Arc::clone(&metrics),
            };
            keeper::start(parts, keeper_config(settings))
        });
        let keeper = keeper
            .transpose()
            .map_err(|source| Error::System { what: "can't start the keeper's thread", source })?;
        let parts = probe::Parts {
            projection: Arc::clone(&projection),
            registrar: registrar.handle.clone(),
            readiness: registrar.readiness.clone(),
            clock: Arc::clone(&clock),
            telemetry: telemetry.clone(),
            resolver,
        };
        let prober = probe::Service::build(probe_config(settings), parts)?;
        hub.trace(tracer.clone(), Arc::clone(&clock));
        let mut config = http_config(settings);
        // A link to where no span ever arrives would lead nowhere.
        config.trace_url = config.trace_url.filter(|_| tracer.is_on());
        let api = http::Api::new(http::Parts {
            projection,
            registrar: registrar.handle.clone(),
            clock,
            metrics,
            tracer,
            log_id,
            config,
            readiness: registrar.readiness.clone(),
            history: Arc::clone(&history),
            hub: Arc::clone(&hub),
            replay: None,
        });
        let http_config = http_config(settings);
        let watch_write_timeout = settings.watch_write_timeout;
        Ok(Self {
            address,
            listener,
            api,
            registrar,
            keeper,
            prober,
            history,
            hub,
            watch_write_timeout,
            telemetry,
            http_config,
        })
    }

    /// The URL that was bound.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How far the start has come.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.registrar.readiness
    }

    /// Serves until `shutdown`, then stops the parts in order.
    ///
    /// # Errors
    /// Why it could not serve, or why it had to end.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        if !self.address.ip().is_loopback() {
            signals::listening_beyond_loopback(self.address);
        }
        let Self { listener, api, registrar, keeper, history, hub, prober, .. } = self;
        let (telemetry, http_config) = (self.telemetry, self.http_config);
        let write_timeout = self.watch_write_timeout;
        let shutdown_timeout = http_config.shutdown_timeout;
        let readiness = registrar.readiness.clone();
        let stop_http = CancellationToken::new();
        let mut upkeep = JoinSet::new();
        let _ = upkeep.spawn(keep_up(telemetry.clone(), readiness.clone(), history));
        let waker = Arc::clone(&hub);
        let _ = upkeep.spawn(async move { waker.run(write_timeout).await });
        let mut server = JoinSet::new();
        let stop = stop_http.clone();
        let _ = server.spawn(async move {
            http::serve(listener, api, stop).await;
        });

        let stop_probes = CancellationToken::new();
        let mut probes = JoinSet::new();
        let _ = probes.spawn(prober.run(stop_probes.clone()));

        let failed = tokio::select! {
            () = shutdown.cancelled() => false,
            () = readiness.failed() => true,
        };

        step("requests finish", shutdown_timeout + Duration::from_secs(1), async {
            // Those who wait for changes are not waited for: they are answered now.
            hub.close();
            stop_http.cancel();
            while server.join_next().await.is_some() {}
        })
        .await;
        step("probes end", shutdown_timeout, async {
            stop_probes.cancel();
            while probes.join_next().await.is_some() {}
        })
        .await;
        if let Some(keeper) = keeper {
            let stopping = tokio::task::spawn_blocking(move || keeper.stop());
            // One that hangs on its disk is left behind: what it does not finish is done again.
            step("background work ends", shutdown_timeout, stopping).await;
        }
        let stopping = tokio::task::spawn_blocking(move || registrar.stop());
        let stopped = step("the log is flushed", shutdown_timeout, stopping).await;
        upkeep.shutdown().await;
        let report = telemetry.tracer.shutdown(SHUTDOWN_LIMIT).await;
        signals::spans_lost(report.spans_lost);
        match stopped {
            Some(Ok(Err(error))) => Err(error.into()),
            Some(Err(_)) => Err(Error::Registrar),
            Some(Ok(Ok(()))) | None if failed => Err(Error::Registrar),
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    }
}

/// One step of the end, bounded and logged; what came of it if it finished in time.
async fn step<T>(name: &str, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let started = tokio::time::Instant::now();
    let done = timeout(limit, work).await.ok();
    signals::shutdown_step(name, started.elapsed(), done.is_some());
    done
}

/// What is done once a second: the progress of a replay, the sizes of the log.
async fn keep_up(telemetry: Telemetry, readiness: Readiness, history: Arc<dyn Archive>) {
    let mut ticks = tokio::time::interval(UPKEEP);
    for turn in 0_u32.. {
        ticks.tick().await;
        if let Phase::Replaying { done, total } = readiness.phase()
            && turn > 0
        {
            signals::replaying(done, total);
        }
        if turn.is_multiple_of(SIZES_EVERY) {
            let history = Arc::clone(&history);
            let figures = tokio::task::spawn_blocking(move || history.figures()).await;
            if let Ok(Ok(figures)) = figures {
                let sizes = &telemetry.metrics.log.size_bytes;
                set_count(sizes.get(LogPart::Changes), figures.changes_bytes);
                set_count(sizes.get(LogPart::Traffic), figures.traffic_bytes);
                set_count(sizes.get(LogPart::Wal), figures.wal_bytes);
                set_count(sizes.get(LogPart::Snapshots), figures.snapshots_bytes);
                if let Some(free) = figures.disk_free_bytes {
                    set_count(&telemetry.metrics.log.disk_free_bytes, free);
                }
            }
        }
    }
}

fn registrar_config(settings: &Settings) -> registrar::Config {
    registrar::Config {
        command_queue: settings.command_queue as usize,
        traffic_queue: settings.traffic_queue as usize,
        write_timeout: settings.write_timeout,
        traffic_flush: settings.traffic_flush,
        checkpoint_every: u64::from(settings.checkpoint_every),
        flap_limit: settings.flap_limit,
        flap_window: settings.flap_window,
        log_change_rate: settings.log_change_rate,
        quotas: quotas(settings),
        node: settings.node.as_str().to_owned(),
        guard: settings.guard.then(|| guard::Policy {
            share: settings.guard_share,
            minimum: u64::from(settings.guard_minimum),
            registry_minimum: u64::from(settings.guard_registry_minimum),
            limit_ttls: settings.guard_limit_ttls,
            limit_max: Millis::from(settings.guard_limit_max),
        }),
    }
}

fn quotas(settings: &Settings) -> Quotas {
    Quotas {
        namespace: settings.max_instances_per_namespace,
        service: settings.max_instances_per_service,
    }
}

fn admission_config(settings: &Settings) -> http::AdmissionConfig {
    let burst = settings.caller_burst;
    http::AdmissionConfig {
        connections: settings.max_connections as usize,
        requests: settings.max_requests as usize,
        watchers: settings.max_watchers as usize,
        watchers_per_caller: settings.max_watchers_per_caller.map(|most| most as usize),
        caller_rate: settings.caller_rate.map(|per_second| http::Rate { per_second, burst }),
        past_reads: settings.max_past_reads as usize,
        queue_time: settings.shed_queue_time,
        // Whoever waits for the log as long as this is answered that it is slow.
        patience: settings.write_timeout,
    }
}

fn probe_config(settings: &Settings) -> probe::Config {
    probe::Config {
        networks: settings.check_networks.clone(),
        roots: settings.check_ca.clone(),
        concurrency: settings.check_concurrency as usize,
        idle_connections: settings.check_idle_connections as usize,
    }
}

fn keeper_config(settings: &Settings) -> keeper::Config {
    keeper::Config {
        policy: policy(settings),
        retention_interval: settings.retention_interval,
        snapshot_every: u64::from(settings.snapshot_every),
        snapshot_max_age: settings.snapshot_max_age,
    }
}

fn policy(settings: &Settings) -> Policy {
    Policy {
        traffic_age: settings.traffic_retention_age,
        traffic_bytes: settings.traffic_retention_bytes.map(|size| size.0),
        changes_age: settings.changes_retention_age,
    }
}

fn http_config(settings: &Settings) -> http::Config {
    http::Config {
        request_timeout: settings.request_timeout,
        header_timeout: settings.header_timeout,
        encode_from: settings.encode_from.map(|size| usize::try_from(size.0).unwrap_or(usize::MAX)),
        admission: admission_config(settings),
        quotas: quotas(settings),
        shutdown_timeout: settings.shutdown_timeout,
        default_ttl: Millis::from(settings.default_ttl),
        check_networks: settings.check_networks.clone(),
        baggage_keys: settings.baggage_keys.clone(),
        log_requests: settings.log_requests,
        profiling: settings.profiling,
        policy: policy(settings),
        trace_url: Some(settings.trace_url.clone()).filter(|template| !template.is_empty()),
    }
}

/// The settings of tracing: the standard variables, and ours where those say nothing.
///
/// # Errors
/// [`ConfigError`] for what the variables ask and can't have.
pub fn tracing_config(
    settings: &Settings,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<TelemetryConfig, ConfigError> {
    let sampler_is_set = variable("OTEL_TRACES_SAMPLER").is_some();
    let mut config = TelemetryConfig::from_env(variable)?;
    if !sampler_is_set {
        config.keep.root_ratio = RootRatio::new(settings.trace_root_ratio);
    }
    let cap = |per_second| Cap::saving(per_second, settings.trace_burst);
    config.keep.caller = cap(settings.trace_caller_rate);
    config.keep.change = cap(settings.trace_change_rate);
    config.keep.refused = cap(settings.trace_refused_rate);
    config.keep.trouble = settings.trace_trouble_rate.map(cap);
    config.keep.slow_after = SlowAfter {
        read: settings.trace_slow_read,
        change: settings.trace_slow_change,
        question: settings.trace_slow_question,
    };
    Ok(config)
}

/// The metrics after the settings.
#[must_use]
pub fn metrics(settings: &Settings) -> Arc<Metrics> {
    let service_series_max = settings.service_series as usize;
    Metrics::new(&MetricsConfig { service_series_max, ..MetricsConfig::default() })
}

/// Listens for a registry's requests.
///
/// # Errors
/// [`Error::Listen`].
pub fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    http::listen(address).map_err(|source| Error::Listen { address, source })
}

/// Opens the SQLite log and binds the address: the parts that production runs on.
///
/// # Errors
/// [`Error`], before anything was served.
pub async fn production(
    settings: &Settings,
    tracer: Tracer,
    metrics: Arc<Metrics>,
) -> Result<Parts, Error> {
    let clock = SystemClock::start()
        .map_err(|source| Error::System { what: "can't start the clock's thread", source })?;
    let (data, synchronous) = (settings.data.clone(), settings.synchronous);
    let node = settings.node.as_str().to_owned();
    let opened = tokio::task::spawn_blocking(move || -> Result<_, OpenError> {
        let log = SqliteLog::open(&data, synchronous, &node)?;
        let history = SqliteArchive::open(log.path())?;
        let upkeep = log.upkeep()?;
        Ok((log, history, upkeep))
    });
    let (log, history, upkeep) = opened.await.map_err(|_| Error::Registrar)??;
    let operations = &metrics.log.db_operation_seconds;
    log.observe_checkpoints(operations.get(DbOperation::Checkpoint, DbCollection::Events).clone());
    let listener = listen(settings.listen)?;
    let (log, history) = (Box::new(log), Arc::new(history));
    let (upkeep, resolver): (_, Arc<dyn Resolve>) =
        (Some(Box::new(upkeep) as Box<dyn Upkeep>), Arc::new(SystemResolver));
    Ok(Parts { listener, clock, log, history, upkeep, resolver, tracer, metrics })
}

/// The settings as far as the system carries them.
#[must_use]
pub fn within_the_system(mut settings: Settings) -> Settings {
    let wanted = settings.max_connections;
    settings.max_connections = descriptors::connections(wanted, descriptors::raise());
    if settings.max_connections < wanted {
        let needed = descriptors::needed(wanted);
        signals::connections_limited(settings.max_connections, wanted, needed);
    }
    settings
}

/// Runs a registry after `settings` until `shutdown`. The first line on `out` is the URL that was bound.
///
/// # Errors
/// [`Error`].
pub async fn serve(
    settings: &Settings,
    tracer: Tracer,
    metrics: Arc<Metrics>,
    out: &mut (dyn Write + Send),
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let settings = &within_the_system(settings.clone());
    let parts = production(settings, tracer, metrics).await?;
    let log_id = parts.log.id().to_owned();
    let app = App::build(settings, parts)?;
    let url = app.url();
    let told = writeln!(out, "{url}").and_then(|()| out.flush());
    told.map_err(|source| Error::System { what: "can't write to standard output", source })?;
    signals::started(env!("CARGO_PKG_VERSION"), &settings.data, &url, &log_id);
    app.run(shutdown).await
}
