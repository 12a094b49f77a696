//! How payloads are stored: one type for each kind of event, and for what stands in several of them. Fields that came
//! later are left out where they say nothing, so that what needs nothing newer reads as it always did. A field must never
//! change its name or its meaning. Written by [`super::write`], read by [`super::read`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::texts::{Pairs, Text};

/// An instance, stored: in events and in snapshots.
#[derive(Serialize, Deserialize)]
pub(in crate::log) struct StoredInstance<'a> {
    #[serde(borrow)]
    pub(super) namespace: Text<'a>,
    #[serde(borrow)]
    pub(super) service: Text<'a>,
    #[serde(borrow)]
    pub(super) instance: Text<'a>,
    pub(super) incarnation: u64,
    #[serde(borrow)]
    pub(super) address: Text<'a>,
    pub(super) port: u16,
    #[serde(borrow)]
    pub(super) protocol: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<Text<'a>>,
    pub(super) weight: u16,
    #[serde(borrow)]
    pub(super) tags: Vec<Text<'a>>,
    #[serde(borrow)]
    pub(super) metadata: Pairs<'a>,
    #[serde(borrow)]
    pub(super) mode: Text<'a>,
    #[serde(borrow)]
    pub(super) status: Text<'a>,
    #[serde(borrow)]
    pub(super) ttl: Text<'a>,
    #[serde(borrow)]
    pub(super) registered_at: Text<'a>,
    pub(super) revision: u64,
    // From format 2 on, and only where they say something.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) drain_until: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signals: Option<StoredSignals>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) detector: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) phi_threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) check: Option<StoredCheck>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredSignals {
    pub(super) late: bool,
    pub(super) reported_failing: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) probe: Option<String>,
    pub(super) flapping: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredCheck {
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
    pub(super) path: Box<str>,
    pub(super) method: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expect: Option<Box<str>>,
    pub(super) service: Box<str>,
    pub(super) tls: bool,
    pub(super) interval: String,
    pub(super) timeout: String,
    pub(super) initial_delay: String,
    pub(super) failures: u32,
    pub(super) passes: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deregister_after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) registered_from: Option<IpAddr>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredEvidence {
    pub(super) outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    pub(super) latency_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Box<str>>,
    pub(super) in_a_row: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredFlaps {
    pub(super) changes: u32,
    pub(super) window: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredGuardEntered {
    pub(super) late: u64,
    pub(super) gone: u64,
    pub(super) living: u64,
    pub(super) limit: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredGuardLeft {
    pub(super) reason: String,
    pub(super) late: u64,
    pub(super) gone: u64,
    pub(super) living: u64,
    pub(super) held_ms: u64,
    pub(super) held: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredRegistered<'a> {
    pub(super) outcome: String,
    #[serde(borrow)]
    pub(super) instance: StoredInstance<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredUpdated<'a> {
    pub(super) outcome: String,
    pub(super) fields: Vec<String>,
    #[serde(borrow)]
    pub(super) instance: StoredInstance<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredMode {
    pub(super) from: String,
    pub(super) to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredStatus {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) health: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signals: Option<StoredSignals>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) probe: Option<StoredEvidence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) flaps: Option<StoredFlaps>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub(super) overdue: Option<StoredOverdue>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredDeregistered {
    #[serde(default)]
    pub(super) reason: Option<Box<str>>,
}

/// A reference to a heartbeat, stored: in events and in snapshots.
#[derive(Serialize, Deserialize)]
pub(in crate::log) struct StoredHeartbeat<T = String> {
    pub(super) at: T,
    pub(super) id: T,
    pub(super) trace_id: T,
    pub(super) span_id: T,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredOverdue {
    pub(super) last_heartbeat: Option<StoredHeartbeat>,
    pub(super) ttl: String,
    pub(super) gap_ms: u64,
    pub(super) missed: u32,
    pub(super) late_ms: u64,
    /// Left out where it is nothing, which it nearly always is.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) grace_ms: u64,
    // From format 2 on, and only where φ decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) phi: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mean_gap_ms: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredStarted {
    pub(super) version: Box<str>,
    pub(super) node: Box<str>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredRecovered {
    pub(super) changes: u64,
    pub(super) traffic: u64,
    pub(super) instances: u64,
    pub(super) services: u64,
    pub(super) took_ms: u64,
    pub(super) clean: bool,
    #[serde(default)]
    pub(super) traffic_missing_from: Option<String>,
    pub(super) digest: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredGap {
    pub(super) from: String,
    pub(super) until: String,
    pub(super) lookups: u64,
    pub(super) heartbeats: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredCompacted {
    pub(super) class: String,
    pub(super) first: String,
    pub(super) last: String,
    pub(super) from: String,
    pub(super) until: String,
    pub(super) bytes: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredCheckpoint {
    pub(super) digest: String,
    pub(super) instances: u64,
    pub(super) services: u64,
}
