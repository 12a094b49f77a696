//! The requests of a connection that may carry many at once (HTTP/2), counted from their heads to the ends of their
//! answers, so that one on which nothing goes on is found and closed.
//!
//! HTTP/1 has its own ([`super::heads`]). Without this, a client of HTTP/2 that sends a head in pieces, or nothing at all,
//! would keep its place among the connections for ever. Called by `server`; it must not know what a request means.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::Response;
use hyper::body::Incoming;
use tokio::sync::watch;

use super::held::Held;
use super::server::Requests;

/// How many requests of a connection are open, which changes with each beginning and each end.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<watch::Sender<usize>>);

impl Activity {
    /// Comes back when nothing was open for as long as `limit` without a break.
    pub(super) async fn idle(&self, limit: Duration) {
        let mut open = self.0.subscribe();
        loop {
            // The sender lives as long as this does, so that neither of the two fails.
            let _ = open.wait_for(|open| *open == 0).await;
            tokio::select! {
                biased;
                _ = open.changed() => {}
                () = tokio::time::sleep(limit) => return,
            }
        }
    }

    fn begin(&self) -> Open {
        self.0.send_modify(|open| *open += 1);
        Open(self.clone())
    }
}

/// One open request, for as long as it lives.
#[derive(Debug)]
pub(super) struct Open(Activity);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.send_modify(|open| *open -= 1);
    }
}

/// The requests of one such connection.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    /// Who answers them.
    pub(super) requests: Requests,
    /// What counts them.
    pub(super) activity: Activity,
}

impl hyper::service::Service<Request<Incoming>> for Streams {
    type Response = Response<Held<Open>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let open = self.activity.begin();
        let answer = self.requests.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Held::new(body, open))) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(40);

    #[tokio::test]
    async fn silence_counts_from_the_end_of_the_last_request() {
        let activity = Activity::default();
        let start = Instant::now();
        activity.idle(LIMIT).await;
        assert!(start.elapsed() >= LIMIT, "a connection on which nothing was ever asked");

        let (first, second) = (activity.begin(), activity.begin());
        let mut last_end = Instant::now();
        let requests = async {
            tokio::time::sleep(2 * LIMIT).await;
            drop(first);
            tokio::time::sleep(2 * LIMIT).await;
            drop(second);
            // Too short to be seen otherwise than by its having been there.
            drop(activity.begin());
            last_end = Instant::now();
        };
        tokio::join!(requests, activity.idle(LIMIT));
        assert!(last_end.elapsed() >= LIMIT, "it was called idle while a request was open");
    }
}
