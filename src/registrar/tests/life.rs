//! Runs: how one begins, ends, and finds what the one before has left.

use std::sync::Arc;

use proptest::prelude::*;

use super::rig::request;
use super::{Rig, eventually};
use crate::clock::ManualClock;
use crate::domain::event::{Arithmetic, HeartbeatRef, Note, Recovered};
use crate::domain::invariants::check_registry;
use crate::domain::{Command, Event, Kind, Millis, Seq, Status, Timestamp};
use crate::lease::word::Mark;
use crate::log::memory::MemoryLog;
use crate::log::{ChangeLog, Log, TrafficLog};
use crate::registrar::{Config, Refused};
use crate::testing::history::{Step, histories};
use crate::testing::traffic::lookup;
use crate::testing::{START, cases, key, register, trace};

fn recovered(rig: &Rig) -> Recovered {
    let note = |event| match event {
        Event::Note(Note::Recovered(recovered)) => Some(recovered),
        _ => None,
    };
    rig.events_after(Seq(0)).into_iter().rev().find_map(note).expect("every run begins with it")
}

#[tokio::test]
async fn another_run_finds_the_state_and_the_last_heartbeats() {
    let rig = Rig::start().await;
    let (a, b) = (key("orders", "a"), key("orders", "b"));
    let born = rig.put(&a).await;
    rig.put(&b).await;
    rig.pass(1_000).await;
    rig.beat(&a, trace(7)).await.unwrap();
    rig.beat(&b, trace(8)).await.unwrap();
    let heartbeat = HeartbeatRef { at: rig.now(), id: 1, trace: trace(7) };
    // Another life of b, which has not sent one yet.
    let mut moved = register(&b);
    moved.endpoint.port = 9_090;
    rig.submit(Command::Register(moved)).await.unwrap();
    let (published, digest) = (rig.published(), rig.folded().0.digest());
    let (log, clock) = rig.stop();
    clock.advance(Millis::from_millis(60_000));

    let rig = Rig::with(log, clock, Config::default()).await;
    assert_eq!(rig.published(), published);
    let figures = recovered(&rig);
    // Started, recovered, three registrations and the checkpoint of the end.
    assert_eq!((figures.changes, figures.traffic, figures.digest), (6, 2, digest));
    assert_eq!((figures.instances, figures.services), (2, 1));
    assert_eq!((figures.clean, figures.traffic_missing_from), (true, None));
    assert_eq!(rig.entry(&a).unwrap().lease.last_heartbeat(), Some(heartbeat));
    assert_eq!(rig.entry(&b).unwrap().lease.last_heartbeat(), None);

    let head = rig.last().seq;
    rig.pass(9_999).await;
    assert_eq!(
        rig.status(&a),
        Some(Status::Healthy),
        "a fresh grace: it was silent for 70 seconds"
    );
    rig.pass(5_001).await;
    let events = rig.events_after(head);
    let gap = |millis| Millis::from_millis(millis);
    let arithmetic = |last_heartbeat, millis: u64| Arithmetic {
        last_heartbeat,
        ttl: gap(15_000),
        gap: gap(millis),
        missed: u32::try_from(millis / 3_750).unwrap(),
        late: Millis::ZERO,
        // 60 seconds of the silence were before the restart.
        grace: gap(60_000),
        accrual: None,
    };
    let of_a = Event::Expired { key: a.clone(), overdue: arithmetic(Some(heartbeat), 75_000) };
    let of_b = Event::Expired { key: b, overdue: arithmetic(None, 75_000) };
    assert!(events.contains(&of_a) && events.contains(&of_b), "{events:#?}");
    let causes = rig.log.changes();
    let cause = causes.iter().find(|change| change.event == of_a).unwrap().cause;
    assert_eq!(cause, Some(born), "the registration of the run before");
}

#[tokio::test]
async fn a_run_that_was_killed_says_what_may_be_missing() {
    let mut log = MemoryLog::new();
    log.begin().unwrap();
    log.append_traffic(&[lookup(5)]).unwrap();
    drop(log.clone());
    let rig = Rig::with(log, ManualClock::new(Timestamp(START.0 + 9)), Config::default()).await;
    let figures = recovered(&rig);
    assert_eq!(
        (figures.clean, figures.traffic_missing_from),
        (false, Some(Timestamp(START.0 + 5)))
    );
    let kinds: Vec<Kind> = rig.events_after(Seq(0)).iter().map(Event::kind).collect();
    assert_eq!(kinds, [Kind::Started, Kind::Recovered]);
}

#[tokio::test]
async fn a_log_that_does_not_fold_is_not_served() {
    let rig = Rig::start().await;
    rig.put(&key("orders", "a")).await;
    let (mut log, clock) = rig.stop();
    let mut twice = log.changes().swap_remove(2);
    let head = log.head();
    (twice.seq, twice.at) = (head.next(), log.last_at().unwrap());
    log.append(head, &[Arc::new(twice)]).unwrap();
    let refusal = Rig::refusal(log, clock).await;
    assert!(refusal.contains("does not fit the state before it"), "{refusal}");
}

#[tokio::test]
async fn stopping_writes_what_waits_and_ends_in_order() {
    let rig = Rig::start().await;
    for n in 0..5 {
        rig.look_up(n).await;
    }
    rig.put(&key("orders", "a")).await;
    let (handle, late) = (rig.handle(), register(&key("orders", "b")));
    let (mut log, _) = rig.stop();
    assert_eq!(log.traffic().len(), 5);
    assert_eq!(log.changes().last().unwrap().event.kind(), Kind::Checkpoint);
    assert_eq!(log.begin(), Ok(true));
    let answer = handle.submit(request(Command::Register(late), trace(1))).await;
    assert_eq!(answer.map(|_| ()), Err(Refused::Stopping));
}

/// A command comes while the registrar writes traffic, and the end comes right behind it: it was taken, so
/// it is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_came_before_the_end_is_answered() {
    let rig = Rig::start().await;
    rig.gate.close();
    rig.look_up(1).await;
    rig.gate.await_append();
    let (handle, gate) = (rig.handle(), rig.gate.clone());
    let put = request(Command::Register(register(&key("orders", "a"))), trace(1));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { handle.submit(put).await });
    let handle = rig.handle();
    eventually(|| handle.inbox_fill().0, |waiting| *waiting == 1);
    let stopping = tokio::task::spawn_blocking(move || rig.stop());
    // Closed: from here on everybody is refused.
    eventually(|| handle.shared.inbox.is_closed(), |closed| *closed);
    gate.open();
    stopping.await.unwrap();
    assert!(tasks.join_next().await.unwrap().unwrap().is_ok());
}

async fn live(history: &[Step]) -> Rig {
    let config = Config { checkpoint_every: 7, ..Config::default() };
    let rig = Rig::with(MemoryLog::new(), ManualClock::new(START), config).await;
    for step in history {
        match u64::try_from(step.wall) {
            Ok(micros) => rig.clock.advance(Millis::from_millis(micros / 500)),
            Err(_) => rig.clock.jump(step.wall),
        }
        // Refusals are part of it.
        let _ = rig.submit(step.command(&rig.folded().0)).await;
    }
    rig
}

proptest! {
    #![proptest_config(cases(24))]

    /// Whatever is asked while leases run out: what readers see is what the log folds to, and what the next
    /// run shows.
    #[test]
    fn what_is_shown_is_what_the_log_says_before_and_after_a_restart(history in histories(40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let rig = live(&history).await;
            rig.settle().await;
            let (registry, folded) = rig.folded();
            prop_assert_eq!(check_registry(&registry), Ok(()));
            prop_assert_eq!(rig.projection.head(), registry.head());
            prop_assert_eq!(&rig.published(), &folded);
            let total = rig.projection.population().total();
            prop_assert_eq!(total, i64::try_from(registry.instance_count()).unwrap());
            for (_, _, instances) in &folded {
                for instance in instances {
                    let mark = rig.entry(&instance.key).unwrap().lease.word().read().mark();
                    prop_assert!(mark != Mark::Closed, "{} lives", instance.key);
                }
            }
            let rig = rig.restart().await;
            prop_assert_eq!(rig.published(), folded);
            rig.stop();
            Ok(())
        })?;
    }
}
