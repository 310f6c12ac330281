//! Requests that come twice: one that bears a key is let in once, and its repetitions are answered
//! with what the first came to. Which requests bear keys is for the API to say.

use vman_core::disk::Disk;
use vman_core::operation::Subject;
use vman_core::ports::{Change, KeptRequest, LetIn, RecordError};
use vman_core::template::Template;
use vman_core::vm::Vm;

use crate::{Accepted, Engine, EngineError, RequestKey};

/// A record that a request can be about.
pub(super) trait Requested: Sized {
    /// The record as it is now; none if a request that came to `let_in` was not about its kind.
    fn now(
        engine: &Engine,
        let_in: &LetIn,
    ) -> impl Future<Output = Result<Option<Accepted<Self>>, EngineError>> + Send;
}

impl Requested for Template {
    async fn now(engine: &Engine, let_in: &LetIn) -> Result<Option<Accepted<Self>>, EngineError> {
        let LetIn::Template(name) = let_in else { return Ok(None) };
        let gone = || RecordError::NotFound(format!("template {name}"));
        let record = engine.recall().template(name).await?.ok_or_else(gone)?;
        Ok(Some(Accepted { record, operation: None }))
    }
}

impl Requested for Vm {
    async fn now(engine: &Engine, let_in: &LetIn) -> Result<Option<Accepted<Self>>, EngineError> {
        let LetIn::Subject(subject @ Subject::Vm(id), operation) = let_in else { return Ok(None) };
        let gone = || EngineError::NotFound(subject.clone());
        let record = engine.recall().vm(*id).await?.ok_or_else(gone)?;
        Ok(Some(Accepted { record, operation: *operation }))
    }
}

impl Requested for Disk {
    async fn now(engine: &Engine, let_in: &LetIn) -> Result<Option<Accepted<Self>>, EngineError> {
        let LetIn::Subject(subject @ Subject::Disk(id), operation) = let_in else {
            return Ok(None);
        };
        let gone = || EngineError::NotFound(subject.clone());
        let record = engine.recall().disk(*id).await?.ok_or_else(gone)?;
        Ok(Some(Accepted { record, operation: *operation }))
    }
}

impl Engine {
    /// What `let_in` comes to, which keeps the request in the transaction of what it lets in; or
    /// what it came to when the request came first, also if that is only now. A loss of power does
    /// not undo it any more.
    pub(super) async fn once<T: Requested>(
        &self,
        key: Option<RequestKey>,
        let_in: impl Future<Output = Result<Accepted<T>, EngineError>>,
    ) -> Result<Accepted<T>, EngineError> {
        let accepted = self.once_let_in(key, let_in).await?;
        // What was let in begins first: it takes longer than the storage.
        tokio::task::yield_now().await;
        self.sync().await?;
        Ok(accepted)
    }

    async fn once_let_in<T: Requested>(
        &self,
        key: Option<RequestKey>,
        let_in: impl Future<Output = Result<Accepted<T>, EngineError>>,
    ) -> Result<Accepted<T>, EngineError> {
        let Some(key) = key else { return let_in.await };
        if let Some(first) = self.repeated(&key).await? {
            return Ok(first);
        }
        match let_in.await {
            Ok(accepted) => Ok(accepted),
            // Whatever is in the way may be what its twin was let in for meanwhile.
            Err(error) => self.repeated(&key).await?.ok_or(error),
        }
    }

    async fn repeated<T: Requested>(
        &self,
        key: &RequestKey,
    ) -> Result<Option<Accepted<T>>, EngineError> {
        let Some(kept) = self.recall().request(&key.key).await? else { return Ok(None) };
        let reused = || EngineError::KeyReused(key.key.clone());
        if kept.fingerprint != key.fingerprint {
            return Err(reused());
        }
        T::now(self, &kept.let_in).await?.ok_or_else(reused).map(Some)
    }

    /// The change that keeps a request.
    pub(super) fn keep(&self, key: Option<&RequestKey>, let_in: LetIn) -> Option<Change> {
        let RequestKey { key, fingerprint } = key?.clone();
        Some(Change::KeepRequest(KeptRequest { key, fingerprint, let_in, at: self.now() }))
    }

    /// Nothing had to be done: the request is all there is to record.
    pub(super) async fn already_so<T>(
        &self,
        key: Option<&RequestKey>,
        subject: Subject,
        accepted: Accepted<T>,
    ) -> Result<Accepted<T>, EngineError> {
        let let_in = LetIn::Subject(subject, accepted.operation);
        self.commit(self.keep(key, let_in).into_iter().collect()).await?;
        Ok(accepted)
    }
}
