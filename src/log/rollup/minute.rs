//! The row of a minute: equal lookups with their count, packed, and read back with every doubt answered.

use std::hash::{Hash, Hasher};

use super::MINUTE;
use crate::domain::Timestamp;

/// The lookups of a minute: a row of the table `lookup_minutes`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Minute {
    /// Minutes since the epoch.
    pub minute: i64,
    /// Number of the first traffic event of the period.
    pub part: u64,
    /// Number of the last one.
    pub last: u64,
    /// JSON array: the texts of this row; entry 0 is null.
    pub names: String,
    /// The counts: see `Count`. Numbers of seven bits a byte, the low ones first.
    pub counts: Vec<u8>,
    /// CRC-32 over all of the above.
    pub checksum: u32,
}

/// Equal lookups: what stands in `counts`, twelve numbers each. Names are positions; the first number counts from
/// the part, the first instant from the minute, the last ones from the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Count {
    pub(super) key: Key,
    pub(super) count: u64,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) first_at: i64,
    pub(super) last_at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Key {
    pub(super) namespace: u32,
    pub(super) service: u32,
    pub(super) instance: u32,
    pub(super) caller: u32,
    pub(super) filter: u32,
    pub(super) revision: u64,
    pub(super) status: u16,
}

impl Hash for Key {
    /// Four numbers instead of seven: it is hashed for every lookup.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        state.write_u64(pair(self.namespace, self.service));
        state.write_u64(pair(self.instance, self.caller));
        state.write_u64(pair(self.filter, self.status.into()));
        state.write_u64(self.revision);
    }
}

/// Equal lookups, as they are read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted<'a> {
    /// In which namespace.
    pub namespace: Option<&'a str>,
    /// The service.
    pub service: Option<&'a str>,
    /// The instance.
    pub instance: Option<&'a str>,
    /// Who asked; [`OTHER`](super::OTHER) for the sum of those that found no place.
    pub caller: &'a str,
    /// The filter; of [`OTHER`](super::OTHER) it is not known.
    pub filter: &'a str,
    /// The revision answered; of [`OTHER`](super::OTHER) it is not known and 0.
    pub revision: u64,
    /// The status of the answer.
    pub status: u16,
    /// How many.
    pub count: u64,
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// When the first was answered.
    pub first_at: Timestamp,
    /// When the last was.
    pub last_at: Timestamp,
}

impl Minute {
    pub(super) fn expected_checksum(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.minute.to_le_bytes());
        crc.update(&self.part.to_le_bytes());
        crc.update(&self.last.to_le_bytes());
        crc.update(&(self.names.len() as u64).to_le_bytes());
        crc.update(self.names.as_bytes());
        crc.update(&self.counts);
        crc.finalize()
    }

    /// When the minute began.
    #[must_use]
    pub fn begins(&self) -> Timestamp {
        Timestamp(self.minute.saturating_mul(MINUTE))
    }

    /// Shows the counts in the order of the first lookup of each.
    ///
    /// # Errors
    /// What is wrong with the row: it is not what was written.
    pub fn read(&self, visit: &mut dyn FnMut(Counted<'_>)) -> Result<(), String> {
        let expected = self.expected_checksum();
        if self.checksum != expected {
            return Err(format!("checksum {:08x}, the content has {expected:08x}", self.checksum));
        }
        let names: Vec<Option<Box<str>>> =
            serde_json::from_str(&self.names).map_err(|error| format!("names: {error}"))?;
        let name = |position: u64| -> Result<Option<&str>, String> {
            let position = usize::try_from(position).unwrap_or(usize::MAX);
            let name = names.get(position).ok_or("a count names a text that is not there")?;
            Ok(name.as_deref())
        };
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut rest = &*self.counts;
        while !rest.is_empty() {
            let mut row = [0; 12];
            for number in &mut row {
                *number = take_number(&mut rest).ok_or("the counts end in the middle of one")?;
            }
            let [namespace, service, instance, caller, filter, revision, status, ..] = row;
            let [.., count, first, last, first_at, last_at] = row;
            let first = self.part.saturating_add(first);
            let first_at = self.begins().0.saturating_add(signed(first_at));
            visit(Counted {
                namespace: name(namespace)?,
                service: name(service)?,
                instance: name(instance)?,
                caller: name(caller)?.unwrap_or_default(),
                filter: name(filter)?.unwrap_or_default(),
                revision,
                status: u16::try_from(status).map_err(|error| error.to_string())?,
                count,
                first,
                last: first.saturating_add(last),
                first_at: Timestamp(first_at),
                last_at: Timestamp(first_at.saturating_add(signed(last_at))),
            });
        }
        Ok(())
    }
}
pub(super) fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = (number & 0x7F).to_le_bytes();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(0x80 | low);
    }
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
