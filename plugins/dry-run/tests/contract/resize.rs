//! Images that grow, alone and in a running machine.

use uuid::Uuid;
use vman_plugin::host::{Client, Offer};
use vman_plugin::{
    Bus, DiskAttachment, DiskGrowth, DiskSpec, ErrorCode, ImageFormat, ImageGrowth, ImageRef,
};

use crate::{DISK_SIZE, Host, REPEATS, over_both, plain};

over_both!(
    an_image_grows_and_ten_times_is_once,
    a_disk_of_a_running_machine_grows_with_its_image,
    an_image_never_shrinks_and_has_whole_sectors,
    an_image_that_a_machine_has_grows_only_as_its_disk,
    what_is_not_there_or_of_another_format_does_not_grow,
);

fn image_growth(disk: &DiskSpec, virtual_size: u64) -> ImageGrowth {
    ImageGrowth { path: disk.path.clone(), format: disk.format, virtual_size }
}

async fn size(client: &Client, disk: &DiskSpec) -> u64 {
    let image = ImageRef { path: disk.path.clone(), format: disk.format };
    client.inspect_image(image).await.unwrap().virtual_size
}

async fn an_image_grows_and_ten_times_is_once(offer: Offer) {
    let host = Host::new(offer);
    let first = host.start(plain());
    assert!(first.0.manifest().capabilities.resize);
    let disk = host.disk(&first.0, Bus::VirtioScsi).await;
    host.stop(first).await;
    for _ in 0..REPEATS {
        let instance = host.start(plain());
        instance.0.resize_image(image_growth(&disk, 4 * DISK_SIZE)).await.unwrap();
        assert_eq!(size(&instance.0, &disk).await, 4 * DISK_SIZE);
        host.stop(instance).await;
    }
    assert_eq!(std::fs::read_dir(host.path()).unwrap().count(), 1, "nothing is left beside it");
}

async fn a_disk_of_a_running_machine_grows_with_its_image(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let id = host.launched(&client).await;
    for bus in [Bus::VirtioScsi, Bus::VirtioBlk] {
        let disk = host.disk(&client, bus).await;
        client.attach_disk(DiskAttachment { id, disk: disk.clone() }).await.unwrap();
        for virtual_size in [DISK_SIZE, DISK_SIZE + 512] {
            for _ in 0..REPEATS {
                let growth = DiskGrowth { id, disk: disk.id, virtual_size };
                client.resize_disk(growth).await.unwrap();
                assert_eq!(size(&client, &disk).await, virtual_size);
            }
        }
    }
}

async fn an_image_never_shrinks_and_has_whole_sectors(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let disk = host.disk(&client, Bus::VirtioScsi).await;
    let id = host.launched(&client).await;
    for virtual_size in [0, DISK_SIZE - 512, DISK_SIZE + 1] {
        let error = client.resize_image(image_growth(&disk, virtual_size)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid, "{virtual_size}: {error}");
    }
    client.attach_disk(DiskAttachment { id, disk: disk.clone() }).await.unwrap();
    for virtual_size in [0, DISK_SIZE - 512, DISK_SIZE + 1] {
        let growth = DiskGrowth { id, disk: disk.id, virtual_size };
        let error = client.resize_disk(growth).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid, "{virtual_size}: {error}");
    }
    assert_eq!(size(&client, &disk).await, DISK_SIZE);
}

async fn an_image_that_a_machine_has_grows_only_as_its_disk(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let id = host.launched(&client).await;
    let disk = host.disk(&client, Bus::VirtioScsi).await;
    client.attach_disk(DiskAttachment { id, disk: disk.clone() }).await.unwrap();
    let error = client.resize_image(image_growth(&disk, 2 * DISK_SIZE)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains(&id.to_string()), "{error}");
    client.kill(id).await.unwrap();
    client.resize_image(image_growth(&disk, 2 * DISK_SIZE)).await.unwrap();
}

async fn what_is_not_there_or_of_another_format_does_not_grow(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let disk = host.disk(&client, Bus::VirtioScsi).await;
    let raw = DiskSpec { format: ImageFormat::Raw, ..disk.clone() };
    let error = client.resize_image(image_growth(&raw, 2 * DISK_SIZE)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    let missing = DiskSpec { path: host.path().join("missing"), ..disk.clone() };
    let error = client.resize_image(image_growth(&missing, DISK_SIZE)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    for id in [Uuid::new_v4(), host.launched(&client).await] {
        let growth = DiskGrowth { id, disk: disk.id, virtual_size: 2 * DISK_SIZE };
        let error = client.resize_disk(growth).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
        assert!(error.message.contains(&id.to_string()), "{error}");
    }
    assert_eq!(size(&client, &disk).await, DISK_SIZE);
}
