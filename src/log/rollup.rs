//! What stays of traffic when it has gone: lookups as counts of equal ones per minute, heartbeats as runs per life
//! and hour.
//!
//! ```text
//!   derive ── Columns ──▶ Lookups::take ──▶ Minute  ──▶ a row of lookup_minutes
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

use foldhash::fast::RandomState;

use super::blocks::Form;
use super::columns::{Column, Columns};
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

/// Which period an event is in.
fn period(at: i64, length: i64, number: u64) -> (i64, u64) {
    (at.div_euclid(length), number / PERIOD)
}

/// The lookups of the present minute.
#[derive(Debug, Default)]
pub struct Lookups {
    period: Option<(i64, u64)>,
    part: u64,
    last: u64,
    ids: HashMap<Box<str>, u32, RandomState>,
    /// JSON, without its end.
    names: String,
    rows: HashMap<Key, usize, RandomState>,
    counts: Vec<Count>,
    /// How many of the counts are of [`OTHER`].
    others: usize,
    /// For each position of the block that is being taken, the one here.
    known: Vec<Option<u32>>,
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
        after: u64,
        closed: &mut Vec<Minute>,
    ) -> Result<Option<u64>, String> {
        let mut through = None;
        self.forget_positions(columns);
        for n in 0..columns.len() {
            let number = columns.event_number(n);
            if number <= after {
                continue;
            }
            let at = columns.at(n).ok_or("not an instant")?.0;
            let of = period(at, MINUTE, number);
            if self.period != Some(of) {
                if self.period.is_some() {
                    through = Some(self.last);
                    closed.extend(self.close());
                    self.forget_positions(columns);
                }
                (self.period, self.part) = (Some(of), number);
            }
            self.last = number;
            if matches!(columns.form(n), Some(Form::Lookup | Form::LongPoll)) {
                self.count(columns, n, number, at)?;
            }
        }
        Ok(through)
    }

    fn forget_positions(&mut self, columns: &Columns<'_>) {
        self.known.clear();
        self.known.resize(columns.texts(), None);
    }

    fn count(
        &mut self,
        columns: &Columns<'_>,
        n: usize,
        number: u64,
        at: i64,
    ) -> Result<(), String> {
        let missing = || format!("event {n}: a column is damaged");
        let mut key = Key {
            namespace: self.id_of(columns, Column::Namespace, n)?,
            service: self.id_of(columns, Column::Service, n)?,
            instance: self.id_of(columns, Column::Instance, n)?,
            caller: self.id_of(columns, Column::Caller, n)?,
            filter: match columns.form(n) {
                Some(Form::LongPoll) => self.id(&columns.filter(n)?),
                _ => self.id_of(columns, Column::Detail, n)?,
            },
            revision: columns.number(Column::Revision, n).ok_or_else(missing)?,
            status: columns.status(n).ok_or_else(missing)?,
        };
        let full = self.counts.len() - self.others >= DISTINCT_MAX;
        if full && !self.rows.contains_key(&key) {
            key = self.other(key);
        }
        let place = *self.rows.entry(key).or_insert(self.counts.len());
        if place == self.counts.len() {
            self.others += usize::from(Some(&key.caller) == self.ids.get(OTHER));
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
    fn other(&mut self, key: Key) -> Key {
        let caller = self.id(OTHER);
        let Key { namespace, service, status, .. } = key;
        let known = Key { namespace, service, caller, status, ..Key::default() };
        if self.others < DISTINCT_MAX || self.rows.contains_key(&known) {
            known
        } else {
            Key { caller, status, ..Key::default() }
        }
    }

    fn id_of(&mut self, columns: &Columns<'_>, column: Column, n: usize) -> Result<u32, String> {
        let position = columns.position(column, n);
        let position =
            position.ok_or_else(|| format!("event {n} names a text that is not there"))?;
        if let Some(Some(id)) = self.known.get(position) {
            return Ok(*id);
        }
        let id = self.id(columns.text(position).unwrap_or_default());
        if let Some(known) = self.known.get_mut(position) {
            *known = Some(id);
        }
        Ok(id)
    }

    fn id(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = u32::try_from(self.ids.len() + 1).unwrap_or(u32::MAX);
        self.ids.insert(text.into(), id);
        self.names.push(',');
        self.names.push_str(&serde_json::to_string(text).unwrap_or_default());
        id
    }

    /// Ends the present period; what comes next begins another one, also within the same minute.
    pub fn end(&mut self) -> Option<Minute> {
        self.close()
    }

    /// The row of the period that has ended; none if there was no lookup in it.
    fn close(&mut self) -> Option<Minute> {
        let (minute, _) = self.period.take()?;
        let begins = minute.saturating_mul(MINUTE);
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
        let names = format!("[null{}]", self.names);
        let mut row =
            Minute { minute, part: self.part, last: self.last, names, counts, checksum: 0 };
        row.checksum = row.expected_checksum();
        let any = !self.counts.is_empty();
        *self = Self { known: std::mem::take(&mut self.known), ..Self::default() };
        any.then_some(row)
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

/// The heartbeats of the present period: one run for each life, as long as that is.
#[derive(Debug, Default)]
pub struct Beats {
    period: Option<(i64, u64)>,
    last: u64,
    runs: HashMap<Box<str>, Run, RandomState>,
    life: String,
}

impl Beats {
    /// Takes the events of a block that come after the number `after`. What is complete is put into `closed`, with the
    /// number up to which everything is there then.
    ///
    /// # Errors
    /// What is wrong with the block.
    pub fn take(
        &mut self,
        columns: &Columns<'_>,
        after: u64,
        closed: &mut Vec<(Vec<Run>, u64)>,
    ) -> Result<(), String> {
        for n in 0..columns.len() {
            let number = columns.event_number(n);
            if number <= after {
                continue;
            }
            let at = columns.at(n).ok_or("not an instant")?.0;
            let of = period(at, BEATS, number);
            if self.period != Some(of) {
                if self.period.is_some() {
                    closed.push((self.close(), self.last));
                }
                self.period = Some(of);
            }
            self.last = number;
            if columns.form(n) == Some(Form::Heartbeat) {
                self.beat(columns, n, number, at)?;
            }
        }
        Ok(())
    }

    fn beat(
        &mut self,
        columns: &Columns<'_>,
        n: usize,
        number: u64,
        at: i64,
    ) -> Result<(), String> {
        self.life.clear();
        for column in [Column::Namespace, Column::Service, Column::Instance] {
            let position = columns.position(column, n);
            let position =
                position.ok_or_else(|| format!("event {n} names a text that is not there"))?;
            self.life.push_str(columns.text(position).unwrap_or_default());
            self.life.push('/');
        }
        let incarnation = columns.digits(Column::Revision, n).unwrap_or_default();
        let incarnation = std::str::from_utf8(incarnation).unwrap_or_default();
        self.life.push_str(incarnation.trim_start_matches('0'));
        match self.runs.get_mut(&*self.life) {
            Some(run) => {
                let gap = at.saturating_sub(run.last_at);
                if gap > run.widest_gap {
                    (run.widest_gap, run.widest_gap_at) = (gap, at);
                }
                (run.last_at, run.through) = (at, number);
                run.count += 1;
            }
            None => {
                let life: Box<str> = self.life.as_str().into();
                let run = Run {
                    life: life.clone(),
                    hour: at.div_euclid(HOUR),
                    first_at: at,
                    last_at: at,
                    count: 1,
                    widest_gap: 0,
                    widest_gap_at: at,
                    through: number,
                };
                self.runs.insert(life, run);
            }
        }
        Ok(())
    }

    /// Ends the present period; what comes next begins another one, whose runs are added to these.
    pub fn end(&mut self) -> Vec<Run> {
        self.close()
    }

    /// The runs of the period that has ended, in the order of the table.
    fn close(&mut self) -> Vec<Run> {
        self.period = None;
        let mut runs: Vec<Run> = std::mem::take(&mut self.runs).into_values().collect();
        runs.sort_unstable_by(|a, b| a.life.cmp(&b.life));
        runs
    }
}
