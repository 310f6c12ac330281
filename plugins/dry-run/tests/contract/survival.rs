//! Faults: what a plugin does wrong, or cannot do, ends as an error of that verb alone.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use serde_json::json;
use vman_plugin::host::Offer;
use vman_plugin::{
    Bus, DiskAttachment, DiskGrowth, DiskRemoval, DiskSpec, ErrorCode, ImageFormat, ImageGrowth,
    ImageRef, ImageSpec,
};

use crate::{DISK_SIZE, Host, over_both, plain};

over_both!(
    a_setting_that_is_unknown_is_refused_by_name,
    a_failing_verb_tells_its_reason_and_leaves_nothing,
    a_failing_verb_of_a_running_machine_changes_nothing,
    a_backend_that_cannot_run_here_says_why,
    a_launch_that_hangs_ends_at_its_deadline_and_the_instance_goes_on,
    a_launch_given_up_at_any_moment_leaves_nothing_once_its_machine_was_killed,
    a_launch_that_panics_ends_in_an_error_and_a_new_instance_works,
);

async fn a_setting_that_is_unknown_is_refused_by_name(offer: Offer) {
    let host = Host::new(offer);
    let config = host.config(json!({"lunch_ms": 3}));
    let error = host.offer.start(config).unwrap_err();
    assert_eq!(error.code, ErrorCode::Invalid);
    for part in ["[backends.dry-run]", "`lunch_ms`", "`launch_ms`"] {
        assert!(error.message.contains(part), "{part} in {error}");
    }
}

async fn a_failing_verb_tells_its_reason_and_leaves_nothing(offer: Offer) {
    let host = Host::new(offer);
    let settings = json!({
        "fail_launch": "no memory", "fail_probe": "no device", "fail_survey": "no folder",
        "fail_quit": "no socket", "fail_create_image": "no space",
    });
    let (client, _events) = host.start(settings);
    let spec = host.spec();
    let image =
        ImageSpec { path: host.path().join("a.img"), format: ImageFormat::Raw, virtual_size: 512 };
    let failures = [
        ("no memory", client.launch(spec.clone()).await.unwrap_err()),
        ("no device", client.probe().await.unwrap_err()),
        ("no folder", client.survey().await.unwrap_err()),
        ("no socket", client.quit(spec.id).await.unwrap_err()),
        ("no space", client.create_image(image.clone()).await.unwrap_err()),
    ];
    for (reason, error) in failures {
        assert_eq!(error.code, ErrorCode::Failed);
        assert!(error.message.contains(reason), "{error}");
    }
    assert!(!image.path.exists());
    assert_eq!(std::fs::read_dir(&spec.directory).unwrap().count(), 0);
}

async fn a_failing_verb_of_a_running_machine_changes_nothing(offer: Offer) {
    let host = Host::new(offer);
    let first = host.start(plain());
    let id = host.launched(&first.0).await;
    let [has, new] =
        [host.disk(&first.0, Bus::VirtioScsi).await, host.disk(&first.0, Bus::VirtioBlk).await];
    let attachment = |disk: &DiskSpec| DiskAttachment { id, disk: disk.clone() };
    first.0.attach_disk(attachment(&has)).await.unwrap();
    host.stop(first).await;
    let settings = json!({
        "fail_pause": "no 1", "fail_resume": "no 2", "fail_reset": "no 3", "fail_attach": "no 4",
        "fail_detach": "no 5", "fail_resize": "no 6",
    });
    let (client, _events) = host.start(settings);
    let before = (host.machine(id), client.sight(id).await.unwrap());
    let virtual_size = 2 * DISK_SIZE;
    let image = ImageGrowth { path: new.path.clone(), format: new.format, virtual_size };
    let removal = DiskRemoval { id, disk: has.id, path: None };
    let failures = [
        ("no 1", client.pause(id).await),
        ("no 2", client.resume(id).await),
        ("no 3", client.reset(id).await),
        ("no 4", client.attach_disk(attachment(&new)).await),
        ("no 5", client.detach_disk(removal).await.map(drop)),
        ("no 6", client.resize_disk(DiskGrowth { id, disk: has.id, virtual_size }).await),
        ("no 6", client.resize_image(image).await),
    ];
    for (reason, result) in failures {
        let error = result.unwrap_err();
        assert_eq!(error.code, ErrorCode::Failed);
        assert!(error.message.contains(reason), "{error}");
    }
    assert_eq!((host.machine(id), client.sight(id).await.unwrap()), before);
    for disk in [has, new] {
        let image = ImageRef { path: disk.path, format: disk.format };
        assert_eq!(client.inspect_image(image).await.unwrap().virtual_size, DISK_SIZE);
    }
}

async fn a_backend_that_cannot_run_here_says_why(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(json!({"unusable": "no device"}));
    let probe = client.probe().await.unwrap();
    assert!(!probe.usable);
    assert_eq!(probe.reason, "no device");
}

async fn a_launch_that_hangs_ends_at_its_deadline_and_the_instance_goes_on(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(json!({"hang_launch": true}));
    let hurried = client.with_deadline(Duration::from_millis(30));
    let error = hurried.launch(host.spec()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
    for part in ["dry-run", "`launch`", "30ms"] {
        assert!(error.message.contains(part), "{part} in {error}");
    }
    assert_eq!(client.dropped().operations, 0, "it was cancelled in time");
    assert_eq!(client.survey().await.unwrap().machines, []);
}

async fn a_launch_given_up_at_any_moment_leaves_nothing_once_its_machine_was_killed(offer: Offer) {
    let host = Host::new(offer);
    let (client, events) = host.start(plain());
    let mut launched = 0;
    // Ever later, until enough of them were given up only when their machine was there.
    for microseconds in (0..100_000).step_by(50) {
        let spec = host.spec();
        let id = spec.id;
        let mut launch = Box::pin(client.launch(spec));
        // Its answer may even be there by now.
        let _ = poll_fn(|cx| Poll::Ready(launch.as_mut().poll(cx))).await;
        // The moment is what is tried; nothing tells of it.
        std::thread::sleep(Duration::from_micros(microseconds));
        drop(launch);
        launched += usize::from(host.machine_file(id).exists());
        client.kill(id).await.unwrap();
        assert_eq!(client.sight(id).await.unwrap(), None);
        if launched == 10 {
            break;
        }
    }
    assert_eq!(launched, 10);
    host.stop((client, events)).await;
    let (client, _events) = host.start(plain());
    assert_eq!(client.survey().await.unwrap().machines, []);
}

async fn a_launch_that_panics_ends_in_an_error_and_a_new_instance_works(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(json!({"panic_launch": true}));
    let error = client.launch(host.spec()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Panicked);
    assert!(error.message.contains("`panic_launch` is on"), "{error}");
    assert!(client.fault().is_some());
    let poisoned = client.survey().await.unwrap_err();
    assert_eq!(poisoned.code, ErrorCode::Broken);

    let (next, _events) = host.start(plain());
    next.launch(host.spec()).await.unwrap();
}
