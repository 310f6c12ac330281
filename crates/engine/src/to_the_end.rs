//! A future that is run to its end even if its caller goes away. It knows nothing of what it runs.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Polled in place by whoever waits for it; goes on in a task of its own when it is dropped.
pub(crate) struct ToTheEnd<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> ToTheEnd<T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<T: Send + 'static> Future for ToTheEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Taken out while it is polled: one that panics must not be polled again.
        let mut future = self.0.take().expect("nobody polls a future that has ended");
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(future);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for ToTheEnd<T> {
    fn drop(&mut self) {
        // Without a runtime the daemon itself is ending: its next start takes up what is recorded.
        if let (Some(future), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_is_dropped_half_way_goes_on() {
        let (go, gone) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let task = ToTheEnd::new(async move {
            gone.await.expect("told to go on");
            end.send(7).expect("somebody waits");
        });
        assert!(task.now_or_never().is_none());
        go.send(()).expect("it goes on");
        assert_eq!(ended.await, Ok(7));
    }

    #[tokio::test]
    async fn what_nobody_drops_ends_where_it_is_awaited() {
        assert_eq!(ToTheEnd::new(async { 7 }).now_or_never(), Some(7));
    }
}
