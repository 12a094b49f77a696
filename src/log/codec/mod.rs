//! Changes as they are stored: columns for what is searched, JSON for the rest.
//!
//! The stored payload is a type of its own, apart from the domain's and from the API's, so that a renamed
//! field changes neither the disk nor the wire. What the view `events` and the API show as `data` is this
//! payload. Its version is [`FORMAT`]; payloads of every past version stay readable for ever.
//!
//! `stored` is how payloads look, `write` makes them and `read` takes them apart.

mod read;
mod stored;
mod texts;
mod write;

pub use super::row::{Columns, Row, checksum};
pub use read::decode;
pub(super) use read::{load_heartbeat, load_instance, trace_of};
pub(super) use stored::{StoredHeartbeat, StoredInstance};
pub(super) use texts::Text;
pub use write::{data_of, encode, encode_event};
pub(super) use write::{is_plain, store_heartbeat, store_instance};

/// The newest version of payload. What needs nothing newer is written as the oldest that can say it, so that a log
/// without checks, guards and damping, or without baggage, can be read by the programs of before.
pub const FORMAT: u32 = 3;

/// The version of payload of before there was baggage.
const FORMAT_CHECKS: u32 = 2;

/// The version of payload of before there were checks.
const FORMAT_PLAIN: u32 = 1;

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The checksum is not the one of the content.
    #[error("checksum {found:08x}, the content has {expected:08x}")]
    Checksum {
        /// Stored.
        found: u32,
        /// Computed.
        expected: u32,
    },
    /// Written by a newer version of the program.
    #[error("payload format {0} is newer than this program, which knows up to {FORMAT}")]
    Newer(u32),
    /// Not a payload of its kind.
    #[error("{0}")]
    Payload(String),
}

pub(super) fn payload(what: impl ToString) -> DecodeError {
    DecodeError::Payload(what.to_string())
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

/// Reads `N` bytes of lower-case hexadecimal.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}
