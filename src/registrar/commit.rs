//! Changes: one group of everything that is due is decided, appended in one transaction, published and
//! answered. Called by the registrar's thread.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::group::{Decided, Origin, Work, is_sign_of_life, key_of};
use super::handle::{Applied, Refused, Request, Timings};
use super::inbox::QueuedCommand;
use super::observe::Before;
use super::sweep::{self, Due, Verdict};
use super::thread::{Registrar, SWEEP_MAX};
use super::timers::Action;
use crate::clock::Monotonic;
use crate::domain::command::Command;
use crate::domain::event::Note;
use crate::domain::{Change, InstanceKey, ServiceKey, TraceRef, fold, invariants};
use crate::lease::Lease;
use crate::lease::queue::Tracked;
use crate::log::{AppendError, BATCH_MAX};
use crate::projection::{Entry, EntryRef, Grant};
use crate::telemetry::propagation::TraceContext;

/// How often others may win the race for the log's head before the group is refused.
const CONFLICTS_MAX: usize = 16;

impl Registrar {
    /// One group of everything that is due: leases first, so that a heartbeat that waits behind its own
    /// expiry is answered with what came of it.
    pub(super) fn commit_all(&mut self, commands: Vec<QueuedCommand>) {
        let clock = self.clock();
        let sweep = TraceContext::root();
        let started = clock.wall();
        let (began, ripe) = (clock.monotonic(), self.ripe.len());
        let mut due = sweep::due(&mut self.deadlines, &*clock, SWEEP_MAX, &mut self.ripe);
        self.ripe_unseen |= self.ripe.len() > ripe;
        // No expiry is decided before everybody who is late was counted.
        if self.guard.is_some() && !due.is_empty() && (self.guard_holds() || !self.ripe.is_empty())
        {
            let works = due.drain(..).map(|due| self.swept_work(due, &sweep)).collect();
            self.commit(works);
        }
        // As of then: whoever came due while a slow log took its time must not put off the others' end, turn after turn.
        let all_marked = self.deadlines.next_due().is_none_or(|due| due > began);
        if self.trouble.is_none() && all_marked {
            due.extend(self.let_go(SWEEP_MAX - due.len(), &sweep));
        }
        let timers = match self.trouble {
            None => self.due_timers(SWEEP_MAX - due.len()),
            Some(_) => Vec::new(),
        };
        if due.iter().any(|due| due.verdict == Verdict::Expired) {
            // The last heartbeat of those who expire may still wait for its number.
            self.flush_all();
        }
        if self.trouble.is_some() {
            due.into_iter().for_each(|due| due.take_back(&mut self.deadlines, clock.monotonic()));
            timers.into_iter().for_each(|timer| self.timers.put_back(timer));
            self.answer_without_log(commands.into_iter().map(Work::from).collect());
            return;
        }
        let mut works: Vec<Work> =
            due.into_iter().map(|due| self.swept_work(due, &sweep)).collect();
        let window = self.pace.flaps.window;
        works.extend(timers.into_iter().map(|timer| Work::timer(timer, window)));
        works.extend(commands.into_iter().map(Work::from));
        if works.is_empty() {
            return;
        }
        let expired = self.commit(works);
        self.telemetry.swept(&sweep, started, &expired, &*clock, &mut self.expire_spans);
        if self.since_checkpoint >= self.pace.checkpoint_every {
            self.checkpoint();
        }
    }

    /// What the sweep has found, as a command in a trace of the sweep.
    pub(super) fn swept_work(&self, due: Due, sweep: &TraceContext) -> Work {
        let registered_at = self.registry.instance(&due.tracked.key).map(|i| i.registered_at);
        let command = due.command(&*self.shared.clock, registered_at.unwrap_or_default());
        let ids = sweep.child();
        let trace = TraceRef { trace_id: ids.trace_id.to_bytes(), span_id: ids.span_id.to_bytes() };
        Work {
            request: Request { command, caller: None, trace, baggage: None },
            origin: Origin::Sweep(due),
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        self.commit_own(Command::Note(note));
    }

    pub(super) fn checkpoint(&mut self) {
        self.since_checkpoint = 0;
        self.commit_own(Command::Checkpoint);
    }

    /// Commits a command of the registry's own, unless the log has failed: then a group may be in doubt, and
    /// nothing may follow it before that is known.
    pub(super) fn commit_own(&mut self, command: Command) {
        if self.trouble.is_none() {
            self.commit(vec![Work::own(command)]);
        }
    }

    /// Decides, appends, publishes and answers; gives the expiries with the trace of their registration.
    pub(super) fn commit(&mut self, mut works: Vec<Work>) -> Vec<(Arc<Change>, Option<TraceRef>)> {
        let clock = self.clock();
        for _ in 0..CONFLICTS_MAX {
            let expected = self.registry.head();
            let mut decided =
                Decided::new(&mut self.registry, &self.pace.quotas, works, clock.wall());
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
    pub(super) fn catch_up(&mut self) -> Result<(), AppendError> {
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
                let before = fold(&mut self.registry, &change);
                self.guard_sees(&change, &before);
                changes.push(Arc::new(change));
            }
        }
        self.publish(&changes);
        Ok(())
    }

    /// Publishes the services that `changes` touched, begins and ends leases.
    pub(super) fn publish(&mut self, changes: &[Arc<Change>]) {
        let now = self.shared.clock.monotonic();
        let mut touched: BTreeSet<ServiceKey> = BTreeSet::new();
        for service in changes.iter().filter_map(|change| Some(&change.event.key()?.service)) {
            if !touched.contains(service) {
                touched.insert(service.clone());
            }
        }
        let published = self.publisher.publish(&self.registry, &touched, |instance, same_life| {
            if let Some(lease) = same_life {
                return lease.regranted(instance.ttl, now).judged_by(instance.detector);
            }
            // A life that begins here began with one of these: its incarnation is that change's number.
            let began = changes.binary_search_by_key(&instance.incarnation, |c| c.seq);
            let registration = began.map(|position| changes[position].trace);
            Lease::granted(instance.ttl, now, registration.unwrap_or_default())
                .judged_by(instance.detector)
        });
        for change in changes {
            self.time(change, now);
            self.damp(change, now);
        }
        self.hub.published(changes, touched.iter(), now);
        for entry in &published.ended {
            entry.lease.word().close();
        }
        self.watch(published.granted, now);
        self.telemetry.shifted(&published.shifts);
    }

    /// Puts new leases into the queue of deadlines.
    pub(super) fn watch(&mut self, granted: Vec<Grant>, now: Monotonic) {
        for Grant { instance, lease } in granted {
            // One without an end is not watched.
            let Some(soonest) = lease.late_at_least() else { continue };
            let due = now.plus(soonest);
            let tracked =
                Tracked { key: instance.key.clone(), incarnation: instance.incarnation, lease };
            self.deadlines.push(due, tracked);
        }
    }

    pub(super) fn entry(&self, key: &InstanceKey) -> Option<Entry> {
        let ServiceKey { namespace, service } = &key.service;
        let view = self.publisher.projection().service(namespace.as_str(), service.as_str())?;
        view.entry(key.instance.as_str()).map(EntryRef::owned)
    }

    /// The group is in the log: publishes it, renews leases, answers.
    pub(super) fn complete(
        &mut self,
        mut decided: Decided,
    ) -> Vec<(Arc<Change>, Option<TraceRef>)> {
        let clock = self.clock();
        if !decided.batch.is_empty() {
            for (change, before) in decided.batch.iter().zip(&decided.undo) {
                self.guard_sees(change, before);
            }
            self.publish(&decided.batch);
            self.since_checkpoint += decided.batch.len() as u64;
        }
        decided.timings.published = clock.wall();
        let Decided { works, outcomes, batch, timings, .. } = decided;
        // The registry's own were waited for since the group was taken.
        let mut before = vec![Before::of_own(timings.taken); batch.len()];
        for (work, outcome) in works.iter().zip(&outcomes) {
            let Ok(Some(position)) = outcome else { continue };
            match &work.origin {
                Origin::Caller { queued_at, .. } => before[*position].waited_since = *queued_at,
                Origin::Sweep(due) => {
                    before[*position].guarded = due.was_held();
                    before[*position].found = Some(due.found());
                }
                Origin::Timer(_) | Origin::Own => {}
            }
        }
        if !batch.is_empty() {
            self.telemetry.appended(&batch, &before, &timings, &*clock);
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
                        let registration = due.tracked.lease.registration();
                        expired.push((change, Some(registration).filter(TraceRef::is_some)));
                    }
                    due.settle(&mut self.deadlines);
                }
                Origin::Timer(timer) => {
                    if let (Ok(Some(_)), Action::Retire { ground, .. }) = (&change, timer.action) {
                        self.telemetry.retired(ground);
                    }
                }
                Origin::Own => {}
            }
        }
        if !batch.is_empty() {
            self.telemetry.told(&batch, &before, &timings, clock.monotonic(), &mut self.lines);
        }
        expired
    }

    pub(super) fn applied(
        &self,
        command: &Command,
        change: Option<Arc<Change>>,
        timings: Timings,
    ) -> Applied {
        let entry = key_of(command).and_then(|key| self.entry(key));
        if let Some(entry) = &entry
            && is_sign_of_life(command)
        {
            let now = self.shared.clock.monotonic();
            match command {
                Command::Heartbeat(_) => entry.lease.revive(now, self.shared.clock.wall()),
                _ => {
                    entry.lease.word().open(now.0);
                }
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
}
