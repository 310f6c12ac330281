//! Makes odd requests: whole ones of every verb, with fields dropped, of other types, beyond every
//! bound, and their text cut, spoilt or not UTF-8. The same seed and number make the same request,
//! but for the name of the folder that it speaks of. No path in one leads out of that folder.

use std::path::{Path, PathBuf};

use fastrand::Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::wire::{MAX_MESSAGE_BYTES, op};
use crate::{Boot, Bus, DiskSpec, ImageFormat, MachineSpec, Nic, ProcessIdentity};

/// Machines, disks and images that requests speak of.
const THINGS: usize = 3;
/// Keeps the requests of neighbouring numbers apart.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
/// One request of so many is nearly as long as may be.
const LONG_EVERY: u32 = 999;
/// Nested arrays, far beyond what a message has.
const DEEP: usize = 2000;

/// Every verb, and one that none is.
const OPS: &[&str] = &[
    op::PROBE,
    op::LAUNCH,
    op::REATTACH,
    op::POWER_BUTTON,
    op::QUIT,
    op::KILL,
    op::CREATE_IMAGE,
    op::INSPECT_IMAGE,
    op::DELETE_IMAGE,
    op::SURVEY,
    op::SIGHT,
    op::PAUSE,
    op::RESUME,
    op::RESET,
    op::ATTACH_DISK,
    op::DETACH_DISK,
    op::RESIZE_DISK,
    op::RESIZE_IMAGE,
    "of-tomorrow",
];

/// What requests speak of.
#[derive(Debug)]
pub(super) struct World {
    pub(super) machines: [Uuid; THINGS],
    machines_dir: PathBuf,
    boot: Boot,
    disks: Vec<DiskSpec>,
    /// No machine's: it names a process that is none.
    stranger: ProcessIdentity,
}

impl World {
    pub(super) fn new(
        seed: u64,
        machines_dir: &Path,
        images_dir: &Path,
        boot: Boot,
        stranger: ProcessIdentity,
        formats: Vec<ImageFormat>,
        buses: Vec<Bus>,
    ) -> Self {
        let mut rng = Rng::with_seed(seed);
        let machines = std::array::from_fn(|_| Uuid::from_u128(rng.u128(..)));
        let disks = (0..THINGS).map(|number| DiskSpec {
            id: Uuid::from_u128(rng.u128(..)),
            path: images_dir.join(format!("{number}.img")),
            format: rng.choice(&formats).copied().unwrap_or(ImageFormat::Raw),
            serial: number.to_string(),
            bus: rng.choice(&buses).copied().unwrap_or_default(),
        });
        let disks = disks.collect();
        Self { machines, machines_dir: machines_dir.to_owned(), boot, disks, stranger }
    }
}

/// The request of this number.
pub(super) fn make(world: &World, seed: u64, number: u32) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed ^ u64::from(number).wrapping_mul(STRIDE));
    if number % LONG_EVERY == LONG_EVERY - 1 {
        return long(world, &mut rng);
    }
    if number.is_multiple_of(2) {
        return one_extreme(world, number / 2, &mut rng).to_string().into_bytes();
    }
    let op = OPS[rng.usize(..OPS.len())];
    let mut request = whole(world, op, &mut rng);
    match rng.u8(0..8) {
        0 => request.to_string().into_bytes(),
        1..=4 => {
            for _ in 0..rng.usize(1..=3) {
                spoil(&mut request, &mut rng);
            }
            request.to_string().into_bytes()
        }
        5 | 6 => spoilt_text(request.to_string().into_bytes(), &mut rng),
        _ => nonsense(&request, &mut rng),
    }
}

/// Of one verb after the other, of one field after the other, each end of what it may be.
fn one_extreme(world: &World, turn: u32, rng: &mut Rng) -> Value {
    let turn = turn as usize;
    let mut request = whole(world, OPS[turn % OPS.len()], rng);
    let mut all = Vec::new();
    places(&request, &mut String::new(), &mut all);
    let is_leaf = |place: &String| {
        let value = request.pointer(place);
        value.is_some_and(|value| value.is_number() || value.is_string())
    };
    let leaves: Vec<String> = all.into_iter().filter(is_leaf).collect();
    let turn = turn / OPS.len();
    let place = &leaves[turn % leaves.len()];
    if let Some(value) = request.pointer_mut(place) {
        *value = extreme(value, turn / leaves.len());
    }
    request
}

/// A request as a host would send it.
fn whole(world: &World, op: &str, rng: &mut Rng) -> Value {
    let id = if rng.u8(0..8) == 0 {
        Uuid::from_u128(rng.u128(..))
    } else {
        world.machines[rng.usize(..THINGS)]
    };
    let disk = &world.disks[rng.usize(..THINGS)];
    let virtual_size = rng.u64(1..=64) << 20;
    let params = match op {
        op::PROBE | op::SURVEY => json!({}),
        op::LAUNCH => json!(machine(world, id, disk, rng)),
        op::REATTACH => match rng.bool() {
            true => json!({"id": id, "process": world.stranger}),
            false => json!({"id": id, "process": null}),
        },
        op::ATTACH_DISK => json!({"id": id, "disk": disk}),
        op::DETACH_DISK => json!({"id": id, "disk": disk.id, "path": disk.path}),
        op::RESIZE_DISK => json!({"id": id, "disk": disk.id, "virtual_size": virtual_size}),
        op::INSPECT_IMAGE | op::DELETE_IMAGE => {
            json!({"path": disk.path, "format": disk.format})
        }
        op::CREATE_IMAGE | op::RESIZE_IMAGE => {
            json!({"path": disk.path, "format": disk.format, "virtual_size": virtual_size})
        }
        _ => json!({"id": id}),
    };
    json!({"op": op, "params": params})
}

fn machine(world: &World, id: Uuid, disk: &DiskSpec, rng: &mut Rng) -> MachineSpec {
    MachineSpec {
        id,
        directory: world.machines_dir.join(id.to_string()),
        cpu_count: 1,
        ram_mib: 64,
        boot: world.boot.clone(),
        disks: if rng.bool() { vec![disk.clone()] } else { vec![] },
        nic: Nic::None,
    }
}

/// Drops, replaces or adds something anywhere in it.
fn spoil(request: &mut Value, rng: &mut Rng) {
    let mut all = Vec::new();
    places(request, &mut String::new(), &mut all);
    let place = &all[rng.usize(..all.len())];
    let (parent, name) = place.rsplit_once('/').unwrap_or_default();
    match rng.u8(0..4) {
        0 => match request.pointer_mut(parent) {
            Some(Value::Object(fields)) => drop(fields.remove(name)),
            Some(Value::Array(items)) if !items.is_empty() => drop(items.pop()),
            Some(_) | None => {}
        },
        1 => {
            if let Some(Value::Object(fields)) = request.pointer_mut(parent) {
                fields.insert("of-tomorrow".to_owned(), odd(rng));
            }
        }
        _ => {
            if let Some(value) = request.pointer_mut(place) {
                *value = odd(rng);
            }
        }
    }
}

/// The JSON pointer of every value, the whole included.
fn places(value: &Value, here: &mut String, all: &mut Vec<String>) {
    all.push(here.clone());
    let length = here.len();
    let mut inside = |name: &str, inner: &Value| {
        here.push('/');
        here.push_str(name);
        places(inner, here, all);
        here.truncate(length);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, inner)| inside(name, inner)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, inner)| inside(&index.to_string(), inner));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A value of the same kind that is at the end of what it may be, or beyond.
fn extreme(value: &Value, turn: usize) -> Value {
    match value {
        Value::Number(_) => {
            let ends = [json!(0), json!(u64::MAX), json!(-1), json!(511), json!(1), json!(1.5)];
            ends[turn % ends.len()].clone()
        }
        Value::String(_) => {
            let ends = ["", "\u{0}", "..", "ä", "-", "of-tomorrow"];
            json!(ends[turn % ends.len()])
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Value::Null,
    }
}

/// A value that is hardly the right one.
fn odd(rng: &mut Rng) -> Value {
    match rng.u8(0..16) {
        0 => Value::Null,
        1 => json!(rng.bool()),
        2 => json!(-1),
        3 => json!(0),
        4 => json!(u64::MAX),
        5 => json!(i64::MIN),
        6 => json!(1e300),
        7 => json!(1.5),
        8 => json!(""),
        9 => json!("x".repeat(rng.usize(1..10_000))),
        10 => json!("\u{0}\u{1b}[2J\u{7f}ä😀\u{202e}"),
        11 => json!("../../.."),
        12 => json!(Uuid::nil()),
        13 => json!([[], {}, [null, 1]]),
        14 => json!({"": {"": []}, "id": 7}),
        _ => (0..rng.usize(1..100)).fold(json!(1), |inner, _| json!([inner])),
    }
}

/// Cut off, or with a few bytes that are others or more.
fn spoilt_text(mut text: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    let at = rng.usize(..text.len());
    match rng.u8(0..4) {
        0 => text.truncate(at),
        1 => text[at] = rng.u8(..),
        2 => text.insert(at, rng.u8(..)),
        _ => text.extend((0..rng.usize(1..9)).map(|_| rng.u8(..))),
    }
    text
}

/// What is no request at all, or more than one.
fn nonsense(request: &Value, rng: &mut Rng) -> Vec<u8> {
    let text = request.to_string();
    match rng.u8(0..6) {
        0 => Vec::new(),
        1 => vec![b' '; rng.usize(1..100)],
        2 => vec![b'['; DEEP],
        3 => format!("{text}{text}").into_bytes(),
        4 => format!(r#"{{"op": "survey", "op": "kill", "params": 1, {}"#, &text[1..]).into_bytes(),
        _ => (0..rng.usize(1..200)).map(|_| rng.u8(..)).collect(),
    }
}

fn long(world: &World, rng: &mut Rng) -> Vec<u8> {
    let text = whole(world, op::SURVEY, rng).to_string();
    let room = MAX_MESSAGE_BYTES - text.len() - 2 * THINGS * 8;
    let padding = "x".repeat(room - rng.usize(..1000));
    format!(r#"{{"padding": "{padding}", {}"#, &text[1..]).into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn world() -> World {
        let stranger = ProcessIdentity { pid: 1, start_time: 2, boot_id: Uuid::nil() };
        let formats = vec![ImageFormat::Raw, ImageFormat::Qcow2];
        let buses = vec![Bus::VirtioScsi];
        World::new(5, Path::new("/m"), Path::new("/i"), Boot::RootDisk, stranger, formats, buses)
    }

    #[test]
    fn the_same_seed_and_number_make_the_same_request_and_others_make_others() {
        let world = world();
        let all: Vec<Vec<u8>> = (0..1000).map(|number| make(&world, 5, number)).collect();
        let again: Vec<Vec<u8>> = (0..1000).map(|number| make(&world, 5, number)).collect();
        assert!(all == again);
        let different: BTreeSet<&Vec<u8>> = all.iter().collect();
        assert!(different.len() > 650, "{}", different.len());
        assert!(all.iter().all(|request| request.len() <= MAX_MESSAGE_BYTES));
        assert!(all.iter().any(|request| request.len() > MAX_MESSAGE_BYTES / 2));
    }

    #[test]
    fn many_requests_parse_and_many_do_not() {
        let world = world();
        let requests = (0..300).map(|number| make(&world, 7, number));
        let parse = requests.filter(|one| serde_json::from_slice::<Value>(one).is_ok()).count();
        assert!((150..290).contains(&parse), "{parse} of 300");
    }
}
