//! What has happened: the changes, in the past tense. Folding them is all there is to know about the
//! state, so that each carries everything that the fold needs.

use std::sync::Arc;

use super::baggage::Baggage;
use super::health::{Evidence, Flaps, Signals};
use super::ids::{InstanceKey, Seq, ServiceKey, TraceRef};
use super::instance::{Health, Instance, Mode, Status, words};
use super::time::{Millis, Timestamp};

words! {
    /// The kinds of event, both classes.
    Kind {
        /// An accepted registration, also one that changed nothing.
        Registered = "registered",
        /// Weight, tags or metadata were patched.
        Updated = "updated",
        /// The mode alone was patched.
        ModeChanged = "mode_changed",
        /// The registry's belief changed.
        StatusChanged = "status_changed",
        /// Something speaks for or against an instance, or no longer, and its status stays what it was.
        SignalsChanged = "signals_changed",
        /// Left with a goodbye.
        Deregistered = "deregistered",
        /// Left without one.
        Expired = "expired",
        /// Too many leases ran out at once: nobody expires for a while.
        GuardEntered = "guard_entered",
        /// That while is over.
        GuardLeft = "guard_left",
        /// The registry opened its log.
        Started = "started",
        /// Replay is done.
        Recovered = "recovered",
        /// The log could not be written for a while.
        LogGap = "log_gap",
        /// A hash of the state.
        Checkpoint = "checkpoint",
        /// Retention took old events.
        Compacted = "compacted",
        /// Traffic: a lease was renewed.
        Heartbeat = "heartbeat",
        /// Traffic: somebody asked.
        Lookup = "lookup",
        /// Traffic: a stream of changes began.
        WatchOpened = "watch_opened",
        /// Traffic: it ended.
        WatchClosed = "watch_closed",
        /// Traffic: a stream was told of changes.
        Notified = "notified",
    }
}

words! {
    /// The two classes of event.
    Class {
        /// What the state is folded from.
        Changes = "changes",
        /// Heartbeats, lookups and what streams were told.
        Traffic = "traffic",
    }
}

impl Kind {
    /// The class of this kind.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::Heartbeat
            | Self::Lookup
            | Self::WatchOpened
            | Self::WatchClosed
            | Self::Notified => Class::Traffic,
            Self::Registered
            | Self::Updated
            | Self::ModeChanged
            | Self::StatusChanged
            | Self::SignalsChanged
            | Self::GuardEntered
            | Self::GuardLeft
            | Self::Deregistered
            | Self::Expired
            | Self::Started
            | Self::Recovered
            | Self::LogGap
            | Self::Checkpoint
            | Self::Compacted => Class::Changes,
        }
    }
}

words! {
    /// What an accepted registration or update did.
    Outcome {
        /// A new life began.
        Created = "created",
        /// Something that a lookup can answer changed.
        Replaced = "replaced",
        /// Nothing changed.
        Unchanged = "unchanged",
    }
}

words! {
    /// Why the status changed.
    StatusReason {
        /// No heartbeat for two thirds of the ttl.
        LateHeartbeat = "late_heartbeat",
        /// The instance said so.
        SelfReport = "self_report",
        /// A heartbeat came back.
        Recovery = "recovery",
        /// A probe's verdict changed.
        Probe = "probe",
        /// It had changed too often.
        Flapping = "flapping",
        /// It was quiet for long enough.
        Settled = "settled",
    }
}

/// A change with everything around it: one row of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its number, and the version of the state after it.
    pub seq: Seq,
    /// When; never before the change before it.
    pub at: Timestamp,
    /// Who asked for it: a name, or nothing for the registry itself.
    pub caller: Option<Arc<str>>,
    /// In which trace.
    pub trace: TraceRef,
    /// The change that led to it, such as the registration whose lease ran out.
    pub cause: Option<Seq>,
    /// What the request that asked for it brought along, as far as the operator wants to know that.
    pub baggage: Option<Arc<Baggage>>,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An instance was registered; the instance is as it is now.
    Registered {
        /// What that did.
        outcome: Outcome,
        /// The instance afterwards.
        instance: Arc<Instance>,
    },
    /// An instance was patched.
    Updated {
        /// `Replaced` or `Unchanged`.
        outcome: Outcome,
        /// The names of the fields that changed.
        fields: Vec<&'static str>,
        /// The instance afterwards.
        instance: Arc<Instance>,
    },
    /// The mode alone was patched.
    ModeChanged {
        /// Whose.
        key: InstanceKey,
        /// The mode before.
        from: Mode,
        /// The mode now; the same when the patch changed nothing.
        to: Mode,
        /// When the drain ends and the instance is taken out, if it drains with a deadline.
        until: Option<Timestamp>,
    },
    /// What speaks for or against an instance changed, and with it, mostly, the registry's belief.
    StatusChanged {
        /// About whom.
        key: InstanceKey,
        /// The status before.
        from: Status,
        /// The status now; the same if only the signals changed, which makes it a [`Kind::SignalsChanged`].
        to: Status,
        /// The signals now.
        signals: Signals,
        /// Why.
        reason: StatusReason,
        /// What the instance said, if it was that.
        health: Option<Health>,
        /// The arithmetic, if it was lateness.
        overdue: Option<Arithmetic>,
        /// The probe, if it was that.
        probe: Option<Evidence>,
        /// The flaps, if it was those.
        flaps: Option<Flaps>,
    },
    /// An instance left with a goodbye.
    Deregistered {
        /// Who.
        key: InstanceKey,
        /// Why.
        reason: Option<Box<str>>,
    },
    /// An instance left without one.
    Expired {
        /// Who.
        key: InstanceKey,
        /// How that was found.
        overdue: Arithmetic,
    },
    /// Something about the registry itself.
    Note(Note),
}

/// An event about the registry itself: no instance changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// The log was opened for writing.
    Started {
        /// Version of the program.
        version: Box<str>,
        /// Name of the node.
        node: Box<str>,
    },
    /// Replay is done.
    Recovered(Recovered),
    /// The log could not be written for a while.
    LogGap(LogGap),
    /// A hash of the state after the change before this one.
    Checkpoint {
        /// See [`super::Registry::digest`].
        digest: u64,
        /// Instances registered.
        instances: u64,
        /// Services known.
        services: u64,
    },
    /// Retention took old events.
    Compacted(Compacted),
    /// The guard holds.
    GuardEntered(GuardEntered),
    /// The guard lets go.
    GuardLeft(GuardLeft),
}

/// What a guard watches over: a service, or with none the whole registry.
pub type Guarded = Option<ServiceKey>;

/// The figures by which a guard decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GuardInputs {
    /// Leases past two thirds of their ttl, or what their detector takes for that.
    pub late: u64,
    /// Leases that ran out within the last ttl.
    pub gone: u64,
    /// Leases that live, the late ones among them.
    pub living: u64,
}

/// Too many leases ran out at once to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardEntered {
    /// Over whom.
    pub over: Guarded,
    /// By which figures.
    pub inputs: GuardInputs,
    /// How long it holds at most.
    pub limit: Millis,
}

words! {
    /// Why a guard let go.
    GuardEnd {
        /// Enough of the late ones came back.
        Recovered = "recovered",
        /// It had held for as long as it may.
        Elapsed = "elapsed",
        /// The registry stopped; leases begin anew when it starts.
        Stopped = "stopped",
    }
}

/// The guard let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardLeft {
    /// Over whom.
    pub over: Guarded,
    /// By which figures.
    pub inputs: GuardInputs,
    /// Why.
    pub end: GuardEnd,
    /// How long it held.
    pub held_for: Millis,
    /// Whose expiry it held back and who are late still.
    pub held: u64,
}

/// What retention took: a stretch of one class, from its oldest end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Of which class.
    pub class: Class,
    /// The number of the first event that went.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
    /// When the first one happened.
    pub from: Timestamp,
    /// When the last one happened.
    pub until: Timestamp,
    /// Bytes that they took, about.
    pub bytes: u64,
}

/// The figures of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Changes replayed.
    pub changes: u64,
    /// Traffic events read to find the last heartbeats.
    pub traffic: u64,
    /// Instances alive afterwards.
    pub instances: u64,
    /// Services known afterwards.
    pub services: u64,
    /// How long it took.
    pub took: Millis,
    /// Whether the run before ended in order.
    pub clean: bool,
    /// If it did not: traffic between this instant, the last one known to be in the log, and the start
    /// may be missing.
    pub traffic_missing_from: Option<Timestamp>,
    /// See [`super::Registry::digest`].
    pub digest: u64,
}

/// The figures of a failed log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogGap {
    /// When the first write failed.
    pub from: Timestamp,
    /// When writing resumed.
    pub until: Timestamp,
    /// Lookups that were served but not stored.
    pub lookups: u64,
    /// Heartbeats that were served but not stored.
    pub heartbeats: u64,
}

/// A heartbeat, as those that it concerns refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HeartbeatRef {
    /// When.
    pub at: Timestamp,
    /// Its number among the traffic.
    pub id: u64,
    /// Its trace.
    pub trace: TraceRef,
}

/// An instance whose lease has run for too long, as the sweep that found it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Overdue {
    /// Who.
    pub key: InstanceKey,
    /// Which life of it.
    pub incarnation: Seq,
    /// How that was found.
    pub arithmetic: Arithmetic,
    /// The change that led to it, where that is not the registration: the end of the guard that had held it.
    pub cause: Option<Seq>,
}

/// Why a lease counts as late or run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// The last heartbeat; none if none came since the registration.
    pub last_heartbeat: Option<HeartbeatRef>,
    /// The ttl that it renewed.
    pub ttl: Millis,
    /// How long the lease has run.
    pub gap: Millis,
    /// Heartbeats that should have come meanwhile: whole intervals of a quarter of the ttl, or mean gaps where φ
    /// decided.
    pub missed: u32,
    /// How long after its deadline the sweep found it.
    pub late: Millis,
    /// The part of the gap that does not count, because the registry stood still or was not there. What was
    /// allowed (the ttl, or two thirds of it, or what φ allowed), `late` and this add up to the gap.
    pub grace: Millis,
    /// How φ saw the silence, if it was φ that decided.
    pub accrual: Option<Accrual>,
}

/// A silence in the eyes of the adaptive detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accrual {
    /// φ of the silence, in thousandths.
    pub phi_milli: u32,
    /// The threshold of the instance, in thousandths.
    pub threshold_milli: u32,
    /// The mean of the gaps that φ was worked out of.
    pub mean_gap: Millis,
}

impl Accrual {
    /// φ of the silence.
    #[must_use]
    pub fn phi(self) -> f64 {
        f64::from(self.phi_milli) / 1_000.0
    }

    /// The threshold of the instance.
    #[must_use]
    pub fn threshold(self) -> f64 {
        f64::from(self.threshold_milli) / 1_000.0
    }
}

impl Event {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Registered { .. } => Kind::Registered,
            Self::Updated { .. } => Kind::Updated,
            Self::ModeChanged { .. } => Kind::ModeChanged,
            Self::StatusChanged { from, to, .. } if from == to => Kind::SignalsChanged,
            Self::StatusChanged { .. } => Kind::StatusChanged,
            Self::Deregistered { .. } => Kind::Deregistered,
            Self::Expired { .. } => Kind::Expired,
            Self::Note(Note::Started { .. }) => Kind::Started,
            Self::Note(Note::Recovered(_)) => Kind::Recovered,
            Self::Note(Note::LogGap(_)) => Kind::LogGap,
            Self::Note(Note::Checkpoint { .. }) => Kind::Checkpoint,
            Self::Note(Note::Compacted(_)) => Kind::Compacted,
            Self::Note(Note::GuardEntered(_)) => Kind::GuardEntered,
            Self::Note(Note::GuardLeft(_)) => Kind::GuardLeft,
        }
    }

    /// Whom it is about; none for the registry's own.
    #[must_use]
    pub fn key(&self) -> Option<&InstanceKey> {
        match self {
            Self::Registered { instance, .. } | Self::Updated { instance, .. } => {
                Some(&instance.key)
            }
            Self::ModeChanged { key, .. }
            | Self::StatusChanged { key, .. }
            | Self::Deregistered { key, .. }
            | Self::Expired { key, .. } => Some(key),
            Self::Note(_) => None,
        }
    }

    /// Which service it is about; none for what concerns all of the registry.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceKey> {
        match self {
            Self::Note(
                Note::GuardEntered(GuardEntered { over, .. })
                | Note::GuardLeft(GuardLeft { over, .. }),
            ) => over.as_ref(),
            other => other.key().map(|key| &key.service),
        }
    }

    /// What it did, for counting: an outcome's word, or `done`.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Registered { outcome, .. } | Self::Updated { outcome, .. } => outcome.as_str(),
            Self::ModeChanged { from, to, .. } if from == to => Outcome::Unchanged.as_str(),
            Self::ModeChanged { .. }
            | Self::StatusChanged { .. }
            | Self::Deregistered { .. }
            | Self::Expired { .. }
            | Self::Note(_) => "done",
        }
    }
}
