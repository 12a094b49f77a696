//! What only the first changes of each second have: a line of their own in the process' log, a span of their own for an
//! expiry. Every change is in the event log; when a hundred thousand instances die at once, as many lines beside it would
//! cost a sixth of the work and hide all else, and the spans of them more than the expiries themselves. So in each second
//! the first ones have theirs, and the rest are counted when the second is over.
//!
//! Pure, and owned by the registrar's thread; called when a group is told of, and at the end of a turn.

use crate::clock::Monotonic;

/// Counts them, second by second.
#[derive(Debug)]
pub(super) struct PerSecond {
    /// So many in one second; none if all have theirs.
    most: Option<u32>,
    second: u64,
    told: u32,
    left_out: u64,
}

impl PerSecond {
    /// So many in a second; 0 for all.
    pub(super) fn new(most: u32) -> Self {
        Self { most: Some(most).filter(|most| *most > 0), second: 0, told: 0, left_out: 0 }
    }

    /// Whether the next one has its own.
    pub(super) fn take(&mut self, now: Monotonic) -> bool {
        let Some(most) = self.most else { return true };
        let second = now.0 / 1_000_000;
        if second != self.second {
            (self.second, self.told) = (second, 0);
        }
        if self.told < most {
            self.told += 1;
            return true;
        }
        self.left_out += 1;
        false
    }

    /// How many had none, once their second is over.
    pub(super) fn settle(&mut self, now: Monotonic) -> Option<u64> {
        let over = self.left_out > 0 && now.0 / 1_000_000 != self.second;
        over.then(|| std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_second_have_lines_and_the_rest_are_counted_once() {
        let mut lines = PerSecond::new(2);
        let at = |millis: u64| Monotonic(millis * 1_000);
        let taken =
            |lines: &mut PerSecond, millis| (0..5).filter(|_| lines.take(at(millis))).count();
        assert_eq!(taken(&mut lines, 1_000), 2);
        assert_eq!(lines.settle(at(1_999)), None);
        assert_eq!(lines.settle(at(2_000)), Some(3));
        assert_eq!(lines.settle(at(2_000)), None);
        // Without a pause between them nothing is forgotten.
        assert_eq!((taken(&mut lines, 2_500), taken(&mut lines, 3_500)), (2, 2));
        assert_eq!(lines.settle(at(4_000)), Some(6));
    }

    #[test]
    fn without_a_limit_all_have_theirs() {
        let mut lines = PerSecond::new(0);
        assert!((0..10_000).all(|_| lines.take(Monotonic(5))));
        assert_eq!(lines.settle(Monotonic(2_000_000)), None);
    }
}
