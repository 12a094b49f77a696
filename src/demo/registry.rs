//! Which registry the demo plays on: the one it was told, the one that is there, or one of its own.
//!
//! A registry of its own is the same server that `rollcall serve` runs, on a free port and in a temporary folder that is
//! removed at the end. Called by [`super::run`].

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::app::{self, App};
use crate::cli::Error;
use crate::client::{Client, DEFAULT_URL};
use crate::config::Settings;
use crate::telemetry::spans::Tracer;

/// How long a registry that was named may take to become ready: in a compose file both start at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry, and whether it is the demo's own.
pub(super) struct Registry {
    url: String,
    own: Option<Own>,
}

/// A registry in this process.
struct Own {
    folder: PathBuf,
    shutdown: CancellationToken,
    running: JoinSet<Result<(), app::Error>>,
}

/// Finds a registry or starts one.
pub(super) async fn find(url: Option<String>) -> Result<Registry, Error> {
    if let Some(url) = url.filter(|url| !url.is_empty()) {
        let client = Client::new(&url, "demo")?;
        wait_until_ready(&client).await?;
        return Ok(Registry { url: client.url().to_owned(), own: None });
    }
    if Client::new(DEFAULT_URL, "demo")?.ready().await.is_ok() {
        return Ok(Registry { url: DEFAULT_URL.to_owned(), own: None });
    }
    let folder = std::env::temp_dir().join(format!("rollcall-demo-{}", uuid::Uuid::now_v7()));
    start_own(folder).await
}

/// Starts a registry of the demo's own in this folder.
pub(super) async fn start_own(folder: PathBuf) -> Result<Registry, Error> {
    let (url, own) = Own::start(folder).await?;
    Ok(Registry { url, own: Some(own) })
}

impl Registry {
    /// Whether it goes on when the demo has ended.
    pub(super) fn stays(&self) -> bool {
        self.own.is_none()
    }

    /// Its address.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// What else there is to say of it.
    pub(super) fn remark(&self) -> String {
        self.own.as_ref().map_or_else(String::new, |own| {
            format!(", started by the demo; its log is {} until the end", own.folder.display())
        })
    }

    /// Stops it if it is the demo's own, and removes its folder.
    pub(super) async fn stop(self) -> Result<(), Error> {
        match self.own {
            Some(own) => own.stop().await,
            None => Ok(()),
        }
    }
}

impl Own {
    /// Starts a registry in the folder, on a free port; gives its address.
    async fn start(folder: PathBuf) -> Result<(String, Self), Error> {
        let failed = |error| Error::failed("start a registry", error);
        let settings = Settings {
            data: folder.clone(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..Settings::default()
        };
        let config = app::tracing_config(&settings, |name| std::env::var(name).ok())
            .map_err(|error| Error::Usage(error.to_string()))?;
        let metrics = app::metrics(&settings);
        let tracer = Tracer::start(&config, &metrics).map_err(|error| failed(error.into()))?;
        let parts = app::production(&settings, tracer, metrics).await.map_err(failed)?;
        let app = App::build(&settings, parts).map_err(failed)?;
        let (url, shutdown) = (app.url(), CancellationToken::new());
        let mut running = JoinSet::new();
        running.spawn(app.run(shutdown.clone()));
        wait_until_ready(&Client::new(&url, "demo")?).await?;
        Ok((url, Self { folder, shutdown, running }))
    }

    /// Stops it and removes the folder.
    async fn stop(mut self) -> Result<(), Error> {
        self.shutdown.cancel();
        let ended = self.running.join_next().await;
        let folder = self.folder.display();
        std::fs::remove_dir_all(&self.folder)
            .map_err(|error| Error::failed(format!("remove {folder}"), error))?;
        match ended {
            Some(Ok(Err(error))) => Err(Error::failed("stop the registry", error)),
            Some(Err(error)) => Err(Error::failed("stop the registry", error)),
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    }
}

/// Waits until the registry is ready; the error is its last answer.
async fn wait_until_ready(client: &Client) -> Result<(), Error> {
    let ready = async {
        while client.ready().await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    match timeout(PATIENCE, ready).await {
        Ok(()) => Ok(()),
        Err(_) => Ok(client.ready().await?),
    }
}
