//! From the log to a state that can serve: the newest whole snapshot, the changes after it, the last heartbeats, a
//! check, leases with a fresh grace.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use foldhash::fast::RandomState;

use super::flush::SLICE;
use super::readiness::{Phase, Readiness};
use super::thread::Registrar;
use super::timers::Begun;
use crate::clock::Monotonic;
use crate::domain::event::{HeartbeatRef, Note, Recovered};
use crate::domain::traffic::Detail;
use crate::domain::{Change, InstanceKey, Seq, ServiceKey, Timestamp, invariants};
use crate::lease::Lease;
use crate::log::snapshot::{Life, Lives};
use crate::log::{AppendError, Log, ReadError, Snapshot};
use crate::telemetry::signals;

/// Changes read at once.
const CHUNK: usize = 8_192;

/// How many times as many may be read before they are folded.
const CHUNKS_AHEAD: usize = 2;

/// Traffic events read backwards to find the last heartbeats: what is older than these millions is not
/// worth the wait, every lease has a fresh grace anyway.
const TRAFFIC_MAX: u64 = 1_000_000;

/// Why a registry can't serve.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The log can't be read, or something in it is not what was written.
    #[error("replay stopped; `rollcall verify` says more")]
    Read(#[from] ReadError),
    /// A change does not follow from those before it.
    #[error(
        "replay stopped at a change that does not follow from those before it; `rollcall verify` says more"
    )]
    Violation(#[from] invariants::Violation),
    /// Changes have gone, and so has every state that those after them lead on from.
    #[error(
        "the changes before {first} are gone, and no snapshot of the state before it is whole: bring a backup back with `rollcall restore FILE --data DIR`"
    )]
    Baseless {
        /// The first change that is kept.
        first: Seq,
    },
    /// The log can't be written.
    #[error("the log can't be written")]
    Write(#[from] AppendError),
}

/// What is known of the run before.
struct Before {
    clean: bool,
    last_at: Option<Timestamp>,
}

/// The changes end where the log says that they do. SQLite finds no damage when an older page stands in for a newer one:
/// a write-ahead log that is damaged where it was moved into the file already ends there, and what is before that counts.
fn ends_at(reached: Seq, head: Seq) -> Result<(), RecoverError> {
    if reached == head {
        return Ok(());
    }
    let (place, what) = if reached < head {
        (format!("what follows change {reached}"), format!("the log goes on to change {head}"))
    } else {
        (format!("change {}", head.next()), format!("the log ends at change {head}"))
    };
    Err(ReadError::Damaged { place, what }.into())
}

/// Reads on while what was read is folded: to take changes apart is half of a replay. Ends with the changes, with an error,
/// or when nobody takes what it reads any more.
fn read_ahead(
    log: &mut dyn Log,
    mut from: Seq,
    ahead: &SyncSender<Result<Vec<Change>, ReadError>>,
) {
    loop {
        let chunk = log.read(from, CHUNK);
        let next = match &chunk {
            Ok(changes) => match changes.last() {
                Some(last) => Some(last.seq.next()),
                None => return,
            },
            Err(_) => None,
        };
        let is_taken = ahead.send(chunk).is_ok();
        match next {
            Some(next) if is_taken => from = next,
            _ => return,
        }
    }
}

impl Registrar {
    /// Brings the state up to the head of the log and publishes it.
    pub(super) fn recover(
        &mut self,
        readiness: &Readiness,
        version: &str,
        node: &str,
    ) -> Result<(), RecoverError> {
        let clock = Arc::clone(&self.shared.clock);
        let (started, started_wall) = (clock.monotonic(), clock.wall());
        let before = Before { last_at: self.log.last_at(), clean: self.log.begin()? };
        let total = self.log.head();
        let mut state = self.base()?;
        let base = (state.registry.head(), state.registry.instance_count() as u64);
        let loaded = clock.monotonic();
        let begun = self.replay(&mut state, readiness, total)?;
        invariants::check_registry(&state.registry)?;
        let traffic = self.last_heartbeats(&mut state)?;
        self.registry = std::mem::take(&mut state.registry);
        let took = clock.monotonic().since(started);
        let recovered = Recovered {
            changes: total.0.saturating_sub(base.0.0),
            traffic,
            instances: self.registry.instance_count() as u64,
            services: self.registry.service_count() as u64,
            took,
            clean: before.clean,
            traffic_missing_from: before.last_at.filter(|_| !before.clean),
            digest: self.registry.digest(),
        };
        let snapshot = (base.1, loaded.since(started).to_duration());
        let tail = (recovered.changes + traffic, clock.monotonic().since(loaded).to_duration());
        signals::recovered(
            &self.telemetry.metrics.replay,
            &signals::Recovered {
                snapshot,
                tail,
                head_seq: total.0,
                instances: recovered.instances,
                services: recovered.services,
                ready_at: super::observe::system_time(clock.wall()),
            },
        );
        self.telemetry.replay_span(started_wall, [snapshot, tail], clock.monotonic());
        self.note(Note::Started { version: version.into(), node: node.into() });
        self.note(Note::Recovered(recovered.clone()));
        // Not before: nobody can renew a lease while these are written, however long that takes.
        self.publish_recovered(total, &state.lives, clock.monotonic());
        self.time_recovered(&begun, clock.monotonic());
        readiness.set_ready(recovered);
        Ok(())
    }

    /// The newest snapshot that is whole, or the empty beginning.
    fn base(&mut self) -> Result<Snapshot, RecoverError> {
        let found = match self.log.snapshots() {
            Err(ReadError::Damaged { place, what }) => {
                signals::snapshot_damaged(&place, &what);
                Vec::new()
            }
            found => found?,
        };
        for seq in found.into_iter().rev() {
            match self.log.snapshot(seq) {
                Ok(Some(snapshot)) => return Ok(snapshot),
                Ok(None) => {}
                Err(ReadError::Damaged { place, what }) => {
                    signals::snapshot_damaged(&place, &what);
                }
                Err(error) => return Err(error.into()),
            }
        }
        match self.log.first()? {
            Seq(1) => Ok(Snapshot::default()),
            first => Err(RecoverError::Baseless { first }),
        }
    }

    fn replay(
        &mut self,
        state: &mut Snapshot,
        readiness: &Readiness,
        head: Seq,
    ) -> Result<Begun, RecoverError> {
        let mut begun = Begun::default();
        let base = state.registry.head();
        let total = head.0.saturating_sub(base.0);
        thread::scope(|scope| {
            let (ahead, chunks) = sync_channel(CHUNKS_AHEAD);
            let log = &mut self.log;
            scope.spawn(move || read_ahead(&mut **log, base.next(), &ahead));
            let reached =
                |done: Seq| readiness.set(Phase::Replaying { done: done.0 - base.0, total });
            reached(base);
            for chunk in chunks {
                for change in &chunk? {
                    invariants::check_change(&state.registry, change)?;
                    begun.see(&state.registry, change);
                    state.fold(change);
                }
                reached(state.registry.head());
            }
            ends_at(state.registry.head(), head)?;
            Ok(begun)
        })
    }

    /// Looks in the traffic that the snapshot does not know for the last heartbeat of each living instance; how many
    /// events were read for it.
    fn last_heartbeats(&mut self, state: &mut Snapshot) -> Result<u64, ReadError> {
        let mut found: HashSet<Seq, RandomState> = HashSet::default();
        let living = state.registry.instance_count();
        // Those of the flush that was being noted when the snapshot was begun may not be in it.
        let known = state.next_traffic.saturating_sub(SLICE as u64).max(1);
        let mut before = self.log.next_number();
        let mut read = 0;
        while found.len() < living && before > known && read < TRAFFIC_MAX {
            let events = match self.log.read_back(before, CHUNK) {
                // Traffic is no state: what is damaged there costs the names of some last heartbeats.
                Err(ReadError::Damaged { place, what }) => {
                    signals::traffic_damaged(&place, &what);
                    break;
                }
                read => read?,
            };
            let Some(oldest) = events.last() else { break };
            before = oldest.number;
            read += events.len() as u64;
            for event in events {
                let Detail::Heartbeat { incarnation, .. } = event.traffic.detail else { continue };
                let (Some(namespace), Some(service), Some(instance)) =
                    (event.traffic.namespace, event.traffic.service, event.traffic.instance)
                else {
                    continue;
                };
                let key = InstanceKey { service: ServiceKey { namespace, service }, instance };
                let lives =
                    state.registry.instance(&key).is_some_and(|i| i.incarnation == incarnation);
                if lives && found.insert(incarnation) {
                    let (at, id, trace) = (event.traffic.at, event.number, event.traffic.trace);
                    let heartbeat = HeartbeatRef { at, id, trace };
                    let known = state.lives.entry(incarnation).or_default();
                    if known.last_heartbeat.is_none_or(|known| known.id < id) {
                        known.last_heartbeat = Some(heartbeat);
                    }
                }
            }
        }
        Ok(read)
    }

    /// Publishes what was replayed up to `head`, with a fresh grace for every lease.
    fn publish_recovered(&mut self, head: Seq, lives: &Lives, now: Monotonic) {
        let all: BTreeSet<ServiceKey> =
            self.registry.services().map(|(key, _)| key.clone()).collect();
        // A note that was begun with and may not be in the log is folded and must not show.
        let head = self.publisher.projection().head().max(head);
        let published = self.publisher.publish_as(&self.registry, head, &all, |instance, _| {
            let Life { last_heartbeat, registration } =
                lives.get(&instance.incarnation).copied().unwrap_or_default();
            let late = instance.signals.late;
            Lease::replayed(instance.ttl, late, last_heartbeat, registration, now)
                .judged_by(instance.detector)
        });
        self.watch(published.granted, now);
        self.guard_begins();
        self.telemetry.shifted(&published.shifts);
    }
}
