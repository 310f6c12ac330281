//! Requests as bytes, and whether what comes back is an answer at all. What it should say is for
//! the cases to judge.

use serde_json::Value;

use super::fault::{Fault, Works, ensure};
use crate::host::Client;
use crate::wire::STATUS_OK;
use crate::{BackendError, ErrorCode, deadline};

/// What a request came to.
#[derive(Debug)]
pub(super) enum Answer {
    Ok(Value),
    Failed(BackendError),
}

/// Sends bytes; fails unless exactly what is allowed comes back within the longest deadline there
/// is, and the plugin did not panic over it.
pub(super) async fn ask(client: &Client, request: Vec<u8>) -> Result<Answer, Fault> {
    let answer = client.raw(request, deadline::LAUNCH).await;
    let (status, json) = answer.works("a request")?;
    let json = json.ok_or_else(|| Fault("the answer is longer than may be".to_owned()))?;
    let shown = || String::from_utf8_lossy(&json).chars().take(200).collect::<String>();
    if status == STATUS_OK {
        let value = serde_json::from_slice(&json);
        return value
            .map(Answer::Ok)
            .map_err(|error| Fault(format!("the answer {} is no JSON: {error}", shown())));
    }
    let error: BackendError = serde_json::from_slice(&json)
        .map_err(|error| Fault(format!("the error {} is none: {error}", shown())))?;
    let lost = [ErrorCode::Panicked, ErrorCode::Broken, ErrorCode::Crashed].contains(&error.code);
    ensure!(!lost, "the instance was lost over it: {}", error.message);
    ensure!(error.code != ErrorCode::Other, "an error of a code of no name: {}", shown());
    ensure!(!error.message.trim().is_empty(), "an error without a word: {}", shown());
    Ok(Answer::Failed(error))
}
