//! The guard case by case, and against a model that keeps lists of everything and counts them anew for each answer.

use proptest::prelude::*;

use super::*;
use crate::testing::cases;

const TTL: Millis = Millis::from_millis(15_000);

fn service(n: u8) -> ServiceKey {
    crate::testing::key(&format!("service-{n}"), "x").service
}

fn at(seconds: u64) -> Monotonic {
    Monotonic(seconds * 1_000_000)
}

fn mark(seq: u64, now: Monotonic) -> Mark {
    Mark { seq: Seq(seq), at: Timestamp(i64::try_from(now.0).unwrap()), now }
}

fn standing(incarnation: u64, late: bool) -> Standing {
    Standing { incarnation: Seq(incarnation), ttl: TTL, late }
}

/// `living` instances of service 1, of which `late` are late; incarnations from 1 on.
fn guard_of(living: u64, late: u64) -> Guard {
    let mut guard = Guard::new(Policy { registry_minimum: 1_000, ..Policy::default() });
    for n in 1..=living {
        guard.shift(&service(1), None, Some(standing(n, n <= late)));
    }
    guard
}

fn revive(guard: &mut Guard, n: u64) {
    guard.shift(&service(1), Some(standing(n, true)), Some(standing(n, false)));
}

fn expire(guard: &mut Guard, n: u64, now: Monotonic) {
    guard.shift(&service(1), Some(standing(n, true)), None);
    guard.expired(&service(1), TTL, now);
}

fn enter(guard: &mut Guard, seq: u64, now: Monotonic) -> Option<GuardEntered> {
    let entered = guard.to_enter([(&service(1), 0)], now).pop()?;
    guard.entered(&entered, mark(seq, now));
    Some(entered)
}

fn leave(guard: &mut Guard, seq: u64, now: Monotonic) -> Option<GuardLeft> {
    let left = guard.to_leave(now).pop()?;
    guard.left(&left, mark(seq, now));
    Some(left)
}

fn judge(guard: &mut Guard, n: u64, now: Monotonic) -> Sentence {
    guard.judge(&service(1), Seq(n), TTL, now)
}

#[test]
fn it_is_entered_for_more_than_half_and_at_least_three() {
    for (living, late, holds) in
        [(2, 2, false), (3, 3, true), (5, 3, true), (6, 3, false), (7, 4, true), (10, 5, false)]
    {
        let entered = enter(&mut guard_of(living, late), 1, at(1));
        assert_eq!(entered.is_some(), holds, "{late} of {living}");
        if let Some(GuardEntered { inputs, limit, .. }) = entered {
            assert_eq!((inputs, limit.millis()), (GuardInputs { late, gone: 0, living }, 75_000));
        }
    }
}

#[test]
fn those_who_went_within_their_ttl_count_on_both_sides() {
    let mut guard = guard_of(9, 5);
    expire(&mut guard, 1, at(10));
    expire(&mut guard, 2, at(10));
    // 3 late and 2 gone of 9.
    let inputs = |guard: &mut Guard, now| guard.inputs(&Some(service(1)), now);
    assert_eq!(inputs(&mut guard, at(24)), GuardInputs { late: 3, gone: 2, living: 7 });
    let mut later = guard_of(9, 5);
    expire(&mut later, 1, at(10));
    expire(&mut later, 2, at(10));
    assert!(enter(&mut guard, 1, at(24)).is_some());
    assert_eq!(inputs(&mut later, at(25)), GuardInputs { late: 3, gone: 0, living: 7 });
    assert_eq!(enter(&mut later, 1, at(25)), None, "a ttl after they went, they are forgotten");
}

#[test]
fn it_recovers_when_enough_are_back_and_spares_the_others_for_a_ttl() {
    let mut guard = guard_of(10, 10);
    enter(&mut guard, 1, at(0));
    assert_eq!(judge(&mut guard, 9, at(0)), Sentence::Held(Monotonic(3_750_000)));
    (1..=4).for_each(|n| revive(&mut guard, n));
    assert_eq!(leave(&mut guard, 2, at(5)), None, "6 of 10 are late still");
    revive(&mut guard, 5);
    let left = leave(&mut guard, 2, at(6)).unwrap();
    assert_eq!((left.end, left.held, left.held_for.millis()), (GuardEnd::Recovered, 1, 6_000));
    assert!(!guard.holds());
    assert_eq!(enter(&mut guard, 3, at(6)), None);
    for n in [9, 10] {
        assert!(matches!(judge(&mut guard, n, at(20)), Sentence::Held(until) if until == at(21)));
    }
    assert_eq!(judge(&mut guard, 9, at(21)), Sentence::Expires(Some(Seq(2))), "it had been held");
    assert_eq!(judge(&mut guard, 10, at(21)), Sentence::Expires(None), "it had not");
}

#[test]
fn it_lets_go_after_its_limit_and_begins_again_only_when_nobody_is_late() {
    let mut guard = guard_of(4, 3);
    enter(&mut guard, 1, at(0));
    judge(&mut guard, 1, at(0));
    assert_eq!(leave(&mut guard, 2, at(74)), None);
    let left = leave(&mut guard, 2, at(75)).unwrap();
    assert_eq!((left.end, left.held), (GuardEnd::Elapsed, 1));
    assert_eq!(judge(&mut guard, 1, at(75)), Sentence::Expires(Some(Seq(2))));
    expire(&mut guard, 1, at(75));
    assert_eq!(enter(&mut guard, 3, at(76)), None, "it is spent");
    revive(&mut guard, 2);
    assert_eq!(enter(&mut guard, 3, at(77)), None, "one is late still");
    revive(&mut guard, 3);
    for n in [2, 3, 4] {
        guard.shift(&service(1), Some(standing(n, false)), Some(standing(n, true)));
    }
    assert!(enter(&mut guard, 3, at(78)).is_some(), "nobody was late in between");
}

/// Seed 813 of the simulation: who was held by two guards was looked at again only when the longer limit had passed.
#[test]
fn one_held_by_two_guards_is_looked_at_again_when_the_one_that_holds_lets_go() {
    let mut guard = Guard::new(Policy::default());
    for n in 1..=4 {
        guard.shift(&service(1), None, Some(standing(n, true)));
    }
    for n in 5..=12 {
        guard.shift(&service(2), None, Some(standing(n, true)));
    }
    // The registry's guard since 0 s, that of service 1 since 10 s.
    for entered in guard.to_enter([(&service(2), 0)], at(0)) {
        guard.entered(&entered, mark(1, at(0)));
    }
    for entered in guard.to_enter([(&service(1), 0)], at(10)) {
        guard.entered(&entered, mark(2, at(10)));
    }
    assert!(matches!(judge(&mut guard, 4, at(15)), Sentence::Held(_)), "for 85 s at most");
    (1..=3).for_each(|n| revive(&mut guard, n));
    let left = guard.to_leave(at(20)).pop().unwrap();
    assert_eq!((left.over.clone(), left.end), (Some(service(1)), GuardEnd::Recovered));
    guard.left(&left, mark(3, at(20)));
    assert_eq!(judge(&mut guard, 4, at(74)), Sentence::Held(at(75)));
}

/// Seed 2207 of the simulation: a slow log took its time for the note, and who was ripe and never held stayed a turn longer.
#[test]
fn a_limit_that_has_passed_spares_nobody_until_the_log_has_the_note_of_it() {
    let mut guard = guard_of(4, 4);
    enter(&mut guard, 1, at(0));
    let left = guard.to_leave(at(75)).pop().unwrap();
    assert_eq!(left.end, GuardEnd::Elapsed);
    guard.left(&left, mark(2, at(77)));
    assert_eq!(judge(&mut guard, 1, at(75)), Sentence::Expires(None));
}

#[test]
fn the_limit_follows_the_longest_ttl_of_the_late_ones_and_has_an_end() {
    let hour = Millis::from_millis(3_600_000);
    for (late, limit) in [(false, 75_000), (true, 600_000)] {
        let mut guard = guard_of(4, 4);
        let patient = Standing { ttl: hour, ..standing(9, late) };
        guard.shift(&service(1), None, Some(patient));
        assert_eq!(enter(&mut guard, 1, at(0)).unwrap().limit.millis(), limit);
    }
}

#[test]
fn nobody_is_held_for_longer_than_the_guard_that_held_it_first() {
    let mut guard = Guard::new(Policy::default());
    // Four of service 1, and six services of one.
    for n in 1..=4 {
        guard.shift(&service(1), None, Some(standing(n, true)));
    }
    assert!(enter(&mut guard, 1, at(0)).is_some());
    judge(&mut guard, 1, at(0));
    for n in 5..=12 {
        guard.shift(&service(u8::try_from(n).unwrap()), None, Some(standing(n, true)));
    }
    let mut entered = guard.to_enter([(&service(5), 0)], at(70));
    assert_eq!(entered.len(), 1, "a service of one is guarded by the registry only");
    let entered = entered.remove(0);
    assert_eq!(entered.over, None);
    guard.entered(&entered, mark(2, at(70)));
    assert_eq!(
        guard.judge(&service(5), Seq(5), TTL, at(70)),
        Sentence::Held(Monotonic(73_750_000))
    );
    let left = guard.to_leave(at(75));
    assert_eq!(left.iter().map(|left| &left.over).collect::<Vec<_>>(), [&Some(service(1))]);
    guard.left(&left[0], mark(3, at(75)));
    assert_eq!(judge(&mut guard, 1, at(75)), Sentence::Expires(Some(Seq(3))));
    assert!(matches!(guard.judge(&service(5), Seq(5), TTL, at(75)), Sentence::Held(_)));
}

#[test]
fn a_stop_ends_all_guards() {
    let mut guard = guard_of(3, 3);
    assert_eq!(guard.to_stop(at(0)), []);
    enter(&mut guard, 1, at(0));
    let stopped = guard.to_stop(at(2)).remove(0);
    assert_eq!((stopped.end, stopped.held_for.millis()), (GuardEnd::Stopped, 2_000));
}

/// Something that happens to the guard.
#[derive(Clone, Debug)]
enum Op {
    Come { service: u8, ttl: u8 },
    Late(prop::sample::Index),
    Return(prop::sample::Index),
    Goodbye(prop::sample::Index),
    Pass(u16),
    Sweep { first: prop::sample::Index, count: u8 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (0..3_u8, 1..4_u8).prop_map(|(service, ttl)| Op::Come { service, ttl }),
        6 => any::<prop::sample::Index>().prop_map(Op::Late),
        2 => any::<prop::sample::Index>().prop_map(Op::Return),
        1 => any::<prop::sample::Index>().prop_map(Op::Goodbye),
        2 => (1..20_000_u16).prop_map(Op::Pass),
        5 => (any::<prop::sample::Index>(), 1..12_u8)
            .prop_map(|(first, count)| Op::Sweep { first, count }),
    ];
    prop::collection::vec(op, 1..160)
}

#[derive(Clone, Debug)]
struct One {
    service: ServiceKey,
    standing: Standing,
    held: Option<Monotonic>,
}

/// A guard that was entered, and perhaps left.
#[derive(Clone, Debug)]
struct Episode {
    over: Guarded,
    from: Monotonic,
    limit: Millis,
    left: Option<(Mark, GuardEnd)>,
    /// Whether nobody was late at some time since.
    over_and_done: bool,
}

/// Lists of everything.
#[derive(Debug, Default)]
struct Model {
    living: Vec<One>,
    gone: Vec<(ServiceKey, Monotonic)>,
    episodes: Vec<Episode>,
    now: Monotonic,
    seq: u64,
}

impl Model {
    fn inputs(&self, over: &Guarded) -> GuardInputs {
        let is_in = |service: &ServiceKey| over.as_ref().is_none_or(|over| over == service);
        let living: Vec<_> = self.living.iter().filter(|one| is_in(&one.service)).collect();
        let gone = self.gone.iter().filter(|(service, until)| is_in(service) && *until > self.now);
        GuardInputs {
            late: living.iter().filter(|one| one.standing.late).count() as u64,
            gone: gone.count() as u64,
            living: living.len() as u64,
        }
    }

    /// The last episode of a scope, unless it is over and done.
    fn episode(&self, over: &Guarded) -> Option<&Episode> {
        self.episodes.iter().rfind(|e| e.over == *over).filter(|e| !e.over_and_done)
    }

    fn threatened(&self, over: &Guarded) -> bool {
        let GuardInputs { late, gone, living } = self.inputs(over);
        2 * (late + gone) > living + gone
    }

    fn rest(&mut self) {
        let scopes: Vec<Guarded> = self.episodes.iter().map(|e| e.over.clone()).collect();
        for (position, over) in scopes.iter().enumerate() {
            if self.episodes[position].left.is_some() && self.inputs(over).late == 0 {
                self.episodes[position].over_and_done = true;
            }
        }
    }

    fn enters(&self, over: &Guarded) -> Option<GuardEntered> {
        let inputs = self.inputs(over);
        let enough =
            inputs.late + inputs.gone >= 3 && (over.is_some() || inputs.living + inputs.gone >= 10);
        if self.episode(over).is_some() || !enough || !self.threatened(over) {
            return None;
        }
        let is_in = |one: &&One| over.as_ref().is_none_or(|over| *over == one.service);
        let late = self.living.iter().filter(is_in).filter(|one| one.standing.late);
        let longest = late.map(|one| one.standing.ttl.millis()).max().unwrap_or(0);
        let limit = Millis::from_millis((5 * longest).min(600_000));
        Some(GuardEntered { over: over.clone(), inputs, limit })
    }

    fn leaves(&self, over: &Guarded) -> Option<GuardLeft> {
        let episode = self.episode(over).filter(|e| e.left.is_none())?;
        let end = if self.now >= episode.from.plus(episode.limit) {
            GuardEnd::Elapsed
        } else if !self.threatened(over) {
            GuardEnd::Recovered
        } else {
            return None;
        };
        let is_in = |one: &&One| over.as_ref().is_none_or(|over| *over == one.service);
        let held = self.living.iter().filter(is_in).filter(|one| one.held.is_some());
        Some(GuardLeft {
            over: over.clone(),
            inputs: self.inputs(over),
            end,
            held_for: self.now.since(episode.from),
            held: held.count() as u64,
        })
    }

    fn judge(&self, one: &One) -> (Sentence, Option<Monotonic>) {
        let scopes = [Some(one.service.clone()), None];
        let episodes: Vec<&Episode> = scopes.iter().filter_map(|over| self.episode(over)).collect();
        let holding = episodes.iter().filter(|e| e.left.is_none()).map(|e| e.from.plus(e.limit));
        let until = holding.max();
        let held = one.held.or(until);
        let pardon = episodes.iter().filter_map(|e| match e.left {
            Some((mark, GuardEnd::Recovered)) => {
                Some(mark.now.plus(one.standing.ttl).min(e.from.plus(e.limit)))
            }
            _ => None,
        });
        let pardon = pardon.max().unwrap_or(self.now);
        let end = match (until, held) {
            (Some(until), Some(held)) => until.min(held),
            (None, Some(held)) => pardon.min(held),
            (_, None) => pardon,
        };
        if self.now < end {
            let pause = Millis::from_millis(one.standing.ttl.millis() / 4);
            return (Sentence::Held(self.now.plus(pause).min(end)), held);
        }
        let cause = episodes.iter().filter_map(|e| e.left).map(|(mark, _)| mark.seq).max();
        (Sentence::Expires(cause.filter(|_| one.held.is_some())), held)
    }
}

/// Runs both, and compares every answer.
fn run(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let (mut guard, mut model) = (Guard::new(Policy::default()), Model::default());
    for op in ops {
        model.seq += 1;
        let pick = |index: prop::sample::Index| {
            (!model.living.is_empty()).then(|| index.index(model.living.len()))
        };
        match op {
            Op::Come { service: n, ttl } => {
                let ttl = Millis::from_millis(u64::from(ttl) * 5_000);
                let standing = Standing { incarnation: Seq(model.seq), ttl, late: false };
                guard.shift(&service(n), None, Some(standing));
                model.living.push(One { service: service(n), standing, held: None });
            }
            Op::Late(index) | Op::Return(index) => {
                let Some(one) = pick(index) else { continue };
                let one = &mut model.living[one];
                let late = matches!(op, Op::Late(_));
                let after = Standing { late, ..one.standing };
                guard.shift(&one.service, Some(one.standing), Some(after));
                one.standing = after;
                one.held = one.held.filter(|_| late);
            }
            Op::Goodbye(index) => {
                let Some(one) = pick(index) else { continue };
                let one = model.living.remove(one);
                guard.shift(&one.service, Some(one.standing), None);
            }
            Op::Pass(millis) => model.now = model.now.plus(Millis::from_millis(millis.into())),
            Op::Sweep { first, count } => {
                let Some(first) = pick(first) else { continue };
                sweep(&mut guard, &mut model, first, usize::from(count))?;
            }
        }
        model.rest();
        for over in [None, Some(service(0)), Some(service(1)), Some(service(2))] {
            prop_assert_eq!(guard.inputs(&over, model.now), model.inputs(&over), "{:?}", over);
        }
        let held = model.living.iter().filter(|one| one.held.is_some()).count();
        prop_assert_eq!(guard.held(), held as u64);
    }
    Ok(())
}

/// Some of the late ones are due.
fn sweep(
    guard: &mut Guard,
    model: &mut Model,
    first: usize,
    count: usize,
) -> Result<(), TestCaseError> {
    let now = model.now;
    let scopes = [Some(service(0)), Some(service(1)), Some(service(2)), None];
    let mut leaving = guard.to_leave(now);
    leaving.sort_by_key(|left| scopes.iter().position(|over| *over == left.over));
    let expected: Vec<GuardLeft> = scopes.iter().filter_map(|over| model.leaves(over)).collect();
    prop_assert_eq!(&leaving, &expected);
    for left in leaving {
        model.seq += 1;
        guard.left(&left, mark(model.seq, now));
        let episode = model.episodes.iter_mut().rfind(|e| e.over == left.over).unwrap();
        episode.left = Some((mark(model.seq, now), left.end));
    }
    model.rest();
    let late = model.living.iter().cycle().skip(first).take(model.living.len());
    let due: Vec<One> = late.filter(|one| one.standing.late).take(count).cloned().collect();
    let services: std::collections::BTreeSet<&ServiceKey> =
        due.iter().map(|one| &one.service).collect();
    if !services.is_empty() {
        let entering = guard.to_enter(services.iter().map(|service| (*service, 0)), now);
        let asked = services.iter().map(|service| Some((*service).clone())).chain([None]);
        let expected: Vec<GuardEntered> = asked.filter_map(|over| model.enters(&over)).collect();
        prop_assert_eq!(&entering, &expected);
        for entered in entering {
            model.seq += 1;
            guard.entered(&entered, mark(model.seq, now));
            let (over, limit) = (entered.over, entered.limit);
            let episode = Episode { over, from: now, limit, left: None, over_and_done: false };
            model.episodes.push(episode);
        }
    }
    for one in due {
        let incarnation = one.standing.incarnation;
        let (expected, held) = model.judge(&one);
        let sentence = guard.judge(&one.service, incarnation, one.standing.ttl, now);
        prop_assert_eq!(sentence, expected, "{:?} at {:?} of {:?}", one, now, model);
        let position = model.living.iter().position(|o| o.standing.incarnation == incarnation);
        let position = position.unwrap();
        if matches!(sentence, Sentence::Held(_)) {
            model.living[position].held = held;
        } else {
            model.living.remove(position);
            model.gone.push((one.service.clone(), now.plus(one.standing.ttl)));
            guard.shift(&one.service, Some(one.standing), None);
            guard.expired(&one.service, one.standing.ttl, now);
        }
        model.rest();
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn it_decides_as_one_who_counts_everything_anew(ops in ops()) {
        run(ops)?;
    }
}
