//! The gate: decides on arrival, and records what it lets in before anything is touched. Carrying
//! out is the driver's. Here is what all subjects share, with templates, which are records alone,
//! and with things that have no record; VMs and disks have files of their own.

mod disks;
mod vms;

use uuid::Uuid;
use vman_core::ident::{Generation, Name, OperationId};
use vman_core::lifecycle::{self, Denied};
use vman_core::operation::{Operation, OperationState, Reason, Step, Subject, Verb};
use vman_core::ports::{Change, RecordError};
use vman_core::template::Template;

use crate::{Engine, EngineError, NewTemplate};

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

/// `Stale` if somebody changed the record since it was looked at.
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

fn denial(subject: &Subject, state: &'static str, denied: Denied) -> EngineError {
    EngineError::Denied { subject: subject.clone(), state, denied }
}
