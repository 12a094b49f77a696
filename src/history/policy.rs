//! How much of the past is to be kept.

use std::time::Duration;

/// Budgets, as the operator has set them. None is without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// How old traffic may become.
    pub traffic_age: Option<Duration>,
    /// How many bytes traffic may take.
    pub traffic_bytes: Option<u64>,
    /// How old changes may become, and with them all that refers to them: traffic at the latest goes with the changes
    /// of its time, and what it was rolled up to does.
    pub changes_age: Option<Duration>,
}
