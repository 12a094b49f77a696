//! Events from the file of a log, in the form in which a server answers them.
//!
//! It reads beside a server that runs, and changes nothing. Used by [`super`] for `--data`.

use std::path::Path;
use std::sync::Arc;

use super::{Args, Window};
use crate::cli::Error;
use crate::client::{Event, EventPage};
use crate::clock::{Clock, SystemClock};
use crate::domain::event::Kind;
use crate::domain::{InstanceId, Namespace, ServiceName};
use crate::history::{EventQuery, EventReader, Moment, Order, Position, Record};
use crate::log::sqlite::{History, database_of};
use crate::telemetry::propagation::TraceId;

/// A log that is read.
pub(super) struct Stored {
    history: History,
    /// The filters of the command line; a page adds its limit, cursor and since.
    filters: EventQuery,
    /// What an age is counted from.
    clock: Arc<SystemClock>,
}

impl Stored {
    /// Opens the log in a data directory.
    ///
    /// # Errors
    /// When it cannot be opened, or a filter is not understood: then with the status of a wrong command line.
    pub(super) fn open(data: &Path, args: &Args) -> Result<Self, Error> {
        let doing = || format!("read the log in {}", data.display());
        let history =
            History::open(&database_of(data)).map_err(|error| Error::failed(doing(), error))?;
        let namespace = named("--namespace", args.registry.namespace.as_ref(), Namespace::new)?;
        let filters = EventQuery {
            order: Order::Descending,
            namespace,
            service: named("--service", args.service.as_ref(), ServiceName::new)?,
            instance: named("--instance", args.instance.as_ref(), InstanceId::new)?,
            kind: named("--kind", args.kind.as_ref(), |word| {
                Kind::parse(word).ok_or("no such kind")
            })?,
            trace_id: named("--trace-id", args.trace_id.as_ref(), |id| {
                TraceId::parse(id.as_bytes())
            })?
            .map(TraceId::to_bytes),
            ..EventQuery::default()
        };
        let clock =
            SystemClock::start().map_err(|error| Error::failed("start the clock", error))?;
        Ok(Self { history, filters, clock })
    }

    /// A page, the newest event first.
    pub(super) fn page(&self, window: &Window<'_>) -> Result<EventPage, Error> {
        let cursor = window.cursor.and_then(|cursor| {
            let (change, traffic) = cursor.split_once(',')?;
            Some(Position { change: change.parse().ok()?, traffic: traffic.parse().ok()? })
        });
        let since = window.since.map(|text| self.moment(text)).transpose()?;
        let query = EventQuery { limit: window.limit, cursor, since, ..self.filters.clone() };
        let page =
            self.history.events(&query).map_err(|error| Error::failed("read the log", error))?;
        let next = page.next.map(|Position { change, traffic }| format!("{change},{traffic}"));
        let events = page.events.iter().map(event).collect::<Result<_, _>>()?;
        Ok(EventPage { events, next })
    }

    /// Reads an instant in one of the three forms of the contract.
    fn moment(&self, text: &str) -> Result<Moment, Error> {
        let moment = Moment::parse(text, self.clock.wall());
        moment.ok_or_else(|| {
            let forms = "must be RFC 3339, an age such as -5m, or a version such as @1234";
            Error::Usage(format!("--since {text:?}: {forms}"))
        })
    }
}

/// Reads a filter that was given.
fn named<T, E: std::fmt::Display>(
    flag: &str,
    given: Option<&String>,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Error> {
    let read =
        given.map(|text| read(text).map_err(|why| Error::Usage(format!("{flag} {text:?}: {why}"))));
    read.transpose()
}

/// The event as the contract writes it.
fn event(record: &Record) -> Result<Event, Error> {
    let shown = serde_json::to_value(record).and_then(serde_json::from_value);
    shown.map_err(|error| Error::failed("show an event of the log", error))
}
