//! φ-accrual: how suspicious a silence is, given the gaps between the heartbeats so far.
//!
//! After N. Hayashibara, X. Défago, R. Yared and T. Katayama, "The φ Accrual Failure Detector" (SRDS 2004): with gaps
//! taken as normal, φ(t) = -log10 P(gap > t) says how wrong one would be to give up after a silence of t. φ = 1 is
//! wrong once in ten silences, φ = 8 once in 10^8.
//!
//! Pure: no clock, no log, no lock. Memory is bounded by [`GAPS_MAX`], and only instances that asked for this detector
//! pay for it. Called by [`super::Lease`]; the bench `detectors` runs it over recorded gaps, see `docs/DETECTORS.md`.
//!
//! ```text
//!   last heartbeat
//!   │           mean        late                    gone
//!   ├────────────┼───────────┼───────────────────────┼──────▶ silence
//!   │            └─ z · deviation ─┘                 │
//!   │                        └──────── mean ─────────┘
//! ```
//!
//! A heartbeat is a request, and a request can be lost on its own: a connection is reset, a proxy restarts. φ ≥ threshold
//! says that a heartbeat is missing, and so the instance is *late* then. It counts as *gone* one mean gap later, when
//! the one after the lost one is missing too (what Akka calls the acceptable pause). The paper leaves this choice to the
//! application; without it the first lost heartbeat of a regular sender would evict it.

use crate::domain::Millis;

/// Gaps that are remembered: what Akka and others take, too. At the recommended interval and the default ttl these are
/// six minutes.
pub const GAPS_MAX: usize = 100;

/// Gaps that must be known before φ says anything; until then the fixed rule holds. With ten, the deviation of normal
/// gaps is known within a quarter of itself or so.
pub const GAPS_MIN: usize = 10;

/// The deviation is taken to be at least this part of the mean: a sender that was regular to the millisecond so far may
/// still be held up by its scheduler or by the network.
const DEVIATION_SHARE: f64 = 0.1;

/// The deviation is taken to be at least this long, in milliseconds, however short the mean: that is what a busy
/// machine does to any timer (and Akka's `min-std-deviation`).
const DEVIATION_MIN_MS: f64 = 100.0;

/// φ beyond this is shown as this: that a silence is wrong once in 10^1000 tells nobody more.
const PHI_SHOWN_MAX: f64 = 1_000.0;

/// The gaps of one sender, and what follows from them.
#[derive(Clone, Debug)]
pub struct Window {
    /// The newest [`GAPS_MAX`] gaps in milliseconds; a ring once it is full.
    gaps: Vec<u32>,
    /// Where the next gap goes, once the ring is full.
    next: usize,
    /// Sums of whole numbers, so that what leaves the ring leaves no rest behind.
    sum: u64,
    squares: u64,
}

/// The silences at which something is concluded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The instance is late.
    pub late_after: Millis,
    /// It is gone.
    pub gone_after: Millis,
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// A window that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { gaps: Vec::new(), next: 0, sum: 0, squares: 0 }
    }

    /// Takes the gap between two heartbeats. One longer than `longest` is passed over: no silence of a living instance
    /// lasts longer than what makes it gone, so that the registry itself stood still meanwhile, or its log had failed.
    pub fn push(&mut self, gap: Millis, longest: Millis) {
        let Ok(gap) = u32::try_from(gap.millis()) else { return };
        if u64::from(gap) > longest.millis() {
            return;
        }
        let square = |gap: u32| u64::from(gap) * u64::from(gap);
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(gap);
        } else if let Some(oldest) = self.gaps.get_mut(self.next) {
            self.sum -= u64::from(*oldest);
            self.squares -= square(*oldest);
            *oldest = gap;
            self.next = (self.next + 1) % GAPS_MAX;
        }
        self.sum += u64::from(gap);
        // A hundred squares of gaps below two days are far below 2^64.
        self.squares = self.squares.saturating_add(square(gap));
    }

    /// How many gaps are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.gaps.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Mean and deviation of the gaps, in milliseconds; none as long as too few are known.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "sums of a hundred gaps of at most two days: below 2^53 but for the last digits"
    )]
    pub fn estimate(&self) -> Option<Estimate> {
        if self.gaps.len() < GAPS_MIN {
            return None;
        }
        let count = self.gaps.len() as u64;
        let mean = self.sum as f64 / count as f64;
        // n·Σx² - (Σx)² in whole numbers: nothing cancels out.
        let spread = u128::from(count) * u128::from(self.squares)
            - (u128::from(self.sum) * u128::from(self.sum))
                .min(u128::from(count) * u128::from(self.squares));
        let deviation = (spread as f64).sqrt() / count as f64;
        let deviation = deviation.max(mean * DEVIATION_SHARE).max(DEVIATION_MIN_MS);
        Some(Estimate { mean, deviation })
    }
}

/// What the gaps of a sender look like: a normal distribution.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    /// The mean, in milliseconds.
    pub mean: f64,
    /// The standard deviation, in milliseconds, with its floors.
    pub deviation: f64,
}

impl Estimate {
    /// φ of this silence, at most 1000.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a silence in milliseconds is far below 2^53")]
    pub fn phi(self, silence: Millis) -> f64 {
        phi_of((silence.millis() as f64 - self.mean) / self.deviation).min(PHI_SHOWN_MAX)
    }

    /// The mean gap, rounded.
    #[must_use]
    pub fn mean_gap(self) -> Millis {
        millis(self.mean)
    }

    /// The silences at which an instance with this ttl is late and gone. `z` is [`deviations_at`] its threshold.
    ///
    /// Whatever the gaps were, these hold:
    /// - *late* is at least a third of the ttl, *gone* at least half of it. Every answer recommends a heartbeat each
    ///   quarter: one who slows down to that from a faster rhythm is not evicted, not even if one is lost.
    /// - *late* is at most the ttl, *gone* at most twice the ttl: a sender whose gaps come close to the ttl is given
    ///   time, but the dead still leave within a time that their registration decided.
    #[must_use]
    pub fn bounds(self, ttl: Millis, z: f64) -> Bounds {
        let ttl = ttl.millis();
        let late = millis(self.mean + z * self.deviation).millis();
        let gone = late.saturating_add(self.mean_gap().millis());
        let late_after = late.clamp(least_late(Millis::from_millis(ttl)).millis(), ttl);
        let gone_after = gone.clamp(ttl.div_ceil(2), ttl.saturating_mul(2)).max(late_after);
        Bounds {
            late_after: Millis::from_millis(late_after),
            gone_after: Millis::from_millis(gone_after),
        }
    }
}

/// The least silence at which an instance with this ttl is late, whatever its gaps were.
pub(super) fn least_late(ttl: Millis) -> Millis {
    Millis::from_millis(ttl.millis().div_ceil(3))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` from a float saturates, and no length of time is negative"
)]
fn millis(length: f64) -> Millis {
    Millis::from_millis(length.max(0.0).round() as u64)
}

/// -log10 of the probability that a normal variable is more than `z` deviations above its mean.
///
/// In logarithms, so that nothing underflows: the upper tail is the density times Mills' ratio, which is a continued
/// fraction (Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.2.14); below 2 deviations, where that converges
/// slowly, the power series of 26.2.11 gives the probability itself. Both are exact to double precision with the
/// terms taken here.
#[must_use]
pub fn phi_of(z: f64) -> f64 {
    use std::f64::consts::{LN_10, PI};
    if z < -8.0 {
        // All but 10^-15 lies above.
        return 0.0;
    }
    let log_density = -0.5 * z * z - 0.5 * (2.0 * PI).ln();
    if z < 2.0 {
        // P(0..z) = density · (z + z³/3 + z⁵/(3·5) + ...)
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= z * z / f64::from(2 * n + 1);
            sum += term;
        }
        let above = 0.5 - log_density.exp() * sum;
        return (-above.log10()).max(0.0);
    }
    // 1/(z + 1/(z + 2/(z + 3/(z + ...)))), from the innermost outwards.
    let mut fraction = z;
    for n in (1..=100).rev() {
        fraction = z + f64::from(n) / fraction;
    }
    (fraction.ln() - log_density) / LN_10
}

/// How many deviations above the mean φ reaches `threshold`: the inverse of [`phi_of`], by bisection to a millionth.
/// Worked out once a lease.
#[must_use]
pub fn deviations_at(threshold: f64) -> f64 {
    // φ(40) is 349, beyond every threshold that is allowed.
    let (mut low, mut high) = (-8.0, 40.0);
    while high - low > 1e-6 {
        let middle = f64::midpoint(low, high);
        if phi_of(middle) < threshold {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::cases;

    const TTL: Millis = Millis::from_millis(15_000);

    fn window(gaps: impl IntoIterator<Item = u64>) -> Window {
        let mut window = Window::new();
        gaps.into_iter()
            .for_each(|gap| window.push(Millis::from_millis(gap), Millis::from_millis(30_000)));
        window
    }

    /// From tables of the normal distribution.
    #[test]
    fn phi_is_the_tail_of_the_normal_distribution() {
        for (z, tail) in [
            (-1.0, 0.841_344_746_068_542_9),
            (0.0, 0.5),
            (1.0, 0.158_655_253_931_457_05),
            (1.999_999, 0.022_750_185_934_000_3),
            (2.0, 0.022_750_131_948_179_2),
            (3.0, 1.349_898_031_630_094_5e-3),
            (5.0, 2.866_515_718_791_939e-7),
            (8.0, 6.220_960_574_271_785e-16),
            (10.0, 7.619_853_024_160_527e-24),
            (37.0, 5.725_571_222_524_577e-300),
        ] {
            let (found, wanted) = (phi_of(z), -f64::log10(tail));
            assert!((found - wanted).abs() < 1e-9 * wanted.max(1.0), "{z}: {found} {wanted}");
        }
        assert_eq!((phi_of(-1e300), phi_of(1e6) > 1e10), (0.0, true));
        // One in 10^8 and one in 10^16.
        assert!((deviations_at(8.0) - 5.612_001).abs() < 1e-5, "{}", deviations_at(8.0));
        assert!((deviations_at(16.0) - 8.222_082).abs() < 1e-5, "{}", deviations_at(16.0));
    }

    #[test]
    fn a_regular_sender_is_late_early_and_gone_when_two_are_missing() {
        let estimate = window([3_750; 20]).estimate().unwrap();
        assert_eq!((estimate.mean, estimate.deviation), (3_750.0, 375.0));
        let bounds = estimate.bounds(TTL, deviations_at(8.0));
        // 3750 + 5.612 · 375, and 3750 more: the fixed rule takes 10 and 15 seconds.
        assert_eq!(bounds.late_after, Millis::from_millis(5_855));
        assert_eq!(bounds.gone_after, Millis::from_millis(9_605));
        assert!(estimate.phi(bounds.late_after) >= 8.0);
        assert!(estimate.phi(Millis::from_millis(5_850)) < 8.0);
    }

    #[test]
    fn few_gaps_say_nothing_and_old_ones_are_forgotten() {
        assert_eq!(window([3_750; GAPS_MIN - 1]).estimate(), None);
        let changed = window((0..500).map(|n| if n < 400 { n * 20 } else { 1_000 }));
        assert_eq!((changed.len(), changed.sum, changed.squares), (100, 100_000, 100_000_000));
        assert_eq!(changed.estimate().unwrap().mean, 1_000.0);
        // A gap in which the registry itself stood still.
        let mut stalled = window([1_000; 20]);
        stalled.push(Millis::from_millis(60_000), Millis::from_millis(30_000));
        assert_eq!(stalled.len(), 20);
    }

    #[test]
    fn what_the_answers_recommend_is_never_late() {
        let z = deviations_at(1.0);
        let bounds = window([10; 100]).estimate().unwrap().bounds(TTL, z);
        assert_eq!((bounds.late_after.millis(), bounds.gone_after.millis()), (5_000, 7_500));
        let bounds = window([29_000; 100]).estimate().unwrap().bounds(TTL, z);
        assert_eq!((bounds.late_after.millis(), bounds.gone_after.millis()), (15_000, 30_000));
    }

    proptest! {
        #![proptest_config(cases(64))]

        #[test]
        fn sums_are_those_of_the_last_hundred(gaps in prop::collection::vec(0_u64..30_000, 0..300)) {
            let found = window(gaps.iter().copied());
            let kept = &gaps[gaps.len().saturating_sub(GAPS_MAX)..];
            prop_assert_eq!(found.len(), kept.len());
            prop_assert_eq!(found.sum, kept.iter().sum::<u64>());
            prop_assert_eq!(found.squares, kept.iter().map(|gap| gap * gap).sum::<u64>());
        }

        #[test]
        fn bounds_hold_for_every_rhythm(
            gaps in prop::collection::vec(0_u64..30_000, 10..120),
            ttl in 1_000_u64..86_400_000,
            threshold in 1.0_f64..16.0,
            silence in any::<u64>(),
        ) {
            let estimate = window(gaps).estimate().unwrap();
            let bounds = estimate.bounds(Millis::from_millis(ttl), deviations_at(threshold));
            let (late, gone) = (bounds.late_after.millis(), bounds.gone_after.millis());
            prop_assert!(late <= gone && late * 3 >= ttl && late <= ttl, "{late} {gone}");
            prop_assert!(gone * 2 >= ttl && gone <= 2 * ttl, "{late} {gone}");
            let phi = estimate.phi(Millis::from_millis(silence));
            prop_assert!((0.0..=1_000.0).contains(&phi), "{phi}");
        }

        #[test]
        fn more_silence_is_never_less_suspicious(z in -10.0_f64..60.0, more in 0.0_f64..5.0) {
            prop_assert!(phi_of(z + more) >= phi_of(z) - 1e-12);
        }
    }
}
