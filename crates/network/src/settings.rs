//! What is configured, and whether it can be so. Pure: nothing of the host is looked at.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use thiserror::Error;
use vman_core::network::{Network, NetworkMode, Subnet};

/// Bytes of an interface's name: IFNAMSIZ in linux/if.h, less its closing NUL.
const INTERFACE_NAME_LENGTH_MAX: usize = 15;
/// 0 and 4095 are reserved (IEEE 802.1Q, table 9-2).
const VLAN_ID_MAX: u16 = 4094;
/// The largest subnet: as large as the largest private network (RFC 1918).
const PREFIX_LENGTH_MIN: u8 = 8;

const USER: &str = "machines use user-mode networking: the guest reaches out, nothing reaches in";

/// The `[network]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    pub mode: Mode,
    /// What VMs get their addresses from: /8 to /30.
    pub subnet: Ipv4Net,
    /// The router's address; none = the first host of `subnet`.
    pub gateway: Option<Ipv4Addr>,
    /// The name server guests are given, outside `subnet`; none = the mode's own.
    pub dns: Option<Ipv4Addr>,
    /// An interface name: 1 to 15 bytes, no `/`, `:` or white space.
    pub bridge: String,
    /// 1 ..= 4094
    pub vlan_id: Option<u16>,
    /// The interface that leads out of the host; a name as for `bridge`.
    pub uplink: Option<String>,
}

/// How machines shall reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The best that works here.
    Auto,
    Bridge,
    User,
    None,
}

/// Everything in the configuration that cannot be so.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct NetworkError(pub Vec<Problem>);

/// One key that cannot be as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// In the `[network]` section.
    pub key: &'static str,
    /// What is wrong with its value, and what would be right.
    pub text: String,
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the network cannot be as configured")?;
        for (index, Problem { key, text }) in self.0.iter().enumerate() {
            let separator = if index == 0 { ": " } else { "; " };
            write!(f, "{separator}[network] {key}: {text}")?;
        }
        Ok(())
    }
}

/// The network as it will be, with the reason; or every problem at once.
pub(crate) fn settle(config: &NetworkConfig) -> Result<Network, NetworkError> {
    let mut problems = Vec::new();
    let mut keep = |key, result: Result<(), String>| {
        problems.extend(result.err().map(|text| Problem { key, text }));
    };
    let subnet = subnet(config);
    let known = subnet.as_ref().ok().copied();
    keep("subnet", check_subnet(config.subnet));
    let key = if config.gateway.is_some() { "gateway" } else { "subnet" };
    keep(key, subnet.map(|_| ()).map_err(|invalid| invalid.to_string()));
    keep("dns", config.dns.map_or(Ok(()), |dns| check_dns(dns, known)));
    keep("bridge", check_interface(&config.bridge));
    keep("uplink", config.uplink.as_deref().map_or(Ok(()), check_interface));
    keep("vlan_id", config.vlan_id.map_or(Ok(()), check_vlan_id));
    let mode = settle_mode(config.mode);
    keep("mode", mode.map(|_| ()).map_err(str::to_owned));
    match (mode, known) {
        (Ok((mode, reason)), Some(subnet)) if problems.is_empty() => {
            Ok(Network { mode, reason: reason.to_owned(), subnet, dns: config.dns })
        }
        _ => Err(NetworkError(problems)),
    }
}

fn settle_mode(mode: Mode) -> Result<(NetworkMode, &'static str), &'static str> {
    match mode {
        Mode::Auto => Ok((
            NetworkMode::User,
            "bridge mode is not available in this version; machines use user-mode networking: \
             the guest reaches out, nothing reaches in",
        )),
        Mode::User => Ok((NetworkMode::User, USER)),
        Mode::None => Ok((NetworkMode::None, "as configured, machines have no network card")),
        Mode::Bridge => Err(
            "bridge mode is not available in this version; set \"user\" (the guest reaches out, \
             nothing reaches in), \"none\", or \"auto\"",
        ),
    }
}

fn subnet(config: &NetworkConfig) -> Result<Subnet, vman_core::ident::Invalid> {
    let first = config.subnet.trunc().hosts().next();
    let gateway = config.gateway.or(first).unwrap_or(config.subnet.addr());
    Subnet::new(config.subnet, gateway)
}

fn check_subnet(subnet: Ipv4Net) -> Result<(), String> {
    if subnet.prefix_len() < PREFIX_LENGTH_MIN {
        return Err(format!(
            "{subnet} is too large; use a private network of /{PREFIX_LENGTH_MIN} or smaller, e.g. \
             10.77.0.0/24"
        ));
    }
    if !is_ordinary(subnet.addr()) {
        return Err(format!(
            "{subnet} has no addresses for hosts; use a private network, e.g. 10.77.0.0/24"
        ));
    }
    Ok(())
}

/// Not set aside for another use (RFC 6890, 2.2.2).
fn is_ordinary(address: Ipv4Addr) -> bool {
    let this_network = address.octets()[0] == 0;
    let multicast_or_reserved = address.octets()[0] >= 224;
    !this_network && !multicast_or_reserved && !address.is_loopback()
}

fn check_dns(dns: Ipv4Addr, subnet: Option<Subnet>) -> Result<(), String> {
    if !is_ordinary(dns) {
        return Err(format!("{dns} is no address that a guest can reach; use a name server's"));
    }
    match subnet {
        // A VM could get that very address, and QEMU would not start it.
        Some(subnet) if subnet.network().contains(&dns) => Err(format!(
            "{dns} is in {}, where VMs get their addresses; use a name server elsewhere, or leave \
             it out",
            subnet.network()
        )),
        Some(_) | None => Ok(()),
    }
}

/// The rules of `dev_valid_name` in Linux.
fn check_interface(name: &str) -> Result<(), String> {
    let fits = (1..=INTERFACE_NAME_LENGTH_MAX).contains(&name.len());
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':');
    if fits && name.chars().all(allowed) && !matches!(name, "." | "..") {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot name an interface; use 1 to {INTERFACE_NAME_LENGTH_MAX} bytes without \
         '/', ':' or white space"
    ))
}

fn check_vlan_id(id: u16) -> Result<(), String> {
    if (1..=VLAN_ID_MAX).contains(&id) {
        return Ok(());
    }
    Err(format!("{id} is no VLAN id; use 1 to {VLAN_ID_MAX}, or leave it out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig {
            mode: Mode::Auto,
            subnet: "10.77.0.0/24".parse().expect("a network"),
            gateway: None,
            dns: None,
            bridge: "br-vman".to_owned(),
            vlan_id: None,
            uplink: None,
        }
    }

    fn with(change: impl FnOnce(&mut NetworkConfig)) -> Result<Network, NetworkError> {
        let mut config = config();
        change(&mut config);
        settle(&config)
    }

    /// The keys that are refused.
    fn refused(change: impl FnOnce(&mut NetworkConfig)) -> Vec<&'static str> {
        match with(change) {
            Ok(network) => panic!("{network:?}"),
            Err(NetworkError(problems)) => problems.iter().map(|problem| problem.key).collect(),
        }
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_mode_is_settled_with_its_reason() {
        for (mode, settled, reason) in [
            (Mode::Auto, NetworkMode::User, "bridge mode is not available"),
            (Mode::User, NetworkMode::User, "nothing reaches in"),
            (Mode::None, NetworkMode::None, "no network card"),
        ] {
            let network = with(|config| config.mode = mode).expect("this mode is there");
            assert_eq!(network.mode, settled);
            assert!(network.reason.contains(reason), "{}", network.reason);
        }
        let error = with(|config| config.mode = Mode::Bridge).expect_err("not in this version");
        let text = error.to_string();
        assert!(text.contains("[network] mode") && text.contains("\"user\""), "{text}");
    }

    #[test]
    fn the_gateway_is_the_first_host_unless_another_is_given() {
        let network = with(|config| config.subnet = net("10.9.8.77/24")).expect("valid");
        assert_eq!(network.subnet.gateway(), ip("10.9.8.1"));
        assert_eq!(network.subnet.network(), net("10.9.8.0/24"));
        let network = with(|config| config.gateway = Some(ip("10.77.0.254"))).expect("valid");
        assert_eq!(network.subnet.gateway(), ip("10.77.0.254"));
    }

    #[test]
    fn what_no_host_can_have_is_refused_by_its_key() {
        for subnet in ["10.0.0.0/31", "10.0.0.1/32", "127.0.0.0/8", "224.0.0.0/8", "0.0.0.0/8"] {
            assert_eq!(refused(|config| config.subnet = net(subnet)), ["subnet"], "{subnet}");
        }
        assert_eq!(refused(|config| config.subnet = net("8.0.0.0/7")), ["subnet"]);
        for gateway in ["10.77.0.0", "10.77.0.255", "10.78.0.1"] {
            let gateway = Some(ip(gateway));
            assert_eq!(refused(|config| config.gateway = gateway), ["gateway"], "{gateway:?}");
        }
        for dns in ["10.77.0.1", "10.77.0.9", "10.77.0.255", "127.0.0.53", "0.0.0.0", "239.1.1.1"] {
            assert_eq!(refused(|config| config.dns = Some(ip(dns))), ["dns"], "{dns}");
        }
        with(|config| config.dns = Some(ip("9.9.9.9"))).expect("a name server elsewhere is fine");
    }

    #[test]
    fn names_and_numbers_that_linux_would_refuse_are_refused() {
        for name in ["", "sixteen-bytes-xx", "a/b", "a b", "a\tb", "a:b", "..", ".", "a\0b"] {
            let refusal = refused(|config| config.bridge = name.to_owned());
            assert_eq!(refusal, ["bridge"], "{name:?}");
            let refusal = refused(|config| config.uplink = Some(name.to_owned()));
            assert_eq!(refusal, ["uplink"], "{name:?}");
        }
        for id in [0, VLAN_ID_MAX + 1, u16::MAX] {
            assert_eq!(refused(|config| config.vlan_id = Some(id)), ["vlan_id"], "{id}");
        }
        for id in [1, VLAN_ID_MAX] {
            with(|config| config.vlan_id = Some(id)).expect("a VLAN id");
        }
        with(|config| config.bridge = "fifteen-bytes-x".to_owned()).expect("just short enough");
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let keys = refused(|config| {
            config.mode = Mode::Bridge;
            config.vlan_id = Some(0);
            config.bridge = String::new();
            config.dns = Some(ip("127.0.0.1"));
        });
        assert_eq!(keys, ["dns", "bridge", "vlan_id", "mode"]);
    }
}
