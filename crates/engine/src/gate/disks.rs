//! The gate for disks: making one, and every command on one.

use uuid::Uuid;
use vman_core::disk::{Disk, DiskState, MountPoint};
use vman_core::ident::{DiskId, Generation, OperationId};
use vman_core::lifecycle::{self, Denied, DiskCommand, Transition, decide_disk};
use vman_core::operation::{Operation, OperationState, Reason, Subject, Verb};
use vman_core::ports::{Change, LetIn, RecordError};
use vman_core::vm::Vm;

use super::{Ask, NewOperation, TRIES_MAX, denial, still_as};
use crate::to_the_end::ToTheEnd;
use crate::{Accepted, Engine, EngineError, NewDisk, RequestKey};

impl Engine {
    /// Records a disk and has its image made.
    pub async fn create_disk(
        &self,
        new: NewDisk,
        key: Option<RequestKey>,
    ) -> Result<Accepted<Disk>, EngineError> {
        let engine = self.clone();
        ToTheEnd::new(async move { engine.once(key.clone(), engine.record_disk(new, key)).await })
            .await
    }

    async fn record_disk(
        &self,
        new: NewDisk,
        key: Option<RequestKey>,
    ) -> Result<Accepted<Disk>, EngineError> {
        let now = self.now();
        let disk = Disk {
            id: DiskId(Uuid::new_v4()),
            size_gib: new.size_gib,
            format: self.image_format(new.format)?,
            bus: new.bus,
            state: DiskState::Creating,
            mount_point: new.mount_point,
            vm: None,
            generation: Generation::FIRST,
            created_at: now,
            updated_at: now,
        };
        let new = NewOperation {
            subject: Subject::Disk(disk.id),
            turn_of: None,
            verb: Verb::DiskCreate,
            reason: Reason::User,
            steps: lifecycle::disk_creation(),
        };
        let operation = self.new_operation(new).await?;
        let changes = vec![Change::AddDisk(disk.clone())];
        self.commit_with(changes, operation, key.as_ref(), disk).await
    }

    /// Lets a command in if the states of the disk and of the VM concerned allow it. `mount_point`
    /// is used by attaching alone; none = where it was last, or the first free one.
    pub async fn command_disk(
        &self,
        id: DiskId,
        command: DiskCommand,
        mount_point: Option<MountPoint>,
        reason: Reason,
        key: Option<RequestKey>,
    ) -> Result<Accepted<Disk>, EngineError> {
        let engine = self.clone();
        ToTheEnd::new(async move {
            let ask = Ask::keyed(reason, key.clone());
            engine.once(key, engine.let_in_disk(id, command, mount_point, ask)).await
        })
        .await
    }

    /// As [`let_in_vm`](Self::let_in_vm).
    pub(crate) async fn let_in_disk(
        &self,
        id: DiskId,
        command: DiskCommand,
        mount_point: Option<MountPoint>,
        ask: Ask,
    ) -> Result<Accepted<Disk>, EngineError> {
        let subject = Subject::Disk(id);
        let _choosing = self.inner.choosing.lock().await;
        for _ in 0..TRIES_MAX {
            let disk =
                self.recall().disk(id).await?.ok_or(EngineError::NotFound(subject.clone()))?;
            still_as(ask.expected, disk.generation, &subject)?;
            let vm = self.vm_concerned(&disk, command).await?;
            let vm_state = vm.as_ref().map(|vm| &vm.state);
            let under_way = self.asked_already(&disk, command).await?;
            let transition = match decide_disk(&disk, vm_state, command) {
                Ok(Some(transition)) if under_way.is_none() => transition,
                Ok(None) if is_elsewhere(&disk, mount_point.as_ref()) => {
                    return Err(denial(&subject, disk.state.word(), Denied::Attached));
                }
                Ok(_) => {
                    let on_its_way = match under_way {
                        Some(operation) => Some(Some(operation)),
                        None => self.on_its_way(&subject, disk.generation).await?,
                    };
                    let Some(operation) = on_its_way else { continue };
                    let accepted = Accepted { record: disk, operation };
                    return self.already_so(ask.key.as_ref(), subject, accepted).await;
                }
                Err(denied) => return Err(denial(&subject, disk.state.word(), denied)),
            };
            let moved = self.moved(disk, command, mount_point.as_ref(), &transition).await?;
            match self.accept_disk(moved, vm, command.verb(), &ask, transition).await {
                Err(EngineError::Record(RecordError::Stale(_))) => {}
                accepted => return accepted,
            }
        }
        Err(EngineError::Contended(subject))
    }

    /// The operation that is asking the guest for the disk just now: it is not asked twice at the
    /// same time.
    async fn asked_already(
        &self,
        disk: &Disk,
        command: DiskCommand,
    ) -> Result<Option<OperationId>, EngineError> {
        if disk.state != DiskState::Detaching || command != DiskCommand::Detach {
            return Ok(None);
        }
        let under_way = self.recall().unended(Some(&Subject::Disk(disk.id))).await?;
        Ok(under_way.last().map(|operation| operation.id))
    }

    async fn vm_concerned(
        &self,
        disk: &Disk,
        command: DiskCommand,
    ) -> Result<Option<Vm>, EngineError> {
        let named = match command {
            DiskCommand::Attach(vm) => Some(vm),
            DiskCommand::Detach
            | DiskCommand::Resize(_)
            | DiskCommand::Delete
            | DiskCommand::Released
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
            // Its VM has it until the guest has let go.
            DiskCommand::Detach | DiskCommand::Released | DiskCommand::MarkAvailable
                if transition.next == DiskState::Detaching => {}
            DiskCommand::Detach | DiskCommand::Released => disk.vm = None,
            DiskCommand::MarkAvailable if transition.next == DiskState::Available => disk.vm = None,
            DiskCommand::MarkAvailable
            | DiskCommand::MarkMissing
            | DiskCommand::Resize(_)
            | DiskCommand::Delete => {}
        }
        disk.state = transition.next.clone();
        Ok(disk)
    }

    async fn accept_disk(
        &self,
        mut disk: Disk,
        vm: Option<Vm>,
        verb: Verb,
        ask: &Ask,
        transition: Transition<DiskState>,
    ) -> Result<Accepted<Disk>, EngineError> {
        let operation = self
            .new_operation(NewOperation {
                subject: Subject::Disk(disk.id),
                turn_of: disk.vm,
                verb,
                reason: ask.reason.clone(),
                steps: transition.steps,
            })
            .await?;
        let at = operation.created_at;
        let expected_vm = vm.map(|vm| Change::ExpectVm { vm: vm.id, expected: vm.generation });
        let mut changes: Vec<Change> = expected_vm.into_iter().collect();
        changes.push(Change::DiskState {
            disk: disk.id,
            expected: disk.generation,
            state: disk.state.clone(),
            vm: disk.vm,
            mount_point: disk.mount_point.clone(),
            at,
        });
        (disk.generation, disk.updated_at) = (disk.generation.next(), at);
        self.commit_with(changes, operation, ask.key.as_ref(), disk).await
    }

    /// Records an operation on a disk with what else it changes, and has it carried out.
    async fn commit_with(
        &self,
        mut changes: Vec<Change>,
        mut operation: Operation,
        key: Option<&RequestKey>,
        disk: Disk,
    ) -> Result<Accepted<Disk>, EngineError> {
        // What touches nothing on the host is done once it is recorded.
        let only_recorded = operation.steps.is_empty();
        if only_recorded {
            operation.state = OperationState::Succeeded;
            operation.ended_at = Some(operation.created_at);
        }
        let (id, turn) = (operation.id, operation.turn());
        changes.push(Change::AddOperation(operation));
        changes.extend(self.keep(key, LetIn::Subject(Subject::Disk(disk.id), Some(id))));
        self.commit_port().commit(changes).await?;
        if !only_recorded {
            self.nudge(turn);
        }
        Ok(Accepted { record: disk, operation: Some(id) })
    }
}

/// Attached where another place was asked for.
fn is_elsewhere(disk: &Disk, asked: Option<&MountPoint>) -> bool {
    asked.is_some() && asked != disk.mount_point.as_ref()
}
