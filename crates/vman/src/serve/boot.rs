//! Has the VMs started that are to start by themselves, if the host was booted anew. Which those
//! are is for the engine to say.

use std::io;

use tracing::warn;
use uuid::Uuid;
use vman_engine::{Engine, EngineError};

/// A UUID that the kernel makes anew at every boot: random(4).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Must come after recovery: what an earlier daemon had begun is then under way already. Without
/// the boot's id nothing is started, since whether the boot is a new one cannot be known.
pub(super) async fn start_what_ran(engine: &Engine) -> Result<(), EngineError> {
    let boot = match boot_id() {
        Ok(boot) => boot,
        Err(error) => {
            warn!("no VM is started by itself: cannot read {BOOT_ID}: {error}");
            return Ok(());
        }
    };
    #[cfg(feature = "crash-points")]
    let boot = crate::points::boot_id(boot);
    engine.autostart(boot).await.map(drop)
}

fn boot_id() -> io::Result<Uuid> {
    let text = std::fs::read_to_string(BOOT_ID)?;
    text.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_has_one_id() {
        assert_eq!(boot_id().expect("read"), boot_id().expect("read"));
    }
}
