//! Trace ids and span ids: their text form, and new ones.
//!
//! They are made for every request, so making and writing one allocates nothing and asks the operating system
//! once a thread. An id is never all zeros; nothing outside this file can make one that is. Callers:
//! [`super::propagation`], which re-exports the types; the log's codec.

use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not the right number of characters.
    #[error("must be {expected} hexadecimal digits, has {found} characters")]
    Length {
        /// Digits that the id has.
        expected: usize,
        /// Bytes that were given.
        found: usize,
    },
    /// A character that is not a lower-case hexadecimal digit.
    #[error("must consist of lower-case hexadecimal digits")]
    Digit,
    /// All digits are zero, which the W3C reserves for "no id".
    #[error("must not be all zeros")]
    Zero,
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $bytes:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Length in bytes; the text form has two digits for each.
            pub const LEN: usize = $bytes;

            /// Wraps bytes that came from this process or its own log. `None` for all zeros, which is no id.
            pub fn from_bytes(bytes: [u8; $bytes]) -> Option<Self> {
                (bytes != [0; $bytes]).then_some(Self(bytes))
            }

            /// The bytes, in the order in which the hexadecimal form writes them.
            pub const fn to_bytes(self) -> [u8; $bytes] {
                self.0
            }

            /// Lower-case hexadecimal digits as ASCII, without allocating.
            pub fn to_hex(self) -> [u8; $bytes * 2] {
                let mut hex = [0; $bytes * 2];
                write_hex(&self.0, &mut hex);
                hex
            }

            /// Reads the text form from ASCII bytes.
            ///
            /// # Errors
            /// [`IdError`] for another length, a character other than `0-9a-f`, or all zeros.
            pub fn parse(text: &[u8]) -> Result<Self, IdError> {
                let mut bytes = [0; $bytes];
                if text.len() != $bytes * 2 {
                    return Err(IdError::Length { expected: $bytes * 2, found: text.len() });
                }
                if !read_hex(text, &mut bytes) {
                    return Err(IdError::Digit);
                }
                Self::from_bytes(bytes).ok_or(IdError::Zero)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let hex = self.to_hex();
                f.write_str(std::str::from_utf8(&hex).expect("hexadecimal digits are ASCII"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(self, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text.as_bytes())
            }
        }
    };
}

id!(
    /// A trace's id: 16 bytes, never all zeros.
    TraceId,
    16
);
id!(
    /// A span's id: 8 bytes, never all zeros.
    SpanId,
    8
);

impl TraceId {
    /// A new random id.
    pub fn random() -> Self {
        let [high, low] = IDS.with_borrow_mut(|ids| ids.next_pair());
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Self(bytes)
    }

    /// The right half: what OpenTelemetry's ratio sampler decides by, here and in every other SDK.
    pub fn low_bits(self) -> u64 {
        let mut low = [0; 8];
        low.copy_from_slice(&self.0[8..]);
        u64::from_be_bytes(low)
    }
}

impl SpanId {
    /// A new random id.
    pub fn random() -> Self {
        Self(IDS.with_borrow_mut(|ids| ids.next_low()).to_be_bytes())
    }
}

/// Two generators a thread, each seeded on its own from the operating system's randomness (through the keys of
/// [`RandomState`]). One alone has 64 bits of state, so it could name no more than 2^64 traces.
struct Ids {
    high: fastrand::Rng,
    low: fastrand::Rng,
}

thread_local! {
    static IDS: RefCell<Ids> = RefCell::new(Ids {
        high: fastrand::Rng::with_seed(RandomState::new().hash_one(0_u8)),
        low: fastrand::Rng::with_seed(RandomState::new().hash_one(1_u8)),
    });
}

impl Ids {
    fn next_low(&mut self) -> u64 {
        self.low.u64(1..)
    }

    fn next_pair(&mut self) -> [u64; 2] {
        [self.high.u64(..), self.next_low()]
    }
}

/// Value of each ASCII character as a lower-case hexadecimal digit; 0xff for those that are none.
const DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

/// Reads twice as many digits as `bytes` is long; false if one is not a lower-case digit.
pub(super) fn read_hex(text: &[u8], bytes: &mut [u8]) -> bool {
    let mut bad = 0;
    for (pair, byte) in text.chunks_exact(2).zip(bytes) {
        let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
        // Valid digits have no high bits, so one test after the loop finds any bad one.
        bad |= (high | low) & 0xf0;
        *byte = (high << 4) | (low & 0x0f);
    }
    bad == 0
}

/// Writes two lower-case digits for each byte.
pub(super) fn write_hex(bytes: &[u8], text: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 0x0f)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_the_same_id() {
        let text = "0af7651916cd43dd8448eb211c80319c";
        let id: TraceId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(TraceId::from_bytes(id.to_bytes()), Some(id));
        assert_eq!(id.low_bits(), 0x8448_eb21_1c80_319c);
        assert_eq!("B7AD6B7169203331".parse::<SpanId>(), Err(IdError::Digit));
        assert_eq!("b7".parse::<SpanId>(), Err(IdError::Length { expected: 16, found: 2 }));
        assert_eq!(SpanId::parse(&[b'0'; 16]), Err(IdError::Zero));
        assert_eq!(SpanId::from_bytes([0; 8]), None);
    }

    #[test]
    fn threads_make_different_ids() {
        let make =
            || std::thread::spawn(|| (0..1_000).map(|_| TraceId::random()).collect::<Vec<_>>());
        let threads: Vec<_> = (0..4).map(|_| make()).collect();
        let ids: std::collections::HashSet<_> =
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ids.len(), 4_000);
    }
}
