//! What `export_backend!` and `link_backend!` expand to, and how a linked-in backend is found. The
//! table itself is made and checked in `abi`.

use std::fmt;

#[cfg(feature = "host")]
use crate::abi::Entry;
use crate::abi::PluginTable;

/// A backend linked into this program, registered by [`export_backend!`](crate::export_backend) or
/// [`link_backend!`](crate::link_backend). A crate that is never named in code is not linked, and
/// then registers nothing: the program must say `use its_crate as _;`.
#[doc(hidden)]
pub struct StaticBackend {
    #[cfg_attr(
        not(feature = "host"),
        expect(dead_code, reason = "only a host looks for linked-in backends")
    )]
    table: fn() -> *const PluginTable,
}

impl StaticBackend {
    /// `table` gives what the function `vman_plugin_entry` of a file gives: null where there is no
    /// table, and else one of which nothing is known before it was checked.
    pub const fn new(table: fn() -> *const PluginTable) -> Self {
        Self { table }
    }

    #[cfg(feature = "host")]
    pub(crate) fn entry(&self) -> Entry {
        Entry::linked((self.table)())
    }
}

impl fmt::Debug for StaticBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticBackend")
    }
}

inventory::collect!(StaticBackend);

/// Offers a [`Backend`](crate::Backend) to the host: makes its one table of C functions, registers
/// it for a host that links this crate, and, with **this crate's** feature `export`, exports it
/// for a host that opens this crate as a file. Two crates linked into one program must not both
/// have that feature set: the symbol would be there twice.
#[macro_export]
macro_rules! export_backend {
    ($backend:ty) => {
        const _: () = {
            #[cfg(panic = "abort")]
            ::core::compile_error!(
                "a backend plugin must be built with panic = \"unwind\": \
                 a panic in it would otherwise end the daemon that loaded it"
            );

            static TABLE: $crate::__private::TableCell = $crate::__private::TableCell::new();

            fn table() -> ::core::option::Option<&'static $crate::__private::PluginTable> {
                TABLE.get::<$backend>()
            }

            $crate::__private::inventory::submit! {
                $crate::__private::StaticBackend::new(|| {
                    table().map_or(::core::ptr::null(), ::core::ptr::from_ref)
                })
            }

            #[cfg(feature = "export")]
            #[allow(
                unsafe_code,
                reason = "the one symbol a plugin file exports must keep its name; \
                          no other file is given to a linker that could define it too"
            )]
            #[unsafe(no_mangle)]
            extern "C" fn vman_plugin_entry()
            -> ::core::option::Option<&'static $crate::__private::PluginTable> {
                table()
            }
        };
    };
}

/// Offers a backend that is not written in Rust to a host that links it. `$entry` is the function
/// that the backend's file would export as `vman_plugin_entry`, under a name of its own: two
/// backends in one program must not both have the same (`-Dvman_plugin_entry=...` gives a C backend
/// another). A backend that is linked so is not exported.
#[macro_export]
macro_rules! link_backend {
    ($entry:ident) => {
        const _: () = {
            #[allow(
                unsafe_code,
                reason = "the contract gives an entry this type, and lets it be called at any time"
            )]
            unsafe extern "C" {
                safe fn $entry() -> *const $crate::__private::PluginTable;
            }

            $crate::__private::inventory::submit! {
                $crate::__private::StaticBackend::new(|| $entry())
            }
        };
    };
}
