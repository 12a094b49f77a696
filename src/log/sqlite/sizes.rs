//! What the parts of a log take on the disk. SQLite knows only the whole file; the parts are estimated from what rows
//! hold, cheaply enough to be asked every few seconds of a log of any size.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _};

use super::rows;

/// What a log takes on the disk, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizes {
    /// Changes and everything that is not counted elsewhere: roll-ups, what makes searching fast.
    pub changes: u64,
    /// Traffic, estimated from a sample of its blocks.
    pub traffic: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Free pages within the file, which the next events fill.
    pub free: u64,
    /// The write-ahead log beside the file.
    pub wal: u64,
    /// What the file system still has for this process; nothing where it does not say.
    pub disk_free: Option<u64>,
}

/// The bytes of the columns of a row of traffic that are not a fixed few. SQLite reads them off the row's head.
macro_rules! block_bytes {
    () => {
        "octet_length(names) + octet_length(kinds) + octet_length(ats) + octet_length(seen) + octet_length(namespaces) \
         + octet_length(services) + octet_length(instances) + octet_length(callers) + octet_length(details) \
         + octet_length(revisions) + octet_length(returned) + octet_length(statuses) + octet_length(trace_ids) \
         + octet_length(span_ids)"
    };
}
pub(super) use block_bytes;

const BOUNDS: &str = "SELECT coalesce(min(first), 0), coalesce(max(first), 0) FROM traffic";
/// The same where the first or the last page of traffic can't be read.
const BOUNDS_BY_THE_LOG: &str = "SELECT first_traffic, next_traffic FROM log";
const COUNT_OF_LAST: &str = "SELECT count FROM traffic WHERE first = ?1";
const SAMPLE: &str = concat!(
    "SELECT count, ",
    block_bytes!(),
    " FROM traffic WHERE first >= ?1 ORDER BY first LIMIT ?2"
);

const SNAPSHOTS: &str = "SELECT coalesce(sum(bytes), 0) FROM snapshots";

/// Blocks looked at: enough for some percent of error where old and new ones differ.
const SAMPLES: i64 = 64;

/// Bytes that a row of `payload` bytes takes in pages of 4 KiB, as SQLite's file format lays it out: what does not
/// fit a leaf goes into overflow pages of its own, of which the last is rarely full.
pub(super) fn on_disk(payload: u64) -> u64 {
    const USABLE: u64 = 4_096;
    const LOCAL_MAX: u64 = USABLE - 35;
    const LOCAL_MIN: u64 = (USABLE - 12) * 32 / 255 - 23;
    // The row's head, its number and its entry in the page.
    let payload = payload + 64;
    if payload <= LOCAL_MAX {
        return payload;
    }
    let surplus = LOCAL_MIN + (payload - LOCAL_MIN) % (USABLE - 4);
    let local = if surplus <= LOCAL_MAX { surplus } else { LOCAL_MIN };
    local + (payload - local).div_ceil(USABLE - 4) * USABLE
}

/// About the bytes that all traffic takes. Pages that can't be read are left out of the sample: damage in old traffic
/// must stop neither the status nor retention.
pub(super) fn traffic(connection: &Connection) -> rusqlite::Result<u64> {
    let sample = |from: i64, limit: i64| -> rusqlite::Result<Vec<(u64, u64)>> {
        let mut select = connection.prepare_cached(SAMPLE)?;
        let rows = select.query_map([from, limit], |row| {
            let (count, bytes): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
            let bytes = u64::try_from(bytes.unwrap_or(0)).unwrap_or(0);
            Ok((u64::try_from(count).unwrap_or(0), on_disk(bytes)))
        })?;
        rows.collect()
    };
    let few = unless_damaged(sample(0, SAMPLES))?;
    if let Some(few) = few.filter(|few| few.len() < usize::try_from(SAMPLES).unwrap_or(0)) {
        return Ok(few.iter().map(|(_, bytes)| bytes).sum());
    }
    let bounds = |sql: &str| {
        connection.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
    };
    let (first, last): (i64, i64) = match unless_damaged(bounds(BOUNDS))? {
        Some(bounds) => bounds,
        None => bounds(BOUNDS_BY_THE_LOG)?,
    };
    let in_last: Option<i64> = unless_damaged(
        connection.prepare_cached(COUNT_OF_LAST)?.query_row([last], |row| row.get(0)).optional(),
    )?
    .flatten();
    let span = last.saturating_sub(first);
    let (mut events, mut bytes) = (0_u64, 0_u64);
    for step in 0..SAMPLES {
        // In order of the numbers, so that every stretch of events counts as much as it holds.
        let at = first
            + i64::try_from(i128::from(span) * i128::from(step) / i128::from(SAMPLES)).unwrap_or(0);
        for (count, taken) in unless_damaged(sample(at, 1))?.unwrap_or_default() {
            events += count;
            bytes += taken;
        }
    }
    let all = u64::try_from(span + in_last.unwrap_or(0)).unwrap_or(0);
    Ok(u64::try_from(u128::from(bytes) * u128::from(all) / u128::from(events.max(1)))
        .unwrap_or(u64::MAX))
}

/// None if the pages that were to be read are damaged.
fn unless_damaged<T>(read: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if rows::is_damage(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Pages of the file, and how many of them are free.
pub(super) fn pages(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let count = |pragma: &str| -> rusqlite::Result<u64> {
        let pages: i64 = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
        Ok(u64::try_from(pages).unwrap_or(0))
    };
    Ok((count("page_count")?, count("freelist_count")?))
}

/// The sizes of the log at `path`.
pub(super) fn sizes(connection: &Connection, path: &Path) -> rusqlite::Result<Sizes> {
    let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let page = u64::try_from(page).unwrap_or(0);
    let (pages, free) = pages(connection)?;
    let (all, free) = (pages * page, free * page);
    let snapshots: i64 =
        unless_damaged(connection.query_row(SNAPSHOTS, [], |row| row.get(0)))?.unwrap_or(0);
    let used = all.saturating_sub(free);
    let traffic = traffic(connection)?.min(used);
    let snapshots = u64::try_from(snapshots).unwrap_or(0).min(used - traffic);
    let disk_free = rustix::fs::statvfs(path).ok().map(|disk| disk.f_bavail * disk.f_frsize);
    let mut wal = path.to_owned().into_os_string();
    wal.push("-wal");
    let wal = std::fs::metadata(PathBuf::from(wal)).map_or(0, |meta| meta.len());
    Ok(Sizes { changes: used - traffic - snapshots, traffic, snapshots, free, wal, disk_free })
}
