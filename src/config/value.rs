//! How a setting is read from text and written back.
//!
//! Every source of settings (flag, environment, file) hands over text, so that one parser per type decides what is
//! accepted, whatever the source. It must never guess: what it does not understand is an error that says what is
//! understood. Called by [`super`] only.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::domain::Millis;
use crate::log::sqlite::Synchronous;
use crate::probe::Roots;
use crate::probe::allowed::Networks;
use crate::telemetry::baggage::BaggageKeys;
use crate::telemetry::logs::LogFormat;

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

/// A number, or none: `off`.
impl Value for Option<u32> {
    fn parse(text: &str) -> Result<Self, String> {
        if is_off(text) {
            return Ok(None);
        }
        let number = text.parse().map(Some);
        number.map_err(|_| {
            format!("must be a whole number from 1 to {}, or off, was {text:?}", u32::MAX)
        })
    }

    fn to_toml(&self) -> toml::Value {
        match self {
            Some(number) => number.to_toml(),
            None => toml::Value::from("off"),
        }
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
        Millis::parse(text)
            .map(Millis::to_duration)
            .map_err(|_| format!("must be a duration such as 500ms, 15s, 2m or 24h, was {text:?}"))
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(Millis::from(*self).to_string())
    }
}

/// What has no limit, or none at all: the words for it.
fn is_off(text: &str) -> bool {
    matches!(text, "off" | "0")
}

/// A duration, or none: `off`.
impl Value for Option<Duration> {
    fn parse(text: &str) -> Result<Self, String> {
        if is_off(text) {
            return Ok(None);
        }
        let parsed = Millis::parse(text).map(Millis::to_duration);
        parsed
            .map(Some)
            .map_err(|_| format!("must be a duration such as 90m or 168h, or off, was {text:?}"))
    }

    fn to_toml(&self) -> toml::Value {
        match self {
            Some(duration) => duration.to_toml(),
            None => toml::Value::from("off"),
        }
    }
}

/// An amount of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Units of sizes, the longest names first, so that `MiB` is not taken for `B`.
const UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl fmt::Display for Size {
    /// In the largest binary unit that it is a whole number of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = UNITS.iter().rev().filter(|(name, _)| name.ends_with("iB"));
        match binary.into_iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes)) {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A size, or none: `off`.
impl Value for Option<Size> {
    fn parse(text: &str) -> Result<Self, String> {
        if is_off(text) {
            return Ok(None);
        }
        let found = UNITS.iter().find_map(|(name, bytes)| Some((text.strip_suffix(name)?, *bytes)));
        let (digits, unit) = found.unwrap_or((text, 1));
        let number: Option<u64> = digits.trim_end().parse().ok();
        let size = number.and_then(|number| number.checked_mul(unit));
        // SQLite and the file system count in signed numbers.
        match size.filter(|bytes| *bytes <= i64::MAX as u64) {
            Some(bytes) => Ok(Some(Size(bytes))),
            None => Err(format!(
                "must be a whole number of bytes, or one with a unit such as 500MB or 2GiB, or off, was {text:?}"
            )),
        }
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.map_or_else(|| "off".to_owned(), |size| size.to_string()))
    }
}

impl Value for Synchronous {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "normal" => Ok(Self::Normal),
            _ => Err(format!("must be full or normal, was {text:?}")),
        }
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::from(match self {
            Self::Full => "full",
            Self::Normal => "normal",
        })
    }
}

impl Value for Networks {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.to_string())
    }
}

impl Value for BaggageKeys {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.to_string())
    }
}

impl Value for Roots {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.to_string())
    }
}

impl Value for LogFormat {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("must be auto, json or text, was {text:?}"))
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::from(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them_and_printed_as_they_are_read() {
        for (text, bytes, printed) in [
            ("2GiB", 2 << 30, "2GiB"),
            ("1536MiB", 1536 << 20, "1536MiB"),
            ("500MB", 500_000_000, "500000000"),
            ("1 TiB", 1 << 40, "1TiB"),
            ("4096B", 4_096, "4KiB"),
            ("1048577", (1 << 20) + 1, "1048577"),
        ] {
            let read = Option::<Size>::parse(text);
            assert_eq!(read, Ok(Some(Size(bytes))), "{text}");
            let shown = toml::Value::from(printed);
            assert_eq!(Value::to_toml(&Some(Size(bytes))), shown);
            assert_eq!(Option::<Size>::parse(printed), read);
        }
        for off in ["off", "0"] {
            assert_eq!(Option::<Size>::parse(off), Ok(None));
            assert_eq!(Option::<Duration>::parse(off), Ok(None));
        }
        for wrong in ["", "GiB", "2gib", "-1", "1.5GiB", "9223372036854775808", "20000000TiB", "7d"]
        {
            assert!(Option::<Size>::parse(wrong).is_err_and(|why| why.contains("2GiB")), "{wrong}");
        }
        assert_eq!(Option::<u32>::parse("off"), Ok(None));
        assert_eq!(Option::<u32>::parse("1"), Ok(Some(1)));
        for wrong in ["", "-1", "1.5", "many", "4294967296"] {
            assert!(
                Option::<u32>::parse(wrong).is_err_and(|why| why.contains("or off")),
                "{wrong}"
            );
        }
        assert!(Option::<Duration>::parse("7d").is_err_and(|why| why.contains("168h, or off")));
    }
}
