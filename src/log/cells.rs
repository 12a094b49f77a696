//! Columns of numbers in a block of traffic: packed by those who write, read in both ways that files hold.
//!
//! ```text
//!   7, 1024, 12     packed   00 07 | 10 24 | 00 12      two decimal digits a byte, all as wide as the widest
//!   200, 200, 200   packed   02 00                      one for all: fewer bytes than there are events
//!   7, 1024, 12     digits   "0007" "1024" "0012"       as blocks were written until schema 4
//! ```
//!
//! Decimal digits and not binary numbers, because SQL has no function that reads those, and `hex()` shows these. One
//! number stands for all only where that takes fewer bytes than there are events, and numbers of events never take
//! fewer than one byte each, so that a length means one thing.
//!
//! What is read may be anything: it is no number then, never a panic. Used by [`super::blocks`] to write and by
//! [`super::columns`] to read.

use std::ops::RangeInclusive;

/// Packs a column.
pub(super) fn pack(numbers: &[u64]) -> Vec<u8> {
    let (low, high) = numbers
        .iter()
        .fold((u64::MAX, 0), |(low, high), number| (low.min(*number), high.max(*number)));
    let width = high.checked_ilog10().map_or(1, |log| log as usize / 2 + 1);
    let numbers = match low == high && width < numbers.len() {
        true => &numbers[..1],
        false => numbers,
    };
    let mut bytes = vec![0; width * numbers.len()];
    match width {
        1 => put::<1>(numbers, &mut bytes),
        2 => put::<2>(numbers, &mut bytes),
        3 => put::<3>(numbers, &mut bytes),
        _ => {
            for (cell, number) in bytes.chunks_exact_mut(width).zip(numbers) {
                put_one(cell, *number);
            }
        }
    }
    bytes
}

/// The usual widths are known when this is compiled, which makes the loop over the digits none at all.
fn put<const WIDTH: usize>(numbers: &[u64], bytes: &mut [u8]) {
    let (cells, _) = bytes.as_chunks_mut::<WIDTH>();
    for (cell, number) in cells.iter_mut().zip(numbers) {
        put_one(cell, *number);
    }
}

fn put_one(cell: &mut [u8], mut number: u64) {
    for byte in cell.iter_mut().rev() {
        // A remainder of a hundred fits in a byte; six is what is between 9 and 16.
        let two = u8::try_from(number % 100).unwrap_or(0);
        *byte = two + 6 * (two / 10);
        number /= 100;
    }
}

/// A column that has been measured: where the number of each event stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells<'a> {
    bytes: &'a [u8],
    count: usize,
    /// Bytes of a number.
    width: usize,
    /// Bytes from one event's number to the next one's: none where one stands for all.
    step: usize,
    packed: bool,
}

impl<'a> Cells<'a> {
    /// A packed column of `count` numbers, of so many bytes each; none if its length is not that of one.
    pub(super) fn packed(
        bytes: &'a [u8],
        count: usize,
        widths: RangeInclusive<usize>,
    ) -> Option<Self> {
        let (width, step) = match bytes.len() < count {
            true => (bytes.len(), 0),
            false => {
                let width = bytes.len().checked_div(count)?;
                (width, width)
            }
        };
        let is_right = widths.contains(&width) && (step == 0 || width * count == bytes.len());
        is_right.then_some(Self { bytes, count, width, step, packed: true })
    }

    /// A column of `count` numbers, of so many digits each; none if its length is not that of one.
    pub(super) fn digits(
        bytes: &'a [u8],
        count: usize,
        widths: RangeInclusive<usize>,
    ) -> Option<Self> {
        let width = bytes.len().checked_div(count)?;
        let is_right = widths.contains(&width) && width * count == bytes.len();
        is_right.then_some(Self { bytes, count, width, step: width, packed: false })
    }

    /// The number of event `n`; none if there is no such event, or what stands there is not a number.
    pub(super) fn number(&self, n: usize) -> Option<u64> {
        if n >= self.count {
            return None;
        }
        let start = n * self.step;
        let cell = self.bytes.get(start..start + self.width)?;
        match self.packed {
            true => packed_to_number(cell),
            false => digits_to_number(cell),
        }
    }

    /// Puts the numbers of all events in the place of what is there; none if one of them is not a number.
    pub(super) fn read(&self, numbers: &mut Vec<u64>) -> Option<()> {
        numbers.clear();
        if self.step == 0 {
            numbers.resize(self.count, self.number(0)?);
            return Some(());
        }
        match (self.packed, self.width) {
            (true, 1) => parse::<1, true>(self.bytes, numbers),
            (true, 2) => parse::<2, true>(self.bytes, numbers),
            (true, 3) => parse::<3, true>(self.bytes, numbers),
            (true, 4) => parse::<4, true>(self.bytes, numbers),
            (false, 1) => parse::<1, false>(self.bytes, numbers),
            (false, 2) => parse::<2, false>(self.bytes, numbers),
            (false, 3) => parse::<3, false>(self.bytes, numbers),
            (false, 4) => parse::<4, false>(self.bytes, numbers),
            (false, 5) => parse::<5, false>(self.bytes, numbers),
            (false, 6) => parse::<6, false>(self.bytes, numbers),
            (false, 7) => parse::<7, false>(self.bytes, numbers),
            (false, 8) => parse::<8, false>(self.bytes, numbers),
            // The widest may be too large.
            _ => {
                for n in 0..self.count {
                    numbers.push(self.number(n)?);
                }
                Some(())
            }
        }
    }
}

/// All numbers of a column of this width, which no number can be too large for.
fn parse<const WIDTH: usize, const PACKED: bool>(
    bytes: &[u8],
    numbers: &mut Vec<u64>,
) -> Option<()> {
    let (cells, _) = bytes.as_chunks::<WIDTH>();
    let mut strange = false;
    numbers.extend(cells.iter().map(|cell| {
        cell.iter().fold(0, |number, byte| {
            let (value, is_strange) = match PACKED {
                true => pair(*byte),
                false => digit(*byte),
            };
            strange |= is_strange;
            number * if PACKED { 100 } else { 10 } + u64::from(value)
        })
    }));
    (!strange).then_some(())
}

/// What a byte stands for, and whether it is none that was written.
fn pair(byte: u8) -> (u8, bool) {
    let (high, low) = (byte >> 4, byte & 15);
    (high * 10 + low, high > 9 || low > 9)
}

fn digit(byte: u8) -> (u8, bool) {
    let digit = byte.wrapping_sub(b'0');
    (digit, digit > 9)
}

fn packed_to_number(cell: &[u8]) -> Option<u64> {
    cell.iter().try_fold(0_u64, |number, byte| {
        let (pair, is_strange) = pair(*byte);
        if is_strange {
            return None;
        }
        number.checked_mul(100)?.checked_add(pair.into())
    })
}

fn digits_to_number(cell: &[u8]) -> Option<u64> {
    cell.iter().try_fold(0_u64, |number, byte| {
        let (digit, is_strange) = digit(*byte);
        if is_strange {
            return None;
        }
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest and the largest number of each count of digits.
    fn of_each_width() -> impl Iterator<Item = u64> {
        let tens = (0..20).map(|digits| 10_u64.pow(digits));
        tens.flat_map(|ten| [ten - 1, ten]).chain([u64::MAX])
    }

    fn read(bytes: &[u8], count: usize) -> Option<Vec<u64>> {
        let cells = Cells::packed(bytes, count, 1..=10)?;
        let mut numbers = vec![7];
        cells.read(&mut numbers)?;
        let one_by_one: Option<Vec<u64>> = (0..count).map(|n| cells.number(n)).collect();
        assert_eq!(one_by_one.as_ref(), Some(&numbers));
        assert_eq!(cells.number(count), None, "there is no such event");
        Some(numbers)
    }

    /// The lengths of one number for all and of a number for each are never the same, at any count and width.
    #[test]
    fn columns_give_back_their_numbers_whether_one_stands_for_all_or_not() {
        for count in 1..=24 {
            for number in of_each_width() {
                let alike = vec![number; count];
                let bytes = pack(&alike);
                assert_eq!(read(&bytes, count), Some(alike.clone()), "{count} times {number}");
                let width = bytes.len().min(pack(&[number]).len());
                let expected = if width < count { width } else { width * count };
                assert_eq!(bytes.len(), expected, "{count} times {number}");
                for place in 0..count {
                    let mut other = alike.clone();
                    other[place] = number / 10;
                    assert_eq!(read(&pack(&other), count), Some(other), "{count} times {number}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_column_is_refused_and_what_is_no_number_is_none() {
        for (length, count) in [(0, 0), (1, 0), (0, 1), (0, 3), (11, 1), (22, 2), (5, 3), (11, 12)]
        {
            assert!(
                Cells::packed(&vec![0; length], count, 1..=10).is_none(),
                "{length} of {count}"
            );
        }
        for (length, count) in [(0, 0), (1, 0), (0, 1), (21, 1), (2, 3), (1, 2), (7, 3)] {
            assert!(
                Cells::digits(&vec![b'0'; length], count, 1..=20).is_none(),
                "{length} of {count}"
            );
        }
        for bytes in [&[0x0a][..], &[0xa0], &[0x12, 0x3f], &[0xff], &[0x99; 10]] {
            for count in [1, bytes.len() + 1] {
                assert_eq!(read_or_none(bytes, count), None, "{bytes:02x?} of {count}");
            }
        }
        let mut numbers = Vec::new();
        for digits in ["1-", "9a", "18446744073709551616"] {
            let cells = Cells::digits(digits.as_bytes(), 1, 1..=20).unwrap();
            assert_eq!((cells.number(0), cells.read(&mut numbers)), (None, None), "{digits}");
        }
    }

    fn read_or_none(bytes: &[u8], count: usize) -> Option<u64> {
        let cells = Cells::packed(bytes, count, 1..=10).unwrap();
        let mut numbers = Vec::new();
        assert_eq!(cells.read(&mut numbers), None);
        cells.number(0)
    }
}
