//! Instants and lengths of time as values. Nobody asks here what time it is: see [`crate::clock`].

use std::fmt;
use std::time::Duration;

/// A moment of wall time: microseconds since 1970-01-01T00:00:00Z. Recorded and shown, never compared
/// with the present to decide who lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Microseconds since the epoch.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; nothing if it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Millis {
        let micros = u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0);
        Millis::from_millis(micros / 1_000)
    }
}

/// A length of time in whole milliseconds: the resolution of every duration in the contract.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Millis(u64);

/// Why a duration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a duration: write a number and a unit (ms, s, m, h), such as \"15s\" or \"500ms\"")]
pub struct InvalidDuration;

impl Millis {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `millis` milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// In milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// In microseconds.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0.saturating_mul(1_000)
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn to_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Reads the forms of the contract: `"500ms"`, `"15s"`, `"1.5m"`, `"24h"`, and a bare number of
    /// seconds. Finer than a millisecond is cut off.
    ///
    /// # Errors
    /// [`InvalidDuration`] for anything else, also for what is negative or does not fit.
    pub fn parse(text: &str) -> Result<Self, InvalidDuration> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let millis_per_unit = match &text[digits.len()..] {
            "ms" => 1_u64,
            "s" | "" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(InvalidDuration),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| {
            !part.is_empty() && part.len() <= 18 && part.bytes().all(|b| b.is_ascii_digit())
        };
        if !all_digits(whole) || !all_digits(fraction) {
            return Err(InvalidDuration);
        }
        let whole: u64 = whole.parse().map_err(|_| InvalidDuration)?;
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| InvalidDuration)?);
        let fraction: u128 = fraction.parse().map_err(|_| InvalidDuration)?;
        let part = u64::try_from(fraction * u128::from(millis_per_unit) / scale)
            .map_err(|_| InvalidDuration)?;
        whole
            .checked_mul(millis_per_unit)
            .and_then(|millis| millis.checked_add(part))
            .map(Self)
            .ok_or(InvalidDuration)
    }
}

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Millis {
    /// The string form of answers: whole hours, minutes or seconds where they fit, decimals of a
    /// second where they do not (`"3.75s"`), milliseconds below a second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0s"),
            ms if ms < 1_000 => write!(f, "{ms}ms"),
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1_000 == 0 => write!(f, "{}s", ms / 1_000),
            ms => {
                let fraction = format!("{:03}", ms % 1_000);
                write!(f, "{}.{}s", ms / 1_000, fraction.trim_end_matches('0'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_show_as_the_contract_says() {
        let table = [
            ("500ms", 500, "500ms"),
            ("15s", 15_000, "15s"),
            ("15", 15_000, "15s"),
            ("3.75s", 3_750, "3.75s"),
            ("2m", 120_000, "2m"),
            ("1.5m", 90_000, "90s"),
            ("24h", 86_400_000, "24h"),
            ("0", 0, "0s"),
            ("1500ms", 1_500, "1.5s"),
        ];
        for (text, millis, shown) in table {
            let parsed = Millis::parse(text).expect(text);
            assert_eq!((parsed.millis(), parsed.to_string().as_str()), (millis, shown), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "1.s", ".5s", "1 s", "1e3", "9999999999999999999h", "١s"]
        {
            assert_eq!(Millis::parse(text), Err(InvalidDuration), "{text}");
        }
    }
}
