//! Awaiting several futures at once without a task for each.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;

/// Both outputs, once both futures are ready.
pub(super) async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut left, mut right) = (None, None);
    std::future::poll_fn(|cx| {
        if left.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(cx)
        {
            left = Some(output);
        }
        if right.is_none()
            && let Poll::Ready(output) = b.as_mut().poll(cx)
        {
            right = Some(output);
        }
        match (left.take(), right.take()) {
            (Some(left), Some(right)) => Poll::Ready((left, right)),
            (one, other) => {
                (left, right) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}

/// A future among others of one output.
pub(super) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Runs all futures to their ends; gives the first error in their order, if any.
///
/// # Errors
/// That of the first future in order that failed.
pub(super) async fn all<E>(mut futures: Vec<Boxed<'_, Result<(), E>>>) -> Result<(), E> {
    let mut results: Vec<Option<Result<(), E>>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(output) => *result = Some(output),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// The output of a future that is ready at once; else it is dropped.
pub(super) fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_run_to_their_ends_and_the_first_error_counts() {
        let count = std::cell::Cell::new(0);
        let step = |result: Result<(), u8>| -> Boxed<'_, Result<(), u8>> {
            let count = &count;
            Box::pin(async move {
                count.set(count.get() + 1);
                result
            })
        };
        let futures = vec![step(Ok(())), step(Err(1)), step(Err(2)), step(Ok(()))];
        assert_eq!(at_once(all(futures)), Some(Err(1)));
        assert_eq!(count.get(), 4);
        assert_eq!(at_once(both(async { 1 }, async { 2 })), Some((1, 2)));
        assert!(at_once(both(async { 1 }, std::future::pending::<()>())).is_none());
    }
}
