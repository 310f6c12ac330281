//! A clock that is ahead of another one.

use std::sync::Arc;

use vman_core::ident::Timestamp;
use vman_core::ports::Clock;

pub(super) struct Ahead {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ahead_ms: u64,
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        self.clock.now().plus(self.ahead_ms)
    }
}
