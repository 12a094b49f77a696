//! Everything that happened in a run, line by line: the last lines to be read by people, all of them as a hash, by
//! which two runs of a seed are compared.

use std::collections::VecDeque;
use std::fmt::Write as _;

use xxhash_rust::xxh3::Xxh3Default;

/// Lines kept for the one who looks at a violation.
const KEPT: usize = 60;

/// The transcript of a run.
pub(crate) struct Transcript {
    hash: Xxh3Default,
    last: VecDeque<String>,
    lines: u64,
    aloud: bool,
}

impl Transcript {
    /// An empty one; `aloud` prints every line.
    pub(crate) fn new(aloud: bool) -> Self {
        Self { hash: Xxh3Default::new(), last: VecDeque::new(), lines: 0, aloud }
    }

    /// Notes that something happened at `now`, in milliseconds.
    pub(crate) fn note(&mut self, now: u64, what: std::fmt::Arguments<'_>) {
        let mut line = if self.last.len() < KEPT {
            String::new()
        } else {
            self.last.pop_front().unwrap_or_default()
        };
        line.clear();
        // Writing to a string does not fail.
        let _ = write!(line, "{:>4}.{:03} {what}", now / 1_000, now % 1_000);
        self.hash.update(line.as_bytes());
        self.lines += 1;
        if self.aloud {
            println!("{line}");
        }
        self.last.push_back(line);
    }

    /// The hash of all lines, and how many there are.
    pub(crate) fn digest(&self) -> (u64, u64) {
        (self.hash.digest(), self.lines)
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> String {
        self.last.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}
