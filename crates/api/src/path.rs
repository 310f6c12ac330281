//! The object that a path names. A text that cannot be a name or an id names nothing: 404.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use uuid::Uuid;
use vman_core::ident::{DiskId, IssueId, Name, OperationId, VmId};

use crate::problem::Fault;

/// Characters of an id: only the hyphenated form is taken, so that every object has one path.
const UUID_LENGTH: usize = 36;

/// The one variable part of the path.
#[derive(Debug)]
pub(crate) struct Named<Key>(pub(crate) Key);

/// What can stand in a path.
pub(crate) trait PathKey: Sized {
    /// The kind of object it names.
    const KIND: &'static str;

    fn read(text: &str) -> Option<Self>;
}

impl<S: Send + Sync, Key: PathKey> FromRequestParts<S> for Named<Key> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        // It fails only for percent-encoded bytes that are not UTF-8, which name nothing either.
        let text = Path::<String>::from_request_parts(parts, state).await;
        let text = text.map(|Path(text)| text).unwrap_or_default();
        Key::read(&text).map(Self).ok_or_else(|| Fault::unknown(Key::KIND, &text))
    }
}

pub(crate) fn uuid(text: &str) -> Option<Uuid> {
    if text.len() == UUID_LENGTH { Uuid::try_parse(text).ok() } else { None }
}

macro_rules! id_in_path {
    ($($id:ident = $kind:literal,)*) => {$(
        impl PathKey for $id {
            const KIND: &'static str = $kind;

            fn read(text: &str) -> Option<Self> {
                uuid(text).map(Self)
            }
        }
    )*};
}

id_in_path!(VmId = "vm", DiskId = "disk", OperationId = "operation", IssueId = "issue",);

impl PathKey for Name {
    const KIND: &'static str = "template";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}
