//! Which check is due when, and what the outcomes come to: the prober without its network.
//!
//! ```text
//!   published instances ──follow──▶ ┌────────┐ ──due──▶ Job ─────(probe)────▶ done ─▶ Judgement ──(registrar)─┐
//!                                   │ Prober │ ──due──▶ Judgement, again after a refusal                      │
//!                                   └────────┘ ◀──────────────────── answered ◀───────────────────────────────┘
//! ```
//!
//! Each check has its own phase within its interval, made of the instance's name, so that 10,000 of them spread evenly and
//! two runs do the same. What the registrar has is compared with what the probes say: as long as the two differ, and no
//! judgement is under way, there is one to be made. So nothing is lost while the log can't be written, and nothing is
//! said twice. Pure: it reads no clock and draws no random numbers; the simulation runs it as it is. It must never let a
//! probe count during which the registry itself stood still. Called by `runner` and the simulation.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::verdict::{Next, Tally};
use crate::clock::Monotonic;
use crate::domain::check::CheckKind;
use crate::domain::command::Judge;
use crate::domain::health::{Evidence, ProbeOutcome, ProbeVerdict};
use crate::domain::limits::PROBE_ERROR_BYTES_MAX;
use crate::domain::{Check, Instance, InstanceKey, Millis, TraceRef};
use crate::projection::Moved;

/// Over how long the first probes of those that register are spread, at most.
const FIRST_SPREAD: Millis = Millis::from_millis(1_000);

/// After how long a judgement that was refused is made again.
const AGAIN_AFTER: Millis = Millis::from_millis(1_000);

/// A probe to be made.
#[derive(Clone, Debug)]
pub struct Job {
    /// Of which check; never used twice.
    id: u64,
    /// Whose.
    pub instance: Arc<Instance>,
    /// What is to be done.
    pub check: Arc<Check>,
    /// When it was begun.
    pub started: Monotonic,
    /// How much later that is than planned.
    pub lag: Millis,
    /// Whether a kept connection may serve; one that confirms a failure takes a new one.
    pub may_reuse: bool,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether it passed, else why not.
    pub outcome: ProbeOutcome,
    /// The status of an HTTP answer, or the serving status of a gRPC one.
    pub status: Option<u16>,
    /// How long it took.
    pub latency: Millis,
    /// What was wrong, in words.
    pub error: Option<Box<str>>,
}

/// A verdict that the registrar is to hear.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    id: u64,
    /// The command.
    pub judge: Judge,
    /// The trace of the probe that decided it.
    pub trace: TraceRef,
}

/// What is due.
#[derive(Clone, Debug)]
pub enum Due {
    /// A probe.
    Probe(Job),
    /// A judgement that was refused before.
    Judge(Judgement),
}

#[derive(Debug)]
struct Probe {
    instance: Arc<Instance>,
    check: Arc<Check>,
    tally: Tally,
    /// What the registrar has, as far as is known here.
    known: Option<ProbeVerdict>,
    /// The verdict of a judgement that is under way.
    asked: Option<ProbeVerdict>,
    /// The probe that decided the verdict.
    decided: Option<(Evidence, TraceRef)>,
    /// When the next probe is due; none while one is under way.
    due: Option<Monotonic>,
    /// When the judgement is made again; none unless one was refused.
    again: Option<Monotonic>,
    confirms: bool,
    hash: u64,
}

/// All checks, and when each is due.
#[derive(Debug, Default)]
pub struct Prober {
    probes: HashMap<u64, Probe>,
    ids: HashMap<InstanceKey, u64>,
    next_id: u64,
    /// How many checks of each kind there are.
    kinds: HashMap<CheckKind, usize>,
    due: BTreeSet<(Monotonic, u64)>,
    again: BTreeSet<(Monotonic, u64)>,
}

impl Prober {
    /// A prober of nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many checks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.probes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    /// How many of them are of this kind.
    #[must_use]
    pub fn of_kind(&self, kind: CheckKind) -> usize {
        self.kinds.get(&kind).copied().unwrap_or(0)
    }

    /// When something is due next.
    #[must_use]
    pub fn next_due(&self) -> Option<Monotonic> {
        let first = |set: &BTreeSet<(Monotonic, u64)>| set.first().map(|(due, _)| *due);
        first(&self.due).into_iter().chain(first(&self.again)).min()
    }

    /// Takes what was published. Another check or another life begins anew, with the verdict that was published.
    pub fn follow(&mut self, moved: Moved, now: Monotonic) {
        for (key, instance) in moved {
            let published = instance.and_then(|i| Some((Arc::clone(i.check.as_ref()?), i)));
            let id = self.ids.get(&key).copied();
            match (published, id.and_then(|id| Some((id, self.probes.get_mut(&id)?)))) {
                (Some((check, instance)), Some((id, probe)))
                    if probe.instance.incarnation == instance.incarnation
                        && probe.check == check =>
                {
                    probe.known = instance.signals.probe;
                    probe.instance = instance;
                    // What was published may lag behind a judgement, or contradict one that is the newest here.
                    if probe.asked.is_none() && probe.differs() {
                        self.make_again(id, now);
                    }
                }
                (Some((check, instance)), _) => {
                    self.forget(&key);
                    self.begin(key, instance, check, now);
                }
                (None, _) => self.forget(&key),
            }
        }
    }

    fn begin(
        &mut self,
        key: InstanceKey,
        instance: Arc<Instance>,
        check: Arc<Check>,
        now: Monotonic,
    ) {
        let known = instance.signals.probe;
        let hash = xxh3_64(key.to_string().as_bytes());
        let verdict = known.unwrap_or(ProbeVerdict::Pending);
        let id = self.next_id;
        self.next_id += 1;
        *self.kinds.entry(check.kind).or_default() += 1;
        let mut probe = Probe {
            tally: Tally::resume(verdict),
            known,
            asked: None,
            decided: None,
            due: None,
            again: None,
            confirms: false,
            hash,
            instance,
            check,
        };
        let first = match verdict {
            ProbeVerdict::Pending => probe.soon(now.plus(probe.check.initial_delay)),
            // After a restart nothing is urgent: the verdict is known.
            ProbeVerdict::Passing | ProbeVerdict::Suspect | ProbeVerdict::Failing => {
                probe.slot_after(now)
            }
        };
        probe.due = Some(first);
        self.due.insert((first, id));
        self.probes.insert(id, probe);
        self.ids.insert(key, id);
    }

    fn forget(&mut self, key: &InstanceKey) {
        let Some(id) = self.ids.remove(key) else { return };
        let Some(probe) = self.probes.remove(&id) else { return };
        if let Some(count) = self.kinds.get_mut(&probe.check.kind) {
            *count -= 1;
        }
        if let Some(due) = probe.due {
            self.due.remove(&(due, id));
        }
        if let Some(again) = probe.again {
            self.again.remove(&(again, id));
        }
    }

    /// What is due at `now`, at most `room` probes. The registry has been running without a stall since `awake`: what
    /// became due while it stood still is not made up for all at once, but takes its turn again.
    pub fn due(&mut self, now: Monotonic, awake: Monotonic, room: usize) -> Vec<Due> {
        let mut found = Vec::new();
        while let Some(&(again, id)) = self.again.first().filter(|(again, _)| *again <= now) {
            self.again.remove(&(again, id));
            if let Some(probe) = self.probes.get_mut(&id) {
                probe.again = None;
                found.extend(probe.judgement(id).map(Due::Judge));
            }
        }
        let mut jobs = 0;
        while let Some(&(due, id)) = self.due.first().filter(|(due, _)| *due <= now && jobs < room)
        {
            self.due.remove(&(due, id));
            let Some(probe) = self.probes.get_mut(&id) else { continue };
            if due < awake {
                let next = match probe.tally.verdict() {
                    ProbeVerdict::Pending => probe.soon(now),
                    _ => probe.slot_after(now),
                };
                probe.due = Some(next);
                self.due.insert((next, id));
                continue;
            }
            jobs += 1;
            probe.due = None;
            found.push(Due::Probe(Job {
                id,
                instance: Arc::clone(&probe.instance),
                check: Arc::clone(&probe.check),
                started: now,
                lag: now.since(due),
                may_reuse: !std::mem::take(&mut probe.confirms),
            }));
        }
        found
    }

    /// Takes the outcome of a probe that was made in this trace and ended at `now`; a judgement, if the verdict is now
    /// another one than the registrar has. The probe of a check that is no more counts for nothing, nor does one during
    /// which the registry itself stood still.
    pub fn done(
        &mut self,
        job: &Job,
        found: Found,
        trace: TraceRef,
        now: Monotonic,
        awake: Monotonic,
    ) -> Option<Judgement> {
        let probe = self.probes.get_mut(&job.id)?;
        let mut next = probe.slot_after(now.max(job.started.plus(probe.half_interval())));
        if job.started >= awake {
            let before = probe.tally.verdict();
            let passed = found.outcome == ProbeOutcome::Passed;
            if probe.tally.count(passed, &probe.check) == Next::Confirm {
                probe.confirms = true;
                next = now;
            }
            if probe.tally.verdict() != before || probe.decided.is_none() {
                let in_a_row = probe.tally.in_a_row();
                let Found { outcome, status, latency, error } = found;
                let error = error.map(|error| cut(&error).into());
                let evidence = Evidence { outcome, status, latency, error, in_a_row };
                probe.decided = Some((evidence, trace));
            }
        }
        probe.due = Some(next);
        self.due.insert((next, job.id));
        // One that was refused waits for its time.
        if probe.again.is_some() { None } else { probe.judgement(job.id) }
    }

    /// Takes back a probe of which nothing came, at `now`: it counts for nothing, and the check has its next turn. One that
    /// was to confirm a failure still is.
    pub fn abandoned(&mut self, job: &Job, now: Monotonic) {
        let Some(probe) = self.probes.get_mut(&job.id) else { return };
        probe.confirms |= !job.may_reuse;
        let next = probe.slot_after(now.max(job.started.plus(probe.half_interval())));
        probe.due = Some(next);
        self.due.insert((next, job.id));
    }

    /// Takes what came of a judgement: whether the registrar has it now. A further one, if the verdict has changed since.
    pub fn answered(
        &mut self,
        judgement: &Judgement,
        accepted: bool,
        now: Monotonic,
    ) -> Option<Judgement> {
        let probe = self.probes.get_mut(&judgement.id)?;
        probe.asked = None;
        if !accepted {
            self.make_again(judgement.id, now);
            return None;
        }
        probe.known = Some(judgement.judge.verdict);
        probe.judgement(judgement.id)
    }

    fn make_again(&mut self, id: u64, now: Monotonic) {
        let Some(probe) = self.probes.get_mut(&id).filter(|probe| probe.again.is_none()) else {
            return;
        };
        let again = now.plus(AGAIN_AFTER);
        probe.again = Some(again);
        self.again.insert((again, id));
    }
}

impl Probe {
    fn differs(&self) -> bool {
        self.known != Some(self.tally.verdict())
    }

    /// What the registrar is to hear, if it does not know it and is not hearing it already.
    fn judgement(&mut self, id: u64) -> Option<Judgement> {
        if self.asked.is_some() || !self.differs() {
            return None;
        }
        let (evidence, trace) = self.decided.clone()?;
        let verdict = self.tally.verdict();
        self.asked = Some(verdict);
        let Instance { key, incarnation, .. } = &*self.instance;
        let judge = Judge { key: key.clone(), incarnation: *incarnation, verdict, evidence };
        Some(Judgement { id, judge, trace })
    }

    fn half_interval(&self) -> Millis {
        Millis::from_millis(self.check.interval.millis() / 2)
    }

    /// The next turn of this check after `at`.
    fn slot_after(&self, at: Monotonic) -> Monotonic {
        let interval = self.check.interval.micros().max(1);
        let phase = self.hash % interval;
        // The turns are the instants that leave `phase` when divided by the interval.
        let since = (at.0 % interval + interval - phase) % interval;
        Monotonic(at.0.saturating_add(interval - since))
    }

    /// As soon as may be after `at`, spread out a little: whole fleets register at once.
    fn soon(&self, at: Monotonic) -> Monotonic {
        let spread = self.check.interval.micros().min(FIRST_SPREAD.micros()).max(1);
        Monotonic(at.0.saturating_add(self.hash % spread))
    }
}

/// At most as many bytes of `text` as an event may hold.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(PROBE_ERROR_BYTES_MAX)]
}

#[cfg(test)]
mod tests;
