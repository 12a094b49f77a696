//! The guard at work: what it sees, when it is entered and left, and whom it lets go.
//!
//! ```text
//!   one turn:  late marks of all who are due ─▶ in the log ─▶ guards leave, guards enter ─▶ in the log ─▶ expiries
//! ```
//!
//! Each step is decided on what the steps before have put into the log, so that a failed append leaves nothing to take
//! back: [`crate::lease::guard`] is told of changes only once they are there, by [`Registrar::guard_sees`]. Called by
//! the registrar's thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::group::Work;
use super::sweep::{self, Due, Overrun, Ripe, Verdict};
use super::thread::{Registrar, SWEEP_MAX};
use crate::clock::Monotonic;
use crate::domain::command::Command;
use crate::domain::event::{Event, GuardEntered, Note};
use crate::domain::registry::PreImage;
use crate::domain::{Change, Instance, Millis, ServiceKey};
use crate::lease::guard::{Guard, Mark, Sentence, Standing};
use crate::lease::queue::Tracked;
use crate::telemetry::propagation::TraceContext;

/// How old the figures of a guard that holds may be, where only time moves them.
const SHOWN_FOR: Millis = Millis::from_millis(1_000);

impl Registrar {
    pub(super) fn guard_holds(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::holds)
    }

    /// Counts everybody who lives after a replay. What guards held in the run before is over: leases begin anew.
    pub(super) fn guard_begins(&mut self) {
        let Some(guard) = &mut self.guard else { return };
        for (key, service) in self.registry.services() {
            for instance in service.instances.values() {
                guard.shift(key, None, standing(instance));
            }
        }
    }

    /// A change is in the log, and this is what it replaced.
    pub(super) fn guard_sees(&mut self, change: &Change, before: &PreImage) {
        let Some(guard) = &mut self.guard else { return };
        let now = self.shared.clock.monotonic();
        let mark = Mark { seq: change.seq, at: change.at, now };
        match &change.event {
            Event::Note(Note::GuardEntered(entered)) => guard.entered(entered, mark),
            Event::Note(Note::GuardLeft(left)) => guard.left(left, mark),
            event => {
                // What replaced nothing moved no lease.
                let Some((key, before)) = before.replaced() else { return };
                let before = before.and_then(standing);
                guard.shift(&key.service, before, after(event, before));
                if let Event::Expired { key, overdue } = event {
                    guard.expired(&key.service, overdue.ttl, now);
                }
            }
        }
    }

    /// Up to `room` of those whose lease has run out and whom no guard holds, closed. Guards are left and entered first; the
    /// others go back into the queue. With the guard switched off these are all.
    pub(super) fn let_go(&mut self, room: usize, sweep: &TraceContext) -> Vec<Due> {
        // One instant for all of it: a guard whose time runs out while notes are written is left before anybody goes whom it
        // held, in the next turn.
        let now = self.shared.clock.monotonic();
        if self.guard.is_some() {
            // Who is late and not counted would let a guard recover that has to hold.
            if self.ripe_unseen && self.trouble.is_none() && self.guard_holds() {
                let (_, unmarked) = self.unmarked();
                self.mark_unmarked(unmarked, sweep);
            }
            self.leave_guards(now);
            // Once for all that are ripe at an instant: they may take many turns to go.
            if self.ripe_unseen && self.trouble.is_none() {
                self.enter_guards(sweep);
                self.ripe_unseen = self.trouble.is_some();
            }
            if self.trouble.is_some() {
                return Vec::new();
            }
        }
        let clock = self.clock();
        let mut closed = Vec::new();
        while closed.len() < room
            && let Some(overrun) = self.ripe.pop_front()
        {
            let tracked = &overrun.tracked;
            if sweep::look(tracked, &*clock) == Ripe::Gone {
                // The queue forgets those who have left.
                self.deadlines.push(now, overrun.tracked);
                continue;
            }
            let sentence = match (&mut self.guard, tracked.lease.ttl()) {
                (Some(guard), Some(ttl)) => {
                    guard.judge(&tracked.key.service, tracked.incarnation, ttl, now)
                }
                _ => Sentence::Expires(None),
            };
            match sentence {
                Sentence::Held(until) => self.deadlines.push(until, overrun.tracked),
                Sentence::Expires(cause) => {
                    match sweep::mark_ripe(overrun, &*clock, Verdict::Expired, cause) {
                        Ok(due) => closed.push(due),
                        Err(tracked) => self.deadlines.push(now, tracked),
                    }
                }
            }
        }
        self.show_guards();
        closed
    }

    /// Ends the guards that have to end.
    fn leave_guards(&mut self, now: Monotonic) {
        let Some(guard) = self.guard.as_mut().filter(|guard| guard.holds()) else { return };
        let notes = guard.to_leave(now).into_iter().map(Note::GuardLeft).collect();
        self.commit_notes(notes);
    }

    /// Enters the guards that the ripe leases ask for; before that, those of them that nobody had the time to mark late
    /// are, so that they are counted and nobody is handed them as healthy.
    fn enter_guards(&mut self, sweep: &TraceContext) {
        let (mut services, unmarked) = self.unmarked();
        let mut entering = self.guards_to_enter(&services);
        if !unmarked.is_empty() && (self.guard_holds() || !entering.is_empty()) {
            self.mark_unmarked(unmarked, sweep);
            services.values_mut().for_each(|more| *more = 0);
            entering = self.guards_to_enter(&services);
        }
        if self.trouble.is_none() {
            self.commit_notes(entering.into_iter().map(Note::GuardEntered).collect());
        }
    }

    /// Of those that are ripe: how many of each service nobody had the time to mark late, and which ones.
    fn unmarked(&self) -> (BTreeMap<ServiceKey, u64>, Vec<Tracked>) {
        let clock = self.clock();
        let mut services: BTreeMap<ServiceKey, u64> = BTreeMap::new();
        let mut unmarked = Vec::new();
        for Overrun { tracked, .. } in &self.ripe {
            let service = &tracked.key.service;
            if !services.contains_key(service) {
                services.insert(service.clone(), 0);
            }
            if sweep::look(tracked, &*clock) == Ripe::Unmarked {
                if let Some(more) = services.get_mut(service) {
                    *more += 1;
                }
                unmarked.push(tracked.clone());
            }
        }
        (services, unmarked)
    }

    fn guards_to_enter(&mut self, services: &BTreeMap<ServiceKey, u64>) -> Vec<GuardEntered> {
        let now = self.shared.clock.monotonic();
        let Some(guard) = &mut self.guard else { return Vec::new() };
        guard.to_enter(services.iter().map(|(service, more)| (service, *more)), now)
    }

    fn mark_unmarked(&mut self, unmarked: Vec<Tracked>, sweep: &TraceContext) {
        let clock = self.clock();
        let mut works = Vec::with_capacity(unmarked.len());
        let found = clock.monotonic();
        for tracked in unmarked {
            // One that was renewed meanwhile is left as it is.
            let overrun = Overrun { tracked, found };
            if let Ok(due) = sweep::mark_ripe(overrun, &*clock, Verdict::Late, None) {
                works.push(self.swept_work(due.stays_ripe(), sweep));
            }
        }
        for chunk in chunks(works, SWEEP_MAX) {
            if self.trouble.is_some() {
                self.answer_without_log(chunk);
            } else {
                self.commit(chunk);
            }
        }
    }

    fn commit_notes(&mut self, notes: Vec<Note>) {
        let works: Vec<Work> =
            notes.into_iter().map(|note| Work::own(Command::Note(note))).collect();
        for chunk in chunks(works, SWEEP_MAX) {
            if self.trouble.is_none() {
                self.commit(chunk);
            }
        }
    }

    /// The registry stops in order: its guards let go, and nobody expires by that.
    pub(super) fn stop_guards(&mut self) {
        let now = self.shared.clock.monotonic();
        let notes = self.guard.as_mut().map(|guard| guard.to_stop(now)).unwrap_or_default();
        self.commit_notes(notes.into_iter().map(Note::GuardLeft).collect());
    }

    /// Shows how the guards stand to those who ask, if that has changed: where thousands of services are guarded, it is
    /// no small list.
    fn show_guards(&mut self) {
        let now = self.shared.clock.monotonic();
        let Some(guard) = &mut self.guard else { return };
        let (moves, at) = self.guard_shown;
        let grown_old = guard.holds() && now >= at.plus(SHOWN_FOR);
        if moves == guard.moves() && !grown_old {
            return;
        }
        self.guard_shown = (guard.moves(), now);
        let (holding, held) = (guard.holding(now), guard.held());
        self.telemetry.guards(&holding, held);
        let mut shown = self.shared.guard.lock();
        if !holding.is_empty() || shown.as_ref().is_none_or(|shown| !shown.is_empty()) {
            *shown = Some(holding.into());
        }
    }
}

/// How the lease of an instance stands; none for one without.
fn standing(instance: &Arc<Instance>) -> Option<Standing> {
    let Instance { incarnation, ttl, signals, .. } = &**instance;
    ttl.map(|ttl| Standing { incarnation: *incarnation, ttl, late: signals.late })
}

/// How it stands after a change that found it like `before`.
fn after(event: &Event, before: Option<Standing>) -> Option<Standing> {
    match event {
        Event::Registered { instance, .. } | Event::Updated { instance, .. } => standing(instance),
        Event::StatusChanged { signals, .. } => {
            before.map(|before| Standing { late: signals.late, ..before })
        }
        Event::ModeChanged { .. } | Event::Note(_) => before,
        Event::Deregistered { .. } | Event::Expired { .. } => None,
    }
}

/// `works` in groups of at most `size`.
fn chunks(mut works: Vec<Work>, size: usize) -> Vec<Vec<Work>> {
    let mut groups = Vec::with_capacity(works.len().div_ceil(size));
    while !works.is_empty() {
        let rest = works.split_off(works.len().min(size));
        groups.push(std::mem::replace(&mut works, rest));
    }
    groups
}
