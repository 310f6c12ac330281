//! Rust types and calls for the world in `policies/wit`, generated. Nothing is decided here.

#![allow(missing_debug_implementations, reason = "generated: handles of the runtime")]

wasmtime::component::bindgen!({
    path: "../../policies/wit",
    world: "policy-v1",
});
