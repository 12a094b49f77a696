//! Where commands wait for the registrar.

use std::sync::OnceLock;
use std::thread::Thread;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::handle::{Applied, Refused, Request};
use crate::domain::Timestamp;

/// A command, and whom to answer.
#[derive(Debug)]
pub(super) struct QueuedCommand {
    pub(super) request: Request,
    pub(super) queued_at: Timestamp,
    pub(super) reply: oneshot::Sender<Result<Applied, Refused>>,
}

#[derive(Debug)]
struct State {
    waiting: Vec<QueuedCommand>,
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    capacity: usize,
    registrar: OnceLock<Thread>,
}

impl Inbox {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State { waiting: Vec::new(), closed: false };
        Self { state: Mutex::new(state), capacity, registrar: OnceLock::new() }
    }

    /// Says which thread takes from here.
    pub(super) fn served_by(&self, thread: Thread) {
        // A second registrar for one inbox is not built anywhere; the first stays.
        let _ = self.registrar.set(thread);
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn push(&self, command: QueuedCommand) -> Result<(), Refused> {
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Refused::Stopping);
            }
            if state.waiting.len() >= self.capacity {
                return Err(Refused::QueueFull);
            }
            state.waiting.push(command);
        }
        self.wake();
        Ok(())
    }

    /// Takes up to `limit` commands, first come first served.
    pub(super) fn take(&self, limit: usize) -> Vec<QueuedCommand> {
        let mut state = self.state.lock();
        if state.waiting.len() <= limit {
            std::mem::take(&mut state.waiting)
        } else {
            state.waiting.drain(..limit).collect()
        }
    }

    /// Refuses whatever comes from now on; what waits is still taken.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake();
    }

    /// Whether nothing waits and nothing will come.
    pub(super) fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.closed && state.waiting.is_empty()
    }

    /// Whether whatever comes is refused.
    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(super) fn wake(&self) {
        if let Some(thread) = self.registrar.get() {
            thread.unpark();
        }
    }
}
