//! Whether an answer of the past held the instance: revision and filter give the same list again.
//!
//! The service is folded forward through its changes in the window, and back where an answer comes late: answers stand
//! in the log nearly in the order of their revisions, so that each is a step away from the one before.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::domain::event::{Event, Outcome};
use crate::domain::registry::{PreImage, Service};
use crate::domain::selection::{Filter, SD_PROMETHEUS, select};
use crate::domain::{Change, Instance, InstanceKey, Registry, Seq, Timestamp, TraceRef, fold};
use crate::history::archive::{Archive, Error, Subject};

/// Verdicts that are kept. Filters come from the network: nothing keyed by them may grow without bound.
const KNOWN_MAX: usize = 4_096;

/// What a lookup asked of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    /// Who may be called.
    List,
    /// The instance itself.
    Own,
    /// All targets, whatever their status.
    Discovery,
}

impl Asked {
    /// What a lookup asked: `own` says whether it named the instance or another one. None is about another instance.
    pub(super) fn of(own: Option<bool>, filter: &str) -> Option<Self> {
        match own {
            Some(true) => Some(Self::Own),
            Some(false) => None,
            None if is_discovery(filter) => Some(Self::Discovery),
            None => Some(Self::List),
        }
    }
}

/// Whether a recorded filter is one of Prometheus' discovery.
fn is_discovery(filter: &str) -> bool {
    let rest = filter.strip_prefix(SD_PROMETHEUS);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('&'))
}

/// The answers of one service in a window.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    archive: &'a dyn Archive,
    key: InstanceKey,
    /// Which life of the instance.
    life: Seq,
    /// The revision that the service had when the window began.
    first: Seq,
    departure: Seq,
    /// The service after the first `done.len()` of `changes`.
    registry: Registry,
    changes: Vec<Change>,
    done: Vec<PreImage>,
    known: HashMap<(Seq, Asked, Box<str>), bool>,
}

impl<'a> Answers<'a> {
    /// The answers that carry a revision in `window`, which ends before the departure.
    pub(super) fn new(
        archive: &'a dyn Archive,
        key: &InstanceKey,
        life: Seq,
        window: Range<Seq>,
    ) -> Result<Self, Error> {
        let base = archive.service(&key.service, window.start)?.unwrap_or_default();
        let mut changes = Vec::new();
        let last = Seq(window.end.0.saturating_sub(1));
        archive.changes(
            Subject::Service(&key.service),
            window.start.next()..=last,
            &mut |change| {
                changes.push(change);
                ControlFlow::Continue(())
            },
        )?;
        Ok(Self {
            archive,
            key: key.clone(),
            life,
            first: base.revision,
            departure: window.end,
            registry: registry_of(&base),
            changes,
            done: Vec::new(),
            known: HashMap::new(),
        })
    }

    /// Whether the states after revision `held` and after all later ones are at hand.
    pub(super) fn covers(&self, held: Seq) -> bool {
        held >= self.first && held < self.departure
    }

    /// The instance after version `seq` of the window; none if that life did not live then.
    pub(super) fn instance(&mut self, seq: Seq) -> Result<Option<Arc<Instance>>, Error> {
        self.seek(seq);
        let found = self.registry.instance(&self.key);
        Ok(found.filter(|instance| instance.incarnation == self.life).cloned())
    }

    /// Whether the answer of this revision to this filter held the instance.
    pub(super) fn held(
        &mut self,
        revision: Seq,
        asked: Asked,
        filter: &str,
    ) -> Result<bool, Error> {
        let question = (revision, asked, Box::from(filter));
        if let Some(known) = self.known.get(&question) {
            return Ok(*known);
        }
        let held = if revision >= self.first {
            self.seek(revision);
            let service = self.registry.service(&self.key.service);
            service.is_some_and(|service| self.holds(service, asked, filter))
        } else {
            // It was on its way when the window began, and had looked at a state before it.
            let service = self.archive.service(&self.key.service, revision)?;
            service.is_some_and(|service| self.holds(&service, asked, filter))
        };
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(question, held);
        Ok(held)
    }

    fn holds(&self, service: &Service, asked: Asked, filter: &str) -> bool {
        let Some(instance) = service.instances.get(&self.key.instance) else { return false };
        if instance.incarnation != self.life {
            return false;
        }
        match asked {
            Asked::Own => true,
            Asked::Discovery => Filter::parse(filter).lets_through(instance),
            Asked::List => {
                let all = service.instances.values();
                let (chosen, _) = select(all, |candidate| candidate, &Filter::parse(filter));
                chosen.iter().any(|candidate| candidate.key.instance == self.key.instance)
            }
        }
    }

    /// Brings the service to the state after version `seq`.
    fn seek(&mut self, seq: Seq) {
        while let Some(change) = self.changes.get(self.done.len())
            && change.seq <= seq
        {
            self.done.push(fold(&mut self.registry, change));
        }
        while let Some(last) = self.done.len().checked_sub(1)
            && self.changes[last].seq > seq
            && let Some(before) = self.done.pop()
        {
            self.registry.undo(before);
        }
    }
}

/// A registry that holds this service alone, so that the fold which made it goes on.
fn registry_of(service: &Service) -> Registry {
    let mut registry = Registry::default();
    for instance in service.instances.values() {
        let event = Event::Registered { outcome: Outcome::Created, instance: Arc::clone(instance) };
        let (seq, at) = (instance.revision, Timestamp::default());
        let trace = TraceRef::default();
        // Nothing of this is ever taken back.
        drop(fold(
            &mut registry,
            &Change { seq, at, caller: None, trace, cause: None, baggage: None, event },
        ));
    }
    registry
}
