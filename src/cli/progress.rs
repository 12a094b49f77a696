//! How far a command that may take long has come, told on standard error about once a second.
//!
//! It is a courtesy: a closed standard error ends nothing, and what is done within a second says nothing. Used by the
//! commands that copy logs.

use std::io::Write;
use std::time::Duration;

use crate::clock::Stopwatch;

/// How long nothing is told.
const EVERY: Duration = Duration::from_secs(1);

/// Tells now and then.
pub(super) struct Progress<'a> {
    errors: &'a mut dyn Write,
    told: Stopwatch,
}

impl<'a> Progress<'a> {
    /// Tells on `errors`, not before a second has passed.
    pub(super) fn new(errors: &'a mut dyn Write) -> Self {
        Self { errors, told: Stopwatch::start() }
    }

    /// Tells what `text` says, if it is time.
    pub(super) fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.told.elapsed() >= EVERY {
            let _ = writeln!(self.errors, "{}", text());
            self.told = Stopwatch::start();
        }
    }
}

/// Bytes as people say them.
pub(super) fn size(bytes: u64) -> String {
    let mut whole = bytes;
    let mut rest = 0;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if whole < 1_024 {
            break;
        }
        (rest, whole, unit) = (whole % 1_024 * 10 / 1_024, whole / 1_024, larger);
    }
    if unit == "B" { format!("{whole} B") } else { format!("{whole}.{rest} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_in_their_unit() {
        let said = [0, 1_023, 1_024, 1_536, 10_485_759, 5 << 30].map(size);
        assert_eq!(said, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "9.9 MiB", "5.0 GiB"]);
    }
}
