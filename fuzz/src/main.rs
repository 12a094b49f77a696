//! Looks for inputs that break something, led by which code they reach (libFuzzer). The targets are those of
//! `tests/fuzz/targets`; `ROLLCALL_FUZZ_TARGET` says which of them. `.ci/fuzz` builds and runs it.

#![no_main]
#![expect(clippy::unwrap_used, reason = "a target that panics has found something")]

#[path = "../../tests/fuzz/targets/mod.rs"]
mod targets;

use std::sync::OnceLock;

use targets::{ALL, Target};

fn chosen() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("ROLLCALL_FUZZ_TARGET").unwrap_or_default();
        let target = ALL.iter().find(|(known, _)| *known == name);
        let names = ALL.map(|(name, _)| name).join(", ");
        target.unwrap_or_else(|| panic!("ROLLCALL_FUZZ_TARGET must be one of {names}, was {name:?}")).1
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| chosen()(data));
