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

/// The moment at which a change was about to be written. Instants are milliseconds of the monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tried {
    pub(crate) at: u64,
    /// Since when the registry had been running then without a stall.
    pub(crate) awake: u64,
}

impl Crowd {
    /// Since when the silence of `key` counts: its last sign of life, or the end of what nobody living is evicted for.
    pub(crate) fn silent_since(&self, key: &InstanceKey) -> u64 {
        let heard = self.truth.get(key).map_or(0, |truth| truth.heard);
        heard.max(self.clock.awake_since().0 / 1_000).max(self.ready_at)
    }

    /// Judges what the registrar is about to write.
    pub(crate) fn judge(&mut self, batch: &[Arc<Change>]) {
        let now = self.now();
        let awake = (self.clock.awake_since().0 / 1_000).max(self.ready_at);
        for change in batch {
            self.tried.insert(change.seq, Tried { at: now, awake });
            match &change.event {
                Event::Expired { key, overdue } => self.judge_expiry(key, overdue),
                Event::StatusChanged {
                    key,
                    reason: StatusReason::LateHeartbeat,
                    overdue: Some(overdue),
                    ..
                } => {
                    let silence = now - self.silent_since(key);
                    let allowed = match overdue.accrual {
                        // Whatever φ has learned, it doubts nobody before this.
                        Some(_) => overdue.ttl.millis() / 3,
                        None => overdue.ttl.millis() * 2 / 3,
                    };
                    if silence < allowed {
                        let text = format!("{key} is called late after {silence} ms of silence");
                        self.broken.push(text);
                    }
                }
                _ => {}
            }
        }
    }

    fn judge_expiry(&mut self, key: &InstanceKey, overdue: &Arithmetic) {
        // φ may be sure after half a ttl, if it has learned that much.
        let allowed = overdue.ttl.millis() / if overdue.accrual.is_some() { 2 } else { 1 };
        let now = self.now();
        let silence = now - self.silent_since(key);
        let truth = self.truth.get(key).cloned().unwrap_or_default();
        let mut broken = |text: String| self.broken.push(format!("{key} expires: {text}"));
        if silence < allowed {
            broken(format!("it was silent for {silence} ms only, of {allowed} that it may"));
        }
        if now - truth.arrived < allowed {
            broken(format!("a heartbeat of it has waited for {} ms", now - truth.arrived));
        }
        if overdue.gap.millis() < allowed {
            broken(format!("by its own arithmetic it was silent for {} only", overdue.gap));
        }
        if let Some(accrual) = overdue.accrual
            && accrual.phi_milli < accrual.threshold_milli
            && silence < overdue.ttl.millis()
        {
            broken(format!("φ is {} of {}", accrual.phi_milli, accrual.threshold_milli));
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
