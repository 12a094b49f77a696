//! Starts that begin at a snapshot: the same state and the same leases as from the first change, whatever happened to
//! one of them.

use std::sync::Arc;

use super::rig::{Rig, eventually};
use crate::clock::ManualClock;
use crate::domain::event::{Event, Note, Recovered};
use crate::domain::{InstanceKey, Millis, Seq};
use crate::log::memory::MemoryLog;
use crate::log::snapshot::{Life, Snapshot};
use crate::log::sqlite::{SqliteLog, Synchronous, put_snapshot};
use crate::log::{ChangeLog as _, Log as _, TrafficLog as _};
use crate::projection::{EntryRef, Projection};
use crate::registrar::{Config, Phase, Running, Telemetry, start};
use crate::telemetry::metrics::{Metrics, MetricsConfig};
use crate::telemetry::spans::Tracer;
use crate::testing::{START, deregister, key, trace};
use crate::watch::Hub;

/// An instance, the revision of its service, its incarnation, and what is known of its life.
type Published = (InstanceKey, Seq, Seq, Life);

/// What readers see, and what is known of each life.
fn published(projection: &Projection) -> Vec<Published> {
    let (_, views) = projection.views(None);
    let row = |revision: Seq, entry: EntryRef<'_>| {
        let EntryRef { instance, lease, .. } = entry;
        let life =
            Life { last_heartbeat: lease.last_heartbeat(), registration: lease.registration() };
        (instance.key.clone(), revision, instance.incarnation, life)
    };
    views.iter().flat_map(|view| view.entries.iter().map(|e| row(view.revision, e))).collect()
}

/// The state that the projection shows, as a snapshot of it would hold it.
fn snapshot_of(log: &MemoryLog, projection: &Projection, next_traffic: u64) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let head = projection.head();
    for change in log.changes().iter().take_while(|change| change.seq <= head) {
        snapshot.fold(change);
    }
    for (_, _, incarnation, life) in published(projection) {
        snapshot.lives.insert(incarnation, life);
    }
    snapshot.next_traffic = next_traffic;
    snapshot
}

/// The figures of the last start.
fn recovered(log: &MemoryLog) -> Recovered {
    let notes = log.changes().into_iter().rev().find_map(|change| match change.event {
        Event::Note(Note::Recovered(recovered)) => Some(recovered),
        _ => None,
    });
    notes.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_at_a_snapshot_is_like_one_at_the_beginning() {
    let rig = Rig::start().await;
    let [a, b, c] = ["a", "b", "c"].map(|id| key("orders", id));
    for key in [&a, &b, &c] {
        rig.put(key).await;
    }
    rig.beat(&a, trace(4)).await.unwrap();
    rig.beat(&b, trace(5)).await.unwrap();
    let logged = |key: &InstanceKey| rig.entry(key).unwrap().lease.last_heartbeat();
    eventually(|| (logged(&a), logged(&b)), |(a, b)| a.is_some() && b.is_some());
    let snapshot = snapshot_of(&rig.log, &rig.projection, rig.log.clone().next_number());
    // After it: another heartbeat, one who leaves, one who comes back.
    rig.clock.advance(Millis::from_millis(1_000));
    let before = logged(&b);
    rig.beat(&b, trace(5)).await.unwrap();
    eventually(|| logged(&b), |now| *now != before);
    rig.submit(deregister(&c)).await.unwrap();
    rig.put(&c).await;
    let seen = published(&rig.projection);
    let (log, clock) = rig.stop();

    let from_the_beginning = Rig::with(log.clone(), Arc::clone(&clock), Config::default()).await;
    assert_eq!(published(&from_the_beginning.projection), seen);
    let (log, clock) = from_the_beginning.stop();
    let all = recovered(&log);
    let seq = snapshot.registry.head();
    log.put_snapshot(snapshot);
    let head = log.changes().last().unwrap().seq;
    let from_the_snapshot = Rig::with(log, clock, Config::default()).await;
    assert_eq!(published(&from_the_snapshot.projection), seen);
    let told = recovered(&from_the_snapshot.log);
    assert_eq!(told.changes, head.0 - seq.0, "only those after the snapshot were read");
    assert_eq!(
        (told.digest, told.instances, told.services),
        (all.digest, all.instances, all.services)
    );
}

/// Starts on a directory and gives what readers see, or why it can't.
async fn start_on(dir: &std::path::Path) -> Result<Vec<Published>, String> {
    let log = SqliteLog::open(dir, Synchronous::Normal, "node").unwrap();
    let projection = Arc::new(Projection::default());
    let telemetry =
        Telemetry { metrics: Metrics::new(&MetricsConfig::default()), tracer: Tracer::off() };
    let clock = ManualClock::new(START);
    let running: Running = start(
        Box::new(log),
        Arc::clone(&projection),
        Hub::new(Arc::clone(&projection)),
        clock,
        telemetry,
        &Config::default(),
    )
    .unwrap();
    let phase = running.readiness.settled().await;
    let seen = published(&projection);
    let whole = |error: &dyn std::error::Error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    running.stop().map_err(|error| whole(&error))?;
    assert_eq!(phase, Phase::Ready);
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_gives_way_to_the_one_before_it() {
    let rig = Rig::start().await;
    for id in ["a", "b", "c", "d"] {
        rig.put(&key("orders", id)).await;
    }
    let seen = published(&rig.projection);
    let (memory, _) = rig.stop();
    let dir = tempfile::tempdir().unwrap();
    let changes: Vec<_> = memory.changes().into_iter().map(Arc::new).collect();
    let mut log = SqliteLog::open(dir.path(), Synchronous::Normal, "node").unwrap();
    log.append(Seq(0), &changes).unwrap();
    log.end().unwrap();
    let path = log.path().to_owned();
    drop(log);
    let mut shell = rusqlite::Connection::open(path).unwrap();
    let mut state = Snapshot { next_traffic: 1, ..Snapshot::default() };
    for change in &changes {
        state.fold(change);
        if [3, 5].contains(&change.seq.0) {
            put_snapshot(&mut shell, &state);
        }
    }
    shell.execute("UPDATE log SET first_seq = 4", []).unwrap();
    shell.execute("DELETE FROM changes WHERE seq < 4", []).unwrap();
    let harm = "UPDATE snapshot_services SET instances = replace(instances, '10.0.0.7', '10.0.0.8') WHERE seq = ";
    shell.execute(&format!("{harm}5"), []).unwrap();
    assert_eq!(start_on(dir.path()).await.unwrap(), seen);
    shell.execute(&format!("{harm}3"), []).unwrap();
    let refusal = start_on(dir.path()).await.unwrap_err();
    assert!(
        refusal.contains("changes before 4 are gone") && refusal.contains("rollcall restore"),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_do_not_end_at_the_head_are_not_served() {
    let rig = Rig::start().await;
    for id in ["a", "b"] {
        rig.put(&key("orders", id)).await;
    }
    let (memory, _) = rig.stop();
    let dir = tempfile::tempdir().unwrap();
    let changes: Vec<_> = memory.changes().into_iter().map(Arc::new).collect();
    let mut log = SqliteLog::open(dir.path(), Synchronous::Normal, "node").unwrap();
    log.append(Seq(0), &changes).unwrap();
    log.end().unwrap();
    let path = log.path().to_owned();
    drop(log);
    let head = changes.last().unwrap().seq.0;
    for (next, place) in [
        (
            head + 3,
            format!(
                "what follows change {head} is damaged: the log goes on to change {}",
                head + 2
            ),
        ),
        (head, format!("change {head} is damaged: the log ends at change {}", head - 1)),
    ] {
        let shell = rusqlite::Connection::open(&path).unwrap();
        shell.execute("UPDATE log SET next_seq = ?", [i64::try_from(next).unwrap()]).unwrap();
        drop(shell);
        let refusal = start_on(dir.path()).await.unwrap_err();
        assert!(refusal.contains(&place), "{refusal}");
    }
}
