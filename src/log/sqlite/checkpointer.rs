//! Moves the write-ahead log into the database file, apart from the commits: a thread and a connection of
//! its own, so that no caller waits for it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;

use super::rows;
use crate::clock::Stopwatch;
use crate::telemetry::metrics::Histogram;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// Pages of WAL (16 MiB of 4 KiB) beyond which somebody who writes is asked to start it anew: under a load without a
/// pause, a passive checkpoint never catches up with the last frame, which is what that takes.
const RESTART_PAGES: i64 = 4_096;

/// Pages that whoever starts the WAL anew may have to move while others wait: about as many as a commit writes.
const NEAR_PAGES: i64 = 64;

/// Checkpoints in a row to come so near to the last frame: each one is shorter than the one before, and so is what was
/// written meanwhile.
const APPROACHES: usize = 4;

#[derive(Default)]
pub(super) struct Signals {
    stop: AtomicBool,
    restart: AtomicBool,
    /// Where the seconds of a checkpoint are recorded, once somebody wants to know.
    seconds: OnceLock<Histogram>,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A histogram has nothing to show.
        f.debug_struct("Signals").field("stop", &self.stop).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Checkpointer {
    signals: Arc<Signals>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub(super) fn start(path: &Path) -> std::io::Result<Self> {
        let signals = Arc::new(Signals::default());
        let (path, seen) = (path.to_owned(), Arc::clone(&signals));
        let thread = thread::Builder::new()
            .name("rollcall-checkpoint".into())
            .spawn(move || run(&path, &seen))?;
        Ok(Self { signals, thread: Some(thread) })
    }

    /// Records from now on how long each checkpoint takes.
    pub(super) fn observe(&self, seconds: Histogram) {
        // The first one stays: there is one registry a log.
        let _ = self.signals.seconds.set(seconds);
    }

    /// The wish that somebody who writes starts the WAL anew.
    pub(super) fn restart(&self) -> Restart {
        Restart(Arc::clone(&self.signals))
    }
}

/// The checkpointer's wish that the WAL is started anew.
#[derive(Clone, Debug)]
pub(super) struct Restart(Arc<Signals>);

impl Restart {
    /// Whether it is wished; asking takes the wish.
    pub(super) fn take(&self) -> bool {
        self.0.restart.load(Relaxed) && self.0.restart.swap(false, Relaxed)
    }
}

/// Starts the WAL anew on a connection that writes, whose turn it is; what is there of it is written over. Without
/// waiting: a reader in the way makes it come to nothing, and it is tried again when the checkpointer asks the next time.
pub(super) fn restart(connection: &Connection) {
    let _ = connection.busy_timeout(Duration::ZERO);
    let _ = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
    let _ = connection.busy_timeout(rows::BUSY);
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.signals.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It can only have panicked, which its own message has told.
            let _ = thread.join();
        }
    }
}

fn run(path: &Path, signals: &Signals) {
    let mut connection: Option<Connection> = None;
    while !signals.stop.load(Relaxed) {
        thread::park_timeout(EVERY);
        if connection.is_none() {
            connection = open(path).ok();
        }
        let Some(open) = &connection else { continue };
        match approach(open, signals) {
            Ok(pages) if pages > RESTART_PAGES => signals.restart.store(true, Relaxed),
            // Nothing is left to move: the next one who writes begins it anew by himself.
            Ok(_) => {}
            // A full or failing disk: the writer says so with its cause. Begin anew next time.
            Err(_) => connection = None,
        }
    }
}

/// Moves pages until hardly any is left, if the WAL is so long that it is to be started anew; its pages.
fn approach(connection: &Connection, signals: &Signals) -> rusqlite::Result<i64> {
    let mut pages = 0;
    for _ in 0..APPROACHES {
        let took = Stopwatch::start();
        // (busy, pages in the WAL, pages of them moved)
        let (all, moved): (i64, i64) =
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                Ok((row.get(1)?, row.get(2)?))
            })?;
        if let (1.., Some(seconds)) = (all, signals.seconds.get()) {
            seconds.record(took.elapsed().as_secs_f64());
        }
        pages = all;
        if all <= RESTART_PAGES || all - moved <= NEAR_PAGES || signals.stop.load(Relaxed) {
            break;
        }
    }
    Ok(pages)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}
