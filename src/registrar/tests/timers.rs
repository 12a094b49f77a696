//! Deadlines of single instances: drains that end, checks that fail for too long; across failures and restarts.

use std::sync::Arc;

use super::{Rig, eventually};
use crate::domain::check::{Check, CheckKind, CheckMethod};
use crate::domain::command::{Judge, Register, Update};
use crate::domain::event::Kind;
use crate::domain::health::{Evidence, ProbeOutcome, ProbeVerdict};
use crate::domain::{Change, Command, Event, InstanceKey, Millis, Mode, Seq, Timestamp};
use crate::log::memory::Fault;
use crate::registrar::{Config, LogCondition};
use crate::testing::{key, register, update};

fn a() -> InstanceKey {
    key("orders", "a")
}

fn millis(millis: u64) -> Millis {
    Millis::from_millis(millis)
}

/// Drains `a` for so long; the number of the change and the end of the drain.
async fn drain(rig: &Rig, length: u64) -> (Seq, Timestamp) {
    let until = Timestamp(rig.now().micros() + i64::try_from(length * 1_000).unwrap());
    let mode = Some(Mode::Draining);
    let command = Command::Update(Update { mode, drain_until: Some(until), ..update(&a()) });
    let applied = rig.submit(command).await.unwrap();
    let instance = applied.instance.unwrap();
    assert_eq!((instance.mode, instance.drain_until), (Mode::Draining, Some(until)));
    (applied.change.unwrap().seq, until)
}

/// Lets time pass in which `a` sends heartbeats.
async fn pass_alive(rig: &Rig, mut left: u64) {
    while left > 0 {
        let step = left.min(3_000);
        rig.pass(step).await;
        left -= step;
        if rig.entry(&a()).is_some() {
            rig.beat(&a(), crate::testing::trace(1)).await.unwrap();
        }
    }
}

fn reason(change: &Change) -> &str {
    match &change.event {
        Event::Deregistered { reason, .. } => reason.as_deref().unwrap_or(""),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_and_names_its_cause() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    let (began, _) = drain(&rig, 30_000).await;
    pass_alive(&rig, 29_999).await;
    assert!(rig.entry(&a()).is_some(), "a millisecond before");
    pass_alive(&rig, 1).await;
    assert!(rig.entry(&a()).is_none());
    let left = rig.last();
    assert_eq!(
        (left.cause, left.caller.is_none(), left.trace.is_some()),
        (Some(began), true, true)
    );
    assert_eq!(reason(&left), "its drain ended at the deadline that was set");
}

#[tokio::test]
async fn a_drain_can_be_moved_and_undone() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    drain(&rig, 10_000).await;
    let (moved, until) = drain(&rig, 20_000).await;
    // Said once more without a deadline: the one that was set stays. A restart of the process changes nothing.
    let again = Update { mode: Some(Mode::Draining), ..update(&a()) };
    rig.submit(Command::Update(again)).await.unwrap();
    rig.put(&a()).await;
    pass_alive(&rig, 15_000).await;
    assert_eq!(rig.entry(&a()).unwrap().instance.drain_until, Some(until));
    pass_alive(&rig, 5_000).await;
    assert_eq!((rig.entry(&a()).is_none(), rig.last().cause), (true, Some(moved)));

    rig.put(&a()).await;
    drain(&rig, 10_000).await;
    let undone = Update { mode: Some(Mode::Active), ..update(&a()) };
    let applied = rig.submit(Command::Update(undone)).await.unwrap();
    assert_eq!(applied.instance.unwrap().drain_until, None);
    pass_alive(&rig, 60_000).await;
    assert!(rig.entry(&a()).is_some(), "it was undone");
}

/// The next life at another address goes on draining, to the same end.
#[tokio::test]
async fn a_drain_outlives_a_move_to_another_address() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    let (began, _) = drain(&rig, 10_000).await;
    rig.pass(5_000).await;
    let mut moved = register(&a());
    moved.endpoint.port = 9_090;
    rig.submit(Command::Register(moved)).await.unwrap();
    rig.pass(4_999).await;
    assert!(rig.entry(&a()).is_some());
    rig.pass(1).await;
    assert_eq!((rig.entry(&a()).is_none(), rig.last().cause), (true, Some(began)));
}

#[tokio::test]
async fn a_drain_goes_on_after_a_restart_and_the_wall_clock_can_not_prolong_it() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    let (began, _) = drain(&rig, 30_000).await;
    pass_alive(&rig, 10_000).await;
    let (log, clock) = rig.stop();
    clock.advance(millis(5_000));
    let rig = Rig::with(log, clock, Config::default()).await;
    pass_alive(&rig, 14_999).await;
    assert!(rig.entry(&a()).is_some());
    pass_alive(&rig, 1).await;
    assert!(rig.entry(&a()).is_none());
    assert_eq!(rig.last().cause, Some(began));

    // An hour back: what is left is what was left at the last change.
    rig.put(&a()).await;
    drain(&rig, 30_000).await;
    let (log, clock) = rig.stop();
    clock.jump(-3_600_000_000);
    let rig = Rig::with(log, clock, Config::default()).await;
    pass_alive(&rig, 30_000).await;
    assert!(rig.entry(&a()).is_none());
}

#[tokio::test]
async fn a_wall_clock_that_jumps_neither_ends_nor_prolongs_a_drain() {
    for jump in [3_600_000_000, -3_600_000_000] {
        let rig = Rig::start().await;
        rig.put(&a()).await;
        rig.clock.jump(jump);
        drain(&rig, 30_000).await;
        rig.clock.jump(jump);
        pass_alive(&rig, 29_999).await;
        assert!(rig.entry(&a()).is_some(), "{jump}");
        pass_alive(&rig, 1).await;
        assert!(rig.entry(&a()).is_none(), "{jump}");
    }
}

#[tokio::test]
async fn a_deadline_that_could_not_be_written_comes_up_again() {
    let rig = Rig::start().await;
    rig.put(&a()).await;
    let (began, _) = drain(&rig, 2_000).await;
    rig.log.set_fault(Fault::Unavailable);
    rig.pass(2_000).await;
    let condition = || rig.handle().log_condition();
    eventually(condition, |condition| matches!(condition, LogCondition::Failed { .. }));
    assert!(rig.entry(&a()).is_some(), "what is not written did not happen");
    rig.log.set_fault(Fault::None);
    eventually(condition, |condition| *condition == LogCondition::Writable);
    rig.settle().await;
    let kinds: Vec<Kind> = rig.events_after(began).iter().map(Event::kind).collect();
    assert_eq!(kinds, [Kind::LogGap, Kind::Deregistered]);
    assert_eq!(rig.last().cause, Some(began));
}

fn checked(deregister_after: Option<Millis>) -> Register {
    let check = Check {
        kind: CheckKind::Tcp,
        port: None,
        path: "".into(),
        method: CheckMethod::Get,
        expect: None,
        service: "".into(),
        tls: false,
        interval: millis(10_000),
        timeout: millis(2_000),
        initial_delay: Millis::ZERO,
        failures: 3,
        passes: 1,
        deregister_after,
        registered_from: None,
    };
    Register { ttl: None, check: Some(Arc::new(check)), ..register(&a()) }
}

async fn judge(rig: &Rig, verdict: ProbeVerdict) -> Option<Seq> {
    let incarnation = rig.entry(&a()).unwrap().instance.incarnation;
    let evidence = Evidence {
        outcome: ProbeOutcome::Timeout,
        status: None,
        latency: millis(2_000),
        error: None,
        in_a_row: 3,
    };
    let command = Command::Judge(Judge { key: a(), incarnation, verdict, evidence });
    rig.submit(command).await.unwrap().change.map(|change| change.seq)
}

#[tokio::test]
async fn who_fails_its_check_for_too_long_is_taken_out_if_that_was_asked_for() {
    let rig = Rig::start().await;
    rig.submit(Command::Register(checked(Some(millis(60_000))))).await.unwrap();
    judge(&rig, ProbeVerdict::Failing).await;
    rig.pass(59_000).await;
    // It passes once: the next failure counts from its own beginning.
    judge(&rig, ProbeVerdict::Passing).await;
    rig.pass(59_000).await;
    let failed = judge(&rig, ProbeVerdict::Failing).await;
    rig.pass(59_999).await;
    assert!(rig.entry(&a()).is_some());
    rig.pass(1).await;
    assert!(rig.entry(&a()).is_none());
    assert_eq!(rig.last().cause, failed);
    assert_eq!(reason(&rig.last()), "its check had been failing for 1m (check.deregister_after)");

    rig.submit(Command::Register(checked(None))).await.unwrap();
    judge(&rig, ProbeVerdict::Failing).await;
    rig.pass(3_600_000).await;
    assert!(rig.entry(&a()).is_some(), "off by default");
}

/// Nobody probed while the registry stood still, or was not there.
#[tokio::test]
async fn a_failure_counts_only_while_the_registry_is_awake() {
    let rig = Rig::start().await;
    rig.submit(Command::Register(checked(Some(millis(60_000))))).await.unwrap();
    let failed = judge(&rig, ProbeVerdict::Failing).await;
    rig.pass(30_000).await;
    rig.clock.stall(millis(600_000));
    rig.settle().await;
    rig.pass(59_999).await;
    assert!(rig.entry(&a()).is_some());
    let rig = rig.restart().await;
    rig.pass(59_999).await;
    assert!(rig.entry(&a()).is_some(), "it begins anew");
    rig.pass(1).await;
    assert!(rig.entry(&a()).is_none());
    assert_eq!(rig.last().cause, failed);
}
