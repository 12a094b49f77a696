//! The fleet: who belongs to it, who is killed, who comes back.
//!
//! A kill is what a kill is elsewhere: the listener, the connections and the heartbeats of a member are gone at once, and
//! nobody tells the registry. The last member of a service is spared, so that the shop stays open. Called by
//! [`super::play`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::cli::Error;
use crate::client::{self, Client, Event};

use super::call::{Caller, Failure};
use super::member::{Bound, Member};
use super::story::{Happening, Telling};
use super::{Args, World};

/// A service of the demo.
pub(super) struct Service {
    /// Its name.
    pub(super) name: &'static str,
    /// How many members it has.
    pub(super) members: usize,
    /// Whom a member calls for each request.
    pub(super) peers: &'static [&'static str],
}

/// The services, those who are called before those who call: in this order each finds its peers when it starts.
pub(super) const SERVICES: [Service; 4] = [
    Service { name: "inventory", members: 2, peers: &[] },
    Service { name: "payments", members: 2, peers: &[] },
    Service { name: "orders", members: 3, peers: &["payments", "inventory"] },
    Service { name: "web", members: 2, peers: &["orders"] },
];

/// In which order services lose a member: the middle of the chain first, where most depends on it.
const KILL_ORDER: [&str; 4] = ["orders", "payments", "web", "inventory"];

/// What happened to the calls of one service since the start.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Requests served, and how long they took together.
    pub(super) served: AtomicU64,
    /// See `served`; in microseconds.
    pub(super) micros: AtomicU64,
    /// Calls to it that met a dead instance.
    pub(super) dead: AtomicU64,
    /// Calls to it for which nobody was offered, or the registry did not answer.
    pub(super) unanswered: AtomicU64,
}

/// The figures of all services, in the order of [`SERVICES`].
#[derive(Debug, Default)]
pub(super) struct Totals([Figures; SERVICES.len()]);

impl Totals {
    /// The figures of a service.
    pub(super) fn of(&self, service: &str) -> &Figures {
        let at = SERVICES.iter().position(|one| one.name == service);
        &self.0[at.expect("only services of the table are called")]
    }

    /// Counts a call to the service.
    pub(super) fn called(&self, service: &str, failure: Option<Failure>) {
        match failure {
            Some(Failure::Dead) => self.of(service).dead.fetch_add(1, Relaxed),
            Some(Failure::Nobody | Failure::Registry) => {
                self.of(service).unanswered.fetch_add(1, Relaxed)
            }
            // A peer that answers with a failure counts the call that failed itself.
            Some(Failure::Peer) | None => 0,
        };
    }

    /// Counts a request that a member of the service served, well or not.
    pub(super) fn served(&self, service: &str, elapsed: Duration) {
        let figures = self.of(service);
        figures.served.fetch_add(1, Relaxed);
        figures.micros.fetch_add(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// A place in the fleet; the member in it changes with each death.
struct Place {
    service: &'static Service,
    id: String,
    state: State,
}

enum State {
    Alive(Box<Member>),
    /// Killed; comes back at this instant.
    Dead(Instant),
}

/// How to start members, and what they share.
pub(super) struct Setup<'a> {
    pub(super) args: &'a Args,
    pub(super) world: &'a World<'a>,
    pub(super) http: reqwest::Client,
    pub(super) totals: Arc<Totals>,
}

impl Setup<'_> {
    /// A caller of this name; its spans belong to the service.
    pub(super) fn caller(
        &self,
        service: &'static str,
        instance: &str,
    ) -> Result<Caller, client::Error> {
        let name =
            if service == instance { service.to_owned() } else { format!("{service}/{instance}") };
        Ok(Caller {
            client: Client::new(self.world.registry.url(), &name)?,
            http: self.http.clone(),
            spans: self.world.tracing.of(service, instance),
            totals: Arc::clone(&self.totals),
            telling: self.world.telling.clone(),
            name,
        })
    }
}

/// All members, alive and dead.
pub(super) struct Fleet<'a> {
    setup: Setup<'a>,
    places: Vec<Place>,
    kills: usize,
    watches: JoinSet<()>,
}

impl<'a> Fleet<'a> {
    /// Starts and registers all members.
    pub(super) async fn start(args: &'a Args, world: &'a World<'a>) -> Result<Self, Error> {
        let http = Caller::http().map_err(|error| Error::failed("make an HTTP client", error))?;
        let setup = Setup { args, world, http, totals: Arc::default() };
        let mut fleet = Self { setup, places: Vec::new(), kills: 0, watches: JoinSet::new() };
        for service in &SERVICES {
            for number in 1..=service.members {
                let id = format!("{}-{number}", service.name);
                let bound = Bound::bind(&fleet.setup, service, &id).await?;
                let state = State::Alive(Box::new(bound.register_and_run().await?));
                fleet.places.push(Place { service, id, state });
            }
        }
        Ok(fleet)
    }

    /// A caller that belongs to no member.
    pub(super) fn caller(&self, service: &'static str, instance: &str) -> Result<Caller, Error> {
        Ok(self.setup.caller(service, instance)?)
    }

    /// Each living member: service, id, address.
    pub(super) fn living(&self) -> impl Iterator<Item = (&'static Service, &str, &str)> {
        self.places.iter().filter_map(|place| match &place.state {
            State::Alive(member) => Some((place.service, place.id.as_str(), member.authority())),
            State::Dead(_) => None,
        })
    }

    /// The figures since the start.
    pub(super) fn totals(&self) -> &Totals {
        &self.setup.totals
    }

    /// Kills a member of the service whose turn it is, unless it is the last one of it.
    pub(super) fn kill_one(&mut self) {
        let name = KILL_ORDER[self.kills % KILL_ORDER.len()];
        self.kills += 1;
        let living = |place: &&mut Place| {
            place.service.name == name && matches!(place.state, State::Alive(_))
        };
        let mut living: Vec<_> = self.places.iter_mut().filter(living).collect();
        if living.len() < 2 {
            return;
        }
        let Some(place) = fastrand::choice(living.iter_mut()) else { return };
        // What was the member is dropped here, and with it its listener, its connections and its heartbeats.
        place.state = State::Dead(Instant::now() + self.setup.args.revive_after);
        let telling = self.setup.world.telling.clone();
        telling.tell(Happening::Killed { instance: place.id.clone() });
        if let Ok(client) = Client::new(self.setup.world.registry.url(), "demo") {
            let watch = Watch { client, service: name, id: place.id.clone(), telling };
            let patience = self.setup.args.ttl * 3 + Duration::from_secs(30);
            self.watches
                .spawn(async move { drop(tokio::time::timeout(patience, watch.run()).await) });
        }
    }

    /// Brings those back whose time has come.
    pub(super) async fn revive_due(&mut self) {
        while self.watches.try_join_next().is_some() {}
        for place in &mut self.places {
            let State::Dead(due) = place.state else { continue };
            if due > Instant::now() {
                continue;
            }
            // The port is free again or another one is; only want of descriptors can prevent this, and it passes.
            place.state = match Bound::bind(&self.setup, place.service, &place.id).await {
                Ok(bound) => State::Alive(Box::new(bound.run())),
                Err(_) => State::Dead(Instant::now() + Duration::from_secs(1)),
            };
        }
    }

    /// Ends all members in good order: each says goodbye to the registry. The dead stay silent.
    pub(super) async fn stop(mut self) {
        self.watches.shutdown().await;
        let mut leaving = JoinSet::new();
        for place in self.places {
            if let State::Alive(member) = place.state {
                leaving.spawn(member.stop());
            }
        }
        while leaving.join_next().await.is_some() {}
    }
}

/// Waits until the registry has noticed that a killed member is dead.
///
/// It asks the history, because asking for the instance would be a lookup: it would show up among those who were handed
/// the dead one.
struct Watch {
    client: Client,
    service: &'static str,
    id: String,
    telling: Telling,
}

impl Watch {
    async fn run(self) {
        let killed = Instant::now();
        let before = self.last_expiry().await.map(|event| event.id);
        loop {
            sleep(Duration::from_millis(100)).await;
            match self.last_expiry().await {
                Some(event) if Some(&event.id) != before.as_ref() => {
                    let after = killed.elapsed();
                    return self.telling.tell(Happening::Expired {
                        instance: self.id,
                        after,
                        event,
                    });
                }
                _ => {}
            }
        }
    }

    async fn last_expiry(&self) -> Option<Event> {
        let query = [
            ("service", self.service),
            ("instance", &self.id),
            ("kind", "expired"),
            // Bounded, or a log without any expiry would be searched to its beginning each time.
            ("since", "-5m"),
            ("order", "desc"),
            ("limit", "1"),
        ];
        let page = self.client.events(&query.map(|(name, value)| (name, value.to_owned()))).await;
        page.ok()?.events.into_iter().next()
    }
}
