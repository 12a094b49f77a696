//! Active checks: the registry itself asks its instances whether they live.
//!
//! ```text
//!   projection ──what has a check──▶ schedule ──▶ runner ──▶ http, tcp, grpc ──▶ dial ──▶ (the instance)
//!                                       ▲           │                             │
//!                                       │        verdict                    allowed: may it go there?
//!                                       └───────────┴──changes only──▶ registrar
//! ```
//!
//! [`schedule`] and [`allowed`] are pure, so that the simulation and tables of cases can have them; `runner` gives them
//! tasks, sockets and time. An event is made only when a verdict changes. It must never decide a status (that is the
//! domain's, from all signals), never go where [`allowed`] forbids, and never let a probe count during which the registry
//! itself stood still. Built by `app`.

pub mod allowed;
mod dial;
mod grpc;
mod http;
mod pool;
mod runner;
#[cfg(test)]
mod runner_tests;
pub mod schedule;
mod tcp;
mod telling;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
mod verdict;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use dial::{Resolve, Resolved, SystemResolver};
pub use tls::{Roots, RootsError};

use crate::clock::Clock;
use crate::projection::Projection;
use crate::registrar::{Handle, Readiness, Telemetry};
use allowed::Networks;
use dial::Dialer;
use runner::Runner;

/// Settings of the prober.
#[derive(Debug, Clone)]
pub struct Config {
    /// Networks that probes may go to besides the address that registered.
    pub networks: Networks,
    /// Whom probes by TLS trust.
    pub roots: Roots,
    /// Most probes at the same time; the next ones wait.
    pub concurrency: usize,
    /// Most connections that are kept between probes.
    pub idle_connections: usize,
}

/// What the prober stands on.
#[derive(Debug)]
pub struct Parts {
    /// Where it learns who is to be probed.
    pub projection: Arc<Projection>,
    /// Where it says what it found.
    pub registrar: Handle,
    /// When replay is done: it begins then.
    pub readiness: Readiness,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where it counts and leaves spans.
    pub telemetry: Telemetry,
    /// What names mean.
    pub resolver: Arc<dyn Resolve>,
}

/// A prober that is built.
#[derive(Debug)]
pub struct Service(Runner);

impl Service {
    /// Builds the prober. It does nothing before [`Self::run`].
    ///
    /// # Errors
    /// If the file of trusted authorities can't be used.
    pub fn build(config: Config, parts: Parts) -> Result<Self, RootsError> {
        let tls = tls::Tls::new(&config.roots)?;
        let dialer =
            Dialer { networks: config.networks, resolver: Arc::clone(&parts.resolver), tls };
        let (concurrency, idle) = (config.concurrency, config.idle_connections);
        Ok(Self(Runner::new(dialer, concurrency, idle, parts)))
    }

    /// Probes until `stop`; probes that are under way then are given up.
    pub async fn run(self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.0.run()).await;
    }
}
