//! The other class of event: heartbeats and lookups. They change no version of the state; each says
//! which version it saw.

use std::sync::Arc;

use super::event::Kind;
use super::ids::{InstanceId, Namespace, Seq, ServiceName, TraceRef};
use super::instance::Health;
use super::time::Timestamp;

/// One heartbeat or lookup, before it has a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// When it was answered.
    pub at: Timestamp,
    /// The version of the state that it saw.
    pub seen: Seq,
    /// The namespace; none for a read over all.
    pub namespace: Option<Namespace>,
    /// The service; none for a read over many.
    pub service: Option<ServiceName>,
    /// The instance; none for a lookup of a service.
    pub instance: Option<InstanceId>,
    /// Who asked.
    pub caller: Arc<str>,
    /// In which trace.
    pub trace: TraceRef,
    /// What it was.
    pub detail: Detail,
}

/// What the two kinds say beyond that.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    /// A renewed lease.
    Heartbeat {
        /// The life of the instance that was renewed.
        incarnation: Seq,
        /// The load that the instance reported.
        load: Option<f64>,
        /// What it said of itself.
        health: Option<Health>,
        /// What else it said.
        note: Option<Box<str>>,
    },
    /// An answered question.
    Lookup {
        /// The filter, as a canonical query string; empty is the default answer.
        filter: Box<str>,
        /// The service's revision that was answered; 0 where there is none.
        revision: Seq,
        /// How many instances (or services) were handed out.
        returned: u32,
        /// The HTTP status of the answer.
        status: u16,
    },
}

impl Detail {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Heartbeat { .. } => Kind::Heartbeat,
            Self::Lookup { .. } => Kind::Lookup,
        }
    }
}
