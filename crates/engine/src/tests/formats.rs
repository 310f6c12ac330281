//! The formats of images: what the backend makes, and what it does not.

use vman_core::disk::{Bus, ImageFormat};

use super::*;
use crate::{EngineError, NewDisk};

/// A world whose backend makes these.
async fn with_formats(formats: &[ImageFormat]) -> World {
    let mut world = World::new().await;
    world.config.image_formats = formats.to_vec();
    world
}

async fn make(engine: &Engine, format: Option<ImageFormat>) -> Result<ImageFormat, EngineError> {
    let new = NewDisk { size_gib: 1, format, bus: Bus::VirtioScsi, mount_point: None };
    let accepted = engine.create_disk(new, None).await?;
    succeeded(engine, accepted.operation.expect("an image is made")).await;
    Ok(accepted.record.format)
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_of_the_format_that_is_asked_for_or_of_the_usual_one_that_the_backend_makes() {
    let (qcow2, raw) = (ImageFormat::Qcow2, ImageFormat::Raw);
    for (formats, asked, made) in [
        (&[qcow2, raw][..], None, qcow2),
        (&[raw, qcow2], None, qcow2),
        (&[raw, qcow2], Some(raw), raw),
        (&[raw], None, raw),
        (&[raw], Some(raw), raw),
    ] {
        let engine = with_formats(formats).await.engine();
        assert_eq!(make(&engine, asked).await.expect("let in"), made, "{formats:?} {asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_format_that_the_backend_does_not_make_is_refused_with_those_it_makes() {
    let world = with_formats(&[ImageFormat::Raw]).await;
    let refused = make(&world.engine(), Some(ImageFormat::Qcow2)).await.unwrap_err().to_string();
    for part in ["fake", "no qcow2 images", "makes raw"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    let world = with_formats(&[]).await;
    for asked in [None, Some(ImageFormat::Raw)] {
        let refused = make(&world.engine(), asked).await.unwrap_err().to_string();
        assert!(refused.contains("fake") && refused.contains("no images"), "{refused}");
    }
    assert_eq!(world.disks().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_vm_gets_a_root_disk_that_its_backend_can_make_or_is_not_started() {
    let world = with_formats(&[ImageFormat::Raw]).await;
    let vm = world.add_vm(1, VmState::Stopped).await;
    let engine = world.engine();
    let operation = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, operation).await;
    let disks = world.disks().await;
    assert_eq!(disks.len(), 1);
    assert!(disks[0].is_root());
    assert_eq!(disks[0].format, ImageFormat::Raw);

    let world = with_formats(&[]).await;
    let vm = world.add_vm(1, VmState::Stopped).await;
    let start = world.engine().command_vm(vm, VmCommand::Start, Reason::User, None).await;
    let refused = start.unwrap_err();
    assert!(matches!(refused, EngineError::NoSuchImages { .. }), "{refused}");
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
    assert_eq!(world.operations().await, []);
}
