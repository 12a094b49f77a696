//! What is different between two versions, and which changes did it.
//!
//! The state at the earlier version is folded on by the changes up to the later one. Only what these touched can be
//! different, and where a life began or ended is seen on the way. [`Diff`] is pure; [`diff`] asks the archive for what it
//! needs. Called by the API.
//!
//! ```text
//!   at `from`     at `to`      told as
//!   nobody        life 7       came (by change 7)
//!   life 3        nobody       left (by the change that ended life 3)
//!   life 3        life 7       left and came: another process, or the same one after it had been given up
//!   life 3        life 3       changed, field by field, by all changes in between; not told if nothing is different
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::archive::{Archive, Error, Subject};
use super::moment::Version;
use super::record::{EventId, Record};
use super::walk::registry_of_service;
use crate::domain::{
    Change, Instance, InstanceKey, Namespace, Registry, Seq, ServiceKey, ServiceName, fold,
};

/// Whose differences are wanted. What is `None` lets all through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Those in this namespace.
    pub namespace: Option<Namespace>,
    /// Those of this service.
    pub service: Option<ServiceName>,
}

impl Scope {
    fn includes(&self, key: &InstanceKey) -> bool {
        let ServiceKey { namespace, service } = &key.service;
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
            && self.service.as_ref().is_none_or(|wanted| wanted == service)
    }

    /// The one service that is meant, if it is one.
    fn service(&self) -> Option<ServiceKey> {
        let (namespace, service) = (self.namespace.clone()?, self.service.clone()?);
        Some(ServiceKey { namespace, service })
    }
}

/// An instance that came or left, and the change that did it.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved<E> {
    /// As it is at the later version if it came, as it was at the earlier one if it left.
    pub instance: Arc<Instance>,
    /// That change.
    pub event: E,
}

/// A value of a field as it is compared and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// It is not there.
    Absent,
    /// Text.
    Text(Box<str>),
    /// A number.
    Number(u64),
    /// Texts in their order.
    Texts(Box<[Box<str>]>),
}

/// An instance of which something is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Whose.
    pub key: InstanceKey,
    /// The names of the fields with their values before and after; metadata key by key, as `metadata.env`.
    pub fields: Vec<(String, [Value; 2])>,
    /// The changes that touched it.
    pub events: Vec<Seq>,
}

/// What is different.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference<E> {
    /// Lives that are there and were not, in the order of their names.
    pub came: Vec<Moved<E>>,
    /// Lives that were there and are not.
    pub left: Vec<Moved<E>>,
    /// Lives that are there as they were, but different.
    pub changed: Vec<Changed>,
    /// Lives that began and ended in between: neither version has them.
    pub passed: u64,
    /// Lives that were changed in between and are again as they were.
    pub reverted: u64,
    /// What was left out of the three lists, because they are to be no longer.
    pub left_out: LeftOut,
}

/// How many entries of each list were left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Of those that came.
    pub came: u64,
    /// Of those that left.
    pub left: u64,
    /// Of those that changed.
    pub changed: u64,
}

/// Cuts a list; how many went.
fn cut<T>(list: &mut Vec<T>, limit: usize) -> u64 {
    let gone = list.len().saturating_sub(limit) as u64;
    list.truncate(limit);
    gone
}

/// What was seen of one instance since the earlier version.
#[derive(Debug, Default)]
struct Touched {
    before: Option<Arc<Instance>>,
    /// The change that ended the life of before.
    ended: Option<Seq>,
    /// Lives that began.
    began: u64,
    /// Changes of the life of before.
    events: Vec<Seq>,
}

/// Works a difference out.
#[derive(Debug)]
pub struct Diff {
    scope: Scope,
    registry: Registry,
    touched: BTreeMap<InstanceKey, Touched>,
}

impl Diff {
    /// From the state at the earlier version on.
    #[must_use]
    pub fn since(registry: Registry, scope: Scope) -> Self {
        Self { scope, registry, touched: BTreeMap::new() }
    }

    /// Goes on by one change; they come in their order, and none is left out that the scope includes.
    pub fn see(&mut self, change: &Change) {
        let Some(key) = change.event.key().filter(|key| self.scope.includes(key)) else { return };
        let before = self.registry.instance(key).cloned();
        // History is not taken back.
        drop(fold(&mut self.registry, change));
        let after = self.registry.instance(key);
        let life = |instance: Option<&Arc<Instance>>| instance.map(|i| (i.incarnation, i.revision));
        if life(before.as_ref()) == life(after) {
            return;
        }
        let incarnation = after.map(|after| after.incarnation);
        let same_life = before.as_ref().map(|before| before.incarnation) == incarnation;
        let touched = self
            .touched
            .entry(key.clone())
            .or_insert_with(|| Touched { before: before.clone(), ..Touched::default() });
        let is_first_life = touched.before.is_some() && touched.ended.is_none();
        if same_life {
            if is_first_life {
                touched.events.push(change.seq);
            }
            return;
        }
        if is_first_life {
            touched.ended = Some(change.seq);
        }
        touched.began += u64::from(incarnation.is_some());
    }

    /// What is different now that all changes were seen.
    #[must_use]
    pub fn finish(self) -> Difference<Seq> {
        let mut found = Difference::default();
        for (key, touched) in self.touched {
            let after = self.registry.instance(&key);
            let came = after.filter(|_| touched.began > 0);
            found.passed += touched.began - u64::from(came.is_some());
            if let Some(instance) = came {
                let (instance, event) = (Arc::clone(instance), instance.incarnation);
                found.came.push(Moved { instance, event });
            }
            match (touched.before, touched.ended, after) {
                (Some(instance), Some(event), _) => found.left.push(Moved { instance, event }),
                (Some(before), None, Some(after)) => {
                    let fields = different(&before, after);
                    match fields.is_empty() {
                        true => found.reverted += 1,
                        false => {
                            found.changed.push(Changed { key, fields, events: touched.events })
                        }
                    }
                }
                (None, ..) | (Some(_), None, None) => {}
            }
        }
        found
    }
}

/// The fields in which two forms of one life differ. What can't change within a life, and the revision, which moves
/// with everything, are not among them.
fn different(before: &Instance, after: &Instance) -> Vec<(String, [Value; 2])> {
    let text = |text: &str| Value::Text(text.into());
    let maybe = |value: Option<&str>| value.map_or(Value::Absent, text);
    let tags = |instance: &Instance| Value::Texts(instance.labels.tags().map(Into::into).collect());
    let [b, a] = [before, after];
    let mut fields = vec![
        ("protocol".to_owned(), [text(&b.endpoint.protocol), text(&a.endpoint.protocol)]),
        ("version".to_owned(), [maybe(b.labels.version()), maybe(a.labels.version())]),
        ("zone".to_owned(), [maybe(b.labels.zone()), maybe(a.labels.zone())]),
        ("weight".to_owned(), [b.weight, a.weight].map(|weight| Value::Number(weight.into()))),
        ("tags".to_owned(), [tags(b), tags(a)]),
    ];
    let keys: BTreeSet<&str> =
        [b, a].into_iter().flat_map(|i| i.labels.metadata().map(|(key, _)| key)).collect();
    fields.extend(keys.into_iter().map(|key| {
        let value = |instance: &Instance| instance.labels.get(key).map_or(Value::Absent, text);
        (format!("metadata.{key}"), [value(b), value(a)])
    }));
    fields.extend([
        ("mode".to_owned(), [text(b.mode.as_str()), text(a.mode.as_str())]),
        ("status".to_owned(), [text(b.status.as_str()), text(a.status.as_str())]),
        ("ttl".to_owned(), [b, a].map(|instance| text(&instance.ttl_text()))),
    ]);
    fields.retain(|(_, [before, after])| before != after);
    fields
}

/// The difference between two versions, the earlier one first, with the events that made lives begin and end; an event
/// is none only if the log has lost it. Each list has at most `limit` entries, the first ones by name.
///
/// # Errors
/// [`Error::Gone`] if the earlier version is older than what is kept, and those of every question.
pub fn diff(
    archive: &dyn Archive,
    [from, to]: [Version; 2],
    scope: Scope,
    limit: usize,
) -> Result<Difference<Option<Record>>, Error> {
    let service = scope.service();
    let (registry, subject) = match &service {
        Some(key) => {
            let then = archive.service(key, from.seq)?;
            (registry_of_service(then.as_ref(), from), Subject::Service(key))
        }
        None => (archive.state(from.seq)?, Subject::All),
    };
    let mut diff = Diff::since(registry, scope);
    archive.changes(subject, from.seq.next()..=to.seq, &mut |change| {
        diff.see(&change);
        std::ops::ControlFlow::Continue(())
    })?;
    // Retention may have gone on while this read; what it took must not look as if it had never been.
    let extent = archive.extent()?;
    if extent.first_change > from.seq.next().0 {
        return Err(Error::Gone { oldest: extent.oldest });
    }
    let Difference { mut came, mut left, mut changed, passed, reverted, .. } = diff.finish();
    // Before the events are read, which is what costs time.
    let left_out = LeftOut {
        came: cut(&mut came, limit),
        left: cut(&mut left, limit),
        changed: cut(&mut changed, limit),
    };
    let told = |moved: Vec<Moved<Seq>>| {
        let told = moved.into_iter().map(|Moved { instance, event }| {
            let event = archive.event(EventId::Change(event.0))?;
            Ok(Moved { instance, event })
        });
        told.collect::<Result<Vec<_>, Error>>()
    };
    let (came, left) = (told(came)?, told(left)?);
    Ok(Difference { came, left, changed, passed, reverted, left_out })
}
