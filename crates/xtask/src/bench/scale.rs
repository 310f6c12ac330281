//! Many simulated machines at once: made, started, listed, crashed together and repaired, each with
//! what it took of time, processor and memory. The daemon's own part of it: no guest runs.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::until;
use super::usage::{Phase, Phases};
use crate::demo::{Client, text};

/// Requests under way at one time: as many as a handful of impatient users.
const CLIENTS: usize = 8;
/// Elements of a page, the most there may be.
const PAGE: usize = 1000;
/// How often the whole list is read, for the median of a page.
const READINGS: usize = 5;
/// The longest that a phase may take.
const WITHIN: Duration = Duration::from_secs(1800);
/// Asking more often would take from the daemon the processors that it is measured on.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What the settings of the daemon are besides those of every benchmark: more addresses than a
/// subnet of the usual size has.
pub(super) const CONFIG: &str = "
[network]
subnet = \"10.64.0.0/16\"
";

/// What a benchmark runs on.
pub(super) struct Bench<'a> {
    pub(super) client: &'a Client,
    /// The daemon's.
    pub(super) storage: &'a Path,
    pub(super) pid: i32,
    pub(super) machines: usize,
    pub(super) crashed: usize,
}

impl Bench<'_> {
    /// All phases.
    pub(super) fn run(&self) -> Result<Phases> {
        ensure!(self.crashed <= self.machines, "more machines cannot crash than there are");
        let mut phases = Phases::of(self.pid);
        fs::write(self.storage.join("boot/none.rom"), "simulated").context("a boot file")?;
        let template = json!({"name": "t", "cpu_count": 1, "ram_amount": 64,
            "boot": {"firmware": "none.rom"}});
        self.client.post("/templates", &template)?;
        let ids = phases.measure("create all", || self.create_all())?;
        phases.measure("start all, until all run", || self.start_all(&ids))?;
        phases.measure("list all, five times", || self.list_all())?;
        let pages = self.pages()?;
        phases.tell(Phase::of_times("one page of the list", &pages));
        phases.tell(Phase::of_times("one look at everything", &[self.looked()?]));
        phases.measure("nothing, for a look's interval", || self.look_again())?;
        phases.measure("crash some, until all run again", || self.crash(&ids))?;
        self.assert_repaired()?;
        Ok(phases)
    }

    fn create_all(&self) -> Result<Vec<String>> {
        let made = Mutex::new(Vec::new());
        self.side_by_side(vec![json!({"vm_template": "t"}); self.machines], |body| {
            let vm = self.client.post("/vms", &body)?.body;
            let id = text(&vm, "id")?.to_owned();
            made.lock().expect("no client panics").push(id);
            Ok(())
        })?;
        Ok(made.into_inner().expect("no client panics"))
    }

    fn start_all(&self, ids: &[String]) -> Result<()> {
        self.side_by_side(ids.to_vec(), |id| {
            let path = format!("/vms/{id}/actions/start");
            self.client.post(&path, &json!({})).map(drop)
        })?;
        self.until_all_run()
    }

    fn list_all(&self) -> Result<()> {
        for _ in 0..READINGS {
            let count = self.count("")?;
            ensure!(count == self.machines, "{count} VMs are listed of {}", self.machines);
        }
        Ok(())
    }

    /// How long each page of the whole list took.
    fn pages(&self) -> Result<Vec<Duration>> {
        let (mut after, mut times) = (String::new(), Vec::new());
        for _ in 0..=self.machines / PAGE {
            let begun = Instant::now();
            let page = self.client.get(&format!("/vms?limit={PAGE}{after}"))?;
            times.push(begun.elapsed());
            let Some(last) = page.as_array().and_then(|page| page.last()) else { break };
            after = format!("&after={}", text(last, "id")?);
        }
        Ok(times)
    }

    fn looked(&self) -> Result<Duration> {
        let took = self.client.get("/observer/status")?["duration_us"].as_u64();
        Ok(Duration::from_micros(took.context("a look's duration")?))
    }

    /// Two more looks, so that one began after now.
    fn look_again(&self) -> Result<()> {
        let looks = || -> Result<u64> {
            self.client.get("/observer/status")?["looks"].as_u64().context("a count of looks")
        };
        let now = looks()?;
        until(WITHIN, LOOK_EVERY, "two more looks", || Ok(looks()? >= now + 2))
    }

    fn crash(&self, ids: &[String]) -> Result<()> {
        let machines = self.storage.join("machines");
        for id in &ids[..self.crashed] {
            let file = machines.join(id).join("machine.json");
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
        until(WITHIN, LOOK_EVERY, "every machine", || {
            // From the one that is probably the last: most looks then end with the first.
            let mut crashed = ids[..self.crashed].iter().rev();
            Ok(crashed.all(|id| machines.join(id).join("machine.json").exists()))
        })?;
        self.until_all_run()?;
        until(WITHIN, LOOK_EVERY, "every issue's end", || {
            Ok(self.issues("open")? + self.issues("repairing")? == 0)
        })
    }

    fn assert_repaired(&self) -> Result<()> {
        let resolved = self.issues("resolved")?;
        ensure!(resolved == self.crashed, "{resolved} issues were resolved of {}", self.crashed);
        Ok(())
    }

    fn until_all_run(&self) -> Result<()> {
        until(WITHIN, LOOK_EVERY, "every start", || {
            Ok(self.count("&state=running")? == self.machines)
        })
    }

    fn issues(&self, state: &str) -> Result<usize> {
        self.count_of("/issues", &format!("&state={state}"))
    }

    fn count(&self, filter: &str) -> Result<usize> {
        self.count_of("/vms", filter)
    }

    /// Over all pages.
    fn count_of(&self, path: &str, filter: &str) -> Result<usize> {
        let (mut count, mut after) = (0, String::new());
        loop {
            let page = self.client.get(&format!("{path}?limit={PAGE}{filter}{after}"))?;
            let page: &Vec<Value> = page.as_array().context("a list")?;
            count += page.len();
            let Some(last) = page.last().filter(|_| page.len() == PAGE) else { return Ok(count) };
            after = format!("&after={}", text(last, "id")?);
        }
    }

    /// Does it with each, some at a time; the first error ends it.
    fn side_by_side<T: Send>(
        &self,
        all: Vec<T>,
        work: impl Fn(T) -> Result<()> + Sync,
    ) -> Result<()> {
        let waiting = Mutex::new(VecDeque::from(all));
        let next = || waiting.lock().expect("no client panics").pop_front();
        std::thread::scope(|scope| {
            let worker = || -> Result<()> {
                while let Some(one) = next() {
                    work(one)?;
                }
                Ok(())
            };
            let workers: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(worker)).collect();
            let mut ends = workers.into_iter().map(|worker| worker.join().expect("no panics"));
            ends.try_for_each(|end| end)
        })
    }
}
