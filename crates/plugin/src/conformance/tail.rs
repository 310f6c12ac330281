//! The last of what a process writes, kept while it runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Bytes that are kept: a verdict with its notes.
const KEPT: usize = 64 * 1024;
/// Whoever inherited the pipe may keep it open after the process's end.
const GRACE: Duration = Duration::from_secs(1);

/// Reads on its own.
#[derive(Debug)]
pub(super) struct Tail {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Tail {
    /// Needs a tokio runtime.
    pub(super) fn of(mut from: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeps = Arc::clone(&kept);
        let reader = tokio::spawn(async move {
            let mut some = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut some).await {
                let mut kept = keeps.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&some[..length]);
                let beyond = kept.len().saturating_sub(KEPT);
                kept.drain(..beyond);
            }
        });
        Self { kept, reader }
    }

    /// What was written last.
    pub(super) async fn end(mut self) -> String {
        if timeout(GRACE, &mut self.reader).await.is_err() {
            self.reader.abort();
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_of_much_is_kept_also_of_a_pipe_that_stays_open() {
        let (mut writer, reader) = tokio::io::duplex(4096);
        let tail = Tail::of(reader);
        let much = "x".repeat(KEPT) + "end";
        tokio::io::AsyncWriteExt::write_all(&mut writer, much.as_bytes()).await.unwrap();
        let kept = tail.end().await;
        assert_eq!(kept.len(), KEPT);
        assert!(kept.ends_with("xend"));
    }
}
