//! The `[backends.<name>]` table of the configuration file. Whether the programs it names work is
//! for the probe to find out.

use std::path::PathBuf;

use serde::Deserialize;
use vman_plugin::BackendError;

use crate::invalid;
use crate::owner::{LEAST_UID_BASE, UID_BASE, UIDS};

/// Of something that is done wherever the host allows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Switch {
    #[default]
    Auto,
    Off,
}

/// The root bus has 32 slots for all devices together.
const MAX_HOTPLUG_PORTS: usize = 16;

/// All optional; an unknown key is an error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Absolute path of `qemu-system-x86_64`; default: from `PATH`.
    pub(crate) binary: Option<PathBuf>,
    /// Absolute path of `qemu-img`; default: from `PATH`.
    pub(crate) qemu_img: Option<PathBuf>,
    /// QEMU's `-cpu` value, e.g. `EPYC` or `host,-arch-capabilities`.
    pub(crate) cpu: Option<String>,
    /// How many virtio-blk disks a running machine can gain beside those it started with:
    /// 0 ..= [`MAX_HOTPLUG_PORTS`]. Each makes every start 0.5 ms longer, needed or not.
    pub(crate) hotplug_ports: usize,
    /// Whether each machine runs as a user of its own.
    pub(crate) user: Switch,
    /// The first of those users' numbers; the range is [`UIDS`] long.
    pub(crate) uid_base: u32,
    /// Whether each machine has a cgroup of its own.
    pub(crate) cgroup: Switch,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            binary: None,
            qemu_img: None,
            cpu: None,
            hotplug_ports: 1,
            user: Switch::Auto,
            uid_base: UID_BASE,
            cgroup: Switch::Auto,
        }
    }
}

impl Settings {
    /// `backend` is named in the errors.
    pub(crate) fn parse(backend: &str, json: &serde_json::Value) -> Result<Self, BackendError> {
        let table = format!("[backends.{backend}]");
        if json.is_null() {
            return Ok(Self::default());
        }
        let settings = Self::deserialize(json).map_err(|error| {
            invalid(format!("{table}: {error}; correct the key in the configuration file"))
        })?;
        for (key, path) in [("binary", &settings.binary), ("qemu_img", &settings.qemu_img)] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                return Err(invalid(format!(
                    "{table} {key} = {path:?} is not an absolute path: write it from / on, or \
                     leave it out to search PATH"
                )));
            }
        }
        if let Some(cpu) = settings.cpu.as_ref().filter(|cpu| !is_cpu_model(cpu)) {
            return Err(invalid(format!(
                "{table} cpu = {cpu:?} is not a CPU model: use a name of `qemu-system-x86_64 -cpu \
                 help`, with features as in \"EPYC,-avx\""
            )));
        }
        if settings.hotplug_ports > MAX_HOTPLUG_PORTS {
            return Err(invalid(format!(
                "{table} hotplug_ports = {} is over {MAX_HOTPLUG_PORTS}: lower it, or use \
                 virtio-scsi, which needs none",
                settings.hotplug_ports
            )));
        }
        // The last number is "no change" to chown(2) and setresuid(2), and so no user's.
        let last = u32::MAX - 2 - UIDS;
        if !(LEAST_UID_BASE..=last).contains(&settings.uid_base) {
            return Err(invalid(format!(
                "{table} uid_base = {} is not from {LEAST_UID_BASE} to {last}: name the first of \
                 {UIDS} user numbers that nobody else uses, or leave it out for {UID_BASE}",
                settings.uid_base
            )));
        }
        Ok(settings)
    }
}

fn is_cpu_model(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,=+".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(json: serde_json::Value) -> String {
        Settings::parse("qemu-tcg", &json).unwrap_err().message
    }

    #[test]
    fn absent_and_empty_tables_are_the_defaults() {
        for json in [json!(null), json!({})] {
            assert_eq!(Settings::parse("qemu-tcg", &json), Ok(Settings::default()));
        }
    }

    #[test]
    fn every_key_is_read() {
        let json = json!({
            "binary": "/opt/q",
            "qemu_img": "/opt/i",
            "cpu": "host,-arch-capabilities",
            "user": "off",
            "uid_base": 70_000,
            "cgroup": "off",
            "hotplug_ports": 0,
        });
        let settings = Settings::parse("qemu-kvm", &json).unwrap();
        assert_eq!(settings.binary, Some("/opt/q".into()));
        assert_eq!(settings.qemu_img, Some("/opt/i".into()));
        assert_eq!(settings.cpu.as_deref(), Some("host,-arch-capabilities"));
        assert_eq!((settings.user, settings.cgroup), (Switch::Off, Switch::Off));
        assert_eq!((settings.uid_base, settings.hotplug_ports), (70_000, 0));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_known_ones() {
        let message = refusal(json!({"binray": "/opt/q"}));
        assert!(message.contains("[backends.qemu-tcg]"), "{message}");
        assert!(message.contains("`binray`") && message.contains("`binary`"), "{message}");
    }

    #[test]
    fn a_value_that_cannot_work_is_refused_by_its_key() {
        assert!(refusal(json!({"binary": "qemu"})).contains("binary"));
        assert!(refusal(json!({"cpu": ""})).contains("cpu"));
        assert!(refusal(json!({"cpu": "-help"})).contains("cpu"));
        assert!(refusal(json!({"cpu": "a b"})).contains("cpu"));
        assert!(refusal(json!({"cpu": 3})).contains("string"));
        assert!(refusal(json!({"hotplug_ports": 17})).contains("hotplug_ports"));
        assert!(refusal(json!({"user": "root"})).contains("`auto`"));
        for base in [0, 1000, LEAST_UID_BASE - 1, u32::MAX - UIDS, u32::MAX] {
            assert!(refusal(json!({"uid_base": base})).contains("uid_base"), "{base}");
        }
    }
}
