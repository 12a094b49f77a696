//! How threads that work in long stretches leave room for those who answer.
//!
//! When very much is to be done at once (a fleet has died, a minute of traffic is to be rolled up), a thread would keep a
//! core for as long as the scheduler lets it, some milliseconds, and a lookup that waits for that core would wait as long.
//! Two such threads hold both cores of a small machine. So they offer the core to whoever waits, between one piece of
//! work and the next; with nobody there that is a system call of a third of a microsecond. Called from the loops of the
//! registrar, of its log and of the keeper, and by who writes the page of metrics; never from an async task, which has
//! other means.

/// Pieces of some microseconds each that are worked on in one stretch: a group of everyday size never pauses.
const STRETCH: usize = 16;

/// The next one of many small pieces is about to be worked on: a change, a row.
pub(crate) fn step(position: usize) {
    if position % STRETCH == STRETCH - 1 {
        pause();
    }
}

/// A piece of work of some tens of microseconds is done: a block, a part of a snapshot.
pub(crate) fn pause() {
    std::thread::yield_now();
}
