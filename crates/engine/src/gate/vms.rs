//! The gate for VMs: making one, and every command on one.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use uuid::Uuid;
use vman_core::coherence::Kind;
use vman_core::disk::{Bus, Disk, DiskState, ImageFormat, MountPoint};
use vman_core::ident::{DiskId, Generation, OperationId, Timestamp, VmId};
use vman_core::lifecycle::{Denied, Transition, VmCommand, decide_vm};
use vman_core::network::{Lease, Mac};
use vman_core::operation::{Effect, Reason, Subject, Verb};
use vman_core::ports::{Change, LetIn, RecordError};
use vman_core::repair::Issue;
use vman_core::template::Boot;
use vman_core::vm::{Vm, VmState};

use super::{Ask, NewOperation, TRIES_MAX, denial, still_as};
use crate::to_the_end::ToTheEnd;
use crate::{Accepted, Engine, EngineError, NewVm, RequestKey};

impl Engine {
    /// Records a VM and its lease; the host is not touched before its first start.
    pub async fn create_vm(
        &self,
        new: NewVm,
        key: Option<RequestKey>,
    ) -> Result<Accepted<Vm>, EngineError> {
        let engine = self.clone();
        ToTheEnd::new(async move { engine.once(key.clone(), engine.record_vm(new, key)).await })
            .await
    }

    async fn record_vm(
        &self,
        new: NewVm,
        key: Option<RequestKey>,
    ) -> Result<Accepted<Vm>, EngineError> {
        if self.recall().template(&new.template).await?.is_none() {
            return Err(EngineError::NoTemplate(new.template));
        }
        let mut choosing = self.inner.choosing.lock().await;
        let mut taken = match choosing.take() {
            Some(taken) => taken,
            None => self.recall().leases().await?,
        };
        let vm = self.new_vm(&new, &taken)?;
        let mut changes = vec![Change::AddVm(vm.clone())];
        changes.extend(self.keep(key.as_ref(), LetIn::Subject(Subject::Vm(vm.id), None)));
        match self.commit_port().commit(changes).await {
            Ok(()) => {
                taken.insert(vm.lease.address);
                *choosing = Some(taken);
                Ok(Accepted { record: vm, operation: None })
            }
            // The template went in between.
            Err(RecordError::NotFound(_)) => Err(EngineError::NoTemplate(new.template)),
            Err(error) => Err(error.into()),
        }
    }

    fn new_vm(&self, new: &NewVm, taken: &BTreeSet<Ipv4Addr>) -> Result<Vm, EngineError> {
        let id = VmId(Uuid::new_v4());
        let subnet = self.inner.config.network.subnet;
        let address = subnet
            .first_free(taken)
            .ok_or_else(|| EngineError::PoolExhausted(subnet.network().to_string()))?;
        let now = self.now();
        Ok(Vm {
            id,
            name: new.name.clone(),
            template: new.template.clone(),
            state: VmState::Stopped,
            autostart: new.autostart,
            generation: Generation::FIRST,
            machine: None,
            lease: Lease { address, mac: Mac::of(id) },
            created_at: now,
            updated_at: now,
        })
    }

    /// Whether the VM is started again when the host was booted anew while it ran.
    pub async fn set_autostart(&self, id: VmId, autostart: bool) -> Result<Vm, EngineError> {
        let unknown = || EngineError::NotFound(Subject::Vm(id));
        let change = Change::VmAutostart { vm: id, autostart, at: self.now() };
        match self.commit_port().commit(vec![change]).await {
            Ok(()) => {
                self.sync().await?;
                self.recall().vm(id).await?.ok_or_else(unknown)
            }
            Err(RecordError::NotFound(_)) => Err(unknown()),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets a command in if the VM's state allows it. Dropped half way, it goes on by itself: what
    /// is recorded is also carried out.
    pub async fn command_vm(
        &self,
        id: VmId,
        command: VmCommand,
        reason: Reason,
        key: Option<RequestKey>,
    ) -> Result<Accepted<Vm>, EngineError> {
        let engine = self.clone();
        ToTheEnd::new(async move {
            let ask = Ask::keyed(reason, key.clone());
            engine.once(key, engine.let_in_vm(id, command, ask)).await
        })
        .await
    }

    /// `Stale` if the VM has another generation than the one that was looked at.
    pub(crate) async fn let_in_vm(
        &self,
        id: VmId,
        command: VmCommand,
        ask: Ask,
    ) -> Result<Accepted<Vm>, EngineError> {
        let subject = Subject::Vm(id);
        for _ in 0..TRIES_MAX {
            let vm = self.recall().vm(id).await?.ok_or(EngineError::NotFound(subject.clone()))?;
            still_as(ask.expected, vm.generation, &subject)?;
            let decided = match decide_vm(&vm.state, command) {
                Ok(Some(transition)) => Ok(Some(transition)),
                so_or_denied => match self.as_the_host_is(&vm, command).await? {
                    Some(transition) => Ok(Some(transition)),
                    None => so_or_denied,
                },
            };
            let decided = decided.map_err(|denied| denial(&subject, vm.state.word(), denied))?;
            self.refuse_foreign(&vm)?;
            let Some(transition) = decided else {
                let Some(operation) = self.on_its_way(&subject, vm.generation).await? else {
                    continue;
                };
                let accepted = Accepted { record: vm, operation };
                return self.already_so(ask.key.as_ref(), subject, accepted).await;
            };
            match self.accept_vm(vm, command.verb(), &ask, transition).await {
                Err(EngineError::Record(RecordError::Stale(_))) => {}
                accepted => return accepted,
            }
        }
        Err(EngineError::Contended(subject))
    }

    /// What a command that is already so, or denied, by the record leads to where the host is known
    /// to be otherwise: who starts a VM whose machine is gone, or stops one whose machine lives,
    /// has seen the issue. Where that is not true any more, each effect finds it done already.
    async fn as_the_host_is(
        &self,
        vm: &Vm,
        command: VmCommand,
    ) -> Result<Option<Transition<VmState>>, EngineError> {
        let stops = matches!(command, VmCommand::Stop | VmCommand::Kill);
        let runs = matches!(vm.state, VmState::Running | VmState::Paused);
        let (kind, host) = if command == VmCommand::Start && runs {
            (Kind::VmProcessMissing, VmState::Stopped)
        } else if stops && vm.state == VmState::Stopped {
            (Kind::VmProcessUnexpected, VmState::Running)
        } else {
            return Ok(None);
        };
        let is_known = |issue: &Issue| issue.kind == kind && issue.subject == Subject::Vm(vm.id);
        let known =
            runs && self.is_lost(vm) || self.recall().unresolved().await?.iter().any(is_known);
        Ok(if known { decide_vm(&host, command).ok().flatten() } else { None })
    }

    async fn accept_vm(
        &self,
        vm: Vm,
        verb: Verb,
        ask: &Ask,
        transition: Transition<VmState>,
    ) -> Result<Accepted<Vm>, EngineError> {
        let subject = Subject::Vm(vm.id);
        let boots = transition.steps.iter().any(|step| step.effect == Effect::PrepareDisks);
        let root_gib = if boots { self.root_disk_gib(&vm).await? } else { None };
        let _choosing = match root_gib {
            Some(_) => Some(self.inner.choosing.lock().await),
            None => None,
        };
        let prepared = self.prepare_vm(vm, verb, ask, transition, root_gib).await?;
        let Prepared { mut changes, turn, operation, record } = prepared;
        changes.extend(self.keep(ask.key.as_ref(), LetIn::Subject(subject, Some(operation))));
        self.commit_port().commit(changes).await?;
        self.nudge(turn);
        Ok(Accepted { record, operation: Some(operation) })
    }

    /// What lets the command in once it is recorded. `choosing` is held until then where the VM is
    /// to have a root disk, of `root_gib`.
    pub(crate) async fn prepare_vm(
        &self,
        mut vm: Vm,
        verb: Verb,
        ask: &Ask,
        transition: Transition<VmState>,
        root_gib: Option<u64>,
    ) -> Result<Prepared, EngineError> {
        let Transition { next, steps } = transition;
        let (subject, reason) = (Subject::Vm(vm.id), ask.reason.clone());
        let new = NewOperation { subject, turn_of: None, verb, reason, steps };
        let operation = self.new_operation(new).await?;
        let (id, turn, at) = (operation.id, operation.turn(), operation.created_at);
        let (expected, state) = (vm.generation, next.clone());
        let mut changes = vec![Change::VmState { vm: vm.id, expected, state, at }];
        if self.is_lost(&vm) {
            vm.machine = None;
            changes.push(Change::VmMachine { vm: vm.id, machine: None });
        }
        if let Some(size_gib) = root_gib
            && !self.recall().disks_of(vm.id).await?.iter().any(Disk::is_root)
        {
            let format = self.image_format(None)?;
            changes.push(Change::AddDisk(root_disk(vm.id, size_gib, format, at)));
        }
        changes.push(Change::AddOperation(operation));
        (vm.state, vm.generation, vm.updated_at) = (next, vm.generation.next(), at);
        Ok(Prepared { changes, turn, operation: id, record: vm })
    }

    /// How large the disk is that the VM boots from and that is made if it has none; none if it
    /// boots otherwise.
    pub(crate) async fn root_disk_gib(&self, vm: &Vm) -> Result<Option<u64>, EngineError> {
        let template = self.recall().template(&vm.template).await?;
        Ok(match template.map(|template| template.boot) {
            Some(Boot::RootDisk { size_gib }) => Some(size_gib),
            Some(Boot::Kernel { .. } | Boot::Firmware { .. }) | None => None,
        })
    }

    /// Its machine was started before the host was booted: whoever started it, it is gone.
    fn is_lost(&self, vm: &Vm) -> bool {
        let process = vm.machine.as_ref().and_then(|machine| machine.process);
        match (process, self.inner.boot_id.get()) {
            (Some(process), Some(boot_id)) => process.boot_id != *boot_id,
            (None, _) | (_, None) => false,
        }
    }

    /// What another backend runs can be neither seen nor ended by this one.
    pub(crate) fn refuse_foreign(&self, vm: &Vm) -> Result<(), EngineError> {
        let backend = &self.inner.config.backend;
        match &vm.machine {
            Some(machine) if machine.backend != *backend && !self.is_lost(vm) => {
                Err(denial(&Subject::Vm(vm.id), vm.state.word(), Denied::OtherBackend))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A command on a VM that is let in once its changes are recorded.
pub(crate) struct Prepared {
    pub(crate) changes: Vec<Change>,
    /// To be nudged then.
    pub(crate) turn: Subject,
    pub(crate) operation: OperationId,
    /// As it is then.
    pub(crate) record: Vm,
}

fn root_disk(vm: VmId, size_gib: u64, format: ImageFormat, now: Timestamp) -> Disk {
    Disk {
        id: DiskId(Uuid::new_v4()),
        size_gib,
        format,
        bus: Bus::VirtioScsi,
        state: DiskState::Creating,
        mount_point: Some(MountPoint::root()),
        vm: Some(vm),
        generation: Generation::FIRST,
        created_at: now,
        updated_at: now,
    }
}
