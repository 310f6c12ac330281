//! The gate for disks: making one, and every command on one.

use uuid::Uuid;
use vman_core::disk::{Disk, DiskState, MountPoint};
use vman_core::ident::{DiskId, Generation, VmId};
use vman_core::lifecycle::{self, Denied, DiskCommand, Transition, decide_disk};
use vman_core::operation::{OperationState, Reason, Subject, Verb};
use vman_core::ports::{Change, RecordError};
use vman_core::vm::Vm;

use super::{TRIES_MAX, denial, still_as};
use crate::to_the_end::ToTheEnd;
use crate::{Accepted, Engine, EngineError, NewDisk};

impl Engine {
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
}

/// Attached where another place was asked for.
fn is_elsewhere(disk: &Disk, asked: Option<&MountPoint>) -> bool {
    asked.is_some() && asked != disk.mount_point.as_ref()
}
