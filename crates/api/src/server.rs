//! Serves a router on a listener until it is told to stop. Knows no route.

use std::io;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::connections::Bounded;
use crate::request_log::LOG_TARGET;

/// Requests under way get so long to end after the shutdown.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Serves `router` until `shutdown` ends; then takes no new connection, and lets the requests under
/// way end for [`SHUTDOWN_GRACE`]. Fails only if the listener does.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = Bounded::new(listener);
    let (stopping, stopped) = oneshot::channel();
    let signal = async move {
        shutdown.await;
        // Nobody listens only if serving has ended already.
        let _ = stopping.send(());
    };
    let grace = async move {
        match stopped.await {
            Ok(()) => tokio::time::sleep(SHUTDOWN_GRACE).await,
            // The server is gone, and with it the reason to wait.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        served = axum::serve(listener, router).with_graceful_shutdown(signal) => served,
        () = grace => {
            tracing::warn!(target: LOG_TARGET, "requests under way are cut off");
            Ok(())
        }
    }
}
