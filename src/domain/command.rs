//! What may be asked of the registry. Imperative: an event says what came of it.

use std::sync::Arc;

use super::check::{Check, Detector};
use super::event::{Note, Overdue};
use super::health::{Evidence, Flaps, ProbeVerdict};
use super::ids::{InstanceKey, Seq};
use super::instance::{Endpoint, Health, Metadata, Mode};
use super::time::{Millis, Timestamp};

/// A wish, already checked for form: names are names, numbers are in range.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Register or replace an instance.
    Register(Register),
    /// Change parts of a living instance.
    Update(Update),
    /// Say goodbye.
    Deregister(Deregister),
    /// A heartbeat that may change the status; the others never become commands.
    Heartbeat(Heartbeat),
    /// Two thirds of the ttl have passed without a heartbeat.
    MarkLate(Overdue),
    /// The ttl has passed without a heartbeat.
    Expire(Overdue),
    /// A probe's verdict.
    Judge(Judge),
    /// The damping of flaps begins or ends.
    Damp(Damp),
    /// A life ends because a deadline of its own has passed.
    Retire(Retire),
    /// An event about the registry itself.
    Note(Note),
    /// A hash of the state, taken when this is decided and not before: others may come in between.
    Checkpoint,
}

/// What must hold of the id for a command to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// `if-none-match: *`: the id is free.
    Free,
    /// `if-match: *`: the instance lives.
    Present,
    /// `if-match` with an etag: the instance lives and its revision is this one; `None` is an etag that
    /// this log never gave out.
    Revision(Option<Seq>),
}

/// Registers an instance, or replaces it.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// Who.
    pub key: InstanceKey,
    /// Where it is called.
    pub endpoint: Endpoint,
    /// The version of the software it runs.
    pub version: Option<Box<str>>,
    /// Where it stands.
    pub zone: Option<Box<str>>,
    /// Its share of the calls; without one the living instance keeps its own.
    pub weight: Option<u16>,
    /// Labels.
    pub tags: Box<[Box<str>]>,
    /// Key and value.
    pub metadata: Metadata,
    /// What is wanted of it; without one the living instance keeps its own, so that the restart of a
    /// process does not undo an operator's drain.
    pub mode: Option<Mode>,
    /// How long one heartbeat lasts; none for an instance that is only probed.
    pub ttl: Option<Millis>,
    /// By which rule a silence counts as a death.
    pub detector: Detector,
    /// How the registry is to probe it, if it is.
    pub check: Option<Arc<Check>>,
    /// What must hold.
    pub precondition: Precondition,
}

/// Changes parts of a living instance; what is `None` stays.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Who.
    pub key: InstanceKey,
    /// The new mode.
    pub mode: Option<Mode>,
    /// With mode `draining`: when the drain ends and the instance is taken out.
    pub drain_until: Option<Timestamp>,
    /// The new weight.
    pub weight: Option<u16>,
    /// The new labels, all of them.
    pub tags: Option<Box<[Box<str>]>>,
    /// The merge patch of the metadata.
    pub metadata: Option<MetadataPatch>,
    /// What must hold.
    pub precondition: Precondition,
}

/// One entry of a merge patch: a value sets its key, none removes it.
pub type PatchEntry = (Box<str>, Option<Box<str>>);

/// A merge patch of metadata (RFC 7396).
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataPatch {
    /// `null`: no metadata any more.
    Clear,
    /// Key by key.
    Merge(Box<[PatchEntry]>),
}

/// Takes an instance out of the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Deregister {
    /// Who.
    pub key: InstanceKey,
    /// Why, in the words of the one who asks.
    pub reason: Option<Box<str>>,
    /// What must hold.
    pub precondition: Precondition,
}

/// A sign of life that may change the status.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// Who.
    pub key: InstanceKey,
    /// Which life of it; none means whichever there is.
    pub incarnation: Option<Seq>,
    /// What it says of itself; none leaves that as it was.
    pub health: Option<Health>,
}

/// What the prober has found out about an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    /// Who.
    pub key: InstanceKey,
    /// Which life of it.
    pub incarnation: Seq,
    /// The verdict now.
    pub verdict: ProbeVerdict,
    /// The probe that decided it.
    pub evidence: Evidence,
}

/// Begins or ends the damping of an instance that flaps.
#[derive(Clone, Debug, PartialEq)]
pub struct Damp {
    /// Who.
    pub key: InstanceKey,
    /// Which life of it.
    pub incarnation: Seq,
    /// Whether it is held at `unstable` from now on.
    pub flapping: bool,
    /// Why.
    pub flaps: Flaps,
}

/// Takes an instance out of the registry, for the registry's own reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct Retire {
    /// Who.
    pub key: InstanceKey,
    /// Which life of it.
    pub incarnation: Seq,
    /// Which deadline has passed.
    pub ground: Ground,
    /// The change that began it; none is the registration.
    pub cause: Option<Seq>,
}

/// Which deadline of its own an instance has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The end of its drain.
    Drained {
        /// Which was to be then.
        until: Timestamp,
    },
    /// It was failed by its check for as long as that allows.
    Failed {
        /// For how long.
        after: Millis,
    },
}
