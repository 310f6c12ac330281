//! A template: a named size and boot recipe. Nothing here knows whether the boot files exist.

use crate::ident::{FileName, Invalid, Name, Timestamp};

/// Virtual CPUs of one VM; q35 with the default interrupt controller takes no more than 255.
pub const CPU_COUNT_MAX: u32 = 255;
/// MiB; QEMU's q35 starts no guest below it.
pub const RAM_MIB_MIN: u64 = 8;
/// MiB: 4 TiB.
pub const RAM_MIB_MAX: u64 = 4 * 1024 * 1024;
/// Bytes; x86's COMMAND_LINE_SIZE in Linux is 2048 with its final NUL.
pub const CMDLINE_LENGTH_MAX: usize = 2047;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub name: Name,
    /// 1 ..= [`CPU_COUNT_MAX`]
    pub cpu_count: u32,
    /// MiB, [`RAM_MIB_MIN`] ..= [`RAM_MIB_MAX`]
    pub ram_mib: u64,
    pub boot: Boot,
    pub created_at: Timestamp,
}

/// GiB: the size of a root disk that nobody gave a size.
pub const ROOT_DISK_GIB: u64 = 10;

/// What a machine starts from. File names are of files in `<storage>/boot/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    Kernel {
        kernel: FileName,
        initrd: Option<FileName>,
        cmdline: Cmdline,
    },
    Firmware {
        firmware: FileName,
    },
    /// The VM's first disk, through the backend's own firmware. A VM without a disk at `/dev/sda`
    /// gets an empty one of this size, in GiB, when it is first started.
    RootDisk {
        size_gib: u64,
    },
}

/// A kernel command line without control characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cmdline(String);

impl Cmdline {
    /// At most [`CMDLINE_LENGTH_MAX`] bytes.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.len() > CMDLINE_LENGTH_MAX {
            return Err(Invalid(format!(
                "must be at most {CMDLINE_LENGTH_MAX} bytes, not {}",
                text.len()
            )));
        }
        if text.chars().any(char::is_control) {
            return Err(Invalid("must not have control characters".to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 1 ..= [`CPU_COUNT_MAX`]
pub fn check_cpu_count(count: i128) -> Result<u32, Invalid> {
    u32::try_from(count)
        .ok()
        .filter(|count| (1..=CPU_COUNT_MAX).contains(count))
        .ok_or_else(|| Invalid(format!("must be from 1 to {CPU_COUNT_MAX}")))
}

/// MiB, [`RAM_MIB_MIN`] ..= [`RAM_MIB_MAX`]
pub fn check_ram_mib(mib: i128) -> Result<u64, Invalid> {
    u64::try_from(mib)
        .ok()
        .filter(|mib| (RAM_MIB_MIN..=RAM_MIB_MAX).contains(mib))
        .ok_or_else(|| Invalid(format!("must be from {RAM_MIB_MIN} to {RAM_MIB_MAX} MiB")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_outside_the_limits_are_refused_whatever_their_sign() {
        for bad in [i128::MIN, -1, 0, i128::from(CPU_COUNT_MAX) + 1, i128::MAX] {
            check_cpu_count(bad).expect_err(&bad.to_string());
            check_ram_mib(bad.min(7)).expect_err(&bad.to_string());
        }
        assert_eq!(check_cpu_count(4), Ok(4));
        assert_eq!(check_ram_mib(512), Ok(512));
    }

    #[test]
    fn a_command_line_with_a_newline_or_too_many_bytes_is_refused() {
        Cmdline::parse("console=ttyS0\nquiet").unwrap_err();
        Cmdline::parse(&"x".repeat(CMDLINE_LENGTH_MAX + 1)).unwrap_err();
        assert_eq!(
            Cmdline::parse("console=ttyS0 quiet").map(|c| c.as_str().to_owned()),
            Ok("console=ttyS0 quiet".to_owned())
        );
    }
}
