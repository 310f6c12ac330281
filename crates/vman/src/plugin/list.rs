//! `vman plugin list`: each backend, how far it has come, and why no farther. The daemon is asked
//! if one runs; else it is tried here what a daemon would find.

use std::io::Write;

use crate::cli::Global;
use crate::client::{self, Connection, Output};
use crate::config::{self, Surroundings};
use crate::failure::Failure;
use crate::serve::{ServeError, backend};

pub(super) fn run<W: Write>(global: &Global, out: &mut Output<W>) -> Result<(), Failure> {
    let asked = Connection::find(global).and_then(|daemon| client::backends(&daemon, out));
    let Err(Failure::Unreachable { at, why, .. }) = asked else { return asked };
    if global.url.is_some() {
        let next = "ask without --url to have it tried here".to_owned();
        return Err(Failure::Unreachable { at, why, next });
    }
    let config = config::load(&global.into(), &Surroundings::of_process())?.config;
    let wanted = backend::wanted(&config, &config.storage.join("machines"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::Runtime)?;
    let reports = backend::reports(runtime.block_on(vman_operator::examine(&wanted)));
    // A backend that hangs was given up, and is not waited for here either.
    runtime.shutdown_background();
    if out.is_json() {
        return Ok(out.json(&serde_json::json!(reports))?);
    }
    client::backend_table(reports, out)?;
    Ok(out.line(&format!("no daemon runs ({why}): this is what one would find"))?)
}
