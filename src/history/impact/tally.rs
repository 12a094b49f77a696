//! Who was handed what how often, and who was told when.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::{Caller, Handed};
use crate::domain::Timestamp;
use crate::domain::traffic::{Detail, Numbered};
use crate::history::archive::LookupCount;

/// Callers that are told apart; those beyond are counted together. Their names come from the network.
const CALLERS_MAX: usize = 10_000;

/// Traces of all callers together.
const TRACES_MAX: usize = 200_000;

/// Who stands for callers that are not told apart, here and in the counts by minute. No caller can have this name.
pub(crate) const OTHERS: &str = "_other";

/// How much of a row of equal lookups lies in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Nothing.
    None,
    /// Its last ones, nobody knows how many.
    Some,
    /// All.
    All,
}

/// A row of which the last events are still there themselves.
#[derive(Debug)]
struct Straddling {
    row: LookupCount,
    part: Part,
    /// How many of its events are not there any more, as far as those that are have been seen.
    gone: u64,
}

/// The tally.
#[derive(Debug)]
pub(super) struct Tally {
    limit: usize,
    traces: usize,
    callers: HashMap<Arc<str>, Caller>,
    /// The first thing that each caller was told: number and time. Of callers who held nothing as long as they still
    /// may turn out to have.
    told: HashMap<Arc<str>, (u64, Timestamp)>,
    strangers: bool,
    straddling: Vec<Straddling>,
    untold: usize,
}

impl Tally {
    /// An empty tally that keeps `limit` traces of each caller.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            traces: 0,
            callers: HashMap::new(),
            told: HashMap::new(),
            strangers: true,
            straddling: Vec::new(),
            untold: 0,
        }
    }

    /// How many callers hold it and were not told yet.
    pub(super) fn untold(&self) -> usize {
        self.untold
    }

    /// Those.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Arc<str>> {
        let waits = |caller: &&Arc<str>| ***caller != *OTHERS && !self.told.contains_key(*caller);
        self.callers.keys().filter(waits)
    }

    /// The number of the event by which a caller was told, as far as is known.
    pub(super) fn told_at(&self, caller: &str) -> Option<u64> {
        self.told.get(caller).map(|(number, _)| *number)
    }

    /// When the last of those who were told was.
    pub(super) fn told_by(&self) -> Timestamp {
        let held = self.told.iter().filter(|(caller, _)| self.callers.contains_key(*caller));
        held.map(|(_, (_, at))| *at).max().unwrap_or_default()
    }

    /// An answer that handed the instance out.
    pub(super) fn handed(&mut self, caller: &Arc<str>, handed: Handed) {
        let room = self.traces < TRACES_MAX;
        let limit = self.limit;
        let entry = self.entry(caller, handed.at);
        entry.count(handed.status, 1, handed.at, handed.at);
        let kept = room && entry.traces.len() < limit;
        if kept {
            entry.traces.push(handed);
        }
        self.traces += usize::from(kept);
    }

    /// The caller's entry, made at its first answer; the one for all others if there are too many.
    fn entry(&mut self, caller: &Arc<str>, at: Timestamp) -> &mut Caller {
        let full = self.callers.len() >= CALLERS_MAX && !self.callers.contains_key(caller);
        let name = if full { Arc::from(OTHERS) } else { Arc::clone(caller) };
        let unknown = full || &*name == OTHERS;
        match self.callers.entry(name) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                // Of those who are not told apart nobody can say that all were told.
                self.untold += usize::from(!unknown && !self.told.contains_key(entry.key()));
                let caller = Arc::clone(entry.key());
                entry.insert(Caller {
                    caller,
                    lookups: 0,
                    confirmations: 0,
                    first: at,
                    last: at,
                    held_until: None,
                    approximate: unknown,
                    traces: Vec::new(),
                })
            }
        }
    }

    /// A row of equal answers that handed the instance out, some of which at least are gone: all those before
    /// number `kept`.
    pub(super) fn row(&mut self, row: LookupCount, part: Part, kept: u64) {
        if row.last < kept {
            let gone = row.count;
            self.gone(&row, part, gone);
        } else {
            let gone = row.count;
            self.straddling.push(Straddling { row, part, gone });
        }
    }

    /// An event of the service that is there itself: where a row counts it too, it is not gone.
    pub(super) fn seen_raw(&mut self, event: &Numbered) {
        if self.straddling.is_empty() {
            return;
        }
        let Numbered { number, traffic } = event;
        let Detail::Lookup { filter, revision, status, .. } = &traffic.detail else { return };
        let instance = traffic.instance.as_ref().map(|instance| instance.as_str());
        let same = |row: &LookupCount| {
            (row.first..=row.last).contains(number)
                && *row.caller == *traffic.caller
                && row.filter == *filter
                && row.revision == *revision
                && row.status == *status
                && row.instance.as_deref() == instance
        };
        if let Some(found) = self.straddling.iter_mut().find(|found| same(&found.row)) {
            found.gone = found.gone.saturating_sub(1);
        }
    }

    /// Counts `gone` answers of a row, which are there no more themselves.
    fn gone(&mut self, row: &LookupCount, part: Part, gone: u64) {
        // Of a row that lies partly in the window, the first is out for certain and the last is in: what is known is
        // an upper bound, and the time of the last.
        let (count, first) = match part {
            Part::All => (gone, row.first_at),
            Part::Some => (gone.min(row.count.saturating_sub(1)).max(1), row.last_at),
            Part::None => return,
        };
        if gone == 0 {
            return;
        }
        let entry = self.entry(&Arc::from(&*row.caller), first);
        entry.approximate |= part == Part::Some;
        entry.count(row.status, count, first, row.last_at);
    }

    /// The caller was told by the event of this number.
    pub(super) fn told(&mut self, caller: &str, number: u64, at: Timestamp) {
        if let Some((known, known_at)) = self.told.get_mut(caller) {
            if number < *known {
                (*known, *known_at) = (number, at);
            }
            return;
        }
        let holds = self.callers.contains_key(caller);
        if holds || self.strangers {
            // Who stands for others was never counted as one who waits.
            self.untold = self.untold.saturating_sub(usize::from(holds && caller != OTHERS));
            self.told.insert(Arc::from(caller), (number, at));
        }
    }

    /// Whether those who are told without having held anything are noted, because they may still turn out to have.
    pub(super) fn note_strangers(&mut self, noted: bool) {
        self.strangers = noted;
    }

    /// Everybody who held it, in the order of their first answers.
    pub(super) fn finish(mut self) -> Vec<Caller> {
        for Straddling { row, part, gone } in std::mem::take(&mut self.straddling) {
            self.gone(&row, part, gone);
        }
        let Self { callers, told, limit, .. } = self;
        let mut callers: Vec<Caller> = callers
            .into_values()
            .map(|mut entry| {
                if &*entry.caller != OTHERS {
                    entry.held_until = told.get(&entry.caller).map(|(_, at)| *at);
                }
                // Two walks came one after the other, each in order.
                entry.traces.sort_by_key(|handed| handed.number);
                entry.traces.truncate(limit);
                entry
            })
            .collect();
        callers.sort_by(|a, b| (a.first, &a.caller).cmp(&(b.first, &b.caller)));
        callers
    }
}

impl Caller {
    /// Counts answers of this status, given between these times.
    fn count(&mut self, status: u16, count: u64, first: Timestamp, last: Timestamp) {
        match status {
            304 => self.confirmations += count,
            _ => self.lookups += count,
        }
        self.first = self.first.min(first);
        self.last = self.last.max(last);
    }
}
