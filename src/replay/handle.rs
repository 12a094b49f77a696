//! What others hold of a replay: where it stands, and how it is told to go elsewhere. Never blocks a thread.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::tape::{Place, Position, Speed, Tape};
use crate::history::Moment;

/// What is asked of a replay; what is `None` stays as it is. A jump comes first, then the pace, then play or pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steer {
    /// Go there.
    pub at: Option<Moment>,
    /// Go so fast.
    pub speed: Option<Speed>,
    /// Go on (true) or stand still. Going on at the end begins again at the beginning.
    pub play: Option<bool>,
}

/// Why a replay did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The place is not within the stretch that is replayed.
    #[error("it is outside of the stretch that is replayed")]
    Outside {
        /// Where the stretch begins.
        from: Place,
        /// Where it ends.
        to: Place,
    },
    /// The log can't be read.
    #[error("{0}")]
    Unreadable(Arc<str>),
    /// Too many wait to steer it.
    #[error("too many requests wait for the replay")]
    Busy,
    /// The replay has ended.
    #[error("the replay is shutting down")]
    Stopping,
}

/// Requests that may wait for the engine: a person steers, or a script, not a crowd.
const WAITING_MAX: usize = 64;

/// A request, and whom to answer.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) steer: Steer,
    pub(super) reply: oneshot::Sender<Result<Position, Refused>>,
}

#[derive(Debug, Default)]
struct Inbox {
    waiting: VecDeque<Queued>,
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) tape: Arc<Tape>,
    inbox: Mutex<Inbox>,
    engine: OnceLock<Thread>,
}

impl Shared {
    pub(super) fn new(tape: Arc<Tape>) -> Self {
        Self { tape, inbox: Mutex::default(), engine: OnceLock::new() }
    }

    /// Says which thread takes the requests.
    pub(super) fn served_by(&self, thread: Thread) {
        // There is one engine a replay.
        let _ = self.engine.set(thread);
    }

    /// The next request; `Err` once the replay is to end.
    pub(super) fn take(&self) -> Result<Option<Queued>, Refused> {
        let mut inbox = self.inbox.lock();
        match inbox.waiting.pop_front() {
            Some(queued) => Ok(Some(queued)),
            None if inbox.closed => Err(Refused::Stopping),
            None => Ok(None),
        }
    }

    pub(super) fn close(&self) {
        self.inbox.lock().closed = true;
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = self.engine.get() {
            thread.unpark();
        }
    }
}

/// The way to a replay; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.shared.tape.position()
    }

    /// Steers it, and waits until it is there: what is looked up afterwards is of the new place.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then, except that a log which can't be read stops the replay.
    pub async fn steer(&self, steer: Steer) -> Result<Position, Refused> {
        let (reply, answer) = oneshot::channel();
        {
            let mut inbox = self.shared.inbox.lock();
            if inbox.closed {
                return Err(Refused::Stopping);
            }
            if inbox.waiting.len() >= WAITING_MAX {
                return Err(Refused::Busy);
            }
            inbox.waiting.push_back(Queued { steer, reply });
        }
        self.shared.wake();
        // The engine drops no request that it took, except when it ends.
        answer.await.unwrap_or(Err(Refused::Stopping))
    }
}
