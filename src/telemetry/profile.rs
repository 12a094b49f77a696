//! A profile of the process' own processor time: which functions its threads were in, looked at 99 times in each second of
//! processor time that they use, in the form of `go tool pprof` (`profile.proto` of github.com/google/pprof, packed with gzip).
//!
//! A signal interrupts whoever runs, and its stack is walked there and then. That must neither take a lock nor allocate, because the
//! thread may be in the middle of either, and must read nothing but what it may:
//!
//! - The stack is walked by `libgcc` along the tables of the program. With glibc 2.35 and gcc 12 or newer (Debian 12) they are
//!   found without a lock (`_dl_find_object`), because nobody registers tables of their own. What is loaded once, and allocates
//!   then, is loaded before the first signal: the profiler takes a trace of itself when it begins.
//! - Nothing is allocated: stacks go into a table made beforehand, and from there into a file. So it is safe in the middle of
//!   jemalloc, too, which is part of the program and whose compiler has written tables for every instruction of it. jemalloc walks
//!   no stacks here: its own profiler is not compiled in. Its background threads have all signals blocked.
//! - Where the signal came in the C library, in its loader, in `libgcc` or in the kernel's page of clocks, the stack is not
//!   looked at: they may be walking it or changing the list of libraries themselves, parts of them have no or wrong tables, and a
//!   wrong table is what most open crash reports seem to come down to (tikv/pprof-rs issues 36, 203, 219; tikv/tikv 9765;
//!   grafana/pyroscope-rs 211, whose cause is not known; neondatabase/neon 10225). So the time that system calls and `memcpy` take is not in the profile.
//!
//! Rejected: to walk frame pointers, whose reads are checked and can't crash at all. Everything has to be compiled with them, which
//! `cargo install` would not do, and the profiler leaves out the very function that was interrupted. Rejected, too: `framehop`, which
//! reads its tables, and allocates, inside of the first signal (tikv/pprof-rs 281).
//!
//! What remains is a risk, which is why all of it happens only while somebody asks for a profile, and only where an operator allows
//! that (setting `profiling`). There is one signal and one timer in a process, so there is one profile at a time. Its table, some 80 MiB, stays
//! allocated after the first one. Must not be called on a thread that others wait for: it reads the symbols of the whole
//! program. Called by `http`.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::protos::Message as _;
use pprof::{Frames, ProfilerGuard, ProfilerGuardBuilder, Report, Symbol};

/// How often it is looked in a second of processor time; not 100, so that it does not keep step with what happens at
/// whole hundredths.
const PER_SECOND: i32 = 99;
/// Parts of the names of libraries in which no stack is walked. With the dots, so that a program that lies below a directory
/// like `libcache` is not one of them.
const NOT_IN: [&str; 5] = ["libc.so", "libpthread.so", "libgcc_s.so", "ld-linux", "linux-vdso.so"];

/// Among how many of the innermost functions of a stack those who walk it are.
const WALK_MAX: usize = 8;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another one is being taken.
    #[error("another profile is being taken")]
    Running,
    /// Signal, timer or table can't be had.
    #[error(
        "the process can't be looked at; the directory for temporary files (TMPDIR) has to be writable when the first profile \
         is taken"
    )]
    Refused(#[source] pprof::Error),
    /// What was seen can't be put into its form.
    #[error("the profile can't be written")]
    Unwritten(#[source] std::io::Error),
}

/// Whether one is being taken, in the whole process.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// The turn of one profile, given back on drop.
#[derive(Debug)]
pub struct Turn(());

impl Turn {
    /// Takes the turn.
    ///
    /// # Errors
    /// If somebody has it.
    pub fn take() -> Result<Self, Error> {
        let was_running = RUNNING.swap(true, Ordering::AcqRel);
        if was_running { Err(Error::Running) } else { Ok(Self(())) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::Release);
    }
}

/// Looks at the process for so long, or until `enough` says something, and gives what was seen; none if nobody holds the other end
/// of `enough` any more, so that nobody wants it. Blocks, and for up to some seconds longer.
///
/// # Errors
/// If the system refuses the signal, or what was seen can't be read back.
pub fn take(turn: Turn, time: Duration, enough: &Receiver<()>) -> Result<Option<Vec<u8>>, Error> {
    let builder = ProfilerGuardBuilder::default().frequency(PER_SECOND).blocklist(&NOT_IN);
    let guard = builder.build().map_err(Error::Refused)?;
    if enough.recv_timeout(time) == Err(RecvTimeoutError::Disconnected) {
        return Ok(None);
    }
    let report = end(guard).map_err(Error::Refused)?;
    // The signal is silent: the next one may begin while this one gets its names.
    drop(turn);
    let profile = report.pprof().map_err(Error::Refused)?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    let written = packed.write_all(&profile.encode_to_vec()).and_then(|()| packed.finish());
    written.map(Some).map_err(Error::Unwritten)
}

/// Ends it, then gives names to what was seen.
fn end(guard: ProfilerGuard<'_>) -> pprof::Result<Report> {
    let seen = guard.report().build_unresolved()?;
    drop(guard);
    let stacks =
        seen.data.into_iter().map(|(stack, times)| (without_the_walk(stack.into()), times));
    let data = stacks.filter(|(stack, _)| !stack.frames.is_empty()).collect();
    Ok(Report { data, timing: seen.timing })
}

/// Without those who walked it, who stand above where the signal came. Some of them may have lost the path of their names, but not the
/// last one.
fn without_the_walk(mut stack: Frames) -> Frames {
    let top = stack.frames.len().min(WALK_MAX);
    let last = stack.frames[..top].iter().rposition(|symbols| symbols.iter().any(walks));
    stack.frames.drain(..last.map_or(0, |last| last + 1));
    stack
}

fn walks(symbol: &Symbol) -> bool {
    let name = symbol.name();
    ["backtrace::", "<pprof::", "pprof::"].iter().any(|start| name.starts_with(start))
}
