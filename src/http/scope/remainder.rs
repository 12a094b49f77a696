//! What a handler leaves unread of a body. Most refusals are known before the body is there; a connection
//! that is closed on a client which still sends would take the answer away from it (a reset overtakes it).
//! So the rest is read and thrown away, within bounds.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;

/// Most bytes that are thrown away for one request.
const DRAIN_BYTES_MAX: usize = 1024 * 1024;
/// Longest time that this may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// A body that the handler and the scope both hold.
#[derive(Debug, Clone)]
struct SharedBody(Arc<Mutex<Body>>);

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}

/// The scope's end of a shared body.
#[derive(Debug)]
pub(super) struct Remainder {
    body: SharedBody,
    /// The client sends nothing before it is told to go on, which reading would do.
    awaits_continue: bool,
    http1: bool,
}

impl Remainder {
    /// Shares the body of `request`; none if there is no body, as with nearly every request.
    pub(super) fn share(request: &mut Request) -> Option<Self> {
        if request.body().is_end_stream() {
            return None;
        }
        let body = SharedBody(Arc::new(Mutex::new(std::mem::take(request.body_mut()))));
        *request.body_mut() = Body::new(body.clone());
        let awaits_continue = request.headers().contains_key(header::EXPECT);
        Some(Self { body, awaits_continue, http1: request.version() < Version::HTTP_2 })
    }

    /// Reads what is left. Where it does not end within the bounds, the connection ends with the answer.
    pub(super) async fn drain(mut self, response: &mut Response) {
        if self.body.is_end_stream() {
            return;
        }
        // One that has kept its time limit waiting once is not waited for again.
        let hopeless = self.awaits_continue || response.status() == StatusCode::REQUEST_TIMEOUT;
        let drained = !hopeless
            && tokio::time::timeout(DRAIN_TIME_MAX, self.read_rest()).await.unwrap_or(false);
        if !drained && self.http1 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Whether the body came to its end within the bytes allowed.
    async fn read_rest(&mut self) -> bool {
        let mut read = 0;
        while let Some(frame) = self.body.frame().await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DRAIN_BYTES_MAX {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn closes(left: usize, status: StatusCode) -> bool {
        let mut request = Request::new(Body::from(vec![b'x'; left]));
        let remainder = Remainder::share(&mut request).unwrap();
        drop(request);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        remainder.drain(&mut response).await;
        response.headers().contains_key(header::CONNECTION)
    }

    #[tokio::test]
    async fn the_rest_is_read_within_bounds() {
        assert!(!closes(DRAIN_BYTES_MAX, StatusCode::NOT_FOUND).await);
        assert!(closes(DRAIN_BYTES_MAX + 1, StatusCode::NOT_FOUND).await);
        assert!(closes(1, StatusCode::REQUEST_TIMEOUT).await);
        assert!(Remainder::share(&mut Request::new(Body::empty())).is_none());
    }
}
