//! The engine of a replay: one thread that folds and publishes the recorded changes when their time comes, and goes
//! elsewhere when it is told to.
//!
//! ```text
//!   forwards, near:   the changes between are folded into the state, and published once
//!   elsewhere:        the state there is asked of the archive, and everything is published anew
//! ```
//!
//! It decides nothing: what was recorded happens, no more and no less. A log that can't be read stops it where it is;
//! what was published goes on being answered.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::handle::{Handle, Queued, Refused, Shared, Steer};
use super::tape::{Place, Position, ReplayClock, Speed, Tape};
use crate::clock::Clock;
use crate::domain::{Change, Instance, Millis, Registry, Seq, ServiceKey, Timestamp, fold};
use crate::history::{self, Archive, Extent, Moment, Subject, Version};
use crate::lease::Lease;
use crate::projection::{Projection, Publisher};
use crate::registrar::Telemetry;
use crate::watch::Hub;

/// Changes that are read at once.
const AHEAD: usize = 1_024;

/// A jump forwards over at most so many changes folds them; a longer one asks for the state there.
const NEAR: u64 = 4_096;

/// How long the engine sleeps when there is nothing to do; it is woken when there is.
const IDLE: Millis = Millis::from_millis(3_600_000);

/// Which stretch of the past, and how it begins.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// From where; none is the first change that is kept.
    pub from: Option<Moment>,
    /// Until where; none is the last change.
    pub to: Option<Moment>,
    /// How fast.
    pub speed: Speed,
    /// Whether it goes on at once.
    pub play: bool,
}

/// Why a replay can't begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The past can't be told.
    #[error(transparent)]
    History(#[from] history::Error),
    /// Nothing was recorded.
    #[error("the log holds no change: there is nothing to replay")]
    Empty,
    /// The stretch ends before it begins.
    #[error("the replay would end ({}) before it begins ({})", crate::rfc3339::format(to.at), crate::rfc3339::format(from.at))]
    Backwards {
        /// Where it would begin.
        from: Place,
        /// Where it would end.
        to: Place,
    },
    /// The operating system gives no thread.
    #[error("can't start the thread of the replay")]
    Thread(#[source] std::io::Error),
}

/// A replay that was started.
#[derive(Debug)]
pub struct Running {
    /// The way to it.
    pub handle: Handle,
    /// The replayed present, for those who ask for the time.
    pub clock: Arc<ReplayClock>,
    /// The past up to the replayed present.
    pub archive: Arc<super::Cut>,
    thread: JoinHandle<()>,
}

/// Where a replay publishes what happens.
#[derive(Debug)]
pub struct Publishing {
    /// What reads are answered from.
    pub projection: Arc<Projection>,
    /// Who waits for changes.
    pub hub: Arc<Hub>,
}

/// Publishes the state at the beginning and starts the engine. Blocks until the state is there.
///
/// # Errors
/// [`StartError`].
pub fn start(
    archive: Arc<dyn Archive>,
    publishing: Publishing,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
    config: Config,
) -> Result<Running, StartError> {
    let (from, to) = stretch(&*archive, config)?;
    let tape = Arc::new(Tape::new(Arc::clone(&clock), from, to, config.speed));
    let shared = Arc::new(Shared::new(Arc::clone(&tape)));
    let mut engine = Engine {
        archive: Arc::clone(&archive),
        publisher: Publisher::new(publishing.projection),
        hub: publishing.hub,
        shared: Arc::clone(&shared),
        tape: Arc::clone(&tape),
        clock: Arc::clone(&clock),
        telemetry,
        registry: Registry::default(),
        ahead: VecDeque::new(),
    };
    engine.rebuild(from)?;
    tape.play(config.play);
    let told = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("rollcall-replay".into())
        .spawn(move || {
            told.served_by(std::thread::current());
            engine.run();
        })
        .map_err(StartError::Thread)?;
    let clock = Arc::new(ReplayClock { tape: Arc::clone(&tape), real: clock });
    let archive = Arc::new(super::Cut::new(archive, tape));
    Ok(Running { handle: Handle { shared }, clock, archive, thread })
}

impl Running {
    /// Ends the thread and waits for it. Blocks.
    pub fn stop(self) {
        self.handle.shared.close();
        // A panic of the engine was reported by the hook of the process, and nothing depends on it any more.
        let _ = self.thread.join();
    }
}

/// Where the replay begins and ends.
fn stretch(archive: &dyn Archive, config: Config) -> Result<(Place, Place), StartError> {
    let Extent { oldest, newest, .. } = archive.extent()?;
    if newest.seq == Seq::ZERO {
        return Err(StartError::Empty);
    }
    let to = match config.to {
        Some(moment) => place(archive, moment)?,
        None => Place { at: newest.at, seq: newest.seq },
    };
    let from = match config.from {
        Some(moment) => place(archive, moment)?,
        // The time before the first change is empty, and may be decades.
        None => Place { at: first_after(archive, oldest)?.unwrap_or(oldest.at), seq: oldest.seq },
    };
    if from.at > to.at || from.seq > to.seq {
        return Err(StartError::Backwards { from, to });
    }
    Ok((from, to))
}

/// When the first change after `version` happened.
fn first_after(
    archive: &dyn Archive,
    version: Version,
) -> Result<Option<Timestamp>, history::Error> {
    let mut found = None;
    archive.changes(Subject::All, version.seq.next()..=Seq(u64::MAX), &mut |change| {
        found = Some(change.at);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// The place that a moment names: an instant is taken as it is, though no change happened just then.
fn place(archive: &dyn Archive, moment: Moment) -> Result<Place, history::Error> {
    let Version { seq, at } = archive.version(moment)?;
    Ok(match moment {
        Moment::At(at) => Place { at, seq },
        Moment::Version(_) => Place { at, seq },
    })
}

/// Nothing renews a lease here, and nobody looks for its end.
fn lease(instance: &Arc<Instance>, _: Option<&Lease>) -> Lease {
    Lease::for_show(instance.ttl)
}

struct Engine {
    archive: Arc<dyn Archive>,
    publisher: Publisher,
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    tape: Arc<Tape>,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
    /// The state that is published.
    registry: Registry,
    /// The changes that come next.
    ahead: VecDeque<Arc<Change>>,
}

impl Engine {
    /// Takes requests and lets changes happen, until it is told to end.
    fn run(&mut self) {
        loop {
            match self.shared.take() {
                Ok(Some(Queued { steer, reply })) => {
                    // Who asked may have gone away.
                    let _ = reply.send(self.steer(steer));
                    continue;
                }
                Ok(None) => {}
                Err(_) => return,
            }
            let until = if self.tape.is_playing() {
                self.advance().unwrap_or_else(|error| {
                    self.trouble(&error);
                    self.clock.monotonic().plus(IDLE)
                })
            } else {
                self.clock.monotonic().plus(IDLE)
            };
            self.clock.park(until);
        }
    }

    fn trouble(&self, error: &history::Error) -> Arc<str> {
        crate::telemetry::signals::replay_stopped(error);
        let cause: Arc<str> = error.to_string().into();
        self.tape.fail(Arc::clone(&cause));
        cause
    }

    /// Lets happen what is due; gives the moment at which there is more to do.
    fn advance(&mut self) -> Result<crate::clock::Monotonic, history::Error> {
        let to = self.tape.to();
        loop {
            self.read_ahead(to.seq)?;
            let now = self.tape.place().at;
            let due = self.ahead.partition_point(|change| change.at <= now);
            if due == 0 {
                break;
            }
            let changes: Vec<_> = self.ahead.drain(..due).collect();
            self.apply(&changes);
        }
        let next = self.ahead.front().map_or(to.at, |change| change.at);
        if self.ahead.is_empty() && self.tape.place().at >= to.at {
            self.tape.play(false);
            return Ok(self.clock.monotonic().plus(IDLE));
        }
        Ok(self.tape.due(next))
    }

    /// Has the next changes up to `last` at hand, if there are any.
    fn read_ahead(&mut self, last: Seq) -> Result<(), history::Error> {
        let next = self.registry.head().next();
        if !self.ahead.is_empty() || next > last {
            return Ok(());
        }
        let ahead = &mut self.ahead;
        self.archive.changes(Subject::All, next..=last, &mut |change| {
            ahead.push_back(Arc::new(change));
            if ahead.len() < AHEAD { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
    }

    /// Folds these changes, which come next, and publishes what they touched.
    fn apply(&mut self, changes: &[Arc<Change>]) {
        let mut touched = BTreeSet::new();
        for change in changes {
            // Nothing is ever taken back: these changes are in the log.
            drop(fold(&mut self.registry, change));
            touched.extend(change.event.key().map(|key| key.service.clone()));
        }
        let published = self.publisher.publish(&self.registry, &touched, lease);
        self.tape.reached(self.registry.head());
        // A stream is told each change once: after a jump back it is quiet until the replay is where it was.
        self.hub.published(changes, touched.iter(), self.clock.monotonic());
        self.telemetry.replayed(changes, &published.shifts, self.registry.head());
    }

    /// Publishes the state of another place in the stead of the present one.
    fn rebuild(&mut self, place: Place) -> Result<(), history::Error> {
        self.registry = self.archive.state(place.seq)?;
        self.ahead.clear();
        let published = self.publisher.replace(&self.registry, lease);
        self.tape.jump(place);
        let services: Vec<&ServiceKey> = self.registry.services().map(|(key, _)| key).collect();
        // Changes that were jumped over are taken from the log by the streams that want them.
        self.hub.published(&[], services.into_iter(), self.clock.monotonic());
        self.telemetry.replayed(&[], &published.shifts, self.registry.head());
        Ok(())
    }

    fn steer(&mut self, steer: Steer) -> Result<Position, Refused> {
        let unreadable = |error: history::Error| Refused::Unreadable(error.to_string().into());
        let (from, to) = (self.tape.from(), self.tape.to());
        let outside = Refused::Outside { from, to };
        let at_end = self.tape.position().state == super::Playing::Ended;
        let again = (steer.play == Some(true) && steer.at.is_none() && at_end).then_some(from);
        let target = match steer.at {
            None => again,
            Some(moment) => match place(&*self.archive, moment) {
                // Several changes may share the instant of the end.
                Ok(Place { at, seq }) => Some(Place { at, seq: seq.min(to.seq) }),
                Err(history::Error::Damaged(cause) | history::Error::Unreadable(cause)) => {
                    return Err(Refused::Unreadable(cause.into()));
                }
                Err(history::Error::Gone { .. } | history::Error::Ahead { .. }) => {
                    return Err(outside);
                }
            },
        };
        if let Some(target) = target {
            let version_is_beyond = matches!(steer.at, Some(Moment::Version(seq)) if seq > to.seq);
            let is_within = target.at >= from.at && target.at <= to.at && target.seq >= from.seq;
            if !is_within || version_is_beyond {
                return Err(outside);
            }
            self.go(target).map_err(unreadable)?;
        }
        if let Some(speed) = steer.speed {
            self.tape.set_speed(speed);
        }
        if let Some(play) = steer.play {
            self.tape.play(play);
        }
        Ok(self.tape.position())
    }

    fn go(&mut self, target: Place) -> Result<(), history::Error> {
        let head = self.registry.head();
        if target.seq < head || target.seq.0 - head.0 > NEAR {
            return self.rebuild(target);
        }
        while self.registry.head() < target.seq {
            self.read_ahead(target.seq)?;
            let near = self.ahead.partition_point(|change| change.seq <= target.seq);
            if near == 0 {
                break;
            }
            let changes: Vec<_> = self.ahead.drain(..near).collect();
            self.apply(&changes);
        }
        self.tape.jump(target);
        Ok(())
    }
}
