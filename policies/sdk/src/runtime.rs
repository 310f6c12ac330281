//! What `no_std` leaves to the program: an allocator, and the end of a panic. Only in components.

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A panic becomes a trap, which the host reports as a failure of this policy.
#[panic_handler]
fn trap(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
