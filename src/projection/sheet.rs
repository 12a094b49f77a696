//! Instances of a view with their leases, some hundred at a time, as the registry's leaves hold them.
//!
//! ```text
//!   view of revision 41   ▶ [sheet][sheet][sheet][sheet]
//!   view of revision 42   ▶ [  "  ][  "  ][other][  "  ]     one instance has changed
//! ```
//!
//! A service may be large and may change often. So the views of one service share what did not change: a change makes one
//! sheet anew, and with it the texts of that sheet, where those of instances that stayed are copied and not written again.
//! Whom a plain lookup is offered is told from sums that each sheet has, and its answer is put together from the sheets'
//! own texts, without copying them. Immutable, but for texts that are made when somebody first needs them. Called by the
//! publisher, which makes them, and by whoever answers from a view.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::domain::roster::Leaf;
use crate::domain::selection::Tier;
use crate::domain::{Instance, Mode, Status};
use crate::lease::Lease;

/// For so many changes of a sheet on, texts of before are kept for whoever needs those of now. They save work where a
/// service is looked up and changes, and are let go of where it is looked up no more.
const KNOWN_FOR: u8 = 64;

/// What a text of an instance is long, about, in bytes.
const TEXT_BYTES: usize = 400;

/// Writes the text of an instance.
pub type Write = fn(&Instance, &mut Vec<u8>);

/// One instance with its lease, to keep.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its lease: the one part that moves on its own.
    pub lease: Arc<Lease>,
}

/// The same where it stands.
#[derive(Debug, Clone, Copy)]
pub struct EntryRef<'a> {
    /// The instance.
    pub instance: &'a Arc<Instance>,
    /// Its lease.
    pub lease: &'a Arc<Lease>,
    sheet: &'a Sheet,
    place: usize,
}

impl<'a> EntryRef<'a> {
    /// The instance and its lease, to keep.
    #[must_use]
    pub fn owned(self) -> Entry {
        Entry { instance: Arc::clone(self.instance), lease: Arc::clone(self.lease) }
    }

    /// The instance as text, which is made together with those around it and kept as long as these do not change.
    #[must_use]
    pub fn text(self, write: Write) -> &'a [u8] {
        self.sheet.texts(write).get(self.place)
    }

    /// Its text, if it was made before.
    #[must_use]
    pub fn known_text(self) -> Option<&'a [u8]> {
        self.sheet.texts.get().map(|texts| texts.get(self.place))
    }
}

/// Whom a lookup without a filter is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Those of this tier.
    pub tier: Tier,
    /// Of them only those that have a weight.
    weighted: bool,
}

impl Offer {
    fn holds(self, instance: &Instance) -> bool {
        Tier::of(instance) == Some(self.tier) && (!self.weighted || instance.weight > 0)
    }
}

/// How many of a sheet there are of each kind.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    kinds: [[u8; Mode::ALL.len()]; Status::ALL.len()],
    /// Of each tier, all of them, and those that have a weight.
    tiers: [[u8; 2]; Tier::ALL.len()],
}

/// See the module.
#[derive(Debug)]
pub struct Sheet {
    leaf: Leaf,
    leases: Box<[Arc<Lease>]>,
    sums: Sums,
    texts: OnceLock<Arc<Texts>>,
    /// Texts that were made for a sheet before this one, and how many sheets ago that was.
    known: Option<(Arc<Texts>, u8)>,
    /// Those that are offered, where that is not everybody.
    offered: OnceLock<Box<(Offer, Bytes)>>,
}

impl Sheet {
    /// A sheet of a leaf and the leases of those in it, in their order.
    ///
    /// # Panics
    /// If there are more of the ones than of the others.
    #[must_use]
    pub fn new(leaf: Leaf, leases: Box<[Arc<Lease>]>) -> Self {
        assert_eq!(leaf.len(), leases.len(), "each instance has a lease");
        let mut sums = Sums::default();
        for instance in leaf.iter() {
            // A leaf holds at most 128.
            sums.kinds[instance.status as usize][instance.mode as usize] += 1;
            if let Some(tier) = Tier::of(instance) {
                let [all, weighted] = &mut sums.tiers[tier as usize];
                *all += 1;
                *weighted += u8::from(instance.weight > 0);
            }
        }
        let (texts, offered) = (OnceLock::new(), OnceLock::new());
        Self { leaf, leases, sums, texts, known: None, offered }
    }

    /// The same, which has most instances in common with a sheet that it follows.
    #[must_use]
    pub(super) fn after(mut self, before: &Self) -> Self {
        self.known = match (before.texts.get(), &before.known) {
            (Some(texts), _) => Some((Arc::clone(texts), 1)),
            (None, Some((texts, age))) if *age < KNOWN_FOR => Some((Arc::clone(texts), age + 1)),
            (None, _) => None,
        };
        self
    }

    /// The leaf of the registry that it shows.
    #[must_use]
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// How many are in it: at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.leaf.len()
    }

    /// The one at this place.
    #[must_use]
    pub(super) fn at(&self, place: usize) -> Option<EntryRef<'_>> {
        let (instance, lease) = (self.leaf.get(place)?, self.leases.get(place)?);
        Some(EntryRef { instance, lease, sheet: self, place })
    }

    /// All in it, in the order of their ids.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = EntryRef<'_>> + Clone {
        self.leaf.iter().zip(&self.leases).enumerate().map(|(place, (instance, lease))| EntryRef {
            instance,
            lease,
            sheet: self,
            place,
        })
    }

    /// How many have this status and mode.
    #[must_use]
    pub(super) fn count(&self, status: Status, mode: Mode) -> usize {
        usize::from(self.sums.kinds[status as usize][mode as usize])
    }

    /// How many are of this tier, and how many of them have a weight.
    pub(super) fn tier(&self, tier: Tier) -> [usize; 2] {
        self.sums.tiers[tier as usize].map(usize::from)
    }

    /// How many of them are offered.
    #[must_use]
    pub fn offers(&self, offer: Offer) -> usize {
        self.tier(offer.tier)[usize::from(offer.weighted)]
    }

    /// The texts of those that are offered, each with a comma after it.
    #[must_use]
    pub fn offered(&self, offer: Offer, write: Write) -> Bytes {
        let texts = self.texts(write);
        if self.offers(offer) == self.len() {
            return texts.bytes.clone();
        }
        let pick = || {
            let mut bytes = Vec::with_capacity(texts.bytes.len());
            for (place, instance) in self.leaf.iter().enumerate() {
                if offer.holds(instance) {
                    bytes.extend_from_slice(texts.get(place));
                    bytes.push(b',');
                }
            }
            Bytes::from(bytes)
        };
        let kept = self.offered.get_or_init(|| Box::new((offer, pick())));
        if kept.0 == offer { kept.1.clone() } else { pick() }
    }

    fn texts(&self, write: Write) -> &Arc<Texts> {
        self.texts.get_or_init(|| {
            let known = self.known.as_ref().map(|(known, _)| &**known);
            Arc::new(Texts::of(&self.leaf, known, write))
        })
    }
}

/// The texts of all in a leaf, one after the other, each with a comma after it.
#[derive(Debug)]
struct Texts {
    leaf: Leaf,
    bytes: Bytes,
    /// Where the comma after each of them is.
    ends: Box<[usize]>,
}

impl Texts {
    /// The texts of `leaf`, copied from `known` where they are there.
    fn of(leaf: &Leaf, known: Option<&Self>, write: Write) -> Self {
        let mut bytes = Vec::with_capacity(match known {
            Some(known) => known.bytes.len() + TEXT_BYTES,
            None => leaf.len() * TEXT_BYTES,
        });
        let mut ends = Vec::with_capacity(leaf.len());
        let mut old = known.into_iter().flat_map(|known| known.leaf.iter().enumerate()).peekable();
        for instance in leaf.iter() {
            let mut same = old.next_if(|(_, old)| Arc::ptr_eq(old, instance));
            if same.is_none() {
                // Both are in the order of their ids.
                let id = &instance.key.instance;
                while old.next_if(|(_, old)| old.key.instance < *id).is_some() {}
                same = old.next_if(|(_, old)| Arc::ptr_eq(old, instance));
            }
            match (known, same) {
                (Some(known), Some((place, _))) => bytes.extend_from_slice(known.get(place)),
                _ => write(instance, &mut bytes),
            }
            ends.push(bytes.len());
            bytes.push(b',');
        }
        bytes.shrink_to_fit();
        Self { leaf: Arc::clone(leaf), bytes: bytes.into(), ends: ends.into() }
    }

    fn get(&self, place: usize) -> &[u8] {
        let begin = place.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &self.bytes[begin..self.ends[place]]
    }
}

/// The sheets of a service.
#[derive(Debug, Default)]
pub struct Entries {
    sheets: Box<[Arc<Sheet>]>,
    len: usize,
}

impl Entries {
    /// All of these sheets, which are in the order of their ids.
    #[must_use]
    pub fn new(sheets: Box<[Arc<Sheet>]>) -> Self {
        let len = sheets.iter().map(|sheet| sheet.len()).sum();
        Self { sheets, len }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The sheets that they are on.
    #[must_use]
    pub fn sheets(&self) -> &[Arc<Sheet>] {
        &self.sheets
    }

    /// All of them, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> + Clone {
        self.sheets.iter().flat_map(|sheet| sheet.iter())
    }

    /// The one of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<EntryRef<'_>> {
        let begins = |sheet: &Arc<Sheet>| {
            sheet.leaf.first().is_some_and(|first| first.key.instance.as_str() <= id)
        };
        let sheet = &self.sheets[self.sheets.partition_point(begins).checked_sub(1)?];
        sheet.at(sheet.leaf.binary_search_by(|one| one.key.instance.as_str().cmp(id)).ok()?)
    }

    /// How many have this status and mode.
    #[must_use]
    pub fn count(&self, status: Status, mode: Mode) -> usize {
        self.sheets.iter().map(|sheet| sheet.count(status, mode)).sum()
    }

    /// How many have this status.
    #[must_use]
    pub fn count_status(&self, status: Status) -> usize {
        Mode::ALL.iter().map(|mode| self.count(status, *mode)).sum()
    }

    /// How many a lookup without a filter is offered.
    #[must_use]
    pub fn offered(&self) -> usize {
        let offer = self.offer();
        offer.map_or(0, |offer| self.sheets.iter().map(|sheet| sheet.offers(offer)).sum())
    }

    /// Whom a lookup without a filter is offered, told from the sums alone; none if it is nobody.
    #[must_use]
    pub fn offer(&self) -> Option<Offer> {
        let in_tier = |tier: Tier| {
            let add =
                |[all, weighted]: [usize; 2], more: [usize; 2]| [all + more[0], weighted + more[1]];
            self.sheets.iter().map(|sheet| sheet.tier(tier)).fold([0; 2], add)
        };
        Tier::ALL.iter().find_map(|tier| {
            let [all, weighted] = in_tier(*tier);
            (all > 0).then_some(Offer { tier: *tier, weighted: weighted > 0 })
        })
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = EntryRef<'a>;
    type IntoIter = Box<dyn Iterator<Item = EntryRef<'a>> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}
