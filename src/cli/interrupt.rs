//! The wish of the user or the system that the program ends: Ctrl-C or SIGTERM.
//!
//! It only tells; what is to be done then is the caller's. Used by commands that run until they are stopped. The server
//! has its own, as its order of stopping is part of what it promises.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears SIGINT and SIGTERM from the moment it was made, also while nobody waits.
#[derive(Debug)]
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// Begins to listen; from then on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub(crate) fn listen() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for either signal. Dropping the future loses no signal.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
