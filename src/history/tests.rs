//! Diff, lives and why over an archive in memory that can have lost things: what only retention, damage and roll-ups show.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;

use super::*;
use crate::domain::event::{Arithmetic, Overdue};
use crate::domain::{Command, Event, InstanceKey, Millis, Registry, Seq, ServiceKey, Timestamp};
use crate::testing::archive::Past;
use crate::testing::history::histories;
use crate::testing::{START, cases, key, register};

/// Everybody who lives in a state.
fn living(registry: &Registry) -> BTreeMap<InstanceKey, Seq> {
    let instances = registry.services().flat_map(|(_, service)| service.instances.values());
    instances.map(|instance| (instance.key.clone(), instance.incarnation)).collect()
}

fn found(kept: &Past, key: &InstanceKey, limit: usize) -> Option<InstanceHistory> {
    lives(kept, key, limit, kept.head().at).unwrap().ok().map(|(_, history)| history)
}

fn asked(kept: &Past, key: &InstanceKey, which: Which) -> Answer {
    why(kept, key, which, None, kept.head().at).unwrap()
}

proptest! {
    #![proptest_config(cases(96))]

    /// Who came and who left is the difference of the two states; the parts of a stretch tell of no life that the
    /// whole does not account for.
    #[test]
    fn a_difference_is_that_of_the_states(steps in histories(60), cut in 0..100_usize) {
        let kept = Past::of(&steps);
        let head = kept.changes.len();
        let from = cut * head / 100;
        let [before, after] = [from, head].map(|at| living(&kept.state(Seq(at as u64)).unwrap()));
        let found = diff(&kept, [kept.at(from), kept.head()], Scope::default(), 1_000).unwrap();
        let lives = |moved: &[Moved<Option<Record>>]| -> BTreeMap<InstanceKey, Seq> {
            let lives = moved.iter().map(|m| (m.instance.key.clone(), m.instance.incarnation));
            lives.collect()
        };
        let without = |of: &BTreeMap<InstanceKey, Seq>, other: &BTreeMap<InstanceKey, Seq>| {
            let mut rest = of.clone();
            rest.retain(|key, incarnation| other.get(key) != Some(incarnation));
            rest
        };
        prop_assert_eq!(lives(&found.came), without(&after, &before));
        prop_assert_eq!(lives(&found.left), without(&before, &after));
        prop_assert!(found.came.iter().chain(&found.left).all(|moved| moved.event.is_some()));
        let begun = kept.changes[from..].iter().filter(|change| match &change.event {
            Event::Registered { instance, .. } => instance.incarnation == change.seq,
            _ => false,
        });
        prop_assert_eq!(found.passed + found.came.len() as u64, begun.count() as u64);
        prop_assert_eq!(diff(&kept, [kept.head(); 2], Scope::default(), 1_000).unwrap(), Difference::default());
        // The same, service by service.
        let mut parts = (0, 0, 0);
        for service in [key("orders", "a"), key("web", "a"), crate::testing::key_in("staging", "orders", "a")] {
            let ServiceKey { namespace, service } = service.service;
            let scope = Scope { namespace: Some(namespace), service: Some(service) };
            let part = diff(&kept, [kept.at(from), kept.head()], scope, 1_000).unwrap();
            parts = (parts.0 + part.came.len(), parts.1 + part.left.len(), parts.2 + part.changed.len());
        }
        prop_assert_eq!(parts, (found.came.len(), found.left.len(), found.changed.len()));
    }

    /// Whatever is gone, the lives that are told are the last ones of those that there were, and each that ended has
    /// its reason; what can't be told any more is said to be missing.
    #[test]
    fn lives_are_the_same_with_less_to_tell(steps in histories(60), cut in 0..100_usize) {
        let mut kept = Past::of(&steps);
        for key in [key("orders", "a"), key("web", "b")] {
            kept.changes_gone = 0;
            let Some(whole) = found(&kept, &key, 1_000) else { continue };
            prop_assert!(whole.missing.is_empty() && whole.lives_left_out == 0);
            let told: usize = whole.lives.iter().map(|life| life.transitions.len()).sum();
            for life in &whole.lives {
                prop_assert_eq!(life.transitions[0].id, EventId::Change(life.incarnation.0));
                prop_assert_eq!(life.ended_by.as_ref().map(|event| event.at), life.until);
                let answer = asked(&kept, &key, Which::Incarnation(life.incarnation));
                let Answer::Found(_, why) = answer else { panic!("{answer:?}") };
                prop_assert_eq!(&why.until, &life.until);
                if life.ended_by.is_some() {
                    prop_assert_eq!(&why.event, &life.ended_by);
                }
                let name = format!("{} ", key.instance);
                prop_assert!(why.summary().starts_with(&name), "{}", why.summary());
            }
            let newest = found(&kept, &key, 2).unwrap();
            let from = whole.lives.len().saturating_sub(2);
            prop_assert_eq!(newest.lives_left_out, from as u64);
            prop_assert!(newest.lives.iter().zip(&whole.lives[from..]).all(|(a, b)| a.incarnation == b.incarnation));
            let kept_transitions: usize = newest.lives.iter().map(|life| life.transitions.len()).sum();
            prop_assert_eq!(newest.transitions_left_out, (told - kept_transitions) as u64);

            kept.changes_gone = cut * kept.changes.len() / 100;
            let late = found(&kept, &key, 1_000).map(|history| history.lives).unwrap_or_default();
            let from = whole.lives.len() - late.len();
            let began = whole.lives[..from].iter().all(|life| life.until.is_some());
            prop_assert!(began, "a life that goes on was not told");
            for (told, life) in late.iter().zip(&whole.lives[from..]) {
                prop_assert_eq!((told.incarnation, told.from, told.until), (life.incarnation, life.from, life.until));
                prop_assert_eq!(&told.ended_by, &life.ended_by);
            }
            if from > 0 && !late.is_empty() {
                prop_assert!(!found(&kept, &key, 1_000).unwrap().missing.is_empty());
            }
        }
    }
}

/// One registration at the start.
fn one_life() -> (Past, InstanceKey) {
    let (mut past, key) = (Past::new(), key("orders", "a"));
    past.happens(&Command::Register(register(&key)));
    (past, key)
}

#[test]
fn roll_ups_tell_the_gaps_of_heartbeats_that_are_gone() {
    let (mut kept, key) = one_life();
    for seconds in [2, 4, 20, 24, 30] {
        kept.elapsed = seconds * 1_000;
        kept.beats(&key);
    }
    let told = |kept: &Past| -> Vec<u64> {
        let history = found(kept, &key, 10).unwrap();
        history.lives[0].widest_gaps.iter().map(|gap| gap.gap.millis() / 1_000).collect()
    };
    assert_eq!(told(&kept), [16, 6, 4, 2, 2]);
    assert_eq!(found(&kept, &key, 10).unwrap().gaps_exact_since, None);
    kept.forget(4);
    let missing =
        Missing { from: START, until: START, reason: Reason::Retention, events: "t1 to t3".into() };
    kept.lost = vec![missing.clone()];
    // The registration of 24 s ago is no sign that all was silent since then.
    assert_eq!(told(&kept), [6]);
    kept.runs = vec![HeartbeatRun {
        incarnation: Seq(1),
        first_at: Timestamp(START.0 + 2_000_000),
        last_at: Timestamp(START.0 + 24_000_000),
        count: 4,
        widest_gap: Millis::from_millis(16_000),
        widest_gap_at: Timestamp(START.0 + 20_000_000),
    }];
    assert_eq!(told(&kept), [16, 6]);
    let history = found(&kept, &key, 10).unwrap();
    assert_eq!(history.gaps_exact_since, Some(Timestamp(START.0 + 24_000_000)));
    assert_eq!(history.missing, [missing]);
}

#[test]
fn why_says_what_is_missing_and_what_is_gone() {
    let (mut kept, key) = one_life();
    let mut living = kept.clone();
    let arithmetic = Arithmetic {
        last_heartbeat: None,
        ttl: Millis::from_millis(15_000),
        gap: Millis::from_millis(15_021),
        missed: 4,
        late: Millis::from_millis(21),
        grace: Millis::ZERO,
        accrual: None,
    };
    kept.elapsed = 15_021;
    let overdue = Overdue { key: key.clone(), incarnation: Seq(1), arithmetic, cause: None };
    kept.happens(&Command::Expire(overdue));
    let at = kept.now();
    let gap = Missing { from: START, until: at, reason: Reason::LogGap, events: "".into() };
    kept.lost = vec![gap.clone()];
    let Answer::Found(Seq(2), why) = asked(&kept, &key, Which::Newest) else { panic!() };
    assert_eq!(
        (why.missing.as_slice(), Why::allowed(&arithmetic)),
        (&[gap.clone()][..], arithmetic.ttl)
    );
    assert!(
        why.summary().ends_with(
            "; part of the log of that time is missing (log_gap), so that a heartbeat may have come that is not told here"
        ),
        "{}",
        why.summary()
    );

    // The registration is gone, the life is not: what is missing is named, and is no heartbeat.
    kept.changes_gone = 1;
    let registration =
        Missing { from: START, until: START, reason: Reason::Retention, events: "1".into() };
    let Answer::Found(_, why) = asked(&kept, &key, Which::Departure(Seq(2))) else { panic!() };
    assert_eq!((&why.registration, why.incarnation(), why.from), (&None, Seq(1), START));
    assert_eq!(why.missing, [gap, registration.clone()]);
    assert!(why.summary().contains("when the last one came is not kept"), "{}", why.summary());
    living.changes_gone = 1;
    let Answer::Found(_, why) = asked(&living, &key, Which::Newest) else { panic!() };
    assert_eq!(why.missing, [registration]);
    assert_eq!(
        (why.event.clone(), why.summary().as_str()),
        (
            None,
            "a is healthy; it registered at 2026-11-21 08:00:00.000 UTC, and what happened then is older than what is kept"
        )
    );
    let oldest = living.at(1);
    let departure = super::why(&living, &key, Which::Departure(Seq(1)), None, START);
    assert_eq!(departure, Err(Error::Gone { oldest }));
    assert_eq!(asked(&living, &key, Which::Incarnation(Seq(9))), Answer::NoSuchLife);
}

#[test]
fn one_that_nothing_tells_of_may_have_been_before_what_is_kept() {
    let (mut kept, _) = one_life();
    kept.happens(&Command::Register(register(&key("orders", "b"))));
    for gone in [0, 1] {
        kept.changes_gone = gone;
        for (service, may_have_been) in [("orders", gone > 0), ("web", false)] {
            let nobody = key(service, "nobody");
            let Answer::Unknown(unseen) = asked(&kept, &nobody, Which::Newest) else { panic!() };
            let told = lives(&kept, &nobody, 1, START).unwrap();
            assert_eq!(told, Err(unseen));
            let expected =
                Unseen { compacted: may_have_been, oldest: kept.at(gone), newest: kept.head() };
            assert_eq!(unseen, expected, "{service}, {gone} gone");
        }
    }
}

/// Nobody who asks for what there is hears that it is gone, although retention goes on beside him.
#[test]
fn what_goes_while_it_is_told_shortens_what_is_told_and_is_no_error() {
    let key = key("orders", "a");
    let mut past = Past::new();
    past.happens(&Command::Register(register(&key)));
    for name in ["b", "c"] {
        past.happens(&Command::Register(register(&crate::testing::key("web", name))));
    }
    past.changes_gone = 2;
    let settled = found(&past, &key, 10);
    assert!(settled.as_ref().is_some_and(|history| !history.missing.is_empty()));
    let why = format!("{:?}", asked(&past, &key, Which::Newest));
    past.gone_unsaid.store(2, SeqCst);
    assert_eq!(found(&past, &key, 10), settled);
    past.gone_unsaid.store(2, SeqCst);
    assert_eq!(format!("{:?}", asked(&past, &key, Which::Newest)), why);
    // Not for ever.
    past.gone_unsaid.store(usize::MAX, SeqCst);
    let endless = lives(&past, &key, 10, past.head().at);
    assert!(matches!(endless, Err(Error::Gone { .. })), "{endless:?}");
}
