//! Waiting for a file: that it can be opened, that a chunk of it can be used.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use rt::sync::{Notified, Notify};

use crate::state::FileId;

/// Who waits for which file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting(Rc<RefCell<BTreeMap<FileId, Rc<Notify>>>>);

/// Somebody who waits for a file.
#[derive(Debug)]
pub(crate) struct Listener {
    waiting: Waiting,
    file: FileId,
    notify: Rc<Notify>,
}

impl Waiting {
    /// Begins to listen. A look at the state after [`Listener::woken`] misses nothing.
    pub(crate) fn listen(&self, file: FileId) -> Listener {
        let notify = Rc::clone(self.0.borrow_mut().entry(file).or_default());
        Listener { waiting: self.clone(), file, notify }
    }

    /// Wakes those who wait for a file.
    pub(crate) fn wake(&self, file: FileId) {
        if let Some(notify) = self.0.borrow().get(&file) {
            notify.notify_all();
        }
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        for notify in self.0.borrow().values() {
            notify.notify_all();
        }
    }
}

impl Listener {
    /// The next time the file is woken, from this call on.
    pub(crate) fn woken(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The table's and ours: nobody else listens.
        if Rc::strong_count(&self.notify) == 2 {
            self.waiting.0.borrow_mut().remove(&self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn those_who_listen_are_woken_and_forgotten_when_they_go() {
        let waiting = Waiting::default();
        let (one, two) = (FileId::from_raw(1), FileId::from_raw(2));
        let (first, second, other) = (waiting.listen(one), waiting.listen(one), waiting.listen(two));
        let mut cx = Context::from_waker(Waker::noop());
        {
            let (mut a, mut b, mut c) = (pin!(first.woken()), pin!(second.woken()), pin!(other.woken()));
            assert_eq!(a.as_mut().poll(&mut cx), Poll::Pending);
            waiting.wake(one);
            assert_eq!(a.as_mut().poll(&mut cx), Poll::Ready(()));
            assert_eq!(b.as_mut().poll(&mut cx), Poll::Ready(()));
            assert_eq!(c.as_mut().poll(&mut cx), Poll::Pending);
        }
        drop((first, other));
        assert_eq!(waiting.0.borrow().keys().collect::<Vec<_>>(), [&one]);
        drop(second);
        assert!(waiting.0.borrow().is_empty());
    }
}
