//! Addresses: the subnet, who has which address, and the card a machine gets. No device is made or
//! looked at here.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::ident::{Invalid, VmId};

/// How machines reach the network, as settled when the daemon started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub mode: NetworkMode,
    /// Why this mode, for people.
    pub reason: String,
    pub subnet: Subnet,
    /// The name server guests are given; none = the mode's own.
    pub dns: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// The backend itself routes: every machine is alone in a private network of its own.
    User,
    /// Machines have no card.
    None,
}

impl NetworkMode {
    /// The stable word in the API and the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::None => "none",
        }
    }
}

/// The addresses that VMs get, and the router's among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: Ipv4Net,
    gateway: Ipv4Addr,
}

impl Subnet {
    /// `gateway` must be a host address of `network`; a network needs at least one more.
    pub fn new(network: Ipv4Net, gateway: Ipv4Addr) -> Result<Self, Invalid> {
        let network = network.trunc();
        if network.prefix_len() > 30 {
            return Err(Invalid(format!(
                "{network} has no room for a gateway and a VM; use /30 or larger"
            )));
        }
        if !network.contains(&gateway)
            || gateway == network.network()
            || gateway == network.broadcast()
        {
            return Err(Invalid(format!("{gateway} is not a host address of {network}")));
        }
        Ok(Self { network, gateway })
    }

    pub fn network(&self) -> Ipv4Net {
        self.network
    }

    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// The highest host address that is neither the gateway's nor `address`: where a VM alone in
    /// its private network finds its name server.
    fn nameserver_beside(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        let mut hosts = self.network.hosts();
        hosts.rfind(|host| *host != self.gateway && *host != address)
    }

    /// The lowest host address that is neither the gateway's nor in `taken`.
    pub fn first_free(&self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        // Side by side, both in their order: at most one more candidate than there are taken
        // addresses is ever looked at, and each of these once.
        let mut taken = taken.iter().peekable();
        self.network.hosts().find(|address| {
            while taken.next_if(|taken| *taken < address).is_some() {}
            taken.next_if_eq(&address).is_none() && *address != self.gateway
        })
    }
}

/// An address and a card, owned by one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub mac: Mac,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Always the same for one VM. Locally administered and unicast (IEEE 802, 8.2.2).
    pub fn of(vm: VmId) -> Self {
        let id = vm.0.as_bytes();
        // The random bytes at the end of a version 4 UUID (RFC 9562, 5.4).
        Self([0x52, id[11], id[12], id[13], id[14], id[15]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The card a machine is launched with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nic {
    None,
    User { lease: Lease, subnet: Subnet, dns: Option<Ipv4Addr> },
}

impl Network {
    /// The card of a VM that owns `lease`.
    pub fn nic(&self, lease: Lease) -> Nic {
        match self.mode {
            NetworkMode::User => {
                let dns = self.dns.or_else(|| self.subnet.nameserver_beside(lease.address));
                Nic::User { lease, subnet: self.subnet, dns }
            }
            NetworkMode::None => Nic::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn subnet(network: &str, gateway: &str) -> Result<Subnet, Invalid> {
        Subnet::new(network.parse().expect("CIDR"), gateway.parse().expect("address"))
    }

    #[test]
    fn a_gateway_must_be_a_host_of_its_subnet() {
        for bad in ["10.0.0.0", "10.0.0.255", "10.0.1.1"] {
            subnet("10.0.0.0/24", bad).expect_err(bad);
        }
        subnet("10.0.0.0/31", "10.0.0.0").unwrap_err();
        subnet("10.0.0.0/30", "10.0.0.1").expect("valid");
    }

    #[test]
    fn a_pool_gives_every_host_address_once_and_then_none() {
        let pool = subnet("10.9.8.0/28", "10.9.8.1").expect("valid");
        let mut taken = BTreeSet::new();
        while let Some(address) = pool.first_free(&taken) {
            assert!(taken.insert(address));
        }
        assert_eq!(taken.len(), 13);
        assert!(!taken.contains(&pool.gateway()));
        assert!(!taken.contains(&pool.network().network()));
        assert!(!taken.contains(&pool.network().broadcast()));
    }

    #[test]
    fn no_vm_finds_its_name_server_at_its_own_address_or_the_gateways() {
        let pool = subnet("10.9.8.0/29", "10.9.8.6").expect("valid");
        let network =
            Network { mode: NetworkMode::User, reason: String::new(), subnet: pool, dns: None };
        for address in pool.network().hosts().filter(|address| *address != pool.gateway()) {
            let lease = Lease { address, mac: Mac::of(VmId(Uuid::nil())) };
            let Nic::User { dns: Some(dns), .. } = network.nic(lease) else {
                panic!("a name server");
            };
            assert!(dns != address && dns != pool.gateway(), "{address}: {dns}");
        }
    }

    proptest! {
        #[test]
        fn a_mac_is_local_unicast_and_stable(bits: u128) {
            let vm = VmId(Uuid::from_u128(bits));
            prop_assert_eq!(Mac::of(vm), Mac::of(vm));
            prop_assert_eq!(Mac::of(vm).0[0] & 0b11, 0b10);
        }
    }
}
