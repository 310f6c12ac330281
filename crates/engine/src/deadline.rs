//! How long an effect may take. Each bound is longer than what those who carry the effect out allow
//! themselves in all (the verbs of a backend have deadlines of their own): they can say better what
//! they waited for, and these are for the case that they do not.

use std::time::Duration;

use vman_core::operation::Effect;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Making or removing a directory, or moving a file.
const FILES: Duration = seconds(30);
/// A device and its rules.
const NETWORK: Duration = seconds(30);
/// Making one image (60 s), and holding as many as a VM has letters against their records (10 s
/// each).
const PREPARE_DISKS: Duration = seconds(360);
/// Deleting the images of one VM that were to be made.
const DISCARD_NEW_DISKS: Duration = seconds(120);
/// A backend has 60 s.
const LAUNCH: Duration = seconds(90);
/// Looking for a machine (10 s), and taking up its control channel (10 s).
const ADOPT: Duration = seconds(40);
/// Beside the grace of the guest: its power button, looking at it, quitting and killing, which have
/// 60 s in all.
const POWER_OFF_MARGIN: Duration = seconds(90);
/// Quitting (30 s), then killing (10 s).
const END: Duration = seconds(60);
/// A backend has 10 s.
const KILL: Duration = seconds(30);
/// Pausing, resuming, resetting: a backend has 10 s.
const CONTROL: Duration = seconds(30);
/// A backend has 60 s.
const IMAGE: Duration = seconds(90);
/// The image (60 s), and the machine that has it (20 s).
const RESIZE_IMAGE: Duration = seconds(120);
/// Looking at the image (10 s), and attaching it (20 s).
const ATTACH_DISK: Duration = seconds(60);
/// Asking (20 s), and waiting a little for the guest.
const DETACH_DISK: Duration = seconds(60);

/// The most that `effect` may take; `stop_grace` is the guest's.
pub(crate) fn of(effect: Effect, stop_grace: Duration) -> Duration {
    match effect {
        Effect::PrepareDirectory | Effect::RemoveDirectory | Effect::QuarantineFile => FILES,
        Effect::PrepareDisks => PREPARE_DISKS,
        Effect::DiscardNewDisks => DISCARD_NEW_DISKS,
        Effect::ConnectNetwork | Effect::DisconnectNetwork => NETWORK,
        Effect::Launch => LAUNCH,
        Effect::Adopt => ADOPT,
        Effect::PowerOff => stop_grace.saturating_add(POWER_OFF_MARGIN),
        Effect::End => END,
        Effect::Kill => KILL,
        Effect::Pause | Effect::Resume | Effect::Reset => CONTROL,
        Effect::CreateImage | Effect::DeleteImage => IMAGE,
        Effect::ResizeImage => RESIZE_IMAGE,
        Effect::AttachDisk => ATTACH_DISK,
        Effect::DetachDisk => DETACH_DISK,
    }
}
