//! The other class of event: heartbeats, lookups, and what streams of changes were told. They change no
//! version of the state; each says which version it saw.

use std::sync::Arc;

use super::baggage::Baggage;
use super::event::Kind;
use super::ids::{InstanceId, Namespace, Seq, ServiceName, TraceRef};
use super::instance::{Health, words};
use super::time::Timestamp;

/// A traffic event with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbered {
    /// Its number: 1, 2, 3, ... without a hole.
    pub number: u64,
    /// The event.
    pub traffic: Traffic,
}

/// One event of traffic, before it has a number.
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

/// What the kinds say beyond that.
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
        /// What its request brought along, as far as the operator wants to know that.
        baggage: Option<Arc<Baggage>>,
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
        /// For a long poll, the revision that its caller said it held.
        held: Option<Seq>,
        /// What its request brought along, as far as the operator wants to know that.
        baggage: Option<Arc<Baggage>>,
    },
    /// A stream of changes began. The three events of one stream have the same trace and span.
    WatchOpened {
        /// What it is told of, as a canonical query string; empty is everything.
        filter: Box<str>,
        /// It is told of changes after this one.
        after: Seq,
    },
    /// It ended.
    WatchClosed {
        /// As it began.
        filter: Box<str>,
        /// The last change that it was told, or passed over because the filter did not match.
        through: Seq,
        /// Why.
        reason: CloseReason,
    },
    /// It was told: the bytes were handed to the connection.
    Notified {
        /// As it began.
        filter: Box<str>,
        /// The last change that it has been told, or passed over because the filter did not match.
        through: Seq,
        /// How many changes it was told this time.
        events: u32,
    },
}

words! {
    /// Why a stream ended.
    CloseReason {
        /// Its reader went away.
        Left = "left",
        /// Its reader was too slow.
        Slow = "slow",
        /// The registry shuts down.
        Shutdown = "shutdown",
        /// The log could not be read.
        Unreadable = "unreadable",
    }
}

impl Detail {
    /// The same with what its request brought along. Streams keep none of it: they live on when their request is over.
    #[must_use]
    pub fn with_baggage(mut self, brought: Option<Arc<Baggage>>) -> Self {
        match &mut self {
            Self::Heartbeat { baggage, .. } | Self::Lookup { baggage, .. } => *baggage = brought,
            Self::WatchOpened { .. } | Self::WatchClosed { .. } | Self::Notified { .. } => {}
        }
        self
    }

    /// What its request brought along.
    #[must_use]
    pub fn baggage(&self) -> Option<&Arc<Baggage>> {
        match self {
            Self::Heartbeat { baggage, .. } | Self::Lookup { baggage, .. } => baggage.as_ref(),
            Self::WatchOpened { .. } | Self::WatchClosed { .. } | Self::Notified { .. } => None,
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Heartbeat { .. } => Kind::Heartbeat,
            Self::Lookup { .. } => Kind::Lookup,
            Self::WatchOpened { .. } => Kind::WatchOpened,
            Self::WatchClosed { .. } => Kind::WatchClosed,
            Self::Notified { .. } => Kind::Notified,
        }
    }
}
