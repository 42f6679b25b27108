//! Which of two comes first.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

/// What came first.
pub(crate) enum First<A, B> {
    Left(A),
    Right(B),
}

/// Runs both until one is ready; the left one wins a draw. The other may be gone on with.
pub(crate) async fn race<A: Future, B: Future>(
    mut left: Pin<&mut A>,
    mut right: Pin<&mut B>,
) -> First<A::Output, B::Output> {
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = left.as_mut().poll(cx) {
            return Poll::Ready(First::Left(output));
        }
        right.as_mut().poll(cx).map(First::Right)
    })
    .await
}
