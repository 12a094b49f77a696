//! Which instances the registry is to probe: told to one follower as they come, change and leave.
//!
//! The publisher notes what it published of instances with a check, while it holds the lock of the index; the follower
//! takes what was noted since it last did, the newest of each instance. Without a follower nothing is noted, so that a
//! registry that probes nobody keeps no list. It must never hold up the publisher: noting is one short lock and a bell.
//! Callers: [`super::Publisher`]; the prober.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{EntryRef, Projection};
use crate::domain::{Instance, InstanceKey};

/// Instances whose check is to be looked at again, in the order of their names; none of those that have left or have no
/// check any more.
pub type Moved = BTreeMap<InstanceKey, Option<Arc<Instance>>>;

/// What was published of instances with a check.
#[derive(Debug, Default)]
pub struct Checks {
    followed: AtomicBool,
    moved: Mutex<Moved>,
    bell: Notify,
}

impl Checks {
    /// What moved since the last call.
    #[must_use]
    pub fn take(&self) -> Moved {
        std::mem::take(&mut *self.moved.lock())
    }

    /// Waits until something has moved; at once if it has since this last returned.
    pub async fn wait(&self) {
        self.bell.notified().await;
    }

    pub(super) fn note(&self, moved: Vec<(InstanceKey, Option<Arc<Instance>>)>) {
        if moved.is_empty() || !self.followed.load(Ordering::Acquire) {
            return;
        }
        self.moved.lock().extend(moved);
        self.bell.notify_one();
    }
}

impl Projection {
    /// The instances that have a check, as they are published from now on.
    #[must_use]
    pub fn checks(&self) -> &Checks {
        &self.checks
    }

    /// Begins to follow: what there is now counts as moved. There is one follower.
    pub fn follow_checks(&self) {
        // Nothing is published while the index is held: what is not read here is noted.
        let index = self.index.read();
        self.checks.followed.store(true, Ordering::Release);
        let views = index.values().map(|cell| cell.view());
        let moved = views.flat_map(|view| {
            let checked = view.entries.iter().filter(|entry| entry.instance.check.is_some());
            let told = |entry: EntryRef<'_>| {
                (entry.instance.key.clone(), Some(Arc::clone(entry.instance)))
            };
            checked.map(told).collect::<Vec<_>>()
        });
        self.checks.note(moved.collect());
    }
}
