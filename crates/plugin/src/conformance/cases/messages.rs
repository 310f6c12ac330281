//! Requests as they cross the border, beside those that a host of today sends.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::conformance::bench::Bench;
use crate::conformance::case::Case;
use crate::conformance::fault::{Fault, Outcome, SOON, Works, ensure, fails};
use crate::conformance::raw::{Answer, ask};
use crate::host::{Client, Dropped};
use crate::wire::MAX_MESSAGE_BYTES;
use crate::{ErrorCode, Survey};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "an-operation-of-tomorrow-is-unsupported",
        "An operation of a name that it does not know is `unsupported`, and harms nothing.",
        &[],
        |bench| Box::pin(of_tomorrow(bench)),
    ),
    Case::new(
        "fields-of-tomorrow-are-ignored",
        "Fields that it does not know, anywhere, change nothing.",
        &[],
        |bench| Box::pin(more_fields(bench)),
    ),
    Case::new(
        "what-does-not-parse-is-invalid",
        "Requests that are no JSON, or not of the contract, are `invalid`, each answered once.",
        &[],
        |bench| Box::pin(malformed(bench)),
    ),
    Case::new(
        "the-longest-request-is-answered",
        "A request of 16 MiB is answered, and a longer one does not reach the backend.",
        &[],
        |bench| Box::pin(longest(bench)),
    ),
    Case::new(
        "many-operations-are-under-way-at-once",
        "Two hundred requests at the same time are each answered once.",
        &[],
        |bench| Box::pin(many_at_once(bench)),
    ),
];

/// Below what the host has under way at most, 256.
const AT_ONCE: usize = 200;

async fn of_tomorrow(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    for op in ["of-tomorrow", "", "Survey", "survey ", "SURVEY", "surveys", "surve", "überwachen"]
    {
        for params in [json!({}), json!({"id": 3, "more": [{}]}), json!([]), Value::Null] {
            let request = json!({"op": op, "params": params}).to_string();
            refused(client, request.as_bytes(), ErrorCode::Unsupported).await?;
        }
    }
    works_still(client).await?;
    instance.end().await
}

async fn more_fields(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let id = Uuid::new_v4();
    for request in [
        json!({"op": "survey", "params": {"more": [1]}, "of-tomorrow": {"op": "kill"}}),
        json!({"op": "survey"}),
        json!({"op": "kill", "params": {"id": id, "force": true, "ids": [id]}}),
        json!({"op": "sight", "params": {"id": id, "": null}}),
        json!({"a": 1, "op": "quit", "params": {"id": id, "grace": 1e9}}),
    ] {
        match ask(client, request.to_string().into_bytes()).await? {
            Answer::Ok(_) => {}
            Answer::Failed(error) => {
                return Err(Fault(format!("{request} was refused: {}", error.message)));
            }
        }
    }
    instance.end().await
}

async fn malformed(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let deep = format!(r#"{{"op": "survey", "params": {}"#, "[".repeat(100_000));
    let texts: [&str; 26] = [
        "",
        " ",
        "{",
        "}",
        "{}",
        "[]",
        "null",
        "3",
        "\"op",
        r#"{"op"}"#,
        r#"{"op": 3}"#,
        r#"{"op": "survey",}"#,
        r#"{"op": "survey"} x"#,
        r#"{"op": "sur\vey"}"#,
        r#"{"op": "\ud800"}"#,
        r#"{"op": "survey", "n": 01}"#,
        "{\"op\": \"a\nb\"}",
        "{op: 1}",
        r#"{"op": "kill"}"#,
        r#"{"op": "kill", "params": []}"#,
        r#"{"op": "kill", "params": {"id": "../x"}}"#,
        r#"{"op": "kill", "params": {"id": 7}}"#,
        r#"{"op": "launch", "params": {}}"#,
        r#"{"op": "create-image", "params": {"path": "/x", "virtual_size": 512}}"#,
        r#"{"op": "create-image", "params": {"path": "/x", "format": "raw", "virtual_size": -1}}"#,
        &deep,
    ];
    let bytes: [&[u8]; 4] =
        [b"{\"op\": \"\xff\"}", b"{\"op\": \"\xc3\"}", b"\0", b"{\"op\": \"\xed\xa0\x80\"}"];
    for request in texts.map(str::as_bytes).iter().chain(&bytes) {
        refused(client, request, ErrorCode::Invalid).await?;
    }
    works_still(client).await?;
    instance.end().await
}

async fn longest(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (before, after) = (r#"{"op": "survey", "more": ""#, r#""}"#);
    let padding = MAX_MESSAGE_BYTES - before.len() - after.len();
    let request = format!("{before}{}{after}", "x".repeat(padding));
    match ask(client, request.clone().into_bytes()).await? {
        Answer::Ok(json) => ensure!(
            serde_json::from_value::<Survey>(json).is_ok_and(|survey| survey.machines.is_empty()),
            "a survey asked for at length is none"
        ),
        Answer::Failed(error) => {
            return Err(Fault(format!("the longest request was refused: {}", error.message)));
        }
    }
    let longer = client.raw(format!("{request} ").into_bytes(), SOON).await;
    fails(longer, "a request that is too long", &[ErrorCode::Invalid])?;
    works_still(client).await?;
    instance.end().await
}

async fn many_at_once(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let surveys = (0..AT_ONCE).map(|_| client.survey());
    for survey in futures_util::future::join_all(surveys).await {
        survey.works("one of many surveys at once")?;
    }
    works_still(client).await?;
    instance.end().await
}

async fn refused(client: &Client, request: &[u8], code: ErrorCode) -> Outcome {
    let shown: String = String::from_utf8_lossy(request).chars().take(100).collect();
    match ask(client, request.to_vec()).await? {
        Answer::Ok(json) => Err(Fault(format!("the request {shown} was answered with {json}"))),
        Answer::Failed(error) => fails::<()>(Err(error), &format!("the request {shown}"), &[code]),
    }
}

/// It is not poisoned, and every operation was answered once.
async fn works_still(client: &Client) -> Outcome {
    client.survey().await.works("a survey after odd requests")?;
    ensure!(client.dropped() == Dropped::default(), "dropped: {:?}", client.dropped());
    Ok(())
}
