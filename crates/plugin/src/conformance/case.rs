//! One thing that every backend must hold: its name, what it needs of the backend and of who
//! checks, and what is done to see it. The cases themselves are in `cases` and `fuzz`.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use super::bench::Bench;
use super::fault::Outcome;
use super::subject::Subject;
use crate::Capabilities;

/// How long a case may take before its process is ended.
const USUAL_TIMEOUT: Duration = Duration::from_secs(120);

type Run = for<'a> fn(&'a Bench) -> Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// One thing that every backend must hold.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    /// In a sentence.
    pub holds: &'static str,
    pub needs: &'static [Need],
    /// After this its process is ended.
    pub timeout: Duration,
    pub(super) run: Run,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Case {
    pub(super) const fn new(
        name: &'static str,
        holds: &'static str,
        needs: &'static [Need],
        run: Run,
    ) -> Self {
        Self { name, holds, needs, timeout: USUAL_TIMEOUT, run }
    }

    pub(super) const fn within(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }
}

/// What a case cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Machines can be run on this host.
    Machines,
    /// [`Capabilities::processes`]
    Processes,
    /// [`Capabilities::power_button`]
    PowerButton,
    /// [`Capabilities::pause`]
    Pause,
    /// [`Capabilities::reset`]
    Reset,
    /// One bus at least in [`Capabilities::hot_plug`].
    HotPlug,
    /// One format at least in [`Capabilities::image_formats`].
    Images,
    /// [`Capabilities::resize`]
    Resize,
    /// A guest that obeys.
    Obedience,
    /// A program that runs a second process of the suite.
    Program,
}

/// What the case lacks, in words for people.
pub(super) fn lacking(
    case: &Case,
    capabilities: &Capabilities,
    subject: &Subject,
    has_program: bool,
) -> Option<&'static str> {
    case.needs.iter().find_map(|need| {
        let (has, lack) = match need {
            // Whether they can is found out by trying.
            Need::Machines => (true, ""),
            Need::Processes => (capabilities.processes, "its machines are no processes"),
            Need::PowerButton => (capabilities.power_button, "it has no power button"),
            Need::Pause => (capabilities.pause, "it cannot pause"),
            Need::Reset => (capabilities.reset, "it cannot reset"),
            Need::HotPlug => (!capabilities.hot_plug.is_empty(), "it has no hot plug"),
            Need::Images => (!capabilities.image_formats.is_empty(), "it makes no images"),
            Need::Resize => (capabilities.resize, "it does not resize images"),
            Need::Obedience => (subject.guest_obeys, "it was not said that the guest obeys"),
            Need::Program => (has_program, "it needs a second process"),
        };
        (!has).then_some(lack)
    })
}
