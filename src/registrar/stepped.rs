//! A registrar without a thread of its own, for simulation: it takes a turn when it is told to, on the thread that
//! tells it, and the turn is the very code of the thread's loop. Whoever holds it decides every interleaving, so that a
//! run can be repeated to the byte. It never waits, and never reads a clock but the one that it was given.

use std::fmt;
use std::sync::Arc;

use super::handle::Handle;
use super::observe::Telemetry;
use super::readiness::Readiness;
use super::recovery::RecoverError;
use super::thread::{Registrar, Turn};
use super::{Config, build};
use crate::clock::Clock;
use crate::log::Log;
use crate::projection::Projection;
use crate::watch::Hub;

/// A registrar that was started and stands between two turns. Dropping it is what a crash is to a thread: who waits
/// for an answer gets none, and nothing more is written.
pub struct Stepped {
    registrar: Registrar,
    handle: Handle,
    readiness: Readiness,
}

impl fmt::Debug for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stepped").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

impl Stepped {
    /// Replays `log` and is ready, as [`super::start`] is when its readiness says so.
    ///
    /// # Errors
    /// Why it can't serve.
    pub fn start(
        log: Box<dyn Log>,
        projection: Arc<Projection>,
        hub: Arc<Hub>,
        clock: Arc<dyn Clock>,
        telemetry: Telemetry,
        config: &Config,
    ) -> Result<Self, RecoverError> {
        let (mut registrar, handle) = build(log, projection, hub, clock, telemetry, config);
        let readiness = Readiness::default();
        registrar.recover(&readiness, env!("CARGO_PKG_VERSION"), &config.node)?;
        Ok(Self { registrar, handle, readiness })
    }

    /// The way to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// How its start went.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Takes one turn.
    pub fn turn(&mut self) -> Turn {
        self.registrar.turn()
    }

    /// Takes no more commands; the turns that follow let what waits into the log, up to [`Turn::Done`].
    pub fn close(&self) {
        self.handle.shared.inbox.close();
    }
}
