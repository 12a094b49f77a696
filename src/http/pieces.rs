//! A body in many pieces that lie in memory: the answer of a large service, whose pieces are shared with its other
//! revisions.
//!
//! Its length is known, so that it goes out as any other body; hyper hands several pieces to the system at once and copies
//! none of them. It must not be split further or joined here: a copy of megabytes for each lookup is what this is to avoid.
//! Called by [`super::lookup`].

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// The pieces that were not sent yet.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: Arc<[Bytes]>,
    next: usize,
    /// Bytes in them.
    left: u64,
}

impl Pieces {
    /// A body of these pieces.
    pub(super) fn new(pieces: Arc<[Bytes]>) -> Self {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces, next: 0, left }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.get(self.next).cloned();
        self.next += 1;
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_body_is_its_pieces_and_says_how_long_it_is() {
        for pieces in [&[][..], &["a"], &["head", "", "a,b,", "c]"]] {
            let whole = pieces.concat();
            let body = Pieces::new(pieces.iter().map(|piece| Bytes::from(*piece)).collect());
            assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
            assert_eq!(body.is_end_stream(), whole.is_empty());
            assert_eq!(body.collect().await.unwrap().to_bytes(), whole);
        }
    }
}
