//! Leases as the registrar sees them: late, expired, revived, and the graces.

use super::{Rig, eventually};
use crate::clock::ManualClock;
use crate::domain::command::Register;
use crate::domain::event::{Arithmetic, HeartbeatRef, StatusReason};
use crate::domain::{Command, Event, InstanceKey, Millis, Seq, Signals, Status};
use crate::lease::word::Mark;
use crate::log::memory::MemoryLog;
use crate::registrar::{Config, Refused};
use crate::testing::{START, heartbeat, key, register, trace};

fn a() -> InstanceKey {
    key("orders", "a")
}

fn with_ttl(millis: u64) -> Command {
    Command::Register(Register { ttl: Some(Millis::from_millis(millis)), ..register(&a()) })
}

/// The arithmetic of the plainest registration, whose ttl is 15 s.
fn arithmetic(
    last_heartbeat: Option<HeartbeatRef>,
    gap: u64,
    missed: u32,
    late: u64,
) -> Arithmetic {
    let [ttl, gap, late] = [15_000, gap, late].map(Millis::from_millis);
    Arithmetic { last_heartbeat, ttl, gap, missed, late, grace: Millis::ZERO, accrual: None }
}

/// A heartbeat that has its number in the log.
async fn logged_beat(rig: &Rig, n: u8) -> HeartbeatRef {
    let before = rig.log.traffic().len();
    rig.beat(&a(), trace(n)).await.unwrap();
    let number = || rig.log.traffic().len();
    eventually(number, |logged| *logged > before);
    let entry = rig.entry(&a()).unwrap();
    eventually(|| entry.lease.last_heartbeat(), |last| last.is_some_and(|h| h.trace == trace(n)))
        .unwrap()
}

#[tokio::test]
async fn who_falls_silent_turns_unstable_and_expires_and_the_events_say_why() {
    let rig = Rig::start().await;
    let born = rig.put(&a()).await;
    rig.pass(3_000).await;
    let last = logged_beat(&rig, 9).await;
    assert_eq!((last.id, last.trace), (1, trace(9)));

    rig.pass(9_999).await;
    assert_eq!(
        rig.status(&a()),
        Some(Status::Healthy),
        "a millisecond before two thirds of the ttl"
    );
    rig.pass(1).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    let late = rig.last();
    assert_eq!((late.cause, late.caller, late.trace.is_some()), (Some(born), None, true));
    let expected = Event::StatusChanged {
        key: a(),
        from: Status::Healthy,
        to: Status::Unstable,
        signals: Signals::implied_by(Status::Unstable),
        reason: StatusReason::LateHeartbeat,
        health: None,
        overdue: Some(arithmetic(Some(last), 10_000, 2, 0)),
        probe: None,
        flaps: None,
    };
    assert_eq!(late.event, expected);

    rig.pass(4_999).await;
    assert!(rig.entry(&a()).is_some(), "a millisecond before the ttl");
    let lease = rig.entry(&a()).unwrap().lease.clone();
    rig.pass(41).await;
    assert!(rig.entry(&a()).is_none());
    let expired = rig.last();
    assert_eq!(expired.cause, Some(born));
    let overdue = arithmetic(Some(last), 15_040, 4, 40);
    assert_eq!(expired.event, Event::Expired { key: a(), overdue });
    assert_eq!(lease.word().read().mark(), Mark::Closed);
    rig.pass(60_000).await;
    assert_eq!(rig.last(), expired, "once");
}

/// The last heartbeat waits in the buffer while its lease runs out: it is written first, so that the expiry
/// can name it.
#[tokio::test]
async fn an_expiry_names_a_heartbeat_that_was_still_waiting() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    // The registrar stands before the gate with the lookup; what comes now is for the next flush.
    rig.gate.close();
    rig.look_up(1).await;
    rig.gate.await_append();
    rig.beat(&a(), trace(7)).await.unwrap();
    rig.clock.advance(Millis::from_millis(15_000));
    rig.gate.open();
    rig.settle().await;
    let Event::Expired { overdue, .. } = rig.last().event else { panic!("{:?}", rig.last()) };
    let named = overdue.last_heartbeat.map(|heartbeat| (heartbeat.id, heartbeat.trace));
    assert_eq!(named, Some((2, trace(7))));
}

#[tokio::test]
async fn a_heartbeat_revives_who_was_late() {
    let rig = Rig::start().await;
    let born = rig.put(&a()).await;
    rig.pass(12_000).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    let asked = rig.beat(&a(), trace(3)).await.unwrap().expect("the registrar was asked");
    let change = asked.change.expect("the status changed");
    assert_eq!((change.cause, change.trace), (Some(born), trace(3)));
    let recovery = Event::StatusChanged {
        key: a(),
        from: Status::Unstable,
        to: Status::Healthy,
        signals: Signals::default(),
        reason: StatusReason::Recovery,
        health: None,
        overdue: None,
        probe: None,
        flaps: None,
    };
    assert_eq!(change.event, recovery);
    assert_eq!(asked.instance.unwrap().status, Status::Healthy);

    assert!(rig.beat(&a(), trace(3)).await.unwrap().is_none(), "the next one renews on its own");
    rig.pass(9_999).await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy), "its time counts from the heartbeat");
    rig.pass(1).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
}

/// A heartbeat that comes as its lease runs out waits for what is decided, and there is one answer.
#[tokio::test]
async fn a_heartbeat_behind_its_own_expiry_is_told_so() {
    let rig = Rig::start().await;
    let born = rig.put(&a()).await;
    rig.pass(12_000).await;
    rig.clock.advance(Millis::from_millis(3_000));
    let answer = rig.submit(Command::Heartbeat(heartbeat(&a()))).await;
    let gone = crate::domain::Rejection::UnknownInstance;
    assert_eq!(answer.map(|_| ()), Err(Refused::Rejected(gone)));
    assert_eq!(rig.events_after(Seq(born.0 + 1)).len(), 1, "the expiry, and nothing else");
}

#[tokio::test]
async fn another_ttl_is_another_lease() {
    let rig = Rig::start().await;
    rig.submit(with_ttl(15_000)).await.unwrap();
    let first = rig.entry(&a()).unwrap();
    rig.pass(9_000).await;
    rig.submit(with_ttl(3_000)).await.unwrap();
    assert_eq!(first.lease.word().read().mark(), Mark::Closed);
    let second = rig.entry(&a()).unwrap();
    assert_eq!(second.instance.incarnation, first.instance.incarnation);
    rig.pass(1_999).await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy));
    rig.pass(1).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable), "two thirds of the new ttl");

    rig.submit(with_ttl(60_000)).await.unwrap();
    rig.pass(39_999).await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy), "no old deadline counts");
    rig.pass(20_001).await;
    assert_eq!(rig.status(&a()), None);
}

#[tokio::test]
async fn a_registration_is_a_sign_of_life() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    for _ in 0..4 {
        rig.pass(9_000).await;
        rig.put(&a()).await;
    }
    assert_eq!(rig.status(&a()), Some(Status::Healthy));
    rig.pass(12_000).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    rig.put(&a()).await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy));
}

#[tokio::test]
async fn who_was_replaced_does_not_expire_its_successor() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    rig.pass(9_000).await;
    let mut moved = register(&a());
    moved.endpoint.port = 9_090;
    rig.submit(Command::Register(moved)).await.unwrap();
    rig.pass(9_000).await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy), "the first life would be gone by now");
    rig.pass(6_000).await;
    assert_eq!(rig.status(&a()), None);
}

#[tokio::test]
async fn a_stall_of_the_process_gives_everybody_a_fresh_grace() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    rig.clock.stall(Millis::from_millis(3_600_000));
    rig.settle().await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy), "a registry that slept evicts nobody");
    rig.pass(10_000).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));

    // A stall gives the late ones time, but only a heartbeat makes them healthy again.
    rig.clock.stall(Millis::from_millis(3_600_000));
    rig.settle().await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    rig.pass(14_999).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    rig.pass(11).await;
    let Event::Expired { overdue, .. } = rig.last().event else { panic!("{:?}", rig.last()) };
    let gap = 2 * 3_600_000 + 10_000 + 15_010;
    let told = arithmetic(None, gap, u32::try_from(gap / 3_750).unwrap(), 10);
    // What does not count is all but the ttl and the lateness.
    assert_eq!(overdue, Arithmetic { grace: Millis::from_millis(gap - 15_010), ..told });
}

/// Found by the simulation: the stall puts the expiry off, and with it the next look at the lease.
#[tokio::test]
async fn one_that_returns_after_a_stall_is_late_again_in_time() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    rig.pass(10_000).await;
    rig.clock.stall(Millis::from_millis(3_600_000));
    rig.settle().await;
    rig.submit(Command::Heartbeat(heartbeat(&a()))).await.unwrap();
    assert_eq!(rig.status(&a()), Some(Status::Healthy));
    rig.pass(9_999).await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy));
    rig.pass(11).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
}

#[tokio::test]
async fn there_is_no_grace_for_time_that_passed_while_awake() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    rig.pass(3_600_000).await;
    let Event::Expired { overdue, .. } = rig.last().event else { panic!("{:?}", rig.last()) };
    assert_eq!(overdue, arithmetic(None, 3_600_000, 960, 3_585_000));
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_expires_nobody() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    for hour in [3_600_000_000, -7_200_000_000] {
        rig.clock.jump(hour);
        rig.settle().await;
        assert_eq!(rig.status(&a()), Some(Status::Healthy));
    }
    let before = rig.last().at;
    rig.put(&a()).await;
    assert_eq!(rig.last().at, before, "time in the log never decreases");
}

/// More leases run out at once than one sweep takes. The guard, which would not believe it, is switched off.
#[tokio::test]
async fn a_crowd_expires_whole() {
    let config = Config { guard: None, ..Config::default() };
    let rig = Rig::with(MemoryLog::new(), ManualClock::new(START), config).await;
    let crowd: Vec<InstanceKey> = (0..1_500).map(|n| key("crowd", &format!("i{n}"))).collect();
    let all = crowd.iter().map(|key| rig.put(key));
    let mut last = Seq(0);
    for put in all {
        last = last.max(put.await);
    }
    rig.pass(20_000).await;
    eventually(|| rig.projection.population().total(), |total| *total == 0);
    assert_eq!(rig.events_after(last).len(), crowd.len());
}
