//! A page that is written in one call, in short stretches all the same: between them the core is offered to whoever answers a
//! request. Caller: [`super`].

use std::io::{self, Write};

use crate::yielding;

/// Bytes that are written in one stretch, some ten microseconds of work.
const STRETCH: usize = 4 * 1024;

/// What `write` writes. A page cannot fail to be written into memory; were it no text, what is none is replaced.
pub(super) fn text(write: impl FnOnce(&mut Paced) -> io::Result<()>) -> String {
    let mut page = Paced::default();
    let _ = write(&mut page);
    String::from_utf8(page.bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Bytes in memory.
#[derive(Debug, Default)]
pub(super) struct Paced {
    bytes: Vec<u8>,
    since_pause: usize,
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        self.since_pause += bytes.len();
        if self.since_pause >= STRETCH {
            self.since_pause = 0;
            yielding::pause();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
