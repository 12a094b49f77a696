//! An instance that this process keeps registered.
//!
//! What every well-behaved client does: heartbeats at the interval that the server recommends, and a new registration
//! when the registry does not know the instance any more. It must never take an id back from another process: a
//! heartbeat for another life is an error for the caller to end on. It has no task and no timer of its own; the caller
//! sleeps between the beats. Used by `register --keep-alive` and by the demo's services.

use std::time::Duration;

use super::{Client, Error, Instance, Registration};
use crate::domain::Millis;

/// How often one that is only probed and needs no heartbeat sends one all the same: so that it learns that the registry
/// does not know it any more.
const ONLY_PROBED: Duration = Duration::from_secs(60);

/// A registration and what is needed to keep it.
#[derive(Debug)]
pub struct Lease {
    registration: Registration,
    instance: Instance,
    interval: Duration,
}

/// What a heartbeat found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The lease goes on.
    Same,
    /// The instance had expired; it is registered again, as a new life.
    Again,
}

impl Lease {
    /// Registers an instance.
    ///
    /// # Errors
    /// See [`Error`]; nothing is registered then, as far as this side knows.
    pub async fn take(
        client: &Client,
        service: &str,
        id: &str,
        registration: Registration,
    ) -> Result<Self, Error> {
        let instance = client.register(service, id, &registration).await?;
        // Until the first heartbeat brings the server's own recommendation, which is the same quarter.
        let ttl = Millis::parse(&instance.text("ttl")).map(Millis::to_duration);
        Ok(Self { registration, instance, interval: ttl.map_or(ONLY_PROBED, |ttl| ttl / 4) })
    }

    /// The instance as the registry answered it last.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How long to wait before the next heartbeat.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Sends a heartbeat; registers again when the registry does not know the instance.
    ///
    /// # Errors
    /// See [`Error`]. With status 409 the id belongs to another process now; after any other error the next beat may
    /// well succeed.
    pub async fn renew(&mut self, client: &Client) -> Result<Renewed, Error> {
        let Instance { service, instance: id, incarnation, .. } = &self.instance;
        match client.heartbeat(service, id, Some(*incarnation)).await {
            Ok(renewal) => {
                let recommended = renewal.heartbeat_interval.as_deref().map(Millis::parse);
                self.interval = match recommended {
                    Some(Ok(interval)) => interval.to_duration(),
                    Some(Err(_)) => self.interval,
                    None => ONLY_PROBED,
                };
                Ok(Renewed::Same)
            }
            Err(error) if error.is_not_found() => {
                self.instance = client.register(service, id, &self.registration).await?;
                Ok(Renewed::Again)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the instance off the registry; that it has expired meanwhile is no error.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn release(self, client: &Client, reason: &str) -> Result<(), Error> {
        let Instance { service, instance: id, .. } = &self.instance;
        match client.deregister(service, id, Some(reason)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
