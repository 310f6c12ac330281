//! `/templates`

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use vman_api_types as body;
use vman_core::disk::check_size_gib;
use vman_core::ident::{Invalid, Name};
use vman_core::template::{Boot, Cmdline, ROOT_DISK_GIB, check_cpu_count, check_ram_mib};
use vman_engine::{EngineError, NewTemplate};

use crate::body::JsonBody;
use crate::fields::{Fields, integer, parsed, string};
use crate::keyed::Keyed;
use crate::page::{self, PageQuery, Query};
use crate::path::Named;
use crate::problem::Fault;
use crate::state::App;
use crate::{convert, docs};

/// All templates, by name
#[utoipa::path(get, path = "/templates", operation_id = "list_templates", tag = "templates",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of them", body = [body::Template]),
        docs::BadQuery, docs::NotNow,
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    Query(mut query): Query,
) -> Result<Response, Fault> {
    let page = page::read::<Name>(&mut query);
    query.finish(|| Some(()))?;
    let limit = page.limit;
    let templates = page::listed(app.engine.recall().templates(page).await)?;
    let last = templates.last().map(|template| template.name.to_string());
    let bodies = templates.into_iter().map(convert::template).collect();
    Ok(page::answer("/templates", None, limit, last, bodies))
}

/// Make a template
#[utoipa::path(post, path = "/templates", operation_id = "create_template", tag = "templates",
    request_body = body::NewTemplate,
    params(docs::KeyHeader),
    responses(
        (status = 201, description = "Made", body = body::Template,
            headers(("Location" = String, description = "The template"))),
        docs::BadBody, docs::Unknown, docs::Conflict, docs::Reused, docs::NotNow,
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    Keyed(JsonBody(fields), key): Keyed<JsonBody>,
) -> Result<Response, Fault> {
    let new = read(fields)?;
    let name = new.name.clone();
    let made = app.engine.create_template(new, key).await;
    let template = made.map_err(|error| about(&name, error))?.record;
    let location = format!("/templates/{}", template.name);
    let template = Json(convert::template(template));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], template).into_response())
}

/// One template
#[utoipa::path(get, path = "/templates/{name}", operation_id = "get_template", tag = "templates",
    params(("name" = String, Path)),
    responses(
        (status = 200, description = "The template", body = body::Template),
        docs::Unknown, docs::NotNow,
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    Named(name): Named<Name>,
) -> Result<Json<body::Template>, Fault> {
    let template = app.engine.recall().template(&name).await?;
    let template = template.ok_or_else(|| Fault::unknown("template", name.as_str()))?;
    Ok(Json(convert::template(template)))
}

/// Delete a template that no VM is made from
#[utoipa::path(delete, path = "/templates/{name}",
    operation_id = "delete_template", tag = "templates",
    params(("name" = String, Path)),
    responses(
        (status = 204, description = "Deleted"), docs::Unknown, docs::Conflict, docs::NotNow,
    )
)]
pub(crate) async fn delete(
    State(app): State<App>,
    Named(name): Named<Name>,
) -> Result<StatusCode, Fault> {
    app.engine.delete_template(&name).await.map_err(|error| about(&name, error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn about(name: &Name, error: EngineError) -> Fault {
    let object = body::Subject { kind: "template".to_owned(), id: name.to_string() };
    Fault::from(error).about(object)
}

fn read(mut fields: Fields) -> Result<NewTemplate, Fault> {
    let name = fields.required("name", parsed);
    let cpu_count = fields.required("cpu_count", integer(check_cpu_count));
    let ram_mib = fields.required("ram_amount", integer(check_ram_mib));
    let has_boot = fields.has("boot");
    let boot = fields.optional_object("boot", read_boot);
    let root_disk_size = fields.optional("root_disk_size", integer(check_size_gib));
    if has_boot && root_disk_size.is_some() {
        let problem = "is for VMs that boot from their root disk; leave it out, or leave out boot";
        fields.problem("root_disk_size", problem.to_owned());
    }
    let size_gib = root_disk_size.unwrap_or(ROOT_DISK_GIB);
    let boot = boot.unwrap_or(Boot::RootDisk { size_gib });
    fields.finish(|| {
        Some(NewTemplate { name: name?, cpu_count: cpu_count?, ram_mib: ram_mib?, boot })
    })
}

fn read_boot(fields: &mut Fields) -> Option<Boot> {
    if fields.has("kernel") && fields.has("firmware") {
        fields.problem("kernel", "cannot be beside firmware; give one of them".to_owned());
    }
    if fields.has("firmware") {
        let firmware = fields.required("firmware", parsed);
        return Some(Boot::Firmware { firmware: firmware? });
    }
    let kernel = fields.required("kernel", parsed);
    let initrd = fields.optional("initrd", parsed);
    let cmdline = fields
        .optional("cmdline", |value| -> Result<_, Invalid> { Cmdline::parse(&string(value)?) });
    Some(Boot::Kernel { kernel: kernel?, initrd, cmdline: cmdline.unwrap_or_default() })
}
