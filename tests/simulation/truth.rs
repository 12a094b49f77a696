//! What really happened to an instance, and the rules by which the registry's decisions about it are judged: at the
//! moment when they are to be written, before anybody could know them.

use std::sync::Arc;

use rollcall::clock::Clock as _;
use rollcall::domain::event::{Arithmetic, StatusReason};
use rollcall::domain::{Change, Event, InstanceKey, Seq, TraceRef};

use crate::crowd::Crowd;

/// The last heartbeat that was given to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LastBeat {
    /// None in this life.
    #[default]
    None,
    /// The one in this trace.
    In(TraceRef),
    /// The log may not have got it: it failed, or the process was killed.
    Unsure,
}

/// What an instance has let the registry know of itself. Instants are milliseconds of the monotonic clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    /// When the registry last took a sign of life of it.
    pub(crate) heard: u64,
    /// When the last heartbeat of a lease that had not run out reached the registry, answered or not.
    pub(crate) arrived: u64,
    /// When the last registration of it was published, whoever still waited for that.
    pub(crate) granted: u64,
    /// Its life, as it was told last.
    pub(crate) incarnation: Option<Seq>,
    pub(crate) last_beat: LastBeat,
}

impl Crowd {
    /// Since when the silence of `key` counts: its last sign of life, or the end of what nobody living is evicted for.
    pub(crate) fn silent_since(&self, key: &InstanceKey) -> u64 {
        let heard = self.truth.get(key).map_or(0, |truth| truth.heard);
        heard.max(self.clock.awake_since().0 / 1_000).max(self.ready_at)
    }

    /// Judges what the registrar is about to write.
    pub(crate) fn judge(&mut self, batch: &[Arc<Change>]) {
        for change in batch {
            match &change.event {
                Event::Expired { key, overdue } => self.judge_expiry(key, overdue),
                Event::StatusChanged {
                    key,
                    reason: StatusReason::LateHeartbeat,
                    overdue: Some(overdue),
                    ..
                } => {
                    let silence = self.now() - self.silent_since(key);
                    if silence < overdue.ttl.millis() * 2 / 3 {
                        let text = format!("{key} is called late after {silence} ms of silence");
                        self.broken.push(text);
                    }
                }
                _ => {}
            }
        }
    }

    fn judge_expiry(&mut self, key: &InstanceKey, overdue: &Arithmetic) {
        let (now, ttl) = (self.now(), overdue.ttl.millis());
        let silence = now - self.silent_since(key);
        let truth = self.truth.get(key).cloned().unwrap_or_default();
        let mut broken = |text: String| self.broken.push(format!("{key} expires: {text}"));
        if silence < ttl {
            broken(format!("it was silent for {silence} ms only, of {ttl} that it may"));
        }
        if now - truth.arrived < ttl {
            broken(format!("a heartbeat of it has waited for {} ms", now - truth.arrived));
        }
        if overdue.gap.millis() < ttl {
            broken(format!("by its own arithmetic it was silent for {} only", overdue.gap));
        }
        let named = overdue.last_heartbeat.map(|heartbeat| heartbeat.trace);
        let right = match truth.last_beat {
            LastBeat::None => named.is_none(),
            LastBeat::In(trace) => named == Some(trace),
            LastBeat::Unsure => true,
        };
        if !right {
            broken(format!("the last heartbeat is {:?}, it names {named:?}", truth.last_beat));
        }
    }
}
