//! How far a write-ahead log can be read, and how far SQLite had moved it into the database, from the files alone.
//!
//! ```text
//!   rollcall.db-wal   head of 32 bytes, then frames: page, size, two salts, two sums, and the page itself
//!   rollcall.db-shm   the index of it: twice a head of 48 bytes, then what was moved
//! ```
//!
//! The sums go on from frame to frame, so that all behind a damaged one is lost. Both formats are SQLite's, documented at
//! <https://www.sqlite.org/walformat.html> and the same since version 3.7. Pure reading; called by the check beside it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const HEAD: usize = 32;
const FRAME_HEAD: usize = 24;
/// With the sums of words in big-endian order; one less for little-endian.
const MAGIC: u32 = 0x377f_0683;
/// The largest page of SQLite.
const PAGE_MAX: u32 = 65_536;

/// What a write-ahead log is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frames {
    /// Those that can be read, from the first one on.
    pub(super) valid: u32,
    /// The byte at which the first one begins that can't.
    pub(super) end: u64,
    /// Whether there is more behind that which belongs to this log: not what is left of an earlier one.
    pub(super) goes_on: bool,
}

/// Reads all of a write-ahead log.
///
/// # Errors
/// If the file can't be read.
pub(super) fn read(wal: &Path) -> io::Result<Frames> {
    let mut file = BufReader::new(File::open(wal)?);
    let mut head = [0; HEAD];
    let none = Frames { valid: 0, end: 0, goes_on: true };
    if !fill(&mut file, &mut head)? {
        return Ok(Frames { goes_on: false, ..none });
    }
    let (magic, page) = (word(&head, 0), word(&head, 8));
    let mut sums = Sums { pair: [0; 2], big_endian: magic == MAGIC };
    sums.add(&head[..24]);
    let is_page = page.is_power_of_two() && page <= PAGE_MAX;
    if magic | 1 != MAGIC || !is_page || sums.pair != [word(&head, 24), word(&head, 28)] {
        return Ok(none);
    }
    let mut frame = vec![0; FRAME_HEAD + page as usize];
    let mut found = Frames { valid: 0, end: HEAD as u64, goes_on: false };
    let mut readable = true;
    while fill(&mut file, &mut frame)? {
        let ours = frame[8..16] == head[16..24];
        readable &= ours && {
            sums.add(&frame[..8]);
            sums.add(&frame[FRAME_HEAD..]);
            sums.pair == [word(&frame, 16), word(&frame, 20)]
        };
        if readable {
            found.valid += 1;
            found.end += frame.len() as u64;
        } else if ours {
            found.goes_on = true;
            break;
        }
    }
    Ok(found)
}

/// How many frames of a write-ahead log SQLite had begun to move, as its index says; none if there is no index, or none
/// that tells. It is not synced: after a power cut it may be of any time.
pub(super) fn moved(index: &Path) -> Option<u32> {
    let mut bytes = [0; 2 * 48 + 40];
    let mut file = File::open(index).ok()?;
    file.read_exact(&mut bytes).ok()?;
    // Initialised, and twice the same: nobody was in the middle of writing it.
    let whole = bytes[12] == 1 && bytes[..48] == bytes[48..96];
    let attempted = bytes[96 + 32..].first_chunk().copied().map(u32::from_ne_bytes)?;
    whole.then_some(attempted)
}

/// Fills the buffer; false if the file ends before.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().copied().map_or(0, u32::from_be_bytes)
}

/// The sums over all that was written so far.
struct Sums {
    pair: [u32; 2],
    big_endian: bool,
}

impl Sums {
    /// Adds a multiple of eight bytes.
    fn add(&mut self, bytes: &[u8]) {
        let [mut first, mut second] = self.pair;
        for eight in bytes.chunks_exact(8) {
            let words: [[u8; 4]; 2] = [
                [eight[0], eight[1], eight[2], eight[3]],
                [eight[4], eight[5], eight[6], eight[7]],
            ];
            let [one, two] = words.map(|word| match self.big_endian {
                true => u32::from_be_bytes(word),
                false => u32::from_le_bytes(word),
            });
            first = first.wrapping_add(one).wrapping_add(second);
            second = second.wrapping_add(two).wrapping_add(first);
        }
        self.pair = [first, second];
    }
}
