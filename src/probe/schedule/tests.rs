//! The prober without a network: when probes are due, what judgements they come to, and that none is lost or said twice.

use std::collections::BTreeMap;

use super::*;
use crate::probe::testing::{check, instance};

const SECOND: Millis = Millis::from_millis(1_000);
const AWAKE: Monotonic = Monotonic(0);
const TRACE: TraceRef = TraceRef { trace_id: [1; 16], span_id: [2; 8] };

fn at(seconds: u64) -> Monotonic {
    Monotonic(1_000_000 * seconds)
}

fn moved(instances: impl IntoIterator<Item = Arc<Instance>>) -> Moved {
    instances.into_iter().map(|instance| (instance.key.clone(), Some(instance))).collect()
}

fn found(passed: bool) -> Found {
    let outcome = if passed { ProbeOutcome::Passed } else { ProbeOutcome::Rejected };
    Found { outcome, status: None, latency: Millis::ZERO, error: None }
}

/// A prober of one instance, and the time.
struct Rig {
    prober: Prober,
    now: Monotonic,
}

impl Rig {
    fn new(check: Check, verdict: ProbeVerdict) -> Self {
        let mut prober = Prober::new();
        prober.follow(moved([instance("orders-1", check, verdict)]), at(10));
        Self { prober, now: at(10) }
    }

    /// Waits for the next thing that is due.
    fn next(&mut self) -> Due {
        self.now = self.now.max(self.prober.next_due().expect("something is due"));
        let mut due = self.prober.due(self.now, AWAKE, 10);
        assert_eq!(due.len(), 1, "{due:?}");
        due.remove(0)
    }

    fn job(&mut self) -> Job {
        match self.next() {
            Due::Probe(job) => job,
            Due::Judge(judgement) => panic!("{judgement:?}"),
        }
    }

    /// Makes the next probe.
    fn probe(&mut self, passed: bool) -> Option<Judgement> {
        let job = self.job();
        self.prober.done(&job, found(passed), TRACE, self.now, AWAKE)
    }
}

#[test]
fn ten_thousand_checks_spread_evenly_over_their_interval() {
    let mut prober = Prober::new();
    let fleet = |verdict| (0..10_000).map(move |n| instance(&format!("i-{n}"), check(), verdict));
    prober.follow(moved(fleet(ProbeVerdict::Passing)), at(100));
    let mut by_second = BTreeMap::<u64, usize>::new();
    let mut now = at(100);
    while let Some(due) = prober.next_due().filter(|due| *due < at(130)) {
        now = now.max(due);
        for due in prober.due(now, AWAKE, usize::MAX) {
            let Due::Probe(job) = due else { panic!("nothing to judge") };
            *by_second.entry(job.started.0 / 1_000_000).or_default() += 1;
            assert_eq!(job.lag, Millis::ZERO);
            assert_eq!(prober.done(&job, found(true), TRACE, now, AWAKE), None);
        }
    }
    assert_eq!(by_second.values().sum::<usize>(), 30_000, "each once in its interval");
    for (second, count) in &by_second {
        // A thousand, give or take four times the deviation of a fair draw.
        assert!((880..=1_120).contains(count), "{count} in second {second}");
    }
    // Those that register together are probed soon, and not all at once either.
    let mut prober = Prober::new();
    prober.follow(moved(fleet(ProbeVerdict::Pending)), at(100));
    let first = |ms: u64| Monotonic(100_000_000 + ms * 1_000);
    let early = prober.due(first(500), AWAKE, usize::MAX).len();
    assert!((4_700..=5_300).contains(&early), "{early}");
    assert_eq!(prober.due(first(1_000), AWAKE, usize::MAX).len(), 10_000 - early);
}

#[test]
fn the_first_probe_waits_for_the_initial_delay_and_the_room() {
    let mut rig = Rig::new(Check { initial_delay: SECOND, ..check() }, ProbeVerdict::Pending);
    let due = rig.prober.next_due().unwrap();
    assert!((at(11)..at(12)).contains(&due), "{due:?}");
    assert!(rig.prober.due(due, AWAKE, 0).is_empty(), "there is no room");
    let later = due.plus(SECOND);
    let Due::Probe(job) = rig.prober.due(later, AWAKE, 1).remove(0) else { panic!() };
    assert_eq!(job.lag, SECOND);
    assert_eq!(rig.prober.next_due(), None, "it is under way");
}

#[test]
fn only_a_verdict_that_changes_is_told() {
    let mut rig = Rig::new(check(), ProbeVerdict::Pending);
    let told = rig.probe(true).unwrap();
    assert_eq!((told.judge.verdict, told.trace), (ProbeVerdict::Passing, TRACE));
    assert_eq!(rig.probe(true), None, "it is on its way");
    assert_eq!(rig.prober.answered(&told, true, rig.now), None);
    assert_eq!(rig.probe(true), None);
    for (verdict, in_a_row) in
        [(Some(ProbeVerdict::Suspect), 1), (None, 2), (Some(ProbeVerdict::Failing), 3), (None, 4)]
    {
        let told = rig.probe(false);
        assert_eq!(told.as_ref().map(|told| told.judge.verdict), verdict, "{in_a_row}");
        if let Some(told) = told {
            assert_eq!(told.judge.evidence.in_a_row, in_a_row);
            assert_eq!(rig.prober.answered(&told, true, rig.now), None);
        }
    }
}

#[test]
fn a_single_failure_is_confirmed_at_once_on_a_new_connection() {
    let mut rig = Rig::new(Check { failures: 1, ..check() }, ProbeVerdict::Passing);
    let first = rig.job();
    assert!(first.may_reuse);
    let now = rig.now;
    assert_eq!(rig.prober.done(&first, found(false), TRACE, now, AWAKE), None);
    let second = rig.job();
    assert_eq!((rig.now, second.may_reuse), (now, false));
    let told = rig.prober.done(&second, found(false), TRACE, now, AWAKE).unwrap();
    assert_eq!((told.judge.verdict, told.judge.evidence.in_a_row), (ProbeVerdict::Failing, 2));
    rig.job();
    assert!(rig.now > now.plus(SECOND), "and then it is its turn again");
}

#[test]
fn what_was_refused_is_said_again_and_what_came_of_it_meanwhile_too() {
    let mut rig = Rig::new(check(), ProbeVerdict::Pending);
    let told = rig.probe(true).unwrap();
    assert_eq!(rig.prober.answered(&told, false, rig.now), None);
    let refused_at = rig.now;
    let Due::Judge(again) = rig.next() else { panic!("a judgement") };
    assert_eq!((rig.now, &again.judge), (refused_at.plus(AGAIN_AFTER), &told.judge));
    // While it is on its way, the verdict changes: the change follows its answer.
    assert_eq!(rig.probe(false), None);
    let next = rig.prober.answered(&again, true, rig.now).unwrap();
    assert_eq!(next.judge.verdict, ProbeVerdict::Suspect);
    assert_eq!(rig.prober.answered(&next, true, rig.now), None);
    // The publication of an older state contradicts what is known here: it is said once more, and does no harm.
    let stale = instance("orders-1", check(), ProbeVerdict::Passing);
    rig.prober.follow(moved([stale]), rig.now);
    let Due::Judge(again) = rig.next() else { panic!("a judgement") };
    assert_eq!(again.judge.verdict, ProbeVerdict::Suspect);
}

#[test]
fn another_check_or_life_begins_anew_and_the_old_counts_for_nothing() {
    let mut rig = Rig::new(check(), ProbeVerdict::Failing);
    let old = rig.job();
    let other = Check { path: "/other".into(), ..check() };
    rig.prober.follow(moved([instance("orders-1", other, ProbeVerdict::Pending)]), rig.now);
    assert_eq!(rig.prober.done(&old, found(true), TRACE, rig.now, AWAKE), None);
    assert_eq!(rig.prober.len(), 1);
    let new = rig.job();
    assert_eq!(&*new.check.path, "/other");
    let told = rig.prober.done(&new, found(true), TRACE, rig.now, AWAKE).unwrap();
    assert_eq!(told.judge.verdict, ProbeVerdict::Passing);
    // The same check, published with another status, is the same probe.
    rig.prober.answered(&told, true, rig.now);
    let due = rig.prober.next_due();
    let same = Check { path: "/other".into(), ..check() };
    rig.prober.follow(moved([instance("orders-1", same, ProbeVerdict::Passing)]), rig.now);
    assert_eq!(rig.prober.next_due(), due);
    rig.prober.follow([(told.judge.key, None)].into(), rig.now);
    assert!(rig.prober.is_empty() && rig.prober.next_due().is_none());
}

#[test]
fn a_verdict_outlives_a_restart() {
    let mut rig = Rig::new(Check { passes: 2, ..check() }, ProbeVerdict::Failing);
    assert_eq!(rig.probe(false), None, "it fails as before");
    assert_eq!(rig.probe(true), None, "one is not enough");
    assert_eq!(rig.probe(true).unwrap().judge.verdict, ProbeVerdict::Passing);
}

#[test]
fn nothing_counts_that_spans_a_standstill() {
    let mut rig = Rig::new(Check { failures: 2, ..check() }, ProbeVerdict::Passing);
    let job = rig.job();
    let woke = rig.now.plus(Millis::from_millis(60_000));
    assert_eq!(rig.prober.done(&job, found(false), TRACE, woke, woke), None);
    // Made again while the process runs, it counts.
    rig.now = woke;
    let job = rig.job();
    let told = rig.prober.done(&job, found(false), TRACE, rig.now, woke).unwrap();
    assert_eq!(told.judge.verdict, ProbeVerdict::Suspect);

    // What became due meanwhile takes its turn, and is not made up for all at once.
    let mut prober = Prober::new();
    let fleet = (0..1_000).map(|n| instance(&format!("i-{n}"), check(), ProbeVerdict::Passing));
    prober.follow(moved(fleet), at(100));
    let woke = at(160);
    assert!(prober.due(woke, woke, usize::MAX).is_empty());
    let spread = prober.due(woke.plus(SECOND), woke, usize::MAX).len();
    assert!((50..=150).contains(&spread), "{spread}");
}

#[test]
fn the_text_of_an_error_is_cut() {
    let mut rig = Rig::new(check(), ProbeVerdict::Passing);
    let job = rig.job();
    let long = Found { error: Some("é".repeat(5_000).into()), ..found(false) };
    let told = rig.prober.done(&job, long, TRACE, rig.now, AWAKE).unwrap();
    assert_eq!(told.judge.evidence.error.unwrap().len(), PROBE_ERROR_BYTES_MAX);
}

#[test]
fn a_probe_of_which_nothing_came_counts_for_nothing_and_is_made_in_the_next_turn() {
    let mut rig = Rig::new(Check { failures: 1, ..check() }, ProbeVerdict::Passing);
    let first = rig.job();
    assert_eq!(rig.prober.next_due(), None, "it is under way");
    rig.prober.abandoned(&first, rig.now);
    let second = rig.job();
    assert_eq!(second.started.since(first.started), check().interval);
    // The next one fails, and is to be confirmed on a connection of its own: also when that comes to nothing.
    assert_eq!(rig.prober.done(&second, found(false), TRACE, rig.now, AWAKE), None);
    let confirms = rig.job();
    assert!(!confirms.may_reuse);
    rig.prober.abandoned(&confirms, rig.now);
    assert!(!rig.job().may_reuse);
    // One that is no more is not probed for it.
    let left = BTreeMap::from([(first.instance.key.clone(), None)]);
    rig.prober.follow(left, rig.now);
    rig.prober.abandoned(&first, rig.now);
    assert_eq!(rig.prober.next_due(), None);
}
