//! Reads the fields of a JSON object one by one, each with its type and its range. What is wrong is noted
//! and reading goes on; what nobody took at the end is unknown. Used by the handlers that take a body.

use serde_json::{Map, Value};

use super::faults::Faults;
use crate::domain::Millis;
use crate::domain::command::PatchEntry;
use crate::domain::instance::NO_TTL;
use crate::domain::limits::{
    METADATA_KEY_CHARS_MAX, METADATA_KEYS_MAX, METADATA_VALUE_BYTES_MAX, TAG_CHARS_MAX, TAGS_MAX,
    TTL_MAX, TTL_MIN, WEIGHT_MAX,
};

/// The fields of one object that have not been taken yet.
pub(super) struct Fields<'a> {
    object: Map<String, Value>,
    prefix: String,
    faults: &'a mut Faults,
}

impl<'a> Fields<'a> {
    /// The fields of `object`; `prefix` stands before each name in what is told, such as `instances[3].`.
    pub(super) fn new(
        object: Map<String, Value>,
        prefix: impl Into<String>,
        faults: &'a mut Faults,
    ) -> Self {
        Self { object, prefix: prefix.into(), faults }
    }

    /// Whether no field is left.
    pub(super) fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// Whether a field is there and not `null`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(|value| !value.is_null())
    }

    /// Whether a field is this word; it is taken then.
    pub(super) fn is_word(&mut self, name: &str, word: &str) -> bool {
        self.object.get(name).is_some_and(|value| value == word)
            && self.object.shift_remove(name).is_some()
    }

    /// The fields of the object that the field `name` held.
    pub(super) fn inner(&mut self, name: &str, object: Map<String, Value>) -> Fields<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Fields { object, prefix, faults: &mut *self.faults }
    }

    /// Whether a field is there and `null`; it is taken then.
    pub(super) fn is_null(&mut self, name: &str) -> bool {
        self.object.get(name).is_some_and(Value::is_null)
            && self.object.shift_remove(name).is_some()
    }

    /// Takes a field; `null` counts as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.object.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Notes that a field is not as it must be.
    pub(super) fn invalid(&mut self, name: &str, message: impl Into<String>) {
        self.faults.invalid(format!("{}{name}", self.prefix), message.into());
    }

    /// Says of every field that was not taken that it is unknown.
    pub(super) fn finish(self) {
        for name in self.object.keys() {
            self.faults.malformed(format!("{}{name}", self.prefix), "is not known here");
        }
    }

    /// Takes a text and lets `check` say what it means.
    pub(super) fn checked<T, E: std::fmt::Display>(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.string(name)?;
        check(&text).map_err(|error| self.invalid(name, error.to_string())).ok()
    }

    /// The same for a field that must be there.
    pub(super) fn required<T, E: std::fmt::Display>(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if self.object.get(name).is_none_or(Value::is_null) {
            self.object.shift_remove(name);
            self.invalid(name, "is required");
            return None;
        }
        self.checked(name, check)
    }

    /// Takes a text.
    pub(super) fn string(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            other => {
                self.invalid(name, format!("must be a string, was {}", type_of(&other)));
                None
            }
        }
    }

    /// Takes a text of at most `max` characters; an empty one counts as absent.
    pub(super) fn text(&mut self, name: &str, max: usize) -> Option<Box<str>> {
        let text = self.string(name)?;
        let was = text.chars().count();
        if was > max {
            self.invalid(name, format!("must be at most {max} characters, was {was}"));
            return None;
        }
        (!text.is_empty()).then(|| text.into())
    }

    /// Takes one of the words that `parse` knows.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &str,
        words: &[T],
        parse: impl Fn(&str) -> Option<T>,
        show: impl Fn(T) -> &'static str,
    ) -> Option<T> {
        let text = self.string(name)?;
        let found = parse(&text);
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|word| show(*word)).collect();
            self.invalid(name, format!("must be one of {}", words.join(", ")));
        }
        found
    }

    /// Takes a whole number from `min` to `max`.
    pub(super) fn integer(&mut self, name: &str, min: u64, max: u64) -> Option<u64> {
        let value = self.take(name)?;
        match &value {
            Value::Number(number) => match number.as_u64() {
                Some(whole) if (min..=max).contains(&whole) => return Some(whole),
                _ => self.invalid(name, format!("must be {min} to {max}, was {number}")),
            },
            other => self.invalid(name, format!("must be a number, was {}", type_of(other))),
        }
        None
    }

    /// Takes any number.
    pub(super) fn number(&mut self, name: &str) -> Option<f64> {
        let value = self.take(name)?;
        let number = value.as_f64().filter(|number| number.is_finite());
        if number.is_none() {
            self.invalid(name, format!("must be a number, was {}", type_of(&value)));
        }
        number
    }

    /// Takes a port.
    pub(super) fn port(&mut self, name: &str) -> Option<u16> {
        if self.object.get(name).is_none_or(Value::is_null) {
            self.object.shift_remove(name);
            self.invalid(name, "is required");
            return None;
        }
        self.integer(name, 1, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
    }

    /// Takes a weight.
    pub(super) fn weight(&mut self, name: &str) -> Option<u16> {
        let weight = self.integer(name, 0, u64::from(WEIGHT_MAX))?;
        u16::try_from(weight).ok()
    }

    /// Takes a truth value.
    pub(super) fn truth(&mut self, name: &str) -> Option<bool> {
        let value = self.take(name)?;
        if value.as_bool().is_none() {
            self.invalid(name, format!("must be true or false, was {}", type_of(&value)));
        }
        value.as_bool()
    }

    /// Takes a ttl.
    pub(super) fn ttl(&mut self, name: &str) -> Option<Millis> {
        if self.is_word(name, NO_TTL) {
            self.invalid(
                name,
                "\"none\" needs a check, which PUT on the instance takes; else give a duration such as \"15s\"",
            );
            return None;
        }
        self.duration(name, TTL_MIN, TTL_MAX)
    }

    /// Takes a duration from `least` to `most`: text, or a bare number of seconds.
    pub(super) fn duration(&mut self, name: &str, least: Millis, most: Millis) -> Option<Millis> {
        let text = match self.take(name)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            other => {
                let was = type_of(&other);
                self.invalid(name, format!("must be a duration such as \"15s\", was {was}"));
                return None;
            }
        };
        match Millis::parse(&text) {
            Ok(span) if (least..=most).contains(&span) => return Some(span),
            Ok(span) => self.invalid(name, format!("must be {least} to {most}, was {span}")),
            Err(error) => self.invalid(name, error.to_string()),
        }
        None
    }

    /// Takes a list of tags.
    pub(super) fn tags(&mut self, name: &str) -> Option<Box<[Box<str>]>> {
        let items = match self.take(name)? {
            Value::Array(items) => items,
            other => {
                self.invalid(name, format!("must be a list of strings, was {}", type_of(&other)));
                return None;
            }
        };
        if items.len() > TAGS_MAX {
            self.invalid(name, format!("must be at most {TAGS_MAX} tags, was {}", items.len()));
        }
        let mut tags = Vec::with_capacity(items.len().min(TAGS_MAX));
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::String(tag) if (1..=TAG_CHARS_MAX).contains(&tag.chars().count()) => {
                    tags.push(tag.into_boxed_str());
                }
                Value::String(tag) => {
                    let was = tag.chars().count();
                    let message = format!("must be 1 to {TAG_CHARS_MAX} characters, was {was}");
                    self.invalid(&format!("{name}[{index}]"), message);
                }
                other => {
                    let message = format!("must be a string, was {}", type_of(&other));
                    self.invalid(&format!("{name}[{index}]"), message);
                }
            }
        }
        Some(tags.into())
    }

    /// Takes metadata; with `nulls`, a value may be `null`, which in a merge patch removes its key.
    pub(super) fn metadata(&mut self, name: &str, nulls: bool) -> Option<Box<[PatchEntry]>> {
        let object = match self.take(name)? {
            Value::Object(object) => object,
            other => {
                let was = type_of(&other);
                self.invalid(name, format!("must be an object of strings, was {was}"));
                return None;
            }
        };
        if object.len() > METADATA_KEYS_MAX {
            let was = object.len();
            self.invalid(name, format!("must be at most {METADATA_KEYS_MAX} keys, was {was}"));
        }
        let mut entries = Vec::with_capacity(object.len().min(METADATA_KEYS_MAX));
        for (key, value) in object {
            let field = format!("{name}.{key}");
            let length = key.chars().count();
            if !(1..=METADATA_KEY_CHARS_MAX).contains(&length) {
                let message = format!(
                    "its key must be 1 to {METADATA_KEY_CHARS_MAX} characters, was {length}"
                );
                self.invalid(&field, message);
            }
            match value {
                Value::String(text) if text.len() <= METADATA_VALUE_BYTES_MAX => {
                    entries.push((key.into(), Some(text.into())));
                }
                Value::Null if nulls => entries.push((key.into(), None)),
                Value::String(text) => {
                    let was = text.len();
                    let message =
                        format!("must be at most {METADATA_VALUE_BYTES_MAX} bytes, was {was}");
                    self.invalid(&field, message);
                }
                other => {
                    self.invalid(&field, format!("must be a string, was {}", type_of(&other)));
                }
            }
        }
        Some(entries.into())
    }
}

/// What a JSON value is, in the words of JSON.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
