//! Who changes status too often to be believed, and since when who was is quiet.
//!
//! A change of status that comes and goes costs every watcher a wake-up and every client a decision. One that has
//! changed more than `limit` times within `window` is held at `unstable`, and let go when what its status would be has
//! stood still for as long. Each life begins with a clean sheet: who deregisters and registers again never flaps.
//!
//! ```text
//!   h u h u h u h      the 6th change within the window: damped
//!                └─ unstable ─────────── u h ──── window ────┐
//!                                          └─ the last one   └─ settled
//! ```
//!
//! Counting is pure and sees only changes that are in the log; a log that can't be written changes nothing. Memory
//! follows the changes of the last window, and of one that is damped nothing more is counted: however fast it flaps, it
//! costs a few entries. Called by the registrar's thread; [`super::timers`] holds the deadlines.

use std::collections::{HashMap, VecDeque};

use super::thread::Registrar;
use super::timers::{Action, Timer};
use crate::clock::Monotonic;
use crate::domain::event::{Event, StatusReason};
use crate::domain::health::Flaps;
use crate::domain::{Change, Instance, InstanceKey, Millis, Signals, Status};
use crate::telemetry::names::DampingOutcome;

/// Settings of the damping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Changes of status within the window that are still believed; 0 damps nobody.
    pub(super) changes: u32,
    /// The window.
    pub(super) window: Millis,
}

/// An instance that changed its status of late, or is damped.
#[derive(Debug)]
struct Track {
    /// Its own, so that the changes of one that has left do not count for the next of its name.
    id: u64,
    /// What its status would be, were it not damped.
    status: Status,
    /// How often that changed within the window.
    recent: u32,
    /// When it changed last, or was looked at first.
    last: Monotonic,
    damped: bool,
}

/// The changes of the last window, and who is damped.
#[derive(Debug)]
pub(super) struct Damping {
    limits: Limits,
    /// When whose track was counted up, oldest first.
    changes: VecDeque<(Monotonic, InstanceKey, u64)>,
    tracks: HashMap<InstanceKey, Track>,
    next: u64,
    damped: u64,
}

/// What follows from a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing.
    None,
    /// It has changed too often: it is to be damped.
    Flaps(Flaps),
    /// It is damped from now on.
    Begun,
    /// It was let go.
    Settled,
    /// It was damped and has left, or began another life.
    Left,
}

/// What its status would be, were it not damped.
fn undamped(signals: Signals) -> Status {
    Signals { flapping: false, ..signals }.status()
}

impl Damping {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, changes: VecDeque::new(), tracks: HashMap::new(), next: 0, damped: 0 }
    }

    /// How many are damped.
    pub(super) fn damped(&self) -> u64 {
        self.damped
    }

    /// Notes that an instance was damped when it was replayed; when it may be let go. The quiet begins anew.
    pub(super) fn resume(&mut self, instance: &Instance, now: Monotonic) -> Monotonic {
        let track = self.track(&instance.key, undamped(instance.signals), now);
        track.damped = true;
        self.damped += 1;
        self.quiet_at(&instance.key, now)
    }

    /// When one that is damped will have been quiet for long enough, if it stays so; quiet counts only while the
    /// registry was awake.
    pub(super) fn quiet_at(&self, key: &InstanceKey, awake_since: Monotonic) -> Monotonic {
        match self.tracks.get(key) {
            // Switched off since: there is nothing to wait for.
            Some(track) if self.limits.changes > 0 => {
                track.last.max(awake_since).plus(self.limits.window)
            }
            _ => Monotonic::default(),
        }
    }

    /// Sees a change that is in the log.
    pub(super) fn see(&mut self, change: &Change, now: Monotonic) -> Step {
        self.forget_before(now);
        match &change.event {
            Event::StatusChanged { key, signals, reason: StatusReason::Flapping, .. } => {
                self.begin(key, *signals, now)
            }
            Event::StatusChanged { key, reason: StatusReason::Settled, .. } => self.settle(key),
            Event::StatusChanged { key, from, signals, .. } => {
                self.moved(key, Some(*from), *signals, now)
            }
            Event::Registered { instance, .. } if instance.incarnation == change.seq => {
                self.leave(&instance.key)
            }
            // A registration is a sign of life, so that it may end lateness.
            Event::Registered { instance, .. } => {
                self.moved(&instance.key, None, instance.signals, now)
            }
            Event::Deregistered { key, .. } | Event::Expired { key, .. } => self.leave(key),
            Event::Updated { .. } | Event::ModeChanged { .. } | Event::Note(_) => Step::None,
        }
    }

    /// What its status would be may have changed; `from` is what it was, of one that nothing is known of.
    fn moved(
        &mut self,
        key: &InstanceKey,
        from: Option<Status>,
        signals: Signals,
        now: Monotonic,
    ) -> Step {
        let status = undamped(signals);
        let known = self.tracks.get(key).map(|track| track.status).or(from);
        if self.limits.changes == 0 || known.is_none_or(|known| known == status) {
            return Step::None;
        }
        let track = self.track(key, status, now);
        track.status = status;
        track.last = now;
        if track.damped {
            return Step::None;
        }
        track.recent += 1;
        let Track { id, recent, .. } = *track;
        self.changes.push_back((now, key.clone(), id));
        match recent > self.limits.changes {
            true => Step::Flaps(Flaps { changes: recent, window: self.limits.window }),
            false => Step::None,
        }
    }

    /// The track of an instance; a new one if nothing is known of it.
    fn track(&mut self, key: &InstanceKey, status: Status, now: Monotonic) -> &mut Track {
        self.tracks.entry(key.clone()).or_insert_with(|| {
            self.next += 1;
            Track { id: self.next, status, recent: 0, last: now, damped: false }
        })
    }

    fn begin(&mut self, key: &InstanceKey, signals: Signals, now: Monotonic) -> Step {
        let track = self.track(key, undamped(signals), now);
        let was_damped = std::mem::replace(&mut track.damped, true);
        self.damped += u64::from(!was_damped);
        Step::Begun
    }

    fn settle(&mut self, key: &InstanceKey) -> Step {
        let Some(track) = self.tracks.get_mut(key) else { return Step::Settled };
        self.damped -= u64::from(track.damped);
        track.damped = false;
        if track.recent == 0 {
            self.tracks.remove(key);
        }
        Step::Settled
    }

    fn leave(&mut self, key: &InstanceKey) -> Step {
        match self.tracks.remove(key) {
            Some(Track { damped: true, .. }) => {
                self.damped -= 1;
                Step::Left
            }
            Some(_) | None => Step::None,
        }
    }

    /// Forgets the changes that have left the window.
    fn forget_before(&mut self, now: Monotonic) {
        while let Some((at, ..)) = self.changes.front()
            && at.plus(self.limits.window) <= now
            && let Some((_, key, id)) = self.changes.pop_front()
        {
            let Some(track) = self.tracks.get_mut(&key) else { continue };
            if track.id != id {
                continue;
            }
            track.recent = track.recent.saturating_sub(1);
            if track.recent == 0 && !track.damped {
                self.tracks.remove(&key);
            }
        }
    }
}

impl Registrar {
    /// Counts a change that is in the log, and arms what follows from it.
    pub(super) fn damp(&mut self, change: &Change, now: Monotonic) {
        let step = self.damping.see(change, now);
        let outcome = match step {
            Step::None => return,
            Step::Flaps(flaps) => return self.damp_at(change, Action::Damp(flaps), now),
            Step::Begun => {
                if let Some(key) = change.event.key() {
                    let due = self.damping.quiet_at(key, now);
                    self.damp_at(change, Action::Settle, due);
                }
                DampingOutcome::Begun
            }
            Step::Settled => DampingOutcome::Settled,
            Step::Left => DampingOutcome::Left,
        };
        self.telemetry.damping(outcome, self.damping.damped());
    }

    fn damp_at(&mut self, change: &Change, action: Action, due: Monotonic) {
        let key = change.event.key();
        if let Some(instance) = key.and_then(|key| self.registry.instance(key)) {
            let (key, incarnation) = (instance.key.clone(), instance.incarnation);
            self.timers.arm(Timer { key, incarnation, action, due });
        }
    }
}
