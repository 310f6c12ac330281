//! The gate for VMs: making one, and every command on one.

use uuid::Uuid;
use vman_core::coherence::Kind;
use vman_core::ident::{Generation, VmId};
use vman_core::lifecycle::{Denied, Transition, VmCommand, decide_vm};
use vman_core::network::{Lease, Mac};
use vman_core::operation::{Reason, Subject, Verb};
use vman_core::ports::{Change, RecordError};
use vman_core::repair::Issue;
use vman_core::vm::{Vm, VmState};

use super::{TRIES_MAX, denial, still_as};
use crate::to_the_end::ToTheEnd;
use crate::{Accepted, Engine, EngineError, NewVm};

impl Engine {
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
                Ok(None) => match self.as_the_host_is(&vm, command).await? {
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

    /// What a command that is already so by the record leads to where the host is known to be
    /// otherwise: whoever starts a VM whose machine is gone, or stops one whose machine lives, has
    /// seen the issue.
    async fn as_the_host_is(
        &self,
        vm: &Vm,
        command: VmCommand,
    ) -> Result<Option<Transition<VmState>>, EngineError> {
        let stops = matches!(command, VmCommand::Stop | VmCommand::Kill);
        let (kind, host) = if command == VmCommand::Start && vm.state == VmState::Running {
            (Kind::VmProcessMissing, VmState::Stopped)
        } else if stops && vm.state == VmState::Stopped {
            (Kind::VmProcessUnexpected, VmState::Running)
        } else {
            return Ok(None);
        };
        let is_known = |issue: &Issue| {
            issue.kind == kind
                && issue.subject == Subject::Vm(vm.id)
                && issue.generation == Some(vm.generation)
        };
        if !self.recall().unresolved().await?.iter().any(is_known) {
            return Ok(None);
        }
        Ok(decide_vm(&host, command).ok().flatten())
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
}
