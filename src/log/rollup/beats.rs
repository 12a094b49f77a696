//! Gathers the heartbeats of each life.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::texts::Texts;
use super::{HOUR, Period, at, events_after};
use crate::log::blocks::Form;
use crate::log::columns::{Columns, Parsed};

/// Heartbeats are gathered for ten minutes: a row of an hour is then written six times, and not at every beat.
const BEATS: i64 = 10 * super::MINUTE;

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
