//! How a setting is read from text and written back.
//!
//! Every source of settings (flag, environment, file) hands over text, so that one parser per type decides what is
//! accepted, whatever the source. It must never guess: what it does not understand is an error that says what is
//! understood. Called by [`super`] only, save [`parse_duration`] and [`format_duration`], which the command line
//! uses as well.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A type that a setting may have.
pub(super) trait Value: Sized {
    /// Reads the text of a flag, a variable or a file.
    ///
    /// # Errors
    /// A sentence that says what would have been accepted.
    fn parse(text: &str) -> Result<Self, String>;

    /// The value as TOML, such that reading it again gives the same value.
    fn to_toml(&self) -> toml::Value;

    /// Whether `--name` alone, without a value, means `true`.
    const SWITCH: bool = false;
}

impl Value for bool {
    const SWITCH: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(format!("must be true or false, was {text:?}")),
        }
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }
}

impl Value for u32 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("must be a whole number from 0 to {}, was {text:?}", u32::MAX))
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::Integer(i64::from(*self))
    }
}

impl Value for f64 {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(format!("must be a number, was {text:?}")),
        }
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::Float(*self)
    }
}

impl Value for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.clone())
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(PathBuf::from(text))
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.display().to_string())
    }
}

impl Value for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        // The name is accepted for what everybody means by it; other names would need a resolver, and a registry that
        // listens where a resolver says is a surprise.
        let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
            format!("must be an IP address and a port, such as 127.0.0.1:7655 or [::]:7655, was {text:?}")
        })
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.to_string())
    }
}

impl Value for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(format_duration(*self))
    }
}

/// Units of the durations of the API, the longest first, in nanoseconds.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a duration in the form of the API: `"500ms"`, `"3.75s"`, `"2m"`, `"24h"`; a bare number is seconds.
///
/// # Errors
/// A sentence that names the accepted form and the text that was refused. Negative, empty, compound (`1h30m`) and
/// overlong durations (over 2^64 nanoseconds, some 584 years) are refused, and so is a fraction finer than a nanosecond.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("must be a duration such as 500ms, 15s, 2m or 24h, was {text:?}");
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let unit = if unit.is_empty() { "s" } else { unit };
    let nanos_per_unit = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?.1;
    // Whole and fraction are scaled apart, in integers: a float would turn "0.1s" into 100000001 ns or the like.
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.len() > 20 || fraction.len() > 15 {
        return Err(refused());
    }
    let whole: u128 = whole.parse().map_err(|_| refused())?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| refused())?);
    let fraction: u128 = fraction.parse::<u128>().map_err(|_| refused())? * nanos_per_unit;
    if !fraction.is_multiple_of(scale) {
        return Err(refused());
    }
    let nanos = whole * nanos_per_unit + fraction / scale;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| refused())
}

/// Writes a duration as the API does: in the longest unit that gives a whole number, else in seconds with a fraction.
///
/// What it writes, [`parse_duration`] reads back as the same duration.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos > 1_000_000_000 && !nanos.is_multiple_of(1_000_000_000) {
        let seconds = format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos());
        return format!("{}s", seconds.trim_end_matches('0'));
    }
    let (name, size) = UNITS
        .into_iter()
        .find(|(_, size)| nanos.is_multiple_of(*size))
        .expect("every number of nanoseconds is a multiple of one nanosecond");
    format!("{}{name}", nanos / size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_of_the_api_are_understood() {
        let table = [
            ("500ms", 500_000_000),
            ("15s", 15_000_000_000),
            ("2m", 120_000_000_000),
            ("24h", 86_400_000_000_000),
            ("15", 15_000_000_000),
            ("3.75s", 3_750_000_000),
            ("0.1", 100_000_000),
            ("0s", 0),
        ];
        for (text, nanos) in table {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_and_quoted() {
        for text in [
            "",
            "s",
            "-1s",
            "1h30m",
            "1 s",
            "1e3",
            "1.",
            ".5s",
            "15S",
            "1d",
            "0.5ns",
            "99999999999h",
            "١s",
        ] {
            let refusal = parse_duration(text).expect_err(text);
            assert!(refusal.contains(&format!("{text:?}")), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(nanos: u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}
