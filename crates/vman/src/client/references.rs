//! Turns what was typed for an object into its id: an id, the beginning of one, or a VM's name.
//! Nothing is done with the object.

use serde::Deserialize;
use uuid::Uuid;

use super::connection::{Connection, parsed};
use crate::failure::Failure;

/// The shortest beginning of an id that is looked for.
const PREFIX_LENGTH_MIN: usize = 4;

/// What objects with an id have in common.
#[derive(Debug, Deserialize)]
struct Named {
    id: Uuid,
    #[serde(default)]
    name: Option<String>,
}

/// The id of the only object of `list`, e.g. `/vms`, that `given` means; `kind` is its word.
pub(super) fn id(
    connection: &Connection,
    kind: &str,
    list: &str,
    given: &str,
) -> Result<Uuid, Failure> {
    if let Ok(id) = given.parse() {
        return Ok(id);
    }
    let what = format!("find {kind} {given}");
    let all: Vec<Named> = parsed(&what, connection.list(&what, list)?)?;
    only(kind, given, &all)
}

fn only(kind: &str, given: &str, all: &[Named]) -> Result<Uuid, Failure> {
    let named: Vec<&Named> = all.iter().filter(|o| o.name.as_deref() == Some(given)).collect();
    let begins = |object: &&Named| object.id.to_string().starts_with(&given.to_lowercase());
    let found = match named.as_slice() {
        [] if given.len() >= PREFIX_LENGTH_MIN => all.iter().filter(begins).collect(),
        [] | [_, ..] => named,
    };
    match found.as_slice() {
        [one] => Ok(one.id),
        [] => Err(Failure::Failed(format!(
            "there is no {kind} {given:?}: `vman {kind} list` shows all; an id can be shortened to \
             {PREFIX_LENGTH_MIN} characters"
        ))),
        [_, _, ..] => Err(Failure::Failed(format!(
            "{} objects of kind {kind} are meant by {given:?}: give more of the id",
            found.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(id: u128, name: Option<&str>) -> Named {
        Named { id: Uuid::from_u128(id), name: name.map(str::to_owned) }
    }

    #[test]
    fn an_object_is_found_by_its_name_or_the_beginning_of_its_id() {
        let all = [object(0xabcd << 112, Some("web")), object(0xabce << 112, None)];
        assert_eq!(only("vm", "web", &all).ok(), Some(all[0].id));
        assert_eq!(only("vm", "ABCE", &all).ok(), Some(all[1].id));
    }

    #[test]
    fn what_means_none_or_several_is_refused() {
        let all = [
            object(0xabcd << 112, Some("twin")),
            object(0xabcd << 112 | 1, Some("twin")),
            object(0, None),
        ];
        for unclear in ["abcd", "twin", "0", "ffff", ""] {
            assert!(matches!(only("vm", unclear, &all), Err(Failure::Failed(_))), "{unclear}");
        }
    }
}
