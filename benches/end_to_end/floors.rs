//! The floor under the log: a flat file that is synced after each group, plain SQLite that inserts the same rows, and the
//! log itself, in turn. Without sockets: what is measured over HTTP can't be cheaper than this.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollcall::domain::traffic::{Detail, Traffic};
use rollcall::domain::{Change, Seq};
use rollcall::log::codec::{self, Row};
use rollcall::log::sqlite::{SqliteLog, Synchronous};
use rollcall::log::{ChangeLog as _, TrafficLog as _};

use crate::Failure;
use crate::history;
use crate::load::now;
use crate::options::Options;
use crate::plain::{self, Flat, NODE, Plain, flattened};
use crate::sheet::{Sheet, median};

/// Changes of a group.
const BATCHES: [usize; 4] = [1, 16, 128, 1_024];

/// Events of a mixed group: what comes together while the disk is synced, lookups and heartbeats nine to one.
const MIXED: (usize, usize) = (64, 960);

/// Heartbeats of a group.
const BEATS: usize = 1_000;

/// Share of a measurement's length that each of these gets.
const SHARE: f64 = 0.25;

/// Who writes.
struct Writers {
    log: SqliteLog,
    plain: Plain,
    flat: Flat,
    /// The last number of each of the first two.
    heads: [Seq; 2],
    synchronous: Synchronous,
    /// How long each is measured for.
    length: Duration,
}

/// What one of them did.
struct Done {
    /// Seconds of each group.
    groups: Vec<f64>,
    events: usize,
}

impl Done {
    fn rate(&self) -> f64 {
        (self.groups.len() * self.events) as f64 / self.groups.iter().sum::<f64>()
    }

    fn p50(&self) -> f64 {
        median(self.groups.iter().copied())
    }
}

/// Measures all of it and notes figures and the goal.
pub(crate) fn run(options: &Options, sheet: &mut Sheet) -> Result<(), Failure> {
    let dirs = [(); 3].map(|()| tempfile::tempdir_in(&options.dir));
    let [log, plain, flat] = dirs;
    let (log, plain, flat) = (log?, plain?, flat?);
    let synchronous = level(options)?;
    let mut writers = Writers {
        log: plain::open(log.path(), synchronous),
        plain: Plain::open(plain.path(), synchronous),
        flat: Flat::create(flat.path())?,
        heads: [Seq::ZERO; 2],
        synchronous,
        length: Duration::from_secs_f64(options.seconds * SHARE),
    };
    let changes = history::random(2, BATCHES[BATCHES.len() - 1]);
    for batch in BATCHES {
        writers.changes(&changes[..batch], options.rounds, sheet)?;
    }
    let traffic = history::traffic(3, MIXED.1);
    writers.mixed(&changes[..MIXED.0], &traffic, options.rounds, sheet)?;
    let beats = history::traffic(4, BEATS * 20).into_iter();
    let beats = beats.filter(|event| matches!(event.detail, Detail::Heartbeat { .. }));
    writers.beats(&beats.take(BEATS).collect::<Vec<_>>(), options.rounds, sheet)
}

/// The level that `--synchronous` names.
fn level(options: &Options) -> Result<Synchronous, Failure> {
    match options.synchronous.as_str() {
        "full" => Ok(Synchronous::Full),
        "normal" => Ok(Synchronous::Normal),
        other => Err(format!("--synchronous is full or normal, was {other:?}").into()),
    }
}

impl Writers {
    /// Groups of changes of one size.
    fn changes(
        &mut self,
        changes: &[Arc<Change>],
        rounds: usize,
        sheet: &mut Sheet,
    ) -> Result<(), Failure> {
        let (size, mut all) = (changes.len(), [const { Vec::new() }; 3]);
        said(&format!("floors: groups of {size} changes"));
        for _ in 0..rounds {
            all[0].push(self.log_changes(changes)?);
            all[1].push(self.plain_changes(changes)?);
            all[2].push(self.flat_changes(changes)?);
        }
        for (name, done) in ["log", "plain SQLite", "flat file"].iter().zip(&all) {
            let rate = median(done.iter().map(Done::rate));
            sheet.figure(format!("{name}, changes, groups of {size}"), rate, "1/s");
        }
        if size == 1 {
            let micros = |done: &Vec<Done>| 1e6 * median(done.iter().map(Done::p50));
            sheet.figure("plain SQLite, one row, p50", micros(&all[1]), "µs");
            sheet.figure("flat file, one row, p50", micros(&all[2]), "µs");
        }
        Ok(())
    }

    /// Changes and traffic together, as they wait for the writer under load.
    fn mixed(
        &mut self,
        changes: &[Arc<Change>],
        traffic: &[Traffic],
        rounds: usize,
        sheet: &mut Sheet,
    ) -> Result<(), Failure> {
        said("floors: changes and traffic mixed");
        let events = changes.len() + traffic.len();
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(timed(self.length, events, |clock| {
                let batch = self.next_of_log(changes);
                clock.start();
                let expected = self.log.head();
                let _ = self.log.append(expected, &batch)?;
                self.log.append_traffic(traffic)?;
                Ok(())
            })?);
            plain.push(timed(self.length, events, |clock| {
                let rows = self.next_of_plain(changes);
                clock.start();
                self.plain.synchronous(self.synchronous);
                self.plain.insert(&rows)?;
                self.plain.synchronous(Synchronous::Normal);
                self.plain.insert_traffic(traffic)?;
                Ok(())
            })?);
        }
        self.plain.synchronous(self.synchronous);
        let rate = |done: &[Done]| median(done.iter().map(Done::rate));
        let name = format!("{} changes and {} of traffic a group", MIXED.0, MIXED.1);
        sheet.figure(format!("log, {name}"), rate(&ours), "1/s");
        sheet.figure(format!("plain SQLite, {name}"), rate(&plain), "1/s");
        let ratios = ours.iter().zip(&plain).map(|(ours, plain)| ours.rate() / plain.rate());
        sheet.at_least("log: mixed events, rate over plain SQLite", median(ratios), 0.8, "");
        Ok(())
    }

    /// Heartbeats, which are never synced one by one.
    fn beats(
        &mut self,
        beats: &[Traffic],
        rounds: usize,
        sheet: &mut Sheet,
    ) -> Result<(), Failure> {
        said("floors: heartbeats");
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        self.plain.synchronous(Synchronous::Normal);
        for _ in 0..rounds {
            ours.push(timed(self.length, beats.len(), |clock| {
                clock.start();
                Ok(self.log.append_traffic(beats)?)
            })?);
            plain.push(timed(self.length, beats.len(), |clock| {
                clock.start();
                Ok(self.plain.insert_traffic(beats)?)
            })?);
        }
        self.plain.synchronous(self.synchronous);
        let rate = |done: &[Done]| median(done.iter().map(Done::rate));
        sheet.figure("log, heartbeats, batches of 1,000", rate(&ours), "1/s");
        sheet.figure("plain SQLite, heartbeats, batches of 1,000", rate(&plain), "1/s");
        Ok(())
    }

    fn log_changes(&mut self, changes: &[Arc<Change>]) -> Result<Done, Failure> {
        timed(self.length, changes.len(), |clock| {
            let batch = self.next_of_log(changes);
            clock.start();
            let expected = self.log.head();
            let _ = self.log.append(expected, &batch)?;
            Ok(())
        })
    }

    fn plain_changes(&mut self, changes: &[Arc<Change>]) -> Result<Done, Failure> {
        timed(self.length, changes.len(), |clock| {
            let rows = self.next_of_plain(changes);
            clock.start();
            Ok(self.plain.insert(&rows)?)
        })
    }

    fn flat_changes(&mut self, changes: &[Arc<Change>]) -> Result<Done, Failure> {
        let rows: Vec<Row> = changes.iter().map(|change| codec::encode(change, NODE)).collect();
        let bytes = flattened(&rows);
        timed(self.length, changes.len(), |clock| {
            clock.start();
            Ok(self.flat.append(&bytes)?)
        })
    }

    fn next_of_log(&mut self, changes: &[Arc<Change>]) -> Vec<Arc<Change>> {
        let batch = history::renumbered(changes, self.heads[0]);
        self.heads[0] = Seq(self.heads[0].0 + changes.len() as u64);
        batch
    }

    fn next_of_plain(&mut self, changes: &[Arc<Change>]) -> Vec<Row> {
        let batch = history::renumbered(changes, self.heads[1]);
        self.heads[1] = Seq(self.heads[1].0 + changes.len() as u64);
        batch.iter().map(|change| codec::encode(change, NODE)).collect()
    }
}

/// When the work of a group began, what had to be made for it not counted.
struct Clock(Instant);

impl Clock {
    fn start(&mut self) {
        self.0 = now();
    }
}

/// Does groups until the time is up, one at least.
fn timed(
    length: Duration,
    events: usize,
    mut group: impl FnMut(&mut Clock) -> Result<(), Failure>,
) -> Result<Done, Failure> {
    let end = now() + length;
    let mut groups = Vec::new();
    while groups.is_empty() || now() < end {
        let mut clock = Clock(now());
        group(&mut clock)?;
        groups.push(clock.0.elapsed().as_secs_f64());
    }
    Ok(Done { groups, events })
}

/// Progress only: where nobody reads, nothing is lost.
fn said(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
