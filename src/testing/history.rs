//! Random histories: steps over a handful of services and instances, so that they meet each other often.
//!
//! A step names the incarnation or the revision that it means by its relation to the state ("the present
//! one", "another one"), not by a number: so a history stays telling while proptest shrinks it.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{key_in, register, trace};
use crate::domain::check::{Check, CheckKind, CheckMethod};
use crate::domain::command::{
    Damp, Deregister, Ground, Heartbeat, Judge, MetadataPatch, Precondition, Register, Retire,
    Update,
};
use crate::domain::event::{Accrual, Arithmetic, HeartbeatRef, LogGap, Note, Overdue};
use crate::domain::health::{Evidence, Flaps, ProbeOutcome, ProbeVerdict};
use crate::domain::instance::{Endpoint, Health};
use crate::domain::{Command, Detector, InstanceKey, Millis, Mode, Registry, Seq, Timestamp};

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// How far the wall clock moves before it, in microseconds; it also jumps back.
    pub(crate) wall: i64,
    /// Whom it is about.
    pub(crate) key: InstanceKey,
    /// What is asked.
    pub(crate) wish: Wish,
}

/// What is asked of an instance, before the numbers of the state are filled in.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// A registration.
    Register(Box<Register>, When),
    /// A patch.
    Update(Box<Update>, When),
    /// A goodbye.
    Deregister(Option<Box<str>>, When),
    /// A sign of life.
    Heartbeat(Life, Option<Health>),
    /// Two thirds of the ttl have passed.
    MarkLate(Life, Arithmetic),
    /// The ttl has passed.
    Expire(Life, Arithmetic),
    /// A probe's verdict.
    Judge(Life, ProbeVerdict),
    /// The damping begins or ends.
    Damp(Life, bool),
    /// The end of its drain, or of the patience with its check.
    Retire(Life, bool),
    /// A hash of the state.
    Checkpoint,
    /// A gap of the log.
    Gap(LogGap),
}

/// A precondition by its relation to the state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// Nothing must hold.
    Always,
    /// The id is free.
    Free,
    /// The instance lives.
    Lives,
    /// The instance has its present revision.
    Current,
    /// The instance has a revision that it does not have.
    Stale,
}

/// An incarnation by its relation to the state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Life {
    /// The one that lives.
    Present,
    /// Another one.
    Other,
}

impl Step {
    /// The command, now that the state is known.
    pub(crate) fn command(&self, registry: &Registry) -> Command {
        let (key, living) = (self.key.clone(), registry.instance(&self.key));
        let precondition = |when: When| match when {
            When::Always => Precondition::None,
            When::Free => Precondition::Free,
            When::Lives => Precondition::Present,
            When::Current => Precondition::Revision(living.map(|living| living.revision)),
            When::Stale => Precondition::Revision(Some(registry.head().next())),
        };
        let incarnation = |life: Life| match life {
            Life::Present => living.map_or(Seq(1), |living| living.incarnation),
            Life::Other => registry.head().next(),
        };
        match self.wish.clone() {
            Wish::Register(register, when) => {
                Command::Register(Register { key, precondition: precondition(when), ..*register })
            }
            Wish::Update(update, when) => {
                Command::Update(Update { key, precondition: precondition(when), ..*update })
            }
            Wish::Deregister(reason, when) => {
                Command::Deregister(Deregister { key, reason, precondition: precondition(when) })
            }
            Wish::Heartbeat(life, health) => {
                let incarnation = Some(incarnation(life));
                Command::Heartbeat(Heartbeat { key, incarnation, health })
            }
            Wish::MarkLate(life, arithmetic) => Command::MarkLate(Overdue {
                key,
                incarnation: incarnation(life),
                arithmetic,
                cause: None,
            }),
            Wish::Expire(life, arithmetic) => Command::Expire(Overdue {
                key,
                incarnation: incarnation(life),
                arithmetic,
                cause: None,
            }),
            Wish::Judge(life, verdict) => {
                let evidence = Evidence {
                    outcome: ProbeOutcome::Rejected,
                    status: Some(503),
                    latency: Millis::from_millis(12),
                    error: Some("status 503".into()),
                    in_a_row: 3,
                };
                Command::Judge(Judge { key, incarnation: incarnation(life), verdict, evidence })
            }
            Wish::Damp(life, flapping) => {
                let flaps = Flaps { changes: 5, window: Millis::from_millis(60_000) };
                Command::Damp(Damp { key, incarnation: incarnation(life), flapping, flaps })
            }
            Wish::Retire(life, drained) => {
                let until = living.and_then(|living| living.drain_until).unwrap_or_default();
                let ground = match drained {
                    true => Ground::Drained { until },
                    false => Ground::Failed { after: PATIENCE },
                };
                let incarnation = incarnation(life);
                Command::Retire(Retire { key, incarnation, ground, cause: None })
            }
            Wish::Checkpoint => Command::Checkpoint,
            Wish::Gap(gap) => Command::Note(Note::LogGap(gap)),
        }
    }
}

/// Histories of up to `length` steps.
pub(crate) fn histories(length: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..=length)
}

fn step() -> impl Strategy<Value = Step> {
    let wall = prop_oneof![9 => 0_i64..2_000_000, 1 => -5_000_000_i64..0];
    (wall, keys(), wish()).prop_map(|(wall, key, wish)| Step { wall, key, wish })
}

/// One of eight instances in three services, one of which is of another namespace.
pub(crate) fn keys() -> impl Strategy<Value = InstanceKey> {
    let service = prop_oneof![
        3 => Just(("default", "orders")),
        2 => Just(("default", "web")),
        1 => Just(("staging", "orders")),
    ];
    let instance = prop_oneof![Just("a"), Just("b"), Just("c-3")];
    (service, instance)
        .prop_map(|((namespace, service), instance)| key_in(namespace, service, instance))
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        6 => (registration(), when()).prop_map(|(r, when)| Wish::Register(Box::new(r), when)),
        3 => (patch(), when()).prop_map(|(u, when)| Wish::Update(Box::new(u), when)),
        2 => (option::of(text()), when()).prop_map(|(r, when)| Wish::Deregister(r, when)),
        4 => (life(), option::of(health())).prop_map(|(life, h)| Wish::Heartbeat(life, h)),
        3 => (life(), arithmetic()).prop_map(|(life, a)| Wish::MarkLate(life, a)),
        1 => (life(), arithmetic()).prop_map(|(life, a)| Wish::Expire(life, a)),
        3 => (life(), verdict()).prop_map(|(life, verdict)| Wish::Judge(life, verdict)),
        2 => (life(), any::<bool>()).prop_map(|(life, on)| Wish::Damp(life, on)),
        2 => (life(), any::<bool>()).prop_map(|(life, drained)| Wish::Retire(life, drained)),
        1 => Just(Wish::Checkpoint),
        1 => gap().prop_map(Wish::Gap),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        8 => Just(When::Always),
        1 => Just(When::Free),
        1 => Just(When::Lives),
        1 => Just(When::Current),
        1 => Just(When::Stale),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![5 => Just(Life::Present), 1 => Just(Life::Other)]
}

/// Health in a heartbeat.
pub(crate) fn health() -> impl Strategy<Value = Health> {
    prop_oneof![Just(Health::Passing), Just(Health::Failing)]
}

fn verdict() -> impl Strategy<Value = ProbeVerdict> {
    prop::sample::select(ProbeVerdict::ALL)
}

/// How long a failing check of these histories is borne.
const PATIENCE: Millis = Millis::from_millis(90_000);

fn check() -> impl Strategy<Value = Check> {
    let kind = prop::sample::select(CheckKind::ALL);
    (kind, text(), any::<bool>(), option::of(1_u16..3)).prop_map(|(kind, text, one, port)| Check {
        kind,
        port,
        path: "/health".into(),
        method: if one { CheckMethod::Get } else { CheckMethod::Head },
        expect: one.then(|| text.clone()),
        service: text,
        tls: !one,
        interval: Millis::from_millis(10_000),
        timeout: Millis::from_millis(2_000),
        initial_delay: Millis::ZERO,
        failures: 3,
        passes: 1,
        deregister_after: one.then_some(PATIENCE),
        registered_from: one.then_some([10, 0, 0, 7].into()),
    })
}

fn detector() -> impl Strategy<Value = Detector> {
    prop_oneof![3 => Just(Detector::Fixed), 1 => Just(Detector::PHI)]
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Active), Just(Mode::Standby), Just(Mode::Draining)]
}

/// Texts that are hard on quoting: quotes, backslashes, control characters, emoji, nothing.
pub(crate) fn text() -> impl Strategy<Value = Box<str>> {
    prop_oneof![
        Just(""),
        Just("drained for the night"),
        Just("say \"hi\", it's {\"a\": [1]}\\"),
        Just("two\nlines\tand \u{1} more"),
        Just("größer 🦀 \u{10ffff}"),
    ]
    .prop_map(Box::from)
}

/// Few values, so that registrations are often equal; the address decides whether a new life begins.
fn registration() -> impl Strategy<Value = Register> {
    let endpoint = (prop_oneof![4 => Just("10.0.0.7"), 1 => Just("::1")], 8080_u16..8082).prop_map(
        |(address, port)| Endpoint { address: address.into(), port, protocol: "http".into() },
    );
    let settings = (option::of(mode()), option::of(0_u16..3), option::of(text()));
    let labels = (vec(text(), 0..3), vec((text(), text()), 0..3));
    let ttl = prop_oneof![Just(15_000), Just(1_000), Just(86_400_000), Just(1_500)];
    let ttl = option::weighted(0.8, ttl.prop_map(Millis::from_millis));
    let found = (ttl, detector(), option::of(check()));
    (endpoint, settings, labels, found).prop_map(
        |(endpoint, (mode, weight, version), (tags, metadata), (ttl, detector, check))| Register {
            endpoint,
            version: version.clone(),
            zone: version,
            weight,
            tags: tags.into(),
            metadata: metadata.into_iter().collect(),
            mode,
            ttl,
            detector,
            check: check.map(Into::into),
            ..register(&key_in("default", "placeholder", "x"))
        },
    )
}

fn patch() -> impl Strategy<Value = Update> {
    let metadata = prop_oneof![
        1 => Just(MetadataPatch::Clear),
        4 => vec((text(), option::of(text())), 0..4)
            .prop_map(|entries| MetadataPatch::Merge(entries.into())),
    ];
    let modes = (option::of(mode()), option::of(instant()));
    (modes, option::of(0_u16..3), option::of(vec(text(), 0..3)), option::of(metadata)).prop_map(
        |((mode, drain_until), weight, tags, metadata)| Update {
            mode,
            drain_until,
            weight,
            tags: tags.map(Vec::into_boxed_slice),
            metadata,
            ..super::update(&key_in("default", "placeholder", "x"))
        },
    )
}

/// The figures of a lease that has run for too long.
fn arithmetic() -> impl Strategy<Value = Arithmetic> {
    let heartbeat = (instant(), 1_u64..1 << 40, any::<u8>()).prop_map(|(at, id, n)| HeartbeatRef {
        at,
        id,
        trace: trace(n),
    });
    (option::of(heartbeat), 1_000_u64..86_400_000, any::<u32>(), any::<u32>(), 0_u64..200).prop_map(
        |(last_heartbeat, ttl, gap, missed, late)| Arithmetic {
            last_heartbeat,
            ttl: Millis::from_millis(ttl),
            gap: Millis::from_millis(u64::from(gap)),
            missed,
            late: Millis::from_millis(late),
            grace: Millis::from_millis(u64::from(missed) % 3 * 1_000),
            accrual: (missed % 2 == 1).then(|| Accrual {
                phi_milli: gap,
                threshold_milli: 8_000,
                mean_gap: Millis::from_millis(ttl / 4),
            }),
        },
    )
}

fn gap() -> impl Strategy<Value = LogGap> {
    (instant(), instant(), any::<u32>(), any::<u32>()).prop_map(|(from, until, lookups, beats)| {
        LogGap { from, until, lookups: u64::from(lookups), heartbeats: u64::from(beats) }
    })
}

/// An instant between 1970 and 2096.
pub(crate) fn instant() -> impl Strategy<Value = Timestamp> {
    (0_i64..4_000_000_000_000_000).prop_map(Timestamp)
}
