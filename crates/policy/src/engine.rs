//! The runtime that every policy shares: how guests are compiled, what memory is set aside for
//! them, and the clock they are held against. Nothing here knows what a policy is.

use std::num::NonZeroUsize;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use crate::limits::{
    CORE_INSTANCES_MAX, GUEST_STACK_SIZE, MEMORIES_MAX, MEMORY_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX,
    TRACE_FRAMES_MAX,
};
use crate::ticker::Ticker;

/// Instances that may live at once: one per worker, as many that are being torn down, and those
/// that are asked what they are while they are loaded.
const INSTANCES_MAX: u32 = 2 * crate::limits::WORKERS_MAX as u32 + 4;
/// Bytes of a memory that are cleared by hand when its instance ends; the kernel drops the rest.
const MEMORY_KEPT_RESIDENT: usize = 128 << 10;
/// Bytes of a table that are cleared by hand when its instance ends.
const TABLE_KEPT_RESIDENT: usize = 16 << 10;
/// Bytes of inaccessible address space behind a memory without a pool.
const SMALL_GUARD_SIZE: u64 = 64 << 10;

/// Where instances get their memory from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// Set aside at the start: several times as fast, and takes much address space.
    Pooled,
    /// Mapped for each instance, with as little address space as will do.
    OnDemand,
}

/// An engine and its clock.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) ticker: Ticker,
}

impl Runtime {
    /// With pooled memory, or without where the address space is limited.
    pub(crate) fn start() -> wasmtime::Result<Self> {
        Self::start_with(Allocation::Pooled).or_else(|error| {
            tracing::warn!(
                target: "policy",
                "no pool of memory for policies ({error:#}): they run without one, which is slower"
            );
            Self::start_with(Allocation::OnDemand)
        })
    }

    pub(crate) fn start_with(allocation: Allocation) -> wasmtime::Result<Self> {
        let mut config = guest_config();
        match allocation {
            Allocation::Pooled => {
                let strategy = InstanceAllocationStrategy::Pooling(pool());
                config.allocation_strategy(strategy);
            }
            Allocation::OnDemand => {
                config
                    .allocation_strategy(InstanceAllocationStrategy::OnDemand)
                    .memory_reservation(MEMORY_MAX as u64)
                    .memory_reservation_for_growth(0)
                    .memory_guard_size(SMALL_GUARD_SIZE);
            }
        }
        let engine = Engine::new(&config)?;
        let ticker = Ticker::start(&engine)?;
        Ok(Self { engine, ticker })
    }
}

/// The same case must have the same answer and the same fuel on every host, so everything that may
/// differ is off: threads (not built in), relaxed SIMD, NaN bit patterns.
fn guest_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_relaxed_simd(false)
        .wasm_wide_arithmetic(false)
        .wasm_custom_page_sizes(false)
        .max_wasm_stack(GUEST_STACK_SIZE)
        .native_unwind_info(false)
        .wasm_backtrace_max_frames(NonZeroUsize::new(TRACE_FRAMES_MAX))
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX)
        .total_core_instances(INSTANCES_MAX * CORE_INSTANCES_MAX)
        .total_memories(INSTANCES_MAX * MEMORIES_MAX)
        .total_tables(INSTANCES_MAX * TABLES_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_memory_size(MEMORY_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(MEMORY_KEPT_RESIDENT)
        .table_keep_resident(TABLE_KEPT_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    pool
}
