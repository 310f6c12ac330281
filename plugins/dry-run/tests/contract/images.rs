//! Images: made once, never overwritten, never guessed.

use std::path::PathBuf;

use vman_plugin::host::Offer;
use vman_plugin::{ErrorCode, ImageFormat, ImageGrowth, ImageRef, ImageSpec};

use crate::{Host, over_both, plain};

over_both!(
    an_image_is_made_read_and_removed_and_twice_is_once,
    an_image_is_never_overwritten,
    an_image_of_another_format_is_a_conflict_and_a_missing_one_not_found,
    a_size_that_no_disk_has_is_invalid,
    a_path_that_begins_nowhere_is_invalid,
);

const SIZE: u64 = 3 << 30;

fn spec(path: PathBuf) -> ImageSpec {
    ImageSpec { path, format: ImageFormat::Qcow2, virtual_size: SIZE }
}

fn image(spec: &ImageSpec) -> ImageRef {
    ImageRef { path: spec.path.clone(), format: spec.format }
}

async fn an_image_is_made_read_and_removed_and_twice_is_once(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let spec = spec(host.path().join("a.qcow2"));
    client.create_image(spec.clone()).await.unwrap();
    client.create_image(spec.clone()).await.unwrap();
    let info = client.inspect_image(image(&spec)).await.unwrap();
    assert_eq!((info.format, info.virtual_size), (spec.format, SIZE));
    assert!(info.actual_size < SIZE);
    client.delete_image(image(&spec)).await.unwrap();
    client.delete_image(image(&spec)).await.unwrap();
    assert_eq!(std::fs::read_dir(host.path()).unwrap().count(), 0);
}

async fn an_image_is_never_overwritten(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let first = spec(host.path().join("a.img"));
    client.create_image(first.clone()).await.unwrap();
    let before = std::fs::read(&first.path).unwrap();
    let larger = ImageSpec { virtual_size: 2 * SIZE, ..first.clone() };
    let raw = ImageSpec { format: ImageFormat::Raw, ..first.clone() };
    for other in [larger, raw] {
        let error = client.create_image(other).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict);
        assert!(error.message.contains("a.img"), "{error}");
    }
    assert_eq!(std::fs::read(&first.path).unwrap(), before);

    let foreign = spec(host.path().join("letter.txt"));
    std::fs::write(&foreign.path, "Dear all").unwrap();
    let error = client.create_image(foreign.clone()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    assert_eq!(std::fs::read_to_string(&foreign.path).unwrap(), "Dear all");
}

async fn an_image_of_another_format_is_a_conflict_and_a_missing_one_not_found(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let spec = spec(host.path().join("a.img"));
    let missing = client.inspect_image(image(&spec)).await.unwrap_err();
    assert_eq!(missing.code, ErrorCode::NotFound);
    client.create_image(spec.clone()).await.unwrap();
    let raw = ImageRef { format: ImageFormat::Raw, ..image(&spec) };
    let other = client.inspect_image(raw).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::Conflict);
    assert!(other.message.contains("qcow2, not raw"), "{other}");
}

async fn a_size_that_no_disk_has_is_invalid(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    for virtual_size in [0, 1, 511, 513] {
        let spec = ImageSpec { virtual_size, ..spec(host.path().join("a.img")) };
        let error = client.create_image(spec.clone()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid, "{virtual_size}");
        assert!(!spec.path.exists());
    }
}

async fn a_path_that_begins_nowhere_is_invalid(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let spec = spec(PathBuf::from("a.img"));
    let made = client.create_image(spec.clone()).await;
    let grown = client
        .resize_image(ImageGrowth {
            path: spec.path.clone(),
            format: spec.format,
            virtual_size: SIZE,
        })
        .await;
    let read = client.inspect_image(image(&spec)).await.map(drop);
    let removed = client.delete_image(image(&spec)).await;
    for result in [made, grown, read, removed] {
        assert_eq!(result.unwrap_err().code, ErrorCode::Invalid);
    }
    assert!(!spec.path.exists());
}
