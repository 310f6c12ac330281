//! When the next restart is due: pure arithmetic over the attempts already made. It knows nothing
//! of issues, candidates or components.

use core::time::Duration;

/// How restarts are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Least time between the first restart and the second; doubles with each further one.
    pub first_delay: Duration,
    /// No delay is longer.
    pub max_delay: Duration,
    /// This many restarts within `window` are enough: a person has to look.
    pub max_attempts: u64,
    /// Restarts older than this are forgotten.
    pub window: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Restart at once; `earlier` restarts came before within the window.
    Restart { earlier: u64 },
    /// Ask again after `wait`; `earlier` restarts came before within the window.
    Wait { wait: Duration, earlier: u64 },
    /// `earlier` restarts within the window did not help.
    GiveUp { earlier: u64 },
}

/// The jitter is at most this part of the delay.
const JITTER_SHARE: u64 = 8;

/// Plans the next restart.
///
/// `attempts` are the times of earlier restarts, in any order; both they and `now_ms` are
/// milliseconds since the same instant. A restart that succeeded counts too: a machine that comes
/// up and dies again is exactly what the back-off is for. The jitter lengthens only the wait, never
/// the least delay itself, so an answer asked for again with another seed is not put off for ever.
pub(crate) fn plan(now_ms: u64, seed: u64, attempts: &[u64], limits: &Limits) -> Plan {
    let since = now_ms.saturating_sub(millis(limits.window));
    let recent = attempts.iter().filter(|at| **at >= since);
    let earlier = recent.clone().count() as u64;
    let Some(last) = recent.max() else {
        return Plan::Restart { earlier };
    };
    if earlier >= limits.max_attempts {
        return Plan::GiveUp { earlier };
    }
    let delay = delay(earlier, limits);
    let left = last.saturating_add(delay).saturating_sub(now_ms).min(delay);
    if left == 0 {
        return Plan::Restart { earlier };
    }
    let wait = Duration::from_millis(left.saturating_add(jitter(seed, delay)));
    Plan::Wait { wait, earlier }
}

/// The least time in milliseconds after the latest of `earlier` restarts, which is at least 1.
fn delay(earlier: u64, limits: &Limits) -> u64 {
    let doublings = u32::try_from(earlier.saturating_sub(1)).unwrap_or(u32::MAX);
    let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
    millis(limits.first_delay).saturating_mul(factor).min(millis(limits.max_delay))
}

/// From nothing to an eighth of the delay, so that machines that died together are not all
/// restarted together.
fn jitter(seed: u64, delay: u64) -> u64 {
    mix(seed) % (delay / JITTER_SHARE + 1)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): spreads seeds that lie close together.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        first_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(60),
        max_attempts: 5,
        window: Duration::from_secs(600),
    };
    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn the_first_restart_is_at_once() {
        assert_eq!(plan(NOW, 0, &[], &LIMITS), Plan::Restart { earlier: 0 });
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let limits = Limits { max_attempts: 100, ..LIMITS };
        let delays: Vec<u64> = [1, 2, 3, 4, 5, 6, 7, 8, 64, 65, 99, u64::MAX]
            .iter()
            .map(|earlier| delay(*earlier, &limits))
            .collect();
        let seconds = [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60];
        assert_eq!(delays, seconds.map(|second| second * 1000));
    }

    #[test]
    fn a_wait_lasts_what_is_left_of_the_delay_plus_at_most_an_eighth_of_it() {
        for seed in 0..1000 {
            let attempts = [NOW - 5000, NOW - 500];
            let Plan::Wait { wait, earlier: 2 } = plan(NOW, seed, &attempts, &LIMITS) else {
                panic!("two seconds have not passed");
            };
            assert!((1500..=1750).contains(&millis(wait)), "{wait:?}");
        }
    }

    #[test]
    fn seeds_spread_the_waits() {
        let waits = (0..100).map(|seed| plan(NOW, seed, &[NOW], &LIMITS));
        let mut waits: Vec<String> = waits.map(|plan| format!("{plan:?}")).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 50, "only {} of 100 differ", waits.len());
    }

    #[test]
    fn once_the_delay_has_passed_no_seed_puts_the_restart_off() {
        for seed in 0..1000 {
            let plan = plan(NOW, seed, &[NOW - 1000], &LIMITS);
            assert_eq!(plan, Plan::Restart { earlier: 1 });
        }
    }

    #[test]
    fn it_gives_up_after_the_allowed_attempts_and_forgets_those_outside_the_window() {
        let five = [1, 2, 3, 4, 5].map(|minute| NOW - minute * 60_000);
        assert_eq!(plan(NOW, 0, &five, &LIMITS), Plan::GiveUp { earlier: 5 });
        assert_eq!(plan(NOW, 0, &five[..4], &LIMITS), Plan::Restart { earlier: 4 });
        let later = NOW + 8 * 60_000;
        assert_eq!(plan(later, 0, &five, &LIMITS), Plan::Restart { earlier: 2 });
    }

    #[test]
    fn extreme_numbers_and_a_clock_that_went_back_do_not_overflow_or_wait_for_ever() {
        let limits = Limits {
            first_delay: Duration::MAX,
            max_delay: Duration::MAX,
            max_attempts: u64::MAX,
            window: Duration::MAX,
        };
        assert!(matches!(plan(NOW, u64::MAX, &[u64::MAX, 0], &limits), Plan::Wait { .. }));
        let Plan::Wait { wait, .. } = plan(NOW, 7, &[NOW + 3_600_000], &LIMITS) else {
            panic!("the attempt lies in the future");
        };
        assert!(wait <= Duration::from_millis(1125), "{wait:?}");
    }
}
