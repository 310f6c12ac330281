//! A backend that simulates machines and images: files take the place of both, so that everything
//! above it can be used and tested without a hypervisor. No guest runs, and no process is started.

mod disks;
mod files;
mod images;
mod machines;
mod settings;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::block_in_place;
use uuid::Uuid;
use vman_plugin::{
    Backend, BackendConfig, BackendContext, BackendError, Bus, Capabilities, DiskAttachment,
    DiskGrowth, DiskRemoval, ErrorCode, ImageFormat, ImageGrowth, ImageInfo, ImageRef, ImageSpec,
    Machine, MachineSighting, MachineSpec, Manifest, Probe, Survey, Unplug,
};

use crate::settings::Settings;
use crate::watch::{CLOCK_SLACK, Watch};

/// How long `detach_disk` waits for the guest.
const UNPLUG_WAIT: Duration = Duration::from_millis(100);

vman_plugin::export_backend!(DryRun);

/// The simulated backend. A running machine is a file, `machine.json`, in the machine's directory:
/// it outlives the daemon, whoever deletes it crashes the machine, and whoever changes its `state`
/// changes what the guest seems to do. It also tells the machine's `disks`, and how often it was
/// started and reset. Why it ended is told by `machine.end` beside it, e.g.
/// `{"cause": "out-of-memory", "detail": "for people"}`, if that was written before.
///
/// Work on files is done in place, so that a verb which is dropped leaves none running on.
#[derive(Debug)]
pub struct DryRun {
    machines_dir: PathBuf,
    settings: Settings,
    watch: Watch,
}

#[async_trait]
impl Backend for DryRun {
    fn manifest() -> Manifest {
        Manifest {
            name: "dry-run".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Simulates machines and images; no guest runs.".to_owned(),
            capabilities: Capabilities {
                processes: false,
                power_button: true,
                image_formats: vec![ImageFormat::Qcow2, ImageFormat::Raw],
                pause: true,
                reset: true,
                hot_plug: vec![Bus::VirtioScsi, Bus::VirtioBlk],
                resize: true,
            },
            sdk: String::new(),
        }
    }

    fn create(config: BackendConfig, context: BackendContext) -> Result<Self, BackendError> {
        let settings = Settings::parse(config.settings)?;
        Ok(Self {
            watch: Watch::start(config.machines_dir.clone(), context),
            machines_dir: config.machines_dir,
            settings,
        })
    }

    async fn probe(&self) -> Result<Probe, BackendError> {
        fault(self.settings.fail_probe.as_deref(), "probe")?;
        Ok(match &self.settings.unusable {
            Some(reason) => {
                Probe { usable: false, reason: reason.clone(), hypervisor: None, notes: vec![] }
            }
            None => Probe {
                usable: true,
                reason: "machines are only simulated, which works everywhere".to_owned(),
                hypervisor: None,
                notes: vec![],
            },
        })
    }

    async fn launch(&self, spec: MachineSpec) -> Result<Machine, BackendError> {
        let id = spec.id;
        if self.settings.hang_launch {
            std::future::pending::<()>().await;
        }
        assert!(!self.settings.panic_launch, "the setting `panic_launch` is on");
        tokio::time::sleep(Duration::from_millis(self.settings.launch_ms)).await;
        fault(self.settings.fail_launch.as_deref(), "launch")?;
        block_in_place(|| machines::launch(&self.machines_dir, &spec))?;
        self.watch.look(id);
        Ok(machine(id))
    }

    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        let directory = self.directory(machine.id);
        let sighting = block_in_place(|| machines::sight(&directory, machine.id))?
            .ok_or_else(|| machines::gone(machine.id))?;
        self.watch.look(machine.id);
        Ok(sighting)
    }

    async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        let directory = self.directory(id);
        // One that an earlier instance launched may not be watched yet.
        self.watch.look(id);
        let wait = (!self.settings.ignore_power_button)
            .then(|| Duration::from_millis(self.settings.shutdown_ms));
        block_in_place(|| machines::press_power_button(&directory, id, wait))?;
        if let Some(wait) = wait {
            self.watch.look_after(id, wait);
        }
        Ok(())
    }

    async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        fault(self.settings.fail_quit.as_deref(), "quit")?;
        self.change(id, machines::end)
    }

    async fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        self.change(id, machines::end)
    }

    async fn sight(&self, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
        let directory = self.directory(id);
        block_in_place(|| machines::sight(&directory, id))
    }

    async fn pause(&self, id: Uuid) -> Result<(), BackendError> {
        fault(self.settings.fail_pause.as_deref(), "pause")?;
        self.change(id, |directory| machines::pause(directory, id))
    }

    async fn resume(&self, id: Uuid) -> Result<(), BackendError> {
        fault(self.settings.fail_resume.as_deref(), "resume")?;
        self.change(id, |directory| machines::resume(directory, id))
    }

    async fn reset(&self, id: Uuid) -> Result<(), BackendError> {
        fault(self.settings.fail_reset.as_deref(), "reset")?;
        self.change(id, |directory| machines::reset(directory, id))
    }

    async fn attach_disk(&self, attachment: DiskAttachment) -> Result<(), BackendError> {
        fault(self.settings.fail_attach.as_deref(), "attach-disk")?;
        let attach = |directory: &Path| disks::attach(&self.machines_dir, directory, &attachment);
        self.change(attachment.id, attach)
    }

    async fn detach_disk(&self, removal: DiskRemoval) -> Result<Unplug, BackendError> {
        fault(self.settings.fail_detach.as_deref(), "detach-disk")?;
        let id = removal.id;
        let guest = self.settings.guest();
        let asked = self.change(id, |directory| disks::ask_for(directory, &removal, guest))?;
        let Some(asked) = asked else {
            return Ok(Unplug::Done);
        };
        let left = asked.left().map(|left| left + CLOCK_SLACK);
        tokio::time::sleep(left.unwrap_or(UNPLUG_WAIT).min(UNPLUG_WAIT)).await;
        let unplug = self.change(id, |directory| disks::unplug(directory, &removal))?;
        if let (Unplug::Waiting, Some(left)) = (unplug, asked.left()) {
            self.watch.look_after(id, left);
        }
        Ok(unplug)
    }

    async fn resize_disk(&self, growth: DiskGrowth) -> Result<(), BackendError> {
        fault(self.settings.fail_resize.as_deref(), "resize-disk")?;
        let directory = self.directory(growth.id);
        block_in_place(|| disks::grow(&directory, &growth))
    }

    async fn resize_image(&self, growth: ImageGrowth) -> Result<(), BackendError> {
        fault(self.settings.fail_resize.as_deref(), "resize-image")?;
        block_in_place(|| disks::grow_image(&self.machines_dir, &growth))
    }

    async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError> {
        fault(self.settings.fail_create_image.as_deref(), "create-image")?;
        block_in_place(|| images::create(&spec))
    }

    async fn inspect_image(&self, image: ImageRef) -> Result<ImageInfo, BackendError> {
        block_in_place(|| images::inspect(&image))
    }

    async fn delete_image(&self, image: ImageRef) -> Result<(), BackendError> {
        block_in_place(|| images::delete(&image))
    }

    async fn survey(&self) -> Result<Survey, BackendError> {
        fault(self.settings.fail_survey.as_deref(), "survey")?;
        block_in_place(|| {
            let machines = machines::survey(&self.machines_dir)?;
            let ended = self.watch.ended(&machines);
            Ok(Survey { machines, ended })
        })
    }
}

impl DryRun {
    fn directory(&self, id: Uuid) -> PathBuf {
        self.machines_dir.join(id.to_string())
    }

    /// Does something to the machine in its directory, and tells what that changes.
    fn change<T>(
        &self,
        id: Uuid,
        how: impl FnOnce(&Path) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        block_in_place(|| {
            // One that an earlier instance launched may not be watched yet.
            self.watch.look(id);
            let done = how(&self.directory(id));
            self.watch.look(id);
            done
        })
    }
}

fn machine(id: Uuid) -> Machine {
    Machine { id, process: None }
}

fn fault(reason: Option<&str>, verb: &str) -> Result<(), BackendError> {
    reason.map_or(Ok(()), |reason| {
        Err(BackendError::new(
            ErrorCode::Failed,
            format!("`{verb}` fails, as the dry-run settings ask: {reason}"),
        ))
    })
}
