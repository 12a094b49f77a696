//! A body of which the beginning was read, for those who read all of it. Called by the heartbeats of [`super`].

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};

/// A body as if nothing of it had been read.
#[derive(Debug)]
pub(in crate::http) struct Unread<B = Incoming>
where
    B: HttpBody,
{
    first: Option<Result<Frame<Bytes>, B::Error>>,
    rest: B,
}

impl<B: HttpBody<Data = Bytes>> Unread<B> {
    /// One that was not touched.
    pub(super) fn whole(rest: B) -> Self {
        Self { first: None, rest }
    }

    /// What `rest` was before `first` was read from it.
    pub(super) fn after(first: Result<Frame<Bytes>, B::Error>, rest: B) -> Self {
        Self { first: Some(first), rest }
    }
}

impl<B> HttpBody for Unread<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.first.as_ref().and_then(|first| first.as_ref().ok()?.data_ref());
        let (read, rest) = (data.map_or(0, |data| data.len() as u64), self.rest.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_again() {
        let mut rest = Full::new(Bytes::from("{}"));
        let first = rest.frame().await.unwrap();
        assert!(rest.is_end_stream());
        let again = Unread::after(first, rest);
        assert!(!again.is_end_stream());
        assert_eq!(again.size_hint().exact(), Some(2));
        assert_eq!(again.collect().await.unwrap().to_bytes(), "{}");
        let whole = Unread::whole(Full::new(Bytes::from("{}")));
        assert_eq!(whole.size_hint().exact(), Some(2));
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "{}");
    }
}
