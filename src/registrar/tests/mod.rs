//! The registrar's real thread on a log in memory and a clock that moves when told to.
//!
//! Waiting is either for an answer, or for a value that somebody else's thread brings about, with a bound and
//! the last value seen. Nothing here depends on how fast the machine is.

mod damping;
mod failure;
mod guard;
mod leases;
mod life;
mod rig;
mod snapshots;
mod timers;

use rig::{Rig, eventually};
