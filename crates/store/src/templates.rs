//! The table of templates: its rows, and the SQL that reads and changes them.

use rusqlite::{Connection, Row, params};
use vman_core::ident::Name;
use vman_core::ports::{Page, RecordError};
use vman_core::template::{Boot, Cmdline, Template};

use crate::cells::{Cells, Fault, all, execute, first, integer};

pub(crate) fn find(connection: &Connection, name: &Name) -> Result<Option<Template>, Fault> {
    first(connection, "SELECT * FROM templates WHERE name = ?1", [name.as_str()], read)
}

/// A template may go while its list is read, and the next page is still right: names have an order
/// of their own.
pub(crate) fn page(connection: &Connection, page: &Page<Name>) -> Result<Vec<Template>, Fault> {
    let sql = "SELECT * FROM templates WHERE name > ?1 ORDER BY name LIMIT ?2";
    let after = page.after.as_ref().map_or("", Name::as_str);
    all(connection, sql, params![after, page.limit], read)
}

fn read(row: &Row<'_>) -> Result<Template, Fault> {
    let cells = Cells::new(row, "templates", "name")?;
    let boot = match cells.get::<String>("boot")?.as_str() {
        "kernel" => Boot::Kernel {
            kernel: cells.parsed("kernel")?,
            initrd: cells.maybe_parsed("initrd")?,
            cmdline: cells.word("cmdline", |text| Cmdline::parse(text).ok())?,
        },
        "firmware" => Boot::Firmware { firmware: cells.parsed("firmware")? },
        "root-disk" => Boot::RootDisk { size_gib: cells.number("root_disk_gib")? },
        _ => return Err(cells.broken("boot", "it is none of its values")),
    };
    Ok(Template {
        name: cells.parsed("name")?,
        cpu_count: cells.small_number("cpu_count")?,
        ram_mib: cells.number("ram_mib")?,
        boot,
        created_at: cells.time("created_at")?,
    })
}

pub(crate) fn add(connection: &Connection, template: &Template) -> Result<(), Fault> {
    if find(connection, &template.name)?.is_some() {
        return Err(RecordError::Exists(format!("template {}", template.name)).into());
    }
    let (boot, kernel, initrd, cmdline, firmware, root_disk) = match &template.boot {
        Boot::Kernel { kernel, initrd, cmdline } => {
            ("kernel", Some(kernel), initrd.as_ref(), Some(cmdline), None, None)
        }
        Boot::Firmware { firmware } => ("firmware", None, None, None, Some(firmware), None),
        Boot::RootDisk { size_gib } => ("root-disk", None, None, None, None, Some(*size_gib)),
    };
    let sql = "INSERT INTO templates
        (name, cpu_count, ram_mib, boot, kernel, initrd, cmdline, firmware, root_disk_gib,
        created_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = params![
        template.name.as_str(),
        template.cpu_count,
        integer(template.ram_mib),
        boot,
        kernel.map(|file| file.as_str()),
        initrd.map(|file| file.as_str()),
        cmdline.map(Cmdline::as_str),
        firmware.map(|file| file.as_str()),
        root_disk.map(integer),
        integer(template.created_at.0),
    ];
    execute(connection, sql, values)?;
    Ok(())
}

pub(crate) fn remove(connection: &Connection, name: &Name) -> Result<(), Fault> {
    let users = "SELECT id FROM vms WHERE template = ?1 ORDER BY seq LIMIT 1";
    let user: Option<String> = first(connection, users, [name.as_str()], |row| Ok(row.get(0)?))?;
    if let Some(vm) = user {
        let text = format!("template {name} is used by VM {vm}; delete that VM first");
        return Err(RecordError::InUse(text).into());
    }
    match execute(connection, "DELETE FROM templates WHERE name = ?1", [name.as_str()])? {
        0 => Err(RecordError::NotFound(format!("template {name}")).into()),
        _ => Ok(()),
    }
}
