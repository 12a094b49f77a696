//! What must hold after every turn of the registrar, and what must have come about when all is well again.

use std::collections::BTreeMap;

use rollcall::clock::Clock as _;
use rollcall::domain::{
    Change, Detector, Event, Instance, Millis, Registry, Seq, Status, Timestamp, fold, invariants,
};
use rollcall::log::ChangeLog as _;
use rollcall::projection::EntryRef;

use crate::crowd::note;
use crate::member::State;
use crate::world::World;

/// How much longer than its deadline a drain may last, in milliseconds: turns and writes take their time.
const DRAIN_SLACK: u64 = 1_000;

impl World {
    /// Reads the changes that were published since the last time, and compares what is published with what they fold
    /// to.
    pub(crate) fn read_changes(&mut self) -> Result<(), String> {
        let Some(running) = &self.running else { return Ok(()) };
        let head = running.projection.head();
        if head == self.shadow.head() {
            return Ok(());
        }
        let from = self.shadow.head().next();
        let changes = self.disk.stored.read(from, usize::MAX).map_err(|e| e.to_string())?;
        for change in changes.into_iter().take_while(|change| change.seq <= head) {
            self.read_change(&change)?;
        }
        if self.shadow.head() != head {
            let end = self.shadow.head();
            return Err(format!("{head} is published, and the log ends at {end}"));
        }
        invariants::check_registry(&self.shadow).map_err(|violation| violation.to_string())?;
        self.compare()
    }

    fn read_change(&mut self, change: &Change) -> Result<(), String> {
        let mut crowd = self.crowd.lock();
        let now = crowd.now();
        let (seq, kind) = (change.seq, change.event.kind());
        note!(crowd, "{seq} {kind} {:?} because of {:?}", change.event, change.cause);
        invariants::check_change(&self.shadow, change)
            .map_err(|violation| violation.to_string())?;
        check_cause(&self.shadow, change)?;
        let tried = crowd.tried.get(&seq).copied().unwrap_or_default();
        self.verdicts.read(change, &self.shadow, tried, now)?;
        if let Event::Registered { instance, .. } = &change.event {
            crowd.truth.entry(instance.key.clone()).or_default().granted = now;
        }
        if crowd.refused.contains(&change.trace.trace_id) {
            return Err(format!("change {seq} is in the log, and its request was refused"));
        }
        let silent_since = change.event.key().map_or(0, |key| crowd.silent_since(key));
        drop(crowd);
        drop(fold(&mut self.shadow, change));
        self.history.push(kind);
        self.guards.read(change, &self.shadow, (tried.at, now), silent_since)
    }

    /// Replay equals live: what readers see is what the log folds to.
    fn compare(&self) -> Result<(), String> {
        let Some(running) = &self.running else { return Ok(()) };
        let (_, views) = running.projection.views(None);
        if views.len() != self.shadow.service_count() {
            return Err(format!("{} services are published", views.len()));
        }
        for view in views {
            let folded = self.shadow.service(&view.key).cloned().unwrap_or_default();
            let same = view.entries.len() == folded.instances.len()
                && view
                    .entries
                    .iter()
                    .zip(folded.instances.values())
                    .all(|(live, folded)| live.instance == folded);
            if view.revision != folded.revision || !same {
                let live: Vec<_> = view.entries.iter().map(|entry| entry.instance).collect();
                return Err(format!(
                    "{}: published is {} {live:#?}, folded is {} {:#?}",
                    view.key, view.revision, folded.revision, folded.instances
                ));
            }
        }
        Ok(())
    }

    /// After a turn that began at `began`, with a log that works: nobody is there whose lease had run out by then, and
    /// nobody is called healthy whose lease was late by then, unless a guard holds.
    pub(crate) fn check_leases(&mut self, began: u64) -> Result<(), String> {
        let Some(running) = &self.running else { return Ok(()) };
        let crowd = self.crowd.lock();
        for view in running.projection.views(None).1 {
            for entry in &view.entries {
                let key = &entry.instance.key;
                let Some(ttl) = entry.instance.ttl else { continue };
                let truth = crowd.truth.get(key);
                let granted = truth.map_or(0, |truth| truth.granted);
                // A heartbeat came while the turn went on, before its lease was closed: the next turn answers it.
                let asks = truth.is_some_and(|truth| truth.arrived > began);
                let since = crowd.silent_since(key).max(granted);
                let silence = began.saturating_sub(since);
                let (late_after, gone_after) = allowed(entry, ttl)?;
                let gone = silence >= gone_after && !asks;
                if gone && !self.guards.spares(key, ttl.millis(), since, began) {
                    return Err(format!(
                        "{key} is still there after {silence} ms of silence, gone after {gone_after}: {:?}",
                        entry.lease
                    ));
                }
                if silence >= late_after && entry.instance.status == Status::Healthy {
                    return Err(format!(
                        "{key} is called healthy after {silence} ms of silence, late after {late_after}: {:?}",
                        entry.lease
                    ));
                }
            }
        }
        let (now, wall) = (crowd.now(), crowd.clock.wall());
        drop(crowd);
        let awake = self.awake();
        if self.keeps_time && began > awake + DRAIN_SLACK {
            // As of the beginning of the turn.
            self.check_drains(Timestamp(wall.0 - 1_000 * (now - began).cast_signed()))?;
        }
        self.verdicts.check(&self.shadow, began, awake)?;
        self.guards.check(began, awake)
    }

    /// Nobody drains whose deadline has passed at `now`.
    fn check_drains(&self, now: Timestamp) -> Result<(), String> {
        let services = self.shadow.services();
        for instance in services.flat_map(|(_, service)| service.instances.values()) {
            let over = instance.drain_until.map_or(Millis::ZERO, |until| now.since(until));
            if over > Millis::from_millis(DRAIN_SLACK) {
                return Err(format!("{} drains still, {over} after its deadline", instance.key));
            }
        }
        Ok(())
    }

    /// Whatever was acknowledged is in the log, once, at its number.
    pub(crate) fn check_acknowledged(&self) -> Result<(), String> {
        let changes = self.disk.stored.changes();
        let mut written: BTreeMap<[u8; 16], Seq> = BTreeMap::new();
        let of_callers = changes.iter().filter(|change| change.caller.is_some());
        for change in of_callers {
            if let Some(first) = written.insert(change.trace.trace_id, change.seq) {
                return Err(format!("one request made the changes {first} and {}", change.seq));
            }
        }
        let crowd = self.crowd.lock();
        for (seq, trace) in &crowd.acknowledged {
            let there = changes.get(usize::try_from(seq.0).unwrap_or(0).saturating_sub(1));
            if !there.is_some_and(|change| change.seq == *seq && change.trace == *trace) {
                return Err(format!("change {seq} was acknowledged and is not in the log"));
            }
        }
        Ok(())
    }

    /// All has been well for long enough: the living are there and not late, the dead are gone.
    pub(crate) fn check_peace(&self) -> Result<(), String> {
        self.check_acknowledged()?;
        let crowd = self.crowd.lock();
        if !crowd.log_works() {
            return Err("the log works again, and the registrar does not know".to_owned());
        }
        let now = crowd.clock.wall();
        for member in &crowd.members {
            let known = self.shadow.instance(&member.key);
            let what = match (member.state == State::Down, known) {
                (true, Some(known)) if known.ttl.is_some() => "is dead and still there",
                // One that nobody listens to but by probes stays until these say something.
                (true, Some(_)) => continue,
                (false, None) => "lives and is not there",
                (_, Some(known))
                    if self.keeps_time && known.drain_until.is_some_and(|u| u < now) =>
                {
                    "is still there when its drain has ended"
                }
                (false, Some(known)) if known.signals.late => "lives and is called late",
                _ => continue,
            };
            return Err(format!("{} {what}", member.key));
        }
        Ok(())
    }
}

/// The silences after which an instance with this ttl is late and gone: two thirds and all of it, or what φ has
/// learned, which has its bounds.
fn allowed(entry: EntryRef<'_>, ttl: Millis) -> Result<(u64, u64), String> {
    let ttl = ttl.millis();
    let fixed = (ttl * 2 / 3, ttl);
    if entry.instance.detector == Detector::Fixed {
        return Ok(fixed);
    }
    let learned = entry.lease.late_after().zip(entry.lease.expires_after());
    let learned = learned.map_or(fixed, |(late, gone)| (late.millis(), gone.millis()));
    let fits = (ttl / 3..=ttl).contains(&learned.0) && (ttl / 2..=2 * ttl).contains(&learned.1);
    match fits && learned.0 <= learned.1 {
        true => Ok(learned),
        false => Err(format!("{} has learned {learned:?} of {ttl}", entry.instance.key)),
    }
}

/// Every departure has its cause: a change before it, about the same instance or its guard.
fn check_cause(before: &Registry, change: &Change) -> Result<(), String> {
    let key = match &change.event {
        Event::Expired { key, .. } | Event::Deregistered { key, .. } => key,
        _ => return Ok(()),
    };
    let seq = change.seq;
    let by_itself = matches!(&change.event, Event::Deregistered { .. }) && change.caller.is_none();
    let deadline = |instance: &Instance| {
        let check = instance.check.as_ref();
        instance.drain_until.is_some() || check.is_some_and(|c| c.deregister_after.is_some())
    };
    if by_itself && !before.instance(key).is_some_and(|instance| deadline(instance)) {
        return Err(format!("{seq}: {key} was taken out and had no deadline"));
    }
    let Some(cause) = change.cause else {
        return Err(format!("{seq}: {key} left without a cause"));
    };
    let began = before.instance(key).map_or(Seq::ZERO, |instance| instance.incarnation);
    // The registration that began this life, or something that came after it. A drain only may be older: who registers
    // again and says no mode goes on draining.
    if cause < began && !by_itself || cause >= seq {
        return Err(format!("{seq}: {key} left because of {cause}; its life began with {began}"));
    }
    Ok(())
}
