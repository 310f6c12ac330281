//! `/vms`

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use vman_api_types as body;
use vman_core::ident::VmId;
use vman_core::lifecycle::VmCommand;
use vman_core::operation::{Reason, Subject, Verb};
use vman_core::vm::{Vm, VmState};
use vman_engine::{Accepted, NewVm, RequestKey};

use crate::accepted::{self, Outcome};
use crate::body::{JsonBody, MergePatch, NoBody};
use crate::fields::{Fields, boolean, parsed};
use crate::keyed::Keyed;
use crate::page::{self, PageQuery, Query};
use crate::path::Named;
use crate::prefer::Prefer;
use crate::problem::Fault;
use crate::state::{ApiState, App};
use crate::{convert, docs};

/// All VMs, in the order of creation
#[utoipa::path(get, path = "/vms", operation_id = "list_vms", tag = "vms",
    params(
        ("state" = Option<String>, Query, description = "Only those in this state"),
        PageQuery,
    ),
    responses(
        (status = 200, description = "A page of them", body = [body::Vm]),
        docs::BadQuery, docs::NotNow,
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    Query(mut query): Query,
) -> Result<Response, Fault> {
    let state = query.optional("state", page::one_of(&VmState::WORDS));
    let page = page::read::<VmId>(&mut query);
    query.finish(|| Some(()))?;
    let limit = page.limit;
    let vms = page::listed(app.engine.recall().vms(state, page).await)?;
    let last = vms.last().map(|vm| vm.id.to_string());
    let mut bodies = Vec::with_capacity(vms.len());
    for vm in vms {
        bodies.push(with_disks(&app, vm).await?);
    }
    let filter = state.map(|state| format!("state={state}"));
    Ok(page::answer("/vms", filter, limit, last, bodies))
}

/// Make a VM from a template
#[utoipa::path(post, path = "/vms", operation_id = "create_vm", tag = "vms",
    request_body = body::NewVm,
    params(docs::KeyHeader),
    responses(
        (status = 201, description = "Made, and stopped", body = body::Vm,
            headers(("Location" = String, description = "The VM"))),
        docs::BadBody, docs::Unknown, docs::Conflict, docs::Reused, docs::NotNow,
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    Keyed(JsonBody(fields), key): Keyed<JsonBody>,
) -> Result<Response, Fault> {
    let new = read(fields)?;
    let vm = app.engine.create_vm(new, key).await?.record;
    let location = format!("/vms/{}", vm.id);
    let vm = Json(with_disks(&app, vm).await?);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], vm).into_response())
}

/// One VM
#[utoipa::path(get, path = "/vms/{id}", operation_id = "get_vm", tag = "vms",
    params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "The VM", body = body::Vm),
        docs::Unknown, docs::NotNow,
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    Named(id): Named<VmId>,
) -> Result<Json<body::Vm>, Fault> {
    present(&app, id).await.map(Json)
}

/// Change what is not its state: what is left out stays as it is
#[utoipa::path(patch, path = "/vms/{id}", operation_id = "update_vm", tag = "vms",
    request_body(content(
        (body::VmPatch = "application/merge-patch+json"), (body::VmPatch = "application/json"),
    )),
    params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "The VM as it is now", body = body::Vm),
        docs::BadBody, docs::Unknown, docs::Conflict, docs::NotNow,
    )
)]
pub(crate) async fn update(
    State(app): State<App>,
    Named(id): Named<VmId>,
    MergePatch(mut fields): MergePatch,
) -> Result<Json<body::Vm>, Fault> {
    let autostart = fields.optional("autostart", boolean);
    fields.finish(|| Some(()))?;
    match autostart {
        Some(autostart) => {
            let vm = app.engine.set_autostart(id, autostart).await?;
            with_disks(&app, vm).await.map(Json)
        }
        None => present(&app, id).await.map(Json),
    }
}

/// Delete a VM; stops it, and frees its disks
#[utoipa::path(delete, path = "/vms/{id}", operation_id = "delete_vm", tag = "vms",
    params(
        ("id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`respond-async`, `wait=N`"),
    ),
    responses(
        (status = 204, description = "Deleted"),
        (status = 202, description = "It goes on", body = body::Operation,
            headers(("Location" = String, description = "The operation"))),
        docs::Unknown, docs::Conflict, docs::TooMany, docs::NotNow,
    )
)]
pub(crate) async fn delete(
    State(app): State<App>,
    Named(id): Named<VmId>,
    prefer: Prefer,
) -> Result<Response, Fault> {
    let accepted = command(&app, id, VmCommand::Delete, None).await?;
    accepted::deletion(&app, Subject::Vm(id), Verb::VmDelete, accepted.operation, prefer).await
}

macro_rules! action {
    ($(#[doc = $doc:literal])* $name:ident, $id:literal, $path:literal, $command:expr) => {
        $(#[doc = $doc])*
        #[utoipa::path(post, path = $path, operation_id = $id, tag = "vms",
            params(
                ("id" = uuid::Uuid, Path),
                ("Prefer" = Option<String>, Header, description = "`wait=N` waits for the end"),
                docs::KeyHeader,
            ),
            responses(
                (status = 200, description = "It is so", body = body::Vm),
                (status = 202, description = "Accepted; the VM as it is now", body = body::Vm,
                    headers(("Location" = String, description = "The operation"))),
                docs::BadBody, docs::Unknown, docs::Conflict, docs::Unmade, docs::TooMany,
                docs::NotNow,
            )
        )]
        pub(crate) async fn $name(
            State(app): State<App>,
            Named(id): Named<VmId>,
            prefer: Prefer,
            Keyed(NoBody, key): Keyed<NoBody>,
        ) -> Result<Response, Fault> {
            act(&app, id, $command, key, prefer).await
        }
    };
}

action!(
    /// Start a VM
    start, "start_vm", "/vms/{id}/actions/start", VmCommand::Start
);
action!(
    /// Stop a VM by its power button, and firmly after a grace
    stop, "stop_vm", "/vms/{id}/actions/stop", VmCommand::Stop
);
action!(
    /// Stop a VM and start it again
    restart, "restart_vm", "/vms/{id}/actions/restart", VmCommand::Restart
);

action!(
    /// Halt a VM's processors; it keeps its memory
    pause, "pause_vm", "/vms/{id}/actions/pause", VmCommand::Pause
);
action!(
    /// Let a paused VM go on
    resume, "resume_vm", "/vms/{id}/actions/resume", VmCommand::Resume
);
action!(
    /// Reset a VM as its reset button does; the guest is not asked
    reset, "reset_vm", "/vms/{id}/actions/reset", VmCommand::Reset
);
action!(
    /// End a VM's machine at once; the guest is not asked
    kill, "kill_vm", "/vms/{id}/actions/kill", VmCommand::Kill
);

async fn act(
    app: &ApiState,
    id: VmId,
    command: VmCommand,
    key: Option<RequestKey>,
    prefer: Prefer,
) -> Result<Response, Fault> {
    let accepted = self::command(app, id, command, key).await?;
    let Some(operation) = accepted.operation else {
        return Ok(Json(with_disks(app, accepted.record).await?).into_response());
    };
    let Some(wait) = prefer.wait else {
        let vm = with_disks(app, accepted.record).await?;
        return Ok(prefer.applied(accepted::object(StatusCode::ACCEPTED, operation, vm)));
    };
    let status = match accepted::outcome(app, operation, wait).await? {
        Outcome::Succeeded => StatusCode::OK,
        Outcome::UnderWay(_) => StatusCode::ACCEPTED,
    };
    Ok(prefer.applied(accepted::object(status, operation, present(app, id).await?)))
}

async fn command(
    app: &ApiState,
    id: VmId,
    command: VmCommand,
    key: Option<RequestKey>,
) -> Result<Accepted<Vm>, Fault> {
    match app.engine.command_vm(id, command, Reason::User, key).await {
        Ok(accepted) => Ok(accepted),
        Err(error) => Err(accepted::refusal(app, error, None).await),
    }
}

async fn present(app: &ApiState, id: VmId) -> Result<body::Vm, Fault> {
    let vm = app.engine.recall().vm(id).await?;
    with_disks(app, vm.ok_or_else(|| Fault::unknown("vm", &id.to_string()))?).await
}

async fn with_disks(app: &ApiState, vm: Vm) -> Result<body::Vm, Fault> {
    let disks = app.engine.recall().disks_of(vm.id).await?;
    Ok(convert::vm(vm, &disks))
}

fn read(mut fields: Fields) -> Result<NewVm, Fault> {
    let template = fields.required("vm_template", parsed);
    let name = fields.optional("name", parsed);
    let autostart = fields.optional("autostart", boolean).unwrap_or(false);
    fields.finish(|| Some(NewVm { template: template?, name, autostart }))
}
