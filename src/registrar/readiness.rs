//! How far the start has come.

use std::sync::{Arc, OnceLock};

use std::fmt;

use tokio::sync::watch;

use crate::domain::event::Recovered;

/// A phase of the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Changes are folded.
    Replaying {
        /// Folded so far.
        done: u64,
        /// In the log.
        total: u64,
    },
    /// Requests are served.
    Ready,
    /// The start has failed, or the registrar has ended without being told to: nothing can be served.
    Failed,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaying { done, total } => write!(f, "replayed {done} of {total} changes"),
            Self::Ready => f.write_str("ready"),
            Self::Failed => f.write_str("failed"),
        }
    }
}

/// The phase, for those who wait for it and for those who ask.
#[derive(Clone, Debug)]
pub struct Readiness {
    phase: watch::Sender<Phase>,
    figures: Arc<OnceLock<Recovered>>,
}

impl Default for Readiness {
    fn default() -> Self {
        let phase = watch::Sender::new(Phase::Replaying { done: 0, total: 0 });
        Self { phase, figures: Arc::default() }
    }
}

impl Readiness {
    /// That of a registry which has nothing to recover.
    #[must_use]
    pub fn at_once() -> Self {
        let readiness = Self::default();
        readiness.set(Phase::Ready);
        readiness
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Whether requests are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Ready
    }

    /// Waits until the start has ended, one way or the other.
    pub async fn settled(&self) -> Phase {
        let mut phases = self.phase.subscribe();
        let settled = phases.wait_for(|phase| !matches!(phase, Phase::Replaying { .. })).await;
        settled.map_or(Phase::Failed, |phase| phase.clone())
    }

    /// Waits until nothing can be served any more.
    pub async fn failed(&self) {
        let mut phases = self.phase.subscribe();
        // The sender is `self`: it outlives the wait.
        let _ = phases.wait_for(|phase| *phase == Phase::Failed).await;
    }

    /// The figures of the replay, once it is done.
    #[must_use]
    pub fn figures(&self) -> Option<Recovered> {
        self.figures.get().cloned()
    }

    pub(super) fn set_ready(&self, figures: Recovered) {
        // There is one replay a run.
        let _ = self.figures.set(figures);
        self.set(Phase::Ready);
    }

    pub(super) fn set(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }
}

/// Says so when the registrar's thread panics.
#[derive(Debug)]
pub(super) struct PanicWatch(pub(super) Readiness);

impl Drop for PanicWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set(Phase::Failed);
        }
    }
}
