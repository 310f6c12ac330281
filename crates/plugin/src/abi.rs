//! The C border between a plugin and its host, both sides of it, and all `unsafe` of this crate:
//! the tables, and safe functions around every call through them. What the messages say is told in
//! `wire` and `message`; what either side does with a call, in `instance` and `host`.
//!
//! # The contract
//!
//! * The host takes a table from `vman_plugin_entry`, or from a crate linked in. It reads `magic`,
//!   `size`, `abi_major` and `abi_minor` first, then nothing that `size` does not cover. These and
//!   `manifest` never move; everything else is only ever appended to.
//! * The majors must be equal; the smaller minor counts.
//! * `create`, `submit`, `cancel` and `destroy` of one instance are called by one thread of the
//!   host, never at the same time. `destroy` comes last, and once. Each must return soon: nobody
//!   but this thread waits for it, and while it waits the instance does nothing else.
//! * `create` returns null on failure and sets `error` to a `BackendError` in JSON, which stays
//!   readable until the calling thread's next call into the plugin.
//! * `submit` returns 0 and the operation is then answered exactly once by `complete`, from any
//!   thread, also before `submit` returns; or another number, and it is not answered.
//! * `cancel` of an operation that has ended is ignored. One that is cancelled is still answered.
//! * The host's functions may be called from any thread, at any time until the process ends, also
//!   after `destroy`; they never block. A late or second answer is dropped.
//! * A buffer belongs to the caller and is readable until the call returns. The host's table and
//!   the plugin's are readable for ever: a library is never closed.
//! * Nothing unwinds across the border.
//!
//! `plugins/vman_backend.h` says the same to other languages; the tests of this module hold it.
#![allow(
    unsafe_code,
    reason = "functions of foreign code are called, and pointers from it are read"
)]

use std::cell::RefCell;
use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::ptr;
use std::sync::OnceLock;

use crate::instance::{Instance, guarded};
use crate::wire::MAX_MESSAGE_BYTES;
use crate::{Backend, BackendError, ErrorCode};

#[cfg(test)]
mod tests;

/// The first field of every plugin table.
pub(crate) const MAGIC: u64 = 0x766d_616e_706c_7567;
/// Another major is another contract.
pub(crate) const ABI_MAJOR: u32 = 1;
/// Counts what was appended since the major's first form.
pub(crate) const ABI_MINOR: u32 = 0;
/// What a plugin's table must cover to be used at all.
pub(crate) const PLUGIN_TABLE_1_0_SIZE: usize = 80;
/// What a host's table must cover to be used at all.
pub(crate) const HOST_TABLE_1_0_SIZE: usize = 40;

const _: () = {
    assert!(size_of::<usize>() == 8, "the tables are laid out for 64-bit");
    assert!(size_of::<PluginTable>() == PLUGIN_TABLE_1_0_SIZE);
    assert!(size_of::<HostTable>() == HOST_TABLE_1_0_SIZE);
    // What never moves, whatever is appended.
    assert!(offset_of!(PluginTable, magic) == 0);
    assert!(offset_of!(PluginTable, size) == 8);
    assert!(offset_of!(PluginTable, abi_major) == 12);
    assert!(offset_of!(PluginTable, abi_minor) == 16);
    assert!(offset_of!(PluginTable, manifest) == 24);
    assert!(offset_of!(HostTable, size) == 0);
    assert!(offset_of!(HostTable, abi_minor) == 4);
};

/// Bytes lent for the length of a call. `ptr` may be null where `len` is 0.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct VmanBuf {
    ptr: *const u8,
    len: usize,
}

impl VmanBuf {
    #[cfg(feature = "host")]
    pub(crate) const EMPTY: Self = Self { ptr: ptr::null(), len: 0 };

    pub(crate) fn lend(bytes: &[u8]) -> Self {
        Self { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// `None` if it is longer than any message may be.
    ///
    /// # Safety
    /// `ptr` must be readable for `len` bytes, unchanged, for as long as `'a`.
    unsafe fn bytes<'a>(self) -> Option<&'a [u8]> {
        match self.len {
            0 => Some(&[]),
            1..=MAX_MESSAGE_BYTES if !self.ptr.is_null() => {
                // SAFETY: the caller's promise, and it is not null.
                Some(unsafe { std::slice::from_raw_parts(self.ptr, self.len) })
            }
            _ => None,
        }
    }
}

type Create = unsafe extern "C" fn(
    host: *const HostTable,
    instance: u64,
    config: VmanBuf,
    error: *mut VmanBuf,
) -> *mut c_void;
type Submit = unsafe extern "C" fn(instance: *mut c_void, op: u64, request: VmanBuf) -> i32;
type Cancel = unsafe extern "C" fn(instance: *mut c_void, op: u64);
type Destroy = unsafe extern "C" fn(instance: *mut c_void);
type GetExtension = unsafe extern "C" fn(id: *const c_char) -> *const c_void;

/// What a plugin offers. A null function is refused by the host, but for `get_extension`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PluginTable {
    pub(crate) magic: u64,
    pub(crate) size: u32,
    pub(crate) abi_major: u32,
    pub(crate) abi_minor: u32,
    pub(crate) manifest: VmanBuf,
    pub(crate) create: Option<Create>,
    pub(crate) submit: Option<Submit>,
    pub(crate) cancel: Option<Cancel>,
    pub(crate) destroy: Option<Destroy>,
    /// Optional powers by name and revision, e.g. `vman.snapshot/1`; null for an unknown one.
    pub(crate) get_extension: Option<GetExtension>,
}

// SAFETY: it is never written to after it was made, and what it points at lives for ever.
unsafe impl Send for PluginTable {}
// SAFETY: as above.
unsafe impl Sync for PluginTable {}

/// What the host offers to an instance, which it calls by the number given to `create`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct HostTable {
    size: u32,
    abi_minor: u32,
    complete: unsafe extern "C" fn(instance: u64, op: u64, status: i32, json: VmanBuf),
    emit_event: unsafe extern "C" fn(instance: u64, json: VmanBuf),
    log: unsafe extern "C" fn(instance: u64, level: u32, json: VmanBuf),
    get_extension: GetExtension,
}

// ---- The plugin's side -------------------------------------------------------------------------

/// The host, as an instance speaks to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostLink {
    table: &'static HostTable,
    instance: u64,
}

impl HostLink {
    /// # Safety
    /// `table` must be null, or point at a host's table as the contract has it.
    unsafe fn new(table: *const HostTable, instance: u64) -> Result<Self, BackendError> {
        if table.is_null() || !table.is_aligned() {
            return Err(BackendError::new(ErrorCode::Broken, "the host gave no table"));
        }
        // SAFETY: not null; `size` is the first field of every host's table.
        let size = unsafe { table.cast::<u32>().read() };
        if (size as usize) < HOST_TABLE_1_0_SIZE {
            return Err(BackendError::new(
                ErrorCode::Broken,
                format!("the host's table has {size} bytes; {HOST_TABLE_1_0_SIZE} are needed"),
            ));
        }
        // SAFETY: `size` covers every field of this type, and it is readable for ever.
        let table = unsafe { &*table };
        Ok(Self { table, instance })
    }

    pub(crate) fn complete(self, op: u64, status: i32, json: &[u8]) {
        // SAFETY: callable at any time; the buffer outlives the call.
        unsafe { (self.table.complete)(self.instance, op, status, VmanBuf::lend(json)) }
    }

    pub(crate) fn emit_event(self, json: &[u8]) {
        // SAFETY: callable at any time; the buffer outlives the call.
        unsafe { (self.table.emit_event)(self.instance, VmanBuf::lend(json)) }
    }

    pub(crate) fn log(self, level: u32, json: &[u8]) {
        // SAFETY: callable at any time; the buffer outlives the call.
        unsafe { (self.table.log)(self.instance, level, VmanBuf::lend(json)) }
    }
}

/// Holds a backend's one table, which is made when it is first asked for.
#[derive(Debug)]
pub struct TableCell(OnceLock<Option<PluginTable>>);

impl TableCell {
    #[expect(clippy::new_without_default, reason = "a static needs a const function")]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// `None` if `manifest()` panicked.
    pub fn get<B: Backend>(&'static self) -> Option<&'static PluginTable> {
        self.0.get_or_init(|| guarded("`manifest`", || Ok(plugin_table::<B>())).ok()).as_ref()
    }
}

fn plugin_table<B: Backend>() -> PluginTable {
    let mut manifest = B::manifest();
    if manifest.sdk.is_empty() {
        env!("CARGO_PKG_VERSION").clone_into(&mut manifest.sdk);
    }
    let manifest = serde_json::to_vec(&manifest).expect("a manifest is strings and flags");
    PluginTable {
        magic: MAGIC,
        size: PLUGIN_TABLE_1_0_SIZE as u32,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        manifest: VmanBuf::lend(Vec::leak(manifest)),
        create: Some(create::<B>),
        submit: Some(submit::<B>),
        cancel: Some(cancel::<B>),
        destroy: Some(destroy::<B>),
        get_extension: Some(no_extension),
    }
}

thread_local! {
    /// What the last `create` on this thread failed with.
    static CREATE_ERROR: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C" fn create<B: Backend>(
    host: *const HostTable,
    instance: u64,
    config: VmanBuf,
    error: *mut VmanBuf,
) -> *mut c_void {
    let made = guarded("`create`", || {
        // SAFETY: the host's table, by the contract.
        let link = unsafe { HostLink::new(host, instance) }?;
        // SAFETY: the caller's buffer is readable until this call returns.
        let config = unsafe { config.bytes() }.ok_or_else(too_long)?;
        Instance::<B>::create(link, config)
    });
    match made {
        Ok(instance) => Box::into_raw(Box::new(instance)).cast(),
        Err(failure) => {
            let json = serde_json::to_vec(&failure).unwrap_or_default();
            let told = CREATE_ERROR.with_borrow_mut(|last| {
                *last = json;
                VmanBuf::lend(last)
            });
            if !error.is_null() {
                // SAFETY: the caller's variable, by the contract.
                unsafe { error.write(told) };
            }
            ptr::null_mut()
        }
    }
}

unsafe extern "C" fn submit<B: Backend>(instance: *mut c_void, op: u64, request: VmanBuf) -> i32 {
    let taken = guarded("`submit`", || {
        // SAFETY: made by `create`, and not destroyed yet.
        let instance = unsafe { &*instance.cast::<Instance<B>>() };
        // SAFETY: the caller's buffer is readable until this call returns.
        let request = unsafe { request.bytes() }.ok_or_else(too_long)?;
        instance.submit(op, request);
        Ok(())
    });
    i32::from(taken.is_err())
}

unsafe extern "C" fn cancel<B: Backend>(instance: *mut c_void, op: u64) {
    let _ = guarded("`cancel`", || {
        // SAFETY: made by `create`, and not destroyed yet.
        unsafe { &*instance.cast::<Instance<B>>() }.cancel(op);
        Ok(())
    });
}

unsafe extern "C" fn destroy<B: Backend>(instance: *mut c_void) {
    let _ = guarded("`destroy`", || {
        // SAFETY: made by `create` from such a box, and destroyed only here, once.
        drop(unsafe { Box::from_raw(instance.cast::<Instance<B>>()) });
        Ok(())
    });
}

unsafe extern "C" fn no_extension(_id: *const c_char) -> *const c_void {
    ptr::null()
}

fn too_long() -> BackendError {
    BackendError::new(
        ErrorCode::Invalid,
        format!("a message may have {MAX_MESSAGE_BYTES} bytes at most"),
    )
}

// ---- The host's side ---------------------------------------------------------------------------

#[cfg(feature = "host")]
pub(crate) use host_side::{Entry, Functions, RawInstance, check, entry_of};

#[cfg(feature = "host")]
mod host_side {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

    use super::*;
    use crate::host::link::{self, Callbacks};
    use crate::host::{LoadError, Mismatch};
    use crate::message::Manifest;

    static HOST: HostTable = HostTable {
        size: HOST_TABLE_1_0_SIZE as u32,
        abi_minor: ABI_MINOR,
        complete: host_complete,
        emit_event: host_emit_event,
        log: host_log,
        get_extension: no_extension,
    };

    unsafe extern "C" fn host_complete(instance: u64, op: u64, status: i32, json: VmanBuf) {
        call_back("`complete`", instance, |host| {
            // SAFETY: the caller's buffer is readable until this call returns.
            host.complete(op, status, unsafe { json.bytes() });
        });
    }

    unsafe extern "C" fn host_emit_event(instance: u64, json: VmanBuf) {
        call_back("`emit_event`", instance, |host| {
            // SAFETY: the caller's buffer is readable until this call returns.
            host.event(unsafe { json.bytes() });
        });
    }

    unsafe extern "C" fn host_log(instance: u64, level: u32, json: VmanBuf) {
        call_back("`log`", instance, |host| {
            // SAFETY: the caller's buffer is readable until this call returns.
            host.log(level, unsafe { json.bytes() });
        });
    }

    /// A number of an instance that is gone leads nowhere.
    fn call_back(what: &str, instance: u64, how: impl FnOnce(&dyn Callbacks)) {
        let _ = guarded(what, || {
            if let Some(host) = link::find(instance) {
                how(&*host);
            }
            Ok(())
        });
    }

    /// What of a plugin's table never moves.
    #[repr(C)]
    struct Header {
        magic: u64,
        size: u32,
        abi_major: u32,
        abi_minor: u32,
    }

    /// A plugin whose table was checked.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Functions {
        create: Create,
        submit: Submit,
        cancel: Cancel,
        destroy: Destroy,
        /// The smaller of both sides'.
        pub(crate) minor: u32,
    }

    /// The entry's pointer, of which nothing is known yet.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Entry(*const PluginTable);

    impl Entry {
        /// Of a backend in this program: not null, it may be read for ever.
        pub(crate) fn linked(table: *const PluginTable) -> Self {
            Self(table)
        }
    }

    #[cfg(test)]
    impl Entry {
        pub(crate) const NULL: Self = Self(ptr::null());

        /// A table that ends after its header.
        pub(crate) fn cut_off(magic: u64, size: u32, abi_major: u32) -> Self {
            let header = Box::leak(Box::new(Header { magic, size, abi_major, abi_minor: 0 }));
            Self(ptr::from_ref(header).cast())
        }
    }

    #[cfg(test)]
    impl VmanBuf {
        /// What a hand-made plugin was given, for as long as the call that gave it.
        pub(crate) fn copied(self) -> Vec<u8> {
            // SAFETY: a buffer is readable until the call it came with returns.
            unsafe { self.bytes() }.unwrap_or_default().to_vec()
        }
    }

    #[cfg(test)]
    impl HostTable {
        /// The head of a longer table, as a later host may have it.
        pub(crate) fn of_later(size: u32, abi_minor: u32) -> Self {
            let get_extension = no_extension;
            let (complete, emit_event, log) = (host_complete, host_emit_event, host_log);
            Self { size, abi_minor, complete, emit_event, log, get_extension }
        }
    }

    #[cfg(test)]
    impl HostLink {
        /// As a plugin gets it.
        pub(crate) fn of(instance: u64) -> Self {
            let table = &HOST;
            Self { table, instance }
        }
    }

    /// Loads a library, for ever, and asks it for its table. This runs the library's code, so
    /// whether it can be trusted must be known before; `file` is the very file that was looked at.
    pub(crate) fn entry_of(path: &Path, file: File) -> Result<Entry, LoadError> {
        type EntryFunction = unsafe extern "C" fn() -> *const PluginTable;
        // Never closed: the linker takes two files that it opened by one name for one library, so
        // a descriptor's number must not come again.
        let file: &'static File = Box::leak(Box::new(file));
        let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: its constructors run; the caller trusts it.
        let library = unsafe { Library::open(Some(&opened), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| {
            let reason = error.to_string().replace(&opened, &path.display().to_string());
            LoadError::Open { path: path.to_owned(), reason }
        })?;
        // Threads of it and pointers into it may be anywhere by now: it is never closed.
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the contract gives the symbol of this name this type.
        let entry = unsafe { library.get::<EntryFunction>(c"vman_plugin_entry") };
        let entry = entry.map_err(|_| LoadError::NoEntry { path: path.to_owned() })?;
        // SAFETY: callable at any time.
        Ok(Entry(unsafe { entry() }))
    }

    /// Is this a table this host can use? Reads nothing that its `size` does not cover.
    #[expect(
        clippy::unnecessary_min_or_max,
        reason = "this host's minor is 0 only until something is appended"
    )]
    pub(crate) fn check(Entry(table): Entry) -> Result<(Functions, Manifest), Mismatch> {
        if table.is_null() || !table.is_aligned() {
            return Err(Mismatch::NoTable);
        }
        // SAFETY: not null and aligned; every table begins with a header.
        let Header { magic, size, abi_major, abi_minor } = unsafe { table.cast::<Header>().read() };
        if magic != MAGIC {
            return Err(Mismatch::Magic { theirs: magic });
        }
        if abi_major != ABI_MAJOR {
            return Err(Mismatch::Major { theirs: abi_major });
        }
        if (size as usize) < PLUGIN_TABLE_1_0_SIZE {
            return Err(Mismatch::Size { theirs: size });
        }
        // SAFETY: `size` covers every field of this type.
        let table = unsafe { table.read() };
        // SAFETY: a table's manifest is readable for ever.
        let manifest = unsafe { table.manifest.bytes() }
            .ok_or_else(|| Mismatch::Manifest("it is null or too long".to_owned()))?;
        let manifest = serde_json::from_slice(manifest)
            .map_err(|error| Mismatch::Manifest(error.to_string()))?;
        let functions = Functions {
            create: table.create.ok_or(Mismatch::Missing("create"))?,
            submit: table.submit.ok_or(Mismatch::Missing("submit"))?,
            cancel: table.cancel.ok_or(Mismatch::Missing("cancel"))?,
            destroy: table.destroy.ok_or(Mismatch::Missing("destroy"))?,
            minor: abi_minor.min(ABI_MINOR),
        };
        Ok((functions, manifest))
    }

    /// An instance, owned by the one thread that may call it; dropping destroys it.
    #[derive(Debug)]
    pub(crate) struct RawInstance {
        functions: Functions,
        pointer: *mut c_void,
    }

    impl RawInstance {
        /// `instance` is the number by which it will call the host.
        pub(crate) fn create(
            functions: Functions,
            instance: u64,
            config: &[u8],
        ) -> Result<Self, BackendError> {
            Self::create_with(&HOST, functions, instance, config)
        }

        /// `host` may be the head of a longer table, which its size then covers.
        pub(crate) fn create_with(
            host: &'static HostTable,
            functions: Functions,
            instance: u64,
            config: &[u8],
        ) -> Result<Self, BackendError> {
            let mut error = VmanBuf::EMPTY;
            let config = VmanBuf::lend(config);
            // SAFETY: a checked table's function; the arguments outlive the call.
            let pointer = unsafe { (functions.create)(host, instance, config, &mut error) };
            if !pointer.is_null() {
                return Ok(Self { functions, pointer });
            }
            // SAFETY: readable until this thread calls the plugin again.
            let json = unsafe { error.bytes() }.unwrap_or_default();
            Err(link::error_from(json))
        }

        /// The plugin's own number if it refuses; the operation is then not answered.
        pub(crate) fn submit(&self, op: u64, request: &[u8]) -> Result<(), i32> {
            let request = VmanBuf::lend(request);
            // SAFETY: a living instance, called by its one thread.
            match unsafe { (self.functions.submit)(self.pointer, op, request) } {
                0 => Ok(()),
                refused => Err(refused),
            }
        }

        pub(crate) fn cancel(&self, op: u64) {
            // SAFETY: a living instance, called by its one thread.
            unsafe { (self.functions.cancel)(self.pointer, op) }
        }
    }

    impl Drop for RawInstance {
        fn drop(&mut self) {
            // SAFETY: a living instance, called by its one thread, for the last time.
            unsafe { (self.functions.destroy)(self.pointer) }
        }
    }
}
