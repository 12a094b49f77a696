//! What stays of traffic when it has gone: lookups as counts of equal ones per minute, heartbeats as runs per life
//! and hour.
//!
//! ```text
//!   derive ── Parsed ───▶ Lookups::take ──▶ Minute  ──▶ a row of lookup_minutes
//!                    └──▶ Beats::take   ──▶ Run     ──▶ a row of heartbeat_runs
//! ```
//!
//! Both gather a *period* and give it out when an event of the next one comes: times and numbers only grow together,
//! so that it is complete then. Where a period ends depends on nothing but the events, so that after a crash the
//! same rows are made again. A period also ends after [`PERIOD`] numbers, so that at any rate of traffic no more
//! than some 250 MB of it wait for their roll-up. Where no next event comes, or not soon enough for what is to be kept,
//! retention ends the period ([`Lookups::end`], [`Beats::end`]) at a number that is written down before.
//! Pure, and careful with time: derived in the background on the machine that serves. No allocation per event.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::blocks::Form;
use super::columns::{Columns, Parsed};
use crate::domain::Timestamp;

/// Numbers after which a period ends in any case.
pub const PERIOD: u64 = 1 << 22;

/// Different lookups that are counted apart in a minute. Callers, filters and unknown names come from the network:
/// what they may take is bounded.
pub const DISTINCT_MAX: usize = 10_000;

/// Who stands for all callers beyond that. No caller can have this name.
pub const OTHER: &str = "_other";

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// Heartbeats are gathered for ten minutes: a row of an hour is then written six times, and not at every beat.
const BEATS: i64 = 10 * MINUTE;

/// The lookups of a minute: a row of the table `lookup_minutes`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Minute {
    /// Minutes since the epoch.
    pub minute: i64,
    /// Number of the first traffic event of the period.
    pub part: u64,
    /// Number of the last one.
    pub last: u64,
    /// JSON array: the texts of this row; entry 0 is null.
    pub names: String,
    /// The counts: see `Count`. Numbers of seven bits a byte, the low ones first.
    pub counts: Vec<u8>,
    /// CRC-32 over all of the above.
    pub checksum: u32,
}

/// Equal lookups: what stands in `counts`, twelve numbers each. Names are positions; the first number counts from
/// the part, the first instant from the minute, the last ones from the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Count {
    key: Key,
    count: u64,
    first: u64,
    last: u64,
    first_at: i64,
    last_at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Key {
    namespace: u32,
    service: u32,
    instance: u32,
    caller: u32,
    filter: u32,
    revision: u64,
    status: u16,
}

impl Hash for Key {
    /// Four numbers instead of seven: it is hashed for every lookup.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        state.write_u64(pair(self.namespace, self.service));
        state.write_u64(pair(self.instance, self.caller));
        state.write_u64(pair(self.filter, self.status.into()));
        state.write_u64(self.revision);
    }
}

/// Equal lookups, as they are read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted<'a> {
    /// In which namespace.
    pub namespace: Option<&'a str>,
    /// The service.
    pub service: Option<&'a str>,
    /// The instance.
    pub instance: Option<&'a str>,
    /// Who asked; [`OTHER`] for the sum of those that found no place.
    pub caller: &'a str,
    /// The filter; of [`OTHER`] it is not known.
    pub filter: &'a str,
    /// The revision answered; of [`OTHER`] it is not known and 0.
    pub revision: u64,
    /// The status of the answer.
    pub status: u16,
    /// How many.
    pub count: u64,
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// When the first was answered.
    pub first_at: Timestamp,
    /// When the last was.
    pub last_at: Timestamp,
}

impl Minute {
    fn expected_checksum(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.minute.to_le_bytes());
        crc.update(&self.part.to_le_bytes());
        crc.update(&self.last.to_le_bytes());
        crc.update(&(self.names.len() as u64).to_le_bytes());
        crc.update(self.names.as_bytes());
        crc.update(&self.counts);
        crc.finalize()
    }

    /// When the minute began.
    #[must_use]
    pub fn begins(&self) -> Timestamp {
        Timestamp(self.minute.saturating_mul(MINUTE))
    }

    /// Shows the counts in the order of the first lookup of each.
    ///
    /// # Errors
    /// What is wrong with the row: it is not what was written.
    pub fn read(&self, visit: &mut dyn FnMut(Counted<'_>)) -> Result<(), String> {
        let expected = self.expected_checksum();
        if self.checksum != expected {
            return Err(format!("checksum {:08x}, the content has {expected:08x}", self.checksum));
        }
        let names: Vec<Option<Box<str>>> =
            serde_json::from_str(&self.names).map_err(|error| format!("names: {error}"))?;
        let name = |position: u64| -> Result<Option<&str>, String> {
            let position = usize::try_from(position).unwrap_or(usize::MAX);
            let name = names.get(position).ok_or("a count names a text that is not there")?;
            Ok(name.as_deref())
        };
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut rest = &*self.counts;
        while !rest.is_empty() {
            let mut row = [0; 12];
            for number in &mut row {
                *number = take_number(&mut rest).ok_or("the counts end in the middle of one")?;
            }
            let [namespace, service, instance, caller, filter, revision, status, ..] = row;
            let [.., count, first, last, first_at, last_at] = row;
            let first = self.part.saturating_add(first);
            let first_at = self.begins().0.saturating_add(signed(first_at));
            visit(Counted {
                namespace: name(namespace)?,
                service: name(service)?,
                instance: name(instance)?,
                caller: name(caller)?.unwrap_or_default(),
                filter: name(filter)?.unwrap_or_default(),
                revision,
                status: u16::try_from(status).map_err(|error| error.to_string())?,
                count,
                first,
                last: first.saturating_add(last),
                first_at: Timestamp(first_at),
                last_at: Timestamp(first_at.saturating_add(signed(last_at))),
            });
        }
        Ok(())
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = (number & 0x7F).to_le_bytes();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(0x80 | low);
    }
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// A stretch of time and of numbers: it ends with its time, or after [`PERIOD`] numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Period {
    ats: Range<i64>,
    numbers: Range<u64>,
}

impl Period {
    /// The one of so many microseconds that holds an event.
    fn of(at: i64, length: i64, number: u64) -> Self {
        let (begin, first) = (at.saturating_sub(at.rem_euclid(length)), number - number % PERIOD);
        Self {
            ats: begin..begin.saturating_add(length),
            numbers: first..first.saturating_add(PERIOD),
        }
    }

    fn holds(&self, at: i64, number: u64) -> bool {
        self.ats.contains(&at) && self.numbers.contains(&number)
    }
}

/// The texts of a period, by number: 1 is the first, 0 is none.
#[derive(Debug, Default)]
struct Texts {
    ids: HashMap<Arc<str>, u32, RandomState>,
    all: Vec<Arc<str>>,
    /// For each position of the block that is being taken, the number here, or one that none has.
    known: Vec<u32>,
}

/// No text has this number.
const UNKNOWN: u32 = u32::MAX;

impl Texts {
    /// Forgets what the positions of the last block meant.
    fn of_block(&mut self, columns: &Columns<'_>) {
        self.known.clear();
        self.known.resize(columns.texts(), UNKNOWN);
    }

    /// The number of the text at a position of the block.
    fn at(&mut self, columns: &Columns<'_>, position: u32) -> u32 {
        match self.known_at(columns, position) {
            UNKNOWN => {
                let id = self.id(text_at(columns, position));
                self.note(position, id);
                id
            }
            id => id,
        }
    }

    /// The same, if it has a number already.
    fn known_at(&mut self, columns: &Columns<'_>, position: u32) -> u32 {
        match self.known.get(position as usize).copied().unwrap_or(UNKNOWN) {
            UNKNOWN => {
                let id = self.known(text_at(columns, position));
                self.note(position, id);
                id
            }
            id => id,
        }
    }

    fn note(&mut self, position: u32, id: u32) {
        if let Some(known) = self.known.get_mut(position as usize) {
            *known = id;
        }
    }

    fn known(&self, text: &str) -> u32 {
        match text {
            "" => 0,
            text => self.ids.get(text).copied().unwrap_or(UNKNOWN),
        }
    }

    fn id(&mut self, text: &str) -> u32 {
        match self.known(text) {
            UNKNOWN => {
                let text: Arc<str> = text.into();
                self.all.push(Arc::clone(&text));
                let id = u32::try_from(self.all.len()).unwrap_or(UNKNOWN - 1);
                self.ids.insert(text, id);
                id
            }
            id => id,
        }
    }

    fn text(&self, id: u32) -> &str {
        let place = (id as usize).checked_sub(1);
        place.and_then(|place| self.all.get(place)).map_or("", |text| text)
    }

    fn clear(&mut self) {
        self.ids.clear();
        self.all.clear();
        self.known.fill(UNKNOWN);
    }
}

fn text_at<'c>(columns: &'c Columns<'_>, position: u32) -> &'c str {
    columns.text(position as usize).unwrap_or_default()
}

/// The lookups of the present minute.
#[derive(Debug, Default)]
pub struct Lookups {
    period: Option<Period>,
    part: u64,
    last: u64,
    texts: Texts,
    rows: HashMap<Key, usize, RandomState>,
    counts: Vec<Count>,
    /// How many of the counts are of [`OTHER`].
    others: usize,
}

impl Lookups {
    /// Takes the events of a block that come after the number `after`. What is complete is put into `closed`; gives the
    /// number up to which everything is there, if that has moved.
    ///
    /// # Errors
    /// What is wrong with the block.
    pub fn take(
        &mut self,
        columns: &Columns<'_>,
        parsed: &Parsed,
        after: u64,
        closed: &mut Vec<Minute>,
    ) -> Result<Option<u64>, String> {
        let mut through = None;
        self.texts.of_block(columns);
        for n in events_after(columns, after) {
            let number = columns.event_number(n);
            let at = at(columns, parsed, n);
            if !self.period.as_ref().is_some_and(|period| period.holds(at, number)) {
                if self.period.is_some() {
                    through = Some(self.last);
                    closed.extend(self.close());
                }
                (self.period, self.part) = (Some(Period::of(at, MINUTE, number)), number);
            }
            self.last = number;
            if matches!(parsed.forms[n], Some(Form::Lookup | Form::LongPoll)) {
                self.count(columns, parsed, n, at)?;
            }
        }
        Ok(through)
    }

    fn count(
        &mut self,
        columns: &Columns<'_>,
        parsed: &Parsed,
        n: usize,
        at: i64,
    ) -> Result<(), String> {
        // For one more there is no place: what was not seen before in this minute needs no number either.
        let full = self.counts.len() - self.others >= DISTINCT_MAX;
        let texts = &mut self.texts;
        let [namespace, service, instance, caller, filter] =
            parsed.positions.each_ref().map(|of| of[n]);
        let mut id = |position: u32| match full {
            true => texts.known_at(columns, position),
            false => texts.at(columns, position),
        };
        let ids = [id(namespace), id(service), id(instance), id(caller)];
        let filter = match parsed.forms[n] {
            Some(Form::LongPoll) if full => texts.known(&columns.filter(n)?),
            Some(Form::LongPoll) => texts.id(&columns.filter(n)?),
            _ => id(filter),
        };
        let [of_namespace, of_service, instance, caller] = ids;
        let (revision, status) = (parsed.revisions[n], parsed.statuses[n]);
        let mut key = Key {
            namespace: of_namespace,
            service: of_service,
            instance,
            caller,
            filter,
            revision,
            status,
        };
        if full && !self.rows.contains_key(&key) {
            key = self.other(text_at(columns, namespace), text_at(columns, service), status);
        }
        let number = columns.event_number(n);
        let place = *self.rows.entry(key).or_insert(self.counts.len());
        if place == self.counts.len() {
            self.others += usize::from(full);
            let first_at = at;
            self.counts.push(Count { key, first: number, first_at, ..Count::default() });
        }
        let count = &mut self.counts[place];
        count.count += 1;
        (count.last, count.last_at) = (number, at);
        Ok(())
    }

    /// Where a lookup is counted for which there is no place of its own: with all of its service, and when even these
    /// are too many, with all that got the same answer.
    fn other(&mut self, namespace: &str, service: &str, status: u16) -> Key {
        let caller = self.texts.id(OTHER);
        let (of_namespace, of_service) = (self.texts.known(namespace), self.texts.known(service));
        let key = |namespace, service| Key { namespace, service, caller, status, ..Key::default() };
        let known = key(of_namespace, of_service);
        if self.rows.contains_key(&known) {
            known
        } else if self.others < DISTINCT_MAX {
            key(self.texts.id(namespace), self.texts.id(service))
        } else {
            key(0, 0)
        }
    }

    /// Ends the present period; what comes next begins another one, also within the same minute.
    pub fn end(&mut self) -> Option<Minute> {
        self.close()
    }

    /// The row of the period that has ended; none if there was no lookup in it.
    fn close(&mut self) -> Option<Minute> {
        let begins = self.period.take()?.ats.start;
        let minute = begins.div_euclid(MINUTE);
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        let mut counts = Vec::with_capacity(self.counts.len() * 20);
        for count in &self.counts {
            let Key { namespace, service, instance, caller, filter, revision, status } = count.key;
            for position in [namespace, service, instance, caller, filter] {
                put_number(&mut counts, position.into());
            }
            for number in [
                revision,
                status.into(),
                count.count,
                count.first - self.part,
                count.last - count.first,
                unsigned(count.first_at - begins),
                unsigned(count.last_at - count.first_at),
            ] {
                put_number(&mut counts, number);
            }
        }
        let mut names = "[null".to_owned();
        for text in &self.texts.all {
            names.push(',');
            names.push_str(&serde_json::to_string(text).unwrap_or_default());
        }
        names.push(']');
        let mut row =
            Minute { minute, part: self.part, last: self.last, names, counts, checksum: 0 };
        row.checksum = row.expected_checksum();
        let any = !self.counts.is_empty();
        self.forget();
        any.then_some(row)
    }

    /// Begins anew. The room is used again, unless it was much: a minute of very many need not be paid for ever.
    fn forget(&mut self) {
        if self.rows.capacity() > DISTINCT_MAX {
            let known = std::mem::take(&mut self.texts.known);
            *self = Self { texts: Texts { known, ..Texts::default() }, ..Self::default() };
        }
        self.texts.clear();
        self.rows.clear();
        self.counts.clear();
        self.others = 0;
    }
}

/// The heartbeats of one life within an hour, or within the part of it that a period covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// `namespace/service/instance/incarnation`: no name holds a slash.
    pub life: Box<str>,
    /// Hours since the epoch.
    pub hour: i64,
    /// Microseconds since the epoch of the first.
    pub first_at: i64,
    /// The same of the last.
    pub last_at: i64,
    /// How many.
    pub count: u64,
    /// The widest gap before one of them, in microseconds.
    pub widest_gap: i64,
    /// When it ended.
    pub widest_gap_at: i64,
    /// The number of the last.
    pub through: u64,
}

impl Run {
    /// What stands in the row of its hour, given the newest run of this life that is stored: the gap between the two
    /// is seen here. None if the run is stored already.
    #[must_use]
    pub fn after(mut self, stored: Option<&Self>) -> Option<Self> {
        let Some(stored) = stored else { return Some(self) };
        if stored.through >= self.through {
            return None;
        }
        let between = self.first_at.saturating_sub(stored.last_at);
        if between > self.widest_gap {
            (self.widest_gap, self.widest_gap_at) = (between, self.first_at);
        }
        if stored.hour == self.hour {
            self.first_at = stored.first_at;
            self.count += stored.count;
            if stored.widest_gap >= self.widest_gap {
                (self.widest_gap, self.widest_gap_at) = (stored.widest_gap, stored.widest_gap_at);
            }
        }
        Some(self)
    }
}

/// A life, by the numbers of its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Life {
    namespace: u32,
    service: u32,
    instance: u32,
    incarnation: u64,
}

/// The heartbeats of the present period: one run for each life, as long as that is.
#[derive(Debug, Default)]
pub struct Beats {
    period: Option<Period>,
    last: u64,
    texts: Texts,
    lives: HashMap<Life, usize, RandomState>,
    runs: Vec<(Life, Run)>,
}

impl Beats {
    /// Takes the events of a block that come after the number `after`. What is complete is put into `closed`, with the
    /// number up to which everything is there then.
    pub fn take(
        &mut self,
        columns: &Columns<'_>,
        parsed: &Parsed,
        after: u64,
        closed: &mut Vec<(Vec<Run>, u64)>,
    ) {
        self.texts.of_block(columns);
        for n in events_after(columns, after) {
            let number = columns.event_number(n);
            let at = at(columns, parsed, n);
            if !self.period.as_ref().is_some_and(|period| period.holds(at, number)) {
                if self.period.is_some() {
                    closed.push((self.close(), self.last));
                }
                self.period = Some(Period::of(at, BEATS, number));
            }
            self.last = number;
            if parsed.forms[n] == Some(Form::Heartbeat) {
                self.beat(columns, parsed, n, at);
            }
        }
    }

    fn beat(&mut self, columns: &Columns<'_>, parsed: &Parsed, n: usize, at: i64) {
        let [namespace, service, instance, ..] =
            parsed.positions.each_ref().map(|of| self.texts.at(columns, of[n]));
        let life = Life { namespace, service, instance, incarnation: parsed.revisions[n] };
        let through = columns.event_number(n);
        let place = *self.lives.entry(life).or_insert(self.runs.len());
        match self.runs.get_mut(place) {
            Some((_, run)) => {
                let gap = at.saturating_sub(run.last_at);
                if gap > run.widest_gap {
                    (run.widest_gap, run.widest_gap_at) = (gap, at);
                }
                (run.last_at, run.through) = (at, through);
                run.count += 1;
            }
            None => {
                let run = Run {
                    // Put together when the period is over.
                    life: Box::default(),
                    hour: at.div_euclid(HOUR),
                    first_at: at,
                    last_at: at,
                    count: 1,
                    widest_gap: 0,
                    widest_gap_at: at,
                    through,
                };
                self.runs.push((life, run));
            }
        }
    }

    /// Ends the present period; what comes next begins another one, whose runs are added to these.
    pub fn end(&mut self) -> Vec<Run> {
        self.close()
    }

    /// The runs of the period that has ended, in the order of the table.
    fn close(&mut self) -> Vec<Run> {
        self.period = None;
        self.lives.clear();
        let named = |(life, run): (Life, Run)| {
            let Life { namespace, service, instance, incarnation } = life;
            let [namespace, service, instance] =
                [namespace, service, instance].map(|id| self.texts.text(id));
            let life = format!("{namespace}/{service}/{instance}/{incarnation}").into();
            Run { life, ..run }
        };
        let mut runs: Vec<Run> = std::mem::take(&mut self.runs).into_iter().map(named).collect();
        self.texts.clear();
        runs.sort_unstable_by(|a, b| a.life.cmp(&b.life));
        runs
    }
}

/// The places of the events of a block that come after the number `after`.
fn events_after(columns: &Columns<'_>, after: u64) -> Range<usize> {
    let taken = after.saturating_add(1).saturating_sub(columns.event_number(0));
    usize::try_from(taken).unwrap_or(usize::MAX).min(columns.len())..columns.len()
}

/// When event `n` of a block happened.
fn at(columns: &Columns<'_>, parsed: &Parsed, n: usize) -> i64 {
    columns.first_at().saturating_add_unsigned(parsed.ats[n])
}
