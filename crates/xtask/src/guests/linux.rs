//! A real Linux guest in two files: the distribution's own kernel for virtual machines and a
//! busybox user space in memory. No disk, no boot loader, nothing of the host's own installation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use super::modules;
use crate::tree::Tree;
use crate::{packages, run};

/// The packages that stand for the newest small kernel: Debian's, then Ubuntu's.
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];
/// What the guest needs: disks and network of QEMU, and the power button.
const MODULES: &[&str] =
    &["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "virtio_net", "button", "evdev"];
/// Our own programs in the guest: where, and what.
const PROGRAMS: [(&str, &str); 3] = [
    ("init", include_str!("../../../../tests/guests/linux/init")),
    ("bin/disk", include_str!("../../../../tests/guests/linux/disk")),
    ("bin/disk-event", include_str!("../../../../tests/guests/linux/disk-event")),
];
const BUSYBOX: &str = "/bin/busybox";
/// The folders of every guest.
pub(super) const FOLDERS: [&str; 9] =
    ["bin", "dev", "etc", "lib", "lib/modules", "proc", "root", "sys", "tmp"];

/// A kernel of the distribution's, unpacked.
#[derive(Debug)]
pub(super) struct Kernel {
    root: PathBuf,
    version: String,
}

/// Makes `vmlinuz` and `initrd.gz` in `folder`, unless they are there and still right.
pub(super) fn build(tree: &Tree, folder: &Path) -> Result<()> {
    let stamp = folder.join("linux.stamp");
    let inputs = format!("{MODULES:?}\n{PROGRAMS:?}");
    let files = [folder.join("vmlinuz"), folder.join("initrd.gz")];
    let made = fs::read_to_string(&stamp).is_ok_and(|text| text == inputs);
    if made && files.iter().all(|file| file.is_file()) {
        return Ok(());
    }
    let kernel = kernel(tree)?;
    println!("guests: Linux {} with busybox", kernel.version);
    let image = kernel.root.join("boot").join(format!("vmlinuz-{}", kernel.version));
    fs::copy(&image, &files[0]).with_context(|| format!("copying {}", image.display()))?;
    pack(&kernel, &files[1])?;
    fs::write(&stamp, inputs).with_context(|| format!("writing {}", stamp.display()))
}

/// The kernel of all guests.
pub(super) fn kernel(tree: &Tree) -> Result<Kernel> {
    let root = unpack(&tree.target.join("guests-kernel"))?;
    let version = version(&root)?;
    Ok(Kernel { root, version })
}

/// Downloads the kernel's packages into `folder` and unpacks them there, once.
fn unpack(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("root");
    if root.join("lib/modules").is_dir() {
        return Ok(root);
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    if let Err(error) = download(folder) {
        // Lists that are older than a kernel's update name a package that is gone.
        println!("guests: {error:#}; trying again with new lists");
        packages::update()?;
        download(folder)?;
    }
    let part = folder.join("part");
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        if file.extension().is_some_and(|ending| ending == "deb") {
            run::captured(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&part))?;
        }
    }
    // Newer packages have only `usr/lib/modules`; depmod wants `lib/modules`.
    if !part.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", part.join("lib"))?;
    }
    fs::rename(&part, &root).context("keeping the unpacked kernel")?;
    Ok(root)
}

fn download(folder: &Path) -> Result<()> {
    let packages = kernel_packages()?;
    println!("guests: apt-get download {}", packages.join(" "));
    let mut apt = Command::new("apt-get");
    // Root's apt would download as a user that may not write here.
    apt.args(["download", "-qq", "-o", "APT::Sandbox::User=root"]).args(&packages);
    run::captured(apt.current_dir(folder)).map(drop)
}

/// The package that holds the kernel itself, and the one of its modules where they are apart.
fn kernel_packages() -> Result<Vec<String>> {
    let known = || KERNELS.into_iter().find(|package| packages::candidate(package).is_some());
    let meta = match known() {
        Some(meta) => meta,
        None => {
            packages::update()?;
            known().with_context(|| format!("apt knows none of {}", KERNELS.join(", ")))?
        }
    };
    let image = dependency(meta, "linux-image-")?;
    let image = image.with_context(|| format!("{meta} depends on no kernel image"))?;
    let modules = dependency(&image, "linux-modules-")?;
    Ok([Some(image), modules].into_iter().flatten().collect())
}

/// The first package that `package` depends on and whose name begins with `prefix`.
fn dependency(package: &str, prefix: &str) -> Result<Option<String>> {
    let text = run::captured(Command::new("apt-cache").args(["depends", "--important", package]))?;
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names.map(str::trim).find(|name| name.starts_with(prefix)).map(Into::into))
}

/// The version of the one kernel that is unpacked at `kernel`.
fn version(kernel: &Path) -> Result<String> {
    let folder = kernel.join("lib/modules");
    let mut entries = fs::read_dir(&folder).with_context(|| format!("in {}", folder.display()))?;
    let Some(entry) = entries.next() else { bail!("{} is empty", folder.display()) };
    Ok(entry?.file_name().to_string_lossy().into_owned())
}

fn pack(kernel: &Kernel, out: &Path) -> Result<()> {
    let part = out.with_extension("part");
    let mut archive = Archive::create(&part)?;
    base(&mut archive, kernel, MODULES)?;
    for (name, content) in PROGRAMS {
        archive.program(name, content.as_bytes())?;
    }
    archive.finish()?;
    fs::rename(&part, out).with_context(|| format!("writing {}", out.display()))
}

/// What every guest has: [`FOLDERS`], busybox, and the modules with what they need, whose order is
/// in the file `modules`.
pub(super) fn base(archive: &mut Archive, kernel: &Kernel, modules: &[&str]) -> Result<()> {
    let busybox = fs::read(BUSYBOX).with_context(|| format!("reading {BUSYBOX}"))?;
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    archive.program("bin/busybox", &busybox)?;
    let mut order = String::new();
    for module in &modules::collect(&kernel.root, &kernel.version, modules)? {
        archive.program(&format!("lib/modules/{}", module.file), &module.content)?;
        order.push_str(&module.file);
        order.push('\n');
    }
    archive.program("modules", order.as_bytes())
}
