//! Looks for network devices marked as ours, by their alias. Reads only; bounded in time.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{Stream, StreamExt};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use uuid::Uuid;
use vman_core::ident::VmId;
use vman_core::sighting::{DeviceSeen, Surveyed};

/// What the alias (IFLA_IFALIAS) of a device of ours begins with; the id of its VM follows.
pub const ALIAS_PREFIX: &str = "vman:";

/// How long the kernel may take to list its devices: it does so in milliseconds.
const DEADLINE: Duration = Duration::from_secs(2);
/// Devices looked at: more than any host has.
const DEVICES_MAX: usize = 65_536;

/// The devices marked as ours, by name; or why they cannot be known.
pub(crate) type Devices = Surveyed<BTreeMap<String, DeviceSeen>>;

/// Asks the kernel, over a netlink connection of its own.
pub(crate) async fn devices() -> Devices {
    let (connection, handle, _messages) = match rtnetlink::new_connection() {
        Ok(connected) => connected,
        Err(error) => return unknown(format!("no netlink socket can be opened: {error}")),
    };
    let links = pin!(collect(handle.link().get().execute()));
    let asked = async {
        match select(links, connection).await {
            Either::Left((devices, _)) => devices,
            Either::Right(((), _)) => unknown("the kernel closed the netlink socket".to_owned()),
        }
    };
    within_deadline(asked).await
}

async fn within_deadline(asked: impl Future<Output = Devices>) -> Devices {
    tokio::time::timeout(DEADLINE, asked).await.unwrap_or_else(|_| {
        unknown(format!("the kernel did not list its devices within {DEADLINE:?}"))
    })
}

async fn collect<E: fmt::Display>(links: impl Stream<Item = Result<LinkMessage, E>>) -> Devices {
    let mut links = pin!(links.take(DEVICES_MAX + 1).enumerate());
    let mut devices = BTreeMap::new();
    while let Some((index, link)) = links.next().await {
        if index == DEVICES_MAX {
            return unknown(format!("the host has more than {DEVICES_MAX} network devices"));
        }
        match link {
            Ok(link) => devices.extend(ours(&link)),
            Err(error) => {
                return unknown(format!("the kernel did not list its devices: {error}"));
            }
        }
    }
    Surveyed::Known(devices)
}

fn unknown(reason: String) -> Devices {
    Surveyed::Unknown(reason)
}

/// The name and the mark of a device of ours.
fn ours(link: &LinkMessage) -> Option<(String, DeviceSeen)> {
    let (mut name, mut owner) = (None, None);
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name = Some(text.clone());
        }
        if let LinkAttribute::IfAlias(text) = attribute {
            owner = owner_of(text);
        }
    }
    Some((name?, DeviceSeen { owner: owner? }))
}

fn owner_of(alias: &str) -> Option<VmId> {
    Uuid::try_parse(alias.strip_prefix(ALIAS_PREFIX)?).ok().map(VmId)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn link(name: &str, alias: Option<&str>) -> Result<LinkMessage, &'static str> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let alias = alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned()));
        link.attributes.extend(alias);
        Ok(link)
    }

    fn reason(devices: Devices) -> String {
        match devices {
            Surveyed::Known(devices) => panic!("{devices:?}"),
            Surveyed::Unknown(reason) => reason,
        }
    }

    #[tokio::test]
    async fn only_a_whole_mark_makes_a_device_ours() {
        let owner = VmId(Uuid::from_u128(7));
        let mark = format!("vman:{owner}");
        let links = [
            link("lo", None),
            link("tap0", Some(&mark)),
            link("eth0", Some("uplink")),
            link("tap1", Some("vman:7")),
            link("tap2", Some(&mark[5..])),
            link("tap3", Some(&format!("{mark} "))),
        ];
        let devices = collect(stream::iter(links)).await;
        let expected = BTreeMap::from([("tap0".to_owned(), DeviceSeen { owner })]);
        assert_eq!(devices, Surveyed::Known(expected));
    }

    #[tokio::test]
    async fn a_list_that_breaks_off_is_unknown_and_not_short() {
        let links = [link("lo", None), Err("it is busy")];
        let reason = reason(collect(stream::iter(links)).await);
        assert!(reason.contains("it is busy"), "{reason}");
    }

    #[tokio::test]
    async fn a_list_without_end_is_unknown() {
        let reason = reason(collect(stream::repeat_with(|| link("lo", None))).await);
        assert!(reason.contains("65536"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_kernel_that_never_answers_is_not_waited_for() {
        let never = stream::pending::<Result<LinkMessage, &str>>();
        let reason = reason(within_deadline(collect(never)).await);
        assert!(reason.contains("2s"), "{reason}");
    }
}
