//! Gathers the lookups of a minute.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::minute::{Count, Key, Minute, put_number};
use super::texts::{Texts, text_at};
use super::{DISTINCT_MAX, MINUTE, OTHER, Period, at, events_after};
use crate::log::blocks::Form;
use crate::log::columns::{Columns, Parsed};

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
            if matches!(parsed.forms[n], Some(Form::Lookup | Form::LongPoll | Form::LookupCarrying))
            {
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
            Some(Form::LongPoll | Form::LookupCarrying) if full => texts.known(&columns.filter(n)?),
            Some(Form::LongPoll | Form::LookupCarrying) => texts.id(&columns.filter(n)?),
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
        let names = self.texts.json();
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
            let texts = std::mem::take(&mut self.texts).emptied();
            *self = Self { texts, ..Self::default() };
        }
        self.texts.clear();
        self.rows.clear();
        self.counts.clear();
        self.others = 0;
    }
}
