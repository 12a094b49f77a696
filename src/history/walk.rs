//! The lives of one instance, one after the other, told from its changes.
//!
//! A life begins with the registration that created it (its incarnation is the number of that change) and ends when the
//! instance leaves, or when it registers at another address, which is another process. What a change did is read off
//! the state before and after the very fold that makes the state: no rule is written a second time. Pure but for
//! [`Walk::begin`], which asks the archive where to begin. Called by [`super::lives`] and [`super::why`].

use std::sync::Arc;

use super::archive::{Archive, Error, Extent, Missing};
use super::moment::Version;
use crate::domain::event::{Event, Outcome};
use crate::domain::fold;
use crate::domain::registry::Service;
use crate::domain::{Change, Instance, InstanceKey, Registry, Seq, Status, Timestamp, TraceRef};

/// What can be said of an instance that nothing kept tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// Whether it may have lived before `oldest`: its service did, and the changes of that time are gone.
    pub compacted: bool,
    /// Where the log begins.
    pub oldest: Version,
    /// Where it ends.
    pub newest: Version,
}

impl Unseen {
    /// Of an instance without a life in this extent, of which this is missing.
    pub(super) fn of(extent: &Extent, missing: &[Missing]) -> Self {
        let compacted = !missing.is_empty();
        Self { compacted, oldest: oldest_of(extent), newest: extent.newest }
    }
}

/// A snapshot may be the oldest state at hand while every change is still there.
fn oldest_of(extent: &Extent) -> Version {
    match extent.first_change {
        0 | 1 => Version::default(),
        _ => extent.oldest,
    }
}

/// One life of an instance.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Life {
    /// The number of the change that created it.
    pub(super) incarnation: Seq,
    /// When it began.
    pub(super) from: Timestamp,
    /// The registration that created it; none if retention took it.
    pub(super) began: Option<Change>,
    /// The instance as it is, or as it last was.
    pub(super) instance: Arc<Instance>,
    /// The last change of its status, or of its being held at `unstable`, and the status before; none if it never
    /// changed.
    pub(super) moved: Option<(Change, Status)>,
    /// The last registration, which may have renewed the life rather than begun it.
    pub(super) renewed: Option<Change>,
    /// The change that ended it; none if it lives.
    pub(super) ended: Option<Change>,
}

impl Life {
    fn of(instance: &Arc<Instance>) -> Self {
        Self {
            incarnation: instance.incarnation,
            from: instance.registered_at,
            began: None,
            instance: Arc::clone(instance),
            moved: None,
            renewed: None,
            ended: None,
        }
    }
}

/// What a change did to the life of its instance.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A life began; the one before it may have ended by that.
    Began { ended: Option<Box<Life>> },
    /// Something that a lookup can answer changed; `recovered` if the status became healthy again.
    Changed { recovered: bool },
    /// The life ended.
    Ended(Box<Life>),
    /// It registered again, and nothing changed: a sign of life.
    Renewed,
    /// Nothing.
    Nothing,
}

/// Goes through the changes of one instance.
#[derive(Debug)]
pub(super) struct Walk {
    key: InstanceKey,
    registry: Registry,
    life: Option<Life>,
}

/// How often a question is asked anew because what it began with has gone meanwhile.
const TURNS: usize = 5;

/// Asks `question` of what is there, and anew, of what is there by then, while retention takes the oldest of it meanwhile:
/// whoever names no time of his own is not to hear that it is gone.
///
/// # Errors
/// Those of the archive and of the question.
pub(super) fn of_what_is_there<T>(
    archive: &dyn Archive,
    question: impl Fn(&Extent) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut turns = 0..TURNS;
    loop {
        let extent = archive.extent()?;
        match question(&extent) {
            Err(Error::Gone { oldest })
                if oldest.seq > extent.oldest.seq && turns.next().is_some() => {}
            answer => return answer,
        }
    }
}

impl Walk {
    /// A walk that begins where the instance never was.
    pub(super) fn of(key: InstanceKey) -> Self {
        Self { key, registry: Registry::default(), life: None }
    }

    /// A walk from the oldest state that can be told, what the changes of the instance are read from, and what of the
    /// time before that is not there any more.
    ///
    /// # Errors
    /// Those of the archive.
    pub(super) fn begin(
        archive: &dyn Archive,
        key: &InstanceKey,
        extent: &Extent,
    ) -> Result<(Self, Seq, Vec<Missing>), Error> {
        let mut walk = Self::of(key.clone());
        let mut missing = Vec::new();
        let oldest = oldest_of(extent);
        if oldest.seq > Seq::ZERO
            && let Some(service) = archive.service(&key.service, oldest.seq)?
        {
            // The service was known by then, so that this instance may have had lives that nobody can tell any more.
            missing.push(Missing {
                from: Version::default().at,
                until: oldest.at,
                reason: extent.reason(),
                events: Box::default(),
            });
            if let Some(instance) = service.instances.get(&key.instance) {
                walk.registry = registry_of([instance], oldest);
                walk.life = Some(Life::of(instance));
            }
        }
        Ok((walk, oldest.seq.next(), missing))
    }

    /// The life that goes on.
    pub(super) fn life(&self) -> Option<&Life> {
        self.life.as_ref()
    }

    /// Goes on by one change; changes of others do nothing.
    pub(super) fn see(&mut self, change: &Change) -> Step {
        if change.event.key() != Some(&self.key) {
            return Step::Nothing;
        }
        let before = self.registry.instance(&self.key).cloned();
        // History is not taken back.
        drop(fold(&mut self.registry, change));
        let after = self.registry.instance(&self.key).cloned();
        match (before, after) {
            (None, None) => Step::Nothing,
            (Some(_), None) => self.end(change).map_or(Step::Nothing, Step::Ended),
            (Some(before), Some(after)) if before.incarnation == after.incarnation => {
                self.go_on(change, &before, after)
            }
            (_, Some(after)) => {
                let ended = self.end(change);
                self.life = Some(Life {
                    began: Some(change.clone()),
                    renewed: Some(change.clone()),
                    ..Life::of(&after)
                });
                Step::Began { ended }
            }
        }
    }

    fn end(&mut self, change: &Change) -> Option<Box<Life>> {
        let life = self.life.take()?;
        Some(Box::new(Life { ended: Some(change.clone()), ..life }))
    }

    fn go_on(&mut self, change: &Change, before: &Instance, after: Arc<Instance>) -> Step {
        let Some(life) = &mut self.life else { return Step::Nothing };
        let renews = matches!(change.event, Event::Registered { .. });
        if renews {
            life.renewed = Some(change.clone());
        }
        let (status, revision) = (after.status, after.revision);
        let flaps = after.signals.flapping;
        // A signal that moves without the status moves no revision, and is told all the same.
        life.instance = after;
        if before.revision == revision {
            // One that was unstable for another reason may be held there now, or not any more.
            if before.signals.flapping != flaps {
                life.moved = Some((change.clone(), before.status));
            }
            return if renews { Step::Renewed } else { Step::Nothing };
        }
        let moved = before.status != status;
        if moved {
            life.moved = Some((change.clone(), before.status));
        }
        let recovered = moved && status == Status::Healthy;
        Step::Changed { recovered }
    }
}

/// A registry of nobody but these, at a version: so that a part of a state can be folded on.
pub(super) fn registry_of<'a>(
    instances: impl IntoIterator<Item = &'a Arc<Instance>>,
    at: Version,
) -> Registry {
    let mut registry = Registry::default();
    for instance in instances {
        let event = Event::Registered { outcome: Outcome::Created, instance: Arc::clone(instance) };
        let change = Change {
            seq: at.seq,
            at: at.at,
            caller: None,
            trace: TraceRef::default(),
            cause: None,
            baggage: None,
            event,
        };
        drop(fold(&mut registry, &change));
    }
    registry
}

/// The same of a whole service.
pub(super) fn registry_of_service(service: Option<&Service>, at: Version) -> Registry {
    registry_of(service.into_iter().flat_map(|service| service.instances.values()), at)
}
