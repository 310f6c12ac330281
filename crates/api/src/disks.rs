//! `/disks`

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use vman_api_types as body;
use vman_core::disk::{Bus, Disk, MountPoint, check_size_gib};
use vman_core::ident::{DiskId, Invalid, VmId};
use vman_core::lifecycle::DiskCommand;
use vman_core::operation::{Reason, Subject, Verb};
use vman_core::ports::RecordError;
use vman_engine::{Accepted, EngineError, NewDisk, RequestKey};

use crate::accepted::{self, Outcome};
use crate::body::{JsonBody, NoBody};
use crate::fields::{Fields, integer, parsed, string};
use crate::keyed::Keyed;
use crate::page::{self, PageQuery, Query};
use crate::path::{Named, uuid};
use crate::prefer::Prefer;
use crate::problem::Fault;
use crate::state::{ApiState, App};
use crate::{convert, docs};

/// For an image to be made before its disk is answered with.
const CREATION_WAIT: Duration = Duration::from_secs(30);

/// All disks, in the order of creation
#[utoipa::path(get, path = "/disks", operation_id = "list_disks", tag = "disks",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of them", body = [body::Disk]),
        docs::BadQuery, docs::NotNow,
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    Query(mut query): Query,
) -> Result<Response, Fault> {
    let page = page::read::<DiskId>(&mut query);
    query.finish(|| Some(()))?;
    let limit = page.limit;
    let disks = page::listed(app.engine.recall().disks(page).await)?;
    let last = disks.last().map(|disk| disk.id.to_string());
    Ok(page::answer("/disks", None, limit, last, disks.into_iter().map(convert::disk).collect()))
}

/// Make a disk with an empty image
#[utoipa::path(post, path = "/disks", operation_id = "create_disk", tag = "disks",
    request_body = body::NewDisk,
    params(
        ("Prefer" = Option<String>, Header, description = "`respond-async`, `wait=N`"),
        docs::KeyHeader,
    ),
    responses(
        (status = 201, description = "Made", body = body::Disk,
            headers(("Location" = String, description = "The disk"))),
        (status = 202, description = "Its image is still being made", body = body::Disk,
            headers(("Location" = String, description = "The operation"))),
        docs::BadBody, docs::Unknown, docs::Conflict, docs::Unmade, docs::TooMany, docs::NotNow,
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    prefer: Prefer,
    Keyed(JsonBody(fields), key): Keyed<JsonBody>,
) -> Result<Response, Fault> {
    let new = read(fields)?;
    let accepted = app.engine.create_disk(new, key).await?;
    let id = accepted.record.id;
    if let Some(operation) = accepted.operation {
        match accepted::outcome(&app, operation, prefer.wait_or(CREATION_WAIT)).await? {
            Outcome::Succeeded => {}
            Outcome::UnderWay(_) => {
                let disk = present(&app, id).await?;
                return Ok(prefer.applied(accepted::object(StatusCode::ACCEPTED, operation, disk)));
            }
        }
    }
    let location = [(header::LOCATION, format!("/disks/{id}"))];
    let disk = Json(present(&app, id).await?);
    Ok(prefer.applied((StatusCode::CREATED, location, disk).into_response()))
}

/// One disk
#[utoipa::path(get, path = "/disks/{id}", operation_id = "get_disk", tag = "disks",
    params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "The disk", body = body::Disk),
        docs::Unknown, docs::NotNow,
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    Named(id): Named<DiskId>,
) -> Result<Json<body::Disk>, Fault> {
    present(&app, id).await.map(Json)
}

/// Delete a disk that no VM has, and its image
#[utoipa::path(delete, path = "/disks/{id}", operation_id = "delete_disk", tag = "disks",
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
    Named(id): Named<DiskId>,
    prefer: Prefer,
) -> Result<Response, Fault> {
    let accepted = command(&app, id, DiskCommand::Delete, None, None).await?;
    accepted::deletion(&app, Subject::Disk(id), Verb::DiskDelete, accepted.operation, prefer).await
}

/// Give a disk to a VM
#[utoipa::path(post, path = "/disks/{id}/attach", operation_id = "attach_disk", tag = "disks",
    request_body = body::AttachDisk,
    params(
        ("id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N` waits for the end"),
        docs::KeyHeader,
    ),
    responses(
        (status = 200, description = "It is so", body = body::Disk),
        (status = 202, description = "Accepted; the disk as it is now", body = body::Disk,
            headers(("Location" = String, description = "The operation"))),
        docs::BadBody, docs::Unknown, docs::Conflict, docs::Reused, docs::TooMany, docs::NotNow,
    )
)]
pub(crate) async fn attach(
    State(app): State<App>,
    Named(id): Named<DiskId>,
    prefer: Prefer,
    Keyed(JsonBody(fields), key): Keyed<JsonBody>,
) -> Result<Response, Fault> {
    let (vm, mount_point) = read_attach(fields)?;
    act(&app, id, DiskCommand::Attach(vm), mount_point, key, prefer).await
}

/// Take a disk from its VM
#[utoipa::path(post, path = "/disks/{id}/detach", operation_id = "detach_disk", tag = "disks",
    params(
        ("id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N` waits for the end"),
        docs::KeyHeader,
    ),
    responses(
        (status = 200, description = "It is so", body = body::Disk),
        (status = 202, description = "Accepted; the disk as it is now", body = body::Disk,
            headers(("Location" = String, description = "The operation"))),
        docs::BadBody, docs::Unknown, docs::Conflict, docs::Reused, docs::TooMany, docs::NotNow,
    )
)]
pub(crate) async fn detach(
    State(app): State<App>,
    Named(id): Named<DiskId>,
    prefer: Prefer,
    Keyed(NoBody, key): Keyed<NoBody>,
) -> Result<Response, Fault> {
    act(&app, id, DiskCommand::Detach, None, key, prefer).await
}

/// Make a disk larger, also below a running VM
#[utoipa::path(post, path = "/disks/{id}/resize", operation_id = "resize_disk", tag = "disks",
    request_body = body::ResizeDisk,
    params(
        ("id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N` waits for the end"),
        docs::KeyHeader,
    ),
    responses(
        (status = 200, description = "It is so", body = body::Disk),
        (status = 202, description = "Accepted; the disk as it is now", body = body::Disk,
            headers(("Location" = String, description = "The operation"))),
        docs::BadBody, docs::Unknown, docs::Conflict, docs::Reused, docs::TooMany, docs::NotNow,
    )
)]
pub(crate) async fn resize(
    State(app): State<App>,
    Named(id): Named<DiskId>,
    prefer: Prefer,
    Keyed(JsonBody(mut fields), key): Keyed<JsonBody>,
) -> Result<Response, Fault> {
    let size_gib = fields.required("size", integer(check_size_gib));
    let size_gib = fields.finish(|| size_gib)?;
    act(&app, id, DiskCommand::Resize(size_gib), None, key, prefer).await
}

async fn act(
    app: &ApiState,
    id: DiskId,
    command: DiskCommand,
    mount_point: Option<MountPoint>,
    key: Option<RequestKey>,
    prefer: Prefer,
) -> Result<Response, Fault> {
    let accepted = self::command(app, id, command, mount_point, key).await?;
    let Some(operation) = accepted.operation else {
        return Ok(Json(convert::disk(accepted.record)).into_response());
    };
    let Some(wait) = prefer.wait else {
        let disk = convert::disk(accepted.record);
        return Ok(prefer.applied(accepted::object(StatusCode::ACCEPTED, operation, disk)));
    };
    let status = match accepted::outcome(app, operation, wait).await? {
        Outcome::Succeeded => StatusCode::OK,
        Outcome::UnderWay(_) => StatusCode::ACCEPTED,
    };
    Ok(prefer.applied(accepted::object(status, operation, present(app, id).await?)))
}

async fn command(
    app: &ApiState,
    id: DiskId,
    command: DiskCommand,
    mount_point: Option<MountPoint>,
    key: Option<RequestKey>,
) -> Result<Accepted<Disk>, Fault> {
    match app.engine.command_disk(id, command, mount_point, Reason::User, key).await {
        Ok(accepted) => Ok(accepted),
        // The store keeps two disks of a VM from one place.
        Err(EngineError::Record(error @ RecordError::Exists(_))) => Err(Fault::from(error)
            .about(convert::subject(&Subject::Disk(id)))
            .hint("name a mount_point that is free, or none")),
        Err(error) => {
            let vm = vm_concerned(app, id, command).await;
            Err(accepted::refusal(app, error, vm.map(Subject::Vm)).await)
        }
    }
}

async fn vm_concerned(app: &ApiState, id: DiskId, command: DiskCommand) -> Option<VmId> {
    match command {
        DiskCommand::Attach(vm) => Some(vm),
        DiskCommand::Detach
        | DiskCommand::Resize(_)
        | DiskCommand::Released
        | DiskCommand::Delete
        | DiskCommand::MarkMissing
        | DiskCommand::MarkAvailable => app.engine.recall().disk(id).await.ok()??.vm,
    }
}

async fn present(app: &ApiState, id: DiskId) -> Result<body::Disk, Fault> {
    let disk = app.engine.recall().disk(id).await?;
    disk.map(convert::disk).ok_or_else(|| Fault::unknown("disk", &id.to_string()))
}

fn read(mut fields: Fields) -> Result<NewDisk, Fault> {
    let size_gib = fields.required("size", integer(check_size_gib));
    let mount_point = fields.optional("mount_point", parsed);
    let format = fields.optional("format", parsed);
    let bus = fields.optional("bus", parsed).unwrap_or(Bus::VirtioScsi);
    fields.finish(|| Some(NewDisk { size_gib: size_gib?, format, bus, mount_point }))
}

fn read_attach(mut fields: Fields) -> Result<(VmId, Option<MountPoint>), Fault> {
    let vm = fields.required("vm_id", |value| {
        uuid(&string(value)?).ok_or_else(|| Invalid("must be the id of a VM".to_owned()))
    });
    let mount_point = fields.optional("mount_point", parsed);
    fields.finish(|| Some((VmId(vm?), mount_point)))
}
