//! What no real run shows quickly: streams of every kind, events that have gone, gaps of the log.

use fastrand::Rng;

use super::*;
use crate::domain::command::{Command, Register};
use crate::domain::event::{Arithmetic, HeartbeatRef, LogGap, Note, Overdue};
use crate::domain::traffic::{CloseReason, Detail};
use crate::domain::{InstanceKey, Millis};
use crate::history::archive::Reason;
use crate::testing::archive::{Past, trace};
use crate::testing::{deregister, key, register};

fn one() -> InstanceKey {
    key("orders", "one")
}

fn registers(past: &mut Past, key: &InstanceKey) -> Seq {
    past.happens(&Command::Register(register(key)))
}

/// The instance leaves without a word; its last heartbeat was this one.
fn expires(past: &mut Past, key: &InstanceKey, heartbeat: Option<u64>) -> Seq {
    let last_heartbeat = heartbeat.map(|id| {
        let event = &past.traffic[usize::try_from(id).unwrap() - 1].traffic;
        HeartbeatRef { at: event.at, id, trace: event.trace }
    });
    let ttl = Millis::from_millis(15_000);
    let (gap, late, grace) = (ttl, Millis::ZERO, Millis::ZERO);
    let arithmetic = Arithmetic { last_heartbeat, ttl, gap, missed: 4, late, grace, accrual: None };
    let incarnation = past.present().instance(key).unwrap().incarnation;
    past.happens(&Command::Expire(Overdue {
        key: key.clone(),
        incarnation,
        arithmetic,
        cause: None,
    }))
}

fn starts(past: &mut Past) -> Seq {
    past.happens(&Command::Note(Note::Started { version: "1".into(), node: "a".into() }))
}

fn newest(past: &Past) -> Impact {
    impact(past, &Target::Newest(one()), 1_000).unwrap().unwrap()
}

fn callers(impact: &Impact) -> Vec<(&str, u64, u64)> {
    let callers = impact.callers.iter();
    callers.map(|c| (&*c.caller, c.lookups, c.confirmations)).collect()
}

/// An outage with lookups around it; gives the number of the last heartbeat.
fn outage(rng: &mut Rng) -> (Past, u64) {
    let mut past = Past::new();
    let (one, two) = (one(), key("orders", "two"));
    registers(&mut past, &one);
    let mut heartbeat = 0;
    let names = ["web", "batch", "curl"];
    for step in 0..40 {
        past.elapsed += rng.u64(..6_000);
        match rng.u8(..12) {
            0 | 1 if step < 20 => heartbeat = past.beats(&one),
            2 => drop(registers(&mut past, &two)),
            3 if past.present().instance(&two).is_some() => drop(past.happens(&deregister(&two))),
            n => {
                let status = if n < 7 { 304 } else { 200 };
                past.looks_up(names[rng.usize(..3)], &one.service, status);
            }
        }
        if step == 20 {
            heartbeat = past.beats(&one);
        }
        if step == 30 {
            expires(&mut past, &one, Some(heartbeat));
        }
    }
    (past, heartbeat)
}

#[test]
fn counts_by_minute_speak_where_events_have_gone() {
    let mut rng = Rng::with_seed(5);
    let (mut exact, mut bounds) = (0, 0);
    for _ in 0..60 {
        let (mut past, heartbeat) = outage(&mut rng);
        let whole = newest(&past);
        assert!(whole.missing.is_empty());
        for first in 1..=past.traffic.len() as u64 + 1 {
            past.forget(first);
            let left = newest(&past);
            let needed = first > heartbeat + 1;
            assert_eq!(!left.missing.is_empty(), needed, "{:?}", left.missing);
            let names = |impact: &Impact| -> Vec<Arc<str>> {
                let mut names: Vec<_> = impact.callers.iter().map(|c| c.caller.clone()).collect();
                names.sort();
                names
            };
            assert_eq!(names(&whole), names(&left), "before t{first}");
            for caller in &left.callers {
                let was = whole.callers.iter().find(|was| was.caller == caller.caller).unwrap();
                assert_eq!((caller.held_until, caller.last), (was.held_until, was.last));
                assert!(caller.traces.iter().all(|handed| handed.number >= first));
                let counts = |c: &Caller| (c.lookups, c.confirmations);
                if caller.approximate {
                    bounds += 1;
                    assert!(caller.lookups >= was.lookups);
                    assert!(caller.confirmations >= was.confirmations);
                } else {
                    exact += usize::from(needed);
                    assert_eq!(counts(caller), counts(was), "{} before t{first}", was.caller);
                    assert_eq!(caller.first, was.first);
                }
            }
        }
    }
    assert!(exact > 500 && bounds > 100, "{exact} exact, {bounds} bounds");
}

/// A stream's event; the three of one stream have its trace.
fn tells(past: &mut Past, stream: u8, service: bool, detail: Detail) {
    let about = one().service;
    let number = past.traffic(&format!("stream-{stream}"), service.then_some(&about), None, detail);
    past.traffic[usize::try_from(number).unwrap() - 1].traffic.trace = trace(9, u64::from(stream));
}

fn opened(filter: &str, after: Seq) -> Detail {
    Detail::WatchOpened { filter: filter.into(), after }
}

fn notified(filter: &str, through: Seq) -> Detail {
    Detail::Notified { filter: filter.into(), through, events: 1 }
}

fn closed(filter: &str, through: Seq) -> Detail {
    Detail::WatchClosed { filter: filter.into(), through, reason: CloseReason::Left }
}

#[test]
fn streams_hold_what_they_were_told_until_they_are_told_otherwise() {
    let mut past = Past::new();
    starts(&mut past);
    let seconds = |at: Option<Timestamp>| at.map(|at| (at.0 - crate::testing::START.0) / 1_000_000);
    let of = "service=orders";
    // Open since before the registration, and told of it.
    tells(&mut past, 1, true, opened(of, Seq(1)));
    // The same over everything, and one that hears of other services only.
    tells(&mut past, 2, false, opened("", Seq(1)));
    tells(&mut past, 3, true, opened("namespace=other&service=orders", Seq(1)));
    // Never hears of departures; never hears of arrivals.
    tells(&mut past, 4, true, opened("kind=registered&service=orders", Seq(1)));
    tells(&mut past, 5, true, opened("kind=expired%2Cderegistered&service=orders", Seq(1)));
    // Gone before the last sign of life.
    tells(&mut past, 6, true, opened(of, Seq(1)));
    let born = registers(&mut past, &one());
    for (stream, named) in [(1, true), (2, false), (4, true), (6, true)] {
        let filter = ["", of, "", "", "kind=registered&service=orders", "", of][stream as usize];
        tells(&mut past, stream, named, notified(filter, born));
    }
    // Began with the list in hand.
    tells(&mut past, 7, true, opened(of, born));
    tells(&mut past, 8, true, opened("kind=expired&service=orders", born));
    tells(&mut past, 6, true, closed(of, born));
    past.elapsed = 10_000;
    let heartbeat = past.beats(&one());
    past.elapsed = 12_000;
    // Leaves while the instance is dead.
    tells(&mut past, 7, true, closed(of, born));
    past.elapsed = 25_000;
    let gone = expires(&mut past, &one(), Some(heartbeat));
    past.elapsed = 26_000;
    for (stream, named) in [(1, true), (8, true), (2, false)] {
        let filter = if stream == 8 { "kind=expired&service=orders" } else { of };
        past.elapsed += 1_000;
        tells(&mut past, stream, named, notified(if named { filter } else { "" }, gone));
    }
    // Reads the past.
    tells(&mut past, 9, true, opened(of, born));
    tells(&mut past, 9, true, notified(of, gone));
    past.elapsed = 40_000;
    starts(&mut past);

    let impact = newest(&past);
    let found: Vec<_> = impact
        .streams
        .iter()
        .map(|s| (&*s.caller, seconds(s.opened), seconds(s.told_at), seconds(s.closed)))
        .collect();
    assert_eq!(
        found,
        [
            ("stream-1", Some(0), Some(27), None),
            ("stream-2", Some(0), Some(29), None),
            ("stream-4", Some(0), None, Some(40)),
            ("stream-7", Some(0), None, Some(12)),
            ("stream-8", Some(0), Some(28), None),
        ]
    );
    // Once their beginnings are forgotten, those who are told something are known all the same.
    past.forget(heartbeat);
    let impact = newest(&past);
    let left: Vec<_> = impact.streams.iter().map(|s| (&*s.caller, s.opened.is_some())).collect();
    assert_eq!(left, [("stream-1", false), ("stream-2", false), ("stream-8", false)]);
}

#[test]
fn a_caller_is_told_by_its_stream_too() {
    let mut past = Past::new();
    let born = registers(&mut past, &one());
    tells(&mut past, 1, true, opened("service=orders", born));
    let heartbeat = past.beats(&one());
    past.looks_up("stream-1", &one().service, 200);
    let gone = expires(&mut past, &one(), Some(heartbeat));
    past.elapsed = 5_000;
    tells(&mut past, 1, true, notified("service=orders", gone));
    past.elapsed = 9_000;
    past.looks_up("stream-1", &one().service, 200);
    let impact = newest(&past);
    assert_eq!(callers(&impact), [("stream-1", 1, 0)]);
    assert_eq!(impact.callers[0].held_until.unwrap().0, crate::testing::START.0 + 5_000_000);
}

#[test]
fn a_long_poll_across_the_departure_held_what_it_named() {
    let mut past = Past::new();
    let born = registers(&mut past, &one());
    let other = registers(&mut past, &key("orders", "two"));
    let heartbeat = past.beats(&one());
    let gone = expires(&mut past, &one(), Some(heartbeat));
    let poll = |past: &mut Past, caller: &str, filter: &str, held: Seq| {
        let (filter, held) = (filter.into(), Some(held));
        let detail = Detail::Lookup {
            filter,
            revision: gone,
            returned: 1,
            status: 200,
            held,
            baggage: None,
        };
        past.traffic(caller, Some(&one().service), None, detail);
    };
    poll(&mut past, "waits", "", other);
    poll(&mut past, "elsewhere", "zone=west", other);
    poll(&mut past, "old", "", born);
    poll(&mut past, "told", "", gone);
    let impact = newest(&past);
    let polls: Vec<_> = impact.long_polls.iter().map(|p| (&*p.caller, p.revision)).collect();
    assert_eq!(polls, [("waits", other)]);
    assert_eq!(callers(&impact), []);
}

#[test]
fn a_registration_is_a_sign_of_life_and_an_update_is_none() {
    let mut past = Past::new();
    let one = one();
    registers(&mut past, &one);
    let heartbeat = past.beats(&one);
    past.looks_up("before", &one.service, 200);
    let again = registers(&mut past, &one);
    past.looks_up("between", &one.service, 200);
    past.happens(&Command::Update(crate::testing::update(&one)));
    past.looks_up("after", &one.service, 304);
    // The lease knows its last heartbeat, also one before the last registration.
    expires(&mut past, &one, Some(heartbeat));
    let impact = newest(&past);
    let sign = impact.last_sign_of_life;
    assert_eq!((sign.kind, sign.id), (Kind::Registered, EventId::Change(again.0)));
    assert_eq!(callers(&impact), [("after", 0, 1), ("between", 1, 0)]);
}

#[test]
fn another_life_is_not_this_one() {
    let mut past = Past::new();
    let one = one();
    registers(&mut past, &one);
    let heartbeat = past.beats(&one);
    past.looks_up("first", &one.service, 200);
    let moved = Register {
        endpoint: crate::domain::instance::Endpoint { port: 81, ..register(&one).endpoint },
        ..register(&one)
    };
    let second = past.happens(&Command::Register(moved));
    past.looks_up("second", &one.service, 200);
    past.happens(&deregister(&one));
    let impact = newest(&past);
    assert_eq!((impact.instance.incarnation, impact.instance.endpoint.port), (second, 81));
    // The heartbeat was of the life before.
    assert_eq!(impact.last_sign_of_life.id, EventId::Change(second.0));
    assert_ne!(heartbeat, second.0);
    assert_eq!(callers(&impact), [("second", 1, 0)]);
}

#[test]
fn gaps_of_the_log_are_named_where_they_matter() {
    let mut past = Past::new();
    let gap = |past: &mut Past, millis: u64| {
        let from = past.now();
        past.elapsed += millis;
        let until = past.now();
        past.happens(&Command::Note(Note::LogGap(LogGap {
            from,
            until,
            lookups: 1,
            heartbeats: 0,
        })));
    };
    registers(&mut past, &one());
    gap(&mut past, 1_000);
    past.elapsed += 1_000;
    let heartbeat = past.beats(&one());
    past.looks_up("web", &one().service, 200);
    past.elapsed += 1_000;
    gap(&mut past, 1_000);
    expires(&mut past, &one(), Some(heartbeat));
    past.elapsed += 1_000;
    past.looks_up("web", &one().service, 200);
    past.elapsed += 1_000;
    gap(&mut past, 1_000);
    let impact = newest(&past);
    let told: Vec<_> = impact.missing.iter().map(|m| (m.reason, m.until.since(m.from))).collect();
    assert_eq!(told, [(Reason::LogGap, Millis::from_millis(1_000))]);
    assert!(impact.callers[0].held_until.is_some());
}

#[test]
fn only_a_departure_can_be_asked_about() {
    let mut past = Past::new();
    let born = registers(&mut past, &one());
    let ask =
        |past: &Past, target: &Target| impact(past, target, 1).unwrap().map(|_| ()).unwrap_err();
    let event = |seq, instance: Option<&str>| Target::Event {
        seq,
        namespace: None,
        service: None,
        instance: instance.map(|name| crate::domain::InstanceId::new(name).unwrap()),
    };
    assert_eq!(ask(&past, &Target::Newest(one())), Refusal::NoDeparture);
    assert_eq!(ask(&past, &event(born, None)), Refusal::NotADeparture(Kind::Registered));
    assert_eq!(ask(&past, &event(Seq(99), None)), Refusal::UnknownEvent);
    let gone = past.happens(&deregister(&one()));
    assert_eq!(ask(&past, &event(gone, Some("two"))), Refusal::Another(one()));
    assert!(impact(&past, &event(gone, Some("one")), 1).unwrap().is_ok());
}

#[test]
fn answers_that_were_on_their_way_count_by_what_they_saw() {
    let mut past = Past::new();
    let one = one();
    let first = registers(&mut past, &one);
    past.happens(&deregister(&one));
    let second = registers(&mut past, &one);
    let third = registers(&mut past, &key("orders", "two"));
    let heartbeat = past.beats(&one);
    let answered = |past: &mut Past, caller: &str, revision: Seq| {
        let (filter, held) = (Box::default(), None);
        let detail =
            Detail::Lookup { filter, revision, returned: 1, status: 200, held, baggage: None };
        past.traffic(caller, Some(&one.service), None, detail);
    };
    // Looked before the heartbeat, one of them at another life; answered after it.
    answered(&mut past, "late", second);
    answered(&mut past, "very late", first);
    answered(&mut past, "in time", third);
    past.elapsed = 15_000;
    let gone = expires(&mut past, &one, Some(heartbeat));
    past.elapsed = 16_000;
    answered(&mut past, "crossed", gone);
    past.elapsed = 17_000;
    answered(&mut past, "crossed", third);
    let impact = newest(&past);
    assert_eq!(callers(&impact), [("in time", 1, 0), ("late", 1, 0), ("crossed", 1, 0)]);
    let crossed = &impact.callers[2];
    // Of two answers that passed each other, the one that knew better had come first.
    assert!(crossed.held_until < Some(crossed.first));
}

#[test]
fn a_window_that_begins_with_a_registration_is_found_in_a_long_log() {
    let mut past = Past::new();
    let (one, two) = (one(), key("carts", "two"));
    registers(&mut past, &two);
    for number in 0..80_000 {
        past.looks_up("noise", &two.service, if number % 2 == 0 { 200 } else { 304 });
    }
    registers(&mut past, &one);
    past.looks_up("web", &one.service, 200);
    for _ in 0..10 {
        past.looks_up("noise", &two.service, 200);
    }
    expires(&mut past, &one, None);
    let search = Search::begin(&past, past.changes.last().unwrap().clone(), 10).unwrap();
    let from = search.number_before(past.changes[1].seq).unwrap();
    // Not from the beginning, and early enough for whatever came in another order.
    assert!((2..=80_001 - DISORDER).contains(&from), "t{from}");
    assert_eq!(callers(&newest(&past)), [("web", 1, 0)]);
}

/// Behind the time in which everything that crossed the departure came in, only those are followed who wait.
#[test]
fn who_comes_back_late_is_followed_by_name() {
    for crowd in [0, 20] {
        let mut past = Past::new();
        let born = registers(&mut past, &one());
        let orders = one().service;
        tells(&mut past, 1, false, opened("", born));
        tells(&mut past, 2, true, opened("service=orders", born));
        let heartbeat = past.beats(&one());
        for caller in ["web", "late", "later", "stream-2", "never"] {
            past.looks_up(caller, &orders, 200);
        }
        for number in 0..crowd {
            past.looks_up(&format!("crowd-{number}"), &orders, 200);
        }
        past.elapsed = 15_000;
        let gone = expires(&mut past, &one(), Some(heartbeat));
        for _ in 0..=DISORDER + 1 {
            past.looks_up("web", &orders, 200);
        }
        tells(&mut past, 9, false, opened("", gone));
        for _ in 0..=DISORDER + 1 {
            discovers(&mut past, "discovery", gone);
        }
        past.elapsed = 20_000;
        discovers(&mut past, "later", gone);
        past.elapsed = 21_000;
        past.looks_up("later", &orders, 200);
        past.looks_up("late", &orders, 200);
        past.elapsed = 22_000;
        tells(&mut past, 1, false, notified("", gone));
        tells(&mut past, 2, true, notified("service=orders", gone));
        past.elapsed = 23_000;
        past.looks_up("late", &orders, 200);
        let impact = newest(&past);
        let told =
            |at: Option<Timestamp>| at.map(|at| (at.0 - crate::testing::START.0) / 1_000_000);
        let callers: Vec<_> =
            impact.callers.iter().map(|c| (&*c.caller, told(c.held_until))).collect();
        assert_eq!(callers.len(), 5 + crowd);
        let callers: Vec<_> =
            callers.into_iter().filter(|(caller, _)| !caller.starts_with("crowd")).collect();
        let expected = [
            ("late", Some(21)),
            ("later", Some(20)),
            ("never", None),
            ("stream-2", Some(22)),
            ("web", Some(15)),
        ];
        assert_eq!(callers, expected);
        let streams: Vec<_> =
            impact.streams.iter().map(|s| (&*s.caller, told(s.told_at))).collect();
        assert_eq!(streams, [("stream-1", Some(22)), ("stream-2", Some(22))]);
    }
}

/// A round of Prometheus' discovery.
fn discovers(past: &mut Past, caller: &str, saw: Seq) {
    let (filter, held) = (crate::domain::selection::SD_PROMETHEUS.into(), None);
    let detail =
        Detail::Lookup { filter, revision: saw, returned: 1, status: 200, held, baggage: None };
    past.traffic(caller, None, None, detail);
}
