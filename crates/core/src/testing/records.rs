//! The records in memory: the same promises as a store on disk, kept by a lock and a copy.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use async_trait::async_trait;
use uuid::Uuid;

use super::lock;
use crate::coherence::Recorded;
use crate::disk::{Disk, DiskState, MountPoint};
use crate::ident::{
    DiskId, Generation, IdempotencyKey, IssueId, Name, OperationId, Timestamp, VmId,
};
use crate::operation::{Operation, Reason, Step, Subject};
use crate::ports::{Change, JudgementRecord, KeptRequest, Page, Recall, Record, RecordError};
use crate::repair::{Attempt, Issue, IssueState};
use crate::template::Template;
use crate::vm::{Vm, VmState};

/// Records that last as long as this value.
#[derive(Debug, Default)]
pub struct MemoryRecords {
    tables: Mutex<Tables>,
    refusal: Mutex<Option<RecordError>>,
    /// Why the device does not take what was committed, if it does not.
    unwritten: Mutex<Option<RecordError>>,
}

/// Each in the order of creation, templates in the order of their names.
#[derive(Debug, Clone, Default)]
struct Tables {
    templates: Vec<Template>,
    vms: Vec<Vm>,
    disks: Vec<Disk>,
    operations: Vec<Operation>,
    issues: Vec<Issue>,
    judgements: Vec<JudgementRecord>,
    requests: Vec<KeptRequest>,
    host_boot: Option<Uuid>,
}

impl MemoryRecords {
    /// The next commit changes nothing and fails with `error`.
    pub fn refuse_next_commit(&self, error: RecordError) {
        *lock(&self.refusal) = Some(error);
    }

    /// From now on nothing that is committed outlives a loss of power, because of `error`.
    pub fn refuse_to_sync(&self, error: RecordError) {
        *lock(&self.unwritten) = Some(error);
    }

    fn read<T>(&self, read: impl FnOnce(&Tables) -> T) -> Result<T, RecordError> {
        Ok(read(&lock(&self.tables)))
    }
}

/// Up to `page.limit` of `all` after the one `is_after` finds.
fn page_of<T: Clone, K>(
    all: impl Iterator<Item = T>,
    page: &Page<K>,
    is_after: impl Fn(&T, &K) -> bool,
    wanted: impl Fn(&T) -> bool,
    noun: impl Fn(&K) -> String,
) -> Result<Vec<T>, RecordError> {
    let mut rest = all;
    if let Some(after) = &page.after
        && !rest.any(|item| is_after(&item, after))
    {
        return Err(RecordError::NotFound(noun(after)));
    }
    Ok(rest.filter(wanted).take(page.limit as usize).collect())
}

#[async_trait]
impl Recall for MemoryRecords {
    async fn template(&self, name: &Name) -> Result<Option<Template>, RecordError> {
        self.read(|tables| tables.templates.iter().find(|one| one.name == *name).cloned())
    }

    async fn templates(&self, page: Page<Name>) -> Result<Vec<Template>, RecordError> {
        let tables = lock(&self.tables);
        // A template may go while its list is read: names have an order of their own.
        let after = |one: &&Template| page.after.as_ref().is_none_or(|after| one.name > *after);
        Ok(tables.templates.iter().filter(after).take(page.limit as usize).cloned().collect())
    }

    async fn vm(&self, id: VmId) -> Result<Option<Vm>, RecordError> {
        self.read(|tables| tables.vms.iter().find(|one| one.id == id).cloned())
    }

    async fn vms(&self, state: Option<&str>, page: Page<VmId>) -> Result<Vec<Vm>, RecordError> {
        let all = lock(&self.tables).vms.clone().into_iter();
        let wanted = |one: &Vm| state.is_none_or(|state| one.state.word() == state);
        page_of(all, &page, |one, after| one.id == *after, wanted, |id| format!("VM {id}"))
    }

    async fn disk(&self, id: DiskId) -> Result<Option<Disk>, RecordError> {
        self.read(|tables| tables.disks.iter().find(|one| one.id == id).cloned())
    }

    async fn disks(&self, page: Page<DiskId>) -> Result<Vec<Disk>, RecordError> {
        let all = lock(&self.tables).disks.clone().into_iter();
        page_of(all, &page, |one, after| one.id == *after, |_| true, |id| format!("disk {id}"))
    }

    async fn disks_of(&self, vm: VmId) -> Result<Vec<Disk>, RecordError> {
        self.read(|tables| {
            let held = tables.disks.iter().filter(|disk| disk.vm == Some(vm));
            let mut held: Vec<Disk> = held.cloned().collect();
            held.sort_by(|one, other| one.mount_point.cmp(&other.mount_point));
            held
        })
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, RecordError> {
        self.read(|tables| tables.operations.iter().find(|one| one.id == id).cloned())
    }

    async fn operations(&self, page: Page<OperationId>) -> Result<Vec<Operation>, RecordError> {
        let all = lock(&self.tables).operations.clone().into_iter().rev();
        let noun = |id: &OperationId| format!("operation {id}");
        page_of(all, &page, |one, after| one.id == *after, |_| true, noun)
    }

    async fn unended(&self, subject: Option<&Subject>) -> Result<Vec<Operation>, RecordError> {
        self.read(|tables| {
            let unended = tables.operations.iter().filter(|one| !one.state.is_ended());
            unended
                .filter(|one| subject.is_none_or(|subject| one.subject == *subject))
                .cloned()
                .collect()
        })
    }

    async fn in_turn(&self, turn: &Subject) -> Result<Vec<Operation>, RecordError> {
        let unended = self.unended(None).await?;
        Ok(unended.into_iter().filter(|one| one.turn() == *turn).collect())
    }

    async fn request(&self, key: &IdempotencyKey) -> Result<Option<KeptRequest>, RecordError> {
        self.read(|tables| tables.requests.iter().find(|one| one.key == *key).cloned())
    }

    async fn host_boot(&self) -> Result<Option<Uuid>, RecordError> {
        self.read(|tables| tables.host_boot)
    }

    async fn issue(&self, id: IssueId) -> Result<Option<Issue>, RecordError> {
        self.read(|tables| tables.issues.iter().find(|one| one.id == id).cloned())
    }

    async fn issues(
        &self,
        state: Option<&str>,
        page: Page<IssueId>,
    ) -> Result<Vec<Issue>, RecordError> {
        let all = lock(&self.tables).issues.clone().into_iter().rev();
        let wanted = |one: &Issue| state.is_none_or(|state| one.state.word() == state);
        page_of(all, &page, |one, after| one.id == *after, wanted, |id| format!("issue {id}"))
    }

    async fn unresolved(&self) -> Result<Vec<Issue>, RecordError> {
        self.read(|tables| {
            let resolved = |one: &&Issue| matches!(one.state, IssueState::Resolved { .. });
            tables.issues.iter().filter(|one| !resolved(one)).cloned().collect()
        })
    }

    async fn judgements(&self, issue: IssueId) -> Result<Vec<JudgementRecord>, RecordError> {
        self.read(|tables| {
            tables.judgements.iter().filter(|one| one.issue == issue).cloned().collect()
        })
    }

    async fn attempts(
        &self,
        fingerprint: &str,
        since: Timestamp,
    ) -> Result<Vec<Attempt>, RecordError> {
        self.read(|tables| {
            let has_print = |id: IssueId| {
                tables.issues.iter().any(|i| i.id == id && i.fingerprint == fingerprint)
            };
            let repairs = tables.operations.iter().filter(|one| one.created_at >= since);
            repairs
                .filter(|one| one.state.is_ended() && repaired(one).is_some_and(has_print))
                .map(attempt)
                .collect()
        })
    }

    async fn repairs(&self, subject: &Subject, since: Timestamp) -> Result<u32, RecordError> {
        self.read(|tables| {
            let repairs = tables.operations.iter().filter(|one| repaired(one).is_some());
            let recent = repairs.filter(|one| one.subject == *subject && one.created_at >= since);
            u32::try_from(recent.count()).unwrap_or(u32::MAX)
        })
    }

    async fn repairs_of(&self, issue: IssueId) -> Result<Vec<OperationId>, RecordError> {
        self.read(|tables| {
            let repairs = tables.operations.iter().filter(|one| repaired(one) == Some(issue));
            repairs.map(|one| one.id).collect()
        })
    }

    async fn leases(&self) -> Result<BTreeSet<Ipv4Addr>, RecordError> {
        self.read(|tables| tables.vms.iter().map(|vm| vm.lease.address).collect())
    }

    async fn recorded(&self) -> Result<Recorded, RecordError> {
        self.read(|tables| Recorded {
            vms: tables.vms.iter().map(|vm| (vm.id, vm.clone())).collect(),
            disks: tables.disks.iter().map(|disk| (disk.id, disk.clone())).collect(),
        })
    }
}

fn repaired(operation: &Operation) -> Option<IssueId> {
    match &operation.reason {
        Reason::Repair { issue, .. } => Some(*issue),
        Reason::User | Reason::Guest | Reason::Boot => None,
    }
}

fn attempt(operation: &Operation) -> Attempt {
    let error = operation.state.error().map(str::to_owned);
    Attempt::new(operation.verb, operation.created_at, error)
}

#[async_trait]
impl Record for MemoryRecords {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), RecordError> {
        if let Some(refusal) = lock(&self.refusal).take() {
            return Err(refusal);
        }
        let mut tables = lock(&self.tables);
        let mut changed = tables.clone();
        for change in changes {
            changed.apply(change)?;
        }
        *tables = changed;
        Ok(())
    }

    async fn sync(&self) -> Result<(), RecordError> {
        lock(&self.unwritten).clone().map_or(Ok(()), Err)
    }
}

impl Tables {
    fn apply(&mut self, change: Change) -> Result<(), RecordError> {
        match change {
            Change::AddTemplate(template) => self.add_template(template),
            Change::RemoveTemplate(name) => self.remove_template(&name),
            Change::AddVm(vm) => self.add_vm(vm),
            Change::RemoveVm(vm, at) => self.remove_vm(vm, at),
            Change::VmState { vm, expected, state, at } => {
                self.set_vm_state(vm, expected, state, at)
            }
            Change::VmMachine { vm, machine } => {
                self.vm_mut(vm)?.machine = machine;
                Ok(())
            }
            Change::VmAutostart { vm, autostart, at } => {
                let record = self.vm_mut(vm)?;
                (record.autostart, record.updated_at) = (autostart, at);
                Ok(())
            }
            Change::AddDisk(disk) => self.add_disk(disk),
            Change::RemoveDisk(disk) => {
                self.disk_mut(disk)?;
                self.disks.retain(|one| one.id != disk);
                Ok(())
            }
            Change::DiskState { disk, expected, state, vm, mount_point, at } => {
                let holding = Holding { state, vm, mount_point };
                self.set_disk_state(disk, expected, holding, at)
            }
            Change::DiskSize { disk, size_gib } => {
                self.disk_mut(disk)?.size_gib = size_gib;
                Ok(())
            }
            Change::ExpectVm { vm, expected } => {
                let record = self.vm_mut(vm)?;
                fresh(record.generation, expected, || format!("VM {vm}"))
            }
            Change::AddOperation(operation) => self.add_operation(operation),
            Change::RequestCancel(operation) => self.request_cancel(operation),
            Change::OperationState { operation, state, at } => {
                let record = self.operation_mut(operation)?;
                record.ended_at = state.is_ended().then_some(at);
                record.state = state;
                Ok(())
            }
            Change::OperationStep { operation, index, step } => {
                self.set_step(operation, index, step)
            }
            Change::PutIssue(issue) => {
                self.put_issue(*issue);
                Ok(())
            }
            Change::AddJudgement(judgement) => {
                self.know_issue(judgement.issue)?;
                self.judgements.push(*judgement);
                Ok(())
            }
            Change::KeepRequest(request) => self.keep_request(request),
            Change::HostBoot(boot) => {
                self.host_boot = Some(boot);
                Ok(())
            }
        }
    }

    fn request_cancel(&mut self, operation: OperationId) -> Result<(), RecordError> {
        let record = self.operation_mut(operation)?;
        if record.state.is_ended() {
            return Err(RecordError::Stale(format!("operation {operation}")));
        }
        record.cancel_requested = true;
        Ok(())
    }

    fn put_issue(&mut self, issue: Issue) {
        match self.issues.iter_mut().find(|one| one.id == issue.id) {
            Some(record) => *record = issue,
            None => self.issues.push(issue),
        }
    }

    fn keep_request(&mut self, request: KeptRequest) -> Result<(), RecordError> {
        if self.requests.iter().any(|one| one.key == request.key) {
            return Err(RecordError::Exists(format!("a request {}", request.key)));
        }
        self.requests.push(request);
        Ok(())
    }

    fn add_template(&mut self, template: Template) -> Result<(), RecordError> {
        if self.templates.iter().any(|one| one.name == template.name) {
            return Err(RecordError::Exists(format!("template {}", template.name)));
        }
        self.templates.push(template);
        self.templates.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(())
    }

    fn remove_template(&mut self, name: &Name) -> Result<(), RecordError> {
        if let Some(vm) = self.vms.iter().find(|vm| vm.template == *name) {
            let text = format!("template {name} is used by VM {}; delete that VM first", vm.id);
            return Err(RecordError::InUse(text));
        }
        let before = self.templates.len();
        self.templates.retain(|one| one.name != *name);
        if self.templates.len() == before {
            return Err(RecordError::NotFound(format!("template {name}")));
        }
        Ok(())
    }

    fn add_vm(&mut self, vm: Vm) -> Result<(), RecordError> {
        if !self.templates.iter().any(|one| one.name == vm.template) {
            return Err(RecordError::NotFound(format!("template {}", vm.template)));
        }
        if self.vms.iter().any(|one| one.id == vm.id) {
            return Err(RecordError::Exists(format!("VM {}", vm.id)));
        }
        if let Some(owner) = self.vms.iter().find(|one| one.lease.address == vm.lease.address) {
            let text = format!("a VM with the address {} ({})", vm.lease.address, owner.id);
            return Err(RecordError::Exists(text));
        }
        self.vms.push(vm);
        Ok(())
    }

    fn remove_vm(&mut self, vm: VmId, at: Timestamp) -> Result<(), RecordError> {
        self.vm_mut(vm)?;
        for disk in self.disks.iter_mut().filter(|disk| disk.vm == Some(vm)) {
            disk.vm = None;
            disk.state = let_go(&disk.state);
            disk.generation = disk.generation.next();
            disk.updated_at = at;
        }
        self.vms.retain(|one| one.id != vm);
        Ok(())
    }

    fn set_vm_state(
        &mut self,
        vm: VmId,
        expected: Generation,
        state: VmState,
        at: Timestamp,
    ) -> Result<(), RecordError> {
        let record = self.vm_mut(vm)?;
        fresh(record.generation, expected, || format!("VM {vm}"))?;
        record.state = state;
        record.generation = record.generation.next();
        record.updated_at = at;
        Ok(())
    }

    fn add_disk(&mut self, disk: Disk) -> Result<(), RecordError> {
        if self.disks.iter().any(|one| one.id == disk.id) {
            return Err(RecordError::Exists(format!("disk {}", disk.id)));
        }
        self.check_place(disk.id, disk.vm, disk.mount_point.as_ref())?;
        self.disks.push(disk);
        Ok(())
    }

    fn set_disk_state(
        &mut self,
        disk: DiskId,
        expected: Generation,
        holding: Holding,
        at: Timestamp,
    ) -> Result<(), RecordError> {
        let record = self.disk_mut(disk)?;
        fresh(record.generation, expected, || format!("disk {disk}"))?;
        self.check_place(disk, holding.vm, holding.mount_point.as_ref())?;
        let record = self.disk_mut(disk)?;
        record.state = holding.state;
        record.vm = holding.vm;
        record.mount_point = holding.mount_point;
        record.generation = record.generation.next();
        record.updated_at = at;
        Ok(())
    }

    fn check_place(
        &mut self,
        disk: DiskId,
        vm: Option<VmId>,
        at: Option<&MountPoint>,
    ) -> Result<(), RecordError> {
        let Some(vm) = vm else { return Ok(()) };
        self.vm_mut(vm)?;
        let Some(at) = at else { return Ok(()) };
        let others = self.disks.iter().filter(|one| one.id != disk && one.vm == Some(vm));
        let taken = |one: &Disk| one.mount_point.as_ref().is_some_and(|p| p.clashes_with(at));
        if others.into_iter().any(taken) {
            let text = format!("a disk of VM {vm} at {}", at.as_str());
            return Err(RecordError::Exists(text));
        }
        Ok(())
    }

    fn add_operation(&mut self, operation: Operation) -> Result<(), RecordError> {
        if self.operations.iter().any(|one| one.id == operation.id) {
            return Err(RecordError::Exists(format!("operation {}", operation.id)));
        }
        if let Some(issue) = repaired(&operation) {
            self.know_issue(issue)?;
        }
        self.operations.push(operation);
        Ok(())
    }

    fn set_step(
        &mut self,
        operation: OperationId,
        index: usize,
        step: Step,
    ) -> Result<(), RecordError> {
        let record = self.operation_mut(operation)?;
        let missing = || RecordError::NotFound(format!("step {index} of operation {operation}"));
        *record.steps.get_mut(index).ok_or_else(missing)? = step;
        Ok(())
    }

    fn vm_mut(&mut self, id: VmId) -> Result<&mut Vm, RecordError> {
        let found = self.vms.iter_mut().find(|one| one.id == id);
        found.ok_or_else(|| RecordError::NotFound(format!("VM {id}")))
    }

    fn disk_mut(&mut self, id: DiskId) -> Result<&mut Disk, RecordError> {
        let found = self.disks.iter_mut().find(|one| one.id == id);
        found.ok_or_else(|| RecordError::NotFound(format!("disk {id}")))
    }

    fn operation_mut(&mut self, id: OperationId) -> Result<&mut Operation, RecordError> {
        let found = self.operations.iter_mut().find(|one| one.id == id);
        found.ok_or_else(|| RecordError::NotFound(format!("operation {id}")))
    }

    fn know_issue(&self, id: IssueId) -> Result<(), RecordError> {
        let known = self.issues.iter().any(|one| one.id == id);
        if known { Ok(()) } else { Err(RecordError::NotFound(format!("issue {id}"))) }
    }
}

struct Holding {
    state: DiskState,
    vm: Option<VmId>,
    mount_point: Option<MountPoint>,
}

/// A disk without its VM: what says more than where it is attached stays as it is.
fn let_go(state: &DiskState) -> DiskState {
    match state {
        DiskState::Attached
        | DiskState::Attaching
        | DiskState::Detaching
        | DiskState::Resizing(_) => DiskState::Available,
        DiskState::Creating
        | DiskState::Available
        | DiskState::Missing
        | DiskState::Failed(_)
        | DiskState::Deleting => state.clone(),
    }
}

fn fresh(
    is: Generation,
    expected: Generation,
    noun: impl FnOnce() -> String,
) -> Result<(), RecordError> {
    if is == expected { Ok(()) } else { Err(RecordError::Stale(noun())) }
}
