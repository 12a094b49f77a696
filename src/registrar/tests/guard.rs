//! The guard at work on the clock of the tests: a rack, a split, a deployment, a kill of all, and a log that fails.

use super::{Rig, eventually};
use crate::clock::ManualClock;
use crate::domain::command::Register;
use crate::domain::event::{GuardEnd, GuardEntered, GuardInputs, GuardLeft, Kind, Note};
use crate::domain::{Change, Command, Event, InstanceKey, Millis, Seq, ServiceKey, Status};
use crate::lease::guard::Policy;
use crate::log::memory::{Fault, MemoryLog};
use crate::registrar::Config;
use crate::testing::{START, deregister, key, register, trace};

fn members(service: &str, count: usize) -> Vec<InstanceKey> {
    (0..count).map(|n| key(service, &format!("{service}-{n}"))).collect()
}

async fn put_all(rig: &Rig, members: &[InstanceKey]) {
    for member in members {
        rig.put(member).await;
    }
}

async fn beat_all(rig: &Rig, members: &[InstanceKey]) {
    for member in members {
        rig.beat(member, trace(2)).await.unwrap();
    }
}

/// Lets `seconds` pass, second by second, while `alive` beat four times a ttl of 15 s.
async fn live(rig: &Rig, seconds: u64, alive: &[InstanceKey]) {
    for second in 1..=seconds {
        rig.pass(1_000).await;
        if second % 3 == 0 {
            beat_all(rig, alive).await;
        }
    }
}

fn living(rig: &Rig, members: &[InstanceKey]) -> usize {
    members.iter().filter(|member| rig.entry(member).is_some()).count()
}

fn notes(rig: &Rig) -> Vec<Change> {
    let is_guard =
        |change: &Change| matches!(change.event.kind(), Kind::GuardEntered | Kind::GuardLeft);
    rig.log.changes().into_iter().filter(is_guard).collect()
}

fn entered(change: &Change) -> &GuardEntered {
    match &change.event {
        Event::Note(Note::GuardEntered(entered)) => entered,
        other => panic!("{other:?}"),
    }
}

fn left(change: &Change) -> &GuardLeft {
    match &change.event {
        Event::Note(Note::GuardLeft(left)) => left,
        other => panic!("{other:?}"),
    }
}

fn expiries(rig: &Rig) -> Vec<Change> {
    let changes = rig.log.changes().into_iter();
    changes.filter(|change| change.event.kind() == Kind::Expired).collect()
}

fn over(service: &str) -> Option<ServiceKey> {
    Some(key(service, "x").service)
}

#[tokio::test]
async fn a_rack_dies_the_guard_holds_then_the_dead_are_gone_in_time() {
    let rig = Rig::start().await;
    let all = members("orders", 9);
    let (dead, alive) = all.split_at(6);
    put_all(&rig, &all).await;
    live(&rig, 15, alive).await;
    assert_eq!(living(&rig, &all), 9, "six leases have run out, and nobody left");
    assert!(dead.iter().all(|dead| rig.status(dead) == Some(Status::Unstable)));
    let changes = notes(&rig);
    assert_eq!(changes.len(), 1, "nine instances are no registry to be guarded as a whole");
    let inputs = GuardInputs { late: 6, gone: 0, living: 9 };
    let limit = Millis::from_millis(75_000);
    assert_eq!(entered(&changes[0]), &GuardEntered { over: over("orders"), inputs, limit });
    let shown = rig.handle().guards().unwrap()[0].clone();
    assert_eq!((shown.over, shown.entered, shown.held), (over("orders"), changes[0].seq, 6));

    live(&rig, 74, alive).await;
    assert_eq!(living(&rig, &all), 9, "a second before the limit");
    live(&rig, 1, alive).await;
    assert_eq!((living(&rig, dead), living(&rig, alive)), (0, 3), "within the ttl and the limit");
    let changes = notes(&rig);
    let GuardLeft { end, held_for, held, .. } = *left(&changes[1]);
    assert_eq!((end, held_for, held), (GuardEnd::Elapsed, limit, 6));
    let expiries = expiries(&rig);
    assert_eq!(expiries.len(), 6);
    assert!(expiries.iter().all(|change| change.cause == Some(changes[1].seq)), "{expiries:?}");
    assert!(expiries.iter().all(|change| change.seq > changes[1].seq));
    assert_eq!(rig.handle().guards().as_deref(), Some(&[][..]));
}

/// Services of two, which only the guard over the registry protects.
#[tokio::test]
async fn a_split_of_services_of_two_evicts_nobody_and_all_come_back() {
    let rig = Rig::start().await;
    let all: Vec<InstanceKey> = (0..6).flat_map(|n| members(&format!("service-{n}"), 2)).collect();
    put_all(&rig, &all).await;
    live(&rig, 40, &[]).await;
    assert_eq!(living(&rig, &all), 12);
    let changes = notes(&rig);
    assert_eq!(changes.len(), 1);
    let inputs = GuardInputs { late: 12, gone: 0, living: 12 };
    assert_eq!((&entered(&changes[0]).over, entered(&changes[0]).inputs), (&None, inputs));

    // It heals; seven are heard at once, the others one by one until nearly a ttl later.
    beat_all(&rig, &all[..7]).await;
    for late in &all[7..] {
        live(&rig, 2, &[]).await;
        beat_all(&rig, std::slice::from_ref(late)).await;
    }
    beat_all(&rig, &all).await;
    live(&rig, 30, &all).await;
    assert_eq!(living(&rig, &all), 12);
    assert_eq!(expiries(&rig), []);
    assert!(all.iter().all(|one| rig.status(one) == Some(Status::Healthy)));
    let changes = notes(&rig);
    assert_eq!((changes.len(), left(&changes[1]).end), (2, GuardEnd::Recovered));
}

#[tokio::test]
async fn who_does_not_come_back_when_the_others_do_is_gone_a_ttl_later() {
    let rig = Rig::start().await;
    let all = members("orders", 8);
    put_all(&rig, &all).await;
    live(&rig, 20, &[]).await;
    let back = &all[..6];
    beat_all(&rig, back).await;
    rig.settle().await;
    let recovered = notes(&rig)[1].clone();
    // As soon as no more than half of them are late; two more follow.
    assert_eq!((left(&recovered).end, left(&recovered).held), (GuardEnd::Recovered, 4));
    live(&rig, 14, back).await;
    assert_eq!(living(&rig, &all), 8);
    live(&rig, 1, back).await;
    assert_eq!((living(&rig, back), living(&rig, &all)), (6, 6));
    assert!(expiries(&rig).iter().all(|change| change.cause == Some(recovered.seq)));
}

#[tokio::test]
async fn a_rolling_deployment_that_says_goodbye_never_triggers() {
    let rig = Rig::start().await;
    let (old, new) = (members("orders", 12), members("orders-next", 12));
    put_all(&rig, &old).await;
    for n in 0..12 {
        rig.submit(deregister(&old[n])).await.unwrap();
        let next = InstanceKey { service: old[0].service.clone(), ..new[n].clone() };
        rig.put(&next).await;
        let alive: Vec<InstanceKey> = new[..=n]
            .iter()
            .map(|key| InstanceKey { service: old[0].service.clone(), ..key.clone() })
            .chain(old[n + 1..].iter().cloned())
            .collect();
        live(&rig, 9, &alive).await;
    }
    assert_eq!((notes(&rig), expiries(&rig)), (vec![], vec![]));
}

#[tokio::test]
async fn a_kill_of_all_is_believed_when_the_limit_is_over() {
    let rig = Rig::start().await;
    let all = members("orders", 12);
    put_all(&rig, &all).await;
    live(&rig, 15 + 74, &[]).await;
    assert_eq!(living(&rig, &all), 12);
    live(&rig, 1, &[]).await;
    assert_eq!(living(&rig, &all), 0);
    let ends: Vec<_> = notes(&rig)[2..].iter().map(|note| left(note).end).collect();
    assert_eq!(ends, [GuardEnd::Elapsed; 2], "the service's, and the registry's");
    // They come back to life, and go with a goodbye: nothing is left behind.
    put_all(&rig, &all).await;
    live(&rig, 30, &all).await;
    assert_eq!((living(&rig, &all), notes(&rig).len()), (12, 4));
}

#[tokio::test]
async fn switched_off_it_evicts_all() {
    let config = Config { guard: None, ..Config::default() };
    let rig = Rig::with(MemoryLog::new(), ManualClock::new(START), config).await;
    let all = members("orders", 12);
    put_all(&rig, &all).await;
    live(&rig, 15, &[]).await;
    assert_eq!((living(&rig, &all), rig.handle().guards()), (0, None));
    assert_eq!(notes(&rig), []);
}

/// More are due than one sweep takes: all of them are counted before one of them expires. And nobody had the time to
/// mark them late.
#[tokio::test]
async fn more_than_a_sweep_takes_are_counted_before_anybody_expires() {
    let rig = Rig::start().await;
    let mut all = members("orders", 2_600);
    put_all(&rig, &all).await;
    let alive = all.split_off(2_500);
    rig.clock.advance(Millis::from_millis(8_000));
    beat_all(&rig, &alive).await;
    rig.clock.advance(Millis::from_millis(7_000));
    rig.settle().await;
    eventually(|| notes(&rig).len(), |notes| *notes == 2);
    let inputs = entered(&notes(&rig)[0]).inputs;
    assert_eq!(inputs, GuardInputs { late: 2_500, gone: 0, living: 2_600 });
    assert_eq!(expiries(&rig), []);
    assert!(all.iter().all(|one| rig.status(one) == Some(Status::Unstable)));
    let held = || rig.handle().guards().map(|guards| guards[0].held);
    eventually(held, |held| *held == Some(2_500));
}

#[tokio::test]
async fn a_log_that_fails_loses_no_lease_and_no_guard() {
    let rig = Rig::start().await;
    let all = members("orders", 5);
    put_all(&rig, &all).await;
    live(&rig, 14, &[]).await;
    rig.log.set_fault(Fault::UnknownOut);
    live(&rig, 6, &[]).await;
    assert_eq!((notes(&rig).len(), living(&rig, &all)), (0, 5));
    rig.log.set_fault(Fault::None);
    eventually(|| notes(&rig).len(), |notes| *notes == 1);
    live(&rig, 60, &[]).await;
    assert_eq!(living(&rig, &all), 5);
    rig.log.set_fault(Fault::UnknownIn);
    live(&rig, 30, &[]).await;
    assert_eq!(living(&rig, &all), 5);
    rig.log.set_fault(Fault::None);
    eventually(|| living(&rig, &all), |living| *living == 0);
    assert_eq!((notes(&rig).len(), expiries(&rig).len()), (2, 5));
    assert_eq!(rig.folded().1, rig.published());
}

#[tokio::test]
async fn a_stop_ends_the_guard_and_the_next_run_begins_anew() {
    let rig = Rig::start().await;
    let all = members("orders", 6);
    put_all(&rig, &all).await;
    live(&rig, 20, &[]).await;
    let rig = rig.restart().await;
    let changes = notes(&rig);
    assert_eq!(
        (changes.len(), left(&changes[1]).end, left(&changes[1]).held),
        (2, GuardEnd::Stopped, 6)
    );
    // The grace of a ttl, and as long as the guard holds.
    live(&rig, 14, &[]).await;
    assert_eq!((living(&rig, &all), notes(&rig).len()), (6, 2));
    live(&rig, 1, &[]).await;
    assert_eq!((living(&rig, &all), notes(&rig).len()), (6, 3));
    live(&rig, 75, &[]).await;
    assert_eq!(living(&rig, &all), 0);
}

#[tokio::test]
async fn a_stall_under_the_guard_evicts_nobody_who_beats_again() {
    let rig = Rig::start().await;
    let all = members("orders", 6);
    put_all(&rig, &all).await;
    live(&rig, 20, &[]).await;
    assert_eq!(notes(&rig).len(), 1);
    // Longer than the guard may hold.
    rig.clock.stall(Millis::from_millis(120_000));
    rig.settle().await;
    live(&rig, 3, &[]).await;
    beat_all(&rig, &all).await;
    live(&rig, 60, &all).await;
    assert_eq!((living(&rig, &all), expiries(&rig)), (6, vec![]));
    assert!(all.iter().all(|one| rig.status(one) == Some(Status::Healthy)));
}

/// One that comes back under the guard and falls silent again is watched like any other.
#[tokio::test]
async fn one_that_returned_is_watched_again_while_the_guard_holds() {
    let rig = Rig::start().await;
    let all = members("orders", 6);
    put_all(&rig, &all).await;
    live(&rig, 16, &[]).await;
    beat_all(&rig, &all[..1]).await;
    assert_eq!(rig.status(&all[0]), Some(Status::Healthy));
    live(&rig, 14, &[]).await;
    assert_eq!(rig.status(&all[0]), Some(Status::Unstable));
}

#[tokio::test]
async fn the_settings_decide() {
    let policy = Policy {
        share: 0.9,
        minimum: 2,
        registry_minimum: 100,
        limit_ttls: 1,
        ..Policy::default()
    };
    let config = Config { guard: Some(policy), ..Config::default() };
    let rig = Rig::with(MemoryLog::new(), ManualClock::new(START), config).await;
    let (pair, most) = (members("pair", 2), members("most", 10));
    put_all(&rig, &pair).await;
    put_all(&rig, &most).await;
    live(&rig, 15, &most[9..]).await;
    assert_eq!((living(&rig, &pair), living(&rig, &most)), (2, 1), "nine of ten are not more");
    assert_eq!(entered(&notes(&rig)[0]).limit, Millis::from_millis(15_000));
    live(&rig, 15, &most[9..]).await;
    assert_eq!(living(&rig, &pair), 0);
}

#[tokio::test]
async fn a_longer_ttl_among_the_late_ones_makes_the_guard_patient() {
    let rig = Rig::start().await;
    let all = members("orders", 4);
    put_all(&rig, &all[..3]).await;
    let ttl = Some(Millis::from_millis(20_000));
    rig.submit(Command::Register(Register { ttl, ..register(&all[3]) })).await.unwrap();
    live(&rig, 15, &[]).await;
    assert_eq!(entered(&notes(&rig)[0]).limit, Millis::from_millis(100_000));

    let applied = rig.submit(deregister(&all[3])).await.unwrap();
    assert!(applied.change.is_some_and(|change| change.seq > Seq::ZERO), "a goodbye is no expiry");
}
