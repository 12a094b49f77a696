//! From single probes to a verdict: how many in a row it takes, in both directions.
//!
//! ```text
//!              first pass                         failed
//!   Pending ───────────────▶ Passing ◀───────────────────────▶ Suspect
//!      │                        ▲           passed                │
//!      │ `failures` in a row    │ `passes` in a row               │ `failures` in a row
//!      └──────────────────▶  Failing  ◀───────────────────────────┘
//! ```
//!
//! With `failures: 1` there is no Suspect: one lost packet must not take an instance out, so the first failure asks for
//! a second probe at once, and that one decides. Pure: it knows no clock and no network. Called by [`super::schedule`].

use crate::domain::Check;
use crate::domain::health::ProbeVerdict;

/// What is to be done after a probe was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next probe is made when it is its turn.
    Wait,
    /// A second probe is to confirm this one, at once.
    Confirm,
}

/// The verdict on one instance, and the row of probes that leads to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    verdict: ProbeVerdict,
    /// Whether the last probes passed.
    passed: bool,
    /// How many in a row came out so.
    in_a_row: u32,
}

impl Tally {
    /// Goes on from what the log knows: the verdict. How long its row was is not known any more; that of a suspect has
    /// at least one failure.
    pub(super) fn resume(verdict: ProbeVerdict) -> Self {
        let in_a_row = u32::from(verdict == ProbeVerdict::Suspect);
        Self { verdict, passed: false, in_a_row }
    }

    /// The verdict now.
    pub(super) fn verdict(&self) -> ProbeVerdict {
        self.verdict
    }

    /// How many probes in a row came out as the last one.
    pub(super) fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    /// Counts a probe.
    pub(super) fn count(&mut self, passed: bool, check: &Check) -> Next {
        self.in_a_row = if passed == self.passed { self.in_a_row.saturating_add(1) } else { 1 };
        self.passed = passed;
        let confirmed_at = check.failures.max(2);
        self.verdict = match (self.verdict, passed) {
            (ProbeVerdict::Failing, true) if self.in_a_row < check.passes => ProbeVerdict::Failing,
            (_, true) => ProbeVerdict::Passing,
            (ProbeVerdict::Failing, false) => ProbeVerdict::Failing,
            (_, false) if self.in_a_row >= confirmed_at => ProbeVerdict::Failing,
            (_, false) if check.failures == 1 => return Next::Confirm,
            (ProbeVerdict::Pending, false) => ProbeVerdict::Pending,
            (ProbeVerdict::Passing | ProbeVerdict::Suspect, false) => ProbeVerdict::Suspect,
        };
        Next::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::testing::check;
    use proptest::prelude::*;

    /// The verdicts after each of these probes (`+` passed, `-` failed): their first letters, `!` where a second probe is
    /// asked for.
    fn verdicts(from: ProbeVerdict, failures: u32, passes: u32, probes: &str) -> String {
        let check = Check { failures, passes, ..check() };
        let mut tally = Tally::resume(from);
        let letter = |verdict| match verdict {
            ProbeVerdict::Pending => 'n',
            ProbeVerdict::Passing => 'p',
            ProbeVerdict::Suspect => 's',
            ProbeVerdict::Failing => 'F',
        };
        probes
            .chars()
            .map(|probe| match tally.count(probe == '+', &check) {
                Next::Wait => letter(tally.verdict()),
                Next::Confirm => '!',
            })
            .collect()
    }

    #[test]
    fn rows_lead_to_verdicts() {
        use ProbeVerdict::{Failing, Passing, Pending, Suspect};
        for (from, failures, passes, probes, expected) in [
            (Pending, 3, 1, "+", "p"),
            (Pending, 3, 2, "+", "p"),
            (Pending, 3, 1, "---+", "nnFp"),
            (Pending, 3, 1, "--+", "nnp"),
            (Passing, 3, 1, "--+---", "sspssF"),
            (Passing, 3, 2, "---+-++", "ssFFFFp"),
            (Passing, 2, 3, "-++", "spp"),
            (Failing, 3, 2, "+-++", "FFFp"),
            (Failing, 3, 1, "-+", "Fp"),
            // The row of a suspect goes on after a restart, that of one who passed begins.
            (Suspect, 3, 1, "--", "sF"),
            (Suspect, 2, 1, "-", "F"),
            (Passing, 1, 1, "-+", "!p"),
            (Passing, 1, 1, "--+", "!Fp"),
            (Pending, 1, 1, "-+--", "!p!F"),
        ] {
            assert_eq!(verdicts(from, failures, passes, probes), expected, "{from:?} {probes}");
        }
    }

    proptest! {
        #[test]
        fn it_fails_and_passes_exactly_where_a_plain_reading_of_the_rule_does(
            probes in prop::collection::vec(any::<bool>(), 1..40),
            failures in 1_u32..5,
            passes in 1_u32..5,
        ) {
            let check = Check { failures, passes, ..check() };
            let mut tally = Tally::resume(ProbeVerdict::Pending);
            let mut failing = false;
            for end in 1..=probes.len() {
                let _ = tally.count(probes[end - 1], &check);
                let row = |wanted| probes[..end].iter().rev().take_while(|p| **p == wanted).count();
                if row(false) >= failures.max(2) as usize {
                    failing = true;
                } else if row(true) >= passes as usize {
                    failing = false;
                }
                prop_assert_eq!(tally.verdict() == ProbeVerdict::Failing, failing);
            }
        }
    }
}
