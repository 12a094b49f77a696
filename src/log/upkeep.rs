//! The work on a log that nobody waits for: deriving what makes it searchable, snapshots, retention.
//!
//! It runs beside the registrar, on a thread and a connection of its own, in slices that hold the log's write lock for
//! about two milliseconds at most. The keeper decides when; this says what can be done.
//! Whatever stops in the middle (a crash, a full disk) leaves the log as good as before: events are the truth, and
//! all of this can be done again.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::domain::event::{Compacted, HeartbeatRef};
use crate::domain::{Instance, Millis, Seq, ServiceKey, Timestamp, TraceRef};

/// Where the log stands, for whoever decides what is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The last change.
    pub head: Seq,
    /// The last traffic event.
    pub traffic_head: u64,
    /// The last change that was derived from.
    pub derived: Seq,
    /// The last traffic event that was derived from.
    pub derived_traffic: u64,
    /// The newest snapshot: of which version, and when that version began.
    pub snapshot: Option<(Seq, Timestamp)>,
}

/// What one slice of retention took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Events.
    Events(Compacted),
    /// So many rows that were no part of the log any more, or roll-ups that are too old; or it looked for some and
    /// found none yet.
    Rows(usize),
    /// Nothing yet: a period of traffic was ended, so that it can be derived from, and goes then.
    Ended,
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Traffic before this instant goes.
    pub traffic_until: Timestamp,
    /// Traffic beyond so many bytes goes, the oldest first.
    pub traffic_bytes: u64,
    /// Traffic before this instant is to be derived from, whether or not anything came after it.
    pub traffic_ended: Timestamp,
    /// Changes up to the newest snapshot of before this instant go.
    pub changes_until: Timestamp,
    /// Roll-ups before this instant go: they are kept as long as changes.
    pub rollups_until: Timestamp,
}

/// One living instance as a snapshot keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Living {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its last heartbeat, as far as it has its number.
    pub last_heartbeat: Option<HeartbeatRef>,
    /// The trace of the registration that began this life.
    pub registration: TraceRef,
}

/// One service as a snapshot keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceState {
    /// Which service.
    pub key: ServiceKey,
    /// Its revision.
    pub revision: Seq,
    /// Who lives there, in the order of their ids.
    pub instances: Vec<Living>,
}

/// A snapshot that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Of which version.
    pub seq: Seq,
    /// Bytes that it takes, about.
    pub bytes: u64,
}

/// Why a piece of work was not done. It is tried again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub Arc<str>);

/// The work. Every call does one slice or, for a snapshot, slices with pauses between them; all of them block.
pub trait Upkeep: Send + Debug {
    /// From now on long work ends early, with [`Failed`], once `stop` is true.
    fn heed(&mut self, stop: Arc<AtomicBool>);

    /// How long the work held the log's write lock at most in one piece, since this was last asked; the wait for it is
    /// not counted.
    fn longest_hold(&mut self) -> Duration;

    /// Where the log stands.
    ///
    /// # Errors
    /// [`Failed`].
    fn standing(&mut self) -> Result<Standing, Failed>;

    /// Derives search segments and roll-ups from the next events that are complete; whether there are more.
    ///
    /// # Errors
    /// [`Failed`].
    fn derive(&mut self) -> Result<bool, Failed>;

    /// Writes a snapshot of version `seq`, which holds `services` in the order of their names, then lets go of the
    /// snapshots that are not needed any more: of the old ones it keeps as few as leave no more than `apart` between
    /// one and the next, so that changes can go soon after they are old enough.
    ///
    /// # Errors
    /// [`Failed`]; the snapshots before it are untouched.
    fn snapshot(
        &mut self,
        seq: Seq,
        services: &mut dyn Iterator<Item = ServiceState>,
        apart: Millis,
    ) -> Result<Written, Failed>;

    /// Removes one slice of what is beyond the budgets, only ever what has been derived from; none when all is within.
    /// What is beyond them and waits for more traffic to be derived from is made ready instead ([`Removed::Ended`]).
    ///
    /// # Errors
    /// [`Failed`].
    fn retain(&mut self, budgets: &Budgets) -> Result<Option<Removed>, Failed>;

    /// What was removed, also by a run before, and has no `compacted` event yet: one for each class at most.
    ///
    /// # Errors
    /// [`Failed`].
    fn untold(&mut self) -> Result<Vec<Compacted>, Failed>;

    /// Notes that the change `by` tells of the removal `told`.
    ///
    /// # Errors
    /// [`Failed`]; then it is told once more later.
    fn told(&mut self, told: &Compacted, by: Seq) -> Result<(), Failed>;

    /// Gives one slice of free space back to the file system; whether there is more.
    ///
    /// # Errors
    /// [`Failed`].
    fn reclaim(&mut self) -> Result<bool, Failed>;
}
