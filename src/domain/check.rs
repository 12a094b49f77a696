//! How the registry itself finds out whether an instance lives: the check that it is to make, and the rule by which
//! a silence counts as a death.

use std::net::IpAddr;

use super::instance::words;
use super::limits::{
    PHI_THRESHOLD_DEFAULT_MILLI, PHI_THRESHOLD_MAX_MILLI, PHI_THRESHOLD_MIN_MILLI,
};
use super::time::Millis;

words! {
    /// What a probe does.
    CheckKind {
        /// Asks for a page and looks at the status.
        Http = "http",
        /// Opens a connection.
        Tcp = "tcp",
        /// Asks the health service of gRPC, version 1.
        Grpc = "grpc",
    }
}

words! {
    /// The method of an HTTP probe.
    CheckMethod {
        /// With the body.
        Get = "GET",
        /// Without.
        Head = "HEAD",
    }
}

/// A check, as registered.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Check {
    /// What a probe does.
    pub kind: CheckKind,
    /// The port to probe; none is the instance's own.
    pub port: Option<u16>,
    /// HTTP: the path, beginning with `/`.
    pub path: Box<str>,
    /// HTTP: the method.
    pub method: CheckMethod,
    /// HTTP: what the body must hold somewhere; none does not look.
    pub expect: Option<Box<str>>,
    /// gRPC: the name of the service asked for; empty is the server as a whole.
    pub service: Box<str>,
    /// Whether the probe speaks TLS.
    pub tls: bool,
    /// From one probe to the next.
    pub interval: Millis,
    /// How long a probe may take.
    pub timeout: Millis,
    /// How long after the registration the first probe is made.
    pub initial_delay: Millis,
    /// Failed probes in a row that make the instance `failed`.
    pub failures: u32,
    /// Passed probes in a row that make it `healthy` again.
    pub passes: u32,
    /// How long it may be failed by this check before it is taken out of the registry; none is for ever.
    pub deregister_after: Option<Millis>,
    /// The address that the registration came from: where a probe may always go.
    pub registered_from: Option<IpAddr>,
}

impl Check {
    /// Whether a probe of `other` would ask the same: what one has found then holds for the other. From where it was
    /// registered is no part of that.
    #[must_use]
    pub fn asks_the_same(&self, other: &Self) -> bool {
        *self == Self { registered_from: self.registered_from, ..other.clone() }
    }
}

/// The rule by which a silence counts as lateness and then as a death.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Detector {
    /// Two thirds of the ttl, and the ttl.
    #[default]
    Fixed,
    /// φ-accrual over the gaps between the heartbeats seen so far.
    Phi {
        /// φ at which a silence counts as a missing heartbeat, in thousandths: one that is missing makes late, and
        /// so long that the next one is missing too counts as a death.
        threshold_milli: u32,
    },
}

impl Detector {
    /// φ-accrual with its usual threshold.
    pub const PHI: Self = Self::Phi { threshold_milli: PHI_THRESHOLD_DEFAULT_MILLI };

    /// φ-accrual that takes a heartbeat for missing at φ = `threshold`; none if that is out of bounds
    /// ([`PHI_THRESHOLD_MIN_MILLI`] to [`PHI_THRESHOLD_MAX_MILLI`] thousandths). Finer than a thousandth is rounded.
    #[must_use]
    pub fn phi(threshold: f64) -> Option<Self> {
        let milli = (threshold * 1_000.0).round();
        let bounds = f64::from(PHI_THRESHOLD_MIN_MILLI)..=f64::from(PHI_THRESHOLD_MAX_MILLI);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number within the bounds"
        )]
        bounds.contains(&milli).then_some(Self::Phi { threshold_milli: milli as u32 })
    }

    /// φ at which a silence counts as a missing heartbeat; none for the fixed one.
    #[must_use]
    pub fn threshold(self) -> Option<f64> {
        match self {
            Self::Fixed => None,
            Self::Phi { threshold_milli } => Some(f64::from(threshold_milli) / 1_000.0),
        }
    }

    /// Its name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Phi { .. } => "phi",
        }
    }
}
