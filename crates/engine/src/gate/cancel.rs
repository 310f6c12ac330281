//! Calling an operation off. Whether that is possible is decided in `vman-core`; its driver looks
//! for the request, and undoes what was done.

use vman_core::ident::OperationId;
use vman_core::lifecycle::may_cancel;
use vman_core::operation::{Operation, OperationState};
use vman_core::ports::{Change, RecordError};

use super::TRIES_MAX;
use crate::to_the_end::ToTheEnd;
use crate::{Engine, EngineError};

impl Engine {
    /// Asks for an operation to be broken off, and returns it as it is then: it ends `cancelled`
    /// soon, or as it would have if it was too far by then. Asked for twice is asked for once.
    pub async fn cancel(&self, id: OperationId) -> Result<Operation, EngineError> {
        let engine = self.clone();
        ToTheEnd::new(async move { engine.request_cancel(id).await }).await
    }

    async fn request_cancel(&self, id: OperationId) -> Result<Operation, EngineError> {
        for _ in 0..TRIES_MAX {
            let unknown = || RecordError::NotFound(format!("operation {id}"));
            let operation = self.recall().operation(id).await?.ok_or_else(unknown)?;
            let asked = operation.cancel_requested && !operation.state.is_ended();
            if asked || matches!(operation.state, OperationState::Cancelled(_)) {
                return Ok(operation);
            }
            let verb = operation.verb;
            may_cancel(&operation).map_err(|why| EngineError::NotCancellable {
                operation: id,
                verb,
                why,
            })?;
            match self.commit_port().commit(vec![Change::RequestCancel(id)]).await {
                Ok(()) => {
                    self.nudge(operation.turn());
                    self.sync().await?;
                    return Ok(self.recall().operation(id).await?.ok_or_else(unknown)?);
                }
                // It has ended since.
                Err(RecordError::Stale(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RecordError::Stale(format!("operation {id}")).into())
    }
}
