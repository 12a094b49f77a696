//! A log that fails, loses its answer, has a second writer or stands still.

use super::rig::request;
use super::{Rig, eventually};
use crate::clock::ManualClock;
use crate::domain::command::{Precondition, Register};
use crate::domain::event::{Event, Kind, LogGap, Outcome};
use crate::domain::{
    Change, Command, Detector, Instance, InstanceKey, Labels, Millis, Mode, Rejection, Seq,
    Signals, Status, Timestamp,
};
use crate::log::ChangeLog;
use crate::log::memory::{Fault, MemoryLog};
use crate::registrar::{Applied, Config, LogCondition, QueuedTraffic, Refused};
use crate::testing::traffic::lookup;
use crate::testing::{START, key, register, trace};
use std::sync::Arc;
use tokio::task::JoinHandle;

fn a() -> InstanceKey {
    key("orders", "a")
}

fn b() -> InstanceKey {
    key("orders", "b")
}

fn refused<T>(answer: Result<T, Refused>) -> bool {
    match answer {
        Err(Refused::Failed { cause }) => cause.contains("told to"),
        _ => false,
    }
}

/// Sends a command without waiting for its answer; when this returns, it is in the inbox or further.
#[expect(clippy::disallowed_methods, reason = "every test waits for the answers it asked for")]
async fn send(rig: &Rig, command: Command) -> JoinHandle<Result<Applied, Refused>> {
    let handle = rig.handle();
    let task = tokio::spawn(async move { handle.submit(request(command, trace(1))).await });
    tokio::task::yield_now().await;
    task
}

fn failed(rig: &Rig) {
    let condition = || rig.handle().log_condition();
    eventually(condition, |condition| matches!(condition, LogCondition::Failed { .. }));
}

fn resume(rig: &Rig) {
    rig.log.set_fault(Fault::None);
    eventually(|| rig.handle().log_condition(), |condition| *condition == LogCondition::Writable);
}

fn gaps(rig: &Rig) -> Vec<LogGap> {
    let gap = |event| match event {
        Event::Note(crate::domain::event::Note::LogGap(gap)) => Some(gap),
        _ => None,
    };
    rig.events_after(Seq(0)).into_iter().filter_map(gap).collect()
}

#[tokio::test]
async fn while_the_log_fails_heartbeats_renew_and_nobody_expires() {
    let config = Config { traffic_queue: 4, ..Config::default() };
    let rig = Rig::with(MemoryLog::new(), ManualClock::new(START), config).await;
    rig.put(&a()).await;
    let head = rig.put(&b()).await;
    let since = Timestamp(START.0 + 1_000_000);
    rig.clock.advance(Millis::from_millis(1_000));
    rig.log.set_fault(Fault::Unavailable);
    assert!(refused(rig.submit(Command::Register(register(&key("web", "x")))).await));
    let LogCondition::Failed { since: told, cause } = rig.handle().log_condition() else {
        panic!("it has failed")
    };
    assert_eq!((told, &*cause), (since, "the log was told to fail"));

    // Ten heartbeats and three lookups, of which the queue holds four.
    for n in 0..10 {
        rig.pass(5_000).await;
        rig.beat(&a(), trace(n + 1)).await.unwrap();
    }
    for n in 0..3 {
        rig.look_up(n).await;
    }
    assert_eq!([rig.status(&a()), rig.status(&b())], [Some(Status::Healthy); 2]);
    assert_eq!(rig.projection.head(), head, "what was refused was never shown");
    assert_eq!(rig.log.changes().len() as u64, head.0);

    resume(&rig);
    rig.settle().await;
    let events = rig.events_after(head);
    let kinds: Vec<Kind> = events.iter().map(Event::kind).collect();
    assert_eq!(kinds, [Kind::LogGap, Kind::Expired], "b fell silent 51 seconds ago");
    let until = Timestamp(since.0 + 50_000_000);
    assert_eq!(gaps(&rig), [LogGap { from: since, until, lookups: 3, heartbeats: 6 }]);
    assert_eq!([rig.status(&a()), rig.status(&b())], [Some(Status::Healthy), None]);
    let traces = || rig.log.traffic().into_iter().map(|e| e.traffic.trace).collect::<Vec<_>>();
    eventually(traces, |traces| *traces == [1, 2, 3, 4].map(trace));
    assert_eq!(rig.put(&a()).await, Seq(head.0 + 3));
}

#[tokio::test]
async fn who_is_late_when_the_log_fails_is_renewed_and_revived_afterwards() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    rig.pass(12_000).await;
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    rig.log.set_fault(Fault::Unavailable);
    for _ in 0..6 {
        let asked = rig.beat(&a(), trace(1)).await.unwrap().expect("a late lease asks");
        assert_eq!(asked.change, None, "the status can't change now");
        failed_or_fine(&rig).await;
        rig.pass(5_000).await;
    }
    assert_eq!(rig.status(&a()), Some(Status::Unstable));
    resume(&rig);
    rig.settle().await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy), "it was renewed five seconds ago");
}

/// The first failing write makes the failure known.
async fn failed_or_fine(rig: &Rig) {
    assert!(refused(rig.submit(Command::Register(register(&b()))).await));
}

/// The append of the expiry fails: the lease is given back, and a heartbeat keeps it.
#[tokio::test]
async fn an_expiry_that_could_not_be_written_did_not_happen() {
    let rig = Rig::start().await;
    let head = rig.put(&a()).await;
    rig.log.set_fault(Fault::Unavailable);
    rig.pass(15_000).await;
    failed(&rig);
    rig.beat(&a(), trace(1)).await.unwrap();
    resume(&rig);
    rig.settle().await;
    assert_eq!(rig.status(&a()), Some(Status::Healthy));
    let kinds: Vec<Kind> = rig.events_after(head).iter().map(Event::kind).collect();
    assert_eq!(kinds, [Kind::LogGap]);
    rig.pass(15_000).await;
    assert_eq!(rig.status(&a()), None, "the next time it can be written");
}

#[tokio::test]
async fn nobody_is_answered_while_it_is_not_known_what_is_in_the_log() {
    for (fault, is_in) in [(Fault::UnknownIn, true), (Fault::UnknownOut, false)] {
        let rig = Rig::start().await;
        let head = rig.put(&a()).await;
        rig.log.set_fault(fault);
        let put = send(&rig, Command::Register(register(&b()))).await;
        failed(&rig);
        rig.beat(&a(), trace(1)).await.unwrap();
        assert!(refused(rig.submit(Command::Register(register(&key("web", "x")))).await));
        assert!(!put.is_finished(), "{fault:?}");
        assert_eq!(rig.status(&b()), None, "nor shown: {fault:?}");

        resume(&rig);
        let answer = put.await.unwrap();
        let kinds: Vec<Kind> = rig.events_after(head).iter().map(Event::kind).collect();
        if is_in {
            assert_eq!(answer.unwrap().change.unwrap().seq, Seq(head.0 + 1));
            assert_eq!(kinds, [Kind::Registered, Kind::LogGap]);
        } else {
            assert!(refused(answer));
            assert_eq!(kinds, [Kind::LogGap]);
        }
        assert_eq!(rig.status(&b()).is_some(), is_in);
        assert_eq!(rig.put(&a()).await, Seq(head.0 + 1 + kinds.len() as u64));
        assert_eq!(rig.published(), rig.folded().1);
    }
}

/// The answer about the gap itself is lost: it is told once, whether it was in or not.
#[tokio::test]
async fn a_gap_is_told_once() {
    for fault in [Fault::UnknownIn, Fault::UnknownOut] {
        let config = Config { traffic_queue: 1, ..Config::default() };
        let rig = Rig::with(MemoryLog::new(), ManualClock::new(START), config).await;
        let head = rig.put(&a()).await;
        rig.log.set_fault(Fault::Unavailable);
        assert!(refused(rig.submit(Command::Register(register(&b()))).await));
        for n in 0..5 {
            rig.look_up(n).await;
        }
        // From here on each attempt to resume leaves its outcome open.
        rig.log.set_fault(fault);
        rig.clock.advance(Millis::from_millis(1_000));
        rig.settle().await;
        rig.settle().await;
        resume(&rig);
        rig.settle().await;
        let told: u64 = gaps(&rig).iter().map(|gap| gap.lookups).sum();
        assert_eq!(told, 4, "{fault:?}: {:?}", gaps(&rig));
        assert_eq!(rig.events_after(head).len(), gaps(&rig).len());
    }
}

#[tokio::test]
async fn traffic_of_unknown_fate_is_in_the_log_once() {
    for fault in [Fault::UnknownIn, Fault::UnknownOut, Fault::Unavailable] {
        let rig = Rig::start().await;
        rig.put(&a()).await;
        rig.log.set_fault(fault);
        rig.beat(&a(), trace(5)).await.unwrap();
        rig.look_up(1).await;
        failed(&rig);
        rig.look_up(2).await;
        resume(&rig);
        eventually(|| rig.log.traffic().len(), |count| *count >= 3);
        rig.look_up(3).await;
        let logged = eventually(|| rig.log.traffic(), |logged| logged.len() >= 4);
        assert!(logged.iter().map(|event| event.number).eq(1..=4), "{fault:?}");
        let last = || rig.entry(&a()).unwrap().lease.last_heartbeat().map(|h| (h.id, h.trace));
        eventually(last, |last| *last == Some((1, trace(5))));
        assert_eq!(gaps(&rig).len(), 1);
    }
}

/// The registration of another node's caller, as that node would append it.
fn theirs(rig: &Rig, key: &InstanceKey) -> Change {
    let Register { endpoint, ttl, tags, metadata, .. } = register(key);
    let seq = rig.last().seq.next();
    let instance = Arc::new(Instance {
        key: key.clone(),
        incarnation: seq,
        endpoint,
        labels: Labels::new(Some("theirs"), None, &tags, &metadata),
        weight: 1,
        mode: Mode::Active,
        drain_until: None,
        status: Status::Healthy,
        signals: Signals::default(),
        ttl,
        detector: Detector::Fixed,
        check: None,
        registered_at: START,
        revision: seq,
    });
    let event = Event::Registered { outcome: Outcome::Created, instance };
    let (at, baggage) = (rig.last().at, None);
    Change { seq, at, caller: None, trace: trace(9), cause: None, baggage, event }
}

#[tokio::test]
async fn who_loses_the_race_for_the_head_is_decided_against_the_winner() {
    let rig = Rig::start().await;
    rig.gate.close();
    let free = Register { precondition: Precondition::Free, ..register(&a()) };
    let put = send(&rig, Command::Register(free)).await;
    rig.gate.await_append();
    let winner = theirs(&rig, &a());
    rig.log.clone().append(rig.last().seq, &[Arc::new(winner.clone())]).unwrap();
    rig.gate.open();
    let lost = Rejection::InUse { incarnation: winner.seq };
    assert_eq!(put.await.unwrap().map(|_| ()), Err(Refused::Rejected(lost)));
    assert_eq!(rig.entry(&a()).unwrap().instance.labels.version(), Some("theirs"));
    assert_eq!(rig.handle().log_condition(), LogCondition::Writable);

    assert_eq!(rig.put(&b()).await, winner.seq.next());
    assert!(rig.beat(&a(), trace(1)).await.unwrap().is_none(), "theirs has a lease");
    rig.pass(15_000).await;
    assert_eq!(rig.projection.population().total(), 0, "and it runs out");
    assert_eq!(rig.published(), rig.folded().1);
}

#[tokio::test]
async fn a_full_inbox_refuses_at_once_and_keeps_what_it_took() {
    let config = Config { command_queue: 2, ..Config::default() };
    let rig = Rig::with(MemoryLog::new(), ManualClock::new(START), config).await;
    rig.gate.close();
    let mut puts = vec![send(&rig, Command::Register(register(&key("web", "0")))).await];
    rig.gate.await_append();
    for id in ["1", "2"] {
        puts.push(send(&rig, Command::Register(register(&key("web", id)))).await);
    }
    assert_eq!(rig.handle().inbox_fill(), (2, 2));
    let refused = rig.submit(Command::Register(register(&key("web", "3")))).await;
    assert_eq!(refused.map(|_| ()), Err(Refused::QueueFull));
    rig.gate.open();
    for put in puts {
        assert!(put.await.unwrap().is_ok());
    }
    assert_eq!(rig.projection.population().total(), 3);
}

/// A checkpoint that is due must not follow a group of which nobody knows whether it is in.
#[tokio::test]
async fn nothing_follows_a_group_in_doubt() {
    let config = Config { checkpoint_every: 4, ..Config::default() };
    let rig = Rig::with(MemoryLog::new(), ManualClock::new(START), config).await;
    rig.put(&a()).await;
    rig.log.set_fault(Fault::Unavailable);
    assert!(refused(rig.submit(Command::Register(register(&b()))).await));
    // The gap is the fourth change of this run.
    resume(&rig);
    rig.log.set_fault(Fault::UnknownIn);
    let put = send(&rig, Command::Register(register(&b()))).await;
    failed(&rig);
    rig.settle().await;
    resume(&rig);
    assert!(put.await.unwrap().is_ok());
    rig.settle().await;
    assert_eq!(rig.published(), rig.folded().1);
    rig.restart().await;
}

/// A slow log loses nothing: traffic that finds no place waits for one, and past its time limit its caller is
/// told so.
#[tokio::test]
async fn a_slow_log_makes_its_callers_wait_and_then_says_so() {
    let limit = std::time::Duration::from_millis(100);
    let config = Config { traffic_queue: 4, write_timeout: limit, ..Config::default() };
    let rig = Rig::impatient(MemoryLog::new(), ManualClock::new(START), config).await;
    rig.gate.close();
    let record = async |n: usize| {
        let event = QueuedTraffic { traffic: lookup(n), lease: None };
        rig.handle().record(event).await
    };
    // One is being written, four have a place.
    assert_eq!(record(1).await, Ok(()));
    rig.gate.await_append();
    for n in 2..=5 {
        assert_eq!(record(n).await, Ok(()));
    }
    assert_eq!(record(6).await, Err(Refused::Slow(limit)));
    let put = rig.submit(Command::Register(register(&a()))).await;
    assert_eq!(put.map(|_| ()), Err(Refused::Slow(limit)), "it may still take effect");

    // One that waits gets its place when the log goes on.
    let (waited, ()) = tokio::join!(record(7), async { rig.gate.open() });
    assert_eq!(waited, Ok(()));
    rig.settle().await;
    // What was refused is not there, all else is.
    eventually(|| rig.log.traffic().len(), |stored| *stored == 6);
    assert_eq!(rig.published(), rig.folded().1);
}
