//! What is to go wrong with one machine, and when. It is drawn when the machine is started and then
//! stands in its file, so that it comes true whether an instance is there or not, and whatever the
//! settings of the next instance are. Who draws it is `faults`.

use serde::{Deserialize, Serialize};
use vman_plugin::ExitCause;

/// One fault in `machine.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    #[serde(flatten)]
    pub(crate) trouble: Trouble,
    /// On the clock that the machine lives by, in milliseconds.
    pub(crate) from_ms: u64,
    /// Absent: until the machine ends. What happens in a moment has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Trouble {
    /// The machine ends.
    Crash { cause: ExitCause },
    /// The guest panics, and stays so until a reset.
    GuestPanic,
    /// The machine lives and answers nothing; it can be killed.
    Hang,
    /// What happens to the machine is not told by events.
    LostEvent,
    /// A guest that is asked for a disk takes this much longer; without, it never lets go.
    SlowUnplug { delay_ms: Option<u64> },
    /// The image of this disk of the machine, counted from 0, is removed.
    ImageLoss { disk: usize },
}

impl Planned {
    pub(crate) fn is_on(&self, now: u64) -> bool {
        self.from_ms <= now && self.until_ms.is_none_or(|until| now < until)
    }

    /// When something about it changes, after `now`.
    fn turns(&self, now: u64) -> impl Iterator<Item = u64> {
        [Some(self.from_ms), self.until_ms].into_iter().flatten().filter(move |at| *at > now)
    }
}

/// Every time after `now` at which something changes.
pub(crate) fn turns(plan: &[Planned], now: u64) -> Vec<u64> {
    plan.iter().flat_map(|planned| planned.turns(now)).collect()
}

/// How the machine has ended, if it has.
pub(crate) fn crash(plan: &[Planned], now: u64) -> Option<ExitCause> {
    on(plan, now).find_map(|planned| match planned.trouble {
        Trouble::Crash { cause } => Some(cause),
        Trouble::GuestPanic
        | Trouble::Hang
        | Trouble::LostEvent
        | Trouble::SlowUnplug { .. }
        | Trouble::ImageLoss { .. } => None,
    })
}

/// Since when it answers nothing.
pub(crate) fn hangs(plan: &[Planned], now: u64) -> Option<u64> {
    let hang = on(plan, now).find(|planned| planned.trouble == Trouble::Hang);
    hang.map(|planned| planned.from_ms)
}

pub(crate) fn has_panicked(plan: &[Planned], now: u64) -> bool {
    on(plan, now).any(|planned| planned.trouble == Trouble::GuestPanic)
}

pub(crate) fn is_mute(plan: &[Planned], now: u64) -> bool {
    on(plan, now).any(|planned| planned.trouble == Trouble::LostEvent)
}

/// How much longer its guest takes to let go of a disk; none within if it never does.
pub(crate) fn unplug_delay(plan: &[Planned], now: u64) -> Option<u64> {
    let delays = on(plan, now).filter_map(|planned| match planned.trouble {
        Trouble::SlowUnplug { delay_ms } => Some(delay_ms),
        Trouble::Crash { .. }
        | Trouble::GuestPanic
        | Trouble::Hang
        | Trouble::LostEvent
        | Trouble::ImageLoss { .. } => None,
    });
    delays.sum()
}

/// Takes the disks out of the plan whose images are to be lost by now.
pub(crate) fn take_losses(plan: &mut Vec<Planned>, now: u64) -> Vec<usize> {
    let mut lost = Vec::new();
    plan.retain(|planned| match planned.trouble {
        Trouble::ImageLoss { disk } if planned.is_on(now) => {
            lost.push(disk);
            false
        }
        Trouble::ImageLoss { .. }
        | Trouble::Crash { .. }
        | Trouble::GuestPanic
        | Trouble::Hang
        | Trouble::LostEvent
        | Trouble::SlowUnplug { .. } => true,
    });
    lost
}

/// A reset guest boots anew.
pub(crate) fn forget_panics(plan: &mut Vec<Planned>, now: u64) {
    plan.retain(|planned| planned.trouble != Trouble::GuestPanic || !planned.is_on(now));
}

fn on(plan: &[Planned], now: u64) -> impl Iterator<Item = &Planned> {
    plan.iter().filter(move |planned| planned.is_on(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(trouble: Trouble, from_ms: u64, until_ms: Option<u64>) -> Planned {
        Planned { trouble, from_ms, until_ms }
    }

    #[test]
    fn a_fault_lasts_from_its_beginning_to_before_its_end() {
        let plan = [planned(Trouble::Hang, 10, Some(20)), planned(Trouble::GuestPanic, 15, None)];
        let hung = [9, 10, 19, 20].map(|now| hangs(&plan, now));
        assert_eq!(hung, [None, Some(10), Some(10), None]);
        assert_eq!([14, 15, 99].map(|now| has_panicked(&plan, now)), [false, true, true]);
        assert_eq!(turns(&plan, 10), [20, 15]);
    }

    #[test]
    fn delays_add_up_and_one_without_end_has_none() {
        let slow = |delay_ms| planned(Trouble::SlowUnplug { delay_ms }, 0, None);
        assert_eq!(unplug_delay(&[], 0), Some(0));
        assert_eq!(unplug_delay(&[slow(Some(2)), slow(Some(3))], 0), Some(5));
        assert_eq!(unplug_delay(&[slow(Some(2)), slow(None)], 0), None);
    }

    #[test]
    fn an_image_is_lost_once() {
        let mut plan = vec![
            planned(Trouble::ImageLoss { disk: 1 }, 5, None),
            planned(Trouble::ImageLoss { disk: 2 }, 6, None),
        ];
        assert_eq!(take_losses(&mut plan, 5), [1]);
        assert_eq!(take_losses(&mut plan, 5), [0; 0]);
        assert_eq!(take_losses(&mut plan, 6), [2]);
    }
}
