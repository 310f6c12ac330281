//! What an image file itself says: the fixed fields of a qcow2 header, or a raw file's length. The
//! format is told by the caller and only ever compared; no other program reads a guest's bytes for
//! this, and no other file is opened because of them.
//!
//! The fields are those of QEMU's docs/interop/qcow2.txt, all big-endian.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use vman_plugin::ImageFormat;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of a header of version 2, and the fixed ones of version 3.
const HEADER_V2: usize = 72;
const HEADER_V3: usize = 104;

/// Incompatible features that change nothing for us: dirty, compressed otherwise, subclusters.
const HARMLESS: u64 = 1 << 0 | 1 << 3 | 1 << 4;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;

/// Bytes of one entry of the table of tables.
const L1_ENTRY: u64 = 8;

/// Sizes are told to guests in sectors: a raw file's is rounded up, as by QEMU.
pub(super) const SECTOR: u64 = 512;

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// As the guest sees it.
    pub(crate) virtual_size: u64,
    /// Allocated on the host.
    pub(crate) actual_size: u64,
}

/// Why a file cannot be used as an image of its format.
#[derive(Debug)]
pub(crate) enum Fault {
    Unreadable(io::Error),
    /// It is something else than its record says.
    Foreign(String),
    /// It is of the format and must not be used as it is.
    Unusable(String),
}

/// `file` must be a regular one.
pub(crate) fn read(file: &File, format: ImageFormat) -> Result<Sizes, Fault> {
    let metadata = file.metadata().map_err(Fault::Unreadable)?;
    // st_blocks is in units of 512 bytes: stat(2).
    let actual_size = metadata.blocks() * 512;
    let virtual_size = match format {
        ImageFormat::Raw => metadata.len().next_multiple_of(SECTOR),
        ImageFormat::Qcow2 => {
            let mut header = Vec::new();
            let most = u64::try_from(HEADER_V3).unwrap_or(u64::MAX);
            file.take(most).read_to_end(&mut header).map_err(Fault::Unreadable)?;
            qcow2(&header, metadata.len())?
        }
    };
    Ok(Sizes { virtual_size, actual_size })
}

/// The virtual size that the header of a file of `length` bytes tells.
fn qcow2(header: &[u8], length: u64) -> Result<u64, Fault> {
    if !header.starts_with(&MAGIC) {
        return Err(Fault::Foreign("it is not a qcow2 image".to_owned()));
    }
    let version = number4(header, 4)?;
    let needed = match version {
        2 => HEADER_V2,
        3 => HEADER_V3,
        other => return Err(Fault::Foreign(format!("it is a qcow image of version {other}"))),
    };
    if header.len() < needed {
        return Err(truncated());
    }
    if number8(header, 8)? != 0 {
        return unusable(
            "its header names a backing file, which vman has not made: restore the \
                         image, or make it whole with `qemu-img convert`",
        );
    }
    if number4(header, 32)? != 0 {
        return unusable("it is encrypted, and vman has no key: convert it to a plain image");
    }
    let features = if version == 2 { 0 } else { number8(header, 72)? };
    if features & CORRUPT != 0 {
        return unusable(
            "it is marked as corrupt: repair it with `qemu-img check -r all`, or \
                         restore it",
        );
    }
    if features & DATA_FILE != 0 {
        return unusable(
            "its header names an external data file, which vman has not made: restore \
                         the image",
        );
    }
    let unknown = features & !(HARMLESS | CORRUPT | DATA_FILE);
    if unknown != 0 {
        return unusable(&format!(
            "it has incompatible features that are not known here (bits {unknown:#x}): convert it \
             with `qemu-img convert -O qcow2`"
        ));
    }
    whole(header, length)?;
    number8(header, 24)
}

/// QEMU opens an image whose tables lie beyond its end, takes what is not there for zeros, and
/// gives the guest a disk without what was on it.
fn whole(header: &[u8], length: u64) -> Result<(), Fault> {
    let entries = u64::from(number4(header, 36)?);
    let tables = number8(header, 40)?.checked_add(entries * L1_ENTRY);
    let refcounts = number8(header, 48)?;
    if tables.is_some_and(|end| end <= length) && refcounts < length {
        return Ok(());
    }
    unusable(&format!(
        "it is cut short: its tables lie beyond its end at {length} bytes; restore the image"
    ))
}

fn unusable<T>(why: &str) -> Result<T, Fault> {
    Err(Fault::Unusable(why.to_owned()))
}

fn truncated() -> Fault {
    Fault::Unusable("its header is cut short: restore the image".to_owned())
}

fn number4(header: &[u8], at: usize) -> Result<u32, Fault> {
    let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_be_bytes).ok_or_else(truncated)
}

fn number8(header: &[u8], at: usize) -> Result<u64, Fault> {
    let bytes = header.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or_else(truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 5 << 30;
    /// Of an image of that size without data, as `qemu-img create` makes it.
    const LENGTH: u64 = 196_688;

    /// A header as `qemu-img create` writes it, with `changes` of bytes at places.
    fn header(version: u8, changes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_V3];
        let all: [(usize, &[u8]); 7] = [
            (0, &MAGIC),
            (7, &[version]),
            (23, &[16]),
            (24, &SIZE.to_be_bytes()),
            (39, &[10]),
            (45, &[3]),
            (53, &[1]),
        ];
        for (at, change) in all.iter().chain(changes) {
            bytes[*at..at + change.len()].copy_from_slice(change);
        }
        bytes
    }

    fn refusal(header: &[u8]) -> String {
        match qcow2(header, LENGTH).unwrap_err() {
            Fault::Foreign(why) => format!("foreign: {why}"),
            Fault::Unusable(why) => format!("unusable: {why}"),
            Fault::Unreadable(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_virtual_size_is_read_in_both_versions() {
        assert_eq!(qcow2(&header(3, &[]), LENGTH).unwrap(), SIZE);
        assert_eq!(qcow2(&header(2, &[])[..HEADER_V2], LENGTH).unwrap(), SIZE);
        // Dirty, compressed by zstd, subclusters.
        assert_eq!(qcow2(&header(3, &[(79, &[0b11001])]), LENGTH).unwrap(), SIZE);
        // Version 2 has no features there.
        assert_eq!(qcow2(&header(2, &[(79, &[0b10])]), LENGTH).unwrap(), SIZE);
    }

    #[test]
    fn an_image_that_ends_before_its_tables_is_cut_short() {
        let whole = header(3, &[]);
        qcow2(&whole, LENGTH).unwrap();
        for length in [1000, 65_536, 131_072, LENGTH - 1] {
            assert!(matches!(qcow2(&whole, length), Err(Fault::Unusable(_))), "{length}");
        }
        let overflowing = header(3, &[(40, &[0xff; 8])]);
        assert!(matches!(qcow2(&overflowing, LENGTH), Err(Fault::Unusable(_))));
    }

    #[test]
    fn what_must_not_be_opened_is_refused_by_name() {
        for (header, words) in [
            (header(3, &[(0, b"VMDK")]), "foreign: it is not a qcow2 image"),
            (Vec::new(), "foreign: it is not a qcow2 image"),
            (header(1, &[]), "foreign: it is a qcow image of version 1"),
            (header(3, &[])[..HEADER_V3 - 1].to_vec(), "cut short"),
            (header(2, &[])[..HEADER_V2 - 1].to_vec(), "cut short"),
            (MAGIC.to_vec(), "cut short"),
            (header(3, &[(15, &[104])]), "backing file"),
            (header(3, &[(35, &[2])]), "encrypted"),
            (header(3, &[(79, &[0b10])]), "marked as corrupt"),
            (header(3, &[(79, &[0b100])]), "external data file"),
            (header(3, &[(79, &[0b100000])]), "bits 0x20"),
            (header(3, &[(72, &[0x80])]), "bits 0x8000000000000000"),
        ] {
            let refusal = refusal(&header);
            assert!(refusal.contains(words), "{refusal} instead of {words}");
        }
    }
}
