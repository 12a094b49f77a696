//! Wires a registry that replays the past: the same API over a projection that the replay's engine publishes to.
//!
//! No log is opened for writing and no registrar runs: changes and heartbeats are refused, lookups leave no event. The
//! replay's own requests make no spans either: their times would be those of the past. Called by the command line and
//! by tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Error, http_config, keep_up, step};
use crate::clock::Clock;
use crate::config::Settings;
use crate::history::Archive;
use crate::http;
use crate::projection::Projection;
use crate::registrar::{self, Readiness, Telemetry};
use crate::replay::{self, Publishing};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::Tracer;
use crate::watch::Hub;

/// Why a replay could not run.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The stretch can't be replayed.
    #[error(transparent)]
    Start(#[from] replay::StartError),
    /// The server can't run.
    #[error(transparent)]
    App(#[from] Error),
}

/// What the one who builds a replay chooses.
#[derive(Debug)]
pub struct ReplayParts {
    /// Where requests come from.
    pub listener: TcpListener,
    /// What time it really is.
    pub clock: Arc<dyn Clock>,
    /// The past.
    pub archive: Arc<dyn Archive>,
    /// The id of the log, so that answers and their tags are those that were given then.
    pub log_id: uuid::Uuid,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
}

/// A replay that is built and bound.
#[derive(Debug)]
pub struct Replay {
    address: SocketAddr,
    listener: TcpListener,
    api: Arc<http::Api>,
    engine: replay::Running,
    archive: Arc<dyn Archive>,
    telemetry: Telemetry,
    readiness: Readiness,
    http_config: http::Config,
    hub: Arc<Hub>,
    watch_write_timeout: Duration,
}

impl Replay {
    /// Wires the parts and publishes the state at the beginning. Blocks until it is read.
    ///
    /// # Errors
    /// If the stretch can't be replayed, or the system refuses a thread.
    pub fn build(
        settings: &Settings,
        parts: ReplayParts,
        config: replay::Config,
    ) -> Result<Self, ReplayError> {
        let ReplayParts { listener, clock, archive, log_id, metrics } = parts;
        let address = listener
            .local_addr()
            .map_err(|source| Error::System { what: "the listener has no address", source })?;
        let tracer = Tracer::off();
        let telemetry = Telemetry { metrics: Arc::clone(&metrics), tracer: tracer.clone() };
        let projection = Arc::new(Projection::default());
        let hub = Hub::new(Arc::clone(&projection));
        let engine = replay::start(
            Arc::clone(&archive),
            Publishing { projection: Arc::clone(&projection), hub: Arc::clone(&hub) },
            clock,
            telemetry.clone(),
            config,
        )?;
        let readiness = Readiness::at_once();
        let http_config = http_config(settings);
        let clock: Arc<dyn Clock> = Arc::<replay::ReplayClock>::clone(&engine.clock);
        let api = http::Api::new(http::Parts {
            projection,
            registrar: registrar::Handle::read_only(Arc::clone(&clock)),
            clock,
            metrics,
            tracer,
            log_id,
            config: http_config.clone(),
            readiness: readiness.clone(),
            history: Arc::<replay::Cut>::clone(&engine.archive),
            replay: Some(engine.handle.clone()),
            hub: Arc::clone(&hub),
        });
        let watch_write_timeout = settings.watch_write_timeout;
        Ok(Self {
            hub,
            watch_write_timeout,
            address,
            listener,
            api,
            engine,
            archive,
            telemetry,
            readiness,
            http_config,
        })
    }

    /// The URL that was bound.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What steers it.
    #[must_use]
    pub fn handle(&self) -> replay::Handle {
        self.engine.handle.clone()
    }

    /// Serves until `shutdown`: first the requests end, then the engine.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, api, engine, archive, telemetry, readiness, http_config, .. } = self;
        let limit = http_config.shutdown_timeout;
        let (hub, write_timeout) = (self.hub, self.watch_write_timeout);
        let mut upkeep = JoinSet::new();
        let waker = Arc::clone(&hub);
        let _ = upkeep.spawn(async move { waker.run(write_timeout).await });
        let _ = upkeep.spawn(keep_up(telemetry, readiness, archive));
        let mut server = JoinSet::new();
        let stop_http = CancellationToken::new();
        let stop = stop_http.clone();
        let _ = server.spawn(async move {
            http::serve(listener, api, stop).await;
        });
        shutdown.cancelled().await;
        step("requests finish", limit + Duration::from_secs(1), async {
            // Those who wait for changes are not waited for: they are answered now.
            hub.close();
            stop_http.cancel();
            while server.join_next().await.is_some() {}
        })
        .await;
        step("the replay ends", limit, tokio::task::spawn_blocking(|| engine.stop())).await;
        upkeep.shutdown().await;
    }
}
