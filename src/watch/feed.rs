//! What one stream is told, and in which order.
//!
//! Changes in the order of their numbers; with traffic, as pages of the log have it: a traffic event after the change
//! that it saw. Numbers of each class only rise, nothing is left out and nothing comes twice, whether it comes from the
//! rings or from the log: what a stream holds is the number that it has reached.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::filter::StreamFilter;
use super::hub::{Hub, Stream};
use super::notices::Notice;
use super::stall::Progress;
use super::told::{Told, ToldTraffic};
use crate::clock::Monotonic;
use crate::domain::Seq;
use crate::history::{self, Archive, Missing, Subject, TrafficQuery, Version, Visit};

/// Events of a class that are taken at once: about as many as fill a delivery.
const CHUNK: usize = 64;
/// Numbers of a class that one reading of the log passes over at most.
const SCAN: u64 = 16_384;
/// Bytes after which a delivery is handed over.
const FRAME: usize = 32 * 1024;
/// How far traffic in the log may be out of the order of the versions that it saw: some have seen a version and take
/// their place a moment later.
const DISORDER: u64 = 1_024;

/// How far a stream has come: the last change, and with traffic the last traffic event, that it was told or passed
/// over. Shown as `42` or `42,t1093`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Mark {
    /// The number of that change.
    pub change: u64,
    /// The number of that traffic event.
    pub traffic: Option<u64>,
}

impl Mark {
    /// Reads a mark as it is shown.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        };
        match text.split_once(",t") {
            None => Some(Self { change: number(text)?, traffic: None }),
            Some((change, traffic)) => {
                Some(Self { change: number(change)?, traffic: Some(number(traffic)?) })
            }
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.traffic {
            None => write!(f, "{}", self.change),
            Some(traffic) => write!(f, "{},t{traffic}", self.change),
        }
    }
}

/// Why a stream can't begin where it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It has not happened yet.
    #[error("the last events are {0}")]
    Ahead(Mark),
    /// It is no longer kept.
    #[error("events are kept from version {} on", .0.seq)]
    Gone(Version),
    /// The log does not answer.
    #[error(transparent)]
    History(#[from] history::Error),
}

/// Why a stream can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What comes next was taken by retention before it was read.
    #[error("what comes next is no longer kept")]
    Gone,
    /// The log does not answer.
    #[error("the log can't be read: {0}")]
    Unreadable(String),
}

/// Bytes for the connection.
#[derive(Debug)]
pub struct Delivery {
    /// Whole events, as server-sent events.
    pub bytes: Bytes,
    /// Changes among them.
    pub changes: u32,
    /// When the oldest of these was found durable; none if all come from the log.
    pub durable: Option<Monotonic>,
    /// Those of them that are noted.
    pub notices: Vec<Arc<Notice>>,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// Events.
    Told(Delivery),
    /// Nothing until the time that was given.
    Quiet,
    /// The registry shuts down.
    Closing,
}

/// How far each class goes at present.
#[derive(Debug, Clone, Copy)]
struct Ends {
    change: u64,
    traffic: u64,
}

/// Events that follow a mark: all that are wanted up to the numbers beside them.
#[derive(Debug, Default)]
struct Found {
    changes: Vec<Arc<Told>>,
    change_through: u64,
    traffic: Vec<Arc<ToldTraffic>>,
    traffic_through: u64,
    missing: Vec<Missing>,
}

/// One stream's way through the events.
#[derive(Debug)]
pub struct Feed {
    stream: Stream,
    archive: Arc<dyn Archive>,
    filter: Arc<StreamFilter>,
    mark: Mark,
    /// How far each class went when the stream began; from there on the rings say.
    began: Ends,
    /// Traffic that saw an earlier version comes before the place where the stream begins.
    floor: Seq,
}

impl Feed {
    /// A stream of what `filter` tells after `from`, or from now on. Its connection ends when `cut` is notified.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        hub: &Arc<Hub>,
        archive: Arc<dyn Archive>,
        filter: StreamFilter,
        from: Option<Mark>,
        cut: Arc<Notify>,
    ) -> Result<Self, OpenError> {
        // From here on the rings are filled; what came before is in the log.
        let stream = hub.begin(filter.traffic, cut);
        let mut head = hub.head().0;
        let traffic = filter.traffic;
        let asked = from.unwrap_or(Mark { change: head, traffic: None });
        if asked.change > head {
            head = hub.settled_head().0;
        }
        if asked.change > head {
            return Err(OpenError::Ahead(Mark { change: head, traffic: None }));
        }
        let known = hub.changes.lock().after(asked.change, 0).is_some();
        let mut mark = asked;
        let mut began = Ends { change: head, traffic: 0 };
        let mut floor = Seq::ZERO;
        if (asked.change < head && !known) || traffic {
            let question = move |archive: &dyn Archive| begin(archive, asked, head, traffic, from);
            (mark, began, floor) = ask(hub, &archive, question).await??;
        }
        if !traffic {
            mark.traffic = None;
        }
        Ok(Self { stream, archive, filter: Arc::new(filter), mark, began, floor })
    }

    /// How far it has come.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// How its reader gets on.
    #[must_use]
    pub fn progress(&self) -> &Arc<Progress> {
        &self.stream.progress
    }

    /// Waits for what comes next, until `until` at most.
    ///
    /// # Errors
    /// [`Error`]; the stream has to end then.
    pub async fn next(&mut self, until: Instant) -> Result<Next, Error> {
        loop {
            if self.stream.hub.is_closing() {
                return Ok(Next::Closing);
            }
            self.stream.news.borrow_and_update();
            let ends = self.ends();
            let behind = self.mark.change < ends.change
                || self.mark.traffic.is_some_and(|reached| reached < ends.traffic);
            if !behind {
                let moved = timeout_at(until, self.stream.news.changed()).await;
                if moved.is_err() {
                    return Ok(Next::Quiet);
                }
                continue;
            }
            let found = match self.at_hand(ends) {
                Some(found) => found,
                None => self.read(ends).await?,
            };
            let delivery = self.deliver(&found, ends);
            if !delivery.bytes.is_empty() {
                return Ok(Next::Told(delivery));
            }
            // All of it was passed over. A long stretch of that must not keep the connection silent.
            if Instant::now() >= until {
                return Ok(Next::Quiet);
            }
        }
    }

    fn ends(&self) -> Ends {
        let hub = &self.stream.hub;
        // Traffic first: what it saw is among the changes then.
        let traffic = match self.mark.traffic {
            Some(_) => hub.traffic.lock().end().saturating_sub(1),
            None => 0,
        };
        let change = hub.changes.lock().end().saturating_sub(1);
        Ends { change: change.max(self.began.change), traffic: traffic.max(self.began.traffic) }
    }

    /// What follows, if the rings have it.
    fn at_hand(&self, ends: Ends) -> Option<Found> {
        let Self { stream, filter, mark, floor, .. } = self;
        let mut found = Found { change_through: mark.change, ..Found::default() };
        if mark.change < ends.change {
            found.changes = stream.hub.changes.lock().after(mark.change, CHUNK)?;
            found.change_through = found.changes.last().map_or(mark.change, |told| told.seq().0);
            found.changes.retain(|told| filter.tells(&told.change));
        }
        if let Some(reached) = mark.traffic {
            found.traffic_through = reached;
            if reached < ends.traffic {
                // Not what came since the ends were read: it may have seen later changes.
                let limit = usize::try_from(ends.traffic - reached).unwrap_or(CHUNK).min(CHUNK);
                found.traffic = stream.hub.traffic.lock().after(reached, limit)?;
                let last = found.traffic.last();
                found.traffic_through = last.map_or(reached, |told| told.event.number);
                found.traffic.retain(|told| {
                    told.seen() >= *floor && filter.tells_traffic(&told.event.traffic)
                });
            }
        }
        Some(found)
    }

    /// What follows, from the log.
    async fn read(&self, ends: Ends) -> Result<Found, Error> {
        let (mark, floor, filter) = (self.mark, self.floor, Arc::clone(&self.filter));
        let question = move |archive: &dyn Archive| {
            let mut found = Found { change_through: mark.change, ..Found::default() };
            if mark.change < ends.change {
                read_changes(archive, &filter, mark.change, ends.change, &mut found)?;
            }
            if let Some(reached) = mark.traffic {
                found.traffic_through = reached;
                if reached < ends.traffic {
                    read_traffic(archive, &filter, floor, reached, ends.traffic, &mut found)?;
                }
            }
            Ok::<_, Error>(found)
        };
        ask(&self.stream.hub, &self.archive, question)
            .await
            .map_err(|error| Error::Unreadable(error.to_string()))?
    }

    /// Merges what was found, as far as its order is certain, and moves on.
    fn deliver(&mut self, found: &Found, ends: Ends) -> Delivery {
        let mut out = Writer { mark: self.mark, bytes: BytesMut::new(), one: None };
        for gap in &found.missing {
            let Missing { events, reason, .. } = gap;
            out.write(format!(": missing: {events} ({reason})\n\n").as_bytes());
        }
        let (mut changes, mut traffic) = (found.changes.iter(), found.traffic.iter());
        let (mut told, mut durable, mut notices) = (0, None, Vec::new());
        while out.len() < FRAME {
            let (change, event) = (changes.as_slice().first(), traffic.as_slice().first());
            let more_traffic = found.traffic_through < ends.traffic;
            match (change, event) {
                // What was not fetched yet may have seen an earlier version: it would come before.
                (Some(_), None) if self.mark.traffic.is_some() && more_traffic => break,
                (Some(change), event) if event.is_none_or(|event| change.seq() <= event.seen()) => {
                    out.change(change);
                    durable = durable.or(change.durable);
                    notices.extend(change.notice.clone());
                    told += 1;
                    changes.next();
                }
                (_, Some(event)) => {
                    // It saw changes that were not fetched yet.
                    let seen = event.seen().0;
                    if seen > found.change_through && found.change_through < ends.change {
                        break;
                    }
                    out.traffic(event);
                    traffic.next();
                }
                (_, None) => break,
            }
        }
        // What was passed over after the last event told needs no second look, once all before it is told.
        self.mark = out.mark;
        if changes.as_slice().is_empty() {
            self.mark.change = self.mark.change.max(found.change_through);
        }
        if traffic.as_slice().is_empty() {
            let through = |reached: u64| reached.max(found.traffic_through);
            self.mark.traffic = self.mark.traffic.map(through);
        }
        Delivery { bytes: out.finish(), changes: told, durable, notices }
    }
}

/// Puts events one after the other. A single change of a stream without traffic is handed on as it is, without a copy.
struct Writer {
    mark: Mark,
    bytes: BytesMut,
    one: Option<Bytes>,
}

impl Writer {
    fn len(&self) -> usize {
        self.bytes.len() + self.one.as_ref().map_or(0, Bytes::len)
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(one) = self.one.take() {
            self.bytes.extend_from_slice(&one);
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn change(&mut self, told: &Told) {
        self.mark.change = told.seq().0;
        if self.mark.traffic.is_some() {
            self.write(format!("id: {}\n", self.mark).as_bytes());
            self.write(told.rest());
        } else if self.len() == 0 {
            self.one = Some(told.whole().clone());
        } else {
            self.write(told.whole());
        }
    }

    fn traffic(&mut self, told: &ToldTraffic) {
        self.mark.traffic = Some(told.event.number);
        self.write(format!("id: {}\n", self.mark).as_bytes());
        self.write(told.rest());
    }

    fn finish(self) -> Bytes {
        self.one.unwrap_or_else(|| self.bytes.freeze())
    }
}

/// Asks the archive on a thread that may block, a few streams at a time.
async fn ask<T: Send + 'static>(
    hub: &Arc<Hub>,
    archive: &Arc<dyn Archive>,
    question: impl FnOnce(&dyn Archive) -> T + Send + 'static,
) -> Result<T, history::Error> {
    let archive = Arc::clone(archive);
    // The semaphore is never closed.
    let _place = hub.reading.acquire().await;
    let answer = tokio::task::spawn_blocking(move || question(&*archive)).await;
    answer.map_err(|_| history::Error::Unreadable("the reading has panicked".to_owned()))
}

/// Where a stream begins, which may need the log to know.
fn begin(
    archive: &dyn Archive,
    asked: Mark,
    head: u64,
    traffic: bool,
    from: Option<Mark>,
) -> Result<(Mark, Ends, Seq), OpenError> {
    let extent = archive.extent()?;
    let resumable = |version: Version, first: u64| {
        let seq = Seq(version.seq.0.max(first.saturating_sub(1)));
        OpenError::Gone(Version { seq, ..version })
    };
    if asked.change < head && extent.first_change > asked.change + 1 {
        return Err(resumable(extent.oldest, extent.first_change));
    }
    let mut began = Ends { change: head, traffic: 0 };
    if !traffic {
        return Ok((asked, began, Seq::ZERO));
    }
    began.traffic = archive.figures()?.traffic_head;
    let (reached, floor) = match (asked.traffic, from) {
        (Some(reached), _) if reached > began.traffic => {
            let traffic = Some(began.traffic);
            return Err(OpenError::Ahead(Mark { change: head, traffic }));
        }
        (Some(reached), _) if reached < began.traffic && extent.first_traffic > reached + 1 => {
            return Err(resumable(extent.oldest, extent.first_change));
        }
        (Some(reached), _) => (reached, Seq::ZERO),
        (None, None) => (began.traffic, Seq::ZERO),
        (None, Some(_)) => {
            let first = first_that_saw(archive, asked.change, &extent, began.traffic)?;
            let earliest = extent.first_traffic.saturating_sub(1);
            (first.saturating_sub(1 + DISORDER).max(earliest), Seq(asked.change))
        }
    };
    Ok((Mark { traffic: Some(reached), ..asked }, began, floor))
}

/// About the number of the first traffic event that saw version `seen`; the one after `last` if there is none.
fn first_that_saw(
    archive: &dyn Archive,
    seen: u64,
    extent: &history::Extent,
    last: u64,
) -> Result<u64, history::Error> {
    let (mut low, mut high) = (extent.first_traffic.max(1), last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let one = TrafficQuery { from: Some(middle), to: Some(middle), ..TrafficQuery::default() };
        let mut saw = None;
        archive.traffic(&one, &mut |event| {
            saw = Some(event.traffic.seen.0);
            Visit::Break(())
        })?;
        // One that is damaged says nothing; to begin before it leaves nothing out.
        if saw.is_none_or(|saw| saw >= seen) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}

fn read_changes(
    archive: &dyn Archive,
    filter: &StreamFilter,
    reached: u64,
    end: u64,
    found: &mut Found,
) -> Result<(), Error> {
    let to = end.min(reached.saturating_add(SCAN));
    let key = filter.service_key();
    let subject = key.as_ref().map_or(Subject::All, Subject::Service);
    found.change_through = to;
    archive.changes(subject, Seq(reached + 1)..=Seq(to), &mut |change| {
        if !filter.tells(&change) {
            return Visit::Continue(());
        }
        let seq = change.seq.0;
        let told = Told::new(Arc::new(change), None, None);
        // Put into words here, where nobody else has to wait for it.
        told.whole();
        found.changes.push(Arc::new(told));
        if found.changes.len() < CHUNK {
            return Visit::Continue(());
        }
        found.change_through = seq;
        Visit::Break(())
    })?;
    // What was taken while it was read, or is not there at all, would be left out in silence.
    let extent = archive.extent()?;
    if extent.first_change > reached + 1 {
        return Err(Error::Gone);
    }
    if extent.newest.seq.0 < to {
        return Err(Error::Unreadable(format!(
            "change {to} was published, and the log ends at {}",
            extent.newest.seq
        )));
    }
    Ok(())
}

fn read_traffic(
    archive: &dyn Archive,
    filter: &StreamFilter,
    floor: Seq,
    reached: u64,
    end: u64,
    found: &mut Found,
) -> Result<(), Error> {
    let to = end.min(reached.saturating_add(SCAN));
    let wanted = TrafficQuery {
        namespace: filter.namespace.clone(),
        service: filter.service.clone(),
        from: Some(reached + 1),
        to: Some(to),
        ..TrafficQuery::default()
    };
    found.traffic_through = to;
    let (traffic, through) = (&mut found.traffic, &mut found.traffic_through);
    let missing = archive.traffic(&wanted, &mut |event| {
        if event.traffic.seen < floor || !filter.tells_traffic(&event.traffic) {
            return Visit::Continue(());
        }
        let number = event.number;
        let told = ToldTraffic::new(event);
        told.rest();
        traffic.push(Arc::new(told));
        if traffic.len() < CHUNK {
            return Visit::Continue(());
        }
        *through = number;
        Visit::Break(())
    })?;
    found.missing = missing.into_iter().filter(|gap| !gap.events.is_empty()).collect();
    Ok(())
}

impl From<history::Error> for Error {
    fn from(error: history::Error) -> Self {
        match error {
            history::Error::Gone { .. } => Self::Gone,
            history::Error::Ahead { .. }
            | history::Error::Damaged(_)
            | history::Error::Unreadable(_) => Self::Unreadable(error.to_string()),
        }
    }
}
