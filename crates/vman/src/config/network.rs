//! `[network]`: the keys that say how machines reach the network. Whether this host can do so is
//! for the network to find out.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use vman_core::network::Subnet;

use super::Network;
use super::reader::Reader;
use super::values::NetworkMode;

const DEFAULT_BRIDGE: &str = "br-vman";
const DEFAULT_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 77, 0, 0), 24);
/// Bytes of a network device's name: IFNAMSIZ of linux/if.h without its closing zero.
const DEVICE_NAME_MAX: usize = 15;
/// The last VLAN that can be used: 4095 is reserved (IEEE 802.1Q, 9.6).
const VLAN_MAX: u16 = 4094;

/// Settles `[network]`.
pub(super) fn settle(reader: &mut Reader<'_>) -> Network {
    let mut section = reader.section("network");
    let mode = section.key("mode").or(NetworkMode::Auto);
    let vlan_id = section.key("vlan_id").variable("VMAN_VLAN_ID").checked_or(is_vlan, 0);
    let bridge = section
        .key("bridge")
        .variable("VMAN_BRIDGE_NAME")
        .checked_or(is_device, DEFAULT_BRIDGE.to_owned());
    let network = section.key("subnet").variable("VMAN_SUBNET").or(DEFAULT_SUBNET);
    let gateway = section.key("gateway").variable("VMAN_GATEWAY").optional(|_| Ok(()));
    let dns = section.key("dns").variable("VMAN_DNS").optional(|_| Ok(()));
    let uplink = section.key("uplink").optional(is_device);
    section.end();
    let subnet = subnet(reader, network, gateway);
    Network { mode, vlan_id: Some(vlan_id).filter(|id| *id != 0), bridge, subnet, dns, uplink }
}

/// The first host's address is the router's if no other is given.
fn subnet(reader: &mut Reader<'_>, network: Ipv4Net, gateway: Option<Ipv4Addr>) -> Subnet {
    let first = network.hosts().next().unwrap_or(network.addr());
    Subnet::new(network, gateway.unwrap_or(first)).unwrap_or_else(|invalid| {
        let key = if gateway.is_some() { "network.gateway" } else { "network.subnet" };
        reader.blame(key, invalid.to_string());
        let first = DEFAULT_SUBNET.hosts().next().expect("the default subnet has hosts");
        Subnet::new(DEFAULT_SUBNET, first).expect("the default subnet is valid")
    })
}

fn is_vlan(id: &u16) -> Result<(), String> {
    if *id > VLAN_MAX {
        return Err(format!("{id} is no VLAN: use 1 to {VLAN_MAX}, or 0 for none"));
    }
    Ok(())
}

fn is_device(name: &String) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
    if name.len() > DEVICE_NAME_MAX || !name.chars().all(plain) || name == "." || name == ".." {
        return Err(format!(
            "{name:?} is no network device: use at most {DEVICE_NAME_MAX} letters, digits, '.', \
             '_' or '-'"
        ));
    }
    Ok(())
}
