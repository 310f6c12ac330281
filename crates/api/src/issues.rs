//! `/issues`

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use vman_api_types as body;
use vman_core::ident::IssueId;

use crate::page::{self, PageQuery, Query};
use crate::path::Named;
use crate::problem::Fault;
use crate::state::App;
use crate::vocabulary::ISSUE_STATES;
use crate::{convert, docs};

/// Decisions and repairs told of one issue: the newest.
const STORY_LENGTH_MAX: usize = 100;

/// All issues, newest first
#[utoipa::path(get, path = "/issues", operation_id = "list_issues", tag = "issues",
    params(
        ("state" = Option<String>, Query, description = "Only those in this state"),
        PageQuery,
    ),
    responses(
        (status = 200, description = "A page of them", body = [body::Issue]),
        docs::BadQuery, docs::NotNow,
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    Query(mut query): Query,
) -> Result<Response, Fault> {
    let state = query.optional("state", page::one_of(&ISSUE_STATES));
    let page = page::read::<IssueId>(&mut query);
    query.finish(|| Some(()))?;
    let limit = page.limit;
    let recall = app.engine.recall();
    let issues = page::listed(recall.issues(state, page).await)?;
    let last = issues.last().map(|issue| issue.id.to_string());
    let mut bodies = Vec::with_capacity(issues.len());
    for issue in issues {
        let judgements = newest(recall.judgements(issue.id).await?);
        let repairs = newest(recall.repairs_of(issue.id).await?);
        bodies.push(convert::issue(issue, judgements, &repairs, None));
    }
    let filter = state.map(|state| format!("state={state}"));
    Ok(page::answer("/issues", filter, limit, last, bodies))
}

/// One issue with its whole story: evidence, what the policies answered, and what was done
#[utoipa::path(get, path = "/issues/{id}", operation_id = "get_issue", tag = "issues",
    params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "The issue", body = body::Issue),
        docs::Unknown, docs::NotNow,
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    Named(id): Named<IssueId>,
) -> Result<Json<body::Issue>, Fault> {
    let recall = app.engine.recall();
    let issue = recall.issue(id).await?;
    let issue = issue.ok_or_else(|| Fault::unknown("issue", &id.to_string()))?;
    let judgements = newest(recall.judgements(id).await?);
    let repairs = newest(recall.repairs_of(id).await?);
    let mut operations = Vec::with_capacity(repairs.len());
    for repair in &repairs {
        operations.extend(recall.operation(*repair).await?);
    }
    Ok(Json(convert::issue(issue, judgements, &repairs, Some(operations))))
}

/// The end of a list that is oldest first.
fn newest<T>(mut list: Vec<T>) -> Vec<T> {
    list.drain(..list.len().saturating_sub(STORY_LENGTH_MAX));
    list
}
