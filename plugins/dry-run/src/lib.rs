//! A backend that simulates machines and images: files take the place of both, so that everything
//! above it can be used and tested without a hypervisor. No guest runs, and no process is started.

mod cache;
mod clock;
mod content;
mod disks;
mod draw;
mod faults;
mod files;
mod images;
mod machines;
mod plan;
mod settings;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::block_in_place;
use uuid::Uuid;
use vman_plugin::{
    Backend, BackendConfig, BackendContext, BackendError, Bus, Capabilities, DiskAttachment,
    DiskGrowth, DiskRemoval, ErrorCode, ImageFormat, ImageGrowth, ImageInfo, ImageRef, ImageSpec,
    Machine, MachineSighting, MachineSpec, Manifest, Probe, Survey, Unplug,
};

use crate::clock::Clock;
use crate::draw::Span;
use crate::machines::Machines;
use crate::settings::Settings;
use crate::watch::Watch;

/// How long `detach_disk` waits for the guest.
const UNPLUG_WAIT: Duration = Duration::from_millis(100);

vman_plugin::export_backend!(DryRun);

/// The simulated backend. A running machine is a file, `machine.json`, in the machine's directory:
/// it outlives the daemon, whoever deletes it crashes the machine, and whoever changes its `state`
/// changes what the guest seems to do. It also tells the machine's `disks`, and how often it was
/// started and reset. Why it ended is told by `machine.end` beside it, e.g.
/// `{"cause": "out-of-memory", "detail": "for people"}`, if that was written before. What is to go
/// wrong with it by itself is drawn from the settings when it is launched, and stands in its file.
///
/// Work on files is done in place, so that a verb which is dropped leaves none running on.
#[derive(Debug)]
pub struct DryRun {
    machines: Arc<Machines>,
    settings: Settings,
    watch: Watch,
    /// When the instance was made, on its clock.
    begun: u64,
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
        let clock = Clock::start(settings.clock, &config.machines_dir);
        let begun = clock.now_ms();
        let machines = Arc::new(Machines::new(config.machines_dir, clock));
        Ok(Self { watch: Watch::start(Arc::clone(&machines), context), machines, settings, begun })
    }

    async fn probe(&self) -> Result<Probe, BackendError> {
        fault(self.settings.fail_probe.as_deref(), "probe")?;
        let now = self.machines.clock().now_ms();
        fault(faults::fails_probe(&self.settings.faults, self.begun, now), "probe")?;
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
        self.takes(self.settings.launch_ms, id, "launch").await;
        fault(self.settings.fail_launch.as_deref(), "launch")?;
        let plan =
            |starts, now| faults::plan(&self.settings.faults, self.settings.draw(id, starts), now);
        block_in_place(|| {
            self.machines.launch(&spec, plan)?;
            self.watch.look(id);
            Ok(machine(id))
        })
    }

    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        block_in_place(|| {
            let sighting = self.machines.sight(machine.id)?;
            let sighting = sighting.ok_or_else(|| machines::gone(machine.id))?;
            self.watch.look(machine.id);
            Ok(sighting)
        })
    }

    async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        let wait_ms = (!self.settings.ignore_power_button).then(|| {
            let draw = self.settings.draw(id, self.machines.next_start(id));
            self.settings.shutdown_ms.draw(draw, "shutdown")
        });
        // Not looked at after that: a guest that is off at once is found by the look at that time.
        let off_at = block_in_place(|| {
            self.watch.look(id);
            self.machines.press_power_button(id, wait_ms)
        })?;
        if let Some(off_at) = off_at {
            self.watch.look_at(id, off_at);
        }
        Ok(())
    }

    async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        fault(self.settings.fail_quit.as_deref(), "quit")?;
        self.takes(self.settings.quit_ms, id, "quit").await;
        self.change(id, |machines| machines.quit(id))
    }

    async fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        self.change(id, |machines| machines.kill(id))
    }

    async fn sight(&self, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
        block_in_place(|| self.machines.sight(id))
    }

    async fn pause(&self, id: Uuid) -> Result<(), BackendError> {
        fault(self.settings.fail_pause.as_deref(), "pause")?;
        self.change(id, |machines| machines.pause(id))
    }

    async fn resume(&self, id: Uuid) -> Result<(), BackendError> {
        fault(self.settings.fail_resume.as_deref(), "resume")?;
        self.change(id, |machines| machines.resume(id))
    }

    async fn reset(&self, id: Uuid) -> Result<(), BackendError> {
        fault(self.settings.fail_reset.as_deref(), "reset")?;
        self.change(id, |machines| machines.reset(id))
    }

    async fn attach_disk(&self, attachment: DiskAttachment) -> Result<(), BackendError> {
        fault(self.settings.fail_attach.as_deref(), "attach-disk")?;
        self.change(attachment.id, |machines| disks::attach(machines, &attachment))
    }

    async fn detach_disk(&self, removal: DiskRemoval) -> Result<Unplug, BackendError> {
        fault(self.settings.fail_detach.as_deref(), "detach-disk")?;
        let id = removal.id;
        let guest = self.settings.guest(id, removal.disk);
        let asked = self.change(id, |machines| disks::ask_for(machines, &removal, guest))?;
        let Some(asked) = asked else {
            return Ok(Unplug::Done);
        };
        let leaves_at = asked.leaves_at();
        let left = async {
            match leaves_at {
                Some(at) => self.machines.clock().until(at).await,
                None => std::future::pending().await,
            }
        };
        // It is looked at whether it has left or not.
        let _ = tokio::time::timeout(UNPLUG_WAIT, left).await;
        let unplug = self.change(id, |machines| disks::unplug(machines, &removal))?;
        if let (Unplug::Waiting, Some(at)) = (unplug, leaves_at) {
            self.watch.look_at(id, at);
        }
        Ok(unplug)
    }

    async fn resize_disk(&self, growth: DiskGrowth) -> Result<(), BackendError> {
        fault(self.settings.fail_resize.as_deref(), "resize-disk")?;
        block_in_place(|| disks::grow(&self.machines, &growth))
    }

    async fn resize_image(&self, growth: ImageGrowth) -> Result<(), BackendError> {
        fault(self.settings.fail_resize.as_deref(), "resize-image")?;
        block_in_place(|| self.machines.grow_unused(&growth.path, || images::grow(&growth)))
    }

    async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError> {
        fault(self.settings.fail_create_image.as_deref(), "create-image")?;
        let what = spec.path.file_name().unwrap_or_default().to_string_lossy();
        self.takes(self.settings.image_ms, Uuid::nil(), &what).await;
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
            let machines = self.machines.survey()?;
            let ended = self.watch.ended(&machines);
            Ok(Survey { machines, ended })
        })
    }
}

impl DryRun {
    /// Lets as much time pass as is drawn for what is done to the machine.
    async fn takes(&self, span: Span, id: Uuid, what: &str) {
        if span.most > 0 {
            let draw = self.settings.draw(id, self.machines.next_start(id));
            self.machines.clock().pass(span.draw(draw, what)).await;
        }
    }

    /// Does something to the machine, and tells what that changes.
    fn change<T>(
        &self,
        id: Uuid,
        how: impl FnOnce(&Machines) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        block_in_place(|| {
            // One that an earlier instance launched may not be watched yet.
            self.watch.look(id);
            let done = how(&self.machines);
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
