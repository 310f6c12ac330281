//! `vman template …`. What a boot file is, is not known here.

use std::io::Write;

use serde_json::Value;
use vman_api_types::{Boot, NewTemplate, Template};

use super::boot_files;
use super::connection::{Connection, parsed};
use super::output::Output;
use crate::cli::{TemplateCommand, TemplateCreate};
use crate::failure::Failure;

pub(crate) fn run<W: Write>(
    command: TemplateCommand,
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    match command {
        TemplateCommand::Create(wanted) => {
            let what = format!("create template {}", wanted.name);
            let template = new_template(connection, wanted)?;
            show(&what, connection.post(&what, "/templates", &template)?.body, output)
        }
        TemplateCommand::List => {
            let what = "list the templates";
            list(what, connection.list(what, "/templates")?, output)
        }
        TemplateCommand::Show { name } => {
            let what = format!("show template {name}");
            show(&what, connection.get(&what, &path(&name)?)?.body, output)
        }
        TemplateCommand::Delete { name } => {
            connection.delete(&format!("delete template {name}"), &path(&name)?)?;
            Ok(output.line(&format!("template {name} is deleted"))?)
        }
    }
}

fn path(name: &str) -> Result<String, Failure> {
    let checked: Result<vman_core::ident::Name, _> = name.parse();
    checked
        .map(|name| format!("/templates/{name}"))
        .map_err(|invalid| Failure::Usage(format!("{name:?} is no template's name: it {invalid}")))
}

fn new_template(connection: &Connection, wanted: TemplateCreate) -> Result<NewTemplate, Failure> {
    let provide = |path| boot_files::provide(connection, path);
    let boot = match (wanted.kernel, wanted.firmware) {
        (Some(kernel), _) => Some(Boot::Kernel {
            kernel: provide(&kernel)?,
            initrd: wanted.initrd.as_deref().map(provide).transpose()?,
            cmdline: wanted.cmdline,
        }),
        (None, Some(firmware)) => Some(Boot::Firmware { firmware: provide(&firmware)? }),
        (None, None) => None,
    };
    Ok(NewTemplate {
        name: wanted.name,
        cpu_count: wanted.cpus,
        ram_amount: wanted.ram,
        boot,
        root_disk_size: wanted.root_disk_size,
    })
}

fn list<W: Write>(what: &str, body: Value, output: &mut Output<W>) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let templates: Vec<Template> = parsed(what, body)?;
    let row = |template: Template| {
        let boot = boot(&template);
        vec![template.name, template.cpu_count.to_string(), template.ram_amount.to_string(), boot]
    };
    let rows = templates.into_iter().map(row).collect();
    Ok(output.rows(&["NAME", "CPUS", "RAM/MIB", "BOOT"], rows)?)
}

fn show<W: Write>(what: &str, body: Value, output: &mut Output<W>) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let template: Template = parsed(what, body)?;
    let boot = boot(&template);
    Ok(output.fields(vec![
        ("name", template.name),
        ("cpus", template.cpu_count.to_string()),
        ("ram", format!("{} MiB", template.ram_amount)),
        ("boot", boot),
        ("created", template.created_at),
    ])?)
}

fn boot(template: &Template) -> String {
    match &template.boot {
        None => match template.root_disk_size {
            Some(size) => format!("first disk, of {size} GiB unless it has one"),
            None => "first disk".to_owned(),
        },
        Some(Boot::Firmware { firmware }) => format!("firmware {firmware}"),
        Some(Boot::Kernel { kernel, initrd, cmdline }) => {
            let initrd = initrd.iter().map(|initrd| format!(" initrd {initrd}"));
            let cmdline = cmdline.iter().map(|cmdline| format!(" cmdline \"{cmdline}\""));
            format!("kernel {kernel}{}", initrd.chain(cmdline).collect::<String>())
        }
    }
}
