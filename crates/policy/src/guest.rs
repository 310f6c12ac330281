//! What one instance is given of the host: a bounded log, a bounded memory, and nothing else. It
//! lives as long as one call.

use tracing::Level;
use wasmtime::ResourceLimiter;

use crate::bindings::vman::policy::{log, types};
use crate::limits::{
    CORE_INSTANCES_MAX, LOG_LINE_LENGTH_MAX, LOG_LINES_MAX, MEMORIES_MAX, MEMORY_MAX,
    TABLE_ELEMENTS_MAX, TABLES_MAX,
};
use crate::text::one_line;

/// The host's side of one instance.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    lines: Vec<(Level, String)>,
    lines_dropped: u64,
    memory: usize,
    table_elements: usize,
    /// The guest asked for more memory or table than there is. It is told so, and most then give
    /// up with a trap that says nothing of memory.
    pub(crate) was_refused_memory: bool,
}

impl Guest {
    /// Hands the guest's lines to vman's log. Done after the call, so that a slow log does not
    /// count against the guest's time.
    pub(crate) fn tell_log(&self, policy: &str) {
        for (level, line) in &self.lines {
            tell(*level, policy, line);
        }
        if self.lines_dropped > 0 {
            let dropped = self.lines_dropped;
            let line = format!("{dropped} more lines dropped, {LOG_LINES_MAX} are kept of a call");
            tell(Level::WARN, policy, &line);
        }
    }

    /// Counts `used` from `current` to `desired`, if that is within `max`.
    fn grow(used: usize, current: usize, desired: usize, max: usize) -> Option<usize> {
        let after = used.saturating_sub(current).saturating_add(desired);
        (after <= max).then_some(after)
    }
}

/// The level of an event is part of its static description, so each needs a call of its own.
fn tell(level: Level, policy: &str, line: &str) {
    match level {
        Level::ERROR => tracing::error!(target: "policy", policy, "{line}"),
        Level::WARN => tracing::warn!(target: "policy", policy, "{line}"),
        Level::INFO => tracing::info!(target: "policy", policy, "{line}"),
        Level::DEBUG | Level::TRACE => tracing::debug!(target: "policy", policy, "{line}"),
    }
}

impl log::Host for Guest {
    fn write(&mut self, level: log::Level, message: String) {
        if self.lines.len() == LOG_LINES_MAX {
            self.lines_dropped += 1;
            return;
        }
        let level = match level {
            log::Level::Debug => Level::DEBUG,
            log::Level::Info => Level::INFO,
            log::Level::Warn => Level::WARN,
            log::Level::Error => Level::ERROR,
        };
        self.lines.push((level, one_line(&message, LOG_LINE_LENGTH_MAX)));
    }
}

impl types::Host for Guest {}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let after = Self::grow(self.memory, current, desired, MEMORY_MAX);
        self.memory = after.unwrap_or(self.memory);
        self.was_refused_memory |= after.is_none();
        Ok(after.is_some())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let after = Self::grow(self.table_elements, current, desired, TABLE_ELEMENTS_MAX);
        self.table_elements = after.unwrap_or(self.table_elements);
        self.was_refused_memory |= after.is_none();
        Ok(after.is_some())
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::log::Host;
    use super::*;

    #[test]
    fn only_so_many_lines_are_kept_and_the_rest_is_counted() {
        let mut guest = Guest::default();
        for number in 0..LOG_LINES_MAX + 5 {
            guest.write(log::Level::Info, format!("line {number}"));
        }
        assert_eq!(guest.lines.len(), LOG_LINES_MAX);
        assert_eq!(guest.lines_dropped, 5);
    }

    #[test]
    fn a_line_cannot_pretend_to_be_two_and_is_cut() {
        let mut guest = Guest::default();
        guest.write(log::Level::Warn, "a\n2026 | ERROR | b".to_owned());
        guest.write(log::Level::Warn, "x".repeat(LOG_LINE_LENGTH_MAX + 1));
        assert!(!guest.lines[0].1.contains('\n'), "{}", guest.lines[0].1);
        assert!(guest.lines[1].1.len() <= LOG_LINE_LENGTH_MAX);
    }

    #[test]
    fn memories_count_together_and_a_refusal_is_remembered() {
        let mut guest = Guest::default();
        let half = MEMORY_MAX / 2;
        assert!(guest.memory_growing(0, half, None).unwrap());
        assert!(guest.memory_growing(0, half, None).unwrap());
        assert!(!guest.was_refused_memory);
        assert!(!guest.memory_growing(half, half + 1, None).unwrap());
        assert!(guest.was_refused_memory);
        assert_eq!(guest.memory, MEMORY_MAX);
    }
}
