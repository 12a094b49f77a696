//! One instance of the simulated world, as it really is.

use std::sync::Arc;

use rollcall::domain::instance::Health;
use rollcall::domain::{Check, Detector, InstanceKey, Seq};

/// How its process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It does not run.
    Down,
    /// It runs.
    Up,
    /// It does nothing until then.
    Frozen(u64),
    /// It does nothing until then, acts once, and is down.
    Gasping(u64),
}

/// An instance.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) key: InstanceKey,
    /// None for one that is only probed.
    pub(crate) ttl: Option<u64>,
    pub(crate) detector: Detector,
    pub(crate) port: u16,
    pub(crate) zone: u64,
    pub(crate) check: Option<Arc<Check>>,
    pub(crate) state: State,
    /// It stands in the crowd's agenda.
    pub(crate) scheduled: bool,
    /// The life that it believes to have.
    pub(crate) incarnation: Option<Seq>,
    /// It waits for an answer.
    pub(crate) waits: bool,
    /// What its next heartbeat says of itself.
    pub(crate) says: Option<Health>,
}

impl Member {
    /// Milliseconds between its heartbeats; one that is only probed looks now and then whether it is there.
    pub(crate) fn interval(&self) -> u64 {
        self.ttl.map_or(1_000, |ttl| ttl / 4)
    }
}
