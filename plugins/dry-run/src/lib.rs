//! A backend that simulates machines and images: files take the place of both, so that everything
//! above it can be used and tested without a hypervisor. No guest runs, and no process is started.

mod images;
mod machines;
mod settings;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;
use vman_plugin::{
    Backend, BackendConfig, BackendContext, BackendError, Capabilities, ErrorCode, ImageFormat,
    ImageInfo, ImageRef, ImageSpec, Machine, MachineSighting, MachineSpec, Manifest, Probe, Survey,
};

use crate::settings::Settings;
use crate::watch::Watch;

vman_plugin::export_backend!(DryRun);

/// The simulated backend. A running machine is a file, `machine.json`, in the machine's directory:
/// it outlives the daemon, whoever deletes it crashes the machine, and whoever changes its `state`
/// changes what the guest seems to do.
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
                ..Capabilities::default()
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
        let machines_dir = self.machines_dir.clone();
        blocking(move || machines::launch(&machines_dir, &spec)).await?;
        self.watch.look(id);
        Ok(machine(id))
    }

    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        let directory = self.directory(machine.id);
        let sighting = blocking(move || machines::sight(&directory, machine.id))
            .await?
            .ok_or_else(|| gone(machine.id))?;
        self.watch.look(machine.id);
        Ok(sighting)
    }

    async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        let directory = self.directory(id);
        // One that an earlier instance launched may not be watched yet.
        self.watch.look(id);
        let wait = (!self.settings.ignore_power_button)
            .then(|| Duration::from_millis(self.settings.shutdown_ms));
        let pressed = blocking(move || machines::press_power_button(&directory, wait)).await?;
        if !pressed {
            return Err(gone(id));
        }
        if let Some(wait) = wait {
            self.watch.look_after(id, wait);
        }
        Ok(())
    }

    async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        fault(self.settings.fail_quit.as_deref(), "quit")?;
        self.end(id).await
    }

    async fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        self.end(id).await
    }

    async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError> {
        fault(self.settings.fail_create_image.as_deref(), "create-image")?;
        blocking(move || images::create(&spec)).await
    }

    async fn inspect_image(&self, image: ImageRef) -> Result<ImageInfo, BackendError> {
        blocking(move || images::inspect(&image)).await
    }

    async fn delete_image(&self, image: ImageRef) -> Result<(), BackendError> {
        blocking(move || images::delete(&image)).await
    }

    async fn survey(&self) -> Result<Survey, BackendError> {
        fault(self.settings.fail_survey.as_deref(), "survey")?;
        let machines_dir = self.machines_dir.clone();
        blocking(move || machines::survey(&machines_dir)).await
    }
}

impl DryRun {
    fn directory(&self, id: Uuid) -> PathBuf {
        self.machines_dir.join(id.to_string())
    }

    async fn end(&self, id: Uuid) -> Result<(), BackendError> {
        let directory = self.directory(id);
        blocking(move || machines::end(&directory)).await?;
        self.watch.look(id);
        Ok(())
    }
}

fn machine(id: Uuid) -> Machine {
    Machine { id, process: None }
}

fn gone(id: Uuid) -> BackendError {
    BackendError::new(
        ErrorCode::NotFound,
        format!("the simulated machine {id} does not run: its machine.json is not there"),
    )
}

fn fault(reason: Option<&str>, verb: &str) -> Result<(), BackendError> {
    reason.map_or(Ok(()), |reason| {
        Err(BackendError::new(
            ErrorCode::Failed,
            format!("`{verb}` fails, as the dry-run settings ask: {reason}"),
        ))
    })
}

/// File work is kept off the threads that drive the verbs.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(payload) => std::panic::resume_unwind(payload),
        Err(error) => Err(BackendError::new(
            ErrorCode::Broken,
            format!("the instance is going away: {error}"),
        )),
    })
}
