//! For how long the registrar works without looking up: when very much is due at once (a fleet has died), it would keep a
//! core for as long as the scheduler lets it, some milliseconds, and lookups that wait for that core would wait as long.
//! Between stretches it offers the core to whoever waits; with nobody there that is a system call of a third of a
//! microsecond. Called from the loops over a group.

/// Changes that are worked on in one stretch: some tens of microseconds. A group of everyday size never pauses.
const STRETCH: usize = 16;

/// The next one of a group is about to be worked on.
pub(super) fn step(position: usize) {
    if position % STRETCH == STRETCH - 1 {
        std::thread::yield_now();
    }
}
