//! The registrar's thread.
//!
//! It waits for commands, deadlines or the next flush, whichever comes first. Changes go before traffic,
//! and traffic goes in slices, so that no change waits behind a heap of lookups. When the log fails it
//! refuses changes, renews leases, expires nobody and tries again until it can write; then the first change
//! is `log_gap`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::buffer::{Lost, QueuedTraffic};
use super::group::{Decided, Origin, Work, is_sign_of_life, key_of};
use super::handle::{Applied, LogCondition, Refused, Request, Shared};
use super::inbox::QueuedCommand;
use super::observe::Telemetry;
use super::sweep::{self, Verdict};
use crate::clock::{Clock, Monotonic};
use crate::domain::command::Command;
use crate::domain::event::{Event, HeartbeatRef, LogGap, Note};
use crate::domain::traffic::{Detail, Traffic};
use crate::domain::{
    Change, InstanceKey, Millis, Registry, Seq, ServiceKey, Timestamp, TraceRef, fold, invariants,
};
use crate::lease::Lease;
use crate::lease::queue::{DeadlineQueue, Tracked};
use crate::log::{AppendError, BATCH_MAX, Log};
use crate::projection::{Entry, Grant, Publisher};
use crate::telemetry::propagation::TraceContext;
use crate::telemetry::signals;

/// Traffic events of one transaction: eight blocks, about a millisecond.
const SLICE: usize = 2_048;

/// Leases looked at between two commits, so that an expiry of many does not keep commands waiting.
const SWEEP_MAX: usize = 1_024;

/// How long to wait before a failed log is tried again.
const RETRY: Millis = Millis::from_millis(100);

/// How often others may win the race for the log's head before the group is refused.
const CONFLICTS_MAX: usize = 16;

/// Settings of the thread.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// How long traffic may wait for its flush.
    pub(super) flush_every: Millis,
    /// Changes between two checkpoints.
    pub(super) checkpoint_every: u64,
}

/// A log that can't be written.
#[derive(Debug)]
struct Trouble {
    since: Timestamp,
    cause: Arc<str>,
    retry_at: Monotonic,
    /// A group of which nobody knows whether it is in the log.
    in_doubt: Option<Decided>,
    lost: Lost,
}

/// Traffic that was taken from the buffer and is not in the log yet.
#[derive(Debug, Default)]
struct Pending {
    events: Vec<Traffic>,
    leases: Vec<Option<Arc<Lease>>>,
    done: usize,
    /// The slice of this length was sent with this first number, and nobody knows whether it is in.
    in_doubt: Option<(u64, usize)>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.done == self.events.len()
    }
}

pub(super) struct Registrar {
    pub(super) log: Box<dyn Log>,
    pub(super) registry: Registry,
    pub(super) publisher: Publisher,
    pub(super) deadlines: DeadlineQueue,
    /// The trace of the registration that began each living incarnation.
    pub(super) origins: HashMap<Seq, TraceRef>,
    pub(super) shared: Arc<Shared>,
    pub(super) telemetry: Telemetry,
    pub(super) pace: Pace,
    trouble: Option<Trouble>,
    pending: Pending,
    spare: Vec<QueuedTraffic>,
    next_flush: Monotonic,
    last_traffic_at: Timestamp,
    since_checkpoint: u64,
}

impl Registrar {
    pub(super) fn new(
        log: Box<dyn Log>,
        publisher: Publisher,
        shared: Arc<Shared>,
        telemetry: Telemetry,
        pace: Pace,
    ) -> Self {
        Self {
            log,
            registry: Registry::default(),
            publisher,
            deadlines: DeadlineQueue::default(),
            origins: HashMap::new(),
            shared,
            telemetry,
            pace,
            trouble: None,
            pending: Pending::default(),
            spare: Vec::new(),
            next_flush: Monotonic::default(),
            last_traffic_at: Timestamp::default(),
            since_checkpoint: 0,
        }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.shared.clock)
    }

    /// Runs until the inbox is closed and everything that waited is in the log.
    pub(super) fn run(mut self) {
        let clock = self.clock();
        let mut idle = false;
        loop {
            let commands = self.shared.inbox.take(BATCH_MAX - SWEEP_MAX);
            let had_commands = !commands.is_empty();
            if self.trouble.is_some() {
                self.answer_without_log(commands.into_iter().map(Work::from).collect());
                self.try_to_resume(idle && !had_commands);
            } else {
                self.commit_all(commands);
            }
            let flush_due = idle || clock.monotonic() >= self.next_flush;
            if self.trouble.is_none() && (flush_due || !self.pending.is_empty()) {
                self.flush_slice();
            }
            let more = had_commands || (self.trouble.is_none() && !self.pending.is_empty());
            if self.shared.inbox.is_done() && !more && self.finish() {
                return;
            }
            if !more {
                clock.park(self.wake_at(clock.monotonic()));
            }
            idle = !more;
        }
    }

    fn wake_at(&self, now: Monotonic) -> Monotonic {
        let flush = now.plus(self.pace.flush_every);
        match (&self.trouble, self.deadlines.next_due()) {
            (Some(trouble), _) => trouble.retry_at,
            (None, Some(due)) => flush.min(due),
            (None, None) => flush,
        }
    }

    /// The last things before the end; whether there is nothing left to do.
    fn finish(&mut self) -> bool {
        if self.trouble.is_some() {
            // What could not be written for as long as it ran can't be written now either.
            return true;
        }
        if self.shared.buffer.len() > 0 || !self.pending.is_empty() {
            self.flush_slice();
            return false;
        }
        self.checkpoint();
        if self.trouble.is_none()
            && let Err(error) = self.log.end()
        {
            self.telemetry.log_failed(&error);
        }
        true
    }

    // ── changes ────────────────────────────────────────────────────────────────────────────────

    /// One group of everything that is due: leases first, so that a heartbeat that waits behind its own
    /// expiry is answered with what came of it.
    fn commit_all(&mut self, commands: Vec<QueuedCommand>) {
        let clock = self.clock();
        let sweep = TraceContext::root();
        let started = clock.wall();
        let due = sweep::due(&mut self.deadlines, &*clock, SWEEP_MAX);
        if due.iter().any(|due| due.verdict == Verdict::Expired) {
            // The last heartbeat of those who expire may still wait for its number.
            self.flush_all();
            if self.trouble.is_some() {
                due.into_iter()
                    .for_each(|due| due.take_back(&mut self.deadlines, clock.monotonic()));
                self.answer_without_log(commands.into_iter().map(Work::from).collect());
                return;
            }
        }
        let mut works = Vec::with_capacity(commands.len() + due.len());
        for due in due {
            let registered_at = self.registry.instance(&due.tracked.key).map(|i| i.registered_at);
            let command = due.command(&*clock, registered_at.unwrap_or_default());
            let ids = sweep.child();
            let trace =
                TraceRef { trace_id: ids.trace_id.to_bytes(), span_id: ids.span_id.to_bytes() };
            let request = Request { command, caller: None, trace };
            works.push(Work { request, origin: Origin::Sweep(due) });
        }
        works.extend(commands.into_iter().map(Work::from));
        if works.is_empty() {
            return;
        }
        let expired = self.commit(works);
        self.telemetry.swept(&sweep, started, &expired, &*clock);
        if self.since_checkpoint >= self.pace.checkpoint_every {
            self.checkpoint();
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        self.commit_own(Command::Note(note));
    }

    fn checkpoint(&mut self) {
        self.since_checkpoint = 0;
        self.commit_own(Command::Checkpoint);
    }

    /// Commits a command of the registry's own, unless the log has failed: then a group may be in doubt, and
    /// nothing may follow it before that is known.
    fn commit_own(&mut self, command: Command) {
        if self.trouble.is_none() {
            self.commit(vec![Work::own(command)]);
        }
    }

    /// Decides, appends, publishes and answers; gives the expiries with the trace of their registration.
    fn commit(&mut self, mut works: Vec<Work>) -> Vec<(Arc<Change>, Option<TraceRef>)> {
        let clock = self.clock();
        for _ in 0..CONFLICTS_MAX {
            let expected = self.registry.head();
            let mut decided = Decided::new(&mut self.registry, works, clock.wall());
            decided.timings.decided = clock.wall();
            if decided.batch.is_empty() {
                return self.complete(decided);
            }
            match self.log.append(expected, &decided.batch) {
                Ok(_) => {
                    decided.timings.appended = clock.wall();
                    return self.complete(decided);
                }
                Err(AppendError::Conflict { .. }) => {
                    works = decided.undo(&mut self.registry);
                    if let Err(error) = self.catch_up() {
                        self.fail(error, None);
                        self.answer_without_log(works);
                        return Vec::new();
                    }
                }
                Err(error @ AppendError::Unknown { .. }) => {
                    self.fail(error, Some(decided));
                    return Vec::new();
                }
                Err(error @ (AppendError::Unavailable { .. } | AppendError::TooLarge { .. })) => {
                    let works = decided.undo(&mut self.registry);
                    self.fail(error, None);
                    self.answer_without_log(works);
                    return Vec::new();
                }
            }
        }
        self.fail(
            AppendError::Unavailable { cause: "others keep writing to the log".into() },
            None,
        );
        self.answer_without_log(works);
        Vec::new()
    }

    /// Folds and publishes what others have appended.
    fn catch_up(&mut self) -> Result<(), AppendError> {
        let unavailable = |cause: String| AppendError::Unavailable { cause: cause.into() };
        let mut changes = Vec::new();
        loop {
            let from = self.registry.head().next();
            let read = self.log.read(from, BATCH_MAX);
            let read = read.map_err(|error| unavailable(error.to_string()))?;
            if read.is_empty() {
                break;
            }
            for change in read {
                invariants::check_change(&self.registry, &change)
                    .map_err(|violation| unavailable(violation.to_string()))?;
                // Others' changes are in the log: there is nothing to take back.
                drop(fold(&mut self.registry, &change));
                changes.push(Arc::new(change));
            }
        }
        let ended = self.publish(&changes);
        self.forget_origins(&ended);
        Ok(())
    }

    /// Publishes the services that `changes` touched, begins and ends leases. Gives the incarnations that
    /// have ended.
    fn publish(&mut self, changes: &[Arc<Change>]) -> Vec<Seq> {
        let now = self.shared.clock.monotonic();
        let mut touched: BTreeSet<ServiceKey> = BTreeSet::new();
        for change in changes {
            let Some(key) = change.event.key() else { continue };
            touched.insert(key.service.clone());
            if matches!(change.event, Event::Registered { .. }) && self.lives(key, change.seq) {
                self.origins.insert(change.seq, change.trace);
            }
        }
        let published = self
            .publisher
            .publish(&self.registry, &touched, |instance| Lease::granted(instance.ttl, now));
        let mut ended = Vec::new();
        for Entry { instance, lease, .. } in published.ended.iter().map(|entry| &**entry) {
            lease.word().close();
            // With another ttl it is the same life.
            if !self.lives(&instance.key, instance.incarnation) {
                ended.push(instance.incarnation);
            }
        }
        self.watch(published.granted, now);
        self.telemetry.shifted(&published.shifts);
        ended
    }

    /// Whether this life of the instance is the present one.
    fn lives(&self, key: &InstanceKey, incarnation: Seq) -> bool {
        self.registry.instance(key).is_some_and(|living| living.incarnation == incarnation)
    }

    fn forget_origins(&mut self, ended: &[Seq]) {
        for incarnation in ended {
            self.origins.remove(incarnation);
        }
    }

    /// Puts new leases into the queue of deadlines.
    pub(super) fn watch(&mut self, granted: Vec<Grant>, now: Monotonic) {
        for Grant { instance, lease } in granted {
            let due = now.plus(instance.late_after());
            let tracked =
                Tracked { key: instance.key.clone(), incarnation: instance.incarnation, lease };
            self.deadlines.push(due, Arc::new(tracked));
        }
    }

    fn entry(&self, key: &InstanceKey) -> Option<Arc<Entry>> {
        let ServiceKey { namespace, service } = &key.service;
        let view = self.publisher.projection().service(namespace.as_str(), service.as_str())?;
        view.entry(key.instance.as_str()).cloned()
    }

    /// The group is in the log: publishes it, renews leases, answers.
    fn complete(&mut self, mut decided: Decided) -> Vec<(Arc<Change>, Option<TraceRef>)> {
        let clock = self.clock();
        let mut ended = Vec::new();
        if !decided.batch.is_empty() {
            ended = self.publish(&decided.batch);
            self.since_checkpoint += decided.batch.len() as u64;
        }
        decided.timings.published = clock.wall();
        let Decided { works, outcomes, batch, timings, .. } = decided;
        // Since when each change was waited for: the registry's own since the group was taken.
        let mut waited_since = vec![timings.taken; batch.len()];
        for (work, outcome) in works.iter().zip(&outcomes) {
            if let (Origin::Caller { queued_at, .. }, Ok(Some(position))) = (&work.origin, outcome)
            {
                waited_since[*position] = *queued_at;
            }
        }
        if !batch.is_empty() {
            self.telemetry.appended(&batch, &waited_since, &timings, &*clock);
        }
        let mut expired = Vec::new();
        for (work, outcome) in works.into_iter().zip(outcomes) {
            let change = match outcome {
                Ok(position) => Ok(position.map(|position| Arc::clone(&batch[position]))),
                Err(rejection) => Err(Refused::Rejected(rejection)),
            };
            match work.origin {
                Origin::Caller { queued_at, reply } => {
                    let mut timings = timings;
                    timings.queued = queued_at;
                    let answer =
                        change.map(|change| self.applied(&work.request.command, change, timings));
                    // A caller that has gone needs no answer.
                    let _ = reply.send(answer);
                }
                Origin::Sweep(due) => {
                    if let Ok(Some(change)) = change
                        && due.verdict == Verdict::Expired
                    {
                        let origin = self.origins.get(&due.tracked.incarnation).copied();
                        expired.push((change, origin));
                    }
                    due.settle(&mut self.deadlines);
                }
                Origin::Own => {}
            }
        }
        self.forget_origins(&ended);
        expired
    }

    fn applied(
        &self,
        command: &Command,
        change: Option<Arc<Change>>,
        timings: super::Timings,
    ) -> Applied {
        let entry = key_of(command).and_then(|key| self.entry(key));
        if let Some(entry) = &entry
            && is_sign_of_life(command)
        {
            entry.lease.word().open(self.shared.clock.monotonic().0);
            if matches!(command, Command::Heartbeat(_)) {
                entry.lease.saw_heartbeat(self.shared.clock.wall());
            }
        }
        Applied {
            change,
            instance: entry.as_ref().map(|entry| Arc::clone(&entry.instance)),
            lease: entry.map(|entry| Arc::clone(&entry.lease)),
            head: self.registry.head(),
            timings,
        }
    }

    // ── a log that fails ───────────────────────────────────────────────────────────────────────

    fn fail(&mut self, error: AppendError, in_doubt: Option<Decided>) {
        self.telemetry.log_failed(&error);
        let since = self.shared.clock.wall().max(self.registry.at());
        let cause: Arc<str> = error.to_string().into();
        let retry_at = self.shared.clock.monotonic().plus(RETRY);
        self.shared.set_condition(LogCondition::Failed { since, cause: Arc::clone(&cause) });
        self.trouble = Some(Trouble { since, cause, retry_at, in_doubt, lost: Lost::default() });
    }

    /// Nothing of these works is in the log. Heartbeats of living instances renew their leases and are
    /// answered from what is published, all else is refused; what was due is looked at again.
    fn answer_without_log(&mut self, works: Vec<Work>) {
        let cause =
            self.trouble.as_ref().map_or_else(|| "the log failed".into(), |t| Arc::clone(&t.cause));
        let now = self.shared.clock.monotonic();
        let mut refused = 0;
        for work in works {
            match work.origin {
                Origin::Caller { queued_at, reply } => {
                    let answer = self.renewed_without_log(&work.request.command, queued_at);
                    refused += u64::from(answer.is_none());
                    let answer =
                        answer.ok_or_else(|| Refused::Failed { cause: Arc::clone(&cause) });
                    // A caller that has gone needs no answer.
                    let _ = reply.send(answer);
                }
                Origin::Sweep(due) => due.take_back(&mut self.deadlines, now),
                Origin::Own => {}
            }
        }
        self.telemetry.refused(refused);
    }

    /// The answer to a heartbeat whose instance lives: its lease is renewed, its status stays for now.
    fn renewed_without_log(&self, command: &Command, queued: Timestamp) -> Option<Applied> {
        let Command::Heartbeat(heartbeat) = command else { return None };
        let entry = self.entry(&heartbeat.key)?;
        if heartbeat.incarnation.is_some_and(|given| given != entry.instance.incarnation) {
            return None;
        }
        entry.lease.word().renew_unless_closed(self.shared.clock.monotonic().0).ok()?;
        entry.lease.saw_heartbeat(self.shared.clock.wall());
        Some(Applied {
            change: None,
            instance: Some(Arc::clone(&entry.instance)),
            lease: Some(Arc::clone(&entry.lease)),
            head: self.publisher.projection().head(),
            timings: super::Timings { queued, ..Default::default() },
        })
    }

    /// Tries to write again: first what is in doubt, then the `log_gap` event.
    fn try_to_resume(&mut self, idle: bool) {
        let clock = self.clock();
        let Some(mut trouble) = self.trouble.take() else { return };
        let now = clock.monotonic();
        if now < trouble.retry_at && !idle {
            self.trouble = Some(trouble);
            return;
        }
        trouble.retry_at = now.plus(RETRY);
        if let Some(mut decided) = trouble.in_doubt.take() {
            let first = decided.batch.first().map_or(self.registry.head(), |change| change.seq);
            let expected = Seq(first.0.saturating_sub(1));
            match self.log.resolve(expected, &decided.batch) {
                Ok(_) => {
                    decided.timings.appended = clock.wall();
                    let gap = decided.batch.last().and_then(|change| gap_of(change));
                    self.complete(decided);
                    if let Some(gap) = gap {
                        // It was the gap itself that was in doubt.
                        return self.resumed(&gap);
                    }
                }
                Err(AppendError::Unknown { .. }) => {
                    trouble.in_doubt = Some(decided);
                    self.trouble = Some(trouble);
                    return;
                }
                Err(error) => {
                    let works = decided.undo(&mut self.registry);
                    self.trouble = Some(trouble);
                    self.answer_without_log(works);
                    if matches!(error, AppendError::Conflict { .. }) {
                        // Others wrote meanwhile; what they wrote is folded before anything else.
                        let _ = self.catch_up();
                    }
                    return;
                }
            }
        }
        self.resume_with_gap(trouble);
    }

    fn resume_with_gap(&mut self, mut trouble: Trouble) {
        let lost = self.shared.buffer.take_lost();
        trouble.lost.lookups += lost.lookups;
        trouble.lost.heartbeats += lost.heartbeats;
        self.telemetry.lost(lost.lookups + lost.heartbeats);
        let until = self.shared.clock.wall().max(trouble.since);
        let Trouble { since, lost, .. } = trouble;
        let gap = LogGap { from: since, until, lookups: lost.lookups, heartbeats: lost.heartbeats };
        let expected = self.registry.head();
        let work = Work::own(Command::Note(Note::LogGap(gap)));
        let mut decided = Decided::new(&mut self.registry, vec![work], self.shared.clock.wall());
        decided.timings.decided = self.shared.clock.wall();
        match self.log.append(expected, &decided.batch) {
            Ok(_) => {
                decided.timings.appended = self.shared.clock.wall();
                self.complete(decided);
                self.resumed(&gap);
            }
            Err(AppendError::Unknown { .. }) => {
                trouble.in_doubt = Some(decided);
                self.trouble = Some(trouble);
            }
            Err(error) => {
                decided.undo(&mut self.registry);
                self.trouble = Some(trouble);
                if matches!(error, AppendError::Conflict { .. }) {
                    let _ = self.catch_up();
                }
            }
        }
    }

    /// The log can be written again, and says so itself.
    fn resumed(&mut self, gap: &LogGap) {
        self.shared.set_condition(LogCondition::Writable);
        let LogGap { from, until, lookups, heartbeats } = *gap;
        signals::log_resumed(until.since(from).to_duration(), lookups, heartbeats);
        self.note_stragglers(until);
    }

    /// What was lost between the counting and the end of the failure gets a gap of its own.
    fn note_stragglers(&mut self, from: Timestamp) {
        let lost = self.shared.buffer.take_lost();
        if lost != Lost::default() {
            self.telemetry.lost(lost.lookups + lost.heartbeats);
            let until = self.shared.clock.wall().max(from);
            let Lost { lookups, heartbeats } = lost;
            self.note(Note::LogGap(LogGap { from, until, lookups, heartbeats }));
        }
    }

    // ── traffic ────────────────────────────────────────────────────────────────────────────────

    /// Puts everything that waits into the log, or as much as works.
    fn flush_all(&mut self) {
        while self.trouble.is_none() {
            self.flush_slice();
            if self.pending.is_empty() {
                return;
            }
        }
    }

    /// Puts the next slice of traffic into the log.
    fn flush_slice(&mut self) {
        let clock = self.clock();
        if self.pending.is_empty() {
            self.take_pending();
            self.next_flush = clock.monotonic().plus(self.pace.flush_every);
        }
        self.settle_doubt();
        let Pending { events, done, .. } = &self.pending;
        let slice = &events[*done..events.len().min(*done + SLICE)];
        if slice.is_empty() {
            return;
        }
        let (first, length) = (self.log.next_number(), slice.len());
        let started = clock.monotonic();
        match self.log.append_traffic(slice) {
            Ok(()) => {
                let took = clock.monotonic().micros_since(started);
                self.logged(first, length, Duration::from_micros(took));
            }
            Err(error) => {
                if matches!(error, AppendError::Unknown { .. }) {
                    self.pending.in_doubt = Some((first, length));
                }
                self.fail(error, None);
            }
        }
    }

    /// Whether a slice of unknown fate is in: the log's next number tells, now that it can be read.
    fn settle_doubt(&mut self) {
        if let Some((first, length)) = self.pending.in_doubt.take()
            && self.log.next_number() >= first + length as u64
        {
            self.logged(first, length, Duration::ZERO);
        }
    }

    fn take_pending(&mut self) {
        let mut taken = self.shared.buffer.drain(std::mem::take(&mut self.spare));
        self.pending.events.clear();
        self.pending.leases.clear();
        self.pending.done = 0;
        for QueuedTraffic { mut traffic, lease } in taken.drain(..) {
            // Numbers and times go up together, whatever two threads and the wall clock did.
            traffic.at = traffic.at.max(self.last_traffic_at);
            self.last_traffic_at = traffic.at;
            self.pending.events.push(traffic);
            self.pending.leases.push(lease);
        }
        self.spare = taken;
    }

    /// The next `length` pending events are in the log, numbered from `first` on.
    fn logged(&mut self, first: u64, length: usize, took: Duration) {
        let now = self.shared.clock.wall();
        let range = self.pending.done..self.pending.done + length;
        let mut kinds = [0, 0];
        let mut ages = Vec::with_capacity(length.div_ceil(16));
        for (chunk, events) in self.pending.events[range.clone()].chunks(16).enumerate() {
            // One reading for sixteen: the oldest of them, which makes the histogram err upwards.
            ages.push((now.since(events[0].at).to_duration().as_secs_f64(), events.len()));
            for (position, event) in events.iter().enumerate() {
                match event.detail {
                    Detail::Heartbeat { .. } => kinds[0] += 1,
                    Detail::Lookup { .. } => kinds[1] += 1,
                }
                let offset = chunk * 16 + position;
                if let Some(lease) = &self.pending.leases[range.start + offset] {
                    let id = first + offset as u64;
                    lease.logged_heartbeat(HeartbeatRef { at: event.at, id, trace: event.trace });
                }
            }
        }
        self.pending.done += length;
        self.telemetry.flushed(kinds, &ages, took);
    }
}

fn gap_of(change: &Change) -> Option<LogGap> {
    match &change.event {
        Event::Note(Note::LogGap(gap)) => Some(*gap),
        _ => None,
    }
}
