//! Images: made once, read, grown, removed, and never written over.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::conformance::bench::{Bench, IMAGE_SIZE, REPEATS, ours, reference};
use crate::conformance::case::{Case, Need};
use crate::conformance::fault::{Outcome, Works, ensure, fails};
use crate::{ErrorCode, ImageFormat, ImageGrowth, ImageRef, ImageSpec};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "an-image-is-made-once-read-and-removed",
        "In each format, ten times each: made, of the size asked for, and gone when deleted.",
        &[Need::Images],
        |bench| Box::pin(made_once(bench)),
    ),
    Case::new(
        "an-image-is-never-overwritten",
        "What is there already and is another image is a `conflict`, and stays as it was.",
        &[Need::Images],
        |bench| Box::pin(never_overwritten(bench)),
    ),
    Case::new(
        "an-image-that-is-not-there-is-not-found",
        "It is `not-found` to who reads or grows it, and deleted with success.",
        &[Need::Images],
        |bench| Box::pin(not_there(bench)),
    ),
    Case::new(
        "an-image-grows-and-never-shrinks",
        "It grows to a size once and ten times; a smaller size is `invalid`.",
        &[Need::Images, Need::Resize],
        |bench| Box::pin(grows(bench)),
    ),
    Case::new(
        "what-can-be-no-image-is-refused",
        "Sizes that are no sectors, formats that it lacks, paths that lead nowhere.",
        &[Need::Images],
        |bench| Box::pin(refused(bench)),
    ),
    Case::new(
        "a-link-is-not-written-through",
        "A link in the place of an image does not lead to a file that is made, grown or removed.",
        &[Need::Images],
        |bench| Box::pin(links(bench)),
    ),
];

/// Neither a format's header nor as long as an image.
const FOREIGN: &[u8] = b"somebody's only copy";

async fn made_once(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    for format in bench.capabilities().image_formats.clone() {
        let spec = bench.image(format);
        for _ in 0..REPEATS {
            client.create_image(spec.clone()).await.works("making an image")?;
        }
        for _ in 0..REPEATS {
            let info = client.inspect_image(reference(&spec)).await.works("reading an image")?;
            let told = (info.format, info.virtual_size);
            ensure!(told == (format, IMAGE_SIZE), "made as {spec:?} it is {info:?}");
        }
        for _ in 0..REPEATS {
            client.delete_image(reference(&spec)).await.works("deleting an image")?;
            ensure!(!spec.path.exists(), "a deleted image is still there: {spec:?}");
        }
    }
    let left: Vec<_> = fs::read_dir(bench.images_dir()).into_iter().flatten().flatten().collect();
    ensure!(left.is_empty(), "all images were deleted, and there is still {left:?}");
    instance.end().await
}

async fn never_overwritten(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let conflict = &[ErrorCode::Conflict];
    for format in bench.capabilities().image_formats.clone() {
        let spec = bench.image(format);
        client.create_image(spec.clone()).await.works("making an image")?;
        let before = fs::read(&spec.path).map_err(|error| ours("an image's copy", &error))?;
        for size in [IMAGE_SIZE / 2, IMAGE_SIZE * 2] {
            let other = ImageSpec { virtual_size: size, ..spec.clone() };
            let what = format!("making an image of {size} bytes where one of {IMAGE_SIZE} is");
            fails(client.create_image(other).await, &what, conflict)?;
        }
        let after = fs::read(&spec.path).unwrap_or_default();
        ensure!(before == after, "an image was changed by one that was refused");

        let foreign = bench.image(format);
        fs::write(&foreign.path, FOREIGN).map_err(|error| ours("a file", &error))?;
        let what = "making an image where another file is";
        for _ in 0..REPEATS {
            fails(client.create_image(foreign.clone()).await, what, conflict)?;
        }
        ensure!(fs::read(&foreign.path).is_ok_and(|now| now == FOREIGN), "a file was overwritten");
        if format == ImageFormat::Qcow2 {
            let read = client.inspect_image(reference(&foreign)).await;
            fails(read, "reading a file of another format", conflict)?;
        }
    }
    instance.end().await
}

async fn not_there(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    for format in bench.capabilities().image_formats.clone() {
        let ImageSpec { path, .. } = bench.image(format);
        let image = ImageRef { path: path.clone(), format };
        let not_found = &[ErrorCode::NotFound];
        fails(client.inspect_image(image.clone()).await, "reading no image", not_found)?;
        if bench.capabilities().resize {
            let growth = ImageGrowth { path, format, virtual_size: IMAGE_SIZE };
            fails(client.resize_image(growth).await, "growing no image", not_found)?;
        }
        for _ in 0..REPEATS {
            client.delete_image(image.clone()).await.works("deleting no image")?;
        }
    }
    instance.end().await
}

async fn grows(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    for format in bench.capabilities().image_formats.clone() {
        let spec = bench.image(format);
        client.create_image(spec.clone()).await.works("making an image")?;
        let growth = |virtual_size| ImageGrowth { path: spec.path.clone(), format, virtual_size };
        for size in [IMAGE_SIZE, IMAGE_SIZE * 2] {
            for _ in 0..REPEATS {
                client.resize_image(growth(size)).await.works("growing an image")?;
            }
            let info = client.inspect_image(reference(&spec)).await.works("reading an image")?;
            ensure!(info.virtual_size == size, "grown to {size} bytes it is {info:?}");
        }
        let smaller = client.resize_image(growth(IMAGE_SIZE)).await;
        fails(smaller, "making an image smaller", &[ErrorCode::Invalid])?;
        let info = client.inspect_image(reference(&spec)).await.works("reading an image")?;
        ensure!(info.virtual_size == IMAGE_SIZE * 2, "an image shrank to {info:?}");
    }
    instance.end().await
}

async fn refused(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let formats = bench.capabilities().image_formats.clone();
    for format in &formats {
        let spec = bench.image(*format);
        for virtual_size in [0, 1, 511, IMAGE_SIZE + 1] {
            let odd = ImageSpec { virtual_size, ..spec.clone() };
            let what = format!("making an image of {virtual_size} bytes");
            fails(client.create_image(odd).await, &what, &[ErrorCode::Invalid])?;
            ensure!(!spec.path.exists(), "{what} was refused and left a file");
        }
        let path = PathBuf::from("no-folder-named");
        let nowhere = ImageSpec { path, ..spec.clone() };
        let made = client.create_image(nowhere).await;
        fails(made, "making an image at a path that is not absolute", &[ErrorCode::Invalid])?;
        let path = bench.images_dir().join("no-such-folder/image");
        let nowhere = ImageSpec { path, ..spec };
        let any = &[ErrorCode::Failed, ErrorCode::NotFound, ErrorCode::Invalid];
        fails(client.create_image(nowhere).await, "making an image in no folder", any)?;
    }
    for format in [ImageFormat::Qcow2, ImageFormat::Raw] {
        if !formats.contains(&format) {
            let made = client.create_image(bench.image(format)).await;
            let what = format!("making a {} image, which it lacks,", format.name());
            fails(made, &what, &[ErrorCode::Invalid, ErrorCode::Unsupported])?;
        }
    }
    instance.end().await
}

async fn links(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    for format in bench.capabilities().image_formats.clone() {
        let target = bench.folder().join(format!("target.{}", format.name()));
        let spec = bench.image(format);
        let linked = symlink(&target, &spec.path);
        linked.map_err(|error| ours("a link", &error))?;
        // Whatever it answers, nothing may come to be at the link's other end.
        let _ = client.create_image(spec.clone()).await;
        ensure!(!target.exists(), "an image was made through a link");

        fs::write(&target, FOREIGN).map_err(|error| ours("a file", &error))?;
        let _ = client.create_image(spec.clone()).await;
        if bench.capabilities().resize {
            let virtual_size = IMAGE_SIZE;
            let growth = ImageGrowth { path: spec.path.clone(), format, virtual_size };
            let _ = client.resize_image(growth).await;
        }
        let _ = client.delete_image(reference(&spec)).await;
        ensure!(
            fs::read(&target).is_ok_and(|now| now == FOREIGN),
            "a file was changed through a link in the place of an image"
        );
        fs::remove_file(&target).map_err(|error| ours("a file", &error))?;
    }
    instance.end().await
}
