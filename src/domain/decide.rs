//! Whether a command is accepted, and which event it makes. All rules are here.

use std::sync::Arc;

use super::command::{
    Command, Damp, Deregister, Ground, Heartbeat, Judge, MetadataPatch, Precondition, Register,
    Retire, Update,
};
use super::event::{Change, Event, Note, Outcome, Overdue, StatusReason};
use super::health::{ProbeVerdict, Signals};
use super::ids::{InstanceKey, Seq};
use super::instance::{Health, Instance, Metadata, Mode};
use super::labels::Labels;
use super::limits::{METADATA_KEYS_MAX, WEIGHT_DEFAULT};
use super::quotas::Quota;
use super::registry::Registry;
use super::time::Timestamp;

/// Why a command was refused. A value, not a failure: the caller is told, nothing is logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such service was ever registered.
    #[error("no service of this name was ever registered")]
    UnknownService,
    /// The service is known, the instance does not live.
    #[error("this instance is not registered")]
    UnknownInstance,
    /// The heartbeat is of another life of the instance.
    #[error("the instance that lives is incarnation {current}, the heartbeat is of {given}")]
    OtherIncarnation {
        /// The one that lives.
        current: Seq,
        /// The one that was given.
        given: Seq,
    },
    /// `if-none-match: *`, but the id is in use.
    #[error("the id is in use by incarnation {incarnation}")]
    InUse {
        /// The one that lives.
        incarnation: Seq,
    },
    /// `if-match`, but the instance has changed or left.
    #[error("the instance is not the one that the etag was given for")]
    Stale,
    /// The merge patch would leave too many metadata keys.
    #[error("metadata would have {was} keys, at most {METADATA_KEYS_MAX} are allowed")]
    TooMuchMetadata {
        /// Keys after the patch.
        was: usize,
    },
    /// There is no room for a new instance. See [`super::Quotas`].
    #[error("{quota} has {present} instances, at most {limit} are allowed")]
    QuotaReached {
        /// Which room is full.
        quota: Quota,
        /// How many instances live there.
        present: usize,
        /// How many may.
        limit: u32,
    },
}

/// An accepted command: what happened, and what led to it. `None` of both means that the command was
/// right and changes nothing (a heartbeat that finds the status as it should be).
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The event.
    pub event: Event,
    /// The change that led to it.
    pub cause: Option<Seq>,
}

impl Decision {
    fn of(event: Event) -> Self {
        Self { event, cause: None }
    }

    fn caused_by(event: Event, cause: Seq) -> Self {
        Self { event, cause: Some(cause) }
    }

    /// The change that this decision becomes as the next one of `registry`.
    #[must_use]
    pub fn into_change(
        self,
        registry: &Registry,
        at: Timestamp,
        caller: Option<Arc<str>>,
        trace: super::ids::TraceRef,
    ) -> Change {
        Change {
            seq: registry.head().next(),
            at: at.max(registry.at()),
            caller,
            trace,
            cause: self.cause,
            baggage: None,
            event: self.event,
        }
    }
}

/// Decides `command` against `registry` at the instant `now`. The event, if there is one, is the next
/// change: its `seq` is the head's successor.
///
/// # Errors
/// A [`Rejection`]; nothing has happened then.
pub fn decide(
    registry: &Registry,
    command: &Command,
    now: Timestamp,
) -> Result<Option<Decision>, Rejection> {
    match command {
        Command::Register(register) => decide_register(registry, register, now).map(Some),
        Command::Update(update) => decide_update(registry, update).map(Some),
        Command::Deregister(deregister) => decide_deregister(registry, deregister).map(Some),
        Command::Heartbeat(heartbeat) => decide_heartbeat(registry, heartbeat),
        Command::MarkLate(overdue) => Ok(decide_late(registry, overdue)),
        Command::Expire(overdue) => Ok(decide_expire(registry, overdue)),
        Command::Judge(judge) => Ok(decide_judge(registry, judge)),
        Command::Damp(damp) => Ok(decide_damp(registry, damp)),
        Command::Retire(retire) => Ok(decide_retire(registry, retire)),
        Command::Note(note) => Ok(Some(Decision::of(Event::Note(note.clone())))),
        Command::Checkpoint => Ok(Some(Decision::of(Event::Note(Note::Checkpoint {
            digest: registry.digest(),
            instances: registry.instance_count() as u64,
            services: registry.service_count() as u64,
        })))),
    }
}

/// The living instance, if the precondition holds of it.
fn require<'a>(
    registry: &'a Registry,
    key: &InstanceKey,
    precondition: Precondition,
) -> Result<&'a Arc<Instance>, Rejection> {
    let living = registry.instance(key);
    check(precondition, living)?;
    living.ok_or_else(|| match registry.service(&key.service) {
        Some(_) => Rejection::UnknownInstance,
        None => Rejection::UnknownService,
    })
}

fn check(precondition: Precondition, living: Option<&Arc<Instance>>) -> Result<(), Rejection> {
    match (precondition, living) {
        (Precondition::None, _) | (Precondition::Free, None) | (Precondition::Present, Some(_)) => {
            Ok(())
        }
        (Precondition::Free, Some(living)) => {
            Err(Rejection::InUse { incarnation: living.incarnation })
        }
        (Precondition::Revision(Some(revision)), Some(living)) if living.revision == revision => {
            Ok(())
        }
        (Precondition::Present | Precondition::Revision(_), _) => Err(Rejection::Stale),
    }
}

fn decide_register(
    registry: &Registry,
    register: &Register,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let living = registry.instance(&register.key);
    check(register.precondition, living)?;
    let seq = registry.head().next();
    // Another address or port is another process: a new life, which has said nothing of itself yet.
    let same_life = living.filter(|living| {
        living.endpoint.address == register.endpoint.address
            && living.endpoint.port == register.endpoint.port
    });
    // A registration is a sign of life; it says nothing of what the instance reported, nor of what a probe found.
    let before = same_life.map(|living| living.signals).unwrap_or_default();
    let known = same_life.filter(|living| match (&living.check, &register.check) {
        (Some(before), Some(now)) => before.asks_the_same(now),
        _ => false,
    });
    let probe = register
        .check
        .as_ref()
        .map(|_| known.and_then(|living| living.signals.probe).unwrap_or(ProbeVerdict::Pending));
    let signals = Signals { late: false, probe, ..before };
    let mode = register.mode.or(living.map(|l| l.mode)).unwrap_or(Mode::Active);
    let candidate = Instance {
        key: register.key.clone(),
        incarnation: same_life.map_or(seq, |living| living.incarnation),
        endpoint: register.endpoint.clone(),
        labels: Labels::new(
            register.version.as_deref(),
            register.zone.as_deref(),
            &register.tags,
            &register.metadata,
        ),
        weight: register.weight.or(living.map(|l| l.weight)).unwrap_or(WEIGHT_DEFAULT),
        mode,
        drain_until: living.filter(|_| mode == Mode::Draining).and_then(|l| l.drain_until),
        status: signals.status(),
        signals,
        ttl: register.ttl,
        detector: register.detector,
        check: register.check.clone(),
        registered_at: same_life.map_or(now.max(registry.at()), |living| living.registered_at),
        revision: living.map_or(seq, |living| living.revision),
    };
    Ok(Decision::of(match living {
        None => Event::Registered { outcome: Outcome::Created, instance: Arc::new(candidate) },
        Some(living) if **living == candidate => {
            Event::Registered { outcome: Outcome::Unchanged, instance: Arc::clone(living) }
        }
        Some(_) => {
            let instance = Arc::new(Instance { revision: seq, ..candidate });
            Event::Registered { outcome: Outcome::Replaced, instance }
        }
    }))
}

fn decide_update(registry: &Registry, update: &Update) -> Result<Decision, Rejection> {
    let living = require(registry, &update.key, update.precondition)?;
    if let Update { mode: Some(to), weight: None, tags: None, metadata: None, .. } = update {
        let key = living.key.clone();
        let until = drain_until(living, *to, update.drain_until);
        return Ok(Decision::of(Event::ModeChanged { key, from: living.mode, to: *to, until }));
    }
    let mut next = Instance::clone(living);
    next.mode = update.mode.unwrap_or(next.mode);
    next.drain_until = drain_until(living, next.mode, update.drain_until);
    next.weight = update.weight.unwrap_or(next.weight);
    if update.tags.is_some() || update.metadata.is_some() {
        next.labels = relabelled(&living.labels, update)?;
    }
    let labels = [&next.labels, &living.labels];
    let [tags, were] = labels.map(Labels::tags);
    let [metadata, was] = labels.map(Labels::metadata);
    let fields: Vec<&'static str> = [
        ("mode", next.mode != living.mode),
        ("drain_until", next.drain_until != living.drain_until),
        ("weight", next.weight != living.weight),
        ("tags", !tags.eq(were)),
        ("metadata", !metadata.eq(was)),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect();
    Ok(Decision::of(if fields.is_empty() {
        Event::Updated { outcome: Outcome::Unchanged, fields, instance: Arc::clone(living) }
    } else {
        next.revision = registry.head().next();
        Event::Updated { outcome: Outcome::Replaced, fields, instance: Arc::new(next) }
    }))
}

/// These labels as the update wants them.
fn relabelled(labels: &Labels, update: &Update) -> Result<Labels, Rejection> {
    let metadata: Metadata = match &update.metadata {
        Some(MetadataPatch::Clear) => Metadata::default(),
        None => labels.metadata().map(|(key, value)| (key.into(), value.into())).collect(),
        Some(MetadataPatch::Merge(patch)) => Metadata::patched(labels.metadata(), patch),
    };
    if metadata.len() > METADATA_KEYS_MAX {
        return Err(Rejection::TooMuchMetadata { was: metadata.len() });
    }
    Ok(match &update.tags {
        Some(tags) => labels.with(tags, &metadata),
        None => labels.with(&labels.tags().collect::<Vec<_>>(), &metadata),
    })
}

fn decide_deregister(registry: &Registry, deregister: &Deregister) -> Result<Decision, Rejection> {
    let living = require(registry, &deregister.key, deregister.precondition)?;
    let event = Event::Deregistered { key: living.key.clone(), reason: deregister.reason.clone() };
    Ok(Decision::caused_by(event, living.incarnation))
}

fn decide_heartbeat(
    registry: &Registry,
    heartbeat: &Heartbeat,
) -> Result<Option<Decision>, Rejection> {
    let living = require(registry, &heartbeat.key, Precondition::None)?;
    if let Some(given) = heartbeat.incarnation
        && given != living.incarnation
    {
        return Err(Rejection::OtherIncarnation { current: living.incarnation, given });
    }
    let (reported_failing, reason) = match heartbeat.health {
        Some(health) if health.contradicts(living.signals) => {
            (health == Health::Failing, StatusReason::SelfReport)
        }
        _ => (living.signals.reported_failing, StatusReason::Recovery),
    };
    let signals = Signals { late: false, reported_failing, ..living.signals };
    Ok(signalled(living, signals, reason, |event| {
        if let Event::StatusChanged { health, .. } = event {
            *health = heartbeat.health;
        }
    }))
}

fn decide_late(registry: &Registry, overdue: &Overdue) -> Option<Decision> {
    let living = overdue_instance(registry, overdue)?;
    let signals = Signals { late: true, ..living.signals };
    signalled(living, signals, StatusReason::LateHeartbeat, |event| {
        if let Event::StatusChanged { overdue: arithmetic, .. } = event {
            *arithmetic = Some(overdue.arithmetic);
        }
    })
}

fn decide_expire(registry: &Registry, overdue: &Overdue) -> Option<Decision> {
    let living = overdue_instance(registry, overdue)?;
    let event = Event::Expired { key: living.key.clone(), overdue: overdue.arithmetic };
    Some(Decision::caused_by(event, overdue.cause.unwrap_or(living.incarnation)))
}

fn decide_judge(registry: &Registry, judge: &Judge) -> Option<Decision> {
    let living = life(registry, &judge.key, judge.incarnation)?;
    // Without a check there is nothing left to judge.
    let _check = living.check.as_ref()?;
    let signals = Signals { probe: Some(judge.verdict), ..living.signals };
    signalled(living, signals, StatusReason::Probe, |event| {
        if let Event::StatusChanged { probe, .. } = event {
            *probe = Some(judge.evidence.clone());
        }
    })
}

fn decide_damp(registry: &Registry, damp: &Damp) -> Option<Decision> {
    let living = life(registry, &damp.key, damp.incarnation)?;
    let signals = Signals { flapping: damp.flapping, ..living.signals };
    let reason = if damp.flapping { StatusReason::Flapping } else { StatusReason::Settled };
    signalled(living, signals, reason, |event| {
        if let Event::StatusChanged { flaps, .. } = event {
            *flaps = Some(damp.flaps);
        }
    })
}

fn decide_retire(registry: &Registry, retire: &Retire) -> Option<Decision> {
    let living = life(registry, &retire.key, retire.incarnation)?;
    let reason = match retire.ground {
        Ground::Drained { until } if living.drain_until == Some(until) => {
            "its drain ended at the deadline that was set".to_owned()
        }
        Ground::Failed { after }
            if living.signals.probe == Some(ProbeVerdict::Failing)
                && living.check.as_ref()?.deregister_after == Some(after) =>
        {
            format!("its check had been failing for {after} (check.deregister_after)")
        }
        Ground::Drained { .. } | Ground::Failed { .. } => return None,
    };
    let event = Event::Deregistered { key: living.key.clone(), reason: Some(reason.into()) };
    Some(Decision::caused_by(event, retire.cause.unwrap_or(living.incarnation)))
}

fn overdue_instance<'a>(registry: &'a Registry, overdue: &Overdue) -> Option<&'a Arc<Instance>> {
    life(registry, &overdue.key, overdue.incarnation)
}

/// The living instance, if it is still this life of it.
fn life<'a>(
    registry: &'a Registry,
    key: &InstanceKey,
    incarnation: Seq,
) -> Option<&'a Arc<Instance>> {
    registry.instance(key).filter(|living| living.incarnation == incarnation)
}

/// When the drain of `living` ends once its mode is `to`: as is said now, else as was said before.
fn drain_until(living: &Instance, to: Mode, said: Option<Timestamp>) -> Option<Timestamp> {
    said.or(living.drain_until).filter(|_| to == Mode::Draining)
}

/// The event of signals that change; none if they are what they were.
fn signalled(
    living: &Instance,
    signals: Signals,
    reason: StatusReason,
    complete: impl FnOnce(&mut Event),
) -> Option<Decision> {
    if living.signals == signals {
        return None;
    }
    let mut event = Event::StatusChanged {
        key: living.key.clone(),
        from: living.status,
        to: signals.status(),
        signals,
        reason,
        health: None,
        overdue: None,
        probe: None,
        flaps: None,
    };
    complete(&mut event);
    Some(Decision::caused_by(event, living.incarnation))
}
