//! The cases, by what they are about. How they are run, and in which process, is not known here.

mod control;
mod crash;
mod disks;
mod events;
mod images;
mod life;
mod loading;
mod messages;
mod reattach;
mod requests;
mod seen;
mod side_by_side;

use super::case::Case;
use super::fuzz;
pub(super) use reattach::Stranger;

/// Every case there is, in the order in which they are run and told.
pub fn all() -> Vec<Case> {
    let themes = [
        loading::CASES,
        life::CASES,
        seen::CASES,
        reattach::CASES,
        crash::CASES,
        control::CASES,
        images::CASES,
        disks::CASES,
        events::CASES,
        side_by_side::CASES,
        messages::CASES,
        requests::CASES,
        fuzz::CASES,
    ];
    themes.concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_and_says_what_holds() {
        let cases = all();
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases.len());
        for case in cases {
            let fits = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(case.name.chars().all(fits), "{}", case.name);
            assert!(case.holds.ends_with('.') && case.holds.len() > 20, "{}", case.name);
        }
    }
}
