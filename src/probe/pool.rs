//! Connections that are kept between two probes, within bounds.
//!
//! They are found by the very address that was dialled and, if encrypted, the name that was shown a certificate for: a
//! name that resolves elsewhere now finds none. It must never grow beyond its bound, and never hand out one that was idle
//! for longer than [`IDLE_MAX`]. Called by [`super::http`] and [`super::grpc`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a connection is kept without use; a little more than what servers commonly allow.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(90);

/// Most connections that are kept to one place, which many instances may share.
const PLACE_MAX: usize = 32;

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// The name in the certificate; none where nothing is encrypted.
    pub(super) tls: Option<Box<str>>,
}

/// Kept connections.
#[derive(Debug)]
pub(super) struct Pool<T> {
    max: usize,
    kept: Mutex<Kept<T>>,
}

#[derive(Debug)]
struct Kept<T> {
    places: HashMap<Place, Vec<(Instant, T)>>,
    count: usize,
}

impl<T> Pool<T> {
    pub(super) fn new(max: usize) -> Self {
        Self { max, kept: Mutex::new(Kept { places: HashMap::new(), count: 0 }) }
    }

    /// One that leads to `place`, the last used.
    pub(super) fn take(&self, place: &Place, now: Instant) -> Option<T> {
        let mut kept = self.kept.lock();
        let found = kept.places.get_mut(place)?;
        let (since, connection) = found.pop()?;
        if found.is_empty() {
            kept.places.remove(place);
        }
        kept.count -= 1;
        (now.duration_since(since) < IDLE_MAX).then_some(connection)
    }

    /// Keeps one, if there is room.
    pub(super) fn put(&self, place: Place, connection: T, now: Instant) {
        let mut kept = self.kept.lock();
        if kept.count >= self.max {
            return;
        }
        let found = kept.places.entry(place).or_default();
        if found.len() < PLACE_MAX {
            found.push((now, connection));
            kept.count += 1;
        }
    }

    /// Drops those that were idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        let mut kept = self.kept.lock();
        kept.places.retain(|_, found| {
            found.retain(|(since, _)| now.duration_since(*since) < IDLE_MAX);
            !found.is_empty()
        });
        kept.count = kept.places.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(port: u16) -> Place {
        Place { address: SocketAddr::from(([127, 0, 0, 1], port)), tls: None }
    }

    #[test]
    fn it_keeps_few_and_not_for_long() {
        let (pool, now) = (Pool::new(2), Instant::now());
        let later = now + IDLE_MAX;
        for port in 1..=3 {
            pool.put(place(port), port, now);
        }
        assert_eq!(pool.take(&place(3), now), None, "there was no room");
        assert_eq!(pool.take(&place(1), now), Some(1));
        assert_eq!(pool.take(&place(1), now), None, "it is in use");
        let encrypted = Place { tls: Some("orders".into()), ..place(2) };
        assert_eq!(pool.take(&encrypted, now), None, "another kind of connection");
        pool.put(place(1), 1, now);
        assert_eq!(pool.take(&place(2), later), None, "too old");
        pool.sweep(later);
        for port in 4..=6 {
            pool.put(place(port), port, now);
        }
        assert_eq!(
            [4, 5, 6].map(|port| pool.take(&place(port), now).is_some()),
            [true, true, false]
        );
    }
}
