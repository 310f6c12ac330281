//! The words both sides use inside the messages: operation names, the request's frame, status
//! codes and bounds. Not here: the C types that carry the bytes (`abi`), and the messages
//! themselves (`message`).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest message either side takes. A survey spends about 200 bytes on a machine.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The status of an operation that ended well; its JSON is the result. With any other status the
/// JSON is a [`BackendError`](crate::BackendError).
pub(crate) const STATUS_OK: i32 = 0;
/// The status of an operation that failed.
pub(crate) const STATUS_FAILED: i32 = 1;

/// The operation names. An open set: a plugin answers one it does not know with
/// [`ErrorCode::Unsupported`](crate::ErrorCode::Unsupported).
pub(crate) mod op {
    pub(crate) const PROBE: &str = "probe";
    pub(crate) const LAUNCH: &str = "launch";
    pub(crate) const REATTACH: &str = "reattach";
    pub(crate) const POWER_BUTTON: &str = "power-button";
    pub(crate) const QUIT: &str = "quit";
    pub(crate) const KILL: &str = "kill";
    pub(crate) const CREATE_IMAGE: &str = "create-image";
    pub(crate) const INSPECT_IMAGE: &str = "inspect-image";
    pub(crate) const DELETE_IMAGE: &str = "delete-image";
    pub(crate) const SURVEY: &str = "survey";
    pub(crate) const SIGHT: &str = "sight";
    pub(crate) const PAUSE: &str = "pause";
    pub(crate) const RESUME: &str = "resume";
    pub(crate) const RESET: &str = "reset";
    pub(crate) const ATTACH_DISK: &str = "attach-disk";
    pub(crate) const DETACH_DISK: &str = "detach-disk";
    pub(crate) const RESIZE_DISK: &str = "resize-disk";
    pub(crate) const RESIZE_IMAGE: &str = "resize-image";
}

/// `{"op": "launch", "params": {...}}`: the params are the verb's one argument.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request<O, P> {
    pub(crate) op: O,
    #[serde(default)]
    pub(crate) params: P,
}

/// The params of a verb that names nothing but a machine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MachineParams {
    pub(crate) id: Uuid,
}

/// The params of a verb without an argument.
#[cfg(feature = "host")]
#[derive(Debug, Serialize)]
pub(crate) struct NoParams {}

/// One log line of a plugin. The level travels beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogLine {
    pub(crate) message: String,
}
