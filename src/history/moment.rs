//! Instants of the past, as they are asked for.

use std::fmt;

use crate::domain::{Millis, Seq, Timestamp};
use crate::rfc3339;

/// An instant of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// By the clock.
    At(Timestamp),
    /// By the version of the state: right after this change.
    Version(Seq),
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => f.write_str(&rfc3339::format(*at)),
            Self::Version(seq) => write!(f, "@{seq}"),
        }
    }
}

impl Moment {
    /// What to say to a text that is none.
    pub const FORMS: &str = "must be RFC 3339, an age such as -5m, or a version such as @1234";

    /// Reads the three forms of the contract, seen from `now`: RFC 3339, an age (`-5m`), a version (`@1234`).
    #[must_use]
    pub fn parse(text: &str, now: Timestamp) -> Option<Self> {
        if let Some(version) = text.strip_prefix('@') {
            version.parse().ok().map(|seq| Self::Version(Seq(seq)))
        } else if let Some(age) = text.strip_prefix('-') {
            let micros = i64::try_from(Millis::parse(age).ok()?.micros()).unwrap_or(i64::MAX);
            Some(Self::At(Timestamp(now.micros().saturating_sub(micros))))
        } else {
            rfc3339::parse(text).map(Self::At)
        }
    }
}

/// A version of the state, and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Version {
    /// The number of its change; 0 is the empty beginning.
    pub seq: Seq,
    /// When that change happened; the epoch for the beginning.
    pub at: Timestamp,
}
