//! Traffic as it is stored: up to 256 events a row, a column of fixed width each, with a small dictionary
//! of names, so that a block stands alone and goes whole.
//!
//! A row per event would cost six times the CPU and, with an index, half as much space again; the view
//! `events` unfolds blocks for whoever reads the file with a shell. See `migrations/V1__event_log.sql` for the
//! columns and `migrations/V5__packed_blocks.sql` for how numbers are packed in them, [`Form`] for what of them a kind
//! of event uses, and [`super::columns`] for the way back, also from blocks that older programs wrote.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

use super::baggage::{StoredBaggage, load as load_baggage, put, store};
use super::cells::pack;
use crate::domain::event::Kind;
use crate::domain::instance::Health;
use crate::domain::traffic::{CloseReason, Detail, Traffic};
use crate::domain::{Baggage, InstanceId, Namespace, Seq, ServiceName};

/// Events of a full block.
pub const BLOCK: usize = 256;

/// Columns of numbers, in the order of the table.
pub const NUMBERS: usize = 9;

/// One block: a row of the table `traffic`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Block {
    /// Number of its first event.
    pub first: u64,
    /// Events in it, 1 to 256.
    pub count: usize,
    /// Microseconds since the epoch of the first event.
    pub first_at: i64,
    /// The same of the last.
    pub last_at: i64,
    /// The lowest version that one of the events saw.
    pub seen_from: u64,
    /// JSON array of texts; entry 0 is null.
    pub names: String,
    /// The number of each event's [`Form`]. What the first byte is also tells how all numbers of the block are written.
    pub kinds: Vec<u8>,
    /// ats, seen, namespaces, services, instances, callers, details, revisions, returned.
    pub numbers: [Vec<u8>; NUMBERS],
    /// HTTP statuses.
    pub statuses: Vec<u8>,
    /// 16 bytes each.
    pub trace_ids: Vec<u8>,
    /// 8 bytes each.
    pub span_ids: Vec<u8>,
    /// CRC-32 of all of the above.
    pub checksum: u32,
}

/// How an event is laid out in its columns: the number in `kinds`. A number once given keeps its meaning for ever.
///
/// | number | event | details | revisions | returned |
/// | --- | --- | --- | --- | --- |
/// | 0 | heartbeat | what it said, JSON | incarnation | 0 |
/// | 1 | lookup | filter | revision answered | instances |
/// | 2 | watch opened | filter | after | 0 |
/// | 3 | watch closed | filter and reason, JSON | through | 0 |
/// | 4 | notified | filter | through | events |
/// | 5 | lookup, answered by a long poll | filter and revision held, JSON | revision answered | instances |
/// | 6 | lookup that brought baggage along | filter, revision held if any, baggage, JSON | revision answered | instances |
///
/// The view `events` shows 6 as it shows 5, so that it needed no new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A heartbeat.
    Heartbeat,
    /// A lookup.
    Lookup,
    /// A stream began.
    WatchOpened,
    /// A stream ended.
    WatchClosed,
    /// A stream was told.
    Notified,
    /// A lookup that waited for a change.
    LongPoll,
    /// A lookup that brought baggage along, whether it waited or not.
    LookupCarrying,
}

impl Form {
    const ALL: [Self; 7] = [
        Self::Heartbeat,
        Self::Lookup,
        Self::WatchOpened,
        Self::WatchClosed,
        Self::Notified,
        Self::LongPoll,
        Self::LookupCarrying,
    ];

    /// The form of an event that says `detail`.
    #[must_use]
    pub fn of(detail: &Detail) -> Self {
        match detail {
            Detail::Heartbeat { .. } => Self::Heartbeat,
            Detail::Lookup { baggage: Some(_), .. } => Self::LookupCarrying,
            Detail::Lookup { held: None, baggage: None, .. } => Self::Lookup,
            Detail::Lookup { held: Some(_), baggage: None, .. } => Self::LongPoll,
            Detail::WatchOpened { .. } => Self::WatchOpened,
            Detail::WatchClosed { .. } => Self::WatchClosed,
            Detail::Notified { .. } => Self::Notified,
        }
    }

    /// The kind of an event that is laid out so.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Heartbeat => Kind::Heartbeat,
            Self::Lookup | Self::LongPoll | Self::LookupCarrying => Kind::Lookup,
            Self::WatchOpened => Kind::WatchOpened,
            Self::WatchClosed => Kind::WatchClosed,
            Self::Notified => Kind::Notified,
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u64 {
        self as u64
    }

    /// The form that a number stands for.
    #[must_use]
    pub fn parse(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// What a heartbeat said beyond its life.
#[derive(Serialize, Deserialize, Default, PartialEq)]
pub(super) struct Said {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) load: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) health: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) baggage: Option<StoredBaggage>,
}

/// The details of a lookup that brought baggage along.
#[derive(Serialize, Deserialize)]
pub(super) struct Carrying {
    pub(super) filter: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held: Option<u64>,
    pub(super) baggage: StoredBaggage,
}

/// The details of a lookup that a long poll answered.
#[derive(Serialize, Deserialize)]
pub(super) struct Polled {
    pub(super) filter: Box<str>,
    pub(super) held: u64,
}

/// The details of a stream's end.
#[derive(Serialize, Deserialize)]
pub(super) struct Closed {
    pub(super) filter: Box<str>,
    pub(super) reason: String,
}

fn to_json(detail: &impl Serialize) -> String {
    serde_json::to_string(detail).expect("numbers and strings are always JSON")
}

/// The texts of a block, each once. The short ones that repeat are found by their content.
#[derive(Default)]
struct Names<'a> {
    positions: HashMap<&'a str, u64, RandomState>,
    /// Where the texts stand that are made of what heartbeats said: the bits of a load, and a health. Loads are measured
    /// in hundredths or so, so that many say the same.
    said: HashMap<(Option<u64>, Option<Health>), u64, RandomState>,
    /// Where the texts stand that hold baggage: callers bring the same along with very many requests.
    carrying: HashMap<String, u64, RandomState>,
    json: String,
    count: u64,
}

impl<'a> Names<'a> {
    fn position(&mut self, text: Option<&'a str>) -> u64 {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return 0 };
        if let Some(position) = self.positions.get(text) {
            return *position;
        }
        let position = self.append(text);
        self.positions.insert(text, position);
        position
    }

    /// What a heartbeat said beyond its life.
    fn said(
        &mut self,
        load: Option<f64>,
        health: Option<Health>,
        note: Option<&str>,
        baggage: Option<&Arc<Baggage>>,
    ) -> u64 {
        let key = (load.map(f64::to_bits), health);
        let make = || {
            let health = health.map(|health| health.to_string());
            to_json(&Said { load, health, note: note.map(Box::from), baggage: store(baggage) })
        };
        if baggage.is_some() {
            return self.carrying(make());
        }
        match (key, note) {
            ((None, None), None) => 0,
            // Notes are rare enough to stand once each.
            (_, Some(_)) => self.append(&make()),
            (key, None) => {
                if let Some(position) = self.said.get(&key) {
                    return *position;
                }
                let position = self.append(&make());
                self.said.insert(key, position);
                position
            }
        }
    }

    /// A text that holds baggage.
    fn carrying(&mut self, text: String) -> u64 {
        if let Some(position) = self.carrying.get(&text) {
            return *position;
        }
        let position = self.append(&text);
        self.carrying.insert(text, position);
        position
    }

    /// Texts made here, which nobody else owns.
    fn append(&mut self, text: &str) -> u64 {
        self.count += 1;
        self.json.push(',');
        self.json.push_str(&serde_json::to_string(text).expect("a string is always JSON"));
        self.count
    }

    fn finish(self) -> String {
        format!("[null{}]", self.json)
    }
}

/// Encodes 1 to 256 events, the first of which has the number `first`.
///
/// # Panics
/// If `events` is empty.
#[must_use]
pub fn encode(first: u64, events: &[Traffic]) -> Block {
    let (start, end) = (events.first(), events.last());
    let (start, end) = start.zip(end).expect("a block holds at least one event");
    let first_at = start.at.micros();
    let seen_from = events.iter().map(|event| event.seen.0).min().unwrap_or(0);
    let mut names = Names::default();
    let mut columns: [Vec<u64>; NUMBERS + 2] =
        std::array::from_fn(|_| Vec::with_capacity(events.len()));
    let mut block = Block {
        first,
        count: events.len(),
        first_at,
        last_at: end.at.micros(),
        seen_from,
        trace_ids: Vec::with_capacity(16 * events.len()),
        span_ids: Vec::with_capacity(8 * events.len()),
        ..Block::default()
    };
    for event in events {
        let (detail, revision, returned, status) = match &event.detail {
            Detail::Heartbeat { incarnation, load, health, note, baggage } => {
                let said = names.said(*load, *health, note.as_deref(), baggage.as_ref());
                (said, *incarnation, 0, 200)
            }
            Detail::Lookup { filter, revision, returned, status, held, baggage } => {
                let detail = match (held, store(baggage.as_ref())) {
                    (None, None) => names.position(Some(filter)),
                    (Some(held), None) => {
                        names.append(&to_json(&Polled { filter: filter.clone(), held: held.0 }))
                    }
                    (held, Some(baggage)) => {
                        let (filter, held) = (filter.clone(), held.map(|held| held.0));
                        names.carrying(to_json(&Carrying { filter, held, baggage }))
                    }
                };
                (detail, *revision, *returned, *status)
            }
            Detail::WatchOpened { filter, after } => (names.position(Some(filter)), *after, 0, 200),
            Detail::WatchClosed { filter, through, reason } => {
                let closed = Closed { filter: filter.clone(), reason: reason.to_string() };
                (names.append(&to_json(&closed)), *through, 0, 200)
            }
            Detail::Notified { filter, through, events } => {
                (names.position(Some(filter)), *through, *events, 200)
            }
        };
        let row = [
            u64::try_from(event.at.micros().saturating_sub(first_at)).unwrap_or(0),
            event.seen.0 - seen_from,
            names.position(event.namespace.as_ref().map(Namespace::as_str)),
            names.position(event.service.as_ref().map(ServiceName::as_str)),
            names.position(event.instance.as_ref().map(InstanceId::as_str)),
            names.position(Some(&event.caller)),
            detail,
            revision.0,
            u64::from(returned),
            Form::of(&event.detail).number(),
            u64::from(status.min(999)),
        ];
        for (column, number) in columns.iter_mut().zip(row) {
            column.push(number);
        }
        block.trace_ids.extend_from_slice(&event.trace.trace_id);
        block.span_ids.extend_from_slice(&event.trace.span_id);
    }
    block.names = names.finish();
    let [numbers @ .., kinds, statuses] = columns.map(|column| pack(&column));
    (block.numbers, block.kinds, block.statuses) = (numbers, kinds, statuses);
    block.checksum = block.expected_checksum();
    block
}

impl Block {
    /// Whether its numbers are packed, as they are written now. Until schema 4 they were digits as text: `kinds` begins
    /// with one there, and with the number itself here.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        self.kinds.first().is_some_and(|kind| *kind < b'0')
    }

    /// The checksum that the other fields call for.
    #[must_use]
    pub fn expected_checksum(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        if self.is_packed() {
            // These have no fixed length here, so that one could end where another begins.
            for column in [self.names.as_bytes(), &self.kinds, &self.statuses] {
                crc.update(&(column.len() as u64).to_le_bytes());
            }
        }
        for number in [self.first, self.count as u64, self.seen_from] {
            crc.update(&number.to_le_bytes());
        }
        crc.update(&self.first_at.to_le_bytes());
        crc.update(&self.last_at.to_le_bytes());
        crc.update(self.names.as_bytes());
        crc.update(&self.kinds);
        for column in &self.numbers {
            crc.update(&(column.len() as u64).to_le_bytes());
            crc.update(column);
        }
        for column in [&self.statuses, &self.trace_ids, &self.span_ids] {
            crc.update(column);
        }
        crc.finalize()
    }
}

/// What an event of traffic shows as its `data`.
#[must_use]
pub fn data_of(detail: &Detail) -> String {
    let data = match detail {
        Detail::Heartbeat { incarnation, load, health, note, baggage: _ } => {
            let mut data = serde_json::json!({ "incarnation": incarnation.0 });
            let said = Said {
                load: *load,
                health: health.map(|health| health.to_string()),
                note: note.clone(),
                baggage: None,
            };
            if let (Some(data), Ok(serde_json::Value::Object(said))) =
                (data.as_object_mut(), serde_json::to_value(said))
            {
                data.extend(said);
            }
            data
        }
        Detail::Lookup { filter, revision, returned, status, held, baggage: _ } => {
            let mut data = serde_json::json!({
                "filter": filter, "revision": revision.0, "returned": returned, "status": status
            });
            if let (Some(held), Some(data)) = (held, data.as_object_mut()) {
                data.insert("held".to_owned(), held.0.into());
            }
            data
        }
        Detail::WatchOpened { filter, after } => {
            serde_json::json!({ "filter": filter, "after": after.0 })
        }
        Detail::WatchClosed { filter, through, reason } => serde_json::json!({
            "filter": filter, "through": through.0, "reason": reason.as_str()
        }),
        Detail::Notified { filter, through, events } => serde_json::json!({
            "filter": filter, "through": through.0, "events": events
        }),
    };
    let mut data = data.to_string();
    if let Some(baggage) = detail.baggage() {
        put(&mut data, baggage);
    }
    data
}

/// The payload of any traffic event: what [`data_of`] writes of one kind or another.
#[derive(Deserialize)]
struct Data {
    incarnation: Option<u64>,
    #[serde(flatten)]
    said: Said,
    filter: Option<Box<str>>,
    revision: Option<u64>,
    returned: Option<u32>,
    status: Option<u16>,
    held: Option<u64>,
    after: Option<u64>,
    through: Option<u64>,
    reason: Option<String>,
    events: Option<u32>,
}

fn given<T>(value: Option<T>, field: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("data.{field} is missing"))
}

/// Reads what [`data_of`] wrote.
///
/// # Errors
/// What is wrong with it, with the name of the field.
pub fn detail_of(kind: Kind, data: &str) -> Result<Detail, String> {
    let data: Data = serde_json::from_str(data).map_err(|error| format!("data: {error}"))?;
    let seq = |value, field| given(value, field).map(Seq);
    let filter = || given(data.filter.clone(), "filter");
    Ok(match kind {
        Kind::Heartbeat => {
            let Said { load, health, note, baggage } = data.said;
            let parse = |word: &str| {
                Health::parse(word).ok_or_else(|| format!("data.health: unknown word {word:?}"))
            };
            Detail::Heartbeat {
                incarnation: seq(data.incarnation, "incarnation")?,
                load,
                health: health.as_deref().map(parse).transpose()?,
                note,
                baggage: load_baggage(baggage),
            }
        }
        Kind::Lookup => Detail::Lookup {
            filter: filter()?,
            revision: seq(data.revision, "revision")?,
            returned: given(data.returned, "returned")?,
            status: given(data.status, "status")?,
            held: data.held.map(Seq),
            baggage: load_baggage(data.said.baggage),
        },
        Kind::WatchOpened => {
            Detail::WatchOpened { filter: filter()?, after: seq(data.after, "after")? }
        }
        Kind::WatchClosed => {
            let reason = given(data.reason.as_deref(), "reason")?;
            Detail::WatchClosed {
                filter: filter()?,
                through: seq(data.through, "through")?,
                reason: CloseReason::parse(reason)
                    .ok_or_else(|| format!("data.reason: unknown word {reason:?}"))?,
            }
        }
        Kind::Notified => Detail::Notified {
            filter: filter()?,
            through: seq(data.through, "through")?,
            events: given(data.events, "events")?,
        },
        Kind::Registered
        | Kind::Updated
        | Kind::ModeChanged
        | Kind::StatusChanged
        | Kind::Deregistered
        | Kind::Expired
        | Kind::Started
        | Kind::Recovered
        | Kind::LogGap
        | Kind::Checkpoint
        | Kind::SignalsChanged
        | Kind::GuardEntered
        | Kind::GuardLeft
        | Kind::Compacted => return Err(format!("{kind} is a change, not traffic")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::columns::Columns;
    use super::*;
    use crate::domain::{Timestamp, TraceRef};

    #[test]
    fn heartbeats_that_say_the_same_share_a_text_and_no_others_do() {
        let beat = |load, health, note: Option<&str>| Traffic {
            at: Timestamp(1),
            seen: Seq(1),
            namespace: Some(Namespace::default()),
            service: Some(ServiceName::new("orders").unwrap()),
            instance: Some(InstanceId::new("orders-1").unwrap()),
            caller: Arc::from("web"),
            trace: TraceRef::default(),
            detail: Detail::Heartbeat {
                incarnation: Seq(1),
                load,
                health,
                note: note.map(Box::from),
                baggage: None,
            },
        };
        let events = [
            beat(None, None, None),
            beat(Some(0.42), None, None),
            beat(Some(0.42), None, None),
            beat(Some(0.42), Some(Health::Passing), None),
            beat(Some(0.42), Some(Health::Failing), None),
            beat(Some(0.42), Some(Health::Failing), None),
            beat(Some(0.42), None, Some("warm")),
            beat(Some(0.42), None, Some("warm")),
            beat(None, Some(Health::Passing), None),
            beat(Some(0.25), None, None),
            beat(None, None, None),
        ];
        let block = encode(7, &events);
        let columns = Columns::open(&block).unwrap();
        for (n, event) in events.iter().enumerate() {
            assert_eq!(columns.event(n).unwrap().traffic, *event, "{n}");
        }
        // Four names, and what was said: five different ones, and each note by itself.
        let texts: Vec<Option<String>> = serde_json::from_str(&block.names).unwrap();
        assert_eq!(texts.len() - 1, 4 + 5 + 2, "{texts:?}");
    }
}
