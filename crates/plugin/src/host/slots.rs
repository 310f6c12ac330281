//! Which operations wait for an answer. Every number given out names its slot and how often the
//! slot has been used, so a late or second answer never reaches another operation. It knows
//! nothing of what is asked or answered.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Operations of one instance that may be under way at the same time.
pub(crate) const MAX_OPERATIONS: usize = 256;

/// What a plugin answered: its status and JSON, or that the JSON was too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: i32,
    pub(crate) json: Option<Vec<u8>>,
}

/// The operations of one instance. A slot is free again when the plugin has answered, not when
/// nobody waits any longer: what hangs in a plugin counts, so it cannot grow without end.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<Vec<Slot>>);

#[derive(Debug)]
struct Slot {
    /// Counts the slot's uses, so that the first number is not 0.
    generation: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Waiting {
        waiter: oneshot::Sender<Answer>,
        taken: bool,
    },
    /// The plugin has not answered, but nobody would hear it, since then.
    Abandoned(Instant),
}

impl Slots {
    /// A number for a new operation; `None` if all slots are taken.
    pub(crate) fn begin(&self) -> Option<(u64, oneshot::Receiver<Answer>)> {
        let (sender, receiver) = oneshot::channel();
        let mut slots = self.lock();
        let free = slots.iter().position(|slot| matches!(slot.state, State::Free));
        let index = match free {
            Some(index) => index,
            None if slots.len() < MAX_OPERATIONS => {
                slots.push(Slot { generation: 0, state: State::Free });
                slots.len() - 1
            }
            None => return None,
        };
        let slot = &mut slots[index];
        slot.generation = slot.generation.wrapping_add(1).max(1);
        slot.state = State::Waiting { waiter: sender, taken: false };
        Some((u64::from(slot.generation) << 32 | index as u64, receiver))
    }

    /// Hands an answer to who waits for it; `false` if nobody does.
    pub(crate) fn answer(&self, op: u64, answer: Answer) -> bool {
        match self.free(op) {
            // The waiter may be gone at this very moment: then the answer is late, too.
            State::Waiting { waiter, .. } => waiter.send(answer).is_ok(),
            State::Abandoned(_) | State::Free => false,
        }
    }

    /// The plugin has it: it may be at work.
    pub(crate) fn take(&self, op: u64) {
        if let Some(Slot { state: State::Waiting { taken, .. }, .. }) = find(&mut self.lock(), op) {
            *taken = true;
        }
    }

    /// Whether the plugin has never been given it.
    pub(crate) fn is_queued(&self, op: u64) -> bool {
        let mut slots = self.lock();
        let slot = find(&mut slots, op);
        slot.is_some_and(|slot| matches!(slot.state, State::Waiting { taken: false, .. }))
    }

    /// No answer comes any more, to anything: whoever waits is told so.
    pub(crate) fn end_all(&self) {
        self.lock().iter_mut().for_each(|slot| slot.state = State::Free);
    }

    /// Operations that nobody has waited for as long as this, and that the plugin has not answered.
    pub(crate) fn abandoned_for(&self, time: Duration) -> usize {
        let is_abandoned =
            |slot: &&Slot| matches!(slot.state, State::Abandoned(since) if since.elapsed() >= time);
        self.lock().iter().filter(is_abandoned).count()
    }

    /// Nobody waits any longer; `false` if it was answered already.
    pub(crate) fn abandon(&self, op: u64) -> bool {
        let mut slots = self.lock();
        let Some(slot) = find(&mut slots, op) else {
            return false;
        };
        let waiting = matches!(slot.state, State::Waiting { .. });
        if waiting {
            slot.state = State::Abandoned(Instant::now());
        }
        waiting
    }

    /// The state before; free if the number is not, or no longer, given out.
    fn free(&self, op: u64) -> State {
        match find(&mut self.lock(), op) {
            Some(slot) => std::mem::replace(&mut slot.state, State::Free),
            None => State::Free,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(slots: &mut [Slot], op: u64) -> Option<&mut Slot> {
    slots
        .get_mut((op & u64::from(u32::MAX)) as usize)
        .filter(|slot| u64::from(slot.generation) == op >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: i32) -> Answer {
        Answer { status, json: None }
    }

    #[test]
    fn the_first_answer_reaches_who_waits_and_the_second_nobody() {
        let slots = Slots::default();
        let (op, mut waiter) = slots.begin().unwrap();
        assert!(slots.answer(op, answer(7)));
        assert!(!slots.answer(op, answer(8)));
        assert_eq!(waiter.try_recv().unwrap(), answer(7));
    }

    #[test]
    fn a_late_answer_does_not_reach_the_slots_next_operation() {
        let slots = Slots::default();
        let (old, waiter) = slots.begin().unwrap();
        assert!(slots.abandon(old));
        drop(waiter);
        assert!(!slots.answer(old, answer(0)));
        let (new, mut waiter) = slots.begin().unwrap();
        assert_eq!(old & 0xffff_ffff, new & 0xffff_ffff, "the slot is used again");
        assert!(!slots.answer(old, answer(1)));
        waiter.try_recv().unwrap_err();
        assert!(slots.answer(new, answer(2)));
    }

    #[test]
    fn numbers_never_given_out_are_nobodys() {
        let slots = Slots::default();
        let _waiting = slots.begin().unwrap();
        for op in [0, 1, u64::MAX, 1 << 32 | 5, 2 << 32] {
            assert!(!slots.answer(op, answer(0)), "{op:#x}");
        }
    }

    #[test]
    fn operations_are_bounded_until_they_are_answered_also_abandoned_ones() {
        let slots = Slots::default();
        let waiting: Vec<_> = (0..MAX_OPERATIONS).map(|_| slots.begin().unwrap()).collect();
        assert!(slots.begin().is_none());
        assert!(slots.abandon(waiting[100].0));
        assert!(!slots.abandon(waiting[100].0));
        assert!(slots.begin().is_none());
        assert!(!slots.answer(waiting[100].0, answer(0)));
        assert!(slots.begin().is_some());
    }
}
