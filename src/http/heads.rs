//! The time that a client of HTTP/1 has for a head: it is counted while nothing is under way, so that one who says
//! nothing, or sends a head byte by byte, does not keep its place among the connections for ever.
//!
//! hyper has such a limit too, as a timer for each head: made, set among all timers of the process and taken away again
//! for every request. Here a connection counts its requests, and looks some times in that span whether anything was
//! asked meanwhile: a request costs one plain store, and a client is given up at most a fourth of its time too late.
//! HTTP/2 has [`super::streams`]. Called by `server`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::response::Response;
use tokio::time::Instant;

use super::held::Held;

/// How often is looked within the time for a head.
const LOOKS: u32 = 4;

/// Up to here an answer is handed over whole; a longer one may be under way for as long as its client takes to read it.
const SHORT_BYTES_MAX: u64 = 64 * 1024;

/// What was asked on a connection, and what is under way.
#[derive(Debug, Default)]
pub(super) struct Heads {
    asked: AtomicU64,
    open: AtomicUsize,
}

impl Heads {
    /// A whole head has come. To be called by the task of the connection alone.
    pub(super) fn came(&self) {
        // No addition that others could see in between: nobody else writes.
        self.asked.store(self.asked.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Whether any head has come.
    pub(super) fn any(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    /// Something is under way until the guard is dropped.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// The same answer, which is under way until it was handed over, if that can take long.
    pub(super) fn follow(self: &Arc<Self>, response: Response) -> Response {
        match response.body().size_hint().upper() {
            Some(length) if length <= SHORT_BYTES_MAX => response,
            _ => response.map(|body| Body::new(Held::new(body, self.open()))),
        }
    }
}

/// What is under way.
#[derive(Debug)]
pub(super) struct Open(Arc<Heads>);

impl Open {
    /// As [`Heads::follow`].
    pub(super) fn follow(&self, response: Response) -> Response {
        self.0.follow(response)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks at the heads of a connection now and then.
#[derive(Debug)]
pub(super) struct Watch {
    limit: Duration,
    asked: u64,
    /// Since when nothing was asked, for all that is known; none while something is under way.
    since: Option<Instant>,
}

impl Watch {
    /// A connection that is opened now, and whose heads may take so long.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, asked: 0, since: Some(now) }
    }

    /// When to look again, after `now`.
    pub(super) fn next(&self, now: Instant) -> Instant {
        now + self.limit / LOOKS
    }

    /// Whether the head that is due has not come in its time.
    pub(super) fn is_overdue(&mut self, heads: &Heads, now: Instant) -> bool {
        let asked = heads.asked.load(Ordering::Relaxed);
        if heads.open.load(Ordering::Relaxed) > 0 {
            self.since = None;
        } else if self.since.is_none() || asked != self.asked {
            // It ended some time since the last look.
            self.since = Some(now);
        }
        self.asked = asked;
        self.since.is_some_and(|since| now.duration_since(since) >= self.limit)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::HttpBody;
    use bytes::Bytes;
    use hyper::body::Frame;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(4);

    /// Looks as often as told, each time after what happens before it; at which look the client is given up.
    fn given_up(looks: u32, mut before: impl FnMut(u32, &Arc<Heads>)) -> Option<u32> {
        let (heads, mut now) = (Arc::new(Heads::default()), Instant::now());
        let mut watch = Watch::new(LIMIT, now);
        (1..=looks).find(|look| {
            before(*look, &heads);
            now = watch.next(now);
            watch.is_overdue(&heads, now)
        })
    }

    #[test]
    fn who_asks_nothing_has_the_time_of_a_head_and_who_asks_has_it_anew() {
        assert_eq!(given_up(100, |_, _| ()), Some(LOOKS));
        let asks_until_the_third = |look, heads: &Arc<Heads>| {
            if look <= 3 {
                heads.came();
            }
        };
        assert_eq!(given_up(100, asks_until_the_third), Some(3 + LOOKS));
        assert_eq!(given_up(100, |_, heads| heads.came()), None);
    }

    #[test]
    fn nobody_is_given_up_while_an_answer_is_under_way() {
        let mut open = None;
        let ended = given_up(100, |look, heads| match look {
            1 => {
                heads.came();
                open = Some(heads.open());
            }
            50 => drop(open.take()),
            _ => {}
        });
        assert_eq!(ended, Some(50 + LOOKS));
    }

    #[test]
    fn a_long_answer_is_under_way_until_it_was_handed_over() {
        let heads = Arc::new(Heads::default());
        let open = || heads.open.load(Ordering::Relaxed);
        let answer = |length: usize| heads.follow(Response::new(Body::from(vec![0; length])));
        let short = answer(64 * 1024);
        assert_eq!(open(), 0);
        let long = answer(64 * 1024 + 1);
        assert_eq!(open(), 1);
        drop((short, long));
        assert_eq!(open(), 0);
        let stream = heads.follow(Response::new(Body::new(Endless)));
        assert_eq!(open(), 1, "one of no known length");
        drop(stream);
    }

    struct Endless;

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }
}
