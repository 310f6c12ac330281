//! Why the engine did not let a request in. What an operation failed with is in its record.

use thiserror::Error;
use vman_core::disk::ImageFormat;
use vman_core::ident::{IdempotencyKey, Name, OperationId};
use vman_core::lifecycle::{Denied, NotCancellable};
use vman_core::operation::{Subject, Verb};
use vman_core::ports::RecordError;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("{0} does not exist")]
    NotFound(Subject),
    #[error("template {0} does not exist; see the list of templates, or make it first")]
    NoTemplate(Name),
    /// It conflicts with the present state.
    #[error("{subject} is {state}: {denied}")]
    Denied { subject: Subject, state: &'static str, denied: Denied },
    #[error("subnet {0} has no free address; delete a VM, or configure a larger subnet")]
    PoolExhausted(String),
    #[error("VM {0} has no free device letter; detach a disk first, or ask for a mount point")]
    NoFreeMountPoint(vman_core::ident::VmId),
    /// The backend does not make images of the format that was asked for, or none at all.
    #[error("{}", no_such_images(.backend, *.asked, .makes))]
    NoSuchImages { backend: String, asked: Option<ImageFormat>, makes: Vec<ImageFormat> },
    #[error("{0} has too many operations waiting; wait for them to end")]
    Full(Subject),
    /// Others changed the record faster than this request could be decided.
    #[error("{0} is being changed by others; try again")]
    Contended(Subject),
    #[error("idempotency key {0} was used for another request; use a new key for a new request")]
    KeyReused(IdempotencyKey),
    #[error("operation {operation} ({}) cannot be cancelled: {why}", .verb.word())]
    NotCancellable { operation: OperationId, verb: Verb, why: NotCancellable },
}

fn no_such_images(backend: &str, asked: Option<ImageFormat>, makes: &[ImageFormat]) -> String {
    let made: Vec<&str> = makes.iter().map(|format| format.word()).collect();
    match (asked, made.as_slice()) {
        (_, []) => format!("backend {backend} makes no images: its machines have no disks"),
        (asked, made) => {
            let asked = asked.map_or("such", ImageFormat::word);
            format!("backend {backend} makes no {asked} images; it makes {}", made.join(", "))
        }
    }
}
