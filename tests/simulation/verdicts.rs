//! The rules of what is decided without a lease: who is taken out because its check has failed for too long, and who is
//! damped because its status came and went. Read off the events alone, and kept apart from the timers and the damping
//! that make them.
//!
//! A change takes effect somewhere between the instant at which it was about to be written and the one at which it was
//! found published: what must last long enough is counted from the former, what must not last too long from the latter.

use std::collections::BTreeMap;
use std::time::Duration;

use rollcall::domain::event::StatusReason;
use rollcall::domain::health::ProbeVerdict;
use rollcall::domain::{Change, Event, Instance, InstanceKey, Registry, Signals, Status};

use crate::truth::Tried;

/// How much longer than its limit a failing instance may be there, in milliseconds: turns and writes take their time.
const SLACK: u64 = 1_000;

/// What is known of one instance. Instants are milliseconds.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// When its check began to fail, about to be written and found; none if it does not.
    failing: Option<(u64, u64)>,
    /// What its status would be, were it not damped, and since when, in the same way.
    status: Status,
    moved: (u64, u64),
}

/// What is known of all of them.
#[derive(Debug)]
pub(crate) struct Verdicts {
    window: u64,
    known: BTreeMap<InstanceKey, Known>,
}

fn undamped(signals: Signals) -> Status {
    Signals { flapping: false, ..signals }.status()
}

impl Verdicts {
    /// Nothing is known; one that is damped has to be quiet for `window`.
    pub(crate) fn new(window: Duration) -> Self {
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        Self { window, known: BTreeMap::new() }
    }

    /// Reads one change, which was found at `now`; `before` is the state before it.
    pub(crate) fn read(
        &mut self,
        change: &Change,
        before: &Registry,
        tried: Tried,
        now: u64,
    ) -> Result<(), String> {
        let Some(key) = change.event.key() else { return Ok(()) };
        let stood = before.instance(key);
        match &change.event {
            Event::StatusChanged { signals, reason, .. } => {
                let damped = stood.is_some_and(|stood| stood.signals.flapping);
                self.check_damping(key, damped, *signals, *reason, tried)?;
                self.note(key, *signals, (tried.at, now));
            }
            Event::Registered { instance, .. } => {
                if instance.incarnation == change.seq {
                    self.known.remove(key);
                }
                self.note(key, instance.signals, (tried.at, now));
            }
            Event::Updated { instance, .. } => self.note(key, instance.signals, (tried.at, now)),
            Event::Deregistered { .. } => {
                if let Some(stood) = stood.filter(|_| change.caller.is_none()) {
                    self.check_retired(stood, tried)?;
                }
                self.known.remove(key);
            }
            Event::Expired { .. } => drop(self.known.remove(key)),
            Event::ModeChanged { .. } | Event::Note(_) => {}
        }
        Ok(())
    }

    fn note(&mut self, key: &InstanceKey, signals: Signals, at: (u64, u64)) {
        let status = undamped(signals);
        let new = Known { failing: None, status, moved: at };
        let known = self.known.entry(key.clone()).or_insert(new);
        if known.status != status {
            (known.status, known.moved) = (status, at);
        }
        let failing = signals.probe == Some(ProbeVerdict::Failing);
        known.failing = failing.then(|| known.failing.unwrap_or(at));
    }

    /// Who is damped is shown as one thing only, until it was quiet for a window.
    fn check_damping(
        &self,
        key: &InstanceKey,
        damped: bool,
        signals: Signals,
        reason: StatusReason,
        tried: Tried,
    ) -> Result<(), String> {
        if !damped {
            return Ok(());
        }
        if signals.flapping {
            return match signals.status() {
                Status::Unstable => Ok(()),
                other => Err(format!("{key} is damped, and shown as {other}")),
            };
        }
        if reason != StatusReason::Settled {
            return Err(format!("{key} is let go because of {reason}, and not of its quiet"));
        }
        let Some(known) = self.known.get(key) else { return Ok(()) };
        let quiet = tried.at.saturating_sub(known.moved.0.max(tried.awake));
        if quiet < self.window {
            return Err(format!("{key} is let go after {quiet} ms of quiet, of {}", self.window));
        }
        Ok(())
    }

    /// Who is taken out by the registry itself and has no deadline of its own must have failed for long enough.
    fn check_retired(&self, stood: &Instance, tried: Tried) -> Result<(), String> {
        let after = stood.check.as_ref().and_then(|check| check.deregister_after);
        let (None, Some(after)) = (stood.drain_until, after) else { return Ok(()) };
        let failing = self.known.get(&stood.key).and_then(|known| known.failing);
        let failed = failing.map(|(since, _)| tried.at.saturating_sub(since.max(tried.awake)));
        if failed.is_none_or(|failed| failed < after.millis()) {
            return Err(format!("{} is taken out, and has failed for {failed:?} ms", stood.key));
        }
        Ok(())
    }

    /// Checks after a turn that began at `began` that nobody is there whose check has failed for too long, and that nobody
    /// is damped who was quiet for long enough; `awake` is since when the registry could have seen and done something
    /// about it.
    pub(crate) fn check(&self, registry: &Registry, began: u64, awake: u64) -> Result<(), String> {
        for (key, known) in &self.known {
            let instance = registry.instance(key);
            let quiet = began.saturating_sub(known.moved.1.max(awake));
            if instance.is_some_and(|i| i.signals.flapping) && quiet > self.window + SLACK {
                return Err(format!("{key} is damped after {quiet} ms of quiet"));
            }
            let check = instance.and_then(|instance| instance.check.as_ref());
            let after = check.and_then(|check| check.deregister_after);
            let (Some(after), Some((_, since))) = (after, known.failing) else { continue };
            let failed = began.saturating_sub(since.max(awake));
            if failed > after.millis() + SLACK {
                return Err(format!("{key} is still there after its check failed for {failed} ms"));
            }
        }
        Ok(())
    }
}
