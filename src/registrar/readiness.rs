//! How far the start has come.

use tokio::sync::watch;

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

/// The phase, for those who wait for it and for those who ask.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Sender<Phase>);

impl Default for Readiness {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Replaying { done: 0, total: 0 }))
    }
}

impl Readiness {
    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.borrow().clone()
    }

    /// Whether requests are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.0.borrow() == Phase::Ready
    }

    /// Waits until the start has ended, one way or the other.
    pub async fn settled(&self) -> Phase {
        let mut phases = self.0.subscribe();
        let settled = phases.wait_for(|phase| !matches!(phase, Phase::Replaying { .. })).await;
        settled.map_or(Phase::Failed, |phase| phase.clone())
    }

    /// Waits until nothing can be served any more.
    pub async fn failed(&self) {
        let mut phases = self.0.subscribe();
        // The sender is `self`: it outlives the wait.
        let _ = phases.wait_for(|phase| *phase == Phase::Failed).await;
    }

    pub(super) fn set(&self, phase: Phase) {
        self.0.send_replace(phase);
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
