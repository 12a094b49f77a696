//! How many files the system lets this process have open, and how many connections that carries.
//!
//! Each connection is an open file, as are the log and what reads it. Out of them, nothing would be accepted and no question
//! about the past could open the log; so the rest is kept free of connections. Called by [`super`] at the start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files beside the connections, where there are plenty: 512 threads that block may read the log, each with two
/// files; the rest is for the log itself, the collector and the runtime.
const OTHERS_MAX: u64 = 1_200;
/// The same as a share of few: one in so many.
const OTHERS_SHARE: u64 = 8;

/// Raises the limit of open files as far as the process may (the soft limit to the hard one); gives what it is then, none
/// if there is none.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        // Some systems have a lower limit behind the one that they tell.
        Err(_) => current,
    }
}

/// How many of the `wanted` connections fit in `limit` open files.
pub(super) fn connections(wanted: u32, limit: Option<u64>) -> u32 {
    let Some(limit) = limit else { return wanted };
    let others = (limit / OTHERS_SHARE).min(OTHERS_MAX);
    let room = u32::try_from(limit - others).unwrap_or(u32::MAX);
    wanted.min(room.max(1))
}

/// The limit that carries so many connections.
pub(super) fn needed(connections: u32) -> u64 {
    u64::from(connections) + OTHERS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_the_log() {
        for (wanted, limit, expected) in [
            (16_384, None, 16_384),
            (16_384, Some(1 << 20), 16_384),
            (16_384, Some(needed(16_384)), 16_384),
            (16_384, Some(needed(16_384) - 1), 16_383),
            (16_384, Some(1_024), 896),
            (100, Some(1_024), 100),
            (100, Some(0), 1),
            (u32::MAX, Some(u64::MAX), u32::MAX),
        ] {
            assert_eq!(connections(wanted, limit), expected, "{wanted} of {limit:?}");
        }
    }
}
