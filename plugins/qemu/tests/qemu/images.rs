//! Images through real `qemu-img`: made once, read, never overwritten, removed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crate::host::{Host, Tcg};
use serde_json::json;
use vman_plugin::{Backend, ErrorCode, ImageFormat, ImageGrowth, ImageRef, ImageSpec};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn an_image_is_made_once_read_and_removed_in_each_format() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    for format in [ImageFormat::Qcow2, ImageFormat::Raw] {
        let path = host.path(&format!("disk, with comma.{}", format.name()));
        let spec = ImageSpec { path: path.clone(), format, virtual_size: 3 * MIB };
        backend.create_image(spec.clone()).await.unwrap();
        let made = std::fs::metadata(&path).unwrap().modified().unwrap();
        backend.create_image(spec).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), made);

        let image = ImageRef { path: path.clone(), format };
        let info = backend.inspect_image(image.clone()).await.unwrap();
        assert_eq!((info.format, info.virtual_size), (format, 3 * MIB));
        assert!(info.actual_size < 3 * MIB, "{info:?}");

        backend.delete_image(image.clone()).await.unwrap();
        backend.delete_image(image.clone()).await.unwrap();
        let error = backend.inspect_image(image).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
    }
    let left: Vec<_> =
        std::fs::read_dir(host.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "only the test's own folders are left: {left:?}");
}

#[tokio::test]
async fn an_image_that_is_there_is_never_overwritten() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let path = host.path("disk");
    std::fs::write(&path, vec![7; 4096]).unwrap();
    for (format, virtual_size) in [(ImageFormat::Qcow2, 4096), (ImageFormat::Raw, 8192)] {
        let spec = ImageSpec { path: path.clone(), format, virtual_size };
        let error = backend.create_image(spec).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict, "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 4096]);
    }
    let image = ImageRef { path, format: ImageFormat::Qcow2 };
    let error = backend.inspect_image(image).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict, "{error}");
}

#[tokio::test]
async fn what_an_earlier_attempt_left_is_no_hindrance_and_is_removed() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let (path, format) = (host.path("disk"), ImageFormat::Qcow2);
    std::fs::write(host.path("disk.unfinished"), "half").unwrap();
    let spec = ImageSpec { path: path.clone(), format, virtual_size: MIB };
    backend.create_image(spec.clone()).await.unwrap();
    assert!(!host.path("disk.unfinished").exists());
    // Ended after the image got its own name, and before it lost the other.
    std::fs::write(host.path("disk.unfinished"), "whole").unwrap();
    backend.create_image(spec).await.unwrap();
    assert!(!host.path("disk.unfinished").exists());
    let info = backend.inspect_image(ImageRef { path, format }).await.unwrap();
    assert_eq!(info.virtual_size, MIB);
}

#[tokio::test]
async fn what_cannot_be_an_image_is_refused() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    for (path, virtual_size) in
        [(host.path("a"), 0), (host.path("a"), 513), ("nbd://x/y".into(), MIB), ("-f".into(), MIB)]
    {
        let spec = ImageSpec { path, format: ImageFormat::Raw, virtual_size };
        let error = backend.create_image(spec).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid, "{error}");
    }
    let nowhere = host.path("no/such/folder/disk");
    let spec = ImageSpec { path: nowhere, format: ImageFormat::Raw, virtual_size: MIB };
    let error = backend.create_image(spec).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Failed, "{error}");
    let settings = serde_json::json!({"qemu_img": "/no/such/qemu-img"});
    let broken = host.backend_with::<Tcg>(settings);
    let spec = ImageSpec { path: host.path("a"), format: ImageFormat::Raw, virtual_size: MIB };
    let error = broken.create_image(spec).await.unwrap_err();
    assert!(error.message.contains("/no/such/qemu-img"), "{error}");
}

/// Where the tests have no root they show that an image still grows.
#[tokio::test]
async fn an_image_that_is_not_roots_grows_and_no_root_reads_it() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let is_root = rustix::process::geteuid().is_root();
    // As where the storage is closed to other users: the image is reached all the same.
    fs::create_dir(host.path("closed")).unwrap();
    fs::set_permissions(host.path("closed"), Permissions::from_mode(0o700)).unwrap();
    for format in [ImageFormat::Qcow2, ImageFormat::Raw] {
        let path = host.path("closed").join(format.name());
        let spec = ImageSpec { path: path.clone(), format, virtual_size: MIB };
        backend.create_image(spec).await.unwrap();
        let owner = if is_root { 2_100_000_007 } else { fs::metadata(&path).unwrap().uid() };
        if is_root {
            chown(&path, Some(owner), Some(owner)).unwrap();
        }
        let growth = ImageGrowth { path: path.clone(), format, virtual_size: 2 * MIB };
        backend.resize_image(growth.clone()).await.unwrap();
        let info = backend.inspect_image(ImageRef { path: path.clone(), format }).await.unwrap();
        assert_eq!((info.virtual_size, fs::metadata(&path).unwrap().uid()), (2 * MIB, owner));

        let script = host.path("tells-whose-it-is");
        let tells = "#!/bin/sh\ngrep -E '^(Uid|Gid|Groups|CapEff):' /proc/self/status >&2; exit 1";
        fs::write(&script, tells).unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        let telling = host.backend_with::<Tcg>(json!({"qemu_img": script}));
        let growth = ImageGrowth { virtual_size: 3 * MIB, ..growth };
        let told = telling.resize_image(growth).await.unwrap_err().message;
        assert!(told.contains(&format!("Uid:\t{owner}\t{owner}\t{owner}\t{owner}")), "{told}");
        if is_root {
            let rest = format!("Gid:\t{owner}\t{owner}\t{owner}\t{owner}\nGroups:\t");
            assert!(told.contains(&rest), "{told}");
            assert!(told.contains("CapEff:\t0000000000000000"), "{told}");
        }
    }
}
