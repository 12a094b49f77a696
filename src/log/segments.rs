//! Where to look: a segment stands for a stretch of events of one class and says what can be in it, so that a
//! search passes over the stretches that can't hold what it wants.
//!
//! ```text
//!   derive ── Builder ──▶ Segment ──▶ a row of change_segments or traffic_segments
//!   archive ── Sought::may_be_in ──▶ read this stretch, or pass over it
//! ```
//!
//! "Can be" errs on one side only: a stretch that holds a wanted event is never passed over. Pure; what is here
//! must not change once written, or old segments would lie: hashes, bits of kinds, the layout of filters.

use std::ops::RangeInclusive;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::domain::event::{Class, Kind};

/// Blocks of traffic that a segment stands for. Smaller ones read less around a rare event, but more of them have
/// to be looked at: with these, either costs some ten milliseconds in 10,000,000 events (`benches/parts/search.rs`).
pub const BLOCKS: usize = 4;

/// Changes that a segment stands for.
pub const CHANGES: usize = 1_024;

/// Bits of a filter for each thing in it.
const BITS_EACH: usize = 10;

/// Bits set for each thing: with ten bits each, seven are the fewest false alarms (one in 120).
const PROBES: u64 = 7;

/// What a name is the name of. A digit once given keeps its meaning for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A namespace.
    Namespace = 1,
    /// A service.
    Service = 2,
    /// An instance.
    Instance = 3,
    /// Who asked.
    Caller = 4,
}

/// A name in its role, as a number.
#[must_use]
pub fn hash_name(role: Role, name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), role as u64)
}

/// A trace id, as a number: callers choose them, so that they are not taken for random.
#[must_use]
pub fn hash_trace(trace_id: &[u8]) -> u64 {
    xxh3_64(trace_id)
}

/// The bit of a kind. A bit once given keeps its meaning for ever; a new kind takes a new one.
#[must_use]
pub fn bit(kind: Kind) -> u64 {
    let place = match kind {
        Kind::Registered => 0,
        Kind::Updated => 1,
        Kind::ModeChanged => 2,
        Kind::StatusChanged => 3,
        Kind::Deregistered => 4,
        Kind::Expired => 5,
        Kind::Started => 6,
        Kind::Recovered => 7,
        Kind::LogGap => 8,
        Kind::Checkpoint => 9,
        Kind::Compacted => 10,
        Kind::SignalsChanged => 11,
        Kind::GuardEntered => 12,
        Kind::GuardLeft => 13,
        Kind::Heartbeat => 32,
        Kind::Lookup => 33,
        Kind::WatchOpened => 34,
        Kind::WatchClosed => 35,
        Kind::Notified => 36,
    };
    1 << place
}

/// One segment: a row of its class's table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Segment {
    /// Number of its first event.
    pub first: u64,
    /// Number of its last event.
    pub last: u64,
    /// The lowest version that an event here saw; for changes, the first number.
    pub seen_from: u64,
    /// The highest one.
    pub seen_to: u64,
    /// A [`bit`] for each kind.
    pub kinds: u64,
    /// Filter over the names in their roles.
    pub names: Vec<u8>,
    /// Filter over the trace ids.
    pub trace_ids: Vec<u8>,
    /// CRC-32 over all of the above.
    pub checksum: u32,
}

/// The same, borrowed from a row that is being read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Number of its first event.
    pub first: u64,
    /// Number of its last event.
    pub last: u64,
    /// The lowest version that an event here saw.
    pub seen_from: u64,
    /// The highest one.
    pub seen_to: u64,
    /// A [`bit`] for each kind.
    pub kinds: u64,
    /// Filter over the names in their roles.
    pub names: &'a [u8],
    /// Filter over the trace ids.
    pub trace_ids: &'a [u8],
    /// CRC-32 over all of the above.
    pub checksum: u32,
}

impl Segment {
    /// The segment, borrowed.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            first: self.first,
            last: self.last,
            seen_from: self.seen_from,
            seen_to: self.seen_to,
            kinds: self.kinds,
            names: &self.names,
            trace_ids: &self.trace_ids,
            checksum: self.checksum,
        }
    }
}

impl View<'_> {
    fn expected_checksum(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for number in [self.first, self.last, self.seen_from, self.seen_to, self.kinds] {
            crc.update(&number.to_le_bytes());
        }
        crc.update(&(self.names.len() as u64).to_le_bytes());
        crc.update(self.names);
        crc.update(self.trace_ids);
        crc.finalize()
    }

    /// Whether it is what was written. One that is not is as good as none.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.first <= self.last && self.checksum == self.expected_checksum()
    }
}

/// Gathers what is in a stretch.
#[derive(Debug)]
pub struct Builder {
    first: u64,
    last: u64,
    seen_from: u64,
    seen_to: u64,
    kinds: u64,
    names: Vec<u64>,
    trace_ids: Vec<u64>,
}

impl Builder {
    /// Of a stretch that begins with the number `first`.
    #[must_use]
    pub fn new(first: u64) -> Self {
        let (names, trace_ids) = (Vec::new(), Vec::new());
        Self { first, last: first, seen_from: u64::MAX, seen_to: 0, kinds: 0, names, trace_ids }
    }

    /// An event `number` is in it, which saw `seen`.
    pub fn event(&mut self, number: u64, seen: u64, kind: Kind) {
        self.last = self.last.max(number);
        self.seen_from = self.seen_from.min(seen);
        self.seen_to = self.seen_to.max(seen);
        self.kinds |= bit(kind);
    }

    /// Whether an event of this number would follow on what is in it.
    #[must_use]
    pub fn reaches(&self, number: u64) -> bool {
        number <= self.last.saturating_add(1)
    }

    /// A name is in it.
    pub fn name(&mut self, role: Role, name: &str) {
        self.names.push(hash_name(role, name));
    }

    /// A trace is in it; all zero is none.
    pub fn trace(&mut self, trace_id: &[u8]) {
        let hash = hash_trace(trace_id);
        // Neighbours are often of one trace.
        if self.trace_ids.last() != Some(&hash) && trace_id.iter().any(|byte| *byte != 0) {
            self.trace_ids.push(hash);
        }
    }

    /// The segment.
    #[must_use]
    pub fn finish(mut self) -> Segment {
        self.names.sort_unstable();
        self.names.dedup();
        let mut segment = Segment {
            first: self.first,
            last: self.last,
            seen_from: self.seen_from.min(self.seen_to),
            seen_to: self.seen_to,
            kinds: self.kinds,
            names: filter_of(&self.names),
            trace_ids: filter_of(&self.trace_ids),
            checksum: 0,
        };
        segment.checksum = segment.view().expected_checksum();
        segment
    }
}

/// A Bloom filter over `hashes`.
fn filter_of(hashes: &[u64]) -> Vec<u8> {
    let mut filter = vec![0; (hashes.len() * BITS_EACH).div_ceil(8).max(8)];
    let bits = filter.len() as u64 * 8;
    for hash in hashes {
        for place in places(*hash, bits) {
            filter[place / 8] |= 1 << (place % 8);
        }
    }
    filter
}

/// Where the bits of `hash` are in a filter of so many bits: a row of numbers at even distance, each scaled to the
/// width (Kirsch and Mitzenmacher, "Less hashing, same performance", 2006).
fn places(hash: u64, bits: u64) -> impl Iterator<Item = usize> {
    let step = hash.rotate_left(32).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..PROBES).map(move |probe| {
        let scattered = hash.wrapping_add(probe.wrapping_mul(step));
        // Below `bits`, which is the length of something in memory.
        usize::try_from((u128::from(scattered) * u128::from(bits)) >> 64).unwrap_or(0)
    })
}

fn may_hold(filter: &[u8], hash: u64) -> bool {
    let bits = filter.len() as u64 * 8;
    places(hash, bits).all(|place| filter.get(place / 8).is_some_and(|b| b >> (place % 8) & 1 == 1))
}

/// What is looked for, in the words of segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    kinds: u64,
    names: Vec<u64>,
    trace: Option<u64>,
    seen: RangeInclusive<u64>,
}

impl Sought {
    /// Everything of a class.
    #[must_use]
    pub fn everything(class: Class) -> Self {
        let of_class = Kind::ALL.iter().filter(|kind| kind.class() == class);
        let kinds = of_class.fold(0, |bits, kind| bits | bit(*kind));
        Self { kinds, names: Vec::new(), trace: None, seen: 0..=u64::MAX }
    }

    /// Only events of these kinds; of all, if there are none.
    #[must_use]
    pub fn of_kinds(mut self, kinds: &[Kind]) -> Self {
        if !kinds.is_empty() {
            self.kinds &= kinds.iter().fold(0, |bits, kind| bits | bit(*kind));
        }
        self
    }

    /// Only events with this name in this role. No filter knows the empty one.
    #[must_use]
    pub fn with_name(mut self, role: Role, name: Option<&str>) -> Self {
        self.names.extend(name.filter(|name| !name.is_empty()).map(|name| hash_name(role, name)));
        self
    }

    /// Only events of this trace. No filter knows the one that is none.
    #[must_use]
    pub fn of_trace(mut self, trace_id: Option<[u8; 16]>) -> Self {
        self.trace = trace_id.filter(|id| *id != [0; 16]).map(|id| hash_trace(&id));
        self
    }

    /// Only events that saw these versions.
    #[must_use]
    pub fn seeing(mut self, seen: RangeInclusive<u64>) -> Self {
        self.seen = seen;
        self
    }

    /// Whether no event at all can be meant.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.kinds == 0 || self.seen.is_empty()
    }

    /// Whether an event that is sought can be in the segment.
    #[must_use]
    pub fn may_be_in(&self, segment: &View<'_>) -> bool {
        self.kinds & segment.kinds != 0
            && segment.seen_from <= *self.seen.end()
            && segment.seen_to >= *self.seen.start()
            && self.names.iter().all(|hash| may_hold(segment.names, *hash))
            && self.trace.is_none_or(|hash| may_hold(segment.trace_ids, hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(names: std::ops::Range<u32>) -> Segment {
        let mut builder = Builder::new(1);
        for n in names {
            builder.event(u64::from(n), u64::from(n), Kind::Lookup);
            builder.name(Role::Service, &format!("service-{n}"));
            builder.trace(&u128::from(n + 1).to_be_bytes());
        }
        builder.finish()
    }

    fn sought() -> Sought {
        Sought::everything(Class::Traffic)
    }

    #[test]
    fn nothing_that_is_there_is_passed_over_and_little_else_is_read() {
        let segment = segment(1..1_001);
        assert!(segment.view().is_sound());
        let service = |n: u32| sought().with_name(Role::Service, Some(&format!("service-{n}")));
        let trace = |n: u32| sought().of_trace(Some(u128::from(n + 1).to_be_bytes()));
        assert!((1..1_001).all(|n| service(n).may_be_in(&segment.view())));
        assert!((1..1_001).all(|n| trace(n).may_be_in(&segment.view())));
        let false_alarms = |sought: &dyn Fn(u32) -> Sought| {
            (2_000..22_000).filter(|n| sought(*n).may_be_in(&segment.view())).count()
        };
        // One in 120 is 167 of 20,000.
        assert!(false_alarms(&service) < 300, "{}", false_alarms(&service));
        assert!(false_alarms(&trace) < 300, "{}", false_alarms(&trace));
        let caller = sought().with_name(Role::Caller, Some("service-7"));
        assert!(!caller.may_be_in(&segment.view()), "a name counts in its role only");
    }

    #[test]
    fn kinds_and_versions_decide_too() {
        let segment = segment(10..21);
        let is_in = |sought: Sought| sought.may_be_in(&segment.view());
        assert!(is_in(sought()) && is_in(sought().of_kinds(&[Kind::Notified, Kind::Lookup])));
        assert!(!is_in(sought().of_kinds(&[Kind::Notified])));
        assert!(!is_in(Sought::everything(Class::Changes)));
        assert!(is_in(sought().seeing(20..=99)) && is_in(sought().seeing(0..=10)));
        assert!(!is_in(sought().seeing(21..=99)) && !is_in(sought().seeing(0..=9)));
        assert!(sought().of_kinds(&[Kind::Expired]).is_nothing());
        assert!(is_in(sought().with_name(Role::Caller, Some("")).of_trace(Some([0; 16]))));
    }

    #[test]
    fn a_harmed_segment_is_noticed() {
        let good = segment(1..50);
        let mut harmed = [(); 4].map(|()| good.clone());
        harmed[0].trace_ids[3] ^= 1;
        harmed[1].names[0] ^= 128;
        harmed[2].kinds = 0;
        harmed[3].last += 1;
        assert!(good.view().is_sound());
        assert!(harmed.iter().all(|segment| !segment.view().is_sound()));
    }

    /// What stands on the disk was made with these: another hash or another layout would pass over it.
    #[test]
    fn the_layout_is_the_one_on_the_disk() {
        let hashes = [
            hash_name(Role::Service, "orders"),
            hash_name(Role::Caller, "orders"),
            hash_trace(&[7; 16]),
        ];
        let places: Vec<usize> = places(1 << 40 | 7, 640).collect();
        assert_eq!((hashes, &*places), (HASHES, &PLACES[..]));
        let bits = Kind::ALL.iter().fold(0_u64, |bits, kind| bits + bit(*kind));
        assert_eq!(bits, 0x1F_0000_3FFF, "each kind has a bit of its own, and keeps it");
    }

    const HASHES: [u64; 3] =
        [12_354_897_038_239_485_121, 13_126_704_664_755_889_556, 18_341_613_086_114_368_115];
    const PLACES: [usize; 7] = [0, 446, 252, 58, 505, 311, 117];
}
