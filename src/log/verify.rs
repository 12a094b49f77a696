//! Reads a whole log and says what is wrong with it, and where. Changes nothing; works beside a registry
//! that runs, and on a copy of the file.

use std::collections::VecDeque;
use std::path::Path;

use serde::Serialize;

use super::codec;
use super::snapshot::{Life, Snapshot};
use super::sqlite::{OpenError, Reader, check_write_ahead_log, database_of, open_reader};
use super::{ReadError, blocks::Block};
use crate::domain::{Seq, TraceRef, invariants};

/// Rows read at once.
const CHUNK: usize = 4_096;

/// Findings that are told one by one; the rest is counted.
const FINDINGS_MAX: usize = 100;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where: `change 42`, `the traffic block from t257`, `the file`.
    pub place: String,
    /// What.
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The log's id.
    pub log_id: String,
    /// The last change.
    pub head: u64,
    /// The first change that is kept.
    pub first: u64,
    /// Changes read.
    pub changes: u64,
    /// Snapshots that are whole.
    pub snapshots: u64,
    /// Traffic events read.
    pub traffic: u64,
    /// Instances alive at the head.
    pub instances: u64,
    /// Services known at the head.
    pub services: u64,
    /// Hash of the state at the head, in hexadecimal.
    pub digest: String,
    /// What is wrong, the first hundred.
    pub findings: Vec<Finding>,
    /// How many findings there are.
    pub findings_total: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings_total == 0
    }

    fn find(&mut self, place: impl Into<String>, what: impl ToString) {
        self.findings_total += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { place: place.into(), what: what.to_string() });
        }
    }
}

/// Why a log could not be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Verifies the data directory or database file at `path`: SQLite's own check, the sequence, every
/// checksum, every payload, that each change follows from the state before it, that each snapshot holds what folding
/// gives, and the traffic blocks.
/// `progress` is called now and then with the rows read so far.
///
/// # Errors
/// [`VerifyError`]; damage inside the log is in the report instead.
pub fn verify(path: &Path, mut progress: impl FnMut(u64)) -> Result<Report, VerifyError> {
    check_write_ahead_log(&database_of(path))?;
    let reader = open_reader(path)?;
    let mut report = Report::default();
    let (log_id, next_seq, next_traffic) = reader.next()?;
    report.log_id = log_id;
    match reader.storage_check() {
        Ok(found) => found.into_iter().for_each(|what| report.find("the file", what)),
        Err(error) => report.find("the file", error),
    }
    changes(&reader, next_seq, &mut report, &mut progress)?;
    traffic(&reader, next_traffic, &mut report, &mut progress)?;
    Ok(report)
}

/// Where the checking begins: the empty beginning or, where changes have gone, the snapshot that the kept ones stand
/// on. None if there is none that is whole.
fn base_of(
    reader: &Reader,
    first: Seq,
    report: &mut Report,
) -> Result<Option<Snapshot>, ReadError> {
    if first == Seq(1) {
        return Ok(Some(Snapshot::default()));
    }
    let base = Seq(first.0 - 1);
    match reader.snapshot(base) {
        Ok(Some(snapshot)) => return Ok(Some(snapshot)),
        Ok(None) => {}
        Err(ReadError::Damaged { place, what }) => report.find(place, what),
        Err(error) => return Err(error),
    }
    report.find(
        format!("the state before change {first}"),
        "the changes that led to it are gone, and no whole snapshot holds it",
    );
    Ok(None)
}

/// The snapshots that are still to be compared: each when the folding has come to its version.
struct Snapshots {
    waiting: VecDeque<Seq>,
}

impl Snapshots {
    fn new(reader: &Reader, after: Seq) -> Result<Self, ReadError> {
        let found = reader.snapshots(after, Seq(u64::MAX))?;
        Ok(Self { waiting: found.into_iter().map(|(seq, _)| seq).collect() })
    }

    /// Checks those of versions up to the one that is folded now; `state` is none if what was folded is not to be
    /// trusted.
    fn compare(
        &mut self,
        reader: &Reader,
        reached: Seq,
        state: Option<&Snapshot>,
        report: &mut Report,
    ) -> Result<(), ReadError> {
        while let Some(seq) = self.waiting.pop_front_if(|seq| *seq <= reached) {
            let place = format!("snapshot {seq}");
            match reader.snapshot(seq) {
                Ok(Some(snapshot)) => {
                    report.snapshots += 1;
                    if let Some(state) = state.filter(|state| state.registry.head() == seq) {
                        differences(&snapshot, state)
                            .into_iter()
                            .for_each(|what| report.find(place.clone(), what));
                    }
                }
                // Let go of since it was listed.
                Ok(None) => {}
                Err(ReadError::Damaged { place, what }) => report.find(place, what),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How a snapshot differs from what was folded.
fn differences(snapshot: &Snapshot, folded: &Snapshot) -> Vec<String> {
    let (is, should) = (&snapshot.registry, &folded.registry);
    let mut found = Vec::new();
    if is.at() != should.at() {
        found.push("it names another time than its change".to_owned());
    }
    if !is.services().eq(should.services()) {
        found.push(format!(
            "it holds {} instances of {} services with hash {:016x} at revisions of its own, folding gives {} of {} with {:016x}",
            is.instance_count(),
            is.service_count(),
            is.digest(),
            should.instance_count(),
            should.service_count(),
            should.digest()
        ));
    }
    // What is not known of a life (its registration went with the changes) is no contradiction.
    let other = |life: &Life, known: &Life| {
        known.registration != TraceRef::default() && life.registration != known.registration
    };
    let contradicts = |incarnation: &Seq, known: &Life| {
        snapshot.lives.get(incarnation).is_some_and(|life| other(life, known))
    };
    if folded.lives.iter().any(|(incarnation, known)| contradicts(incarnation, known)) {
        found.push("it names another trace for a registration than the change does".to_owned());
    }
    found
}

fn changes(
    reader: &Reader,
    next: Seq,
    report: &mut Report,
    progress: &mut impl FnMut(u64),
) -> Result<(), ReadError> {
    let first = reader.first()?.0;
    report.first = first.0;
    let base = base_of(reader, first, report)?;
    // Whether there is a state to follow from, and whether every change since then could be read.
    let mut grounded = base.is_some();
    let mut whole = true;
    let mut state = base.unwrap_or_default();
    let mut snapshots = Snapshots::new(reader, Seq(first.0 - 1))?;
    let mut from = first;
    let mut stopped = false;
    loop {
        let folded = (grounded && whole).then_some(&state);
        snapshots.compare(reader, state.registry.head(), folded, report)?;
        let mut rows = match reader.rows(from, CHUNK) {
            Ok(rows) => rows,
            // A damaged page ends what can be read; what comes before it is read one by one.
            Err(error) => {
                let readable = readable(from, |from| reader.rows(from, 1), |row| Seq(row.seq));
                report.find(format!("what follows change {}", readable.1.0), error);
                stopped = true;
                readable.0
            }
        };
        // What a running registry appends after the head was read is the next verification's.
        rows.retain(|row| row.seq < next.0);
        let Some(last) = rows.last() else { break };
        let first = reader.first()?.0;
        if rows[0].seq != from.0 && first > from {
            // Retention has overtaken the reading: go on from where the log begins now.
            let base = base_of(reader, first, report)?;
            (grounded, whole, from) = (base.is_some(), true, first);
            state = base.unwrap_or_default();
            report.first = first.0;
            continue;
        }
        from = Seq(last.seq).next();
        for row in &rows {
            report.changes += 1;
            let place = format!("change {}", row.seq);
            let change = match codec::decode(row) {
                Ok(change) => change,
                Err(error) => {
                    report.find(place, error);
                    whole = false;
                    continue;
                }
            };
            if grounded && let Err(violation) = invariants::check_change(&state.registry, &change) {
                report.find(place, violation);
            }
            state.fold(&change);
            let folded = (grounded && whole).then_some(&state);
            snapshots.compare(reader, change.seq, folded, report)?;
        }
        progress(report.changes);
        if stopped {
            break;
        }
    }
    snapshots.compare(reader, Seq(u64::MAX), None, report)?;
    let registry = &state.registry;
    if registry.head().next() != next {
        let what = format!("the last change is {}, the next number is {next}", registry.head());
        report.find("the head", what);
    }
    if grounded && let Err(violation) = invariants::check_registry(registry) {
        report.find("the state at the head", violation);
    }
    report.head = registry.head().0;
    report.instances = registry.instance_count() as u64;
    report.services = registry.service_count() as u64;
    report.digest = format!("{:016x}", registry.digest());
    Ok(())
}

fn traffic(
    reader: &Reader,
    next: u64,
    report: &mut Report,
    progress: &mut impl FnMut(u64),
) -> Result<(), ReadError> {
    let mut expected: Option<u64> = None;
    let mut last_at = i64::MIN;
    let mut from = 0;
    let mut stopped = false;
    loop {
        let blocks = match reader.blocks(from, CHUNK / 16) {
            Ok(blocks) => blocks,
            Err(error) => {
                let read = |from: Seq| reader.blocks(from.0, 1);
                let readable = readable(Seq(from), read, |block| Seq(block.first));
                let last = readable.1.0;
                report.find(format!("what follows the traffic block from t{last}"), error);
                stopped = true;
                readable.0
            }
        };
        let Some(last) = blocks.last() else { break };
        from = last.first + 1;
        for block in &blocks {
            let place = || format!("the traffic block from t{}", block.first);
            if let Some(expected) = expected
                && block.first != expected
            {
                report.find(place(), format!("t{expected} is due here"));
            }
            if block.first_at < last_at {
                report.find(place(), "it begins before the block before it ends");
            }
            expected = Some(check_block(block, next, report, place()));
            last_at = block.last_at;
        }
        progress(report.changes + report.traffic);
        if stopped {
            break;
        }
    }
    if expected.unwrap_or(next) < next {
        let what = format!("the traffic ends before t{next}, the next number");
        report.find("the end of the traffic", what);
    }
    Ok(())
}

/// What can be read one by one from `from` on until that fails, and the number of the last one.
fn readable<T>(
    mut from: Seq,
    read: impl Fn(Seq) -> Result<Vec<T>, ReadError>,
    number: impl Fn(&T) -> Seq,
) -> (Vec<T>, Seq) {
    let mut found = Vec::new();
    while let Ok(mut one) = read(from)
        && let Some(item) = one.pop()
    {
        from = number(&item).next();
        found.push(item);
    }
    (found, Seq(from.0.saturating_sub(1)))
}

/// Checks one block and gives the number that is due after it.
fn check_block(block: &Block, next: u64, report: &mut Report, place: String) -> u64 {
    match block.decode() {
        Ok(events) => {
            // A block that grew after the head was read counts up to the head.
            report.traffic += events.iter().filter(|event| event.number < next).count() as u64;
            if events.windows(2).any(|pair| pair[0].traffic.at > pair[1].traffic.at) {
                report.find(place, "time runs backwards in it");
            }
        }
        Err(what) => report.find(place, what),
    }
    block.first.saturating_add(block.count as u64)
}
