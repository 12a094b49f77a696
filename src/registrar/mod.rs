//! The single writer of state: takes all that waits, decides each command in turn, appends the events in
//! one transaction, publishes what changed, answers.
//!
//! ```text
//!            Handle::submit          ┌───────────────── the registrar's thread ─────────────────┐
//!  HTTP ───────commands────▶ inbox ──▶ decide+fold each ─▶ append, sync ─▶ publish ─▶ answer    │
//!            Handle::record          │        ▲                  │ failed: undo, refuse          │
//!  HTTP ───────traffic─────▶ buffer ─▶ number, append            ▼                              │
//!                                    │  deadlines ─▶ guard ─▶ MarkLate, Expire: like any other  │
//!                                    └──────────────────────────────────────────────────────────┘
//! ```
//!
//! It owns the folded state and the log's write side. It knows no HTTP. Both queues are bounded: a full
//! inbox refuses at once, a full traffic buffer lets its callers wait; see [`Refused`].

mod buffer;
mod commit;
mod damping;
mod flush;
mod group;
mod guard;
mod handle;
mod inbox;
pub mod observe;
mod per_second;
mod readiness;
mod recovery;
mod stepped;
mod sweep;
#[cfg(test)]
mod tests;
mod thread;
mod timers;
mod trouble;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

pub use buffer::QueuedTraffic;
pub use handle::{Applied, Handle, LogCondition, Noted, Refused, Request, Timings};
pub use observe::Telemetry;
pub use readiness::{Phase, Readiness};
pub use recovery::RecoverError;
pub use stepped::Stepped;
pub use thread::Turn;

use crate::clock::Clock;
use crate::domain::{Millis, Quotas};
use crate::lease::guard::Policy;
use crate::log::Log;
use crate::projection::{Projection, Publisher};
use crate::watch::Hub;

/// Settings of the registrar.
#[derive(Debug, Clone)]
pub struct Config {
    /// Commands that may wait.
    pub command_queue: usize,
    /// Traffic events that may wait.
    pub traffic_queue: usize,
    /// How long a caller waits for the log.
    pub write_timeout: Duration,
    /// How long traffic may wait for its flush.
    pub traffic_flush: Duration,
    /// Changes between two checkpoints.
    pub checkpoint_every: u64,
    /// Changes of status within the window that an instance may make before it is damped; 0 damps nobody.
    pub flap_limit: u32,
    /// That window, and how long an instance must be quiet before it is let go.
    pub flap_window: Duration,
    /// How many instances there may be.
    pub quotas: Quotas,
    /// Name of this node, for the `started` event.
    pub node: String,
    /// By which figures the guard against mass expiry decides; none if it is switched off.
    pub guard: Option<Policy>,
    /// How many changes a second have a line of their own in the process' log; 0 for all.
    pub log_change_rate: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            command_queue: 16_384,
            traffic_queue: 65_536,
            write_timeout: Duration::from_secs(5),
            traffic_flush: Duration::from_millis(50),
            checkpoint_every: 10_000,
            flap_limit: 5,
            flap_window: Duration::from_secs(60),
            quotas: Quotas::default(),
            node: "rollcall".to_owned(),
            guard: Some(Policy::default()),
            log_change_rate: 1_000,
        }
    }
}

/// A registrar that was started.
#[derive(Debug)]
pub struct Running {
    /// The way to it.
    pub handle: Handle,
    /// How far its start has come.
    pub readiness: Readiness,
    thread: JoinHandle<Result<(), RecoverError>>,
}

/// Starts the registrar's thread on `log`: it replays, then serves. What it publishes, it tells `hub`.
///
/// # Errors
/// If the operating system gives no thread.
pub fn start(
    log: Box<dyn Log>,
    projection: Arc<Projection>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
    config: &Config,
) -> std::io::Result<Running> {
    let (mut registrar, handle) = build(log, projection, hub, clock, telemetry, config);
    let readiness = Readiness::default();
    let (node, told) = (config.node.clone(), readiness.clone());
    let thread =
        std::thread::Builder::new().name("rollcall-registrar".into()).spawn(move || {
            let _watch = readiness::PanicWatch(told.clone());
            registrar.shared.inbox.served_by(std::thread::current());
            let recovered = registrar.recover(&told, env!("CARGO_PKG_VERSION"), &node);
            if recovered.is_ok() {
                registrar.run();
            } else {
                told.set(Phase::Failed);
            }
            recovered
        })?;
    Ok(Running { handle, readiness, thread })
}

/// The registrar before its start, and the way to it.
fn build(
    log: Box<dyn Log>,
    projection: Arc<Projection>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
    config: &Config,
) -> (thread::Registrar, Handle) {
    let shared = Arc::new(handle::Shared {
        inbox: inbox::Inbox::new(config.command_queue),
        buffer: buffer::Buffer::new(config.traffic_queue),
        failed: AtomicBool::new(false),
        condition: Mutex::new(LogCondition::Writable),
        clock,
        guard: Mutex::new(config.guard.map(|_| Arc::default())),
        write_timeout: config.write_timeout,
        read_only: false,
    });
    let pace = thread::Pace {
        flush_every: Millis::from(config.traffic_flush),
        checkpoint_every: config.checkpoint_every,
        flaps: damping::Limits {
            changes: config.flap_limit,
            window: Millis::from(config.flap_window),
        },
        quotas: config.quotas,
        guard: config.guard,
        log_change_rate: config.log_change_rate,
    };
    let handle = Handle { shared: Arc::clone(&shared) };
    let publisher = Publisher::new(projection);
    let registrar = thread::Registrar::new(log, publisher, hub, shared, telemetry, pace);
    (registrar, handle)
}

impl Running {
    /// Takes no more commands, lets what waits into the log, and waits for the end of the thread. Blocks.
    ///
    /// # Errors
    /// Why the registrar never served, if it did not.
    ///
    /// # Panics
    /// If the registrar's thread panicked: a defect, and the state is not to be trusted.
    pub fn stop(self) -> Result<(), RecoverError> {
        self.handle.shared.inbox.close();
        self.thread.join().expect("the registrar's thread does not panic")
    }
}
