//! `/templates`

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use vman_api_types as body;
use vman_core::ident::{Invalid, Name};
use vman_core::template::{Boot, Cmdline, check_cpu_count, check_ram_mib};
use vman_engine::NewTemplate;

use crate::body::JsonBody;
use crate::fields::{Fields, integer, parsed, string};
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
    responses(
        (status = 201, description = "Made", body = body::Template,
            headers(("Location" = String, description = "The template"))),
        docs::BadBody, docs::Conflict, docs::NotNow,
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    JsonBody(fields): JsonBody,
) -> Result<Response, Fault> {
    let new = read(fields)?;
    let template = app.engine.create_template(new).await?;
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
    app.engine.delete_template(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read(mut fields: Fields) -> Result<NewTemplate, Fault> {
    let name = fields.required("name", parsed);
    let cpu_count = fields.required("cpu_count", integer(check_cpu_count));
    let ram_mib = fields.required("ram_amount", integer(check_ram_mib));
    let boot = fields.optional_object("boot", read_boot).unwrap_or(Boot::RootDisk);
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
