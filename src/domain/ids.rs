//! Validated names and numbers. A value of these types has passed its check: nothing below the wire
//! layer looks at a name's characters again.

use std::borrow::Borrow;
use std::fmt;

use arcstr::ArcStr;

use super::labels::share;
use super::limits::{NAME_CHARS_MAX, NAMESPACE_CHARS_MAX};

/// Why a name was refused. The text is written for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More characters than the limit.
    #[error("must be at most {max} characters, was {was}")]
    TooLong {
        /// The limit.
        max: usize,
        /// What was given.
        was: usize,
    },
    /// A character outside `A-Z a-z 0-9 . _ -`, or a first one that is not alphanumeric.
    #[error(
        "may hold A-Z a-z 0-9 . _ - and must begin with a letter or digit, has {found:?} at position {position}"
    )]
    Character {
        /// The first offending character.
        found: char,
        /// Its position, counted in characters from 1.
        position: usize,
    },
}

/// Checks `text` against the rule that all names share.
///
/// # Errors
/// [`InvalidName`] with the first reason found.
pub fn check_name(text: &str, max: usize) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty);
    }
    for (index, found) in text.chars().enumerate() {
        let allowed =
            found.is_ascii_alphanumeric() || (index > 0 && matches!(found, '.' | '_' | '-'));
        if !allowed {
            return Err(InvalidName::Character { found, position: index + 1 });
        }
    }
    // Only ASCII is left, so that bytes are characters.
    if text.len() > max {
        return Err(InvalidName::TooLong { max, was: text.len() });
    }
    Ok(())
}

/// The text that stands in nearly every event. As part of the program its clones are not counted: a counter that all
/// requests move, and the thread that writes them down too, would travel from core to core.
const DEFAULT_TEXT: ArcStr = arcstr::literal!("default");

fn text_of(text: &str) -> ArcStr {
    if text == DEFAULT_TEXT { DEFAULT_TEXT } else { ArcStr::from(text) }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $max:expr) => {
        $(#[$doc])*
        ///
        /// One word wide, and clones share the text: instances, leases and indexes all hold names.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(ArcStr);

        impl $type {
            /// Takes `text` if it keeps the rule of names.
            ///
            /// # Errors
            /// [`InvalidName`] otherwise.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                check_name(text, $max)?;
                Ok(Self(text_of(text)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Takes the text of `other`, if that is the same and stands elsewhere; whether it did.
            pub(super) fn share(&mut self, other: &Self) -> bool {
                share(&mut self.0, &other.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// The outermost name: services of different namespaces never meet.
    Namespace, NAMESPACE_CHARS_MAX
);
name!(
    /// What is looked up.
    ServiceName, NAME_CHARS_MAX
);
name!(
    /// Who answers for a service; unique within it.
    InstanceId, NAME_CHARS_MAX
);

impl Namespace {
    /// The namespace of those who name none.
    pub const DEFAULT: &'static str = "default";
}

impl Default for Namespace {
    /// [`Namespace::DEFAULT`].
    fn default() -> Self {
        Self(DEFAULT_TEXT)
    }
}

/// A service within its namespace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Namespace,
    /// The service.
    pub service: ServiceName,
}

impl ServiceKey {
    /// Takes the texts of `other` that are the same and stand elsewhere; whether it did.
    pub(super) fn share(&mut self, other: &Self) -> bool {
        let namespace = self.namespace.share(&other.namespace);
        self.service.share(&other.service) || namespace
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

/// An instance within its service.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct InstanceKey {
    /// The service that it belongs to.
    pub service: ServiceKey,
    /// Its id there.
    pub instance: InstanceId,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.instance)
    }
}

/// The number of a change: 1, 2, 3, ... without a hole. It is the version of the state after it;
/// 0 is the state before the first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// The state before the first change.
    pub const ZERO: Self = Self(0);

    /// The number that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where in which trace something happened: the ids as W3C Trace Context has them. All zero means
/// that there is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TraceRef {
    /// The trace id, 16 bytes.
    pub trace_id: [u8; 16],
    /// The span id, 8 bytes.
    pub span_id: [u8; 8],
}

impl TraceRef {
    /// Whether there is a trace at all.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.trace_id != [0; 16]
    }
}
