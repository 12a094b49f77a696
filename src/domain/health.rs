//! What speaks for and against an instance, and the status that follows from all of it.
//!
//! Each voice (the lease, the probe, the instance itself, the damping of flaps) moves its own signal and knows
//! nothing of the others; the status is worked out here, in one place, so that none of them can undo what another
//! has found: a heartbeat does not heal an instance whose probe fails, and a probe does not heal one that says
//! itself that it is failing.

use super::instance::{Status, words};
use super::time::Millis;

words! {
    /// What the registry's probe has found.
    ProbeVerdict {
        /// No probe has passed yet.
        Pending = "pending",
        /// The last `passes` probes passed, and none failed since.
        Passing = "passing",
        /// A probe failed, but not yet `failures` in a row.
        Suspect = "suspect",
        /// `failures` in a row failed, and not yet `passes` passed since.
        Failing = "failing",
    }
}

words! {
    /// What came of one probe.
    ProbeOutcome {
        /// It was answered as it should be.
        Passed = "passed",
        /// It was answered otherwise: another status, another body, another serving status.
        Rejected = "rejected",
        /// No connection came about.
        Unreachable = "unreachable",
        /// No whole answer came in time.
        Timeout = "timeout",
        /// The address may not be probed, or no longer.
        Forbidden = "forbidden",
    }
}

/// Everything that speaks for or against an instance. The default speaks for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Signals {
    /// Its lease is late: two thirds of the ttl have passed, or what the detector takes for that.
    pub late: bool,
    /// It said itself that it is failing, and has not taken that back.
    pub reported_failing: bool,
    /// What the probe says; none without a check.
    pub probe: Option<ProbeVerdict>,
    /// Its status changes so often that it is held at `unstable`, whatever the others say.
    pub flapping: bool,
}

impl Signals {
    /// The status that follows. Flaps come first: one that is damped is `unstable` and nothing else until it was quiet
    /// for long enough.
    #[must_use]
    pub fn status(self) -> Status {
        let doubtful = matches!(self.probe, Some(ProbeVerdict::Pending | ProbeVerdict::Suspect));
        if self.flapping {
            Status::Unstable
        } else if self.reported_failing || self.probe == Some(ProbeVerdict::Failing) {
            Status::Failed
        } else if self.late || doubtful {
            Status::Unstable
        } else {
            Status::Healthy
        }
    }

    /// The signals of an instance with this status that has neither check nor damping: what events say that were
    /// written before there were signals.
    #[must_use]
    pub fn implied_by(status: Status) -> Self {
        Self {
            late: status == Status::Unstable,
            reported_failing: status == Status::Failed,
            ..Self::default()
        }
    }
}

/// The probe that changed a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What came of it.
    pub outcome: ProbeOutcome,
    /// The status of an HTTP answer, or the serving status of a gRPC one.
    pub status: Option<u16>,
    /// How long it took.
    pub latency: Millis,
    /// What was wrong, in words, at most [`super::limits::PROBE_ERROR_BYTES_MAX`] bytes.
    pub error: Option<Box<str>>,
    /// How many probes in a row came out this way.
    pub in_a_row: u32,
}

/// The flaps that led to damping, or the quiet that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flaps {
    /// Changes of status within the window.
    pub changes: u32,
    /// The window.
    pub window: Millis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_voice_wins_and_damping_silences_all() {
        use ProbeVerdict::{Failing, Passing, Pending, Suspect};
        let of = |late, reported_failing, probe| Signals {
            late,
            reported_failing,
            probe,
            flapping: false,
        };
        for (signals, status) in [
            (of(false, false, None), Status::Healthy),
            (of(false, false, Some(Passing)), Status::Healthy),
            (of(false, false, Some(Pending)), Status::Unstable),
            (of(false, false, Some(Suspect)), Status::Unstable),
            (of(true, false, Some(Passing)), Status::Unstable),
            (of(true, false, Some(Failing)), Status::Failed),
            (of(false, true, Some(Passing)), Status::Failed),
            (of(true, true, None), Status::Failed),
        ] {
            assert_eq!(signals.status(), status, "{signals:?}");
            assert_eq!(Signals { flapping: true, ..signals }.status(), Status::Unstable);
        }
        for status in Status::ALL {
            assert_eq!(Signals::implied_by(*status).status(), *status);
        }
    }
}
