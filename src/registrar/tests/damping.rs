//! Who changes status too often, and what watchers see of it.

use super::{Rig, eventually};
use crate::clock::ManualClock;
use crate::domain::command::Heartbeat;
use crate::domain::event::{Event, StatusReason};
use crate::domain::health::Flaps;
use crate::domain::instance::Health;
use crate::domain::{Command, InstanceKey, Millis, Seq, Status};
use crate::log::memory::{Fault, MemoryLog};
use crate::registrar::{Config, LogCondition};
use crate::testing::{START, deregister, heartbeat, key, trace};

fn a() -> InstanceKey {
    key("orders", "a")
}

const WINDOW: Millis = Millis::from_millis(60_000);

async fn says(rig: &Rig, health: Health) {
    let said = Heartbeat { health: Some(health), ..heartbeat(&a()) };
    rig.submit(Command::Heartbeat(said)).await.unwrap();
}

/// So many changes of what its status would be, a second apart.
async fn flap(rig: &Rig, changes: usize) {
    for n in 0..changes {
        says(rig, if n % 2 == 0 { Health::Failing } else { Health::Passing }).await;
        rig.pass(1_000).await;
    }
}

/// Lets time pass in which `a` sends heartbeats that change nothing.
async fn quiet(rig: &Rig, mut left: u64) {
    while left > 0 {
        let step = left.min(3_000);
        rig.pass(step).await;
        left -= step;
        rig.beat(&a(), trace(1)).await.unwrap();
    }
}

/// The changes of status since, as lookups see them.
fn seen(rig: &Rig, since: Seq) -> Vec<(Status, StatusReason)> {
    let moved = rig.events_after(since).into_iter().filter_map(|event| match event {
        Event::StatusChanged { from, to, reason, .. } if from != to => Some((to, reason)),
        _ => None,
    });
    moved.collect()
}

fn flaps(rig: &Rig, since: Seq) -> Vec<(StatusReason, Flaps)> {
    let told = rig.events_after(since).into_iter().filter_map(|event| match event {
        Event::StatusChanged { reason, flaps: Some(flaps), .. } => Some((reason, flaps)),
        _ => None,
    });
    told.collect()
}

#[tokio::test]
async fn who_flaps_is_held_until_it_is_quiet_and_watchers_see_one_change() {
    let rig = Rig::start().await;
    let born = rig.put(&a()).await;
    flap(&rig, 5).await;
    assert_eq!((seen(&rig, born).len(), rig.status(&a())), (5, Some(Status::Failed)));
    let head = rig.last().seq;
    // The sixth within a minute.
    says(&rig, Health::Passing).await;
    rig.settle().await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    let held = rig.last().seq;
    assert_eq!(flaps(&rig, head), [(StatusReason::Flapping, Flaps { changes: 6, window: WINDOW })]);

    // Three minutes of flapping: nothing that a lookup shows moves.
    let revision = rig.entry(&a()).unwrap().instance.revision;
    flap(&rig, 180).await;
    assert_eq!((seen(&rig, held), rig.status(&a())), (vec![], Some(Status::Unstable)));
    assert_eq!(rig.entry(&a()).unwrap().instance.revision, revision);

    // The last change was a second ago.
    quiet(&rig, 58_999).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    quiet(&rig, 1).await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy));
    assert_eq!(seen(&rig, held), [(Status::Healthy, StatusReason::Settled)]);
    assert_eq!(flaps(&rig, held), [(StatusReason::Settled, Flaps { changes: 0, window: WINDOW })]);
}

#[tokio::test]
async fn slow_changes_and_restarts_of_a_process_are_no_flaps() {
    let rig = Rig::start().await;
    let born = rig.put(&a()).await;
    for n in 0..20 {
        says(&rig, if n % 2 == 0 { Health::Failing } else { Health::Passing }).await;
        quiet(&rig, 12_001).await;
    }
    assert_eq!((seen(&rig, born).len(), flaps(&rig, born)), (20, vec![]), "five within a minute");
    quiet(&rig, 60_000).await;
    let head = rig.last().seq;
    for _ in 0..20 {
        flap(&rig, 3).await;
        rig.submit(deregister(&a())).await.unwrap();
        rig.put(&a()).await;
    }
    assert_eq!(flaps(&rig, head), [], "each life has a clean sheet");
}

/// A registration that ends lateness is a change of status, too.
#[tokio::test]
async fn late_and_registered_again_counts() {
    let rig = Rig::start().await;
    let config = Config { flap_window: std::time::Duration::from_secs(600), ..Config::default() };
    drop(rig);
    let rig = Rig::with(MemoryLog::new(), ManualClock::new(START), config).await;
    let born = rig.put(&a()).await;
    for _ in 0..3 {
        rig.pass(10_000).await;
        rig.put(&a()).await;
    }
    rig.settle().await;
    let window = Millis::from_millis(600_000);
    assert_eq!(flaps(&rig, born), [(StatusReason::Flapping, Flaps { changes: 6, window })]);
}

#[tokio::test]
async fn who_is_damped_may_expire_and_comes_back_with_a_clean_sheet() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    flap(&rig, 6).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    rig.pass(15_000).await;
    assert!(rig.entry(&a()).is_none());
    rig.put(&a()).await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy));
    let head = rig.last().seq;
    quiet(&rig, 120_000).await;
    assert_eq!(flaps(&rig, head), []);
}

#[tokio::test]
async fn damping_outlasts_a_restart_a_stall_and_a_failed_log() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    flap(&rig, 6).await;
    quiet(&rig, 50_000).await;
    let rig = rig.restart().await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    quiet(&rig, 50_000).await;
    // Nothing was seen meanwhile.
    rig.clock.stall(Millis::from_millis(300_000));
    rig.settle().await;
    quiet(&rig, 57_000).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    rig.log.set_fault(Fault::Unavailable);
    rig.pass(3_000).await;
    let condition = || rig.handle().log_condition();
    eventually(condition, |condition| matches!(condition, LogCondition::Failed { .. }));
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    rig.log.set_fault(Fault::None);
    eventually(condition, |condition| *condition == LogCondition::Writable);
    rig.settle().await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy));
}

#[tokio::test]
async fn zero_switches_it_off_also_for_those_who_are_held() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    flap(&rig, 6).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    let (log, clock) = rig.stop();
    let rig = Rig::with(log, clock, Config { flap_limit: 0, ..Config::default() }).await;
    rig.settle().await;
    eventually(|| rig.status(&a()), |status| *status == Some(Status::Healthy));
    let head = rig.last().seq;
    flap(&rig, 50).await;
    assert_eq!((seen(&rig, head).len(), flaps(&rig, head)), (50, vec![]));
}
