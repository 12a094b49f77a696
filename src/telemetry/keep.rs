//! Which requests' spans are kept: decided at the end of the request, when it is known what it was.
//!
//! Making a span costs 2 to 4 µs even if it is then thrown away, so nothing is made before this says so. It is
//! tail sampling in the process: what failed and what was slow is there however rarely anybody samples, always, unless
//! the operator sets a cap for it. All other reasons are under caps of their own, because a caller that samples
//! everything must not overrun the exporter's queue of 2,048 spans; so are refusals, which come in masses just when there
//! is least time for them, and of which one trace says what a thousand say. It never blocks and never allocates.
//! Every threshold is a setting, and holds at once when it is changed. Caller: [`super::spans::Tracer`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::propagation::{TraceContext, TraceId};

/// A share of all traces, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct RootRatio(f64);

impl RootRatio {
    /// A ratio; what is outside 0 to 1 is taken for the nearer end, and what is no number for 0.
    pub fn new(ratio: f64) -> Self {
        Self(if ratio.is_nan() { 0.0 } else { ratio.clamp(0.0, 1.0) })
    }

    /// The ratio, 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }

    /// Whether a trace belongs to the share. Derived from the trace id with OpenTelemetry's formula
    /// (`TraceIdRatioBased`: the lower 63 bits against the ratio), so that every service that uses it keeps the
    /// same traces.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the ratio is 0 to 1, so the product fits 64 bits; SDKs round in the same way"
    )]
    pub fn contains(self, trace_id: TraceId) -> bool {
        trace_id.low_bits() >> 1 < (self.0 * (1_u64 << 63) as f64) as u64
    }
}

/// A rate with room for a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// Spans a second in the long run; 0 keeps none.
    pub per_second: u32,
    /// Spans at once after a quiet time.
    pub burst: u32,
}

impl Cap {
    /// This rate, of which as much as it gives in `saved` may be saved up.
    pub fn saving(per_second: u32, saved: Duration) -> Self {
        let burst = u128::from(per_second) * saved.as_millis() / 1000;
        Self { per_second, burst: u32::try_from(burst).unwrap_or(u32::MAX) }
    }
}

/// From when on something is slow enough for its span to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowAfter {
    /// A lookup, a heartbeat, what else is answered from memory.
    pub read: Duration,
    /// What waits for a synced commit.
    pub change: Duration,
    /// A list, or a question about the past.
    pub question: Duration,
}

/// Settings of [`KeepPolicy`].
#[derive(Debug, Clone)]
pub struct KeepConfig {
    /// Requests whose caller sampled them.
    pub caller: Cap,
    /// Requests that changed the state.
    pub change: Cap,
    /// Requests that were refused.
    pub refused: Cap,
    /// Failed and slow requests; none keeps all of them.
    pub trouble: Option<Cap>,
    /// What is slow.
    pub slow_after: SlowAfter,
    /// Share kept of the traces that begin here.
    pub root_ratio: RootRatio,
    /// Whether the caller's decision counts; if not, the ratio is for all traces.
    pub follow_caller: bool,
}

impl Default for KeepConfig {
    fn default() -> Self {
        let cap = Cap { per_second: 200, burst: 400 };
        let slow_after = SlowAfter {
            read: Duration::from_millis(10),
            change: Duration::from_millis(100),
            question: Duration::from_millis(100),
        };
        Self {
            caller: cap,
            change: cap,
            refused: cap,
            trouble: None,
            slow_after,
            root_ratio: RootRatio(0.01),
            follow_caller: true,
        }
    }
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Well, or with the caller's own error (4xx).
    Well,
    /// Answered with 5xx, or not at all.
    Failed,
    /// It was turned away before anything was done, for a reason that holds for very many; or it is a probe that found
    /// somebody unwell.
    Refused,
}

/// Against which measure something is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// See [`SlowAfter::read`].
    Read,
    /// See [`SlowAfter::change`].
    Change,
    /// See [`SlowAfter::question`].
    Question,
    /// It takes what it takes.
    Unhurried,
}

/// What a request was, at its end.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// It appended a change.
    pub changed: bool,
    /// How long it took.
    pub elapsed: Duration,
    /// How long it may take.
    pub pace: Pace,
    /// Monotonic time of its end, since any fixed instant of this process.
    pub now: Duration,
}

/// Why a span was kept; its attribute `rollcall.keep`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepReason {
    /// It failed.
    Error,
    /// It was slow.
    Slow,
    /// Its caller kept its own span.
    Caller,
    /// It changed the state.
    Change,
    /// Its trace belongs to the share that is kept.
    Ratio,
}

impl KeepReason {
    /// The value of the attribute.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Slow => "slow",
            Self::Caller => "caller",
            Self::Change => "change",
            Self::Ratio => "ratio",
        }
    }

    /// Whether it is kept because something is wrong, and not because somebody asks for many.
    pub const fn is_trouble(self) -> bool {
        matches!(self, Self::Error | Self::Slow)
    }

    /// Whether the steps inside the request get spans too. Not for changes and shares: at 400 changes a flush,
    /// five spans each would overrun the queue.
    pub const fn with_children(self) -> bool {
        matches!(self, Self::Error | Self::Slow | Self::Caller)
    }
}

/// Decides what is kept. Shared by all threads.
#[derive(Debug)]
pub struct KeepPolicy {
    caller: Bucket,
    change: Bucket,
    refused: Bucket,
    trouble: Option<Bucket>,
    slow_after: SlowAfter,
    root_ratio: RootRatio,
    follow_caller: bool,
}

impl KeepPolicy {
    /// A policy whose caps are full.
    pub fn new(config: &KeepConfig) -> Self {
        Self {
            caller: Bucket::new(config.caller),
            change: Bucket::new(config.change),
            refused: Bucket::new(config.refused),
            trouble: config.trouble.map(Bucket::new),
            slow_after: config.slow_after,
            root_ratio: config.root_ratio,
            follow_caller: config.follow_caller,
        }
    }

    /// Whether to keep the span of a request that ended so, and why. The first reason that holds and has room
    /// under its cap is given, the more telling ones first.
    pub fn keep(&self, context: &TraceContext, outcome: &Outcome) -> Option<KeepReason> {
        let now = outcome.now;
        let has_room = || self.trouble.as_ref().is_none_or(|cap| cap.take(now));
        let wrong = match outcome.ending {
            Ending::Well => false,
            Ending::Failed => has_room(),
            Ending::Refused => self.refused.take(now),
        };
        if wrong {
            return Some(KeepReason::Error);
        }
        // Who was turned away has done nothing that could have been slow.
        if outcome.ending != Ending::Refused && self.is_slow(outcome) && has_room() {
            return Some(KeepReason::Slow);
        }
        if self.follow_caller && context.is_sampled() && self.caller.take(now) {
            return Some(KeepReason::Caller);
        }
        if outcome.changed && self.change.take(now) {
            return Some(KeepReason::Change);
        }
        self.samples(context).then_some(KeepReason::Ratio)
    }

    fn is_slow(&self, outcome: &Outcome) -> bool {
        let slow_after = match outcome.pace {
            Pace::Read => self.slow_after.read,
            Pace::Change => self.slow_after.change,
            Pace::Question => self.slow_after.question,
            Pace::Unhurried => return false,
        };
        outcome.elapsed >= slow_after
    }

    /// Whether a trace belongs to the share that is kept whatever comes of it.
    pub fn samples(&self, context: &TraceContext) -> bool {
        // A caller that did not sample its trace has decided for all of it.
        let ours = context.parent.is_none() || !self.follow_caller;
        ours && self.root_ratio.contains(context.trace_id)
    }
}

/// A rate limit in one word: the generic cell rate algorithm (ITU-T I.371). The word is the time, in
/// nanoseconds, until which what was taken lasts at the given rate.
///
/// ```text
///            now              filled until
///  ───────────┼──────────────────────┼───────────▶   a new one is refused if this span exceeds the burst
/// ```
#[derive(Debug)]
struct Bucket {
    period_ns: u64,
    burst_ns: u64,
    filled_until_ns: AtomicU64,
}

impl Bucket {
    fn new(cap: Cap) -> Self {
        let period_ns = match cap.per_second {
            0 => 0,
            rate => 1_000_000_000 / u64::from(rate),
        };
        let burst_ns = period_ns * u64::from(cap.burst.max(1));
        Self { period_ns, burst_ns, filled_until_ns: AtomicU64::new(0) }
    }

    fn take(&self, now: Duration) -> bool {
        if self.period_ns == 0 {
            return false;
        }
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
        self.filled_until_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |filled| {
                let next = filled.max(now_ns) + self.period_ns;
                (next - now_ns <= self.burst_ns).then_some(next)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Outcome = Outcome {
        ending: Ending::Well,
        changed: false,
        elapsed: Duration::from_millis(1),
        pace: Pace::Read,
        now: Duration::from_secs(1),
    };

    fn sampled() -> TraceContext {
        TraceContext::from_headers([
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".as_slice()
        ])
    }

    #[test]
    fn the_most_telling_reason_is_given() {
        let policy = KeepPolicy::new(&KeepConfig {
            root_ratio: RootRatio::new(0.0),
            ..KeepConfig::default()
        });
        let slow = Outcome { elapsed: Duration::from_millis(10), ..READ };
        let root = TraceContext::root();
        assert_eq!(policy.keep(&root, &READ), None);
        assert_eq!(
            policy.keep(&root, &Outcome { changed: true, ..READ }),
            Some(KeepReason::Change)
        );
        assert_eq!(
            policy.keep(&sampled(), &Outcome { changed: true, ..READ }),
            Some(KeepReason::Caller)
        );
        assert_eq!(policy.keep(&sampled(), &slow), Some(KeepReason::Slow));
        assert_eq!(
            policy.keep(&sampled(), &Outcome { ending: Ending::Failed, ..slow }),
            Some(KeepReason::Error)
        );
    }

    #[test]
    fn each_pace_has_its_own_measure() {
        let slow_after = SlowAfter {
            read: Duration::from_millis(1),
            change: Duration::from_millis(2),
            question: Duration::from_millis(3),
        };
        let root_ratio = RootRatio::new(0.0);
        let policy =
            KeepPolicy::new(&KeepConfig { slow_after, root_ratio, ..KeepConfig::default() });
        for (pace, first) in [
            (Pace::Read, Some(1)),
            (Pace::Change, Some(2)),
            (Pace::Question, Some(3)),
            (Pace::Unhurried, None),
        ] {
            let slow = |millis: &u64| {
                let elapsed = Duration::from_millis(*millis);
                let outcome = Outcome { elapsed, pace, ..READ };
                policy.keep(&TraceContext::root(), &outcome) == Some(KeepReason::Slow)
            };
            assert_eq!((0..5).find(slow), first, "{pace:?}");
        }
    }

    #[test]
    fn what_failed_and_what_was_slow_is_kept_without_a_cap_unless_one_is_set() {
        let nothing = Cap { per_second: 0, burst: 0 };
        let mut config = KeepConfig {
            caller: nothing,
            change: nothing,
            refused: Cap { per_second: 1, burst: 2 },
            root_ratio: RootRatio::new(0.0),
            ..KeepConfig::default()
        };
        let failed = Outcome { ending: Ending::Failed, ..READ };
        let slow = Outcome { elapsed: Duration::from_secs(1), ..READ };
        let refused = Outcome { ending: Ending::Refused, ..slow };
        let kept = |policy: &KeepPolicy, outcome| {
            let keep = |_: &u32| policy.keep(&TraceContext::root(), outcome).is_some();
            (0..10_000).filter(keep).count()
        };
        let policy = KeepPolicy::new(&config);
        assert_eq!(
            [&failed, &slow, &refused].map(|outcome| kept(&policy, outcome)),
            [10_000, 10_000, 2]
        );
        config.trouble = Some(Cap::saving(100, Duration::from_millis(50)));
        let policy = KeepPolicy::new(&config);
        assert_eq!([&failed, &slow].map(|outcome| kept(&policy, outcome)), [5, 0], "together");
    }

    #[test]
    fn a_caller_that_samples_everything_is_capped_and_recovers() {
        let policy = KeepPolicy::new(&KeepConfig::default());
        let kept = |now: Duration| {
            let keep = |_: &u32| policy.keep(&sampled(), &Outcome { now, ..READ }).is_some();
            (0..1_000).filter(keep).count()
        };
        assert_eq!(kept(Duration::from_secs(1)), 400, "the burst");
        assert_eq!(kept(Duration::from_secs(2)), 200, "one second of the rate");
        assert_eq!(kept(Duration::from_secs(60)), 400, "the burst again");
        let changed = Outcome { changed: true, now: Duration::from_secs(60), ..READ };
        assert_eq!(
            policy.keep(&sampled(), &changed),
            Some(KeepReason::Change),
            "changes have a cap of their own"
        );
    }

    #[test]
    fn the_share_is_consistent_and_only_of_traces_that_begin_here() {
        let half = KeepConfig { root_ratio: RootRatio::new(0.5), ..KeepConfig::default() };
        let policy = KeepPolicy::new(&half);
        let context =
            |text: &str| TraceContext { trace_id: text.parse().unwrap(), ..TraceContext::root() };
        let low = context("ffffffffffffffff7fffffffffffffff");
        let high = context("00000000000000018000000000000000");
        assert_eq!(policy.keep(&low, &READ), Some(KeepReason::Ratio));
        assert_eq!(policy.keep(&high, &READ), None);
        assert_eq!(policy.keep(&TraceContext { parent: Some(low.span_id), ..low }, &READ), None);
        assert!(RootRatio::new(1.0).contains(TraceId::from_bytes([0xff; 16]).unwrap()));
        assert!(!RootRatio::new(0.0).contains(TraceId::from_bytes([1; 16]).unwrap()));
    }
}
