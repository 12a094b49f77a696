//! Every maximum of the contract, with its unit, in one place.
//!
//! The HTTP layer quotes these in its refusals and the tests walk over their edges.

use super::time::Millis;

/// Longest namespace, in characters.
pub const NAMESPACE_CHARS_MAX: usize = 63;
/// Longest service name or instance id, in characters.
pub const NAME_CHARS_MAX: usize = 128;
/// Longest address, in characters: the longest DNS name in text form (RFC 1035, section 2.3.4).
pub const ADDRESS_CHARS_MAX: usize = 253;
/// Longest label of a DNS name, in characters (RFC 1035, section 2.3.4).
pub const DNS_LABEL_CHARS_MAX: usize = 63;
/// Longest protocol name, in characters ("another short name").
pub const PROTOCOL_CHARS_MAX: usize = 16;
/// Longest `version` and `zone`, in characters.
pub const LABEL_CHARS_MAX: usize = 128;
/// Largest weight.
pub const WEIGHT_MAX: u16 = 10_000;
/// Weight of an instance that names none.
pub const WEIGHT_DEFAULT: u16 = 100;
/// Most tags of one instance.
pub const TAGS_MAX: usize = 32;
/// Longest tag, in characters.
pub const TAG_CHARS_MAX: usize = 128;
/// Most metadata keys of one instance.
pub const METADATA_KEYS_MAX: usize = 64;
/// Longest metadata key, in characters.
pub const METADATA_KEY_CHARS_MAX: usize = 128;
/// Longest metadata value, in bytes.
pub const METADATA_VALUE_BYTES_MAX: usize = 1024;
/// Shortest lease.
pub const TTL_MIN: Millis = Millis::from_millis(1_000);
/// Longest lease: a day.
pub const TTL_MAX: Millis = Millis::from_millis(24 * 3_600_000);
/// Lease of an instance that names none.
pub const TTL_DEFAULT: Millis = Millis::from_millis(15_000);
/// Longest reason of a deregistration, in characters.
pub const REASON_CHARS_MAX: usize = 256;
/// Longest note of a heartbeat, in characters.
pub const NOTE_CHARS_MAX: usize = 256;
/// Most heartbeats in one batch.
pub const HEARTBEATS_PER_BATCH_MAX: usize = 1_000;
/// Longest wait of a long poll.
pub const WAIT_MAX: Millis = Millis::from_millis(600_000);
/// Wait of a long poll that names none.
pub const WAIT_DEFAULT: Millis = Millis::from_millis(30_000);
/// Longest path, expected text and gRPC service name of a check, in characters.
pub const CHECK_TEXT_CHARS_MAX: usize = 256;
/// Shortest interval and timeout of a check.
pub const CHECK_INTERVAL_MIN: Millis = Millis::from_millis(100);
/// Longest interval, timeout, initial delay and `deregister_after` of a check: a day.
pub const CHECK_INTERVAL_MAX: Millis = Millis::from_millis(24 * 3_600_000);
/// Interval of a check that names none.
pub const CHECK_INTERVAL_DEFAULT: Millis = Millis::from_millis(10_000);
/// Timeout of a check that names none.
pub const CHECK_TIMEOUT_DEFAULT: Millis = Millis::from_millis(2_000);
/// Most `failures` and `passes` of a check.
pub const CHECK_COUNT_MAX: u32 = 100;
/// `failures` of a check that names none.
pub const CHECK_FAILURES_DEFAULT: u32 = 3;
/// `passes` of a check that names none.
pub const CHECK_PASSES_DEFAULT: u32 = 1;
/// Longest text of what was wrong with a probe, in bytes; longer ones are cut.
pub const PROBE_ERROR_BYTES_MAX: usize = 4 * 1024;
/// φ at which the adaptive detector gives an instance up, if it names no threshold, in thousandths. At 8 it is wrong
/// once in 10^8 silences, if gaps keep to the distribution that was seen (Hayashibara et al. 2004, section 4).
pub const PHI_THRESHOLD_DEFAULT_MILLI: u32 = 8_000;
/// Smallest threshold of the adaptive detector, in thousandths.
pub const PHI_THRESHOLD_MIN_MILLI: u32 = 1_000;
/// Largest threshold of the adaptive detector, in thousandths.
pub const PHI_THRESHOLD_MAX_MILLI: u32 = 16_000;
/// Longest deadline of a drain: a day.
pub const DRAIN_DEADLINE_MAX: Millis = Millis::from_millis(24 * 3_600_000);
/// Most keys of baggage that an event keeps.
pub const BAGGAGE_KEYS_MAX: usize = 8;
/// Longest key of baggage, in bytes.
pub const BAGGAGE_KEY_BYTES_MAX: usize = 128;
/// Longest value of baggage, in bytes, once it is decoded. A longer one is passed over.
pub const BAGGAGE_VALUE_BYTES_MAX: usize = 256;
