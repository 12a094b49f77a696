//! Why an instance left, or why it is there and stands as it does: the event that answers it, what led to it, and a
//! sentence that a person can read aloud.
//!
//! The facts are gathered by [`why`], which asks the archive; the sentence is made of them by [`Why::summary`], which is
//! pure and reads nothing else. Called by the API.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::archive::{Archive, Error, Extent, Missing, Reason, Subject, TrafficQuery};
use super::probed;
use super::record::{EventId, Record};
use super::spoken::{instant, length};
use super::walk::{Life, Step, Unseen, Walk, of_what_is_there};
use crate::domain::event::{
    Arithmetic, Event, GuardEnd, GuardEntered, GuardInputs, GuardLeft, HeartbeatRef, Kind, Note,
    StatusReason,
};
use crate::domain::health::Flaps;
use crate::domain::traffic::Numbered;
use crate::domain::{
    Change, Instance, InstanceKey, Millis, Mode, Seq, ServiceKey, Status, Timestamp,
};
use crate::telemetry::propagation::TraceId;

/// Which life is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that lives, or the last one that did.
    Newest,
    /// The one of this incarnation.
    Incarnation(Seq),
    /// The one that this change ended.
    Departure(Seq),
}

/// What came of the question.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The answer, of the log as far as this change.
    Found(Seq, Box<Why>),
    /// Nothing that is kept knows the instance.
    Unknown(Unseen),
    /// The instance is known, but no such life of it.
    NoSuchLife,
}

/// Why an instance stands as it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    /// The event that answers the question: the end of the life, else its last change of status, else its beginning.
    pub event: Option<Record>,
    /// The same as a change; none if retention took it.
    change: Option<Change>,
    /// The status before it, if it changed the status.
    status_before: Option<Status>,
    /// The instance as it is, or as it last was.
    pub instance: Arc<Instance>,
    /// When this life began.
    pub from: Timestamp,
    /// When it ended; none if it goes on.
    pub until: Option<Timestamp>,
    /// The last heartbeat before the event; for one that lives, its last one.
    pub last_heartbeat: Option<HeartbeatRef>,
    /// When the last heartbeat of one that lives came; the log may not hold it yet.
    last_at: Option<Timestamp>,
    /// The registration that the life began with; none if retention took it.
    pub registration: Option<Record>,
    /// The last registration of this life before the event.
    renewed: Option<Change>,
    /// The last change of its status before the end of a life that has ended.
    stood: Option<Change>,
    /// The end of the guard that had held its expiry back; for one that lives and is late, the beginning of the one
    /// that holds.
    pub guard: Option<Record>,
    /// The same as what it says, and its time.
    guarded: Option<(Note, Timestamp)>,
    /// What is not there that would belong here: of the time between the last sign of life and the event, and of the
    /// beginning of this life.
    pub missing: Vec<Missing>,
    /// How many of these, the first ones, are of traffic: a heartbeat may have come then.
    unheard: usize,
    now: Timestamp,
}

/// What the present knows of an instance that lives: its last heartbeat may not be in the log yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Which life it is.
    pub incarnation: Seq,
    /// When its last heartbeat came; none if none did.
    pub last_at: Option<Timestamp>,
    /// The last one that has its number.
    pub last_heartbeat: Option<HeartbeatRef>,
    /// The event by which a guard was entered that holds over it.
    pub guard: Option<Seq>,
}

/// Why this instance left, or stands as it does. `alive` is what the present knows of it.
///
/// # Errors
/// [`Error::Gone`] for a departure older than what is kept, and those of every question.
pub fn why(
    archive: &dyn Archive,
    key: &InstanceKey,
    which: Which,
    alive: Option<Alive>,
    now: Timestamp,
) -> Result<Answer, Error> {
    of_what_is_there(archive, |extent| answer(archive, key, which, alive, now, extent))
}

/// The same of what there is.
fn answer(
    archive: &dyn Archive,
    key: &InstanceKey,
    which: Which,
    alive: Option<Alive>,
    now: Timestamp,
    extent: &Extent,
) -> Result<Answer, Error> {
    let (mut walk, from, missing) = Walk::begin(archive, key, extent)?;
    if matches!(which, Which::Departure(seq) if seq < from) {
        return Err(Error::Gone { oldest: extent.oldest });
    }
    let mut known = walk.life().is_some();
    let mut ended: Option<Box<Life>> = None;
    let is_wanted = |life: &Life| match which {
        Which::Newest => true,
        Which::Incarnation(seq) => life.incarnation == seq,
        Which::Departure(seq) => life.ended.as_ref().is_some_and(|ended| ended.seq == seq),
    };
    archive.changes(Subject::Instance(key), from..=extent.newest.seq, &mut |change| {
        known = true;
        if let Step::Ended(life) | Step::Began { ended: Some(life) } = walk.see(&change)
            && is_wanted(&life)
        {
            ended = Some(life);
        }
        ControlFlow::Continue(())
    })?;
    let living = walk.life().filter(|life| is_wanted(life)).cloned();
    let Some(life) = living.or(ended.map(|life| *life)) else {
        let unseen = || Answer::Unknown(Unseen::of(extent, &missing));
        return Ok(if known { Answer::NoSuchLife } else { unseen() });
    };
    let alive = alive.filter(|alive| alive.incarnation == life.incarnation);
    let mut found = told(archive, key, life, alive, now)?;
    if found.registration.is_none() {
        found.miss_registration(extent);
    }
    Ok(Answer::Found(extent.newest.seq, Box::new(found)))
}

/// What is to be told of a life.
fn told(
    archive: &dyn Archive,
    key: &InstanceKey,
    life: Life,
    alive: Option<Alive>,
    now: Timestamp,
) -> Result<Why, Error> {
    let registration = match &life.began {
        Some(began) => archive.event(EventId::Change(began.seq.0))?,
        None => None,
    };
    let (change, status_before) = match (&life.ended, &life.moved) {
        (Some(ended), _) => (Some(ended.clone()), None),
        (None, Some((moved, before))) => (Some(moved.clone()), Some(*before)),
        (None, None) => (life.began.clone(), None),
    };
    let event = match &change {
        Some(change) => archive.event(EventId::Change(change.seq.0))?,
        None => None,
    };
    let Life { instance, from, renewed, moved, ended, .. } = life;
    let stood = moved.filter(|_| ended.is_some()).map(|(change, _)| change);
    let mut why = Why {
        event,
        change,
        status_before,
        instance,
        from,
        until: ended.map(|ended| ended.at),
        last_heartbeat: alive.and_then(|alive| alive.last_heartbeat),
        last_at: alive.and_then(|alive| alive.last_at),
        registration,
        renewed,
        stood,
        guard: None,
        guarded: None,
        missing: Vec::new(),
        unheard: 0,
        now,
    };
    why.look_at_guard(archive, alive.and_then(|alive| alive.guard))?;
    if let Some(overdue) = why.arithmetic() {
        why.last_heartbeat = overdue.last_heartbeat;
    }
    why.look_at_traffic(archive, key)?;
    Ok(why)
}

impl Why {
    /// Which life it is.
    #[must_use]
    pub fn incarnation(&self) -> Seq {
        self.instance.incarnation
    }

    /// The arithmetic of a lease that ran for too long, if it was that.
    #[must_use]
    pub fn arithmetic(&self) -> Option<&Arithmetic> {
        match &self.change.as_ref()?.event {
            Event::Expired { overdue, .. } => Some(overdue),
            Event::StatusChanged { overdue, .. } => overdue.as_ref(),
            Event::Registered { .. }
            | Event::Updated { .. }
            | Event::ModeChanged { .. }
            | Event::Deregistered { .. }
            | Event::Note(_) => None,
        }
    }

    /// The part of the gap that the lease allowed before this event.
    #[must_use]
    pub fn allowed(overdue: &Arithmetic) -> Millis {
        let late = overdue.late.millis().saturating_add(overdue.grace.millis());
        Millis::from_millis(overdue.gap.millis().saturating_sub(late))
    }

    /// Reads the guard that has to do with it: the one that let it go, or `entered`, which holds while it is late.
    fn look_at_guard(&mut self, archive: &dyn Archive, entered: Option<Seq>) -> Result<(), Error> {
        let seq = match self.change.as_ref() {
            Some(Change { event: Event::Expired { .. }, cause, .. }) => *cause,
            _ => entered.filter(|_| self.instance.signals.late && self.until.is_none()),
        };
        let Some(seq) = seq else { return Ok(()) };
        let mut found = None;
        archive.changes(Subject::All, seq..=seq, &mut |change| {
            found = Some(change);
            ControlFlow::Break(())
        })?;
        // What caused an expiry is mostly its registration, which is told anyway.
        if let Some(Change { event: Event::Note(note), at, .. }) = found {
            self.guard = archive.event(EventId::Change(seq.0))?;
            self.guarded = Some((note, at));
        }
        Ok(())
    }

    /// Looks through the traffic between the last sign of life and the event: for what is missing there, and, where the
    /// event does not name the last heartbeat, for that.
    fn look_at_traffic(&mut self, archive: &dyn Archive, key: &InstanceKey) -> Result<(), Error> {
        let Some(change) = &self.change else { return Ok(()) };
        let overdue = self.arithmetic();
        // One that said goodbye, or was replaced, had a lease until then: its last heartbeat is no older than a ttl.
        let search = overdue.is_none() && self.until.is_some();
        if overdue.is_none() && !search {
            return Ok(());
        }
        let ttl =
            self.instance.ttl.and_then(|ttl| i64::try_from(ttl.micros()).ok()).unwrap_or(i64::MAX);
        let since = match overdue {
            Some(_) => self.last_sign(change).map_or(self.from, |(at, _)| at),
            None => Timestamp(change.at.micros().saturating_sub(ttl)).max(self.from),
        };
        let wanted = TrafficQuery {
            kinds: &[Kind::Heartbeat],
            namespace: Some(key.service.namespace.clone()),
            service: Some(key.service.service.clone()),
            instance: Some(key.instance.clone()),
            since: Some(since),
            until: Some(change.at),
            ..TrafficQuery::default()
        };
        let mut last = None;
        let missing = archive.traffic(&wanted, &mut |Numbered { number, traffic }| {
            last = Some(HeartbeatRef { at: traffic.at, id: number, trace: traffic.trace });
            ControlFlow::Continue(())
        })?;
        if search {
            self.last_heartbeat = last;
        }
        (self.unheard, self.missing) = (missing.len(), missing);
        Ok(())
    }

    /// The registration that this life began with went with the changes of its time, and with it who asked, from where
    /// and in which trace; a change of status before the kept ones as well.
    fn miss_registration(&mut self, extent: &Extent) {
        self.missing.push(Missing {
            from: self.from,
            until: extent.oldest.at.max(self.from),
            reason: Reason::Retention,
            events: self.incarnation().to_string().into(),
        });
    }

    /// The last sign of life before `change`, and whether it was a heartbeat.
    fn last_sign(&self, change: &Change) -> Option<(Timestamp, bool)> {
        let heartbeat = self.last_heartbeat.map(|heartbeat| heartbeat.at);
        let registered = self.renewed.as_ref().map(|renewed| renewed.at);
        // A registration in the same microsecond as the heartbeat tells nothing more.
        match (heartbeat, registered.filter(|at| *at <= change.at)) {
            (Some(heartbeat), Some(registered)) if registered > heartbeat => {
                Some((registered, false))
            }
            (Some(heartbeat), _) => Some((heartbeat, true)),
            (None, registered) => registered.map(|at| (at, false)),
        }
    }

    /// The answer as a sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let id = &self.instance.key.instance;
        let Some(change) = &self.change else {
            return format!(
                "{id} is {}; it registered at {}, and what happened then is older than what is kept{}",
                self.instance.status,
                instant(self.from),
                self.wanted()
            );
        };
        let mut text = match &change.event {
            Event::Expired { overdue, .. } => self.expired(change, overdue),
            Event::Deregistered { reason, .. } => self.deregistered(change, reason.as_deref()),
            Event::StatusChanged { .. } => self.moved(change),
            Event::Registered { .. } if self.until.is_some() => self.replaced(change),
            Event::Registered { .. } if self.status_before.is_some() => self.moved(change),
            Event::Registered { .. }
            | Event::Updated { .. }
            | Event::ModeChanged { .. }
            | Event::Note(_) => self.lives(change),
        };
        let unheard = &self.missing[..self.unheard];
        if !unheard.is_empty() {
            let reasons: Vec<&str> = unheard.iter().map(|gap| gap.reason.as_str()).collect();
            text.push_str("; part of the log of that time is missing (");
            text.push_str(&reasons.join(", "));
            text.push_str("), so that a heartbeat may have come that is not told here");
        }
        text
    }

    fn expired(&self, change: &Change, overdue: &Arithmetic) -> String {
        let id = &self.instance.key.instance;
        let lived = length(change.at.since(self.from));
        format!(
            "{id} expired at {}: {}{}; it had lived {lived}{}",
            instant(change.at),
            self.silence(change, overdue),
            self.held_until_then(),
            probed::before_the_end(&self.instance, self.stood.as_ref()),
        )
    }

    /// The silence, its arithmetic, and the last sign of life.
    fn silence(&self, change: &Change, overdue: &Arithmetic) -> String {
        let Arithmetic { ttl, gap, late, grace, accrual, .. } = overdue;
        let allowed = Self::allowed(overdue);
        let mut sum = match (accrual, allowed == *ttl) {
            (Some(accrual), _) => format!(
                "ttl {}; φ allowed {}, as its heartbeats had come {} apart in the mean; φ of the silence was \
                 {:.1} at a threshold of {}",
                length(*ttl),
                length(allowed),
                length(accrual.mean_gap),
                accrual.phi(),
                accrual.threshold(),
            ),
            (None, true) => format!("ttl {}", length(*ttl)),
            (None, false) => {
                format!("ttl {}, of which two thirds are {}", length(*ttl), length(allowed))
            }
        };
        if *late > Millis::ZERO {
            sum.push_str(&format!(", seen {} later", length(*late)));
        }
        if *grace > Millis::ZERO {
            let grace = length(*grace);
            sum.push_str(&format!(
                ", and {grace} did not count, because the registry itself stood still"
            ));
        }
        let since = match (self.last_sign(change), self.last_heartbeat) {
            (Some((at, true)), Some(HeartbeatRef { trace, .. })) => {
                format!("the last one came at {}{}", instant(at), in_trace(trace.trace_id))
            }
            (Some((at, _)), heartbeat) => {
                let trace = self.renewed.as_ref().map_or([0; 16], |renewed| renewed.trace.trace_id);
                let beats = match heartbeat {
                    Some(heartbeat) => {
                        format!(
                            "its last heartbeat had come before that, at {}",
                            instant(heartbeat.at)
                        )
                    }
                    None => "it never sent a heartbeat".to_owned(),
                };
                format!("it had registered at {}{}, and {beats}", instant(at), in_trace(trace))
            }
            (None, _) => "when the last one came is not kept".to_owned(),
        };
        format!("no heartbeat for {} ({sum}); {since}", length(*gap))
    }

    fn deregistered(&self, change: &Change, reason: Option<&str>) -> String {
        let id = &self.instance.key.instance;
        let why = match reason.filter(|reason| !reason.is_empty()) {
            Some(reason) => format!(": {reason}"),
            None => ", who gave no reason".to_owned(),
        };
        let lived = length(change.at.since(self.from));
        format!(
            "{id} was deregistered at {} by {}{why}; it had lived {lived}{}",
            instant(change.at),
            who(change),
            probed::before_the_end(&self.instance, self.stood.as_ref()),
        )
    }

    fn replaced(&self, change: &Change) -> String {
        let Instance { key, endpoint, .. } = &*self.instance;
        let lived = length(change.at.since(self.from));
        let place = match &change.event {
            Event::Registered { instance, .. } => {
                format!("{}:{}", instance.endpoint.address, instance.endpoint.port)
            }
            Event::Updated { .. }
            | Event::ModeChanged { .. }
            | Event::StatusChanged { .. }
            | Event::Deregistered { .. }
            | Event::Expired { .. }
            | Event::Note(_) => "another address".to_owned(),
        };
        format!(
            "{} was replaced at {} by {}, who registered it at {place} instead of {}:{}; the life before had lasted {lived}",
            key.instance,
            instant(change.at),
            who(change),
            endpoint.address,
            endpoint.port,
        )
    }

    /// One that lives, and whose status has changed.
    fn moved(&self, change: &Change) -> String {
        let id = &self.instance.key.instance;
        let status = self.instance.status;
        let again = if status == Status::Healthy { " again" } else { "" };
        let since = format!("{id} has been {status}{again} since {}", instant(change.at));
        let why = match &change.event {
            Event::StatusChanged { overdue: Some(overdue), .. } => {
                format!("{}{}", self.silence(change, overdue), self.held_now(change, overdue))
            }
            Event::StatusChanged { reason: StatusReason::SelfReport, .. } => {
                let said = if status == Status::Failed { "failing" } else { "passing" };
                format!(
                    "it said itself that it is {said}, in a heartbeat{}",
                    in_trace(change.trace.trace_id)
                )
            }
            Event::StatusChanged { reason: StatusReason::Flapping, flaps, .. } => {
                let flaps = flaps.map_or_else(String::new, |Flaps { changes, window }| {
                    format!(
                        " ({changes} times within {}, and must be quiet for as long)",
                        length(window)
                    )
                });
                format!("its status changed too often, so that it is held there{flaps}")
            }
            Event::StatusChanged { reason: StatusReason::Settled, flaps, .. } => {
                let quiet = flaps.map_or_else(String::new, |Flaps { window, .. }| {
                    format!(" for {}", length(window))
                });
                let against = match self.instance.signals.late {
                    true => "; no heartbeat has come of late",
                    false => "",
                };
                format!("it was quiet{quiet} after its status had changed too often{against}")
            }
            Event::StatusChanged { probe: Some(evidence), signals, .. } => {
                let found = probed::told(&self.instance, change, evidence);
                format!("{found}{}", probed::still(*signals))
            }
            Event::StatusChanged { .. } => {
                format!("a heartbeat came back{}", in_trace(change.trace.trace_id))
            }
            Event::Registered { .. }
            | Event::Updated { .. }
            | Event::ModeChanged { .. }
            | Event::Deregistered { .. }
            | Event::Expired { .. }
            | Event::Note(_) => format!("{} registered it again", who(change)),
        };
        let before = self.status_before.map_or("", Status::as_str);
        let before = format!("it had been {before} before");
        let registered = format!("it has lived since {}", instant(self.from));
        format!("{since}: {why}; {before}, and {registered}{}", self.wanted())
    }

    /// That a guard had held the expiry back, if one had.
    fn held_until_then(&self) -> String {
        let Some((Note::GuardLeft(left), at)) = &self.guarded else { return String::new() };
        let GuardLeft { over, end, held_for, .. } = left;
        let why = match end {
            GuardEnd::Elapsed => "it may hold no longer than that",
            GuardEnd::Recovered => {
                "enough of the others had come back, and this one did not follow within a ttl"
            }
            GuardEnd::Stopped => "the registry stopped",
        };
        let over = guarded(over.as_ref());
        format!(
            "; {over} had held its expiry back, and let go at {} after {}: {why}",
            instant(*at),
            length(*held_for)
        )
    }

    /// That a guard holds over one that is late, if one does.
    fn held_now(&self, change: &Change, overdue: &Arithmetic) -> String {
        let Some((Note::GuardEntered(entered), at)) = &self.guarded else { return String::new() };
        let GuardEntered { over, inputs: GuardInputs { late, gone, living }, limit } = entered;
        // What is left of the ttl when two thirds of it have passed.
        let rest = overdue.ttl.millis().saturating_sub(Self::allowed(overdue).millis());
        let rest = Millis::from_millis(rest.saturating_sub(overdue.late.millis()));
        let runs_out = later(change.at, rest);
        let ran_out = match runs_out <= self.now {
            true => format!("its lease ran out at {}, but", instant(runs_out)),
            false => format!("its lease runs out at {}, but", instant(runs_out)),
        };
        format!(
            "; {ran_out} {} holds since {} because {} of {} instances were late or had just expired, until {} at the latest",
            guarded(over.as_ref()),
            instant(*at),
            late + gone,
            living + gone,
            instant(later(*at, *limit))
        )
    }

    /// One that lives, and whose status never changed.
    fn lives(&self, change: &Change) -> String {
        let Instance { key, endpoint, .. } = &*self.instance;
        let heartbeat = match self.last_at {
            Some(at) => format!("its last heartbeat came {} ago", length(self.now.since(at))),
            None if self.instance.ttl.is_none() => {
                "it needs no heartbeats, it is only probed".to_owned()
            }
            None => "it has not sent a heartbeat yet".to_owned(),
        };
        format!(
            "{} has been {} ever since {} registered it at {}, {} ago, at {}:{}; {heartbeat}{}{}",
            key.instance,
            self.instance.status,
            who(change),
            instant(change.at),
            length(self.now.since(change.at)),
            endpoint.address,
            endpoint.port,
            probed::pending(&self.instance),
            self.wanted(),
        )
    }

    /// What is wanted of it, where that is not the usual.
    fn wanted(&self) -> &'static str {
        match self.instance.mode {
            Mode::Active => "",
            Mode::Standby => "; it is on standby",
            Mode::Draining => "; it is draining",
        }
    }
}

/// A guard by what it is over.
fn guarded(over: Option<&ServiceKey>) -> String {
    match over {
        None => "the guard over the whole registry".to_owned(),
        Some(service) => format!("the guard over {}", service.service),
    }
}

fn later(at: Timestamp, span: Millis) -> Timestamp {
    Timestamp(at.micros().saturating_add(i64::try_from(span.micros()).unwrap_or(i64::MAX)))
}

/// Who asked for a change.
fn who(change: &Change) -> &str {
    change.caller.as_deref().unwrap_or("the registry itself")
}

/// ` in trace 4bf9...`, if there is one.
fn in_trace(trace_id: [u8; 16]) -> String {
    TraceId::from_bytes(trace_id).map_or_else(String::new, |id| format!(" in trace {id}"))
}
