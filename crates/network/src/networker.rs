//! The network's side of the ports: effects and sightings.

use async_trait::async_trait;
use vman_core::network::{Network, NetworkMode};
use vman_core::operation::{Effect, NetworkEffect, Part};
use vman_core::ports::{Applied, Apply, ApplyError, MachineChange, Survey, Target};
use vman_core::sighting::Sightings;

use crate::settings::{NetworkConfig, NetworkError, settle};
use crate::survey;

/// How machines reach the network, and what is done for it on the host.
#[derive(Debug, Clone)]
pub struct Networker {
    config: NetworkConfig,
    network: Network,
}

impl Networker {
    /// Settles the mode and checks every field, in use or not; all problems are told at once.
    pub fn settle(config: NetworkConfig) -> Result<Self, NetworkError> {
        let network = settle(&config)?;
        if config.vlan_id.is_some() || config.uplink.is_some() {
            tracing::warn!(
                mode = network.mode.word(),
                "vlan_id and uplink have no effect in this network mode"
            );
        }
        Ok(Self { config, network })
    }

    /// The mode and its reason, the subnet with its gateway, the name server.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What was asked for; [`network`](Self::network) is what came of it.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// The bridge machines are joined to; none in a mode without one.
    pub fn bridge(&self) -> Option<&str> {
        match self.network.mode {
            NetworkMode::User | NetworkMode::None => None,
        }
    }

    /// The VLAN machines are in; none in a mode without one.
    pub fn vlan_id(&self) -> Option<u16> {
        match self.network.mode {
            NetworkMode::User | NetworkMode::None => None,
        }
    }

    /// The interface that leads out; none in a mode that needs none.
    pub fn uplink(&self) -> Option<&str> {
        match self.network.mode {
            NetworkMode::User | NetworkMode::None => None,
        }
    }
}

#[async_trait]
impl Apply for Networker {
    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        match (effect.part(), target) {
            (Part::Network(effect), Target::Vm(_) | Target::Machine(_)) => {
                let note = Some(self.nothing_to_do(effect).to_owned());
                Ok(Applied { machine: MachineChange::Same, note })
            }
            (
                Part::Network(_) | Part::Machine(_) | Part::Disk(_) | Part::QuarantineFile,
                Target::Vm(_) | Target::Machine(_) | Target::Disk(_) | Target::File(_),
            ) => Err(not_ours(effect)),
        }
    }
}

impl Networker {
    fn nothing_to_do(&self, effect: NetworkEffect) -> &'static str {
        match (self.network.mode, effect) {
            (NetworkMode::User, NetworkEffect::Connect) => {
                "user mode: the backend connects it, the host makes nothing"
            }
            (NetworkMode::User, NetworkEffect::Disconnect) => {
                "user mode: the host has nothing to take down"
            }
            (NetworkMode::None, NetworkEffect::Connect | NetworkEffect::Disconnect) => {
                "mode none: the machine has no card"
            }
        }
    }
}

fn not_ours(effect: Effect) -> ApplyError {
    ApplyError::failed(format!(
        "{} is not a network effect on a machine; this is a fault in vman: please report it",
        effect.word()
    ))
}

#[async_trait]
impl Survey for Networker {
    async fn survey(&self) -> Sightings {
        Sightings { devices: survey::devices().await, ..Sightings::default() }
    }
}

#[cfg(test)]
mod tests {
    use vman_core::disk::DiskState;
    use vman_core::ports::DiskTarget;
    use vman_core::testing::samples;
    use vman_core::vm::VmState;

    use super::*;
    use crate::settings::Mode;

    fn networker(mode: Mode) -> Networker {
        Networker::settle(NetworkConfig {
            mode,
            subnet: "10.77.0.0/24".parse().expect("a network"),
            gateway: None,
            dns: None,
            bridge: "br-vman".to_owned(),
            vlan_id: Some(7),
            uplink: None,
        })
        .expect("it can be settled")
    }

    #[tokio::test]
    async fn connecting_says_that_the_host_makes_nothing_however_often_it_is_done() {
        let vm = samples::target(samples::vm(1, VmState::Starting));
        for (mode, word) in [(Mode::User, "user mode"), (Mode::None, "no card")] {
            let networker = networker(mode);
            for effect in [Effect::ConnectNetwork, Effect::DisconnectNetwork] {
                let once = networker.apply(effect, &vm).await.expect("nothing can fail");
                assert_eq!(once.machine, MachineChange::Same);
                assert!(once.note.as_ref().is_some_and(|note| note.contains(word)), "{once:?}");
                assert_eq!(networker.apply(effect, &vm).await, Ok(once));
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_the_networks_is_refused_by_name() {
        let networker = networker(Mode::Auto);
        let vm = samples::target(samples::vm(1, VmState::Starting));
        for effect in Effect::ALL {
            let is_network = matches!(effect, Effect::ConnectNetwork | Effect::DisconnectNetwork);
            match networker.apply(*effect, &vm).await {
                Ok(_) => assert!(is_network, "{}", effect.word()),
                Err(error) => {
                    assert!(!is_network && error.to_string().contains(effect.word()), "{error}");
                }
            }
        }
        let disk = Target::Disk(Box::new(DiskTarget {
            disk: samples::disk(1, DiskState::Available),
            vm: None,
        }));
        let error = networker.apply(Effect::ConnectNetwork, &disk).await;
        error.expect_err("a disk has no network");
    }

    #[test]
    fn what_has_no_effect_in_a_mode_is_not_shown_as_in_force() {
        let networker = networker(Mode::Auto);
        assert_eq!(networker.config().vlan_id, Some(7));
        assert_eq!(
            (networker.vlan_id(), networker.bridge(), networker.uplink()),
            (None, None, None)
        );
    }
}
