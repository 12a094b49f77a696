//! Waiting for what hardly ever happens, beside something that happens all the time.
//!
//! A connection is woken for every request. Beside it, its task waits for the end of the server, for its own cut and for
//! time limits; to ask each of them again after every request costs some locks that all connections share. Here they are
//! asked only when one of them has rung. Called by `server`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// A future that is polled only after it has woken its task, and when the task is another one.
pub(super) struct Aside<'a, F> {
    future: Pin<&'a mut F>,
    bell: Arc<Bell>,
    /// Rings the bell.
    rings: Waker,
    /// Whom the bell wakes.
    task: Option<Waker>,
}

struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task is woken, which then looks at it.
        self.rung.store(true, Ordering::Release);
        if let Some(task) = &*self.task.lock() {
            task.wake_by_ref();
        }
    }
}

impl<'a, F: Future> Aside<'a, F> {
    /// `future`, which is asked once at the beginning.
    pub(super) fn new(future: Pin<&'a mut F>) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: Mutex::new(None) });
        let rings = Waker::from(Arc::clone(&bell));
        Self { future, bell, rings, task: None }
    }
}

impl<F: Future> Future for Aside<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !this.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            let task = context.waker().clone();
            *this.bell.task.lock() = Some(task.clone());
            this.task = Some(task);
        }
        // What rings from here on is heard by the next poll, which the ringing brings about.
        if !this.bell.rung.load(Ordering::Relaxed) || !this.bell.rung.swap(false, Ordering::Acquire)
        {
            return Poll::Pending;
        }
        this.future.as_mut().poll(&mut Context::from_waker(&this.rings))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use tokio::sync::Notify;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_asked_when_it_has_rung_and_wakes_whoever_polled_last() {
        let (notify, asked) = (Notify::new(), Cell::new(0));
        let mut notified = pin!(notify.notified());
        let mut inner = pin!(std::future::poll_fn(|context| {
            asked.set(asked.get() + 1);
            notified.as_mut().poll(context)
        }));
        let mut aside = pin!(Aside::new(inner.as_mut()));
        let woken = [(); 2].map(|()| Arc::<Woken>::default());
        for task in &woken {
            let waker = Waker::from(Arc::clone(task));
            for _ in 0..3 {
                assert!(aside.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
        }
        assert_eq!(asked.get(), 1);
        notify.notify_waiters();
        let count = |task: &Arc<Woken>| task.0.load(Ordering::Relaxed);
        assert_eq!((count(&woken[0]), count(&woken[1])), (0, 1));
        let waker = Waker::from(Arc::clone(&woken[1]));
        assert!(aside.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        assert_eq!(asked.get(), 2);
    }
}
