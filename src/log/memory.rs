//! A log in memory, for tests and simulation. It keeps the contract of [`super`], and it can be told to
//! fail, to leave the outcome open, or to have a second writer.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    Ack, AppendError, BATCH_MAX, ChangeLog, Durability, Log, Numbered, ReadError, Snapshot,
    TrafficLog,
};
use crate::domain::traffic::Traffic;
use crate::domain::{Change, Seq, Timestamp};

/// What happens to the next appends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fault {
    /// They succeed.
    #[default]
    None,
    /// They fail and nothing is in.
    Unavailable,
    /// The batch is in, but the acknowledgement is lost; `resolve` fails until the fault is taken away.
    UnknownIn,
    /// The batch is not in, and nobody knows; `resolve` fails until the fault is taken away.
    UnknownOut,
}

#[derive(Debug, Default)]
struct State {
    changes: Vec<Change>,
    traffic: Vec<Numbered>,
    snapshots: BTreeMap<Seq, Snapshot>,
    fault: Fault,
    /// A run has begun and not ended.
    begun: bool,
}

/// The log. Clones share it, as a file shares its content with all who open it.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    state: Arc<Mutex<State>>,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what happens to the next appends, of both classes.
    pub fn set_fault(&self, fault: Fault) {
        self.state.lock().fault = fault;
    }

    /// Every change.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        self.state.lock().changes.clone()
    }

    /// Every traffic event.
    #[must_use]
    pub fn traffic(&self) -> Vec<Numbered> {
        self.state.lock().traffic.clone()
    }

    /// Puts a snapshot beside the changes.
    pub fn put_snapshot(&self, snapshot: Snapshot) {
        self.state.lock().snapshots.insert(snapshot.registry.head(), snapshot);
    }

    fn unavailable() -> AppendError {
        AppendError::Unavailable { cause: "the log was told to fail".into() }
    }

    fn unknown() -> AppendError {
        AppendError::Unknown { cause: "the log was told to lose its answer".into() }
    }
}

impl State {
    fn head(&self) -> Seq {
        self.changes.last().map_or(Seq::ZERO, |change| change.seq)
    }
}

fn ack(expected: Seq, batch: &[Arc<Change>]) -> Ack {
    Ack {
        first: expected.next(),
        last: Seq(expected.0 + batch.len() as u64),
        durability: Durability::Memory,
    }
}

impl ChangeLog for MemoryLog {
    fn head(&self) -> Seq {
        self.state.lock().head()
    }

    fn append(&mut self, expected: Seq, batch: &[Arc<Change>]) -> Result<Ack, AppendError> {
        let mut state = self.state.lock();
        if batch.len() > BATCH_MAX {
            return Err(AppendError::TooLarge { events: batch.len(), max: BATCH_MAX });
        }
        let head = state.head();
        if head != expected {
            return Err(AppendError::Conflict { head });
        }
        let fault = state.fault;
        if matches!(fault, Fault::None | Fault::UnknownIn) {
            state.changes.extend(batch.iter().map(|change| Change::clone(change)));
        }
        match fault {
            Fault::None => Ok(ack(expected, batch)),
            Fault::Unavailable => Err(Self::unavailable()),
            Fault::UnknownIn | Fault::UnknownOut => Err(Self::unknown()),
        }
    }

    fn resolve(&mut self, expected: Seq, batch: &[Arc<Change>]) -> Result<Ack, AppendError> {
        let state = self.state.lock();
        if matches!(state.fault, Fault::UnknownIn | Fault::UnknownOut) {
            return Err(Self::unknown());
        }
        let after = state.changes.iter().skip_while(|change| change.seq <= expected);
        let stored: Vec<&Change> = after.take(batch.len()).collect();
        if stored.is_empty() {
            return Err(AppendError::Unavailable { cause: "the events were not appended".into() });
        }
        if stored.len() == batch.len() && stored.iter().zip(batch).all(|(a, b)| **a == **b) {
            return Ok(ack(expected, batch));
        }
        Err(AppendError::Conflict { head: state.head() })
    }

    fn read(&mut self, from: Seq, limit: usize) -> Result<Vec<Change>, ReadError> {
        let state = self.state.lock();
        let wanted = state.changes.iter().filter(|change| change.seq >= from);
        Ok(wanted.take(limit).cloned().collect())
    }

    fn first(&mut self) -> Result<Seq, ReadError> {
        let state = self.state.lock();
        Ok(state.changes.first().map_or_else(|| state.head().next(), |change| change.seq))
    }

    fn snapshots(&mut self) -> Result<Vec<Seq>, ReadError> {
        let first = self.first()?;
        let state = self.state.lock();
        let usable = |seq: &&Seq| seq.next() >= first && **seq <= state.head();
        Ok(state.snapshots.keys().filter(usable).copied().collect())
    }

    fn snapshot(&mut self, seq: Seq) -> Result<Option<Snapshot>, ReadError> {
        Ok(self.state.lock().snapshots.get(&seq).cloned())
    }
}

impl TrafficLog for MemoryLog {
    fn next_number(&self) -> u64 {
        self.state.lock().traffic.last().map_or(1, |last| last.number + 1)
    }

    fn append_traffic(&mut self, events: &[Traffic]) -> Result<(), AppendError> {
        let first = self.next_number();
        let mut state = self.state.lock();
        let fault = state.fault;
        if matches!(fault, Fault::None | Fault::UnknownIn) {
            let numbered = (first..).zip(events.iter().cloned());
            state.traffic.extend(numbered.map(|(number, traffic)| Numbered { number, traffic }));
        }
        match fault {
            Fault::None => Ok(()),
            Fault::Unavailable => Err(Self::unavailable()),
            Fault::UnknownIn | Fault::UnknownOut => Err(Self::unknown()),
        }
    }

    fn read_back(&mut self, before: u64, limit: usize) -> Result<Vec<Numbered>, ReadError> {
        let state = self.state.lock();
        let wanted = state.traffic.iter().rev().filter(|event| event.number < before);
        Ok(wanted.take(limit).cloned().collect())
    }
}

impl Log for MemoryLog {
    fn id(&self) -> &str {
        "00000000-0000-4000-8000-000000000000"
    }

    fn last_at(&mut self) -> Option<Timestamp> {
        let state = self.state.lock();
        let change = state.changes.last().map(|change| change.at);
        change.max(state.traffic.last().map(|event| event.traffic.at))
    }

    fn begin(&mut self) -> Result<bool, AppendError> {
        let mut state = self.state.lock();
        Ok(!std::mem::replace(&mut state.begun, true))
    }

    fn end(&mut self) -> Result<(), AppendError> {
        self.state.lock().begun = false;
        Ok(())
    }
}
