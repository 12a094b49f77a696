//! The body of a stream of changes.
//!
//! The connection asks for more only when it has room, and only then is the next delivery made: nothing is queued for a
//! reader, a slow one is behind and costs nobody. That a delivery leaves for the connection is recorded before it does,
//! so that nobody is told what the log does not know of.
//!
//! ```text
//!   retry, id ─▶ events as they come, a comment after 15 s of silence ─▶ (event: end)
//!   watch_opened   notified ...                                          watch_closed
//! ```
//!
//! A comment carries the id of what was passed over since, so that a reader who is told little need not go back far
//! when it resumes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::time::Instant;
use tokio_util::sync::ReusableBoxFuture;

use super::admission::Place;
use super::problem::Problem;
use super::scope::Scope;
use super::{About, Shared};
use crate::clock::Monotonic;
use crate::domain::traffic::{CloseReason, Detail, Traffic};
use crate::domain::{Namespace, Seq, ServiceName};
use crate::registrar::QueuedTraffic;
use crate::telemetry::metrics::Watching;
use crate::telemetry::names::{Transport, WatchOutcome};
use crate::telemetry::signals;
use crate::watch::{Delivery, Error, Feed, Mark, Next, Progress};

/// How long a stream says nothing at most: shorter than the patience of common proxies, which is a minute.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long a reader is asked to wait before it comes back, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// Namespace and service that a stream is about.
type Names = (Option<Namespace>, Option<ServiceName>);

/// Begins the stream of `feed`, whose filter reads `filter`.
///
/// # Errors
/// If there are too many already, or its beginning can't be recorded.
pub(super) async fn begin(
    api: Shared,
    scope: Scope,
    feed: Feed,
    names: Names,
    filter: Box<str>,
) -> Result<Body, Problem> {
    let place = api.admission.watch(scope.caller())?;
    let after = Seq(feed.mark().change);
    let detail = Detail::WatchOpened { filter: filter.clone(), after };
    let (namespace, service) = names.clone();
    let about = About { namespace, service, instance: None };
    api.record(&scope, about, api.projection.head(), detail, None).await?;
    // From here on the end is recorded, whatever happens.
    scope.streams();
    let counted = api.metrics.watch.watching(Transport::Sse);
    let (began, progress) = (api.clock.monotonic(), Arc::clone(feed.progress()));
    let (stage, said, reason) = (Stage::Hello, feed.mark(), CloseReason::Left);
    let held = (counted, place);
    let session =
        Session { api, scope, feed, names, filter, stage, said, reason, began, _held: held };
    let step = ReusableBoxFuture::new(step(Box::new(session)));
    Ok(Body::new(EventStream { step, progress, ended: false }))
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was said yet.
    Hello,
    /// It goes on.
    Live,
    /// Its last words were said.
    Over,
}

/// A stream from its beginning to its end, which its drop records.
struct Session {
    api: Shared,
    scope: Scope,
    feed: Feed,
    names: Names,
    filter: Box<str>,
    stage: Stage,
    /// As far as the reader was told, or was passed over for, when bytes were last handed over.
    said: Mark,
    reason: CloseReason,
    began: Monotonic,
    /// What counts it as a watcher for as long as it is.
    _held: (Watching, Place),
}

/// The next bytes; none at the end.
async fn step(mut session: Box<Session>) -> (Box<Session>, Option<Bytes>) {
    let bytes = match session.stage {
        Stage::Hello => Some(session.hello()),
        Stage::Live => Some(session.next().await),
        Stage::Over => None,
    };
    (session, bytes)
}

impl Session {
    fn hello(&mut self) -> Bytes {
        self.stage = Stage::Live;
        format!("retry: {RETRY_MS}\nid: {}\n\n", self.said).into()
    }

    async fn next(&mut self) -> Bytes {
        match self.feed.next(Instant::now() + SILENCE_MAX).await {
            Ok(Next::Told(delivery)) => self.tell(delivery).await,
            Ok(Next::Quiet) => self.comment(),
            Ok(Next::Closing) => self.end(CloseReason::Shutdown),
            // Retention was faster than it read.
            Err(Error::Gone) => self.end(CloseReason::Slow),
            Err(Error::Unreadable(cause)) => {
                signals::stream_broken(&cause);
                self.end(CloseReason::Unreadable)
            }
        }
    }

    /// Records that changes are handed over. Traffic alone is not recorded: a stream that is told of traffic would be
    /// told of that, and so on without end.
    async fn tell(&mut self, delivery: Delivery) -> Bytes {
        let Delivery { bytes, changes, durable, notices } = delivery;
        if changes > 0 {
            let through = Seq(self.feed.mark().change);
            let filter = self.filter.clone();
            let detail = Detail::Notified { filter, through, events: changes };
            let (namespace, service) = self.names.clone();
            let about = About { namespace, service, instance: None };
            let seen = self.api.projection.head().max(through);
            if self.api.record(&self.scope, about, seen, detail, None).await.is_err() {
                signals::stream_broken(&"the log is slow, what it tells can't be recorded");
                return self.end(CloseReason::Unreadable);
            }
        }
        if let Some(durable) = durable {
            let now = self.api.clock.monotonic();
            notices.iter().for_each(|notice| notice.told(now));
            let elapsed = Duration::from_micros(now.micros_since(durable));
            signals::watcher_told(&self.api.metrics.watch, Transport::Sse, elapsed);
        }
        self.said = self.feed.mark();
        bytes
    }

    fn comment(&mut self) -> Bytes {
        let mark = self.feed.mark();
        if mark == self.said {
            return Bytes::from_static(b":\n\n");
        }
        self.said = mark;
        format!(":\nid: {mark}\n\n").into()
    }

    fn end(&mut self, reason: CloseReason) -> Bytes {
        self.reason = reason;
        self.stage = Stage::Over;
        let mark = self.said;
        format!("event: end\ndata: {{\"reason\":\"{reason}\",\"last_event_id\":\"{mark}\"}}\n\n")
            .into()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.feed.progress().is_stuck() {
            self.reason = CloseReason::Slow;
        }
        let outcome = match self.reason {
            CloseReason::Left => WatchOutcome::Left,
            CloseReason::Slow => WatchOutcome::Slow,
            CloseReason::Shutdown => WatchOutcome::Shutdown,
            CloseReason::Unreadable => WatchOutcome::Error,
        };
        let api = &self.api;
        let elapsed = Duration::from_micros(api.clock.monotonic().micros_since(self.began));
        signals::stream_ended(&api.metrics.watch, outcome, elapsed);
        let through = Seq(self.said.change);
        let (namespace, service) = std::mem::take(&mut self.names);
        let filter = std::mem::take(&mut self.filter);
        let traffic = Traffic {
            at: api.clock.wall(),
            seen: api.projection.head().max(through),
            namespace,
            service,
            instance: None,
            caller: Arc::clone(self.scope.caller()),
            trace: self.scope.trace(),
            detail: Detail::WatchClosed { filter, through, reason: self.reason },
        };
        api.registrar.record_end(QueuedTraffic { traffic, lease: None });
    }
}

/// A session as the body of an answer.
struct EventStream {
    step: ReusableBoxFuture<'static, (Box<Session>, Option<Bytes>)>,
    progress: Arc<Progress>,
    ended: bool,
}

impl HttpBody for EventStream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        this.progress.asked();
        let Poll::Ready((session, bytes)) = this.step.poll(context) else { return Poll::Pending };
        this.step.set(step(session));
        match bytes {
            Some(bytes) => {
                this.progress.handed();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            None => {
                this.ended = true;
                Poll::Ready(None)
            }
        }
    }
}
