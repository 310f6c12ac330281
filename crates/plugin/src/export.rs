//! What `export_backend!` expands to, and how a linked-in backend is found. The table itself is
//! made in `abi`.

use std::fmt;

use crate::abi::PluginTable;

/// A backend linked into this program, registered by [`export_backend!`](crate::export_backend).
/// A crate that is never named in code is not linked, and then registers nothing: the program must
/// say `use its_crate as _;`.
#[doc(hidden)]
pub struct StaticBackend {
    #[cfg_attr(
        not(feature = "host"),
        expect(dead_code, reason = "only a host looks for linked-in backends")
    )]
    table: fn() -> Option<&'static PluginTable>,
}

impl StaticBackend {
    pub const fn new(table: fn() -> Option<&'static PluginTable>) -> Self {
        Self { table }
    }

    /// `None` if the backend's `manifest()` panicked.
    #[cfg(feature = "host")]
    pub(crate) fn table(&self) -> Option<&'static PluginTable> {
        (self.table)()
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
                $crate::__private::StaticBackend::new(table)
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
