//! The benchmark's view of vman: a VM and a disk as a client of the REST interface has them. Every
//! call waits for its operation, and fails unless the object is then as asked for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::console::Console;
use super::raw::Recipe;
use crate::demo::{Client, text};

/// A VM of the daemon.
pub(super) struct Vm<'c> {
    client: &'c Client,
    pub(super) id: String,
    folder: PathBuf,
}

impl<'c> Vm<'c> {
    pub(super) fn new(client: &'c Client, storage: &Path, template: &str) -> Result<Self> {
        let vm = client.post("/vms", &json!({"vm_template": template}))?.body;
        let id = text(&vm, "id")?.to_owned();
        let folder = storage.join("machines").join(&id);
        Ok(Self { client, id, folder })
    }

    pub(super) fn start(&self) -> Result<()> {
        self.act("start", "running")
    }

    pub(super) fn stop(&self) -> Result<()> {
        self.act("stop", "stopped")
    }

    pub(super) fn kill(&self) -> Result<()> {
        self.act("kill", "stopped")
    }

    pub(super) fn delete(self) -> Result<()> {
        self.client.delete(&self.path()).map(drop)
    }

    pub(super) fn is_running(&self) -> Result<bool> {
        Ok(self.client.get(&self.path())?["state"] == "running")
    }

    pub(super) fn pid(&self) -> Result<u64> {
        let vm = self.client.get(&self.path())?;
        vm["process"]["pid"].as_u64().with_context(|| format!("no process: {vm}"))
    }

    /// The console, from its begin at the next start.
    pub(super) fn new_console(&self) -> Console {
        let log = self.folder.join("console.log");
        // Not there before the first start.
        drop(std::fs::remove_file(&log));
        Console::new(&log)
    }

    /// How vman has started its machine, to be done by hand in `folder`.
    pub(super) fn recipe(&self, folder: &Path) -> Result<Recipe> {
        std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        Recipe::of_process(self.pid()?, &self.folder, folder)
    }

    fn path(&self) -> String {
        format!("/vms/{}", self.id)
    }

    fn act(&self, verb: &str, state: &str) -> Result<()> {
        let path = format!("{}/actions/{verb}", self.path());
        expect(state, &path, &self.client.post(&path, &json!({}))?.body)
    }
}

/// A disk of the daemon.
pub(super) struct Disk<'c> {
    client: &'c Client,
    id: String,
}

impl<'c> Disk<'c> {
    pub(super) fn new(client: &'c Client, gib: u64) -> Result<Self> {
        let disk = client.post("/disks", &json!({"size": gib}))?.body;
        Ok(Self { client, id: text(&disk, "id")?.to_owned() })
    }

    pub(super) fn attach(&self, vm: &Vm<'_>) -> Result<()> {
        self.act("attach", &json!({"vm_id": vm.id}), "attached")
    }

    pub(super) fn detach(&self) -> Result<()> {
        self.act("detach", &json!({}), "available")
    }

    fn act(&self, verb: &str, body: &Value, state: &str) -> Result<()> {
        let path = format!("/disks/{}/{verb}", self.id);
        expect(state, &path, &self.client.post(&path, body)?.body)
    }
}

fn expect(state: &str, path: &str, object: &Value) -> Result<()> {
    ensure!(object["state"] == state, "after POST {path} it is not {state}: {object}");
    Ok(())
}
