//! What one lease under the adaptive detector has learned. Heartbeats take a small lock to note their gap; who looks at
//! the bounds takes none. Called by [`super::Lease`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::phi::{Bounds, Window, deviations_at};
use crate::domain::Millis;
use crate::domain::event::Accrual;

/// The gaps of a lease, and its present bounds.
#[derive(Debug)]
pub(super) struct Adaptive {
    threshold_milli: u32,
    ttl: Millis,
    learned: Mutex<Learned>,
    /// Both bounds in milliseconds, *late* in the upper half, so that they are always of the same gaps. 0 as long as
    /// too few gaps are known.
    bounds: AtomicU64,
}

#[derive(Debug)]
struct Learned {
    window: Window,
    /// [`deviations_at`] the threshold, once it is needed.
    z: Option<f64>,
}

impl Adaptive {
    pub(super) fn new(threshold_milli: u32, ttl: Millis) -> Self {
        let learned = Mutex::new(Learned { window: Window::new(), z: None });
        Self { threshold_milli, ttl, learned, bounds: AtomicU64::new(0) }
    }

    /// Notes the gap between two heartbeats.
    pub(super) fn learn(&self, gap: Millis) {
        let mut learned = self.learned.lock();
        let longest = self.bounds().map_or(self.ttl, |bounds| bounds.gone_after);
        learned.window.push(gap, longest);
        let Some(estimate) = learned.window.estimate() else { return };
        let threshold = f64::from(self.threshold_milli) / 1_000.0;
        let z = *learned.z.get_or_insert_with(|| deviations_at(threshold));
        self.bounds.store(packed(estimate.bounds(self.ttl, z)), Relaxed);
    }

    /// The silences at which it is late and gone; none as long as too few gaps are known.
    pub(super) fn bounds(&self) -> Option<Bounds> {
        match self.bounds.load(Relaxed) {
            0 => None,
            bounds => Some(Bounds {
                late_after: Millis::from_millis(bounds >> 32),
                gone_after: Millis::from_millis(bounds & u64::from(u32::MAX)),
            }),
        }
    }

    /// How suspicious this silence is; none as long as too few gaps are known.
    pub(super) fn accrual(&self, silence: Millis) -> Option<Accrual> {
        let estimate = self.learned.lock().window.estimate()?;
        Some(Accrual {
            phi_milli: thousandths(estimate.phi(silence)),
            threshold_milli: self.threshold_milli,
            mean_gap: estimate.mean_gap(),
        })
    }
}

/// Bounds are at most twice the longest ttl, which is two days: half a word holds them in milliseconds.
fn packed(bounds: Bounds) -> u64 {
    let half = |length: Millis| length.millis().min(u64::from(u32::MAX));
    half(bounds.late_after) << 32 | half(bounds.gone_after)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "φ is 0 to 1000, and `as` from a float saturates"
)]
fn thousandths(phi: f64) -> u32 {
    (phi * 1_000.0).round() as u32
}
