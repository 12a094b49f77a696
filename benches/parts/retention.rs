//! What an append costs while the keeper works: each change and each slice of traffic timed, in turns with nobody
//! beside the writer and with deriving, retention and the return of free space beside it, paced as the keeper paces them.

use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rollcall::clock::Stopwatch;
use rollcall::domain::{Change, Timestamp};
use rollcall::log::sqlite::{FILE, SqliteLog, SqliteUpkeep};
use rollcall::log::upkeep::{Budgets, Removed, Upkeep};
use rollcall::log::{ChangeLog as _, TrafficLog as _};
use rusqlite::Connection;

use crate::append::{directory, open};
use crate::history;

/// Traffic that lies in the log at the beginning of each turn, to be removed.
const OLD: usize = 2_000_000;

/// Traffic of one append, as the registrar slices it.
const SLICE: usize = 2_048;

/// Turns of each kind.
const TURNS: usize = 3;

/// How long a turn without the keeper is; one with it goes on until there is nothing left to do, at least as long.
const TURN: Duration = Duration::from_secs(2);

/// The name by which a run is asked for it.
const NAME: &str = "retention";

/// Latencies of one kind of turn.
#[derive(Default)]
struct Latencies {
    change: Vec<Duration>,
    traffic: Vec<Duration>,
    /// How long slices held the write lock: of deriving, of retention, of giving space back.
    background: [Vec<Duration>; 3],
}

pub(crate) fn bench() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = arguments.iter().all(|one| one.starts_with('-') || NAME.contains(one.as_str()));
    // Cargo tests benches by running them without this.
    if !is_wanted || !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let dir = directory();
    let mut log = open(dir.path());
    let mut writer = Writer { changes: history::random(9, 1), traffic: history::traffic(9, SLICE) };
    let (mut alone, mut beside) = (Latencies::default(), Latencies::default());
    for _ in 0..TURNS {
        fill(&mut log, dir.path());
        writer.turn(&mut log, &mut alone, None);
        let upkeep = log.upkeep().expect("the log's file opens");
        writer.turn(&mut log, &mut beside, Some(upkeep));
    }
    print(alone, beside);
}

/// Old traffic, in the log's file for good, and derived from.
fn fill(log: &mut SqliteLog, dir: &Path) {
    let traffic = history::traffic(8, 16_384);
    for _ in 0..OLD.div_ceil(traffic.len()) {
        log.append_traffic(&traffic).expect("the disk has room");
    }
    let connection = Connection::open(dir.join(FILE)).expect("the log's file opens");
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

struct Writer {
    changes: Vec<Arc<Change>>,
    traffic: Vec<rollcall::domain::traffic::Traffic>,
}

impl Writer {
    fn turn(&mut self, log: &mut SqliteLog, into: &mut Latencies, upkeep: Option<SqliteUpkeep>) {
        let working = AtomicBool::new(upkeep.is_some());
        let began = Stopwatch::start();
        thread::scope(|scope| {
            let keeper = upkeep.map(|upkeep| scope.spawn(|| keep(upkeep, &working)));
            while working.load(Relaxed) || began.elapsed() < TURN {
                let head = log.head();
                let change = Change { seq: head.next(), ..Change::clone(&self.changes[0]) };
                let batch = [Arc::new(change)];
                let (_, took) = timed(|| log.append(head, &batch).expect("the disk has room"));
                into.change.push(took);
                if into.change.len().is_multiple_of(8) {
                    let (_, took) =
                        timed(|| log.append_traffic(&self.traffic).expect("the disk has room"));
                    into.traffic.push(took);
                }
                // Room for others, as between requests.
                thread::sleep(Duration::from_micros(200));
            }
            if let Some(keeper) = keeper {
                let took = keeper.join().expect("it does not panic");
                into.background.iter_mut().zip(took).for_each(|(all, took)| all.extend(took));
            }
        });
    }
}

/// The keeper's work until there is none, with the keeper's pauses. How long each slice held the lock.
fn keep(mut upkeep: SqliteUpkeep, working: &AtomicBool) -> [Vec<Duration>; 3] {
    let budgets = Budgets {
        traffic_until: Timestamp(i64::MIN),
        traffic_bytes: 1 << 20,
        traffic_ended: Timestamp(i64::MIN),
        changes_until: Timestamp(i64::MIN),
        rollups_until: Timestamp(i64::MIN),
    };
    let mut derive = slices(1, &mut upkeep, derive_one);
    let mut retain = slices(1, &mut upkeep, |upkeep| removes(upkeep, &budgets));
    // The last period was ended: what waited for its end is derived from now, and goes.
    derive.extend(slices(1, &mut upkeep, derive_one));
    retain.extend(slices(1, &mut upkeep, |upkeep| removes(upkeep, &budgets)));
    let reclaim = slices(4, &mut upkeep, |upkeep| upkeep.reclaim().expect("nothing is in its way"));
    working.store(false, Relaxed);
    [derive, retain, reclaim]
}

fn derive_one(upkeep: &mut SqliteUpkeep) -> bool {
    upkeep.derive().expect("nothing is in its way")
}

fn removes(upkeep: &mut SqliteUpkeep, budgets: &Budgets) -> bool {
    let removed = upkeep.retain(budgets).expect("nothing is in its way");
    removed.is_some_and(|removed| removed != Removed::Ended)
}

/// Slices until there is none left, with a pause after each of `rest` times its length.
fn slices(
    rest: u32,
    upkeep: &mut SqliteUpkeep,
    mut work: impl FnMut(&mut SqliteUpkeep) -> bool,
) -> Vec<Duration> {
    let mut held = Vec::new();
    loop {
        let (more, elapsed) = timed(|| work(upkeep));
        held.push(upkeep.longest_hold());
        if !more {
            return held;
        }
        thread::sleep(elapsed * rest);
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let watch = Stopwatch::start();
    let done = black_box(work());
    (done, watch.elapsed())
}

fn print(alone: Latencies, beside: Latencies) {
    let mut out = std::io::stdout();
    // Where nobody reads, nothing is lost.
    let mut row = |what: &str, mut times: Vec<Duration>| {
        times.sort_unstable();
        let at = |share: usize| {
            let place = (times.len() * share / 1_000).min(times.len().saturating_sub(1));
            times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        let _ = writeln!(
            out,
            "{what:<44} {:>7} {:>9.3} {:>9.3} {:>9.3} {:>9.3}",
            times.len(),
            at(500),
            at(990),
            at(999),
            at(1_000)
        );
    };
    row("retention: change, nobody beside", alone.change);
    row("retention: change, keeper beside", beside.change);
    row("retention: 2,048 of traffic, nobody beside", alone.traffic);
    row("retention: 2,048 of traffic, keeper beside", beside.traffic);
    let [derive, retain, reclaim] = beside.background;
    row("retention: lock held by deriving", derive);
    row("retention: lock held by removing", retain);
    row("retention: lock held by giving back", reclaim);
    let _ = writeln!(out, "(times, then p50, p99, p99.9 and the longest in milliseconds)\n");
}
