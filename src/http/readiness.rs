//! Whether the registry serves yet, and what it does until then. `app` writes it while it replays; the
//! request scope, `/readyz` and `/v1/status` read it.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Not ready at first, ready once and for ever after.
#[derive(Debug, Default)]
pub struct Readiness {
    ready: AtomicBool,
    phase: Mutex<String>,
}

impl Readiness {
    /// Says what is being done: `replaying 1000 of 50000 changes`.
    pub fn set_phase(&self, phase: impl Into<String>) {
        *self.phase.lock() = phase.into();
    }

    /// Says that all is done: from now on requests are served.
    pub fn set_ready(&self) {
        self.set_phase("ready");
        self.ready.store(true, Ordering::Release);
    }

    /// Whether requests are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// What is being done.
    #[must_use]
    pub fn phase(&self) -> String {
        let phase = self.phase.lock();
        if phase.is_empty() { "starting".to_owned() } else { phase.clone() }
    }
}
