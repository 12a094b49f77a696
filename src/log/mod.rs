//! The log: where the truth is kept.
//!
//! Two classes of event, two traits. **Changes** ([`ChangeLog`]) are few, numbered without a hole, and
//! folding them gives the state. **Traffic** ([`TrafficLog`]) is heartbeats and lookups: much, numbered on
//! its own, and never replayed but for the last heartbeats. One machine keeps both in one SQLite file;
//! nothing above this module knows that.
//!
//! ```text
//!   append(expected = 41, [a, b, c])
//!        │
//!        ├─ Ok(Ack{first: 42, last: 44})   all three are in, in this order, as durable as Ack says
//!        ├─ Conflict{head: 43}             somebody else wrote 42 and 43: nothing of ours is in
//!        ├─ Unavailable{cause}             nothing of ours is in, and for now nothing can be
//!        ├─ TooLarge{..}                   nothing of ours is in, and never will be
//!        └─ Unknown{cause}                 in or not in: ask resolve(41, [a, b, c]) until it knows
//! ```
//!
//! The contract, which [`contract`](self) tests on every implementation:
//! 1. A batch becomes visible whole or not at all, and keeps its order.
//! 2. `seq` starts at 1 and has no hole and no repeat, also across reopening and failures.
//! 3. What was acknowledged is there after reopening; what was refused is not.
//! 4. After `Unknown` the log says nothing about the batch until `resolve` has found out. Then it is
//!    either appended, and acknowledged with its old numbers, or it is not there.
//! 5. Reading gives back exactly what was appended, field by field.
//! 6. A snapshot is of a version that the changes after it lead on from, and reads as it was put.
//! 7. Calls block; only the registrar's thread makes them.

mod baggage;
pub mod blocks;
mod cells;
pub mod codec;
pub mod columns;
#[cfg(test)]
mod contract;
pub mod memory;
pub mod record;
pub mod rollup;
mod row;
pub mod segments;
pub mod snapshot;
pub mod sqlite;
#[cfg(test)]
mod stored;
pub mod upkeep;
pub mod verify;

use std::fmt::Debug;
use std::sync::Arc;

pub use self::snapshot::Snapshot;

pub use crate::domain::traffic::Numbered;
use crate::domain::traffic::Traffic;
use crate::domain::{Change, Seq, Timestamp};

/// How safe an acknowledged change is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Survives a crash of the process and of the machine.
    Synced,
    /// Survives a crash of the process; a power cut may take the last ones.
    Written,
    /// As safe as the memory of the process.
    Memory,
}

/// An acknowledged batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Number of its first change.
    pub first: Seq,
    /// Number of its last change.
    pub last: Seq,
    /// How safe it is.
    pub durability: Durability,
}

/// Why a batch was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Somebody else appended: the head is not the expected one.
    #[error("the log's head is {head}, not the expected one")]
    Conflict {
        /// The head.
        head: Seq,
    },
    /// The batch may be in the log or not.
    #[error("it is not known whether the events are in the log: {cause}")]
    Unknown {
        /// Why.
        cause: Arc<str>,
    },
    /// The log can't be written.
    #[error("{cause}")]
    Unavailable {
        /// Why.
        cause: Arc<str>,
    },
    /// The batch is beyond what one append may hold.
    #[error("{events} events are more than one append may hold ({max})")]
    TooLarge {
        /// Events given.
        events: usize,
        /// Events allowed.
        max: usize,
    },
}

/// Why the log could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The storage failed.
    #[error("the log can't be read: {0}")]
    Storage(Arc<str>),
    /// An event is not what was written.
    #[error("{place} is damaged: {what}")]
    Damaged {
        /// Where.
        place: String,
        /// What is wrong there.
        what: String,
    },
}

/// The most changes of one append.
pub const BATCH_MAX: usize = 4_096;

/// The log of changes.
pub trait ChangeLog: Send + Debug {
    /// The number of the last change; 0 when there is none.
    fn head(&self) -> Seq;

    /// Appends `batch`, whose numbers follow `expected`, if the head is `expected`.
    ///
    /// # Errors
    /// See the module's picture.
    fn append(&mut self, expected: Seq, batch: &[Arc<Change>]) -> Result<Ack, AppendError>;

    /// Finds out what became of a batch whose append ended with `Unknown`: `Ok` if it is in.
    ///
    /// # Errors
    /// As [`ChangeLog::append`]; `Unavailable` and `Conflict` say that it is not in.
    fn resolve(&mut self, expected: Seq, batch: &[Arc<Change>]) -> Result<Ack, AppendError>;

    /// Up to `limit` changes from `from` on.
    ///
    /// # Errors
    /// [`ReadError`]; what comes before a damaged change can be read with a smaller limit.
    fn read(&mut self, from: Seq, limit: usize) -> Result<Vec<Change>, ReadError>;

    /// The number of the first change that is kept, or of the next one if none is; what comes before it only
    /// snapshots know.
    ///
    /// # Errors
    /// [`ReadError`].
    fn first(&mut self) -> Result<Seq, ReadError>;

    /// The versions of which there is a snapshot that a replay can begin at, the oldest first.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if it can't be told which: then there are none to begin at.
    fn snapshots(&mut self) -> Result<Vec<Seq>, ReadError>;

    /// The snapshot of version `seq`, checked; none if there is none.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if it is not what was written: the one before it may be.
    fn snapshot(&mut self, seq: Seq) -> Result<Option<Snapshot>, ReadError>;
}

/// The log of traffic.
pub trait TrafficLog: Send + Debug {
    /// The number that the next event gets.
    fn next_number(&self) -> u64;

    /// Appends events that have the numbers from [`TrafficLog::next_number`] on; all or none.
    ///
    /// # Errors
    /// `Unavailable`: none is in. `Unknown` as for changes: once writing works again, `next_number` says
    /// whether they are in.
    fn append_traffic(&mut self, events: &[Traffic]) -> Result<(), AppendError>;

    /// Events before the number `before`, newest first, about `limit` of them: as many as whole blocks hold.
    ///
    /// # Errors
    /// [`ReadError`].
    fn read_back(&mut self, before: u64, limit: usize) -> Result<Vec<Numbered>, ReadError>;
}

/// Both classes, and how a run begins and ends.
pub trait Log: ChangeLog + TrafficLog {
    /// The id that this log was born with: a UUID as text.
    fn id(&self) -> &str;

    /// When the last event of either class happened, as far as that can be told cheaply.
    fn last_at(&mut self) -> Option<Timestamp>;

    /// Notes that a run begins; whether the one before ended in order.
    ///
    /// # Errors
    /// If that can't be written.
    fn begin(&mut self) -> Result<bool, AppendError>;

    /// Notes that the run ends in order. Nothing is appended afterwards.
    ///
    /// # Errors
    /// If that can't be written.
    fn end(&mut self) -> Result<(), AppendError>;
}
