//! How many instances there may be: in one service, in one namespace.
//!
//! Asked after [`super::decide`] and before the event is appended, in the order of the commands, so that the last place
//! is given once. Only a command that makes an instance more can be refused; replacing one, a heartbeat and every other
//! command never is, nor is anything that is in the log already: replay asks nobody. Called by the registrar.

use std::fmt::{self, Display};

use super::decide::Rejection;
use super::event::{Event, Outcome};
use super::registry::Registry;

/// Which room is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// That of the namespace.
    Namespace,
    /// That of the service.
    Service,
}

impl Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "the namespace",
            Self::Service => "the service",
        })
    }
}

/// How many instances there may be. None is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// In one namespace.
    pub namespace: Option<u32>,
    /// In one service.
    pub service: Option<u32>,
}

impl Quotas {
    /// Whether there is room for what `event`, which is not folded yet, would make of `registry`.
    ///
    /// # Errors
    /// [`Rejection::QuotaReached`] for the narrower room that is full.
    pub fn check(&self, registry: &Registry, event: &Event) -> Result<(), Rejection> {
        let Event::Registered { outcome: Outcome::Created, instance } = event else {
            return Ok(());
        };
        let key = &instance.key.service;
        let in_service = || registry.service(key).map_or(0, |service| service.instances.len());
        full(Quota::Service, self.service, in_service)?;
        full(Quota::Namespace, self.namespace, || registry.instances_in(&key.namespace))
    }
}

fn full(
    quota: Quota,
    limit: Option<u32>,
    present: impl FnOnce() -> usize,
) -> Result<(), Rejection> {
    let Some(limit) = limit else { return Ok(()) };
    let present = present();
    if present < limit as usize {
        return Ok(());
    }
    Err(Rejection::QuotaReached { quota, present, limit })
}
