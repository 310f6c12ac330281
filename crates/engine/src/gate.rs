//! The gate: decides on arrival, and records what it lets in before anything is touched. Carrying
//! out is the driver's.

use uuid::Uuid;
use vman_core::coherence::Kind;
use vman_core::disk::{Disk, DiskState, MountPoint};
use vman_core::ident::{DiskId, Generation, Name, OperationId, VmId};
use vman_core::lifecycle::{
    self, Denied, DiskCommand, Transition, VmCommand, decide_disk, decide_vm,
};
use vman_core::network::{Lease, Mac};
use vman_core::operation::{Operation, OperationState, Reason, Step, Subject, Verb};
use vman_core::ports::{Change, RecordError};
use vman_core::repair::Issue;
use vman_core::template::Template;
use vman_core::vm::{Vm, VmState};

use crate::to_the_end::ToTheEnd;
use crate::{Accepted, Engine, EngineError, NewDisk, NewTemplate, NewVm};

/// How often one request is decided anew because the record changed meanwhile.
const TRIES_MAX: u32 = 16;
/// Operations of one subject that may wait for their turn.
const WAITING_MAX: usize = 16;

impl Engine {
    /// `Exists` if the name is taken.
    pub async fn create_template(&self, new: NewTemplate) -> Result<Template, EngineError> {
        let template = Template {
            name: new.name,
            cpu_count: new.cpu_count,
            ram_mib: new.ram_mib,
            boot: new.boot,
            created_at: self.now(),
        };
        self.commit_port().commit(vec![Change::AddTemplate(template.clone())]).await?;
        Ok(template)
    }

    /// `InUse` while a VM is made from it.
    pub async fn delete_template(&self, name: &Name) -> Result<(), EngineError> {
        Ok(self.commit_port().commit(vec![Change::RemoveTemplate(name.clone())]).await?)
    }

    /// Records a VM and its lease; the host is not touched before its first start.
    pub async fn create_vm(&self, new: NewVm) -> Result<Vm, EngineError> {
        let engine = self.clone();
        ToTheEnd::new(async move { engine.record_vm(new).await }).await
    }

    async fn record_vm(&self, new: NewVm) -> Result<Vm, EngineError> {
        if self.recall().template(&new.template).await?.is_none() {
            return Err(EngineError::NoTemplate(new.template));
        }
        let _choosing = self.inner.choosing.lock().await;
        let vm = self.new_vm(&new).await?;
        match self.commit_port().commit(vec![Change::AddVm(vm.clone())]).await {
            Ok(()) => Ok(vm),
            // The template went in between.
            Err(RecordError::NotFound(_)) => Err(EngineError::NoTemplate(new.template)),
            Err(error) => Err(error.into()),
        }
    }

    async fn new_vm(&self, new: &NewVm) -> Result<Vm, EngineError> {
        let id = VmId(Uuid::new_v4());
        let subnet = self.inner.config.network.subnet;
        let taken = self.recall().leases().await?;
        let address = subnet
            .first_free(&taken)
            .ok_or_else(|| EngineError::PoolExhausted(subnet.network().to_string()))?;
        let now = self.now();
        Ok(Vm {
            id,
            name: new.name.clone(),
            template: new.template.clone(),
            state: VmState::Stopped,
            generation: Generation::FIRST,
            machine: None,
            lease: Lease { address, mac: Mac::of(id) },
            created_at: now,
            updated_at: now,
        })
    }

    /// Lets a command in if the VM's state allows it. Dropped half way, it goes on by itself: what
    /// is recorded is also carried out.
    pub async fn command_vm(
        &self,
        id: VmId,
        command: VmCommand,
        reason: Reason,
    ) -> Result<Accepted<Vm>, EngineError> {
        let engine = self.clone();
        let let_in = async move { engine.let_in_vm(id, command, reason, None).await };
        ToTheEnd::new(let_in).await
    }

    /// `Stale` if the VM has another generation than `expected`, the one that was looked at: the
    /// command answers to what may not be so any more.
    pub(crate) async fn let_in_vm(
        &self,
        id: VmId,
        command: VmCommand,
        reason: Reason,
        expected: Option<Generation>,
    ) -> Result<Accepted<Vm>, EngineError> {
        let subject = Subject::Vm(id);
        for _ in 0..TRIES_MAX {
            let vm = self.recall().vm(id).await?.ok_or(EngineError::NotFound(subject.clone()))?;
            still_as(expected, vm.generation, &subject)?;
            let transition = match decide_vm(&vm.state, command) {
                Ok(Some(transition)) => transition,
                Ok(None) => match self.start_of_missing(&vm, command).await? {
                    Some(transition) => transition,
                    None => match self.on_its_way(&subject, vm.generation).await? {
                        Some(operation) => return Ok(Accepted { record: vm, operation }),
                        None => continue,
                    },
                },
                Err(denied) => return Err(denial(&subject, vm.state.word(), denied)),
            };
            // What another backend runs can be neither seen nor ended by this one.
            let backend = &self.inner.config.backend;
            if vm.machine.as_ref().is_some_and(|machine| machine.backend != *backend) {
                return Err(denial(&subject, vm.state.word(), Denied::OtherBackend));
            }
            self.room_for_one_more(&subject).await?;
            match self.accept_vm(vm, command.verb(), reason.clone(), transition).await {
                Err(EngineError::Record(RecordError::Stale(_))) => {}
                accepted => return accepted,
            }
        }
        Err(EngineError::Contended(subject))
    }

    /// A VM recorded running whose machine is known to be gone is started as a stopped one would
    /// be: whoever asks for it has seen the issue.
    async fn start_of_missing(
        &self,
        vm: &Vm,
        command: VmCommand,
    ) -> Result<Option<Transition<VmState>>, EngineError> {
        if command != VmCommand::Start || vm.state != VmState::Running {
            return Ok(None);
        }
        let is_missing = |issue: &Issue| {
            issue.kind == Kind::VmProcessMissing
                && issue.subject == Subject::Vm(vm.id)
                && issue.generation == Some(vm.generation)
        };
        if !self.recall().unresolved().await?.iter().any(is_missing) {
            return Ok(None);
        }
        Ok(decide_vm(&VmState::Stopped, command).ok().flatten())
    }

    async fn accept_vm(
        &self,
        mut vm: Vm,
        verb: Verb,
        reason: Reason,
        transition: Transition<VmState>,
    ) -> Result<Accepted<Vm>, EngineError> {
        let subject = Subject::Vm(vm.id);
        let operation = self.new_operation(&subject, verb, reason, transition.steps);
        let changes = vec![
            Change::VmState {
                vm: vm.id,
                expected: vm.generation,
                state: transition.next.clone(),
                at: operation.created_at,
            },
            Change::AddOperation(operation.clone()),
        ];
        self.commit_port().commit(changes).await?;
        self.nudge(subject);
        vm.state = transition.next;
        vm.generation = vm.generation.next();
        vm.updated_at = operation.created_at;
        Ok(Accepted { record: vm, operation: Some(operation.id) })
    }

    /// The operation that brings a subject where it already is or is going, if one is under way;
    /// none at all if it has ended since the subject was read, so that it must be read again.
    async fn on_its_way(
        &self,
        subject: &Subject,
        read: Generation,
    ) -> Result<Option<Option<OperationId>>, EngineError> {
        let under_way = self.recall().unended(Some(subject)).await?;
        if let Some(operation) = under_way.last() {
            return Ok(Some(Some(operation.id)));
        }
        let now = self.generation(subject).await?;
        Ok(now.is_none_or(|now| now == read).then_some(None))
    }

    /// Records a disk and has its image made.
    pub async fn create_disk(&self, new: NewDisk) -> Result<Accepted<Disk>, EngineError> {
        let engine = self.clone();
        ToTheEnd::new(async move { engine.record_disk(new).await }).await
    }

    async fn record_disk(&self, new: NewDisk) -> Result<Accepted<Disk>, EngineError> {
        let now = self.now();
        let disk = Disk {
            id: DiskId(Uuid::new_v4()),
            size_gib: new.size_gib,
            format: new.format,
            state: DiskState::Creating,
            mount_point: new.mount_point,
            vm: None,
            generation: Generation::FIRST,
            created_at: now,
            updated_at: now,
        };
        let subject = Subject::Disk(disk.id);
        let steps = lifecycle::disk_creation();
        let operation = self.new_operation(&subject, Verb::DiskCreate, Reason::User, steps);
        let id = operation.id;
        let changes = vec![Change::AddDisk(disk.clone()), Change::AddOperation(operation)];
        self.commit_port().commit(changes).await?;
        self.nudge(subject);
        Ok(Accepted { record: disk, operation: Some(id) })
    }

    /// Lets a command in if the states of the disk and of the VM concerned allow it. `mount_point`
    /// is used by attaching alone; none = where it was last, or the first free one.
    pub async fn command_disk(
        &self,
        id: DiskId,
        command: DiskCommand,
        mount_point: Option<MountPoint>,
        reason: Reason,
    ) -> Result<Accepted<Disk>, EngineError> {
        let engine = self.clone();
        let let_in =
            async move { engine.let_in_disk(id, command, mount_point, reason, None).await };
        ToTheEnd::new(let_in).await
    }

    /// As [`let_in_vm`](Self::let_in_vm).
    pub(crate) async fn let_in_disk(
        &self,
        id: DiskId,
        command: DiskCommand,
        mount_point: Option<MountPoint>,
        reason: Reason,
        expected: Option<Generation>,
    ) -> Result<Accepted<Disk>, EngineError> {
        let subject = Subject::Disk(id);
        let _choosing = self.inner.choosing.lock().await;
        for _ in 0..TRIES_MAX {
            let disk =
                self.recall().disk(id).await?.ok_or(EngineError::NotFound(subject.clone()))?;
            still_as(expected, disk.generation, &subject)?;
            let vm = self.vm_concerned(&disk, command).await?;
            let vm_state = vm.as_ref().map(|vm| &vm.state);
            let transition = match decide_disk(&disk.state, disk.vm, vm_state, command) {
                Ok(Some(transition)) => transition,
                Ok(None) if is_elsewhere(&disk, mount_point.as_ref()) => {
                    return Err(denial(&subject, disk.state.word(), Denied::Attached));
                }
                Ok(None) => match self.on_its_way(&subject, disk.generation).await? {
                    Some(operation) => return Ok(Accepted { record: disk, operation }),
                    None => continue,
                },
                Err(denied) => return Err(denial(&subject, disk.state.word(), denied)),
            };
            let moved = self.moved(disk, command, mount_point.as_ref(), &transition).await?;
            let expected_vm = vm.map(|vm| (vm.id, vm.generation));
            let verb = command.verb();
            match self.accept_disk(moved, expected_vm, verb, reason.clone(), transition).await {
                Err(EngineError::Record(RecordError::Stale(_))) => {}
                accepted => return accepted,
            }
        }
        Err(EngineError::Contended(subject))
    }

    async fn vm_concerned(
        &self,
        disk: &Disk,
        command: DiskCommand,
    ) -> Result<Option<Vm>, EngineError> {
        let named = match command {
            DiskCommand::Attach(vm) => Some(vm),
            DiskCommand::Detach
            | DiskCommand::Delete
            | DiskCommand::MarkMissing
            | DiskCommand::MarkAvailable => None,
        };
        let Some(id) = named.or(disk.vm) else { return Ok(None) };
        match (self.recall().vm(id).await?, named) {
            (None, Some(named)) => Err(EngineError::NotFound(Subject::Vm(named))),
            (vm, _) => Ok(vm),
        }
    }

    /// The disk as it will be recorded, but for its generation.
    async fn moved(
        &self,
        mut disk: Disk,
        command: DiskCommand,
        asked: Option<&MountPoint>,
        transition: &Transition<DiskState>,
    ) -> Result<Disk, EngineError> {
        match command {
            DiskCommand::Attach(vm) => {
                let others = self.recall().disks_of(vm).await?;
                let taken = others.iter().filter_map(|other| other.mount_point.as_ref());
                let is_free = |wish: &&MountPoint| taken.clone().all(|t| !t.clashes_with(wish));
                let mount_point = asked
                    .cloned()
                    .or_else(|| disk.mount_point.as_ref().filter(is_free).cloned())
                    .or_else(|| MountPoint::first_free(taken.clone()))
                    .ok_or(EngineError::NoFreeMountPoint(vm))?;
                disk.mount_point = Some(mount_point);
                disk.vm = Some(vm);
            }
            DiskCommand::Detach => disk.vm = None,
            DiskCommand::MarkAvailable if transition.next == DiskState::Available => disk.vm = None,
            DiskCommand::MarkAvailable | DiskCommand::MarkMissing | DiskCommand::Delete => {}
        }
        disk.state = transition.next.clone();
        Ok(disk)
    }

    async fn accept_disk(
        &self,
        mut disk: Disk,
        expected_vm: Option<(VmId, Generation)>,
        verb: Verb,
        reason: Reason,
        transition: Transition<DiskState>,
    ) -> Result<Accepted<Disk>, EngineError> {
        let subject = Subject::Disk(disk.id);
        let mut operation = self.new_operation(&subject, verb, reason, transition.steps);
        // What touches nothing on the host is done once it is recorded.
        let only_recorded = operation.steps.is_empty();
        if only_recorded {
            operation.state = OperationState::Succeeded;
            operation.ended_at = Some(operation.created_at);
        }
        let mut changes: Vec<Change> = expected_vm
            .map(|(vm, expected)| Change::ExpectVm { vm, expected })
            .into_iter()
            .collect();
        changes.push(Change::DiskState {
            disk: disk.id,
            expected: disk.generation,
            state: disk.state.clone(),
            vm: disk.vm,
            mount_point: disk.mount_point.clone(),
            at: operation.created_at,
        });
        disk.generation = disk.generation.next();
        disk.updated_at = operation.created_at;
        let id = operation.id;
        changes.push(Change::AddOperation(operation));
        self.commit_port().commit(changes).await?;
        if !only_recorded {
            self.nudge(subject);
        }
        Ok(Accepted { record: disk, operation: Some(id) })
    }

    /// Has something without a record dealt with. The same thing asked for twice is done once.
    pub(crate) async fn command_stray(
        &self,
        subject: Subject,
        verb: Verb,
        reason: Reason,
    ) -> Result<OperationId, EngineError> {
        if let Some(under_way) = self.recall().unended(Some(&subject)).await?.last() {
            return Ok(under_way.id);
        }
        let steps = lifecycle::stray_steps(verb).unwrap_or_default();
        let operation = self.new_operation(&subject, verb, reason, steps);
        let id = operation.id;
        self.commit_port().commit(vec![Change::AddOperation(operation)]).await?;
        self.nudge(subject);
        Ok(id)
    }

    async fn room_for_one_more(&self, subject: &Subject) -> Result<(), EngineError> {
        if self.recall().unended(Some(subject)).await?.len() < WAITING_MAX {
            Ok(())
        } else {
            Err(EngineError::Full(subject.clone()))
        }
    }

    fn new_operation(
        &self,
        subject: &Subject,
        verb: Verb,
        reason: Reason,
        steps: Vec<Step>,
    ) -> Operation {
        Operation {
            id: OperationId(Uuid::new_v4()),
            subject: subject.clone(),
            verb,
            reason,
            state: OperationState::Pending,
            steps,
            created_at: self.now(),
            ended_at: None,
        }
    }
}

fn still_as(
    expected: Option<Generation>,
    present: Generation,
    subject: &Subject,
) -> Result<(), RecordError> {
    match expected {
        Some(expected) if expected != present => Err(RecordError::Stale(subject.to_string())),
        Some(_) | None => Ok(()),
    }
}

/// Attached where another place was asked for.
fn is_elsewhere(disk: &Disk, asked: Option<&MountPoint>) -> bool {
    asked.is_some() && asked != disk.mount_point.as_ref()
}

fn denial(subject: &Subject, state: &'static str, denied: Denied) -> EngineError {
    EngineError::Denied { subject: subject.clone(), state, denied }
}
