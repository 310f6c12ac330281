//! The commands of the control socket that are about block nodes and devices, and what of their
//! answers is needed. In which order they are given is told in `disks`.
//!
//! Answers are read by types of our own: the library's know every field of one QEMU version, and
//! refuse what another has.

use qapi::{Command, Empty, qmp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::devices::{PORT_DRIVER, disk_name, disk_of};
use crate::qmp::{Connection, QmpError};

/// Where QEMU keeps the devices that were given an id.
const DEVICES: &str = "/machine/peripheral";

/// The devices of a machine that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Devices {
    pub(crate) disks: Vec<Uuid>,
    /// Names of root ports.
    pub(crate) ports: Vec<String>,
}

/// A disk's open image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) disk: Uuid,
    /// Bytes.
    pub(crate) virtual_size: u64,
}

/// What QEMU says to `device_del`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The guest is asked; an event will tell.
    Unplugging,
    /// There is no such device.
    NoDevice,
}

impl Connection {
    pub(crate) async fn devices(&mut self) -> Result<Devices, QmpError> {
        let all = self.execute(QomList { path: DEVICES.to_owned() }).await?;
        let port = format!("child<{PORT_DRIVER}>");
        let ports = all.iter().filter(|property| property.kind == port);
        Ok(Devices {
            ports: ports.map(|property| property.name.clone()).collect(),
            disks: all.iter().filter_map(|property| disk_of(&property.name)).collect(),
        })
    }

    /// Every disk's open image, also of one whose device is gone.
    pub(crate) async fn nodes(&mut self) -> Result<Vec<Node>, QmpError> {
        let all = self.execute(QueryNamedBlockNodes { flat: true }).await?;
        let node = |node: NamedNode| {
            Some(Node { disk: disk_of(&node.name)?, virtual_size: node.image.virtual_size })
        };
        Ok(all.into_iter().filter_map(node).collect())
    }

    /// Whether a root port holds no device. `query-pci` would not do: it passes over what the
    /// guest's firmware has not numbered.
    pub(crate) async fn is_free(&mut self, port: &str) -> Result<bool, QmpError> {
        // The port's bus goes by the port's name, and links what is plugged into it.
        let bus = self.execute(QomList { path: format!("{DEVICES}/{port}/{port}") }).await?;
        Ok(!bus.iter().any(|property| property.name.starts_with("child[")))
    }

    pub(crate) async fn open_node(&mut self, node: Value) -> Result<(), QmpError> {
        self.execute(BlockdevAdd(node)).await.map(drop)
    }

    pub(crate) async fn close_node(&mut self, disk: Uuid) -> Result<(), QmpError> {
        self.execute(qmp::blockdev_del { node_name: disk_name(disk) }).await.map(drop)
    }

    pub(crate) async fn resize_node(&mut self, disk: Uuid, size: u64) -> Result<(), QmpError> {
        self.execute(BlockResize { node_name: disk_name(disk), size }).await.map(drop)
    }

    pub(crate) async fn add_device(&mut self, device: Value) -> Result<(), QmpError> {
        self.execute(DeviceAdd(device)).await.map(drop)
    }

    /// Asks the guest for a disk's device, also if it was asked before.
    pub(crate) async fn ask_for_device(&mut self, disk: Uuid) -> Result<Asked, QmpError> {
        match self.execute(qmp::device_del { id: disk_name(disk) }).await {
            Ok(_) => Ok(Asked::Unplugging),
            Err(QmpError::NoDevice(_)) => Ok(Asked::NoDevice),
            // qdev_unplug(), within a while of an earlier `device_del`.
            Err(QmpError::Refused(why)) if why.contains("in the process of unplug") => {
                Ok(Asked::Unplugging)
            }
            Err(error) => Err(error),
        }
    }
}

/// A property of an object, e.g. a child.
#[derive(Debug, Deserialize)]
pub(crate) struct Property {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct NamedNode {
    /// Absent in no version so far; the schema calls it optional.
    #[serde(rename = "node-name", default)]
    name: String,
    image: NamedImage,
}

#[derive(Debug, Deserialize)]
struct NamedImage {
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
}

#[derive(Debug, Serialize)]
struct QomList {
    path: String,
}

#[derive(Debug, Serialize)]
struct QueryNamedBlockNodes {
    /// Without the images behind each.
    flat: bool,
}

/// As [`devices::block_node`](crate::devices::block_node) makes it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct BlockdevAdd(Value);

/// As [`devices::guest_device`](crate::devices::guest_device) makes it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct DeviceAdd(Value);

#[derive(Debug, Serialize)]
struct BlockResize {
    #[serde(rename = "node-name")]
    node_name: String,
    size: u64,
}

macro_rules! command {
    ($command:ty, $name:literal, $answer:ty) => {
        impl Command for $command {
            type Ok = $answer;
            const NAME: &'static str = $name;
            const ALLOW_OOB: bool = false;
        }
        impl qmp::QmpCommand for $command {}
    };
}

command!(QomList, "qom-list", Vec<Property>);
command!(QueryNamedBlockNodes, "query-named-block-nodes", Vec<NamedNode>);
command!(BlockdevAdd, "blockdev-add", Empty);
command!(DeviceAdd, "device_add", Empty);
command!(BlockResize, "block_resize", Empty);
