//! How long the host waits for each verb. A backend that bounds its own waiting below these can
//! say itself what it waited for; past them the host can only say that nothing came. They are not
//! enforced here but in `host`.

use std::time::Duration;

/// For [`Backend::probe`](crate::Backend::probe).
pub const PROBE: Duration = Duration::from_secs(30);
/// For [`Backend::launch`](crate::Backend::launch).
pub const LAUNCH: Duration = Duration::from_secs(60);
/// For [`Backend::reattach`](crate::Backend::reattach).
pub const REATTACH: Duration = Duration::from_secs(10);
/// For [`Backend::power_button`](crate::Backend::power_button).
pub const POWER_BUTTON: Duration = Duration::from_secs(10);
/// For [`Backend::quit`](crate::Backend::quit).
pub const QUIT: Duration = Duration::from_secs(30);
/// For [`Backend::kill`](crate::Backend::kill).
pub const KILL: Duration = Duration::from_secs(10);
/// For [`Backend::create_image`](crate::Backend::create_image).
pub const CREATE_IMAGE: Duration = Duration::from_secs(60);
/// For [`Backend::inspect_image`](crate::Backend::inspect_image).
pub const INSPECT_IMAGE: Duration = Duration::from_secs(10);
/// For [`Backend::delete_image`](crate::Backend::delete_image).
pub const DELETE_IMAGE: Duration = Duration::from_secs(60);
/// For [`Backend::survey`](crate::Backend::survey).
pub const SURVEY: Duration = Duration::from_secs(10);
/// For [`Backend::sight`](crate::Backend::sight).
pub const SIGHT: Duration = Duration::from_secs(10);
/// For [`Backend::pause`](crate::Backend::pause), [`Backend::resume`](crate::Backend::resume) and
/// [`Backend::reset`](crate::Backend::reset).
pub const CONTROL: Duration = Duration::from_secs(10);
/// For [`Backend::attach_disk`](crate::Backend::attach_disk).
pub const ATTACH_DISK: Duration = Duration::from_secs(20);
/// For [`Backend::detach_disk`](crate::Backend::detach_disk).
pub const DETACH_DISK: Duration = Duration::from_secs(20);
/// For [`Backend::resize_disk`](crate::Backend::resize_disk).
pub const RESIZE_DISK: Duration = Duration::from_secs(20);
/// For [`Backend::resize_image`](crate::Backend::resize_image).
pub const RESIZE_IMAGE: Duration = Duration::from_secs(60);
