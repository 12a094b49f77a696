//! The instances of a service, in the order of their ids.
//!
//! A list in leaves of at most [`LEAF_MAX`]. A change copies one leaf, if somebody else holds it, and never the list: whoever
//! publishes a service of 50,000 shares all leaves but the one that changed, and finds by their addresses which these are.
//! A leaf keeps eight bytes for an instance, and its order is that of the ids within the instances themselves.
//!
//! ```text
//!   Roster   leaf ─▶ [a b c ...]   leaf ─▶ [m n ...]   leaf ─▶ [x y z]
//!                        │ shared with views of the projection
//! ```
//!
//! Two leaves that are neighbours always hold more than [`LEAF_JOINED`] together, so that leaves stay filled however
//! instances come and go, and a service of at most that many has one. Pure; the registry alone changes it.

use std::sync::Arc;

use super::ids::InstanceId;
use super::instance::Instance;

/// What a leaf holds at most: a copy of so many pointers, each counted up, is about a microsecond.
pub const LEAF_MAX: usize = 128;

/// Neighbours that hold no more than this together become one.
pub const LEAF_JOINED: usize = LEAF_MAX / 2;

/// So many on each side of a place stand around it.
const AROUND: usize = 2;

/// Instances in the order of their ids; never empty, and never changed where others hold it.
pub type Leaf = Arc<Vec<Arc<Instance>>>;

/// See the module.
#[derive(Clone, Default)]
pub struct Roster {
    leaves: Vec<Leaf>,
    len: usize,
}

impl Roster {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The leaves that they lie in.
    #[must_use]
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// All of them, in the order of their ids.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Arc<Instance>> + Clone {
        self.leaves.iter().flat_map(|leaf| leaf.iter())
    }

    /// The instance of this id.
    #[must_use]
    pub fn get(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        let leaf = self.leaves.get(self.leaf_of(id)?)?;
        place(leaf, id).ok().and_then(|place| leaf.get(place))
    }

    /// Those who stand around the place of this id, a few; whoever is there itself among them.
    pub fn around(&self, id: &InstanceId) -> impl Iterator<Item = &Arc<Instance>> + Clone {
        let leaf = self.leaf_of(id).and_then(|number| self.leaves.get(number));
        leaf.into_iter().flat_map(|leaf| {
            let (Ok(place) | Err(place)) = place(leaf, id);
            leaf[place.saturating_sub(AROUND)..].iter().take(2 * AROUND)
        })
    }

    /// Puts an instance in its place; the one that it replaces.
    pub fn insert(&mut self, instance: Arc<Instance>) -> Option<Arc<Instance>> {
        let id = &instance.key.instance;
        let Some(number) = self.leaf_of(id) else {
            self.leaves.push(Arc::new(vec![instance]));
            self.len += 1;
            return None;
        };
        let found = place(&self.leaves[number], id);
        // Many come in the order of their ids: what is full then stays so, instead of being halved.
        if self.leaves[number].len() == LEAF_MAX
            && found == Err(LEAF_MAX)
            && number + 1 == self.leaves.len()
        {
            self.leaves.push(Arc::new(vec![instance]));
            self.len += 1;
            return None;
        }
        let leaf = Arc::make_mut(&mut self.leaves[number]);
        match found {
            Ok(place) => return Some(std::mem::replace(&mut leaf[place], instance)),
            Err(place) => {
                if leaf.len() == leaf.capacity() {
                    // Doubling would leave half of it empty for as long as the service lives.
                    leaf.reserve_exact(leaf.len() / 8 + 1);
                }
                leaf.insert(place, instance);
            }
        }
        self.len += 1;
        if leaf.len() > LEAF_MAX {
            let upper = leaf.split_off(leaf.len() / 2);
            leaf.shrink_to_fit();
            self.leaves.insert(number + 1, Arc::new(upper));
        }
        None
    }

    /// Takes the instance of this id out.
    pub fn remove(&mut self, id: &InstanceId) -> Option<Arc<Instance>> {
        let number = self.leaf_of(id)?;
        let place = place(&self.leaves[number], id).ok()?;
        let gone = Arc::make_mut(&mut self.leaves[number]).remove(place);
        self.len -= 1;
        if self.leaves[number].is_empty() {
            self.leaves.remove(number);
        }
        // Where a leaf went, those around it may be small together.
        for number in [number, number.saturating_sub(1)] {
            self.join(number);
        }
        Some(gone)
    }

    /// Puts this leaf and the one after it together, if they are small.
    fn join(&mut self, number: usize) {
        if let [leaf, next, ..] = self.leaves.get(number..).unwrap_or_default()
            && leaf.len() + next.len() <= LEAF_JOINED
        {
            let next = self.leaves.remove(number + 1);
            Arc::make_mut(&mut self.leaves[number]).extend(next.iter().cloned());
        }
    }

    /// The leaf that this id belongs into; none if there is no leaf.
    fn leaf_of(&self, id: &InstanceId) -> Option<usize> {
        let last = self.leaves.len().checked_sub(1)?;
        let after = |leaf: &Leaf| leaf.first().is_some_and(|first| first.key.instance <= *id);
        Some(self.leaves.partition_point(after).saturating_sub(1).min(last))
    }
}

/// Where an id is in a leaf, or would be.
fn place(leaf: &Leaf, id: &InstanceId) -> Result<usize, usize> {
    leaf.binary_search_by(|instance| instance.key.instance.cmp(id))
}

impl FromIterator<Arc<Instance>> for Roster {
    fn from_iter<I: IntoIterator<Item = Arc<Instance>>>(instances: I) -> Self {
        let mut roster = Self::default();
        roster.extend(instances);
        roster
    }
}

impl Extend<Arc<Instance>> for Roster {
    /// Those that come in the order of their ids and after all others are not looked for: a whole state is put together so.
    fn extend<I: IntoIterator<Item = Arc<Instance>>>(&mut self, instances: I) {
        let mut instances = instances.into_iter();
        while let Some(instance) = instances.next() {
            let expected = instances.size_hint().0.saturating_add(1).min(LEAF_MAX);
            let last = self.leaves.last().and_then(|leaf| leaf.last());
            if last.is_some_and(|last| last.key.instance >= instance.key.instance) {
                self.insert(instance);
                continue;
            }
            let room = self.leaves.last_mut().filter(|leaf| leaf.len() < LEAF_MAX);
            match room.map(Arc::make_mut) {
                Some(leaf) => {
                    if leaf.len() == leaf.capacity() {
                        leaf.reserve_exact(expected.min(LEAF_MAX - leaf.len()));
                    }
                    leaf.push(instance);
                }
                None => {
                    let mut leaf = Vec::with_capacity(expected);
                    leaf.push(instance);
                    self.leaves.push(Arc::new(leaf));
                }
            }
            self.len += 1;
        }
    }
}

impl PartialEq for Roster {
    /// Equal instances; in which leaves they lie is no matter.
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.values().eq(other.values())
    }
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.values()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::Command;
    use crate::testing::archive::Past;
    use crate::testing::{cases, key, register};

    fn one() -> Arc<Instance> {
        let (mut past, key) = (Past::new(), key("orders", "a"));
        past.happens(&Command::Register(register(&key)));
        Arc::clone(past.present().instance(&key).unwrap())
    }

    fn named(model: &Instance, number: u16, weight: u16) -> Arc<Instance> {
        let instance = InstanceId::new(&format!("i-{number}")).unwrap();
        let key = crate::domain::InstanceKey { instance, ..model.key.clone() };
        Arc::new(Instance { key, weight, ..model.clone() })
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u16, u16),
        Take(u16),
        /// Somebody else holds all leaves from now on.
        Share,
        /// All whose numbers are in this range go.
        Clear(u16, u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            12 => (0..600_u16, 0..3_u16).prop_map(|(number, weight)| Step::Put(number, weight)),
            4 => (0..600_u16).prop_map(Step::Take),
            1 => Just(Step::Share),
            1 => (0..600_u16, 0..300_u16).prop_map(|(from, many)| Step::Clear(from, many)),
        ];
        prop::collection::vec(step, 0..1_000)
    }

    proptest! {
        #![proptest_config(cases(64))]
        #[test]
        fn it_is_the_map_of_its_instances_and_its_leaves_stay_filled(steps in steps()) {
            let model = one();
            let (mut roster, mut map) = (Roster::default(), BTreeMap::new());
            let mut held: Vec<(Roster, Vec<Arc<Instance>>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Put(number, weight) => {
                        let instance = named(&model, number, weight);
                        let before = map.insert(instance.key.instance.clone(), Arc::clone(&instance));
                        prop_assert_eq!(roster.insert(instance), before);
                    }
                    Step::Take(number) => {
                        let id = named(&model, number, 0).key.instance.clone();
                        prop_assert_eq!(roster.remove(&id), map.remove(&id));
                    }
                    Step::Share => held.push((roster.clone(), map.values().cloned().collect())),
                    Step::Clear(from, many) => {
                        for number in from..from + many {
                            let id = named(&model, number, 0).key.instance.clone();
                            prop_assert_eq!(roster.remove(&id), map.remove(&id));
                        }
                    }
                }
            }
            prop_assert!(roster.values().eq(map.values()));
            prop_assert_eq!(roster.len(), map.len());
            for number in 0..600 {
                let id = named(&model, number, 0).key.instance.clone();
                prop_assert_eq!(roster.get(&id), map.get(&id));
                prop_assert_eq!(roster.around(&id).next().is_some(), !map.is_empty());
                let itself = roster.around(&id).any(|instance| instance.key.instance == id);
                prop_assert_eq!(itself, map.contains_key(&id));
            }
            for leaf in roster.leaves() {
                prop_assert!((1..=LEAF_MAX).contains(&leaf.len()));
            }
            for pair in roster.leaves().windows(2) {
                prop_assert!(pair[0].len() + pair[1].len() > LEAF_JOINED);
            }
            prop_assert_eq!(&roster, &map.values().cloned().collect::<Roster>());
            // What others hold has not moved.
            for (roster, were) in held {
                prop_assert!(roster.values().eq(were.iter()));
            }
        }
    }

    #[test]
    fn a_change_leaves_all_leaves_but_one_where_they_are() {
        let model = one();
        let mut roster: Roster = (0..5_000).map(|number| named(&model, number, 1)).collect();
        let before = roster.clone();
        for number in [0, 2_500, 4_999] {
            roster.insert(named(&model, number, 2));
        }
        let moved = roster.leaves().iter().zip(before.leaves()).filter(|(a, b)| !Arc::ptr_eq(a, b));
        assert_eq!((roster.leaves().len(), moved.count()), (before.leaves().len(), 3));
    }
}
