//! What a reader holds: one service as it was after some change. Immutable; a change makes a new one that
//! shares the sheets which did not change.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::OnceCell;
use xxhash_rust::xxh3::xxh3_64;

use super::sheet::{Entries, EntryRef, Sheet};
use crate::domain::registry::Service;
use crate::domain::selection::{Filter, Tier, select};
use crate::domain::{Seq, ServiceKey, Status};
use crate::lease::Lease;

/// The default answer of a service, made once per revision.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The body: one piece, or many that follow on each other where it is that of a large service, which shares them with
    /// its other views.
    pub body: Content,
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

/// The bytes of a body.
#[derive(Debug, Clone)]
pub enum Content {
    /// In one piece.
    Whole(Bytes),
    /// In many.
    Pieces(Arc<[Bytes]>),
}

impl Content {
    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them in one piece: a copy, if there are many.
    #[must_use]
    pub fn joined(&self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes.clone(),
            Self::Pieces(pieces) => pieces.concat().into(),
        }
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
    pub entries: Entries,
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
    /// A view of these entries.
    #[must_use]
    pub fn new(key: ServiceKey, revision: Seq, entries: Entries) -> Self {
        let healthy = u32::try_from(entries.count_status(Status::Healthy)).unwrap_or(u32::MAX);
        let hashed = if entries.len() <= SCAN_MAX { entries.sheets() } else { &[] };
        let ids = hashed.iter().flat_map(|sheet| sheet.iter());
        let hashes = ids.map(|e| hash_of(e.instance.key.instance.as_str())).collect();
        Self { key, revision, entries, healthy, hashes, answer: OnceLock::new() }
    }

    /// A service as it once was, so that the past is answered by the very functions of the present. Nobody knows
    /// how its leases stood then: all entries share one that is for show, and no answer may show it.
    #[must_use]
    pub fn of_the_past(key: ServiceKey, service: &Service) -> Self {
        let lease = Arc::new(Lease::for_show(None));
        let sheets = service.instances.leaves().iter().map(|leaf| {
            let leases = leaf.iter().map(|_| Arc::clone(&lease)).collect();
            Arc::new(Sheet::new(Arc::clone(leaf), leases))
        });
        Self::new(key, service.revision, Entries::new(sheets.collect()))
    }

    /// The instance of this id.
    #[must_use]
    pub fn entry(&self, id: &str) -> Option<EntryRef<'_>> {
        if self.entries.len() > SCAN_MAX {
            return self.entries.get(id);
        }
        let hash = hash_of(id);
        // So few are on one sheet.
        let sheet = self.entries.sheets().first()?;
        let alike = self.hashes.iter().enumerate().filter(|(_, known)| **known == hash);
        let mut alike = alike.filter_map(|(place, _)| sheet.at(place));
        alike.find(|entry| entry.instance.key.instance.as_str() == id)
    }

    /// Those that a lookup with `filter` is answered, and the tier that they are of.
    #[must_use]
    pub fn select(&self, filter: &Filter) -> (Vec<EntryRef<'_>>, Option<Tier>) {
        select(self.entries.iter(), |entry| entry.instance, filter)
    }

    /// The default answer, made by `serialize` when it is first asked for.
    pub fn answer(&self, serialize: impl FnOnce(&Self) -> Answer) -> &Answer {
        self.answer.get_or_init(|| serialize(self))
    }
}
