//! A large service that changes: each of its views is what the registry holds, leases live as long as they should, and what
//! did not change is shared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::{Projection, Publisher, ServiceView};
use crate::clock::Monotonic;
use crate::domain::roster::LEAF_MAX;
use crate::domain::selection::Filter;
use crate::domain::{Command, Instance, InstanceKey, Millis, Mode, Seq, TraceRef};
use crate::lease::Lease;
use crate::testing::archive::Past;
use crate::testing::{cases, deregister, key, register};

/// Somebody registers (again), with this weight, mode, port and ttl; or leaves, if he is there.
#[derive(Debug, Clone)]
enum Step {
    Register {
        who: usize,
        weight: u16,
        mode: Mode,
        port: u16,
        ttl: u64,
    },
    Leave {
        from: usize,
        many: usize,
    },
    Publish,
    /// Somebody asks for the texts of the service.
    Ask,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mode = prop_oneof![9 => Just(Mode::Active), 1 => Just(Mode::Standby)];
    let register = (0..500_usize, 0..2_u16, mode, 8_080..8_082_u16, 15..17_u64);
    let step = prop_oneof![
        8 => register.prop_map(|(who, weight, mode, port, ttl)| {
            Step::Register { who, weight, mode, port, ttl: ttl * 1_000 }
        }),
        2 => (0..500_usize, 1..3_usize).prop_map(|(from, many)| Step::Leave { from, many }),
        1 => (0..500_usize, 1..200_usize).prop_map(|(from, many)| Step::Leave { from, many }),
        6 => Just(Step::Publish),
        3 => Just(Step::Ask),
    ];
    prop::collection::vec(step, 1..60)
}

fn who(number: usize) -> InstanceKey {
    key("a", &format!("id-{number:04}"))
}

/// What a text would be: whatever it is, it has to be that of this very form of the instance.
fn write(instance: &Instance, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}@{}", instance.key.instance, instance.revision).as_bytes());
}

fn text(instance: &Instance) -> Vec<u8> {
    let mut text = Vec::new();
    write(instance, &mut text);
    text
}

/// The plain answer, put together from the sheets.
fn answer(view: &ServiceView) -> String {
    let Some(offer) = view.entries.offer() else { return String::new() };
    let sheets = view.entries.sheets().iter().map(|sheet| sheet.offered(offer, write));
    String::from_utf8(sheets.collect::<Vec<_>>().concat()).unwrap()
}

/// Lives by their names: life, ttl and lease.
type Lives = BTreeMap<InstanceKey, (Seq, Option<Millis>, Arc<Lease>)>;

/// Publishes, and compares all that is seen with the registry.
fn publish(past: &Past, projection: &Arc<Projection>, publisher: &Publisher, lives: &mut Lives) {
    let service = key("a", "1").service;
    let before = projection.service("default", "a");
    let published =
        publisher.publish(past.present(), &BTreeSet::from([service.clone()]), |i, _| {
            Lease::granted(i.ttl, Monotonic(1), TraceRef::default())
        });
    let view = projection.service("default", "a").unwrap();
    let holds = past.present().service(&service).unwrap();

    let shown: Vec<_> = view.entries.iter().map(|entry| Arc::as_ptr(entry.instance)).collect();
    assert_eq!(shown, holds.instances.values().map(Arc::as_ptr).collect::<Vec<_>>());
    assert_eq!((view.revision, view.entries.len()), (holds.revision, shown.len()));

    let mut now = Lives::new();
    let (mut granted, mut ended) = (Vec::new(), Vec::new());
    for entry in view.entries.iter() {
        let Instance { key, incarnation, ttl, .. } = &**entry.instance;
        let goes_on = lives.get(key).filter(|life| (life.0, life.1) == (*incarnation, *ttl));
        match goes_on {
            Some(life) => assert!(Arc::ptr_eq(&life.2, entry.lease), "{key} keeps its lease"),
            None => granted.push(Arc::as_ptr(entry.lease)),
        }
        now.insert(key.clone(), (*incarnation, *ttl, Arc::clone(entry.lease)));
        assert!(std::ptr::eq(view.entry(key.instance.as_str()).unwrap().lease, entry.lease));
    }
    for (key, life) in &*lives {
        if now.get(key).is_none_or(|next| !Arc::ptr_eq(&next.2, &life.2)) {
            ended.push(Arc::as_ptr(&life.2));
        }
    }
    let told: Vec<_> = published.granted.iter().map(|grant| Arc::as_ptr(&grant.lease)).collect();
    assert_eq!(told, granted);
    let mut told: Vec<_> = published.ended.iter().map(|end| Arc::as_ptr(&end.lease)).collect();
    told.sort();
    ended.sort();
    assert_eq!(told, ended);
    *lives = now;

    let (chosen, tier) = view.select(&Filter::default());
    assert_eq!(view.entries.offer().map(|offer| offer.tier), tier);
    assert_eq!(view.entries.offered(), chosen.len());
    let total: i64 = published.shifts.iter().map(|shift| i64::from(shift.change)).sum();
    let were = before.as_ref().map_or(0, |before| before.entries.len());
    assert_eq!(total, i64::try_from(shown.len()).unwrap() - i64::try_from(were).unwrap());
    assert_eq!(projection.population().total(), i64::try_from(shown.len()).unwrap());
}

proptest! {
    #![proptest_config(cases(48))]
    #[test]
    fn each_view_is_what_the_registry_holds(first in 0..400_usize, steps in steps()) {
        let projection = Arc::new(Projection::default());
        let publisher = Publisher::new(Arc::clone(&projection));
        let (mut past, mut lives) = (Past::new(), Lives::new());
        for number in 0..=first {
            past.happens(&Command::Register(register(&who(number))));
        }
        publish(&past, &projection, &publisher, &mut lives);
        for step in steps {
            match step {
                Step::Register { who: number, weight, mode, port, ttl } => {
                    let mut one = register(&who(number));
                    (one.weight, one.mode, one.endpoint.port) = (Some(weight), Some(mode), port);
                    one.ttl = Some(Millis::from_millis(ttl));
                    past.happens(&Command::Register(one));
                }
                Step::Leave { from, many } => {
                    for number in from..from + many {
                        if past.present().instance(&who(number)).is_some() {
                            past.happens(&deregister(&who(number)));
                        }
                    }
                }
                Step::Publish => publish(&past, &projection, &publisher, &mut lives),
                Step::Ask => {
                    let view = projection.service("default", "a").unwrap();
                    let chosen = view.select(&Filter::default()).0;
                    let whole: String = chosen
                        .iter()
                        .map(|entry| String::from_utf8(text(entry.instance)).unwrap() + ",")
                        .collect();
                    prop_assert_eq!(answer(&view), whole);
                    for entry in &view.entries {
                        prop_assert_eq!(entry.text(write), text(entry.instance));
                    }
                }
            }
        }
        publish(&past, &projection, &publisher, &mut lives);
    }
}

#[test]
fn a_change_of_a_large_service_makes_one_sheet_anew() {
    let projection = Arc::new(Projection::default());
    let publisher = Publisher::new(Arc::clone(&projection));
    let (mut past, mut lives) = (Past::new(), Lives::new());
    for number in 0..8 * LEAF_MAX {
        past.happens(&Command::Register(register(&who(number))));
    }
    publish(&past, &projection, &publisher, &mut lives);
    let before = projection.service("default", "a").unwrap();
    answer(&before);
    past.happens(&Command::Register(crate::domain::command::Register {
        weight: Some(7),
        ..register(&who(300))
    }));
    publish(&past, &projection, &publisher, &mut lives);
    let after = projection.service("default", "a").unwrap();
    let (were, are) = (before.entries.sheets(), after.entries.sheets());
    let same = were.iter().zip(are).filter(|(was, is)| Arc::ptr_eq(was, is));
    assert_eq!((were.len(), are.len(), same.count()), (8, 8, 7));
    // Texts of the sheets that stayed are the same bytes in the same place.
    let offer = after.entries.offer().unwrap();
    assert_eq!(were[0].offered(offer, write).as_ptr(), are[0].offered(offer, write).as_ptr());
}
