//! The log of a simulated registry: in memory, and as bad as the run wants it. It fails, leaves outcomes open, takes
//! its time (while the world goes on), and is there when the process is killed in the middle of a write: then the
//! batch is in, or it is not.

use std::sync::Arc;

use parking_lot::Mutex;
use rollcall::domain::event::StatusReason;
use rollcall::domain::traffic::Traffic;
use rollcall::domain::{Change, Event, Seq, Timestamp};
use rollcall::log::memory::{Fault, MemoryLog};
use rollcall::log::{Ack, AppendError, ChangeLog, Log, Numbered, ReadError, Snapshot, TrafficLog};

use crate::crowd::{Crowd, note};

/// How the log is at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// It works, within a millisecond or two.
    Fine,
    /// It works, and takes up to so many milliseconds.
    Slow(u64),
    /// It fails in this way.
    Failing(Fault),
}

#[derive(Debug)]
struct State {
    weather: Weather,
    /// The process is killed in its next write.
    killed_in_write: bool,
    /// It begins to fail in this way when the registry is about to write what one of its own deadlines has led to.
    trap: Option<Fault>,
    /// It was.
    crashed: bool,
}

/// The log; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) stored: MemoryLog,
    state: Arc<Mutex<State>>,
    crowd: Arc<Mutex<Crowd>>,
}

impl Disk {
    /// An empty log; while it takes its time, `crowd` goes on.
    pub(crate) fn new(crowd: Arc<Mutex<Crowd>>) -> Self {
        let weather = Weather::Fine;
        let state = State { weather, killed_in_write: false, trap: None, crashed: false };
        Self { stored: MemoryLog::new(), state: Arc::new(Mutex::new(state)), crowd }
    }

    /// From now on it is like this.
    pub(crate) fn set_weather(&self, weather: Weather) {
        let mut state = self.state.lock();
        (state.weather, state.trap) = (weather, None);
        drop(state);
        self.stored.set_fault(match weather {
            Weather::Failing(fault) => fault,
            Weather::Fine | Weather::Slow(_) => Fault::None,
        });
    }

    /// It will fail from the next change on that one of the registry's own deadlines leads to: those are rare, and seldom
    /// the first thing that a failing log meets.
    pub(crate) fn set_trap(&self, fault: Fault) {
        self.state.lock().trap = Some(fault);
    }

    fn spring(&self, batch: &[Arc<Change>]) {
        let own = |change: &Arc<Change>| match &change.event {
            Event::Deregistered { .. } => change.caller.is_none(),
            Event::StatusChanged { reason, .. } => {
                [StatusReason::Flapping, StatusReason::Settled].contains(reason)
            }
            _ => false,
        };
        let trap = self.state.lock().trap;
        if let Some(fault) = trap.filter(|_| batch.iter().any(own)) {
            note!(self.crowd.lock(), "the log fails at a deadline of the registry's own");
            self.set_weather(Weather::Failing(fault));
        }
    }

    /// The process will be killed in its next write.
    pub(crate) fn kill_in_write(&self) {
        self.state.lock().killed_in_write = true;
    }

    /// Whether the process was killed in a write.
    pub(crate) fn has_crashed(&self) -> bool {
        self.state.lock().crashed
    }

    /// A new process opens it.
    pub(crate) fn reopen(&self) {
        let mut state = self.state.lock();
        (state.killed_in_write, state.crashed) = (false, false);
        let weather = state.weather;
        drop(state);
        self.set_weather(weather);
    }

    /// Lets the time of a write pass, before or after it takes effect.
    fn take_time(&self) {
        let weather = self.state.lock().weather;
        let mut crowd = self.crowd.lock();
        let most = match weather {
            Weather::Slow(most) => most,
            Weather::Fine | Weather::Failing(_) => 2,
        };
        let took = crowd.random.u64(0..=most);
        crowd.pass(took);
    }

    /// What a write meets. Only one in which something may have happened leaves room for a crash.
    fn meet(&self) {
        let mut state = self.state.lock();
        if state.killed_in_write && !state.crashed {
            state.crashed = true;
            let is_in = self.crowd.lock().random.bool();
            self.stored.set_fault(if is_in { Fault::UnknownIn } else { Fault::UnknownOut });
        } else if state.crashed {
            // A dead process writes nothing more.
            self.stored.set_fault(Fault::UnknownOut);
        }
    }
}

impl ChangeLog for Disk {
    fn head(&self) -> Seq {
        self.stored.head()
    }

    fn append(&mut self, expected: Seq, batch: &[Arc<Change>]) -> Result<Ack, AppendError> {
        self.crowd.lock().judge(batch);
        self.spring(batch);
        self.take_time();
        self.meet();
        let outcome = self.stored.append(expected, batch);
        self.take_time();
        outcome
    }

    fn resolve(&mut self, expected: Seq, batch: &[Arc<Change>]) -> Result<Ack, AppendError> {
        self.take_time();
        self.stored.resolve(expected, batch)
    }

    fn read(&mut self, from: Seq, limit: usize) -> Result<Vec<Change>, ReadError> {
        self.stored.read(from, limit)
    }

    fn first(&mut self) -> Result<Seq, ReadError> {
        self.stored.first()
    }

    fn snapshots(&mut self) -> Result<Vec<Seq>, ReadError> {
        self.stored.snapshots()
    }

    fn snapshot(&mut self, seq: Seq) -> Result<Option<Snapshot>, ReadError> {
        self.stored.snapshot(seq)
    }
}

impl TrafficLog for Disk {
    fn next_number(&self) -> u64 {
        self.stored.next_number()
    }

    fn append_traffic(&mut self, events: &[Traffic]) -> Result<(), AppendError> {
        self.take_time();
        self.meet();
        let outcome = self.stored.append_traffic(events);
        self.take_time();
        outcome
    }

    fn read_back(&mut self, before: u64, limit: usize) -> Result<Vec<Numbered>, ReadError> {
        self.stored.read_back(before, limit)
    }
}

impl Log for Disk {
    fn id(&self) -> &str {
        self.stored.id()
    }

    fn last_at(&mut self) -> Option<Timestamp> {
        self.stored.last_at()
    }

    fn begin(&mut self) -> Result<bool, AppendError> {
        self.stored.begin()
    }

    fn end(&mut self) -> Result<(), AppendError> {
        self.stored.end()
    }
}
