//! The contract of [`super`], clause by clause, asked of every implementation.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use rusqlite::params;

use super::memory::MemoryLog;
use super::sqlite::{self, SqliteLog, Synchronous};
use super::*;
use crate::domain::event::{Event, HeartbeatRef};
use crate::domain::{Registry, decide, fold};
use crate::testing::history::{Step, histories};
use crate::testing::traffic::{lookup, traffic};
use crate::testing::{START, caller, cases, key, trace};

/// A place that keeps a log while nobody has it open.
pub(super) trait Place {
    fn new() -> Self;
    fn open(&self) -> Box<dyn Log>;
    /// Appends behind the back of whoever has the log open.
    fn append_beside(&self, change: &Change);
    /// Puts a snapshot of a version that is in the log.
    fn put_snapshot(&self, snapshot: &Snapshot);
}

/// The process's memory.
struct Memory(MemoryLog);

impl Place for Memory {
    fn new() -> Self {
        Self(MemoryLog::new())
    }

    fn open(&self) -> Box<dyn Log> {
        Box::new(self.0.clone())
    }

    fn append_beside(&self, change: &Change) {
        let mut log = self.0.clone();
        let expected = log.head();
        log.append(expected, &[Arc::new(change.clone())]).unwrap();
    }

    fn put_snapshot(&self, snapshot: &Snapshot) {
        self.0.put_snapshot(snapshot.clone());
    }
}

/// A directory with a database.
pub(super) struct Disk(tempfile::TempDir);

impl Disk {
    pub(super) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn database(&self) -> PathBuf {
        self.0.path().join(sqlite::FILE)
    }

    /// A connection that knows nothing of rollcall.
    pub(super) fn shell(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.database()).unwrap()
    }

    pub(super) fn log(&self) -> SqliteLog {
        SqliteLog::open(self.dir(), Synchronous::Normal, "node").unwrap()
    }
}

impl Place for Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Box<dyn Log> {
        Box::new(self.log())
    }

    fn append_beside(&self, change: &Change) {
        let row = codec::encode(change, "another node");
        let shell = self.shell();
        shell.execute("UPDATE log SET next_seq = next_seq + 1", []).unwrap();
        shell
            .execute(
                "INSERT INTO changes VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                params![
                    row.seq.cast_signed(),
                    row.at,
                    row.kind,
                    row.namespace,
                    row.service,
                    row.instance,
                    row.caller,
                    row.trace_id,
                    row.span_id,
                    row.cause.map(u64::cast_signed),
                    row.node,
                    row.format,
                    row.data,
                    row.checksum,
                ],
            )
            .unwrap();
    }

    fn put_snapshot(&self, snapshot: &Snapshot) {
        sqlite::put_snapshot(&mut self.shell(), snapshot);
    }
}

/// Makes a test of each clause on each place.
macro_rules! clauses {
    ($($clause:ident),+ $(,)?) => {
        mod in_memory {
            $(#[test] fn $clause() { super::$clause::<super::Memory>() })+
        }
        mod on_disk {
            $(#[test] fn $clause() { super::$clause::<super::Disk>() })+
        }
    };
}

clauses! {
    batches_keep_their_order_and_are_read_in_pieces,
    numbers_have_no_hole_across_refusals_and_reopening,
    of_two_appenders_one_is_refused,
    a_batch_that_is_too_large_is_refused_whole,
    resolve_finds_out_what_became_of_a_batch,
    changes_are_read_as_they_were_appended,
    a_snapshot_and_the_changes_after_it_give_the_state,
    traffic_is_numbered_across_the_edges_of_blocks,
    traffic_is_read_back_as_it_was_appended,
    a_run_that_did_not_end_in_order_is_noticed,
    the_last_instant_is_of_either_class,
}

/// `count` changes with the numbers from `from` on.
pub(super) fn changes(from: u64, count: u64) -> Vec<Arc<Change>> {
    (from..from + count)
        .map(|seq| {
            let reason = Some(format!("number {seq}").into());
            Arc::new(Change {
                seq: Seq(seq),
                at: Timestamp(START.0 + seq.cast_signed()),
                caller: caller(),
                trace: trace(1),
                cause: None,
                baggage: None,
                event: Event::Deregistered { key: key("orders", "a"), reason },
            })
        })
        .collect()
}

/// Everything in the log.
fn all(log: &mut dyn Log) -> Vec<Arc<Change>> {
    log.read(Seq(1), usize::MAX).unwrap().into_iter().map(Arc::new).collect()
}

/// All traffic, oldest first, read back in steps of `limit`.
fn all_traffic(log: &mut dyn Log, limit: usize) -> Vec<Numbered> {
    let (mut before, mut events) = (log.next_number(), Vec::new());
    loop {
        let page = log.read_back(before, limit).unwrap();
        let Some(oldest) = page.last() else { break };
        before = oldest.number;
        events.extend(page);
    }
    events.reverse();
    events
}

fn batches_keep_their_order_and_are_read_in_pieces<P: Place>() {
    let mut log = P::new().open();
    assert_eq!(all(&mut *log), []);
    let ack = log.append(Seq(0), &changes(1, 3)).unwrap();
    assert_eq!((ack.first, ack.last, log.head()), (Seq(1), Seq(3), Seq(3)));
    let ack = log.append(Seq(3), &changes(4, 1)).unwrap();
    assert_eq!((ack.first, ack.last, log.head()), (Seq(4), Seq(4), Seq(4)));
    assert_eq!(all(&mut *log), changes(1, 4));
    for (from, limit, expected) in
        [(2, 2, changes(2, 2)), (4, 9, changes(4, 1)), (5, 9, vec![]), (1, 0, vec![])]
    {
        let read = log.read(Seq(from), limit).unwrap();
        assert!(read.iter().eq(expected.iter().map(|change| &**change)), "{limit} from {from}");
    }
}

fn numbers_have_no_hole_across_refusals_and_reopening<P: Place>() {
    let place = P::new();
    let mut log = place.open();
    let id = log.id().to_owned();
    log.append(Seq(0), &changes(1, 2)).unwrap();
    for wrong in [0, 1, 3] {
        let refused = log.append(Seq(wrong), &changes(wrong + 1, 5));
        assert_eq!(refused, Err(AppendError::Conflict { head: Seq(2) }), "{wrong}");
    }
    drop(log);
    let mut log = place.open();
    assert_eq!((log.head(), log.id()), (Seq(2), &*id));
    log.append(Seq(2), &changes(3, 2)).unwrap();
    assert_eq!(all(&mut *log), changes(1, 4), "what was refused is not there");
}

fn of_two_appenders_one_is_refused<P: Place>() {
    let place = P::new();
    let mut log = place.open();
    log.append(Seq(0), &changes(1, 1)).unwrap();
    place.append_beside(&changes(2, 1)[0]);
    let ours = changes(2, 3);
    assert_eq!(log.append(Seq(1), &ours), Err(AppendError::Conflict { head: Seq(2) }));
    assert_eq!(log.head(), Seq(2));
    log.append(Seq(2), &changes(3, 1)).unwrap();
    assert_eq!(all(&mut *log), changes(1, 3));
}

fn a_batch_that_is_too_large_is_refused_whole<P: Place>() {
    let mut log = P::new().open();
    let (events, max) = (BATCH_MAX + 1, BATCH_MAX);
    let refused = log.append(Seq(0), &changes(1, events as u64));
    assert_eq!(refused, Err(AppendError::TooLarge { events, max }));
    assert_eq!((log.head(), all(&mut *log)), (Seq(0), vec![]));
    log.append(Seq(0), &changes(1, max as u64)).unwrap();
    assert_eq!(log.head(), Seq(max as u64));
}

fn resolve_finds_out_what_became_of_a_batch<P: Place>() {
    let place = P::new();
    let mut log = place.open();
    let batch = changes(1, 2);
    assert!(matches!(log.resolve(Seq(0), &batch), Err(AppendError::Unavailable { .. })));
    let ack = log.append(Seq(0), &batch).unwrap();
    assert_eq!(log.resolve(Seq(0), &batch), Ok(ack), "it is in, with its old numbers");
    assert_eq!(all(&mut *log), batch, "and once");

    place.append_beside(&changes(3, 1)[0]);
    let mut other = changes(3, 1);
    Arc::make_mut(&mut other[0]).caller = None;
    assert_eq!(log.resolve(Seq(2), &other), Err(AppendError::Conflict { head: Seq(3) }));
    log.append(Seq(3), &changes(4, 1)).unwrap();
    assert_eq!(all(&mut *log), changes(1, 4));
}

/// The changes that a random history leads to.
pub(super) fn changes_of(history: &[Step]) -> Vec<Arc<Change>> {
    let (mut registry, mut now, mut changes) = (Registry::default(), START, Vec::new());
    for step in history {
        now = Timestamp(now.0 + step.wall);
        let command = step.command(&registry);
        let Ok(Some(decision)) = decide(&registry, &command, now) else { continue };
        let who = caller().filter(|_| step.wall % 2 == 0);
        let trace = trace(u8::try_from(step.wall.rem_euclid(3)).unwrap());
        let change = decision.into_change(&registry, now, who, trace);
        drop(fold(&mut registry, &change));
        changes.push(Arc::new(change));
    }
    changes
}

fn changes_are_read_as_they_were_appended<P: Place>() {
    proptest!(cases(16), |(history in histories(40), batch in 1_usize..9)| {
        let place = P::new();
        let (mut log, changes) = (place.open(), changes_of(&history));
        for batch in changes.chunks(batch) {
            let expected = log.head();
            log.append(expected, batch).unwrap();
        }
        prop_assert_eq!(all(&mut *log), changes.clone());
        drop(log);
        prop_assert_eq!(all(&mut *place.open()), changes);
    });
}

/// The state after each change, beginning with the empty one. The lives know a heartbeat here and there.
pub(super) fn states_of(changes: &[Arc<Change>]) -> Vec<Snapshot> {
    let mut states = vec![Snapshot { next_traffic: 1, ..Snapshot::default() }];
    for change in changes {
        let mut state = states.last().unwrap().clone();
        state.fold(change);
        let living = change.event.key().and_then(|key| state.registry.instance(key));
        let life = living.and_then(|instance| state.lives.get_mut(&instance.incarnation));
        if let Some(life) = life {
            let beats = change.seq.0 % 3 == 0;
            let heartbeat = HeartbeatRef { at: change.at, id: change.seq.0, trace: trace(3) };
            life.last_heartbeat = beats.then_some(heartbeat).or(life.last_heartbeat);
        }
        states.push(state);
    }
    states
}

fn a_snapshot_and_the_changes_after_it_give_the_state<P: Place>() {
    proptest!(cases(24), |(history in histories(60), of: prop::sample::Index)| {
        let (place, changes) = (P::new(), changes_of(&history));
        let (mut log, states) = (place.open(), states_of(&changes));
        prop_assert_eq!(log.snapshots().unwrap(), []);
        prop_assert_eq!(log.first().unwrap(), Seq(1));
        prop_assume!(!changes.is_empty());
        log.append(Seq(0), &changes).unwrap();
        let seq = Seq(of.index(changes.len()) as u64 + 1);
        place.put_snapshot(&states[usize::try_from(seq.0).unwrap()]);
        prop_assert_eq!(log.snapshots().unwrap(), [seq]);
        prop_assert_eq!(log.snapshot(Seq(seq.0 + 1)).unwrap(), None);
        let mut state = log.snapshot(seq).unwrap().unwrap();
        prop_assert_eq!(&state, &states[usize::try_from(seq.0).unwrap()]);
        for change in log.read(seq.next(), usize::MAX).unwrap() {
            prop_assert_eq!(crate::domain::invariants::check_change(&state.registry, &change), Ok(()));
            state.fold(&change);
        }
        let whole = states.last().unwrap();
        // Registries are equal if heads, times, revisions, instances and digests are.
        prop_assert_eq!(&state.registry, &whole.registry);
        for (incarnation, life) in &whole.lives {
            prop_assert_eq!(state.lives[incarnation].registration, life.registration);
        }
        prop_assert_eq!(state.lives.len(), whole.lives.len());
        prop_assert_eq!(crate::domain::invariants::check_registry(&state.registry), Ok(()));
    });
}

fn traffic_is_numbered_across_the_edges_of_blocks<P: Place>() {
    let place = P::new();
    let mut log = place.open();
    let mut expected = Vec::new();
    let sizes = [1, 254, 1, 1, 255, 257, 512, 0, 3, 600];
    for (step, size) in sizes.into_iter().enumerate() {
        let events: Vec<_> = (0..size).map(|_| lookup(expected.len())).collect();
        let first = log.next_number();
        assert_eq!(first, expected.len() as u64 + 1, "before step {step}");
        log.append_traffic(&events).unwrap();
        expected
            .extend((first..).zip(events).map(|(number, traffic)| Numbered { number, traffic }));
        if step % 3 == 2 {
            drop(log);
            log = place.open();
        }
        assert!(all_traffic(&mut *log, 100) == expected, "after step {step}");
    }
    for before in [1, 2, 256, 257, 258, 512, 513] {
        let read = log.read_back(before, 1).unwrap();
        let wanted = expected[..usize::try_from(before - 1).unwrap()].iter().rev();
        assert!(read.iter().eq(wanted.take(read.len())), "before {before}");
        assert_eq!(read.is_empty(), before == 1);
    }
    assert_eq!(log.head(), Seq(0), "the two classes are numbered apart");
}

fn traffic_is_read_back_as_it_was_appended<P: Place>() {
    proptest!(cases(12), |(events in traffic(1..700), batch in 1_usize..400, limit in 1_usize..600)| {
        let mut log = P::new().open();
        for batch in events.chunks(batch) {
            log.append_traffic(batch).unwrap();
        }
        let read = all_traffic(&mut *log, limit);
        prop_assert!(read.iter().map(|event| event.number).eq(1..=events.len() as u64));
        for (event, expected) in read.into_iter().zip(events) {
            prop_assert_eq!(event.traffic, expected);
        }
    });
}

fn a_run_that_did_not_end_in_order_is_noticed<P: Place>() {
    let place = P::new();
    let run = |ends: bool| {
        let mut log = place.open();
        let before = log.begin().unwrap();
        if ends {
            log.end().unwrap();
        }
        before
    };
    assert_eq!(
        [run(false), run(true), run(true), run(false), run(false)],
        [true, false, true, true, false]
    );
}

fn the_last_instant_is_of_either_class<P: Place>() {
    let mut log = P::new().open();
    assert_eq!(log.last_at(), None);
    log.append(Seq(0), &changes(1, 9)).unwrap();
    assert_eq!(log.last_at(), Some(Timestamp(START.0 + 9)));
    log.append_traffic(&[lookup(3), lookup(20)]).unwrap();
    assert_eq!(log.last_at(), Some(Timestamp(START.0 + 20)));
    log.append(Seq(9), &changes(10, 15)).unwrap();
    assert_eq!(log.last_at(), Some(Timestamp(START.0 + 24)));
}
