//! Events from the file of a log, in the form in which a server answers them.
//!
//! It reads beside a server that runs, and changes nothing. Used by [`super`] for `--data`.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Args, Window};
use crate::cli::Error;
use crate::client::EventPage;
use crate::clock::{Clock as _, SystemClock};
use crate::domain::event::Kind;
use crate::domain::{InstanceId, Namespace, ServiceName};
use crate::history::{self, Archive as _, EventQuery, Moment, Order, Position};
use crate::log::sqlite::{SqliteArchive, database_of};
use crate::telemetry::propagation::TraceId;

/// A log that is read.
pub(super) struct Stored {
    history: SqliteArchive,
    /// The filters of the command line; a page adds its limit, cursor and since.
    filters: EventQuery,
    /// What an age is counted from.
    clock: Arc<SystemClock>,
}

impl Stored {
    /// Opens the log in a data directory.
    ///
    /// # Errors
    /// When it cannot be opened, or a filter is refused.
    pub(super) fn open(data: &Path, args: &Args) -> Result<Self, Error> {
        let history = SqliteArchive::open(&database_of(data))
            .map_err(|error| Error::failed(format!("read the log in {}", data.display()), error))?;
        let namespace = args.registry.namespace.as_ref();
        let kind = |word: &str| Kind::parse(word).ok_or("is no kind of event");
        let trace_id = |id: &str| TraceId::parse(id.as_bytes()).map(TraceId::to_bytes);
        let filters = EventQuery {
            order: Order::Descending,
            namespace: filter("--namespace", namespace, Namespace::new)?,
            service: filter("--service", args.service.as_ref(), ServiceName::new)?,
            instance: filter("--instance", args.instance.as_ref(), InstanceId::new)?,
            kind: filter("--kind", args.kind.as_ref(), kind)?,
            trace_id: filter("--trace-id", args.trace_id.as_ref(), trace_id)?,
            ..EventQuery::default()
        };
        let clock =
            SystemClock::start().map_err(|error| Error::failed("start the clock", error))?;
        let moment = |text: &str| Moment::parse(text, clock.wall()).ok_or(Moment::FORMS);
        let filters =
            EventQuery { until: filter("--until", args.until.as_ref(), moment)?, ..filters };
        Ok(Self { history, filters, clock })
    }

    /// A page, the newest event first.
    ///
    /// # Errors
    /// When the log cannot be read, or the instant is refused.
    pub(super) fn page(&self, window: &Window<'_>) -> Result<EventPage, Error> {
        let cursor = window.cursor.and_then(|cursor| {
            let (change, traffic) = cursor.split_once(',')?;
            Some(Position { change: change.parse().ok()?, traffic: traffic.parse().ok()? })
        });
        let moment = |text: &str| Moment::parse(text, self.clock.wall()).ok_or(Moment::FORMS);
        let since = filter("--since", window.since.map(str::to_owned).as_ref(), moment)?;
        if let (Some(since), Some(until)) = (since, self.filters.until)
            && self.is_after(since, until)?
        {
            return Err(Error::Usage(format!(
                "--since must not be after --until: it is {since}, --until is {until}"
            )));
        }
        let query = EventQuery { limit: window.limit, cursor, since, ..self.filters.clone() };
        let page =
            self.history.events(&query).map_err(|error| Error::failed("read the log", error))?;
        Ok(EventPage {
            events: page.events.iter().map(json).collect::<Result<_, _>>()?,
            missing: page.missing.iter().map(json).collect::<Result<_, _>>()?,
            next: page.next.map(|Position { change, traffic }| format!("{change},{traffic}")),
        })
    }
}

impl Stored {
    /// Whether the first of two moments is the later one. What is older than what is kept is after nothing.
    fn is_after(&self, one: Moment, other: Moment) -> Result<bool, Error> {
        match (one, other) {
            (Moment::At(one), Moment::At(other)) => Ok(one > other),
            (Moment::Version(one), Moment::Version(other)) => Ok(one > other),
            _ => {
                let [one, other] = [one, other].map(|moment| self.history.version(moment));
                match (one, other) {
                    (Ok(one), Ok(other)) => Ok(one.seq > other.seq),
                    (Err(history::Error::Gone { .. }), _)
                    | (_, Err(history::Error::Gone { .. })) => Ok(false),
                    (Err(error), _) | (_, Err(error)) => Err(Error::failed("read the log", error)),
                }
            }
        }
    }
}

/// Reads a filter if it was given.
fn filter<T, E: std::fmt::Display>(
    flag: &str,
    given: Option<&String>,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Error> {
    let refused = |why: E| Error::Usage(format!("{flag} {why}"));
    given.map(|text| read(text).map_err(refused)).transpose()
}

/// As a client of the server would have read it.
fn json<T: DeserializeOwned>(shown: &impl Serialize) -> Result<T, Error> {
    let read = serde_json::to_value(shown).and_then(serde_json::from_value);
    read.map_err(|error| Error::failed("read what the log holds", error))
}
