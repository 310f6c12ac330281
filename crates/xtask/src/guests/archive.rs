//! An initial RAM file system as the kernel unpacks it: a gzip'd cpio archive in the "newc" format.
//! Only folders and files; owners and times are left at zero, so equal contents give equal bytes.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc::{self, Builder};
use flate2::Compression;
use flate2::write::GzEncoder;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive being written.
pub(super) struct Archive {
    out: GzEncoder<BufWriter<File>>,
    entries: u32,
}

impl Archive {
    /// Starts an archive at `path`.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        // A guest that boots once need not be small.
        let out = GzEncoder::new(BufWriter::new(file), Compression::fast());
        Ok(Self { out, entries: 0 })
    }

    /// Adds an empty folder; its parent must have been added before.
    pub(super) fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, FOLDER, &[])
    }

    /// Adds a file that may be executed.
    pub(super) fn program(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, PROGRAM, content)
    }

    /// Writes the rest.
    pub(super) fn finish(self) -> Result<()> {
        let file = newc::trailer(self.out)?.finish()?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        self.entries += 1;
        let entry = Builder::new(name).ino(self.entries).mode(mode);
        let mut entry = entry.write(&mut self.out, size);
        entry.write_all(content).and_then(|()| entry.finish().map(drop))?;
        Ok(())
    }
}
