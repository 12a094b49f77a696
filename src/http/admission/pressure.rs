//! How much is refused when more is asked than can be done: a share of each class, moved by what waits.
//!
//! Overload shows as a queue that does not go away, so it is measured as CoDel does (Nichols and Jacobson, "Controlling
//! Queue Delay", 2012): by the *least* wait within a window, which a burst leaves low and a standing queue does not.
//! And it is met as WeChat's DAGOR does (Zhou et al., "Overload Control for Scaling WeChat Microservices", 2018): the
//! least important requests go first, and the share of them that is refused rises fast and falls slowly.
//!
//! Pure: it reads no clock and no counter. Called by [`super::sense`].

use std::time::Duration;

use crate::telemetry::names::RequestClass;

/// Classes, the least important first.
pub(super) const FROM_THE_LEAST: [RequestClass; 4] =
    [RequestClass::Other, RequestClass::Lookup, RequestClass::Change, RequestClass::Heartbeat];

/// How much a share rises in one window where the wait is just too long; more by how much longer it is.
const RISE: f64 = 0.1;
/// Most times of that.
const SEVERITY_MAX: f64 = 4.0;
/// How much it falls in a window that is calm. From all to nothing in five seconds, so that those who were refused do not
/// all come back at once.
const FALL: f64 = 0.02;
/// A wait below this part of what is too long is calm.
const CALM: f64 = 0.5;
/// So many requests must wait for the wait to be theirs. A machine whose processors others have taken makes few requests
/// wait long; refusing them would help nobody.
const CROWD: f64 = 32.0;

/// How long requests of each class may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targets {
    /// A lookup; everything below it half as long.
    pub(super) queue_time: Duration,
    /// A heartbeat, after which its caller has given up; a change half as long.
    pub(super) patience: Duration,
}

impl Targets {
    fn of(&self, class: RequestClass) -> Duration {
        match class {
            RequestClass::Other => self.queue_time / 2,
            RequestClass::Lookup => self.queue_time,
            RequestClass::Change => self.patience / 2,
            RequestClass::Heartbeat => self.patience,
        }
    }
}

/// What was seen in one window.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    /// The least time that something ready to run waited for its turn.
    pub(super) waited: Duration,
    /// How long the window was.
    pub(super) span: Duration,
    /// Requests that came in it, by class, refused ones too.
    pub(super) arrivals: [u64; 4],
    /// Changes that wait for the log, at the least, over those that may before some are refused.
    pub(super) log_fill: f64,
    /// The same of questions about the past.
    pub(super) past_fill: f64,
}

/// The share of each class that is refused, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Pressure([f64; 4]);

impl Pressure {
    /// The share of this class that is refused.
    pub(super) fn share(&self, class: RequestClass) -> f64 {
        self.0[class as usize]
    }

    /// Whether anything is refused.
    pub(super) fn any(&self) -> bool {
        self.0.iter().any(|share| *share > 0.0)
    }

    /// Moves the shares by what a window has shown.
    pub(super) fn follow(&mut self, reading: &Reading, targets: &Targets) {
        let before = *self;
        let seconds = reading.span.as_secs_f64().max(f64::EPSILON);
        let arrivals: u64 = reading.arrivals.iter().sum();
        // Little's law: so many come while one waits.
        #[expect(clippy::cast_precision_loss, reason = "a count of requests within a window")]
        let crowd = arrivals as f64 / seconds * reading.waited.as_secs_f64();
        let mut all_below_refused = true;
        for class in FROM_THE_LEAST {
            // The processors are everybody's: a class goes when refusing all that is below it was not enough.
            let wait = match crowd >= CROWD {
                true => reading.waited.as_secs_f64() / targets.of(class).as_secs_f64(),
                false => 0.0,
            };
            let own = match class {
                RequestClass::Other => reading.past_fill,
                RequestClass::Change => reading.log_fill,
                RequestClass::Lookup | RequestClass::Heartbeat => 0.0,
            };
            let severity = own.max(if all_below_refused { wait } else { 0.0 });
            let share = &mut self.0[class as usize];
            if severity > 1.0 {
                *share = (*share + RISE * severity.min(SEVERITY_MAX)).min(1.0);
            } else if wait.max(own) < CALM && !before.above(class) {
                *share = (*share - FALL).max(0.0);
            }
            let none_came = reading.arrivals[class as usize] == 0;
            all_below_refused &= none_came || before.share(class) >= 1.0;
        }
    }

    /// Whether anything more important than `class` is refused: it comes back first.
    fn above(&self, class: RequestClass) -> bool {
        let above = FROM_THE_LEAST.iter().skip_while(|other| **other != class).skip(1);
        above.into_iter().any(|other| self.share(*other) > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use RequestClass::{Change, Heartbeat, Lookup, Other};

    use super::*;

    const TARGETS: Targets =
        Targets { queue_time: Duration::from_millis(20), patience: Duration::from_secs(5) };

    fn waited(millis: u64) -> Reading {
        Reading {
            waited: Duration::from_millis(millis),
            span: Duration::from_millis(100),
            arrivals: [1_000; 4],
            ..Reading::default()
        }
    }

    fn after(windows: usize, reading: &Reading, mut pressure: Pressure) -> Pressure {
        (0..windows).for_each(|_| pressure.follow(reading, &TARGETS));
        pressure
    }

    #[test]
    fn nothing_is_refused_while_nothing_waits_long() {
        for millis in [0, 5, 10] {
            assert!(!after(100, &waited(millis), Pressure::default()).any(), "{millis} ms");
        }
    }

    #[test]
    fn the_least_important_go_first_and_the_next_when_all_of_them_are_gone() {
        let mut pressure = Pressure::default();
        let mut seen_together = false;
        for window in 0..1_000 {
            pressure.follow(&waited(60), &TARGETS);
            if pressure.share(Lookup) > 0.0 {
                assert!(pressure.share(Other) >= 1.0, "window {window}: {pressure:?}");
                seen_together = true;
            }
        }
        assert!(seen_together);
        assert_eq!([Other, Lookup].map(|class| pressure.share(class)), [1.0, 1.0]);
        // Changes and heartbeats have more patience than 60 ms.
        assert_eq!([Change, Heartbeat].map(|class| pressure.share(class)), [0.0, 0.0]);
        let worse = after(1_000, &waited(3_000), pressure);
        assert_eq!([Change, Heartbeat].map(|class| worse.share(class)), [1.0, 0.0]);
        let worst = after(1, &waited(6_000), worse);
        assert!(worst.share(Heartbeat) > 0.0, "at the very end");
    }

    #[test]
    fn a_class_that_nobody_asks_for_is_passed_over() {
        let mut reading = waited(60);
        reading.arrivals[Other as usize] = 0;
        assert!(after(1, &reading, Pressure::default()).share(Lookup) > 0.0);
    }

    #[test]
    fn a_wait_that_is_not_made_of_requests_refuses_nobody() {
        let few = Reading { arrivals: [10, 10, 10, 10], ..waited(60) };
        assert!(
            !after(100, &few, Pressure::default()).any(),
            "24 wait: others have the processors"
        );
        let more = Reading { arrivals: [20, 20, 20, 20], ..waited(60) };
        assert!(after(1, &more, Pressure::default()).any());
    }

    #[test]
    fn who_was_refused_last_comes_back_first_and_slowly() {
        let mut pressure = after(60, &waited(60), Pressure::default());
        assert_eq!(pressure.share(Lookup), 1.0);
        let mut windows = 0;
        while pressure.any() {
            let lookups = pressure.share(Lookup);
            pressure.follow(&waited(1), &TARGETS);
            assert!(lookups == 0.0 || pressure.share(Other) == 1.0);
            windows += 1;
        }
        assert!((99..=103).contains(&windows), "{windows}: five seconds for each of the two");
        // Between calm and too long nothing moves.
        let held = after(10, &waited(60), Pressure::default());
        assert_eq!(after(50, &waited(12), held), held);
    }

    #[test]
    fn a_full_log_refuses_changes_only_and_a_busy_archive_only_what_is_below_lookups() {
        let log = Reading { log_fill: 1.5, ..waited(0) };
        let pressure = after(3, &log, Pressure::default());
        assert!(pressure.share(Change) > 0.0);
        assert_eq!([Other, Lookup, Heartbeat].map(|class| pressure.share(class)), [0.0; 3]);
        let past = Reading { past_fill: 3.0, ..waited(0) };
        let pressure = after(100, &past, Pressure::default());
        assert_eq!(pressure.share(Other), 1.0);
        assert_eq!([Lookup, Change, Heartbeat].map(|class| pressure.share(class)), [0.0; 3]);
    }
}
