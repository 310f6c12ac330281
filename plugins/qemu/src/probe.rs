//! Whether this host can run machines: the programs are run and asked, and KVM is made to run a
//! little guest.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use vman_plugin::{Probe, deadline};

use crate::accelerator::Accelerator;
use crate::confine::KVM;
use crate::kvm_probe;
use crate::program::{self, Output, QEMU, QEMU_IMG};
use crate::settings::Settings;

/// The oldest QEMU this crate is tried with.
const OLDEST: (u32, u32) = (7, 2);

/// For one answer of a program, such as its `--version`; usually 30 ms.
const DEADLINE: Duration = Duration::from_secs(9);
/// Answers asked for in one probe.
const ANSWERS: u64 = 3;

// The host would otherwise end the probe before it can say which program hangs.
const _: () = assert!(ANSWERS * DEADLINE.as_secs() < deadline::PROBE.as_secs());

pub(crate) async fn probe(accelerator: Accelerator, settings: &Settings) -> Probe {
    let (hypervisor, missing) = match programs(accelerator, settings).await {
        Ok(version) => (Some(version), None),
        Err(why) => (None, Some(why)),
    };
    let host = match accelerator {
        Accelerator::Tcg => Ok("emulation needs nothing of the host"),
        Accelerator::Kvm => kvm().await.map(|()| "KVM ran a test guest to its end"),
    };
    let (usable, reason) = match (missing, host) {
        (Some(why), _) => (false, why),
        (None, Err(why)) => (false, why),
        (None, Ok(why)) => (true, why.to_owned()),
    };
    Probe { usable, reason, hypervisor, notes: vec![] }
}

/// QEMU's version, if both programs run, are not too old, and have the accelerator built in.
async fn programs(accelerator: Accelerator, settings: &Settings) -> Result<String, String> {
    let qemu = program::find(QEMU, settings.binary.as_deref())?;
    let qemu_img = program::find(QEMU_IMG, settings.qemu_img.as_deref())?;
    let (version, _) = (recent(&qemu).await?, recent(&qemu_img).await?);
    let built_in = ask(&qemu, &["-accel", "help"]).await?;
    let name = accelerator.name();
    if built_in.lines().any(|line| line.trim() == name) {
        Ok(version)
    } else {
        Err(format!(
            "{} was built without {name} (it has: {}): install Debian's qemu-system-x86, or name \
             another QEMU by the setting `binary`",
            qemu.display(),
            built_in.lines().skip(1).collect::<Vec<_>>().join(", ")
        ))
    }
}

async fn recent(program: &Path) -> Result<String, String> {
    let told = ask(program, &["--version"]).await?;
    let (version, numbers) = version(&told).ok_or_else(|| {
        format!("{} tells no version: {:?}", program.display(), told.lines().next())
    })?;
    if numbers < OLDEST {
        let (major, minor) = OLDEST;
        return Err(format!(
            "{} is version {version}, older than {major}.{minor}: install a newer one",
            program.display()
        ));
    }
    Ok(version)
}

async fn ask(program: &Path, args: &[&str]) -> Result<String, String> {
    let Output { success, stdout, stderr } =
        program::run(program, args, DEADLINE).await.map_err(program::Failure::message)?;
    if success {
        Ok(stdout)
    } else {
        Err(format!("{} {}: {stderr}", program.display(), args.join(" ")))
    }
}

/// From `QEMU emulator version 7.2.22 (Debian ...)` or `qemu-img version 10.0.2`.
fn version(told: &str) -> Option<(String, (u32, u32))> {
    let (_, rest) = told.split_once("version ")?;
    let version = rest.split_whitespace().next()?;
    let mut numbers = version.split('.').map(str::parse);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((version.to_owned(), (major, minor)))
}

async fn kvm() -> Result<(), String> {
    OpenOptions::new().read(true).write(true).open(KVM).map_err(|error| {
        format!(
            "{KVM} cannot be opened ({error}): load the module kvm_intel or kvm_amd, and add this \
             user to the group kvm"
        )
    })?;
    let tried = tokio::task::spawn_blocking(kvm_probe::runs_guests).await;
    tried.map_err(|error| format!("trying KVM broke off: {error}"))?.map_err(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_the_programs_of_several_releases_say() {
        for (told, numbers) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright", (7, 2)),
            ("QEMU emulator version 10.0.13", (10, 0)),
            ("qemu-img version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)", (8, 2)),
            ("QEMU emulator version 9.1.50 (v9.1.0-1-gabc)", (9, 1)),
        ] {
            assert_eq!(version(told).map(|(_, numbers)| numbers), Some(numbers), "{told}");
        }
        assert_eq!(version("QEMU"), None);
        assert_eq!(version("version x.y"), None);
    }
}
