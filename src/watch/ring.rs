//! The newest events of one class, in the order of their numbers.

use std::collections::VecDeque;

/// What a ring keeps: something with a weight in bytes.
pub(super) trait Weighed {
    /// About how many bytes it keeps alive.
    fn weight(&self) -> usize;
}

/// The newest events, as many as their weight allows. Their numbers have no hole.
#[derive(Debug)]
pub(super) struct Ring<T> {
    /// The number of the first one.
    first: u64,
    events: VecDeque<T>,
    weight: usize,
    weight_max: usize,
}

impl<T: Clone + Weighed> Ring<T> {
    /// An empty ring.
    pub(super) fn new(weight_max: usize) -> Self {
        Self { first: 0, events: VecDeque::new(), weight: 0, weight_max }
    }

    /// Appends events, the first of which has the number `first`. Where that leaves a hole, what came before is
    /// forgotten: it can be read in the log.
    pub(super) fn push(&mut self, first: u64, events: impl Iterator<Item = T>) {
        if first != self.end() {
            self.clear();
            self.first = first;
        }
        for event in events {
            self.weight += event.weight();
            self.events.push_back(event);
        }
        while self.weight > self.weight_max
            && let Some(oldest) = self.events.pop_front()
        {
            self.weight -= oldest.weight();
            self.first += 1;
        }
    }

    /// Up to `limit` events after number `after`; none if the ring does not know what comes right after it.
    pub(super) fn after(&self, after: u64, limit: usize) -> Option<Vec<T>> {
        if self.events.is_empty() || after + 1 < self.first || after >= self.end() {
            return None;
        }
        let skipped = usize::try_from(after + 1 - self.first).unwrap_or(usize::MAX);
        Some(self.events.iter().skip(skipped).take(limit).cloned().collect())
    }

    /// The number after the last one.
    pub(super) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Forgets all events but not how far they went, and gives the memory back.
    pub(super) fn clear(&mut self) {
        self.first = self.end();
        self.events = VecDeque::new();
        self.weight = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weighed for u64 {
        fn weight(&self) -> usize {
            10
        }
    }

    #[test]
    fn a_ring_gives_what_follows_or_says_that_it_can_not() {
        let mut ring = Ring::new(50);
        assert_eq!(ring.after(0, 9), None);
        ring.push(4, 4..=6);
        assert_eq!(ring.after(2, 9), None, "change 3 is not in it");
        assert_eq!(ring.after(3, 9), Some(vec![4, 5, 6]));
        assert_eq!(ring.after(4, 1), Some(vec![5]));
        assert_eq!(ring.after(6, 9), Some(vec![]));
        assert_eq!(ring.after(7, 9), None, "nobody can have been told what is not there");
        ring.push(7, 7..=11);
        assert_eq!((ring.after(5, 9), ring.after(6, 9)), (None, Some(vec![7, 8, 9, 10, 11])));
        ring.push(20, 20..=20);
        assert_eq!((ring.after(11, 9), ring.after(19, 9)), (None, Some(vec![20])));
        ring.clear();
        assert_eq!((ring.after(19, 9), ring.end()), (None, 21));
    }
}
