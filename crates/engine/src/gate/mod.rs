//! The gate: decides on arrival, and records what it lets in before anything is touched. Carrying
//! out is the driver's. Here is what all subjects share, with templates, which are records alone,
//! and with things that have no record; VMs, disks, the formats of images, repeated requests and
//! calling off have files of their own.

mod cancel;
mod disks;
mod formats;
mod requests;
mod vms;

pub(crate) use vms::Prepared;

use uuid::Uuid;
use vman_core::ident::{Generation, Name, OperationId, VmId};
use vman_core::lifecycle::{self, Denied};
use vman_core::operation::{Operation, OperationState, Reason, Step, Subject, Verb};
use vman_core::ports::{Change, LetIn, RecordError};
use vman_core::template::Template;

use crate::operation::mark_begun;
use crate::{Accepted, Engine, EngineError, NewTemplate, RequestKey};

/// How often one request is decided anew because the record changed meanwhile.
pub(crate) const TRIES_MAX: u32 = 16;
/// Operations of one turn that may wait.
const WAITING_MAX: usize = 16;

/// Why a command comes, and what it is held against.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    reason: Reason,
    /// The generation of the record that was looked at: the command answers to what may not be so
    /// any more.
    expected: Option<Generation>,
    key: Option<RequestKey>,
}

impl Ask {
    /// By somebody who has not looked.
    fn keyed(reason: Reason, key: Option<RequestKey>) -> Self {
        Self { reason, expected: None, key }
    }

    /// For what was seen of the record of that generation.
    pub(crate) fn seen(reason: Reason, expected: Option<Generation>) -> Self {
        Self { reason, expected, key: None }
    }
}

/// What a new operation is made of.
struct NewOperation {
    subject: Subject,
    turn_of: Option<VmId>,
    verb: Verb,
    reason: Reason,
    steps: Vec<Step>,
}

impl Engine {
    /// `Exists` if the name is taken.
    pub async fn create_template(
        &self,
        new: NewTemplate,
        key: Option<RequestKey>,
    ) -> Result<Accepted<Template>, EngineError> {
        self.once(key.clone(), self.record_template(new, key)).await
    }

    async fn record_template(
        &self,
        new: NewTemplate,
        key: Option<RequestKey>,
    ) -> Result<Accepted<Template>, EngineError> {
        let template = Template {
            name: new.name,
            cpu_count: new.cpu_count,
            ram_mib: new.ram_mib,
            boot: new.boot,
            created_at: self.now(),
        };
        let mut changes = vec![Change::AddTemplate(template.clone())];
        changes.extend(self.keep(key.as_ref(), LetIn::Template(template.name.clone())));
        self.commit_port().commit(changes).await?;
        Ok(Accepted { record: template, operation: None })
    }

    /// `InUse` while a VM is made from it.
    pub async fn delete_template(&self, name: &Name) -> Result<(), EngineError> {
        self.commit_port().commit(vec![Change::RemoveTemplate(name.clone())]).await?;
        Ok(self.sync().await?)
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
        let new = NewOperation { subject, turn_of: None, verb, reason, steps };
        let operation = self.new_operation(new).await?;
        let (id, turn) = (operation.id, operation.turn());
        self.commit_port().commit(vec![Change::AddOperation(operation)]).await?;
        self.nudge(turn);
        Ok(id)
    }

    /// `Full` if too many wait in its turn. One that nothing is to be waited for begins at once;
    /// what it begins with is then recorded with it.
    async fn new_operation(&self, new: NewOperation) -> Result<Operation, EngineError> {
        let NewOperation { subject, turn_of, verb, reason, steps } = new;
        let mut operation = Operation {
            id: OperationId(Uuid::new_v4()),
            subject,
            verb,
            reason,
            state: OperationState::Pending,
            turn_of,
            cancel_requested: false,
            steps,
            created_at: self.now(),
            ended_at: None,
        };
        let turn = operation.turn();
        let waiting = self.recall().in_turn(&turn).await?.len();
        if waiting >= WAITING_MAX {
            return Err(EngineError::Full(turn));
        }
        if waiting == 0 {
            operation.state = OperationState::Running;
            mark_begun(&mut operation.steps, operation.created_at);
        }
        Ok(operation)
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
