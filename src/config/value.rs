//! How a setting is read from text and written back.
//!
//! Every source of settings (flag, environment, file) hands over text, so that one parser per type decides what is
//! accepted, whatever the source. It must never guess: what it does not understand is an error that says what is
//! understood. Called by [`super`] only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::domain::Millis;
use crate::log::sqlite::Synchronous;
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

impl Value for LogFormat {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("must be auto, json or text, was {text:?}"))
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::from(self.as_str())
    }
}
