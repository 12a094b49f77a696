//! Given commands, when another one comes, then this event or this rejection; and random histories
//! through decide, the codec and fold.

use std::sync::Arc;

use proptest::prelude::*;

use super::check::{Check, CheckKind, CheckMethod};
use super::command::{Damp, Ground, Judge, MetadataPatch, Precondition, Register, Retire, Update};
use super::event::{Arithmetic, Note, Outcome, Overdue, StatusReason};
use super::health::{Evidence, Flaps, ProbeOutcome, ProbeVerdict};
use super::instance::{Health, Metadata};
use super::invariants::{check_change, check_registry};
use super::limits::{METADATA_KEYS_MAX, WEIGHT_DEFAULT};
use super::*;
use crate::log::codec;
use crate::testing::history::{Step, histories};
use crate::testing::{
    START, caller, cases, deregister, heartbeat, key, metadata, register, trace, update,
};

/// A registry to which things happen, a second apart.
#[derive(Debug)]
struct World {
    registry: Registry,
    now: Timestamp,
}

fn given(commands: &[Command]) -> World {
    let mut world = World { registry: Registry::default(), now: START };
    for command in commands {
        world.when(command).unwrap_or_else(|rejection| panic!("{command:?}: {rejection}"));
    }
    world
}

impl World {
    /// Decides `command` and folds what came of it.
    fn when(&mut self, command: &Command) -> Result<Option<Change>, Rejection> {
        self.now.0 += 1_000_000;
        let Some(decision) = decide(&self.registry, command, self.now)? else { return Ok(None) };
        let change = decision.into_change(&self.registry, self.now, caller(), trace(7));
        check_change(&self.registry, &change).unwrap();
        drop(fold(&mut self.registry, &change));
        check_registry(&self.registry).unwrap();
        Ok(Some(change))
    }

    fn event(&mut self, command: &Command) -> Event {
        self.when(command).unwrap().expect("an event").event
    }

    fn instance(&self, key: &InstanceKey) -> &Instance {
        self.registry.instance(key).expect("it lives")
    }
}

fn a() -> InstanceKey {
    key("orders", "a")
}

fn put(edit: impl FnOnce(&mut Register)) -> Command {
    let mut command = register(&a());
    edit(&mut command);
    Command::Register(command)
}

fn patch(edit: impl FnOnce(&mut Update)) -> Command {
    let mut command = update(&a());
    edit(&mut command);
    Command::Update(command)
}

fn beat(incarnation: Option<Seq>, health: Option<Health>) -> Command {
    Command::Heartbeat(super::command::Heartbeat { incarnation, health, ..heartbeat(&a()) })
}

fn overdue(incarnation: u64) -> Overdue {
    let second = Millis::from_millis(1_000);
    let arithmetic = Arithmetic {
        last_heartbeat: None,
        ttl: second,
        gap: second,
        missed: 4,
        late: second,
        grace: Millis::ZERO,
        accrual: None,
    };
    Overdue { key: a(), incarnation: Seq(incarnation), arithmetic, cause: None }
}

fn outcome(event: &Event) -> Option<Outcome> {
    match event {
        Event::Registered { outcome, .. } | Event::Updated { outcome, .. } => Some(*outcome),
        _ => None,
    }
}

#[test]
fn a_first_registration_begins_a_life_with_the_defaults() {
    let mut world = given(&[Command::Register(register(&key("web", "x")))]);
    let change = world.when(&put(|_| {})).unwrap().unwrap();
    assert_eq!(outcome(&change.event), Some(Outcome::Created));
    let instance = world.instance(&a());
    assert_eq!((change.seq, instance.incarnation, instance.revision), (Seq(2), Seq(2), Seq(2)));
    assert_eq!((instance.mode, instance.weight), (Mode::Active, WEIGHT_DEFAULT));
    assert_eq!((instance.status, instance.registered_at), (Status::Healthy, world.now));
    assert_eq!(change.caller, caller());
}

#[test]
fn the_same_registration_again_is_an_event_but_no_revision() {
    let mut world = given(&[put(|_| {})]);
    let before = world.registry.service(&a().service).unwrap().clone();
    assert_eq!(outcome(&world.event(&put(|_| {}))), Some(Outcome::Unchanged));
    assert_eq!(world.registry.head(), Seq(2));
    assert_eq!(world.registry.service(&a().service), Some(&before));
}

#[test]
fn another_label_replaces_and_another_place_is_another_life() {
    let mut world = given(&[put(|_| {})]);
    let born = world.instance(&a()).registered_at;
    assert_eq!(outcome(&world.event(&put(|r| r.zone = Some("b".into())))), Some(Outcome::Replaced));
    let instance = world.instance(&a());
    assert_eq!((instance.incarnation, instance.revision), (Seq(1), Seq(2)));
    assert_eq!(instance.registered_at, born);

    let same_place = put(|r| r.endpoint.protocol = "grpc".into());
    world.event(&same_place);
    assert_eq!(world.instance(&a()).incarnation, Seq(1), "another protocol is the same process");

    for (seq, moved) in
        [(4, put(|r| r.endpoint.port = 9090)), (5, put(|r| r.endpoint.address = "10.0.0.8".into()))]
    {
        assert_eq!(outcome(&world.event(&moved)), Some(Outcome::Replaced));
        let instance = world.instance(&a());
        assert_eq!((instance.incarnation, instance.registered_at), (Seq(seq), world.now));
    }
}

#[test]
fn whoever_left_comes_back_as_another_life() {
    let mut world = given(&[put(|r| r.weight = Some(7)), deregister(&a()), put(|_| {})]);
    let instance = world.instance(&a());
    assert_eq!((instance.incarnation, instance.weight), (Seq(3), WEIGHT_DEFAULT));
    assert_eq!(outcome(&world.event(&put(|_| {}))), Some(Outcome::Unchanged));
}

#[test]
fn a_restart_does_not_undo_what_an_operator_set() {
    let set = patch(|u| (u.mode, u.weight) = (Some(Mode::Draining), Some(0)));
    let mut world = given(&[put(|_| {}), set]);
    world.event(&put(|r| r.endpoint.port = 9090));
    let instance = world.instance(&a());
    assert_eq!((instance.mode, instance.weight), (Mode::Draining, 0));
    world.event(&put(|r| (r.mode, r.weight) = (Some(Mode::Active), Some(5))));
    let instance = world.instance(&a());
    assert_eq!((instance.mode, instance.weight), (Mode::Active, 5));
}

#[test]
fn a_new_process_has_said_nothing_of_itself_yet() {
    let failing = beat(None, Some(Health::Failing));
    let mut world = given(&[put(|_| {}), failing]);
    world.event(&put(|r| r.zone = Some("b".into())));
    assert_eq!(world.instance(&a()).status, Status::Failed, "the same process said so");
    world.event(&put(|r| r.endpoint.port = 9090));
    assert_eq!(world.instance(&a()).status, Status::Healthy);
}

#[test]
fn preconditions_say_what_must_hold() {
    let with = |precondition| put(move |r| r.precondition = precondition);
    let mut nobody = given(&[]);
    assert_eq!(nobody.when(&with(Precondition::Present)), Err(Rejection::Stale));
    assert_eq!(nobody.when(&with(Precondition::Revision(Some(Seq(1))))), Err(Rejection::Stale));
    assert!(nobody.when(&with(Precondition::Free)).is_ok());

    let mut somebody = given(&[put(|_| {}), patch(|u| u.weight = Some(3))]);
    assert_eq!(
        somebody.when(&with(Precondition::Free)),
        Err(Rejection::InUse { incarnation: Seq(1) })
    );
    for stale in [Some(Seq(1)), Some(Seq(3)), None] {
        let refused = somebody.when(&with(Precondition::Revision(stale)));
        assert_eq!(refused, Err(Rejection::Stale), "{stale:?}");
    }
    let gone = patch(|u| u.precondition = Precondition::Revision(Some(Seq(1))));
    assert_eq!(somebody.when(&gone), Err(Rejection::Stale));
    assert!(somebody.when(&with(Precondition::Revision(Some(Seq(2))))).is_ok());
    assert_eq!(somebody.registry.head(), Seq(3), "what was refused left no event");
}

#[test]
fn who_is_not_there_is_told_apart_from_what_never_was() {
    let mut world = given(&[Command::Register(register(&key("orders", "b")))]);
    for command in [patch(|_| {}), deregister(&a()), beat(None, None)] {
        assert_eq!(world.when(&command), Err(Rejection::UnknownInstance));
        assert_eq!(given(&[]).when(&command), Err(Rejection::UnknownService));
    }
}

#[test]
fn a_patch_of_the_mode_alone_is_a_mode_change() {
    let mut world = given(&[put(|_| {})]);
    let drain = patch(|u| u.mode = Some(Mode::Draining));
    let (from, to) = (Mode::Active, Mode::Draining);
    assert_eq!(world.event(&drain), Event::ModeChanged { key: a(), from, to, until: None });
    assert_eq!(world.instance(&a()).revision, Seq(2));
    let again = world.event(&drain);
    assert_eq!((again.kind(), again.outcome()), (Kind::ModeChanged, "unchanged"));
    assert_eq!(world.instance(&a()).revision, Seq(2), "it changed nothing");

    let both = patch(|u| (u.mode, u.weight) = (Some(Mode::Active), Some(9)));
    let Event::Updated { outcome, fields, .. } = world.event(&both) else { panic!("an update") };
    assert_eq!((outcome, fields), (Outcome::Replaced, vec!["mode", "weight"]));
    assert_eq!(outcome_of_repeat(&mut world, &both), Some(Outcome::Unchanged));
}

fn outcome_of_repeat(world: &mut World, command: &Command) -> Option<Outcome> {
    let revision = world.instance(&a()).revision;
    let event = world.event(command);
    assert_eq!(world.instance(&a()).revision, revision);
    outcome(&event)
}

#[test]
fn a_merge_patch_keeps_to_the_limit_of_keys() {
    let pairs = |keys: std::ops::Range<usize>| -> MetadataPatch {
        MetadataPatch::Merge(keys.map(|n| (n.to_string().into(), Some("v".into()))).collect())
    };
    let merge = |entries: MetadataPatch| patch(|u| u.metadata = Some(entries));
    let mut world = given(&[put(|r| r.metadata = metadata(&[("0", "old"), ("x", "y")]))]);
    world.event(&merge(pairs(0..METADATA_KEYS_MAX - 1)));
    let metadata_of = |world: &World| -> Metadata {
        let living = world.instance(&a());
        living.labels.metadata().map(|(k, v)| (k.into(), v.into())).collect()
    };
    let full = metadata_of(&world);
    assert_eq!(
        (full.len(), full.get("0"), full.get("x")),
        (METADATA_KEYS_MAX, Some("v"), Some("y"))
    );
    let refused = world.when(&merge(pairs(60..METADATA_KEYS_MAX)));
    assert_eq!(refused, Err(Rejection::TooMuchMetadata { was: METADATA_KEYS_MAX + 1 }));

    let swap = [("x".into(), None), ("63".into(), Some("v".into()))];
    world.event(&merge(MetadataPatch::Merge(swap.into())));
    assert_eq!(metadata_of(&world).len(), METADATA_KEYS_MAX);
    world.event(&merge(MetadataPatch::Clear));
    assert!(metadata_of(&world).is_empty());
}

#[test]
fn what_a_heartbeat_says_decides_between_healthy_and_failed() {
    use Health::{Failing, Passing};
    use Status::{Failed, Healthy, Unstable};
    use StatusReason::{Recovery, SelfReport};
    let said = |status| match status {
        Healthy => vec![put(|_| {})],
        Unstable => vec![put(|_| {}), Command::MarkLate(overdue(1))],
        Failed => vec![put(|_| {}), beat(Some(Seq(1)), Some(Failing))],
    };
    for (before, health, then) in [
        (Healthy, None, None),
        (Healthy, Some(Passing), None),
        (Healthy, Some(Failing), Some((Failed, SelfReport))),
        (Unstable, None, Some((Healthy, Recovery))),
        (Unstable, Some(Passing), Some((Healthy, Recovery))),
        (Unstable, Some(Failing), Some((Failed, SelfReport))),
        (Failed, None, None),
        (Failed, Some(Failing), None),
        (Failed, Some(Passing), Some((Healthy, SelfReport))),
    ] {
        let mut world = given(&said(before));
        let change = world.when(&beat(Some(Seq(1)), health)).unwrap();
        let told = change.as_ref().map(|change| match &change.event {
            Event::StatusChanged { from, to, reason, health: told, overdue: None, .. } => {
                assert_eq!((*from, *told, change.cause), (before, health, Some(Seq(1))));
                (*to, *reason)
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(told, then, "{before} and {health:?}");
        assert_eq!(world.instance(&a()).status, then.map_or(before, |(to, _)| to));
    }
}

/// A heartbeat does not heal what a probe found, nor a probe what the instance says of itself.
#[test]
fn each_voice_takes_back_only_what_it_said() {
    use ProbeVerdict::{Failing, Passing, Pending, Suspect};
    use Status::{Failed, Healthy, Unstable};
    let judged = |verdict| {
        let evidence = Evidence {
            outcome: ProbeOutcome::Timeout,
            status: None,
            latency: Millis::from_millis(2_000),
            error: Some("no answer within 2s".into()),
            in_a_row: 1,
        };
        Command::Judge(Judge { key: a(), incarnation: Seq(1), verdict, evidence })
    };
    let says = |health| beat(Some(Seq(1)), Some(health));
    let damp = |flapping| {
        let flaps = Flaps { changes: 6, window: Millis::from_millis(60_000) };
        Command::Damp(Damp { key: a(), incarnation: Seq(1), flapping, flaps })
    };
    let mut world = given(&[put(|r| r.check = Some(Arc::new(check())))]);
    assert_eq!(world.instance(&a()).status, Unstable, "until its first passing probe");
    let late = Command::MarkLate(overdue(1));
    for (command, kind, then) in [
        (judged(Passing), Some(Kind::StatusChanged), Healthy),
        (judged(Passing), None, Healthy),
        (judged(Suspect), Some(Kind::StatusChanged), Unstable),
        (late, Some(Kind::SignalsChanged), Unstable),
        (judged(Failing), Some(Kind::StatusChanged), Failed),
        (says(Health::Passing), Some(Kind::SignalsChanged), Failed),
        (says(Health::Failing), Some(Kind::SignalsChanged), Failed),
        (judged(Passing), Some(Kind::SignalsChanged), Failed),
        (damp(true), Some(Kind::StatusChanged), Unstable),
        (says(Health::Passing), Some(Kind::SignalsChanged), Unstable),
        (damp(false), Some(Kind::StatusChanged), Healthy),
        (put(|r| r.check = None), Some(Kind::Registered), Healthy),
        (judged(Failing), None, Healthy),
        (put(|r| r.check = Some(Arc::new(check()))), Some(Kind::Registered), Unstable),
    ] {
        let before = world.instance(&a()).clone();
        let change = world.when(&command).unwrap();
        let after = world.instance(&a());
        assert_eq!((change.map(|change| change.event.kind()), after.status), (kind, then));
        let moves = before.status != after.status || before.check != after.check;
        assert_eq!(before.revision != after.revision, moves, "{command:?}");
    }
    assert_eq!(world.instance(&a()).signals.probe, Some(Pending), "another check begins anew");
    world.when(&judged(Passing)).unwrap();
    for (from, failures, then) in [(Some("10.0.0.8"), 3, Passing), (None, 4, Pending)] {
        let registered_from = from.map(|from| from.parse().unwrap());
        let check = Check { registered_from, failures, ..check() };
        world.when(&put(|r| r.check = Some(Arc::new(check)))).unwrap();
        let probe = world.instance(&a()).signals.probe;
        assert_eq!(probe, Some(then), "the same check from elsewhere keeps its verdict");
    }
}

#[test]
fn deadlines_of_its_own_take_an_instance_out_and_only_the_present_ones() {
    let until = Timestamp(START.0 + 60_000_000);
    let drained = |until| {
        let ground = Ground::Drained { until };
        Command::Retire(Retire { key: a(), incarnation: Seq(1), ground, cause: Some(Seq(2)) })
    };
    let drain = patch(|u| (u.mode, u.drain_until) = (Some(Mode::Draining), Some(until)));
    let mut world = given(&[put(|_| {}), drain.clone()]);
    assert_eq!(world.instance(&a()).drain_until, Some(until));
    assert_eq!(world.when(&drained(Timestamp(1))), Ok(None), "another deadline");
    world.event(&put(|_| {}));
    assert_eq!(world.instance(&a()).drain_until, Some(until), "a restart does not undo it");
    world.event(&patch(|u| u.mode = Some(Mode::Active)));
    assert_eq!(world.when(&drained(until)), Ok(None), "the drain was called off");
    world.event(&drain);
    let change = world.when(&drained(until)).unwrap().unwrap();
    assert_eq!((change.event.kind(), change.cause), (Kind::Deregistered, Some(Seq(2))));
}

fn check() -> Check {
    Check {
        kind: CheckKind::Tcp,
        port: None,
        path: "/".into(),
        method: CheckMethod::Get,
        expect: None,
        service: "".into(),
        tls: false,
        interval: Millis::from_millis(10_000),
        timeout: Millis::from_millis(2_000),
        initial_delay: Millis::ZERO,
        failures: 3,
        passes: 1,
        deregister_after: None,
        registered_from: None,
    }
}

#[test]
fn only_the_life_that_is_meant_beats_is_late_or_expires() {
    let mut world = given(&[put(|_| {}), put(|r| r.endpoint.port = 9090)]);
    let (current, given) = (Seq(2), Seq(1));
    let other = Rejection::OtherIncarnation { current, given };
    assert_eq!(world.when(&beat(Some(given), Some(Health::Failing))), Err(other));
    assert_eq!(world.when(&Command::MarkLate(overdue(1))), Ok(None));
    assert_eq!(world.when(&Command::Expire(overdue(1))), Ok(None));

    let late = world.when(&Command::MarkLate(overdue(2))).unwrap().unwrap();
    let Event::StatusChanged { to, overdue: arithmetic, .. } = &late.event else { panic!() };
    assert_eq!((*to, *arithmetic), (Status::Unstable, Some(overdue(2).arithmetic)));
    assert_eq!(world.when(&Command::MarkLate(overdue(2))), Ok(None), "once is enough");

    let expired = world.when(&Command::Expire(overdue(2))).unwrap().unwrap();
    assert_eq!(expired.cause, Some(Seq(2)), "the registration whose lease ran out");
    assert_eq!(world.when(&Command::Expire(overdue(2))), Ok(None), "nobody expires twice");
    assert_eq!(world.when(&beat(None, None)), Err(Rejection::UnknownInstance));
}

#[test]
fn there_is_room_until_it_is_full_and_only_for_whom_it_is() {
    let mut world = given(&[put(|_| {})]);
    let quotas = |service, namespace| Quotas { service, namespace };
    let registration = |world: &World, key: &InstanceKey, port| {
        let mut command = register(key);
        command.endpoint.port = port;
        let decision = decide(&world.registry, &Command::Register(command), world.now).unwrap();
        decision.expect("an event").event
    };
    let reached = |quota, limit| Err(Rejection::QuotaReached { quota, present: 1, limit });
    let newcomer = registration(&world, &key("orders", "b"), 80);
    let elsewhere = registration(&world, &key("web", "a"), 80);
    for (quotas, event, expected) in [
        (quotas(None, None), &newcomer, Ok(())),
        (quotas(Some(2), Some(2)), &newcomer, Ok(())),
        (quotas(Some(1), Some(1)), &newcomer, reached(Quota::Service, 1)),
        (quotas(None, Some(1)), &newcomer, reached(Quota::Namespace, 1)),
        (quotas(Some(1), None), &elsewhere, Ok(())),
        (quotas(Some(1), Some(0)), &elsewhere, reached(Quota::Namespace, 0)),
        // Another life of one who lives takes no place more.
        (quotas(Some(0), Some(0)), &registration(&world, &a(), 9_090), Ok(())),
    ] {
        assert_eq!(quotas.check(&world.registry, event), expected, "{quotas:?}");
    }
    let namespace = a().service.namespace;
    assert_eq!(world.registry.instances_in(&namespace), 1);
    world.when(&deregister(&a())).unwrap();
    assert_eq!(world.registry.instances_in(&namespace), 0);
    assert_eq!(quotas(Some(1), Some(1)).check(&world.registry, &newcomer), Ok(()));
}

#[test]
fn a_service_stays_when_nobody_is_left() {
    let world = given(&[put(|_| {}), deregister(&a())]);
    let service = world.registry.service(&a().service).expect("it was registered");
    assert_eq!((service.revision, service.instances.len()), (Seq(2), 0));
    assert_eq!((world.registry.instance_count(), world.registry.digest()), (0, 0));
}

#[test]
fn time_in_the_log_never_decreases_though_the_wall_clock_does() {
    let mut world = given(&[put(|_| {})]);
    let first = world.registry.at();
    world.now.0 -= 3_600_000_000;
    let change = world.when(&put(|r| r.endpoint.port = 9090)).unwrap().unwrap();
    assert_eq!((change.at, world.instance(&a()).registered_at), (first, first));
}

/// Checkpoints of the past hold digests: the hash may never change.
#[test]
fn the_digest_is_what_it_always_was() {
    let full = put(|r| {
        r.version = Some("1.2".into());
        r.zone = Some("eu-1".into());
        r.tags = ["blue".into(), "canary".into()].into();
        r.metadata = metadata(&[("team", "checkout"), ("lang", "rust")]);
    });
    let world = given(&[full, Command::Register(register(&key("web", "x")))]);
    assert_eq!(format!("{:016x}", world.registry.digest()), "ce6d85953ae5106a");
}

#[test]
fn what_does_not_follow_is_noticed() {
    let mut world = given(&[put(|_| {}), put(|r| r.endpoint.port = 9090)]);
    let good = world.when(&patch(|u| u.mode = Some(Mode::Standby))).unwrap().unwrap();
    let before = given(&[put(|_| {}), put(|r| r.endpoint.port = 9090)]).registry;
    assert_eq!(check_change(&before, &good), Ok(()));
    let living = Arc::clone(before.instance(&a()).unwrap());
    let registered = |outcome| Event::Registered { outcome, instance: Arc::clone(&living) };
    let left = Event::Deregistered { key: key("orders", "b"), reason: None };
    let status = Event::StatusChanged {
        key: a(),
        from: Status::Failed,
        to: Status::Healthy,
        signals: Signals::default(),
        reason: StatusReason::Recovery,
        health: None,
        overdue: None,
        probe: None,
        flaps: None,
    };
    let checkpoint = Note::Checkpoint { digest: 1, instances: 1, services: 1 };
    for (what, wrong) in [
        ("a hole", Change { seq: Seq(4), ..good.clone() }),
        ("a repeat", Change { seq: Seq(2), ..good.clone() }),
        ("an earlier time", Change { at: START, ..good.clone() }),
        ("a cause to come", Change { cause: Some(Seq(3)), ..good.clone() }),
        ("born twice", Change { event: registered(Outcome::Created), ..good.clone() }),
        ("an old revision", Change { event: registered(Outcome::Replaced), ..good.clone() }),
        ("who is not there left", Change { event: left, ..good.clone() }),
        ("another status", Change { event: status, ..good.clone() }),
        ("another digest", Change { event: Event::Note(checkpoint), ..good.clone() }),
    ] {
        assert!(check_change(&before, &wrong).is_err(), "{what}");
    }
}

proptest! {
    #![proptest_config(cases(128))]

    /// The promise of the whole design, step by step, so that it holds for every prefix of a history:
    /// what is stored and read back folds to the very state that served, and undoing leads back through
    /// the same states.
    #[test]
    fn live_state_is_replayed_state_and_can_be_undone(history in histories(60)) {
        let (mut live, mut replayed) = (Registry::default(), Registry::default());
        let (mut now, mut past) = (START, Vec::new());
        for step in &history {
            now = Timestamp(now.0 + step.wall);
            let Some(change) = change_of(&live, step, now) else { continue };
            prop_assert_eq!(check_change(&live, &change), Ok(()));
            let stored = codec::decode(&codec::encode(&change, "node")).unwrap();
            prop_assert_eq!(&stored, &change);
            past.push((live.clone(), fold(&mut live, &change)));
            drop(fold(&mut replayed, &stored));
            prop_assert_eq!(check_registry(&live), Ok(()));
            prop_assert_eq!(&live, &replayed);
        }
        for (before, undo) in past.into_iter().rev() {
            live.undo(undo);
            prop_assert_eq!(&live, &before);
        }
    }

    /// What a command says of a revision is true: it moves exactly when something that can be looked up
    /// has changed.
    #[test]
    fn a_revision_moves_when_something_changed_and_only_then(history in histories(40)) {
        let (mut registry, mut now) = (Registry::default(), START);
        for step in &history {
            now = Timestamp(now.0 + step.wall);
            let Some(change) = change_of(&registry, step, now) else { continue };
            let before = registry.clone();
            drop(fold(&mut registry, &change));
            for (key, service) in registry.services() {
                // What speaks for and against an instance is not looked up, only the status that follows.
                let same = before.service(key).is_some_and(|old| seen(old) == seen(service));
                let moved = before.service(key).is_none_or(|old| old.revision != service.revision);
                prop_assert_eq!(moved, !same, "{} at {}", key, change.seq);
                prop_assert!(!moved || service.revision == change.seq);
            }
            prop_assert_eq!(before.digest() == registry.digest(),
                before.services().eq(registry.services()));
        }
    }
}

/// The instances of a service, as far as a lookup shows them.
fn seen(service: &registry::Service) -> Vec<Instance> {
    let shown = |i: &Arc<Instance>| Instance { signals: Signals::default(), ..Instance::clone(i) };
    service.instances.values().map(shown).collect()
}

fn change_of(registry: &Registry, step: &Step, now: Timestamp) -> Option<Change> {
    let decision = decide(registry, &step.command(registry), now).ok()??;
    let trace = trace(u8::try_from(registry.head().0 % 3).unwrap());
    Some(decision.into_change(registry, now, caller(), trace))
}
