//! Diff, lives and why over an archive in memory that can have lost things: what only retention, damage and roll-ups show.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};

use proptest::prelude::*;

use super::*;
use crate::domain::registry::Service;
use crate::domain::traffic::{Detail, Numbered, Traffic};
use crate::domain::{
    Change, Event, InstanceKey, Kind, Millis, Registry, Seq, ServiceKey, Timestamp, decide, fold,
};
use crate::testing::history::{Step, histories};
use crate::testing::{START, cases, key, trace};

/// Changes and traffic, of which some are no longer kept.
#[derive(Debug, Default)]
struct Kept {
    changes: Vec<Change>,
    /// Changes up to this one are gone; the state after it is kept.
    gone: usize,
    traffic: Vec<Numbered>,
    traffic_gone: u64,
    runs: Vec<HeartbeatRun>,
    missing: Vec<Missing>,
}

impl Kept {
    /// What comes of `steps`.
    fn of(steps: &[Step]) -> Self {
        let (mut registry, mut changes, mut now) = (Registry::default(), Vec::new(), START);
        for step in steps {
            now = Timestamp(now.0 + step.wall);
            if let Ok(Some(decision)) = decide(&registry, &step.command(&registry), now) {
                let change = decision.into_change(&registry, now, None, trace(1));
                drop(fold(&mut registry, &change));
                changes.push(change);
            }
        }
        Self { changes, ..Self::default() }
    }

    fn head(&self) -> Version {
        self.at(self.changes.len())
    }

    fn at(&self, seq: usize) -> Version {
        let of = |change: &Change| Version { seq: change.seq, at: change.at };
        seq.checked_sub(1).map_or_else(Version::default, |index| of(&self.changes[index]))
    }

    fn beat(&mut self, key: &InstanceKey, incarnation: u64, seconds: i64) {
        self.traffic.push(Numbered {
            number: self.traffic.len() as u64 + 1,
            traffic: Traffic {
                at: Timestamp(START.0 + seconds * 1_000_000),
                seen: self.head().seq,
                namespace: Some(key.service.namespace.clone()),
                service: Some(key.service.service.clone()),
                instance: Some(key.instance.clone()),
                caller: "tests".into(),
                trace: trace(2),
                detail: Detail::Heartbeat {
                    incarnation: Seq(incarnation),
                    load: None,
                    health: None,
                    note: None,
                },
            },
        });
    }
}

fn record(id: EventId, seq: Seq, at: Timestamp, kind: Kind) -> Record {
    let (namespace, service, instance, caller) = (None, None, None, None);
    let (trace, cause, data) = (trace(1), None, "{}".into());
    Record { id, seq, at, kind, namespace, service, instance, caller, trace, cause, data }
}

impl Archive for Kept {
    fn figures(&self) -> Result<LogFigures, Error> {
        Ok(LogFigures::default())
    }

    fn extent(&self) -> Result<Extent, Error> {
        let last_traffic = self.traffic.len() as u64;
        Ok(Extent {
            oldest: self.at(self.gone),
            newest: self.head(),
            first_change: self.gone as u64 + 1,
            first_traffic: (self.traffic_gone + 1).min(last_traffic),
            last_traffic,
            ..Extent::default()
        })
    }

    fn version(&self, _: Moment) -> Result<Version, Error> {
        Ok(self.head())
    }

    fn events(&self, _: &EventQuery) -> Result<EventPage, Error> {
        Ok(EventPage::default())
    }

    fn event(&self, id: EventId) -> Result<Option<Record>, Error> {
        let index = usize::try_from(id.number()).unwrap() - 1;
        Ok(match id {
            EventId::Change(_) if index < self.gone => None,
            EventId::Change(_) => {
                self.changes.get(index).map(|c| record(id, c.seq, c.at, c.event.kind()))
            }
            EventId::Traffic(number) if number <= self.traffic_gone => None,
            EventId::Traffic(_) => self
                .traffic
                .get(index)
                .map(|n| record(id, n.traffic.seen, n.traffic.at, Kind::Heartbeat)),
        })
    }

    fn state(&self, at: Seq) -> Result<Registry, Error> {
        if at.0 < self.gone as u64 {
            return Err(Error::Gone { oldest: self.at(self.gone) });
        }
        let mut registry = Registry::default();
        for change in self.changes.iter().take_while(|change| change.seq <= at) {
            drop(fold(&mut registry, change));
        }
        Ok(registry)
    }

    fn service(&self, key: &ServiceKey, at: Seq) -> Result<Option<Service>, Error> {
        Ok(self.state(at)?.service(key).cloned())
    }

    fn changes(
        &self,
        subject: Subject<'_>,
        range: RangeInclusive<Seq>,
        visit: &mut dyn FnMut(Change) -> Visit,
    ) -> Result<(), Error> {
        let wanted = self.changes[self.gone..].iter().filter(|change| range.contains(&change.seq));
        for change in wanted.filter(|change| subject.includes(change.event.key())) {
            if visit(change.clone()) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn traffic(
        &self,
        wanted: &TrafficQuery,
        visit: &mut dyn FnMut(Numbered) -> Visit,
    ) -> Result<Vec<Missing>, Error> {
        let kept = self.traffic.iter().filter(|event| event.number > self.traffic_gone);
        for event in kept.filter(|event| wanted.includes(event)) {
            if visit(event.clone()) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(self.missing.clone())
    }

    fn lookup_counts(
        &self,
        _: &TrafficQuery,
        _: &mut dyn FnMut(LookupCount) -> Visit,
    ) -> Result<u64, Error> {
        Ok(0)
    }

    fn heartbeat_runs(&self, _: &InstanceKey) -> Result<(Vec<HeartbeatRun>, u64), Error> {
        Ok((self.runs.clone(), self.traffic_gone))
    }
}

/// Everybody who lives in a state.
fn living(registry: &Registry) -> BTreeMap<InstanceKey, Seq> {
    let instances = registry.services().flat_map(|(_, service)| service.instances.values());
    instances.map(|instance| (instance.key.clone(), instance.incarnation)).collect()
}

fn found(kept: &Kept, key: &InstanceKey, limit: usize) -> Option<InstanceHistory> {
    lives(kept, key, limit, kept.head().at).unwrap().map(|(_, history)| history)
}

fn asked(kept: &Kept, key: &InstanceKey, which: Which) -> Answer {
    why(kept, key, which, None, kept.head().at).unwrap()
}

proptest! {
    #![proptest_config(cases(96))]

    /// Who came and who left is the difference of the two states; the parts of a stretch tell of no life that the
    /// whole does not account for.
    #[test]
    fn a_difference_is_that_of_the_states(steps in histories(60), cut in 0..100_usize) {
        let kept = Kept::of(&steps);
        let head = kept.changes.len();
        let from = cut * head / 100;
        let [before, after] = [from, head].map(|at| living(&kept.state(Seq(at as u64)).unwrap()));
        let found = diff(&kept, [kept.at(from), kept.head()], Scope::default()).unwrap();
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
        prop_assert_eq!(diff(&kept, [kept.head(); 2], Scope::default()).unwrap(), Difference::default());
        // The same, service by service.
        let mut parts = (0, 0, 0);
        for service in [key("orders", "a"), key("web", "a"), crate::testing::key_in("staging", "orders", "a")] {
            let ServiceKey { namespace, service } = service.service;
            let scope = Scope { namespace: Some(namespace), service: Some(service) };
            let part = diff(&kept, [kept.at(from), kept.head()], scope).unwrap();
            parts = (parts.0 + part.came.len(), parts.1 + part.left.len(), parts.2 + part.changed.len());
        }
        prop_assert_eq!(parts, (found.came.len(), found.left.len(), found.changed.len()));
    }

    /// Whatever is gone, the lives that are told are the last ones of those that there were, and each that ended has
    /// its reason; what can't be told any more is said to be missing.
    #[test]
    fn lives_are_the_same_with_less_to_tell(steps in histories(60), cut in 0..100_usize) {
        let mut kept = Kept::of(&steps);
        for key in [key("orders", "a"), key("web", "b")] {
            kept.gone = 0;
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

            kept.gone = cut * kept.changes.len() / 100;
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

/// One registration at the start, and then silence until it expires.
fn one_life() -> (Kept, InstanceKey) {
    use crate::domain::Command;
    let key = key("orders", "a");
    let mut registry = Registry::default();
    let command = Command::Register(crate::testing::register(&key));
    let change = decide(&registry, &command, START).unwrap().unwrap().into_change(
        &registry,
        START,
        Some("deploy".into()),
        trace(1),
    );
    drop(fold(&mut registry, &change));
    (Kept { changes: vec![change], ..Kept::default() }, key)
}

#[test]
fn roll_ups_tell_the_gaps_of_heartbeats_that_are_gone() {
    let (mut kept, key) = one_life();
    for seconds in [2, 4, 20, 24, 30] {
        kept.beat(&key, 1, seconds);
    }
    let told = |kept: &Kept| -> Vec<u64> {
        let history = found(kept, &key, 10).unwrap();
        history.lives[0].widest_gaps.iter().map(|gap| gap.gap.millis() / 1_000).collect()
    };
    assert_eq!(told(&kept), [16, 6, 4, 2, 2]);
    assert_eq!(found(&kept, &key, 10).unwrap().gaps_exact_since, None);
    kept.traffic_gone = 3;
    let missing =
        Missing { from: START, until: START, reason: Reason::Retention, events: "t1 to t3".into() };
    kept.missing = vec![missing.clone()];
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
    use crate::domain::Command;
    use crate::domain::event::{Arithmetic, Overdue};
    let (mut kept, key) = one_life();
    let arithmetic = Arithmetic {
        last_heartbeat: None,
        ttl: Millis::from_millis(15_000),
        gap: Millis::from_millis(15_021),
        missed: 4,
        late: Millis::from_millis(21),
        grace: Millis::ZERO,
    };
    let registry = kept.state(Seq(1)).unwrap();
    let overdue = Overdue { key: key.clone(), incarnation: Seq(1), arithmetic };
    let at = Timestamp(START.0 + 15_021_000);
    let decision = decide(&registry, &Command::Expire(overdue), at).unwrap().unwrap();
    kept.changes.push(decision.into_change(&registry, at, None, trace(3)));
    let gap = Missing { from: START, until: at, reason: Reason::LogGap, events: "".into() };
    kept.missing = vec![gap.clone()];
    let Answer::Found(Seq(2), why) = asked(&kept, &key, Which::Newest) else { panic!() };
    assert_eq!((why.missing.as_slice(), Why::allowed(&arithmetic)), (&[gap][..], arithmetic.ttl));
    assert!(
        why.summary().ends_with(
            "; part of the log of that time is missing (log_gap), so that a heartbeat may have come that is not told here"
        ),
        "{}",
        why.summary()
    );

    // The registration is gone, the life is not.
    kept.gone = 1;
    let Answer::Found(_, why) = asked(&kept, &key, Which::Departure(Seq(2))) else { panic!() };
    assert_eq!((&why.registration, why.incarnation(), why.from), (&None, Seq(1), START));
    assert!(why.summary().contains("when the last one came is not kept"), "{}", why.summary());
    kept.changes.truncate(1);
    let Answer::Found(_, why) = asked(&kept, &key, Which::Newest) else { panic!() };
    assert_eq!(
        (why.event.clone(), why.summary().as_str()),
        (
            None,
            "a is healthy; it registered at 2026-11-21 08:00:00.000 UTC, and what happened then is older than what is kept"
        )
    );
    let oldest = kept.at(1);
    let departure = super::why(&kept, &key, Which::Departure(Seq(1)), None, START);
    assert_eq!(departure, Err(Error::Gone { oldest }));
    let nobody = crate::testing::key("orders", "nobody");
    assert_eq!(asked(&kept, &nobody, Which::Newest), Answer::Unknown);
    assert_eq!(asked(&kept, &key, Which::Incarnation(Seq(9))), Answer::NoSuchLife);
}
