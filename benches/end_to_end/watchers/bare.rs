//! The other server's part: requests that wait for a bell, and bodies that send what is broadcast.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use axum::routing::{get, put};
use hyper::body::Frame;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::ReusableBoxFuture;

use crate::bare::constant;

/// Who waits, and for which bytes.
pub(crate) struct Waiting {
    lookup: Bytes,
    registration: Bytes,
    event: Bytes,
    bell: Notify,
    events: broadcast::Sender<Bytes>,
    count: AtomicUsize,
}

/// Counts one who waits as long as it lives.
struct Counted(Arc<Waiting>);

impl Counted {
    fn new(waiting: &Arc<Waiting>) -> Self {
        waiting.count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(waiting))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Waiting {
    /// Nobody yet.
    pub(crate) fn new(lookup: Bytes, registration: Bytes, event: Bytes) -> Arc<Self> {
        let (bell, events, count) = (Notify::new(), broadcast::channel(16).0, AtomicUsize::new(0));
        Arc::new(Self { lookup, registration, event, bell, events, count })
    }

    /// The paths.
    pub(crate) fn routes(self: Arc<Self>) -> Router {
        let [polls, streams, changes, counts] = [(); 4].map(|()| Arc::clone(&self));
        let poll = async move |uri: axum::http::Uri| {
            if uri.query().is_some() {
                let _counted = Counted::new(&polls);
                polls.bell.notified().await;
            }
            constant(&polls.lookup)
        };
        let stream = async move || {
            let counted = Counted::new(&streams);
            let next = ReusableBoxFuture::new(next(streams.events.subscribe()));
            let mut response = Response::new(Body::new(Events { next, _counted: counted }));
            let media = axum::http::HeaderValue::from_static("text/event-stream");
            response.headers_mut().insert(axum::http::header::CONTENT_TYPE, media);
            response
        };
        let change = async move |_: Bytes| {
            changes.bell.notify_waiters();
            // Without a stream there is nobody to send to.
            let _ = changes.events.send(changes.event.clone());
            constant(&changes.registration)
        };
        let count = async move || counts.count.load(Ordering::Relaxed).to_string();
        Router::new()
            .route("/bare/poll", get(poll))
            .route("/bare/stream", get(stream))
            .route("/bare/change", put(change))
            .route("/bare/waiting", get(count))
    }
}

type Received = (broadcast::Receiver<Bytes>, Option<Bytes>);

async fn next(mut events: broadcast::Receiver<Bytes>) -> Received {
    let event = events.recv().await.ok();
    (events, event)
}

struct Events {
    next: ReusableBoxFuture<'static, Received>,
    _counted: Counted,
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let Poll::Ready((events, event)) = this.next.poll(context) else { return Poll::Pending };
        this.next.set(next(events));
        Poll::Ready(event.map(|event| Ok(Frame::data(event))))
    }
}
