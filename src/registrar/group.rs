//! One group commit: decide and fold each command in turn, append all events in one transaction, and
//! either publish or take everything back.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::handle::{Applied, Refused, Request, Timings};
use super::inbox::QueuedCommand;
use super::sweep::Due;
use super::timers::Timer;
use crate::domain::registry::PreImage;
use crate::domain::{
    Change, Command, InstanceKey, Millis, Quotas, Registry, Rejection, Timestamp, TraceRef, decide,
    fold,
};
use crate::telemetry::propagation::TraceContext;
use crate::yielding;

/// A command in a group, and who cares what becomes of it.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) request: Request,
    pub(super) origin: Origin,
}

impl Work {
    /// A deadline that is due, in a trace of its own; `window` is how long an instance that flapped has to be quiet.
    pub(super) fn timer(timer: Timer, window: Millis) -> Self {
        let work = Self::own(timer.command(window));
        Self { origin: Origin::Timer(timer), ..work }
    }

    /// A command of the registry's own, in a trace of its own.
    pub(super) fn own(command: Command) -> Self {
        let ids = TraceContext::root();
        let trace = TraceRef { trace_id: ids.trace_id.to_bytes(), span_id: ids.span_id.to_bytes() };
        Self {
            request: Request { command, caller: None, trace, baggage: None },
            origin: Origin::Own,
        }
    }
}

impl From<QueuedCommand> for Work {
    fn from(QueuedCommand { request, queued_at, reply }: QueuedCommand) -> Self {
        Self { request, origin: Origin::Caller { queued_at, reply } }
    }
}

/// Where a command came from.
#[derive(Debug)]
pub(super) enum Origin {
    /// From a caller, who waits for the answer.
    Caller {
        /// When it was put into the inbox.
        queued_at: Timestamp,
        /// Whom to answer.
        reply: oneshot::Sender<Result<Applied, Refused>>,
    },
    /// From the sweep of the leases.
    Sweep(Due),
    /// From a deadline of a single instance.
    Timer(Timer),
    /// From the registry itself.
    Own,
}

/// A group that was decided and folded, but is not in the log yet.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) works: Vec<Work>,
    /// What became of each work: the position of its change in the batch.
    pub(super) outcomes: Vec<Result<Option<usize>, Rejection>>,
    pub(super) batch: Vec<Arc<Change>>,
    /// What each change of the batch replaced.
    pub(super) undo: Vec<PreImage>,
    pub(super) timings: Timings,
}

impl Decided {
    /// Decides `works` against `registry`, folding each event so that the next command sees it.
    pub(super) fn new(
        registry: &mut Registry,
        quotas: &Quotas,
        works: Vec<Work>,
        now: Timestamp,
    ) -> Self {
        let mut decided = Self {
            outcomes: Vec::with_capacity(works.len()),
            batch: Vec::with_capacity(works.len()),
            undo: Vec::with_capacity(works.len()),
            timings: Timings { taken: now, ..Timings::default() },
            works: Vec::new(),
        };
        for (position, work) in works.iter().enumerate() {
            yielding::step(position);
            let Request { command, caller, trace, baggage } = &work.request;
            let outcome = decide(registry, command, now).and_then(|decision| {
                let Some(decision) = decision else { return Ok(None) };
                quotas.check(registry, &decision.event)?;
                let mut change = decision.into_change(registry, now, caller.clone(), *trace);
                change.baggage.clone_from(baggage);
                decided.undo.push(fold(registry, &change));
                decided.batch.push(Arc::new(change));
                Ok(Some(decided.batch.len() - 1))
            });
            decided.outcomes.push(outcome);
        }
        decided.works = works;
        decided.timings.batch = decided.batch.len();
        decided
    }

    /// Takes the folds back, newest first, and gives the works to decide them again or to refuse them.
    pub(super) fn undo(self, registry: &mut Registry) -> Vec<Work> {
        for before in self.undo.into_iter().rev() {
            registry.undo(before);
        }
        self.works
    }
}

/// Whose instance a command is about.
pub(super) fn key_of(command: &Command) -> Option<&InstanceKey> {
    match command {
        Command::Register(register) => Some(&register.key),
        Command::Update(update) => Some(&update.key),
        Command::Deregister(deregister) => Some(&deregister.key),
        Command::Heartbeat(heartbeat) => Some(&heartbeat.key),
        Command::MarkLate(overdue) | Command::Expire(overdue) => Some(&overdue.key),
        Command::Judge(judge) => Some(&judge.key),
        Command::Damp(damp) => Some(&damp.key),
        Command::Retire(retire) => Some(&retire.key),
        Command::Note(_) | Command::Checkpoint => None,
    }
}

/// Whether the command is a sign of life, so that its acceptance renews the lease.
pub(super) fn is_sign_of_life(command: &Command) -> bool {
    matches!(command, Command::Register(_) | Command::Heartbeat(_))
}
