//! The example in C as a part of a Rust program: a host that names this crate has the backend
//! `example-c` linked in. Everything it does is in the C files beside this one, which are a plugin
//! file without any of this.

vman_plugin::link_backend!(example_c_entry);
