//! What a request brought along beside its trace: a few words that its caller's system knows it by, such as a tenant.
//!
//! The operator says which keys are worth recording; they become part of the event's data. They mean nothing to the
//! registry: no decision, no state and no label depends on them. Made by the HTTP layer, kept by the log.

use std::collections::BTreeMap;

use super::limits::{BAGGAGE_KEY_BYTES_MAX, BAGGAGE_KEYS_MAX, BAGGAGE_VALUE_BYTES_MAX};

/// Pairs of key and value, by key; never empty, and never more than the limits allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baggage(BTreeMap<Box<str>, Box<str>>);

impl Baggage {
    /// These pairs; none if there is none, or if they are beyond the limits.
    #[must_use]
    pub fn new(pairs: BTreeMap<Box<str>, Box<str>>) -> Option<Self> {
        let fits = (1..=BAGGAGE_KEYS_MAX).contains(&pairs.len())
            && pairs.iter().all(|(key, value)| {
                (1..=BAGGAGE_KEY_BYTES_MAX).contains(&key.len())
                    && value.len() <= BAGGAGE_VALUE_BYTES_MAX
            });
        fits.then_some(Self(pairs))
    }

    /// How long all of it is, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// The pairs, by key.
    #[must_use]
    pub fn pairs(&self) -> &BTreeMap<Box<str>, Box<str>> {
        &self.0
    }
}
