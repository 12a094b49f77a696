//! What a reader holds: one service as it was after some change. Immutable; a change makes a new one that
//! shares the entries which did not change.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::OnceCell;
use xxhash_rust::xxh3::xxh3_64;

use crate::domain::registry::Service;
use crate::domain::selection::{Filter, Tier, select};
use crate::domain::{Instance, Seq, ServiceKey, Status};
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

    /// Its text, if somebody needed it before.
    #[must_use]
    pub fn known_text(&self) -> Option<&Bytes> {
        self.text.get()
    }
}

/// The default answer of a service, made once per revision.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The body.
    pub body: Bytes,
    /// Its entity tag, quotes included.
    pub etag: Bytes,
    /// The body in other encodings, each made when it is first asked for; none of a body that has no others. What they
    /// are is known to whoever makes them.
    pub forms: Option<Box<[OnceCell<Option<Bytes>>; 2]>>,
    /// How many instances it hands out.
    pub returned: u32,
    /// Whether nothing healthy was left to hand out.
    pub degraded: bool,
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
    /// Of a service that is not large, a hash of each entry's id, in their order: one line of memory tells where an id is.
    hashes: Box<[u32]>,
    answer: OnceLock<Answer>,
}

/// Up to so many entries are looked for by the hashes of their ids; in more of them, halving is faster.
const SCAN_MAX: usize = 64;

/// The lower half of xxh3: enough to tell a few ids apart, and those that it does not are compared.
#[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
fn hash_of(id: &str) -> u32 {
    xxh3_64(id.as_bytes()) as u32
}

impl ServiceView {
    /// A view of these entries, which are in the order of their ids.
    #[must_use]
    pub fn new(key: ServiceKey, revision: Seq, entries: Box<[Arc<Entry>]>) -> Self {
        let healthy = entries.iter().filter(|e| e.instance.status == Status::Healthy).count();
        let healthy = u32::try_from(healthy).unwrap_or(u32::MAX);
        let hashed = if entries.len() <= SCAN_MAX { &*entries } else { &[] };
        let hashes = hashed.iter().map(|e| hash_of(e.instance.key.instance.as_str())).collect();
        Self { key, revision, entries, healthy, hashes, answer: OnceLock::new() }
    }

    /// A service as it once was, so that the past is answered by the very functions of the present. Nobody knows
    /// how its leases stood then: all entries share one that is for show, and no answer may show it.
    #[must_use]
    pub fn of_the_past(key: ServiceKey, service: &Service) -> Self {
        let lease = Arc::new(Lease::for_show(None));
        let entry = |instance| Arc::new(Entry::new(Arc::clone(instance), Arc::clone(&lease)));
        Self::new(key, service.revision, service.instances.values().map(entry).collect())
    }

    /// The instance of this id.
    #[must_use]
    pub fn entry(&self, id: &str) -> Option<&Arc<Entry>> {
        let order = |entry: &Arc<Entry>| entry.instance.key.instance.as_str().cmp(id);
        if self.entries.len() > SCAN_MAX {
            return Some(&self.entries[self.entries.binary_search_by(order).ok()?]);
        }
        let hash = hash_of(id);
        let alike = self.hashes.iter().zip(&self.entries).filter(|(known, _)| **known == hash);
        alike.map(|(_, entry)| entry).find(|entry| order(entry).is_eq())
    }

    /// Those that a lookup with `filter` is answered, and the tier that they are of.
    #[must_use]
    pub fn select(&self, filter: &Filter) -> (Vec<&Arc<Entry>>, Option<Tier>) {
        select(self.entries.iter(), |entry| &entry.instance, filter)
    }

    /// The default answer, made by `serialize` when it is first asked for.
    pub fn answer(&self, serialize: impl FnOnce(&Self) -> Answer) -> &Answer {
        self.answer.get_or_init(|| serialize(self))
    }
}
