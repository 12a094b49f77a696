//! What a reader holds: one service as it was after some change. Immutable; a change makes a new one that
//! shares the entries which did not change.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::domain::{Instance, Mode, Seq, ServiceKey, Status};
use crate::lease::Lease;

/// One instance in a view, with its lease and, once somebody needed it, its text.
#[derive(Debug)]
pub struct Entry {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its lease: the one part that moves on its own.
    pub lease: Arc<Lease>,
    text: OnceLock<Bytes>,
}

impl Entry {
    /// An entry that nobody has asked for yet.
    #[must_use]
    pub fn new(instance: Arc<Instance>, lease: Arc<Lease>) -> Self {
        Self { instance, lease, text: OnceLock::new() }
    }

    /// The instance as text, made by `serialize` when it is first asked for and kept as long as the
    /// instance does not change.
    pub fn text(&self, serialize: impl FnOnce(&Instance) -> Bytes) -> &Bytes {
        self.text.get_or_init(|| serialize(&self.instance))
    }
}

/// The default answer of a service, made once per revision.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The body.
    pub body: Bytes,
    /// Its entity tag, quotes included.
    pub etag: Bytes,
    /// How many instances it hands out.
    pub returned: u32,
    /// Whether nothing healthy was left to hand out.
    pub degraded: bool,
}

/// Whom a lookup without `status=` and `mode=` may be offered, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// Active and healthy.
    Active,
    /// Standby and healthy.
    Standby,
    /// Active and unstable: degraded.
    ActiveUnstable,
    /// Standby and unstable: degraded.
    StandbyUnstable,
}

impl Tier {
    /// The tier of an instance; none for those who are offered to nobody.
    #[must_use]
    pub fn of(instance: &Instance) -> Option<Self> {
        match (instance.mode, instance.status) {
            (Mode::Active, Status::Healthy) => Some(Self::Active),
            (Mode::Standby, Status::Healthy) => Some(Self::Standby),
            (Mode::Active, Status::Unstable) => Some(Self::ActiveUnstable),
            (Mode::Standby, Status::Unstable) => Some(Self::StandbyUnstable),
            (Mode::Draining, _) | (_, Status::Failed) => None,
        }
    }

    /// Whether an answer from this tier is degraded.
    #[must_use]
    pub fn degraded(self) -> bool {
        matches!(self, Self::ActiveUnstable | Self::StandbyUnstable)
    }
}

/// One service after some change.
#[derive(Debug)]
pub struct ServiceView {
    /// Which service.
    pub key: ServiceKey,
    /// Its revision.
    pub revision: Seq,
    /// Its instances in the order of their ids.
    pub entries: Box<[Arc<Entry>]>,
    /// How many of them are healthy.
    pub healthy: u32,
    answer: OnceLock<Answer>,
}

impl ServiceView {
    /// A view of these entries, which are in the order of their ids.
    #[must_use]
    pub fn new(key: ServiceKey, revision: Seq, entries: Box<[Arc<Entry>]>) -> Self {
        let healthy = entries.iter().filter(|e| e.instance.status == Status::Healthy).count();
        let healthy = u32::try_from(healthy).unwrap_or(u32::MAX);
        Self { key, revision, entries, healthy, answer: OnceLock::new() }
    }

    /// The instance of this id.
    #[must_use]
    pub fn entry(&self, id: &str) -> Option<&Arc<Entry>> {
        let found =
            self.entries.binary_search_by(|entry| entry.instance.key.instance.as_str().cmp(id));
        Some(&self.entries[found.ok()?])
    }

    /// Those of the first tier that is not empty among the entries that `filter` lets through, and that
    /// tier. Weight 0 is offered only when all in the tier are 0.
    pub fn offered(&self, filter: impl Fn(&Instance) -> bool) -> (Vec<&Arc<Entry>>, Option<Tier>) {
        let matching: Vec<(&Arc<Entry>, Tier)> = self
            .entries
            .iter()
            .filter(|entry| filter(&entry.instance))
            .filter_map(|entry| Tier::of(&entry.instance).map(|tier| (entry, tier)))
            .collect();
        let best = matching.iter().map(|(_, tier)| *tier).min();
        let in_best: Vec<&Arc<Entry>> = matching
            .into_iter()
            .filter(|(_, tier)| Some(*tier) == best)
            .map(|(entry, _)| entry)
            .collect();
        let weighted = |entry: &&Arc<Entry>| entry.instance.weight > 0;
        if in_best.iter().any(weighted) {
            (in_best.into_iter().filter(weighted).collect(), best)
        } else {
            (in_best, best)
        }
    }

    /// The default answer, made by `serialize` when it is first asked for.
    pub fn answer(&self, serialize: impl FnOnce(&Self) -> Answer) -> &Answer {
        self.answer.get_or_init(|| serialize(self))
    }
}
