//! Waiting for the first of two events.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Which of two futures was ready first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First<A, B> {
    /// The left one, or both at once.
    Left(A),
    /// The right one.
    Right(B),
}

/// Waits for the first of two futures and drops the other; the left one wins a draw.
pub async fn first<A: Future, B: Future>(left: A, right: B) -> First<A::Output, B::Output> {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|cx| {
        if let Poll::Ready(output) = left.as_mut().poll(cx) {
            return Poll::Ready(First::Left(output));
        }
        right.as_mut().poll(cx).map(First::Right)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::{Context, Waker};

    use super::*;

    fn poll<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_first_one_wins_and_the_left_one_a_draw() {
        assert_eq!(poll(first(ready(1), ready(2))), Some(First::Left(1)));
        assert_eq!(poll(first(pending::<u8>(), ready(2))), Some(First::Right(2)));
        assert_eq!(poll(first(pending::<u8>(), pending::<u8>())), None);
    }
}
