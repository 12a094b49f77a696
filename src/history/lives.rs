//! The history of one instance: its lives, what happened in them, how steady its heartbeat was, and how much it flaps.
//!
//! [`Lives`] and [`Flap`] are pure; [`lives`] asks the archive for what they need and bounds what it asks for. Called by
//! the API. What retention took is told as missing, never left out in silence.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::archive::{Archive, Error, Extent, Missing, Subject, TrafficQuery};
use super::gaps::{Gap, Gaps};
use super::record::{EventId, Record};
use super::walk::{Life, Step, Unseen, Walk, of_what_is_there};
use crate::domain::event::Kind;
use crate::domain::traffic::{Detail, Numbered};
use crate::domain::{Change, InstanceKey, Seq, Timestamp};

/// How many of the newest traffic events are looked through for heartbeats one by one. At 256 events a block these are
/// less than 4,000 blocks; what is older is told from the roll-ups.
pub const RAW_MAX: u64 = 1_000_000;

/// The history of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceHistory {
    /// Its lives, oldest first; the last one may still go on.
    pub lives: Vec<LifeStory>,
    /// Older lives that were left out.
    pub lives_left_out: u64,
    /// Older transitions that were left out.
    pub transitions_left_out: u64,
    /// See [`Flap`].
    pub flap_score: f64,
    /// Gaps that began before this instant are the widest of each hour only; none if all are exact.
    pub gaps_exact_since: Option<Timestamp>,
    /// What is not there any more.
    pub missing: Vec<Missing>,
}

/// One life of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct LifeStory {
    /// The number of the change that created it.
    pub incarnation: Seq,
    /// When it began.
    pub from: Timestamp,
    /// When it ended; none if it goes on.
    pub until: Option<Timestamp>,
    /// The change that ended it: of this life, or the registration that the next one began with.
    pub ended_by: Option<Record>,
    /// The changes that a lookup could see, oldest first, from the registration to the end.
    pub transitions: Vec<Record>,
    /// The widest gaps between signs of life, the widest first.
    pub widest_gaps: Vec<Gap>,
}

/// How much an instance flaps, from 0.0 (steady) to 1.0.
///
/// Computed as routers compute it for routes that come and go: the figure of merit of RFC 2439 ("BGP Route Flap Damping"),
/// with the defaults that routers ship with (the command reference of JUNOSe, "bgp dampening": 1,000 a flap, half-life 15 minutes, suppress
/// limit 2,000; half a flap for a change of attributes): coming back after having left costs 1, a change of status back to healthy costs
/// 0.5, the sum halves every 15 minutes, and at 2 a route is suppressed. The score is the sum over 2, at most
/// 1.0: an instance has 1.0 if it went and came back twice just now. To leave alone is no flap, however it left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flap {
    merit: f64,
    at: Timestamp,
}

impl Flap {
    const RETURN: f64 = 1.0;
    const RECOVERY: f64 = 0.5;
    const SUPPRESS: f64 = 2.0;
    const HALF_LIFE_MICROS: f64 = 15.0 * 60.0 * 1_000_000.0;

    fn add(&mut self, penalty: f64, at: Timestamp) {
        *self = Self { merit: self.merit_at(at) + penalty, at: at.max(self.at) };
    }

    fn merit_at(&self, now: Timestamp) -> f64 {
        // Beyond 2^53 microseconds, 285 years, it is nothing anyway.
        let passed = now.micros().saturating_sub(self.at.micros()).max(0) as f64;
        self.merit * (-passed / Self::HALF_LIFE_MICROS).exp2()
    }

    /// The score by `now`, to three decimals.
    #[must_use]
    pub fn score(&self, now: Timestamp) -> f64 {
        let score = (self.merit_at(now) / Self::SUPPRESS).min(1.0);
        (score * 1_000.0).round() / 1_000.0
    }
}

/// A life, and what is to be told of it.
#[derive(Debug)]
struct Kept {
    incarnation: Seq,
    from: Timestamp,
    ended: Option<Change>,
    /// When it registered, again too.
    registrations: Vec<Timestamp>,
}

/// Gathers the lives of an instance from its changes.
#[derive(Debug)]
struct Lives {
    walk: Walk,
    limit: usize,
    lives: VecDeque<Kept>,
    lives_left_out: u64,
    /// Of all lives, oldest first, with the incarnation that each is of.
    transitions: VecDeque<(Seq, Seq)>,
    transitions_left_out: u64,
    flap: Flap,
    /// Whether a life has ended before.
    has_left: bool,
}

impl Lives {
    /// Lives on from `walk`, of which at most the newest `limit`, with as many transitions in all.
    fn of(walk: Walk, limit: usize) -> Self {
        let mut lives = Self {
            walk,
            limit: limit.max(1),
            lives: VecDeque::new(),
            lives_left_out: 0,
            transitions: VecDeque::new(),
            transitions_left_out: 0,
            flap: Flap::default(),
            has_left: false,
        };
        if let Some(Life { incarnation, from, .. }) = lives.walk.life() {
            let (incarnation, from) = (*incarnation, *from);
            lives.lives.push_back(Kept {
                incarnation,
                from,
                ended: None,
                registrations: vec![from],
            });
        }
        lives
    }

    fn see(&mut self, change: &Change) {
        match self.walk.see(change) {
            Step::Nothing => {}
            Step::Renewed => self.registered(change),
            Step::Changed { recovered } => {
                if recovered {
                    self.flap.add(Flap::RECOVERY, change.at);
                }
                if change.event.kind() == Kind::Registered {
                    self.registered(change);
                }
                self.transition(change);
            }
            Step::Ended(_) => {
                self.transition(change);
                self.end(change);
            }
            Step::Began { ended } => {
                if ended.is_some() {
                    self.end(change);
                }
                if self.has_left {
                    self.flap.add(Flap::RETURN, change.at);
                }
                if self.lives.len() == self.limit {
                    self.lives.pop_front();
                    self.lives_left_out += 1;
                }
                let (incarnation, from) = (change.seq, change.at);
                let registrations = vec![from];
                self.lives.push_back(Kept { incarnation, from, ended: None, registrations });
                self.transition(change);
            }
        }
    }

    fn registered(&mut self, change: &Change) {
        if let Some(life) = self.lives.back_mut() {
            life.registrations.push(change.at);
        }
    }

    fn end(&mut self, change: &Change) {
        self.has_left = true;
        if let Some(life) = self.lives.back_mut() {
            life.ended = Some(change.clone());
        }
    }

    fn transition(&mut self, change: &Change) {
        let Some(life) = self.lives.back() else { return };
        if self.transitions.len() == self.limit {
            self.transitions.pop_front();
            self.transitions_left_out += 1;
        }
        self.transitions.push_back((life.incarnation, change.seq));
    }
}

/// The history of an instance: at most its newest `limit` lives with at most `limit` transitions in all. [`Unseen`] if
/// nothing that is kept knows it.
///
/// # Errors
/// Those of every question.
pub fn lives(
    archive: &dyn Archive,
    key: &InstanceKey,
    limit: usize,
    now: Timestamp,
) -> Result<Result<(Seq, InstanceHistory), Unseen>, Error> {
    of_what_is_there(archive, |extent| told(archive, key, limit, now, extent))
}

/// The same of what there is.
fn told(
    archive: &dyn Archive,
    key: &InstanceKey,
    limit: usize,
    now: Timestamp,
    extent: &Extent,
) -> Result<Result<(Seq, InstanceHistory), Unseen>, Error> {
    let (walk, from, mut missing) = Walk::begin(archive, key, extent)?;
    let mut lives = Lives::of(walk, limit);
    archive.changes(Subject::Instance(key), from..=extent.newest.seq, &mut |change| {
        lives.see(&change);
        ControlFlow::Continue(())
    })?;
    let Lives { lives: kept, transitions, flap, lives_left_out, transitions_left_out, .. } = lives;
    let Some(oldest) = kept.front() else { return Ok(Err(Unseen::of(extent, &missing))) };
    let since = oldest.from;
    let (gaps, gaps_exact_since) = gaps(archive, key, extent, &kept, since, &mut missing)?;

    let event = |seq: Seq| archive.event(EventId::Change(seq.0));
    let mut stories = Vec::with_capacity(kept.len());
    for (life, gaps) in kept.into_iter().zip(gaps) {
        let own = transitions.iter().filter(|(incarnation, _)| *incarnation == life.incarnation);
        let told = own.map(|(_, seq)| event(*seq)).collect::<Result<Vec<_>, _>>()?;
        stories.push(LifeStory {
            incarnation: life.incarnation,
            from: life.from,
            until: life.ended.as_ref().map(|ended| ended.at),
            widest_gaps: gaps.finish(life.ended.as_ref()),
            ended_by: life.ended.map(|ended| event(ended.seq)).transpose()?.flatten(),
            transitions: told.into_iter().flatten().collect(),
        });
    }
    let history = InstanceHistory {
        lives: stories,
        lives_left_out,
        transitions_left_out,
        flap_score: flap.score(now),
        gaps_exact_since,
        missing,
    };
    Ok(Ok((extent.newest.seq, history)))
}

/// The gaps of each of `lives`, and since when they are exact, if not since the beginning.
fn gaps(
    archive: &dyn Archive,
    key: &InstanceKey,
    extent: &Extent,
    lives: &VecDeque<Kept>,
    since: Timestamp,
    missing: &mut Vec<Missing>,
) -> Result<(Vec<Gaps>, Option<Timestamp>), Error> {
    let first = extent.first_traffic.max(extent.last_traffic.saturating_sub(RAW_MAX - 1));
    // All that ever was is there if the first one is; else it begins with the first one that is looked at.
    let began = match first {
        0 | 1 => None,
        // If it is damaged, nothing is known to be exact.
        first => {
            let event = archive.event_if_readable(EventId::Traffic(first))?;
            Some(event.map_or(extent.newest.at, |event| event.at))
        }
    };
    let exact_since = began.filter(|began| *began > since);
    let mut gaps: Vec<Gaps> = lives
        .iter()
        .map(|life| Gaps::of(life.incarnation, &life.registrations, exact_since))
        .collect();
    let wanted = TrafficQuery {
        kinds: &[Kind::Heartbeat],
        namespace: Some(key.service.namespace.clone()),
        service: Some(key.service.service.clone()),
        instance: Some(key.instance.clone()),
        from: Some(first.max(1)),
        since: Some(since),
        ..TrafficQuery::default()
    };
    let lost = archive.traffic(&wanted, &mut |Numbered { traffic, .. }| {
        if let Detail::Heartbeat { incarnation, .. } = traffic.detail
            && let Some(gaps) = gaps.iter_mut().rfind(|gaps| gaps.incarnation == incarnation)
        {
            gaps.heartbeat(traffic.at);
        }
        ControlFlow::Continue(())
    })?;
    missing.extend(lost);
    if exact_since.is_some() {
        let (runs, _) = archive.heartbeat_runs(key)?;
        for run in &runs {
            if let Some(gaps) = gaps.iter_mut().find(|gaps| gaps.incarnation == run.incarnation) {
                gaps.run(run);
            }
        }
    }
    Ok((gaps, exact_since))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_248_000_000_000);

    fn after(minutes: i64) -> Timestamp {
        Timestamp(NOW.0 + minutes * 60_000_000)
    }

    #[test]
    fn the_flap_score_is_the_figure_of_merit_over_the_limit() {
        let mut flap = Flap::default();
        assert!(flap.score(NOW).abs() < f64::EPSILON, "one that never came back is steady");
        flap.add(Flap::RETURN, NOW);
        let score = |flap: &Flap, minutes| flap.score(after(minutes));
        assert_eq!([0, 15, 30, 150].map(|m| score(&flap, m)), [0.5, 0.25, 0.125, 0.0]);
        flap.add(Flap::RECOVERY, after(15));
        assert_eq!(
            [15, 30].map(|m| score(&flap, m)),
            [0.5, 0.25],
            "0.5 that are left, and 0.5 more"
        );
        for _ in 0..5 {
            flap.add(Flap::RETURN, after(30));
        }
        assert_eq!(score(&flap, 30), 1.0, "no more than 1.0");
        assert_eq!(score(&flap, 20), 1.0, "a clock that goes back adds nothing");
    }
}
