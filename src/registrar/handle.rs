//! What everybody else holds of the registrar: cheap to clone, never blocks a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::buffer::{Buffer, QueuedTraffic};
use super::group::Work;
use super::inbox::{Inbox, QueuedCommand};
use crate::clock::Clock;
use crate::domain::event::Note;
use crate::domain::{Baggage, Change, Command, Instance, Rejection, Seq, Timestamp, TraceRef};
use crate::lease::Lease;
use crate::lease::guard::Holding;

/// A command with what the log wants to know of the one who sends it.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Who asks; none is the registry itself.
    pub caller: Option<Arc<str>>,
    /// In which trace.
    pub trace: TraceRef,
    /// What the request brought along, as far as the operator wants to know that.
    pub baggage: Option<Arc<Baggage>>,
}

/// When what happened to a command, in wall time, for the spans of its trace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// It was put into the inbox.
    pub queued: Timestamp,
    /// The registrar took it.
    pub taken: Timestamp,
    /// All commands of its group were decided.
    pub decided: Timestamp,
    /// The group was appended and synced.
    pub appended: Timestamp,
    /// The group was published.
    pub published: Timestamp,
    /// Events in the group.
    pub batch: usize,
}

/// A command that was accepted, and whose effect is durable and published.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The event; none if the command found everything as it wanted it.
    pub change: Option<Arc<Change>>,
    /// The instance afterwards; none if it has left.
    pub instance: Option<Arc<Instance>>,
    /// Its lease.
    pub lease: Option<Arc<Lease>>,
    /// The version that holds the change.
    pub head: Seq,
    /// When what happened.
    pub timings: Timings,
}

/// Why a command or an event was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The command does not fit the state.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Too many commands wait.
    #[error("too many changes wait for the log")]
    QueueFull,
    /// The log did not answer in time. What was asked may still happen.
    #[error("the log is slow: no answer within {0:?}")]
    Slow(Duration),
    /// The log can't be written; nothing has happened.
    #[error("the log can't be written: {cause}")]
    Failed {
        /// Why, as the operator needs to know it.
        cause: Arc<str>,
    },
    /// The registry is shutting down.
    #[error("the registry is shutting down")]
    Stopping,
    /// The registry shows the past, which nothing changes.
    #[error("the registry replays the past: it can be read and not changed")]
    ReadOnly,
}

/// A note of the registry's own on its way to the log.
#[derive(Debug)]
pub struct Noted(oneshot::Receiver<Result<Applied, Refused>>);

impl Noted {
    /// The number that it got, or why it has none; none as long as that is not known. Does not wait.
    pub fn outcome(&mut self) -> Option<Result<Seq, Refused>> {
        match self.0.try_recv() {
            Ok(Ok(applied)) => Some(Ok(applied.change.map_or(applied.head, |change| change.seq))),
            Ok(Err(refused)) => Some(Err(refused)),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(Refused::Stopping)),
        }
    }
}

/// Whether the log can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogCondition {
    /// It can.
    Writable,
    /// It can't, since then and because of this.
    Failed {
        /// When the first write failed.
        since: Timestamp,
        /// Why.
        cause: Arc<str>,
    },
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inbox: Inbox,
    pub(super) buffer: Buffer,
    pub(super) failed: AtomicBool,
    pub(super) condition: Mutex<LogCondition>,
    pub(super) clock: Arc<dyn Clock>,
    /// The guards that hold, as of the registrar's last look; none if the guard is switched off.
    pub(super) guard: Mutex<Option<Arc<[Holding]>>>,
    pub(super) write_timeout: Duration,
    /// Whether there is no registrar behind: changes are refused and traffic goes nowhere.
    pub(super) read_only: bool,
}

impl Shared {
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn set_condition(&self, condition: LogCondition) {
        let failed = condition != LogCondition::Writable;
        *self.condition.lock() = condition;
        self.failed.store(failed, Ordering::Release);
        self.buffer.wake();
    }
}

/// The way to the registrar.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// The way to no registrar at all: changes are refused, traffic is taken and dropped. For a registry that shows
    /// the past, where a lookup must leave no trace.
    #[must_use]
    pub fn read_only(clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            inbox: Inbox::new(0),
            buffer: Buffer::new(0),
            failed: AtomicBool::new(false),
            condition: Mutex::new(LogCondition::Writable),
            clock,
            guard: Mutex::new(None),
            write_timeout: Duration::ZERO,
            read_only: true,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether changes are refused because this registry shows the past.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.shared.read_only
    }

    /// Sends a command and waits until its event is in the log and its effect can be read.
    ///
    /// # Errors
    /// [`Refused`]; after [`Refused::Slow`] the command may still take effect.
    pub async fn submit(&self, request: Request) -> Result<Applied, Refused> {
        if self.shared.read_only {
            return Err(Refused::ReadOnly);
        }
        let (reply, answer) = oneshot::channel();
        let queued_at = self.shared.clock.wall();
        self.shared.inbox.push(QueuedCommand { request, queued_at, reply })?;
        match tokio::time::timeout(self.shared.write_timeout, answer).await {
            Ok(Ok(outcome)) => outcome,
            // The registrar drops no command that it took, except when it ends.
            Ok(Err(_)) => Err(Refused::Stopping),
            Err(_) => Err(Refused::Slow(self.shared.write_timeout)),
        }
    }

    /// Sends a note of the registry's own, in a trace of its own and without a caller. Waits for nothing: a thread
    /// without a runtime may call it.
    ///
    /// # Errors
    /// [`Refused::QueueFull`], [`Refused::Stopping`].
    pub fn note(&self, note: Note) -> Result<Noted, Refused> {
        let (reply, answer) = oneshot::channel();
        let request = Work::own(Command::Note(note)).request;
        let queued_at = self.shared.clock.wall();
        self.shared.inbox.push(QueuedCommand { request, queued_at, reply })?;
        Ok(Noted(answer))
    }

    /// Gives a traffic event its place on the way to the log, if one is free.
    ///
    /// # Errors
    /// The event itself, for [`Handle::record`], which waits for a place.
    #[expect(
        clippy::result_large_err,
        reason = "the event itself goes back, for another try; boxing would cost every lookup"
    )]
    pub fn try_record(&self, event: QueuedTraffic) -> Result<(), QueuedTraffic> {
        if self.shared.read_only { Ok(()) } else { self.shared.buffer.try_push(event) }
    }

    /// The same if `happens` says that the event takes place after all, which is asked only once there is a place for it.
    /// It must be quick and must not come back here: other events wait meanwhile.
    ///
    /// # Errors
    /// The event itself, if there is no place or it did not happen.
    #[expect(
        clippy::result_large_err,
        reason = "the event itself goes back, for another try; boxing would cost every heartbeat"
    )]
    pub fn try_record_if(
        &self,
        event: QueuedTraffic,
        happens: impl FnOnce() -> bool,
    ) -> Result<(), QueuedTraffic> {
        if self.shared.read_only {
            return if happens() { Ok(()) } else { Err(event) };
        }
        self.shared.buffer.try_push_if(event, happens)
    }

    /// Gives a traffic event its place on the way to the log. Waits while the log is slow; while it has
    /// failed, what does not fit is counted and the caller goes on.
    ///
    /// # Errors
    /// [`Refused::Slow`] if no place came free in time.
    pub async fn record(&self, event: QueuedTraffic) -> Result<(), Refused> {
        match self.try_record(event) {
            Ok(()) => Ok(()),
            // Boxed, as few wait: the future of every request would be as large otherwise, and is moved several times.
            Err(event) => Box::pin(self.record_in_time(event)).await,
        }
    }

    async fn record_in_time(&self, event: QueuedTraffic) -> Result<(), Refused> {
        let shared = &*self.shared;
        shared.inbox.wake();
        let limit = shared.write_timeout;
        let Err(event) = shared.buffer.push(event, limit, || shared.has_failed()).await else {
            return Ok(());
        };
        if shared.has_failed() {
            shared.buffer.lose(event.traffic.detail.kind());
            return Ok(());
        }
        Err(Refused::Slow(limit))
    }

    /// Gives the last event of a stream its place, for those who can't wait: also beyond the capacity. That has a
    /// bound, because every stream had to wait for a place when it began. While the log has failed, what does not fit
    /// is counted.
    pub fn record_end(&self, event: QueuedTraffic) {
        let shared = &*self.shared;
        let Err(event) = shared.buffer.try_push(event) else { return };
        if shared.has_failed() {
            shared.buffer.lose(event.traffic.detail.kind());
        } else {
            shared.buffer.push_beyond(event);
        }
    }

    /// Whether the log can be written.
    #[must_use]
    pub fn log_condition(&self) -> LogCondition {
        if self.shared.has_failed() {
            self.shared.condition.lock().clone()
        } else {
            LogCondition::Writable
        }
    }

    /// The guards that hold; none if the guard is switched off.
    #[must_use]
    pub fn guards(&self) -> Option<Arc<[Holding]>> {
        self.shared.guard.lock().clone()
    }

    /// Commands waiting, and how many may.
    #[must_use]
    pub fn inbox_fill(&self) -> (usize, usize) {
        (self.shared.inbox.len(), self.shared.inbox.capacity())
    }

    /// Traffic events waiting, and how many may.
    #[must_use]
    pub fn buffer_fill(&self) -> (usize, usize) {
        (self.shared.buffer.len(), self.shared.buffer.capacity())
    }
}
