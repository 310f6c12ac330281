//! Chance that can be repeated: what is drawn follows from the seed, the machine, a count and what
//! it is for, and from nothing else. So a run with the same seed and the same machines is the same
//! run, in whatever order threads come to it. There is no generator whose state they could share.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The bits of a drawn number: those of the lower half of a UUID that its variant leaves, RFC 9562.
const BITS: u32 = 62;

/// What a number is drawn for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) seed: u64,
    pub(crate) machine: Uuid,
    /// Which start of the machine it is, from 1; 0 for what is drawn once.
    pub(crate) count: u64,
}

impl Draw {
    /// Below 2^62, spread evenly: a UUID of version 5 is a SHA-1.
    fn number(self, what: &str) -> u64 {
        let name = format!("{}/{}/{what}", self.seed, self.count);
        Uuid::new_v5(&self.machine, name.as_bytes()).as_u64_pair().1 & ((1 << BITS) - 1)
    }

    /// Is it one of the `share`, 0 to 1?
    pub(crate) fn is_of(self, share: f64, what: &str) -> bool {
        // The 31 bits that are kept fit into any float.
        let thrown = u32::try_from(self.number(what) >> (BITS - 31)).unwrap_or(u32::MAX);
        f64::from(thrown) / f64::from(1_u32 << 31) < share
    }
}

/// A length of time in milliseconds, or the least and the most that may be drawn, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Told")]
pub(crate) struct Span {
    pub(crate) least: u64,
    pub(crate) most: u64,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "milliseconds were expected, or [least, most] of them")]
enum Told {
    Always(u64),
    Between([u64; 2]),
}

impl From<Told> for Span {
    fn from(told: Told) -> Self {
        match told {
            Told::Always(ms) => Self::of(ms),
            Told::Between([least, most]) => Self { least, most },
        }
    }
}

impl Span {
    pub(crate) const fn of(ms: u64) -> Self {
        Self { least: ms, most: ms }
    }

    /// Milliseconds.
    pub(crate) fn draw(self, draw: Draw, what: &str) -> u64 {
        if self.most <= self.least {
            return self.least;
        }
        self.least + draw.number(what) % (self.most - self.least + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(seed: u64, machine: u128, count: u64) -> Draw {
        Draw { seed, machine: Uuid::from_u128(machine), count }
    }

    #[test]
    fn the_same_is_drawn_again_and_anything_else_draws_anew() {
        let span = Span { least: 5, most: 1_000_000 };
        let first = span.draw(of(1, 2, 3), "launch");
        assert_eq!(span.draw(of(1, 2, 3), "launch"), first);
        let others = [
            span.draw(of(9, 2, 3), "launch"),
            span.draw(of(1, 9, 3), "launch"),
            span.draw(of(1, 2, 9), "launch"),
            span.draw(of(1, 2, 3), "unplug"),
        ];
        assert!(others.iter().all(|other| *other != first), "{first} {others:?}");
        // What a release drew the next one draws, too.
        assert_eq!(first, 736_372);
    }

    #[test]
    fn a_span_is_drawn_from_end_to_end_and_never_beyond() {
        let span = Span { least: 3, most: 6 };
        let drawn: std::collections::BTreeSet<u64> =
            (0..200).map(|machine| span.draw(of(1, machine, 1), "x")).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert_eq!(Span::of(7).draw(of(1, 1, 1), "x"), 7);
    }

    #[test]
    fn a_share_is_about_that_many() {
        let count = |share| (0..10_000).filter(|id| of(1, *id, 0).is_of(share, "x")).count();
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        assert!((850..1150).contains(&count(0.1)), "{}", count(0.1));
    }
}
