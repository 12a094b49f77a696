//! Deadlines of single instances, beside the leases' own: the end of a drain, of the time that a check may fail, of the
//! damping of flaps.
//!
//! Each instance has at most one of each [`Task`], so that memory follows the number of instances and not how often
//! somebody moved a deadline. What is due becomes a command in the same group commit as the sweep of the leases; if that
//! can't be written, the deadline is put back. `decide` looks again whether the deadline still holds: a timer that comes
//! up too often does no harm.
//!
//! A drain's end was said in wall time. What is left of it runs on the monotonic clock from the moment it is armed, so
//! that a wall clock that jumps neither ends a drain nor prolongs it. The other two count what the registry has *seen*:
//! where it stood still meanwhile, they count from when it was awake again. Called by the registrar's thread.

use std::collections::{BTreeMap, HashMap};

use super::thread::Registrar;
use crate::clock::Monotonic;
use crate::domain::command::{Command, Damp, Ground, Retire};
use crate::domain::event::Event;
use crate::domain::health::{Flaps, ProbeVerdict};
use crate::domain::{Change, Instance, InstanceKey, Millis, Registry, Seq, Timestamp};

/// Which deadline of an instance it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Task {
    /// Its drain ends.
    Drain,
    /// Its check has been failing for too long.
    Failed,
    /// Its damping begins or ends.
    Flaps,
}

/// What is to be done then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Take it out of the registry.
    Retire {
        /// Which deadline that is.
        ground: Ground,
        /// The change that began it, if it is known.
        cause: Option<Seq>,
    },
    /// Hold it at `unstable`.
    Damp(Flaps),
    /// Let it go, if it was quiet.
    Settle,
}

/// One deadline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Timer {
    pub(super) key: InstanceKey,
    /// Which life it is about.
    pub(super) incarnation: Seq,
    pub(super) action: Action,
    pub(super) due: Monotonic,
}

impl Action {
    fn task(self) -> Task {
        match self {
            Self::Retire { ground: Ground::Drained { .. }, .. } => Task::Drain,
            Self::Retire { ground: Ground::Failed { .. }, .. } => Task::Failed,
            Self::Damp(_) | Self::Settle => Task::Flaps,
        }
    }
}

impl Timer {
    /// Whether it is this deadline.
    fn is_for(&self, wanted: Ground) -> bool {
        matches!(self.action, Action::Retire { ground, .. } if ground == wanted)
    }

    /// The command that it becomes; `window` is how long an instance that flapped has to be quiet.
    pub(super) fn command(&self, window: Millis) -> Command {
        let (key, incarnation) = (self.key.clone(), self.incarnation);
        match self.action {
            Action::Retire { ground, cause } => {
                Command::Retire(Retire { key, incarnation, ground, cause })
            }
            Action::Damp(flaps) => Command::Damp(Damp { key, incarnation, flapping: true, flaps }),
            Action::Settle => {
                let flaps = Flaps { changes: 0, window };
                Command::Damp(Damp { key, incarnation, flapping: false, flaps })
            }
        }
    }
}

/// All deadlines, earliest first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeMap<(Monotonic, u64), (InstanceKey, Task)>,
    armed: HashMap<InstanceKey, BTreeMap<Task, (u64, Timer)>>,
    /// Tells deadlines of the same instant apart, in the order in which they were armed.
    next: u64,
}

impl Timers {
    /// Arms `timer` in the place of the one that its instance has for the same task.
    pub(super) fn arm(&mut self, timer: Timer) {
        let task = timer.action.task();
        self.disarm(&timer.key, task);
        self.queue.insert((timer.due, self.next), (timer.key.clone(), task));
        let armed = self.armed.entry(timer.key.clone()).or_default();
        armed.insert(task, (self.next, timer));
        self.next += 1;
    }

    /// The timer of an instance for a task.
    pub(super) fn armed(&self, key: &InstanceKey, task: Task) -> Option<&Timer> {
        self.armed.get(key)?.get(&task).map(|(_, timer)| timer)
    }

    /// Takes the timer of an instance for a task away, if it has one.
    pub(super) fn disarm(&mut self, key: &InstanceKey, task: Task) -> Option<Timer> {
        let armed = self.armed.get_mut(key)?;
        let (number, timer) = armed.remove(&task)?;
        if armed.is_empty() {
            self.armed.remove(key);
        }
        self.queue.remove(&(timer.due, number));
        Some(timer)
    }

    /// Takes all timers of an instance away: it has left.
    pub(super) fn forget(&mut self, key: &InstanceKey) {
        for (number, timer) in self.armed.remove(key).into_iter().flat_map(BTreeMap::into_values) {
            self.queue.remove(&(timer.due, number));
        }
    }

    /// When the earliest one is due.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        self.queue.keys().next().map(|(due, _)| *due)
    }

    /// Takes the earliest one, if it is due at `now`.
    pub(super) fn pop_due(&mut self, now: Monotonic) -> Option<Timer> {
        let ((due, _), (key, task)) = self.queue.first_key_value()?;
        if *due > now {
            return None;
        }
        let (key, task) = (key.clone(), *task);
        self.disarm(&key, task)
    }

    /// Puts a timer back whose command could not be written, unless another one has taken its place.
    pub(super) fn put_back(&mut self, timer: Timer) {
        if self.armed(&timer.key, timer.action.task()).is_none() {
            self.arm(timer);
        }
    }
}

/// What is left until `until` at the wall time `now`, which may be past it.
fn left(until: Timestamp, now: Timestamp) -> Millis {
    // A rest of a millisecond counts as one: nobody is taken out early.
    let micros = u64::try_from(until.micros().saturating_sub(now.micros())).unwrap_or(0);
    Millis::from_millis(micros.div_ceil(1_000))
}

impl Registrar {
    /// Takes up to `limit` timers that are due. One that counts what was seen, and that ran while nothing was, goes back.
    pub(super) fn due_timers(&mut self, limit: usize) -> Vec<Timer> {
        let clock = self.clock();
        let (now, awake_since) = (clock.monotonic(), clock.awake_since());
        let mut due = Vec::new();
        while due.len() < limit
            && let Some(timer) = self.timers.pop_due(now)
        {
            let again = match timer.action {
                Action::Retire { ground: Ground::Failed { after }, .. } => {
                    Some(awake_since.plus(after))
                }
                Action::Settle => Some(self.damping.quiet_at(&timer.key, awake_since)),
                Action::Retire { ground: Ground::Drained { .. }, .. } | Action::Damp(_) => None,
            };
            match again.filter(|again| *again > now) {
                Some(again) => self.timers.arm(Timer { due: again, ..timer }),
                None => due.push(timer),
            }
        }
        due
    }

    /// When the next lease or timer is to be looked at.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        let due = [self.deadlines.next_due(), self.timers.next_due()];
        due.into_iter().flatten().min()
    }

    /// Arms and takes away what follows from a change that is in the log.
    pub(super) fn time(&mut self, change: &Change, now: Monotonic) {
        let cause = Some(change.seq);
        match &change.event {
            Event::Registered { instance, .. } | Event::Updated { instance, .. } => {
                if instance.incarnation == change.seq {
                    self.timers.disarm(&instance.key, Task::Flaps);
                }
                let wall = self.shared.clock.wall();
                self.time_drain(instance, instance.drain_until, cause, (now, wall));
                let failing = instance.signals.probe == Some(ProbeVerdict::Failing);
                self.time_failure(instance, failing, cause, now);
            }
            // Another change of the same group may have come since: what this one says is in the event itself.
            Event::ModeChanged { key, until, .. } => {
                if let Some(instance) = self.registry.instance(key).cloned() {
                    let wall = self.shared.clock.wall();
                    self.time_drain(&instance, *until, cause, (now, wall));
                }
            }
            Event::StatusChanged { key, signals, .. } => {
                if let Some(instance) = self.registry.instance(key).cloned() {
                    let failing = signals.probe == Some(ProbeVerdict::Failing);
                    self.time_failure(&instance, failing, cause, now);
                }
            }
            Event::Deregistered { key, .. } | Event::Expired { key, .. } => self.timers.forget(key),
            Event::Note(_) => {}
        }
    }

    /// Arms what a state asks for that was replayed. `begun` knows of the changes that were replayed one by one which
    /// of them began a drain or a failure.
    pub(super) fn time_recovered(&mut self, begun: &Begun, now: Monotonic) {
        let is_failing =
            |instance: &Instance| instance.signals.probe == Some(ProbeVerdict::Failing);
        let services = self.registry.services().flat_map(|(_, service)| service.instances.values());
        let timed = services.filter(|instance| {
            let drains = instance.drain_until.is_some();
            drains || is_failing(instance) || instance.signals.flapping
        });
        let timed: Vec<_> = timed.cloned().collect();
        // A drain lasts at most as long as it was to last: the wall clock may have gone back since.
        let wall = self.shared.clock.wall().max(self.registry.at());
        for instance in timed {
            let drain = begun.drains.get(&instance.key).copied();
            self.time_drain(&instance, instance.drain_until, drain, (now, wall));
            let failure = begun.failures.get(&instance.key).copied();
            self.time_failure(&instance, is_failing(&instance), failure, now);
            if instance.signals.flapping {
                let due = self.damping.resume(&instance, now);
                let (key, incarnation) = (instance.key.clone(), instance.incarnation);
                self.timers.arm(Timer { key, incarnation, action: Action::Settle, due });
            }
        }
        self.telemetry.damped(self.damping.damped());
    }

    fn time_drain(
        &mut self,
        instance: &Instance,
        until: Option<Timestamp>,
        cause: Option<Seq>,
        (now, wall): (Monotonic, Timestamp),
    ) {
        let (key, task) = (&instance.key, Task::Drain);
        let Some(until) = until else {
            self.timers.disarm(key, task);
            return;
        };
        let ground = Ground::Drained { until };
        match self.timers.armed(key, task) {
            // The same deadline runs already, for this life or for the one before at another address.
            Some(timer) if timer.is_for(ground) => {
                if timer.incarnation != instance.incarnation {
                    let incarnation = instance.incarnation;
                    let timer = Timer { incarnation, ..timer.clone() };
                    self.timers.arm(timer);
                }
            }
            _ => {
                self.retire_at(instance, ground, cause, now.plus(left(until, wall)));
            }
        }
    }

    fn time_failure(
        &mut self,
        instance: &Instance,
        failing: bool,
        cause: Option<Seq>,
        now: Monotonic,
    ) {
        let (key, task) = (&instance.key, Task::Failed);
        let after = instance.check.as_ref().and_then(|check| check.deregister_after);
        let Some(after) = after.filter(|_| failing) else {
            self.timers.disarm(key, task);
            return;
        };
        let ground = Ground::Failed { after };
        let runs = self
            .timers
            .armed(key, task)
            .is_some_and(|timer| timer.is_for(ground) && timer.incarnation == instance.incarnation);
        if !runs {
            self.retire_at(instance, ground, cause, now.plus(after));
        }
    }

    fn retire_at(
        &mut self,
        instance: &Instance,
        ground: Ground,
        cause: Option<Seq>,
        due: Monotonic,
    ) {
        let (key, incarnation) = (instance.key.clone(), instance.incarnation);
        let action = Action::Retire { ground, cause };
        self.timers.arm(Timer { key, incarnation, action, due });
    }
}

/// Which changes began the drains and failures that last, as far as a replay saw them: those that a snapshot stands for
/// were not seen, and what ends them names the registration as its cause.
#[derive(Debug, Default)]
pub(super) struct Begun {
    drains: HashMap<InstanceKey, Seq>,
    failures: HashMap<InstanceKey, Seq>,
}

impl Begun {
    /// Notes a change that is replayed onto the state `before`.
    pub(super) fn see(&mut self, before: &Registry, change: &Change) {
        let Some(key) = change.event.key() else { return };
        let was = before.instance(key);
        let (until, probe) = match &change.event {
            Event::ModeChanged { until, .. } => (*until, was.and_then(|was| was.signals.probe)),
            Event::Registered { instance, .. } | Event::Updated { instance, .. } => {
                (instance.drain_until, instance.signals.probe)
            }
            Event::StatusChanged { signals, .. } => {
                (was.and_then(|was| was.drain_until), signals.probe)
            }
            Event::Deregistered { .. } | Event::Expired { .. } | Event::Note(_) => (None, None),
        };
        let failing = probe == Some(ProbeVerdict::Failing);
        let was_failing = was.is_some_and(|was| was.signals.probe == Some(ProbeVerdict::Failing));
        let moves = |begun: &mut HashMap<InstanceKey, Seq>, holds: bool, held: bool| match holds {
            true if held => {}
            true => drop(begun.insert(key.clone(), change.seq)),
            false => drop(begun.remove(key)),
        };
        let same_deadline = was.is_some_and(|was| was.drain_until == until);
        moves(&mut self.drains, until.is_some(), same_deadline);
        moves(&mut self.failures, failing, was_failing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{START, key};

    fn timer(name: &str, action: Action, due: u64) -> Timer {
        Timer { key: key("orders", name), incarnation: Seq(1), action, due: Monotonic(due) }
    }

    fn drain(name: &str, until: i64, due: u64) -> Timer {
        let ground = Ground::Drained { until: Timestamp(until) };
        timer(name, Action::Retire { ground, cause: None }, due)
    }

    #[test]
    fn each_instance_has_one_timer_a_task_and_the_earliest_comes_first() {
        let mut timers = Timers::default();
        for n in 0..1_000 {
            timers.arm(drain("a", n, 500));
        }
        timers.arm(drain("b", 1, 400));
        timers.arm(timer("a", Action::Settle, 300));
        assert_eq!((timers.queue.len(), timers.next_due()), (3, Some(Monotonic(300))));
        assert_eq!(timers.pop_due(Monotonic(299)), None);
        assert_eq!(timers.pop_due(Monotonic(500)), Some(timer("a", Action::Settle, 300)));
        assert_eq!(timers.pop_due(Monotonic(500)), Some(drain("b", 1, 400)));
        assert_eq!(timers.pop_due(Monotonic(500)), Some(drain("a", 999, 500)));
        assert_eq!((timers.queue.len(), timers.armed.len()), (0, 0));
    }

    #[test]
    fn who_left_has_none_and_what_is_put_back_overtakes_nothing() {
        let mut timers = Timers::default();
        timers.arm(drain("a", 1, 500));
        timers.arm(timer("a", Action::Settle, 300));
        timers.forget(&key("orders", "a"));
        assert_eq!((timers.next_due(), timers.armed.len()), (None, 0));
        timers.arm(drain("a", 2, 700));
        timers.put_back(drain("a", 1, 500));
        assert_eq!(timers.next_due(), Some(Monotonic(700)));
        timers.put_back(timer("a", Action::Settle, 300));
        assert_eq!(timers.next_due(), Some(Monotonic(300)));
    }

    #[test]
    fn nobody_is_taken_out_a_part_of_a_millisecond_early() {
        let until = Timestamp(START.0 + 1_001);
        assert_eq!(left(until, START), Millis::from_millis(2));
        assert_eq!(left(START, until), Millis::ZERO);
    }
}
