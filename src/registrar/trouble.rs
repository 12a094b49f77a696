//! A log that fails: what is answered meanwhile, and how writing resumes. Changes are refused, heartbeats renew
//! leases, nobody expires; the first change afterwards is `log_gap`. Called by the registrar's thread.

use std::sync::Arc;

use super::buffer::Lost;
use super::group::{Decided, Origin, Work};
use super::handle::{Applied, LogCondition, Refused, Timings};
use super::thread::Registrar;
use crate::clock::Monotonic;
use crate::domain::command::Command;
use crate::domain::event::{Event, LogGap, Note};
use crate::domain::{Change, Millis, Seq, Timestamp};
use crate::log::AppendError;
use crate::telemetry::signals;

/// How long to wait before a failed log is tried again.
const RETRY: Millis = Millis::from_millis(100);

/// A log that can't be written.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) since: Timestamp,
    pub(super) cause: Arc<str>,
    pub(super) retry_at: Monotonic,
    /// A group of which nobody knows whether it is in the log.
    pub(super) in_doubt: Option<Decided>,
    pub(super) lost: Lost,
}

impl Registrar {
    pub(super) fn fail(&mut self, error: AppendError, in_doubt: Option<Decided>) {
        self.telemetry.log_failed(&error);
        let since = self.shared.clock.wall().max(self.registry.at());
        let cause: Arc<str> = error.to_string().into();
        let retry_at = self.shared.clock.monotonic().plus(RETRY);
        self.shared.set_condition(LogCondition::Failed { since, cause: Arc::clone(&cause) });
        self.trouble = Some(Trouble { since, cause, retry_at, in_doubt, lost: Lost::default() });
    }

    /// Nothing of these works is in the log. Heartbeats of living instances renew their leases and are
    /// answered from what is published, all else is refused; what was due is looked at again.
    pub(super) fn answer_without_log(&mut self, works: Vec<Work>) {
        let cause =
            self.trouble.as_ref().map_or_else(|| "the log failed".into(), |t| Arc::clone(&t.cause));
        let now = self.shared.clock.monotonic();
        let mut refused = 0;
        for work in works {
            match work.origin {
                Origin::Caller { queued_at, reply } => {
                    let answer = self.renewed_without_log(&work.request.command, queued_at);
                    refused += u64::from(answer.is_none());
                    let answer =
                        answer.ok_or_else(|| Refused::Failed { cause: Arc::clone(&cause) });
                    // A caller that has gone needs no answer.
                    let _ = reply.send(answer);
                }
                Origin::Sweep(due) => due.take_back(&mut self.deadlines, now),
                Origin::Timer(timer) => self.timers.put_back(timer),
                Origin::Own => {}
            }
        }
        self.telemetry.refused(refused);
    }

    /// The answer to a heartbeat whose instance lives: its lease is renewed, its status stays for now.
    /// None for one that says something new of its health: its lease is renewed all the same, but it is refused.
    pub(super) fn renewed_without_log(
        &self,
        command: &Command,
        queued: Timestamp,
    ) -> Option<Applied> {
        let Command::Heartbeat(heartbeat) = command else { return None };
        let entry = self.entry(&heartbeat.key)?;
        if heartbeat.incarnation.is_some_and(|given| given != entry.instance.incarnation) {
            return None;
        }
        entry.lease.word().renew_unless_closed(self.shared.clock.monotonic().0).ok()?;
        entry.lease.saw_heartbeat(self.shared.clock.wall());
        if heartbeat.health.is_some_and(|health| health.contradicts(entry.instance.signals)) {
            // What it says of itself can't be written: it must not be told that it was heard.
            return None;
        }
        Some(Applied {
            change: None,
            instance: Some(Arc::clone(&entry.instance)),
            lease: Some(Arc::clone(&entry.lease)),
            head: self.publisher.projection().head(),
            timings: Timings { queued, ..Default::default() },
        })
    }

    /// Tries to write again: first what is in doubt, then the `log_gap` event.
    pub(super) fn try_to_resume(&mut self, idle: bool) {
        let clock = self.clock();
        let Some(mut trouble) = self.trouble.take() else { return };
        let now = clock.monotonic();
        if now < trouble.retry_at && !idle {
            self.trouble = Some(trouble);
            return;
        }
        trouble.retry_at = now.plus(RETRY);
        if let Some(mut decided) = trouble.in_doubt.take() {
            let first = decided.batch.first().map_or(self.registry.head(), |change| change.seq);
            let expected = Seq(first.0.saturating_sub(1));
            match self.log.resolve(expected, &decided.batch) {
                Ok(_) => {
                    decided.timings.appended = clock.wall();
                    let gap = decided.batch.last().and_then(|change| gap_of(change));
                    self.complete(decided);
                    if let Some(gap) = gap {
                        // It was the gap itself that was in doubt.
                        return self.resumed(&gap);
                    }
                }
                Err(AppendError::Unknown { .. }) => {
                    trouble.in_doubt = Some(decided);
                    self.trouble = Some(trouble);
                    return;
                }
                Err(error) => {
                    let works = decided.undo(&mut self.registry);
                    self.trouble = Some(trouble);
                    self.answer_without_log(works);
                    if matches!(error, AppendError::Conflict { .. }) {
                        // Others wrote meanwhile; what they wrote is folded before anything else.
                        let _ = self.catch_up();
                    }
                    return;
                }
            }
        }
        self.resume_with_gap(trouble);
    }

    pub(super) fn resume_with_gap(&mut self, mut trouble: Trouble) {
        let lost = self.shared.buffer.take_lost();
        trouble.lost.lookups += lost.lookups;
        trouble.lost.heartbeats += lost.heartbeats;
        self.telemetry.lost(lost.lookups + lost.heartbeats);
        let until = self.shared.clock.wall().max(trouble.since);
        let Trouble { since, lost, .. } = trouble;
        let gap = LogGap { from: since, until, lookups: lost.lookups, heartbeats: lost.heartbeats };
        let expected = self.registry.head();
        let work = Work::own(Command::Note(Note::LogGap(gap)));
        let now = self.shared.clock.wall();
        let mut decided = Decided::new(&mut self.registry, &self.pace.quotas, vec![work], now);
        decided.timings.decided = self.shared.clock.wall();
        match self.log.append(expected, &decided.batch) {
            Ok(_) => {
                decided.timings.appended = self.shared.clock.wall();
                self.complete(decided);
                self.resumed(&gap);
            }
            Err(AppendError::Unknown { .. }) => {
                trouble.in_doubt = Some(decided);
                self.trouble = Some(trouble);
            }
            Err(error) => {
                decided.undo(&mut self.registry);
                self.trouble = Some(trouble);
                if matches!(error, AppendError::Conflict { .. }) {
                    let _ = self.catch_up();
                }
            }
        }
    }

    /// The log can be written again, and says so itself.
    pub(super) fn resumed(&mut self, gap: &LogGap) {
        self.shared.set_condition(LogCondition::Writable);
        let LogGap { from, until, lookups, heartbeats } = *gap;
        signals::log_resumed(until.since(from).to_duration(), lookups, heartbeats);
        self.note_stragglers(until);
    }

    /// What was lost between the counting and the end of the failure gets a gap of its own.
    pub(super) fn note_stragglers(&mut self, from: Timestamp) {
        let lost = self.shared.buffer.take_lost();
        if lost != Lost::default() {
            self.telemetry.lost(lost.lookups + lost.heartbeats);
            let until = self.shared.clock.wall().max(from);
            let Lost { lookups, heartbeats } = lost;
            self.note(Note::LogGap(LogGap { from, until, lookups, heartbeats }));
        }
    }
}

fn gap_of(change: &Change) -> Option<LogGap> {
    match &change.event {
        Event::Note(Note::LogGap(gap)) => Some(*gap),
        _ => None,
    }
}
