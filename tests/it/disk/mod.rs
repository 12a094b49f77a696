//! Proofs on the disk: the power is cut, bytes are damaged, writes and syncs fail or take their time.
//!
//! The built program runs unchanged; between it and the system stands a small library ([`shim`], `shim.c`) that notes
//! every operation on its files, and fails or slows them when told to. [`journal`] makes of these notes what a disk
//! would hold.

mod damage;
mod faults;
mod journal;
mod powercut;
mod shim;
