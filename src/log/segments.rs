//! Where to look: a segment stands for a stretch of events of one class and says what can be in it, so that a
//! search passes over the stretches that can't hold what it wants.
//!
//! ```text
//!   derive ── Builder ──┬▶ Segment ──▶ a row of change_segments or traffic_segments
//!                       └▶ Traces ───▶ a row of change_traces or traffic_traces
//!   archive ── Sought::may_be_in, or may_be_traced_in ──▶ read this stretch, or pass over it
//! ```
//!
//! Filters of trace ids are most of what stands there, and whoever asks for a trace needs nothing else: the two are
//! kept apart, so that a search reads the one or the other.
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

/// A name in its role, as a number. The empty one, which no name is, says that an event had none in this role.
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

/// What else than traces is in a stretch: a row of its class's table.
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
    /// CRC-32 over all of the above.
    pub checksum: u32,
}

/// The traces in a stretch: a row of its class's table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Traces {
    /// Number of its first event.
    pub first: u64,
    /// Number of its last event.
    pub last: u64,
    /// Filter over the trace ids.
    pub trace_ids: Vec<u8>,
    /// CRC-32 over all of the above.
    pub checksum: u32,
}

/// A [`Segment`], borrowed from a row that is being read.
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
    /// CRC-32 over all of the above.
    pub checksum: u32,
}

/// [`Traces`], borrowed from a row that is being read.
#[derive(Clone, Copy, Debug)]
pub struct TracesView<'a> {
    /// Number of its first event.
    pub first: u64,
    /// Number of its last event.
    pub last: u64,
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
            checksum: self.checksum,
        }
    }
}

impl Traces {
    /// The traces, borrowed.
    #[must_use]
    pub fn view(&self) -> TracesView<'_> {
        let Self { first, last, ref trace_ids, checksum } = *self;
        TracesView { first, last, trace_ids, checksum }
    }
}

fn checksum(numbers: &[u64], filter: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for number in numbers {
        crc.update(&number.to_le_bytes());
    }
    crc.update(filter);
    crc.finalize()
}

impl View<'_> {
    fn expected_checksum(&self) -> u32 {
        let Self { first, last, seen_from, seen_to, kinds, names, .. } = *self;
        checksum(&[first, last, seen_from, seen_to, kinds], names)
    }

    /// Whether it is what was written. One that is not is as good as none.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.first <= self.last && self.checksum == self.expected_checksum()
    }
}

impl TracesView<'_> {
    fn expected_checksum(&self) -> u32 {
        checksum(&[self.first, self.last], self.trace_ids)
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

    /// Whether an event of this number would follow on what is in it.
    #[must_use]
    pub fn reaches(&self, number: u64) -> bool {
        number <= self.last.saturating_add(1)
    }

    /// Events that saw versions from `from` to `to` are in it, of kinds with these [`bit`]s; `last` is the number of the
    /// last of them.
    pub fn events(&mut self, last: u64, (from, to): (u64, u64), kinds: u64) {
        self.last = self.last.max(last);
        self.seen_from = self.seen_from.min(from);
        self.seen_to = self.seen_to.max(to);
        self.kinds |= kinds;
    }

    /// A name is in it; none if an event has none in this role.
    pub fn name(&mut self, role: Role, name: Option<&str>) {
        self.names.push(hash_name(role, name.unwrap_or_default()));
    }

    /// Traces are in it; all zero is none.
    pub fn traces<'t>(&mut self, trace_ids: impl IntoIterator<Item = &'t [u8]>) {
        let mut before: &[u8] = &[];
        for trace_id in trace_ids {
            // Neighbours are often of one trace.
            if trace_id != before && trace_id.iter().any(|byte| *byte != 0) {
                self.trace_ids.push(hash_trace(trace_id));
                before = trace_id;
            }
        }
    }

    /// The segment and its traces.
    #[must_use]
    pub fn finish(mut self) -> (Segment, Traces) {
        self.names.sort_unstable();
        self.names.dedup();
        let (first, last) = (self.first, self.last);
        let mut segment = Segment {
            first,
            last,
            seen_from: self.seen_from.min(self.seen_to),
            seen_to: self.seen_to,
            kinds: self.kinds,
            names: filter_of(&self.names),
            checksum: 0,
        };
        segment.checksum = segment.view().expected_checksum();
        let trace_ids = filter_of(&self.trace_ids);
        let mut traces = Traces { first, last, trace_ids, checksum: 0 };
        traces.checksum = traces.view().expected_checksum();
        (segment, traces)
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

    /// Only events without a name in this role.
    #[must_use]
    pub fn without_name(mut self, role: Role) -> Self {
        self.names.push(hash_name(role, ""));
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

    /// Whether the traces are to be asked, which say more than the segment can.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    /// Whether an event that is sought can be in the segment.
    #[must_use]
    pub fn may_be_in(&self, segment: &View<'_>) -> bool {
        self.kinds & segment.kinds != 0
            && segment.seen_from <= *self.seen.end()
            && segment.seen_to >= *self.seen.start()
            && self.names.iter().all(|hash| may_hold(segment.names, *hash))
    }

    /// Whether an event of the trace that is sought can be there.
    #[must_use]
    pub fn may_be_traced_in(&self, traces: &TracesView<'_>) -> bool {
        self.trace.is_none_or(|hash| may_hold(traces.trace_ids, hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(names: std::ops::Range<u32>) -> (Segment, Traces) {
        let mut builder = Builder::new(1);
        for n in names {
            builder.events(n.into(), (n.into(), n.into()), bit(Kind::Lookup));
            builder.name(Role::Service, Some(&format!("service-{n}")));
            let trace = u128::from(n + 1).to_be_bytes();
            builder.traces([&[0; 16][..], &trace, &trace]);
        }
        builder.finish()
    }

    fn sought() -> Sought {
        Sought::everything(Class::Traffic)
    }

    #[test]
    fn nothing_that_is_there_is_passed_over_and_little_else_is_read() {
        let (segment, traces) = segment(1..1_001);
        assert!(segment.view().is_sound() && traces.view().is_sound());
        assert_eq!(traces.trace_ids.len(), 1_250, "each trace once, and none for those without");
        let service = |n: u32| sought().with_name(Role::Service, Some(&format!("service-{n}")));
        let trace = |n: u32| sought().of_trace(Some(u128::from(n + 1).to_be_bytes()));
        assert!((1..1_001).all(|n| service(n).may_be_in(&segment.view())));
        assert!((1..1_001).all(|n| trace(n).may_be_traced_in(&traces.view())));
        // One in 120 is 167 of 20,000.
        let named = (2_000..22_000).filter(|n| service(*n).may_be_in(&segment.view())).count();
        let traced = (2_000..22_000).filter(|n| trace(*n).may_be_traced_in(&traces.view())).count();
        assert!(named < 300 && traced < 300, "{named} and {traced}");
        assert!(trace(1).is_traced() && !service(1).is_traced());
        let caller = sought().with_name(Role::Caller, Some("service-7"));
        assert!(!caller.may_be_in(&segment.view()), "a name counts in its role only");
    }

    #[test]
    fn that_there_is_no_name_is_known_too() {
        let mut builder = Builder::new(1);
        builder.name(Role::Service, Some("orders"));
        builder.name(Role::Instance, None);
        let (segment, _) = builder.finish();
        let segment = Segment { kinds: bit(Kind::Lookup), seen_from: 0, ..segment };
        let is_in = |sought: Sought| sought.may_be_in(&segment.view());
        assert!(is_in(sought().without_name(Role::Instance)));
        assert!(!is_in(sought().without_name(Role::Service)));
        assert!(!is_in(sought().without_name(Role::Caller)));
        assert!(is_in(sought().with_name(Role::Caller, Some(""))), "nobody asks for this name");
    }

    #[test]
    fn kinds_and_versions_decide_too() {
        let (segment, _) = segment(10..21);
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
        let (segment, traces) = segment(1..50);
        assert!(segment.view().is_sound() && traces.view().is_sound());
        let mut harmed = [(); 3].map(|()| segment.clone());
        harmed[0].names[0] ^= 128;
        harmed[1].kinds = 0;
        harmed[2].last += 1;
        assert!(harmed.iter().all(|segment| !segment.view().is_sound()));
        let mut harmed = [(); 2].map(|()| traces.clone());
        harmed[0].trace_ids[3] ^= 1;
        harmed[1].last += 1;
        assert!(harmed.iter().all(|traces| !traces.view().is_sound()));
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
