//! One instance of the simulated world, as it really is.

use std::sync::Arc;

use rollcall::domain::instance::Health;
use rollcall::domain::{Check, InstanceKey, Seq};

/// How its process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It does not run.
    Down,
    /// It runs.
    Up,
    /// It does nothing until then.
    Frozen(u64),
}

/// An instance.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) key: InstanceKey,
    pub(crate) ttl: u64,
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
    /// Milliseconds between its heartbeats.
    pub(crate) fn interval(&self) -> u64 {
        self.ttl / 4
    }
}
