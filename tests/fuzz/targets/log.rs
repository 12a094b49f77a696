//! What a file can hold where a log was written: rows of changes, blocks of traffic, roll-ups, snapshots, and the lines of
//! an export.
//!
//! A checksum stands over each of them, and nothing random gets past it: so it is made right here, except where the input
//! says otherwise. What is tried is what stands behind it: a row that another program wrote, or a file that was edited.
//! Parts of a row are lines of the input, so that one can be read and written by people.

use rollcall::domain::invariants::check_change;
use rollcall::domain::{Registry, fold};
use rollcall::log::blocks::{Block, NUMBERS};
use rollcall::log::codec::{DecodeError, Row, decode, encode};
use rollcall::log::columns::{Columns, Parsed};
use rollcall::log::record;
use rollcall::log::rollup::{Beats, Lookups, Minute};
use rollcall::log::snapshot::{self, Builder, Header, List, Part};
use tempfile::TempDir;

/// Lines of an input, one after the other; the last part of an input is what is left.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == b'\n').unwrap_or(self.0.len());
        let (line, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or(&[]);
        line
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.next()).into_owned()
    }

    /// A text; none if the line is empty.
    fn maybe(&mut self) -> Option<String> {
        Some(self.text()).filter(|text| !text.is_empty())
    }

    /// A number; 0 if the line is none.
    fn number<T: std::str::FromStr + Default>(&mut self) -> T {
        self.text().parse().unwrap_or_default()
    }

    fn rest(self) -> String {
        String::from_utf8_lossy(self.0).into_owned()
    }
}

/// Changes, a row of eleven lines each between lines of `---`: what decodes is written and read again, and folded if it
/// may be.
pub(super) fn row(data: &[u8]) {
    let mut registry = Registry::default();
    for text in String::from_utf8_lossy(data).split("\n---\n") {
        let mut lines = Lines(text.as_bytes());
        let mut row = Row {
            seq: lines.number(),
            at: lines.number(),
            kind: lines.text(),
            namespace: lines.maybe(),
            service: lines.maybe(),
            instance: lines.maybe(),
            caller: lines.maybe(),
            trace_id: lines.maybe().map(String::into_bytes),
            span_id: lines.maybe().map(String::into_bytes),
            cause: lines.maybe().and_then(|cause| cause.parse().ok()),
            format: lines.number(),
            node: "fuzz".to_owned(),
            data: lines.rest(),
            checksum: 0,
        };
        row.checksum = row.expected_checksum();
        let Ok(change) = decode(&row) else { continue };
        let again = encode(&change, &row.node);
        assert_eq!(decode(&again).as_ref(), Ok(&change), "{row:?} is written as {again:?}");
        drop(record::of_change(&change));
        if check_change(&registry, &change).is_ok() {
            drop(fold(&mut registry, &change));
        }
    }
}

/// A block of traffic: five numbers, the names, the kinds, the columns of numbers and the statuses as lines, then the ids.
pub(super) fn block(data: &[u8]) {
    let mut lines = Lines(data);
    let mut block = Block {
        first: lines.number(),
        count: lines.number(),
        first_at: lines.number(),
        last_at: lines.number(),
        seen_from: lines.number(),
        names: lines.text(),
        kinds: lines.next().to_vec(),
        numbers: <[Vec<u8>; NUMBERS]>::default().map(|_| lines.next().to_vec()),
        statuses: lines.next().to_vec(),
        ..Block::default()
    };
    // As many as there are to be: other lengths are tried by the other columns.
    let events = block.count.min(512);
    let mut ids = lines.0.iter().copied().chain(std::iter::repeat(7));
    block.trace_ids = ids.by_ref().take(events * 16).collect();
    block.span_ids = ids.take(events * 8).collect();
    block.checksum = block.expected_checksum();
    for numbered in block.decode().unwrap_or_default() {
        drop(record::of_traffic(&numbered));
    }
    let Ok(columns) = Columns::open(&block) else { return };
    for n in 0..columns.len() {
        drop(columns.event(n));
        drop(columns.filter(n));
        let _ = (columns.form(n), columns.trace_id(n), columns.status(n), columns.at(n));
    }
    let mut parsed = Parsed::default();
    if parsed.read(&columns).is_err() {
        return;
    }
    let (mut minutes, mut runs) = (Vec::new(), Vec::new());
    let mut lookups = Lookups::default();
    if lookups.take(&columns, &parsed, 0, &mut minutes).is_ok() {
        minutes.extend(lookups.end());
    }
    for minute in &minutes {
        // What was made of a block is a row that reads.
        assert_eq!(minute.read(&mut |_| {}), Ok(()), "{minute:?}");
    }
    let mut beats = Beats::default();
    beats.take(&columns, &parsed, 0, &mut runs);
    drop(beats.end());
}

/// The lookups of a minute: three numbers and the names as lines, then the counts.
pub(super) fn rollup(data: &[u8]) {
    let mut lines = Lines(data);
    let mut minute = Minute {
        minute: lines.number(),
        part: lines.number(),
        last: lines.number(),
        names: lines.text(),
        counts: lines.0.to_vec(),
        checksum: 0,
    };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&minute.minute.to_le_bytes());
    crc.update(&minute.part.to_le_bytes());
    crc.update(&minute.last.to_le_bytes());
    crc.update(&(minute.names.len() as u64).to_le_bytes());
    crc.update(minute.names.as_bytes());
    crc.update(&minute.counts);
    minute.checksum = crc.finalize();
    if let Err(what) = minute.read(&mut |_| {}) {
        assert!(!what.starts_with("checksum"), "the checksum is made in another way now: {what}");
    }
}

/// A snapshot: its header as a line of JSON, then its parts, six lines and the instances each, between lines of `---`.
pub(super) fn snapshot(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (header, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let parts: Vec<Part> = rest.split("\n---\n").map(part).collect();
    let mut list = List::default();
    for part in &parts {
        list.add(&part.namespace, &part.service, part.checksum);
        drop(part.decode());
    }
    drop(snapshot::service_of(&parts));
    let Ok(mut header) = serde_json::from_str::<Header>(header) else { return };
    if let Err(DecodeError::Checksum { expected, .. }) = header.check(&list) {
        header.checksum = expected;
    }
    assert_eq!(header.check(&list), Ok(()));
    // What the header says must also be what is there. An input knows no hash, so that is made right as well.
    header.digest = match holds(&header, &parts) {
        Some(digest) => digest,
        None => return,
    };
    if let Err(DecodeError::Checksum { expected, .. }) = header.check(&list) {
        header.checksum = expected;
    }
    let mut builder = Builder::new(header);
    parts.iter().for_each(|part| drop(builder.add(part)));
    let Ok(snapshot) = builder.finish() else { return };
    // What was read is written in a way that reads as the same.
    let (header, written) = snapshot.encode();
    let mut builder = Builder::new(header);
    assert!(written.iter().all(|part| builder.add(part) == Ok(())), "{written:?}");
    assert_eq!(builder.finish().as_ref(), Ok(&snapshot));
}

/// The hash of what is in the parts, as the refusal of a wrong one tells it; none if one of them can't be read.
fn holds(header: &Header, parts: &[Part]) -> Option<String> {
    let mut builder = Builder::new(header.clone());
    if !parts.iter().all(|part| builder.add(part).is_ok()) {
        return None;
    }
    match builder.finish() {
        Ok(_) => Some(header.digest.clone()),
        Err(error) => error.to_string().rsplit(", ").next().map(ToOwned::to_owned),
    }
}

fn part(text: &str) -> Part {
    let mut lines = Lines(text.as_bytes());
    let mut part = Part {
        seq: 1,
        namespace: lines.text(),
        service: lines.text(),
        revision: lines.number(),
        part: lines.number(),
        parts: lines.number(),
        format: lines.number(),
        instances: lines.rest(),
        checksum: 0,
    };
    part.checksum = part.expected_checksum();
    part
}

/// The lines of an export, taken in whole: what is refused leaves nothing behind, what is not is a log that is clean.
pub(super) fn import(data: &[u8]) {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("data");
    let imported = rollcall::log::sqlite::import(&mut &*data, &target, &mut |_| {});
    match imported {
        Ok(_) => {
            let report = rollcall::log::verify::verify(&target, |_| {}).unwrap();
            assert!(report.is_clean(), "{report:?}");
        }
        Err(_) => assert!(!target.join(rollcall::log::sqlite::FILE).exists()),
    }
}
